//go:build linux

package loop

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestReadAndWrite(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	a, b := pair(t)
	defer unix.Close(a)
	buf := make([]byte, 16)
	if n, err := l.Read(a, buf); n != 0 || err != ErrAgain {
		t.Errorf("read of nothing: %d, %v", n, err)
	}
	if err := l.Peek(a); err != ErrAgain {
		t.Errorf("look at nothing: %v", err)
	}
	if n, err := l.Writev(b, []byte("he"), nil, []byte("llo")); n != 5 || err != nil {
		t.Errorf("writev: %d, %v", n, err)
	}
	if n, err := l.Write(b, []byte(" you")); n != 4 || err != nil {
		t.Errorf("write: %d, %v", n, err)
	}
	if err := l.Peek(a); err != nil {
		t.Errorf("look at bytes: %v", err)
	}
	if n, err := l.Read(a, buf); err != nil || string(buf[:n]) != "hello you" {
		t.Errorf("read %q, %v", buf[:n], err)
	}
	var sent int
	for {
		n, err := l.Writev(a, make([]byte, 10_000), make([]byte, 10_000), make([]byte, 10_000))
		sent += n
		if err == ErrAgain {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n, err := l.Write(a, buf); n != 0 || err != ErrAgain {
		t.Errorf("write without room: %d, %v", n, err)
	}
	if err := l.Shutdown(a); err != nil {
		t.Fatal(err)
	}
	got := 0
	for big := make([]byte, 1<<20); ; {
		n, err := l.Read(b, big)
		got += n
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got != sent {
		t.Errorf("sent %d bytes, received %d", sent, got)
	}
	if err := l.Peek(b); err != io.EOF {
		t.Errorf("look at the end: %v", err)
	}
	if n, err := l.Write(a, buf); n != 0 || err != syscall.EPIPE {
		t.Errorf("write after the end: %d, %v", n, err)
	}
	if n, err := l.Writev(a, buf, buf, nil); n != 0 || err != syscall.EPIPE {
		t.Errorf("writev after the end: %d, %v", n, err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	for _, at := range []struct{ network, listen, dial string }{
		{"tcp4", "127.0.0.1:0", "127.0.0.1"},
		{"tcp6", "[::1]:0", "::1"},
		{"tcp", "[::]:0", "127.0.0.1"}, // IPv4 within IPv6
		{"unix", filepath.Join(t.TempDir(), "s"), ""},
	} {
		ln, err := net.Listen(at.network, at.listen)
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		if at.dial != "" {
			_, port, _ := net.SplitHostPort(address)
			address = net.JoinHostPort(at.dial, port)
		}
		fd := descriptor(t, ln.(file))
		c, err := net.Dial(at.network, address)
		if err != nil {
			t.Fatal(err)
		}
		conn, from, err := l.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		var want, to netip.AddrPort
		if at.dial != "" {
			want, to = netip.MustParseAddrPort(c.LocalAddr().String()), netip.MustParseAddrPort(address)
		}
		if from != want {
			t.Errorf("%s: accepted from %v, want %v", at.network, from, want)
		}
		if got := l.Sockname(conn); got != to {
			t.Errorf("%s: accepted at %v, want %v", at.network, got, to)
		}
		if n, err := l.Read(conn, make([]byte, 1)); err != ErrAgain {
			t.Errorf("%s: an accepted socket blocks: %d, %v", at.network, n, err)
		}
		if flags, err := unix.FcntlInt(uintptr(conn), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s: an accepted socket is inherited: %#x, %v", at.network, flags, err)
		}
		if _, _, err := l.Accept(fd); err != ErrAgain {
			t.Errorf("%s: accept of nothing: %v", at.network, err)
		}
		for _, fd := range []int{conn, fd} {
			l.CloseFD(fd)
		}
		c.Close()
		ln.Close()
	}
	if got := l.Sockname(-1); got.IsValid() {
		t.Errorf("no socket has the name %v", got)
	}
}

// Link-local addresses have the interface's name as package net has it.
func TestZones(t *testing.T) {
	t.Parallel()
	var z zone
	interfaces, err := net.Interfaces()
	if err != nil || len(interfaces) == 0 {
		t.Fatal("no network interface: ", err)
	}
	for _, i := range interfaces {
		if got := z.of(uint32(i.Index)); got != i.Name {
			t.Errorf("zone %d is %q, want %q", i.Index, got, i.Name)
		}
	}
	if got := z.of(4_000_000_000); got != "4000000000" {
		t.Errorf("an unknown zone is %q", got)
	}
	var a unix.RawSockaddrAny
	in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&a))
	in.Family, in.Addr, in.Scope_id = unix.AF_INET6, netip.MustParseAddr("fe80::1").As16(), uint32(interfaces[0].Index)
	if got, want := addrPort(&a, &z).Addr(), netip.MustParseAddr("fe80::1%"+interfaces[0].Name); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// Whatever a system call says comes out as it is, EINTR alone is tried again.
func TestFaults(t *testing.T) {
	t.Parallel()
	var fail []syscall.Errno // one after the other
	var limit int
	l := byHand(t, Config{Faults: func(_ Op, _, n int) (int, syscall.Errno) {
		if len(fail) > 0 {
			errno := fail[0]
			fail = fail[1:]
			return n, errno
		}
		return min(n, limit), 0
	}})
	listener, _ := listen(t)
	defer unix.Close(listener)
	a, b := pair(t)
	defer unix.Close(a)
	p, err := l.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	abc := []byte("abc")
	ok := func(_ int, err error) error { return err }
	calls := map[string]func() error{
		"read":     func() error { return ok(l.Read(a, buf)) },
		"peek":     func() error { return l.Peek(a) },
		"write":    func() error { return ok(l.Write(a, buf)) },
		"writev":   func() error { return ok(l.Writev(a, buf, buf, buf)) },
		"accept":   func() error { _, _, err := l.Accept(listener); return err },
		"fill":     func() error { return ok(l.Fill(p, a, 8)) },
		"drain":    func() error { p.held = 1; defer func() { p.held = 0 }(); return ok(l.Drain(p, b)) },
		"shutdown": func() error { return l.Shutdown(a) },
		"pipe":     func() error { _, err := l.Pipe(); return err },
	}
	for name, call := range calls {
		for _, errno := range []syscall.Errno{syscall.EAGAIN, syscall.ECONNRESET, syscall.EMFILE} {
			fail = []syscall.Errno{syscall.EINTR, syscall.EINTR, errno}
			if name == "shutdown" || name == "pipe" {
				fail = fail[2:] // are never interrupted
			}
			if err := call(); err != errno {
				t.Errorf("%s: got %v, want %v", name, err, errno)
			}
			if len(fail) > 0 {
				t.Errorf("%s: was not tried again after EINTR", name)
				fail = nil
			}
		}
	}
	for limit = 1; limit <= 10; limit++ {
		n, err := l.Writev(a, abc, abc, abc)
		if want := min(limit, 9); n != want || err != nil {
			t.Errorf("writev of at most %d: %d, %v", limit, n, err)
		}
		got := make([]byte, 16)
		m, err := unix.Read(b, got)
		if err != nil || !bytes.Equal(got[:m], []byte("abcabcabc")[:n]) {
			t.Errorf("writev of at most %d sent %q, %v", limit, got[:max(m, 0)], err)
		}
	}
	limit = 2
	send(t, b, "abc")
	if n, err := l.Read(a, buf); n != 2 || err != nil {
		t.Errorf("read of at most 2: %d, %v", n, err)
	}
	if n, err := l.Fill(p, a, 8); n != 1 || err != nil || p.Held() != 1 {
		t.Errorf("fill: %d, %v, holds %d", n, err, p.Held())
	}
	limit = 8
	l.PutPipe(p)
}

func TestPipe(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	a, b := tcpPair(t)
	c, d := tcpPair(t)
	p, err := l.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := l.Fill(p, b, 100); n != 0 || err != ErrAgain {
		t.Errorf("fill with nothing there: %d, %v", n, err)
	}
	if n, err := l.Drain(p, c); n != 0 || err != nil {
		t.Errorf("drain of nothing: %d, %v", n, err)
	}
	send(t, a, "hello, you")
	if n, err := l.Fill(p, b, 7); n != 7 || err != nil || p.Held() != 7 {
		t.Fatalf("fill: %d, %v, holds %d", n, err, p.Held())
	}
	if n, err := l.Drain(p, c); n != 7 || err != nil || p.Held() != 0 {
		t.Fatalf("drain: %d, %v, holds %d", n, err, p.Held())
	}
	buf := make([]byte, 16)
	if n, err := l.Read(d, buf); err != nil || string(buf[:n]) != "hello, " {
		t.Errorf("received %q, %v", buf[:n], err)
	}
	if size, err := unix.FcntlInt(uintptr(p.r), unix.F_GETPIPE_SZ, 0); err != nil || size < 1 {
		t.Errorf("the pipe's size is %d, %v", size, err)
	}
	l.PutPipe(p)
	again, err := l.Pipe()
	if err != nil || again != p {
		t.Errorf("an empty pipe is not used again: %v", err)
	}
	if n, err := l.Fill(again, b, 100); n != 3 || err != nil {
		t.Fatalf("fill: %d, %v", n, err)
	}
	l.PutPipe(again)
	other, err := l.Pipe()
	if err != nil || other == p {
		t.Errorf("a pipe with bytes of another connection is used again: %v", err)
	}
	if err := unix.Shutdown(a, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	if n, err := l.Fill(other, b, 100); n != 0 || err != io.EOF {
		t.Errorf("fill at the end: %d, %v", n, err)
	}
	l.PutPipe(other)
	var many [pipesKept + 1]*Pipe
	for i := range many {
		if many[i], err = l.Pipe(); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range many {
		l.PutPipe(p)
	}
	if l.pipes.count != pipesKept {
		t.Errorf("%d pipes are kept, want %d", l.pipes.count, pipesKept)
	}
}

// A read stops before urgent data and is short, though more is there; the event has told.
func TestMark(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	a, b := tcpPair(t)
	r := &recorder{l: l}
	add(t, l, r, b)
	turn(l)
	send(t, a, "before")
	if err := unix.Sendto(a, []byte("!"), unix.MSG_OOB, nil); err != nil {
		t.Fatal(err)
	}
	send(t, a, "behind")
	for r.events&(In|Mark) != In|Mark {
		turn(l)
	}
	buf := make([]byte, 100)
	for _, want := range []string{"before", "behind"} {
		if n, err := l.Read(b, buf); err != nil || string(buf[:n]) != want {
			t.Errorf("read %q, %v, want %q", buf[:n], err, want)
		}
	}
	if n, err := l.Read(b, buf); err != ErrAgain {
		t.Errorf("read %q, %v, want %v", buf[:n], err, ErrAgain)
	}
}

// What a fault has left in the socket is told of again.
func TestReadsThatAreCut(t *testing.T) {
	t.Parallel()
	limit := 3
	l := byHand(t, Config{Faults: func(op Op, fd, n int) (int, syscall.Errno) {
		if op == OpRead {
			n = min(n, limit)
		}
		return n, 0
	}})
	a, b := pair(t)
	r := &recorder{l: l}
	var got []byte
	r.then = func(e Events) {
		if e&In == 0 {
			return
		}
		buf := make([]byte, 100)
		n, err := l.Read(a, buf)
		if err != nil && err != ErrAgain {
			t.Error(err)
		}
		got = append(got, buf[:n]...)
	}
	add(t, l, r, a)
	send(t, b, "hello, you")
	for range 4 {
		turn(l)
	}
	if string(got) != "hello, you" {
		t.Errorf("got %q", got)
	}
	r.events = 0
	turn(l)
	if r.events != 0 {
		t.Errorf("told %#x of what was read", r.events)
	}
	l.Close(&r.Source)
}

// TestTheLastBytesLeaveWithTheEnd: in one segment.
func TestTheLastBytesLeaveWithTheEnd(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	segments := func(write func(fd int) (int, error)) uint32 {
		a, b := tcpPair(t)
		if n, err := write(b); n != 6 || err != nil {
			t.Fatalf("write: %d, %v", n, err)
		}
		if err := l.Shutdown(b); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for buf := make([]byte, 16); ; {
			n, err := unix.Read(a, buf)
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				break
			}
			got = append(got, buf[:n]...)
		}
		if string(got) != "abcdef" {
			t.Errorf("read %q", got)
		}
		info, err := unix.GetsockoptTCPInfo(a, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		return info.Segs_in
	}
	abc, def := []byte("abc"), []byte("def")
	apart := segments(func(fd int) (int, error) { return l.Writev(fd, abc, def, nil) })
	together := segments(func(fd int) (int, error) { return l.WritevLast(fd, abc, def) })
	if together != apart-1 {
		t.Errorf("%d segments, want one less than %d", together, apart)
	}
}

// TestPaced: of congestion controls, BBR is known to pace.
func TestPaced(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	a, _ := tcpPair(t)
	for name, want := range map[string]bool{"reno": false, "bbr": true} {
		if err := unix.SetsockoptString(a, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); err != nil {
			t.Logf("no %s here: %v", name, err)
			continue
		}
		if l.Paced(a) != want {
			t.Errorf("%s: paced %v, want %v", name, !want, want)
		}
	}
	c, _ := pair(t)
	defer unix.Close(c)
	if l.Paced(c) {
		t.Error("a Unix socket is paced")
	}
}

// TestDeferAccept: a listener with it hands out who has spoken.
func TestDeferAccept(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	fd, address := listen(t)
	if err := l.DeferAccept(fd, true); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if conn, _, err := l.Accept(fd); err != ErrAgain {
		t.Errorf("accepted %d, %v, who has said nothing", conn, err)
	}
	c.Write([]byte("x"))
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	conn, _, err := l.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	l.CloseFD(conn)
	if err := l.DeferAccept(fd, false); err != nil {
		t.Fatal(err)
	}
	silent, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	if conn, _, err = l.Accept(fd); err != nil {
		t.Fatal(err)
	}
	l.CloseFD(conn)
	s, _ := pair(t)
	defer unix.Close(s)
	if l.DeferAccept(s, true) == nil {
		t.Error("a Unix socket can do it")
	}
}
