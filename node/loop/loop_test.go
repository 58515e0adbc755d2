//go:build linux

package loop

import (
	"io"
	"net"
	"os"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a loop until the test ends.
func start(t testing.TB, c Config) *Loop {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run()
	}()
	t.Cleanup(func() {
		l.Stop()
		<-done
	})
	return l
}

// do runs f on the loop's thread and waits for its end.
func do(t testing.TB, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { defer close(done); f() }) {
		t.Fatal("the loop has ended")
	}
	<-done
}

// A conn echoes what it reads, once for each event if it knows that no more can
// have come.
type conn struct {
	Source
	l    *Loop
	once bool
	buf  [4096]byte
}

func (c *conn) Ready(e Events) {
	if c.once && e&In == 0 {
		return
	}
	for {
		n, err := c.l.Read(c.FD(), c.buf[:])
		if err == ErrAgain {
			return
		}
		if err != nil {
			c.l.Close(&c.Source)
			return
		}
		if _, err := c.l.Write(c.FD(), c.buf[:n]); err != nil {
			c.l.Close(&c.Source)
			return
		}
		if c.once {
			return
		}
	}
}

// An acceptor serves what connects to a listening socket.
type acceptor struct {
	Source
	l *Loop
}

func (a *acceptor) Ready(Events) {
	for {
		fd, _, err := a.l.Accept(a.FD())
		if err != nil {
			return
		}
		c := &conn{l: a.l}
		if a.l.Add(&c.Source, fd, c, Edge) != nil {
			a.l.CloseFD(fd)
		}
	}
}

// file is what listeners and connections of package net have.
type file interface{ File() (*os.File, error) }

// descriptor returns a descriptor of the same socket, which does not block, and is
// not known to Go's poller.
func descriptor(t testing.TB, socket file) int {
	t.Helper()
	f, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd := dup(t, int(f.Fd()))
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	return fd
}

func dup(t testing.TB, fd int) int {
	t.Helper()
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// listen returns a listening socket's descriptor and address.
func listen(t testing.TB) (fd int, address string) {
	t.Helper()
	var plain net.ListenConfig
	plain.SetMultipathTCP(false) // as the sockets that a node opens
	ln, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return descriptor(t, ln.(file)), ln.Addr().String()
}

// tcpPair returns the two ends of a connection, which are closed with the test.
func tcpPair(t testing.TB) (a, b int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dialled, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer dialled.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	a, b = descriptor(t, dialled.(file)), descriptor(t, accepted.(file))
	t.Cleanup(func() { unix.Close(a); unix.Close(b) })
	return a, b
}

// echoing has l echo what comes from c, until the test ends.
func echoing(t testing.TB, l *Loop) (c net.Conn) {
	t.Helper()
	fd, address := listen(t)
	a := &acceptor{l: l}
	do(t, l, func() {
		if err := l.Add(&a.Source, fd, a, Level); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { do(t, l, func() { l.Close(&a.Source) }) })
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// echoes fails unless s comes back.
func echoes(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, len(s))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != s {
		t.Fatalf("got %q, %v, want %q", b, err, s)
	}
}

func TestEcho(t *testing.T) {
	c := echoing(t, start(t, Config{}))
	echoes(t, c, "hello")
	echoes(t, c, "again")
	c.(*net.TCPConn).CloseWrite()
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("got %d, %v, want io.EOF", n, err)
	}
}
