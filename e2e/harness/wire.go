package harness

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Wire is one end of a connection whose bytes the test itself reads and writes. All
// of its methods but the Read ones may fail the test. Each waits for at most WaitLimit.
type Wire struct {
	net.Conn
	t   testing.TB
	in  *bufio.Reader
	mu  sync.Mutex
	got []byte
}

// Dial connects to a node, as a client does.
func Dial(t testing.TB, network, address string) *Wire {
	t.Helper()
	c, err := net.DialTimeout(network, address, WaitLimit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return newWire(t, c)
}

// NewWire is for a connection that the test made in a way of its own.
func NewWire(t testing.TB, c net.Conn) *Wire { return newWire(t, c) }

func newWire(t testing.TB, c net.Conn) *Wire {
	w := &Wire{t: t}
	w.use(c)
	return w
}

func (w *Wire) use(c net.Conn) {
	w.Conn = c
	w.in = bufio.NewReader(recorder{w, c})
}

// A recorder keeps what is read through it.
type recorder struct {
	w *Wire
	c net.Conn
}

func (r recorder) Read(p []byte) (int, error) {
	r.c.SetReadDeadline(time.Now().Add(WaitLimit))
	n, err := r.c.Read(p)
	r.w.mu.Lock()
	r.w.got = append(r.w.got, p[:n]...)
	r.w.mu.Unlock()
	return n, err
}

// Received is all that was read from the connection so far.
func (w *Wire) Received() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.got)
}

// Send writes the bytes of all parts.
func (w *Wire) Send(parts ...string) {
	w.t.Helper()
	w.SetWriteDeadline(time.Now().Add(WaitLimit))
	if _, err := io.WriteString(w.Conn, strings.Join(parts, "")); err != nil {
		w.t.Fatalf("send: %v", err)
	}
}

// Take reads exactly n bytes.
func (w *Wire) Take(n int) string {
	w.t.Helper()
	b := make([]byte, n)
	if k, err := io.ReadFull(w.in, b); err != nil {
		w.t.Fatalf("read %d bytes: %v after %q", n, err, b[:k])
	}
	return string(b)
}

// Line reads a line, CRLF included.
func (w *Wire) Line() string {
	w.t.Helper()
	s, err := w.ReadLine()
	if err != nil {
		w.t.Fatalf("read a line: %v after %q", err, s)
	}
	return s
}

// ReadLine reads a line, CRLF included. It may be called from any goroutine.
func (w *Wire) ReadLine() (string, error) { return w.in.ReadString('\n') }

// ReadRequest is the function of that name. It may be called from any goroutine.
func (w *Wire) ReadRequest() (Message, error) { return ReadRequest(w.in) }

// ReadResponse is the function of that name. It may be called from any goroutine.
func (w *Wire) ReadResponse(method string) (Message, error) { return ReadResponse(w.in, method) }

// Request reads one whole request.
func (w *Wire) Request() Message {
	w.t.Helper()
	m, err := w.ReadRequest()
	if err != nil {
		w.t.Fatalf("request: %v after %q", err, w.Received())
	}
	return m
}

// Response reads one whole answer to a GET.
func (w *Wire) Response() Message {
	w.t.Helper()
	m, err := w.ReadResponse("GET")
	if err != nil {
		w.t.Fatalf("answer: %v after %q", err, w.Received())
	}
	return m
}

// End reads on until the connection ends, and returns what came before, and how it
// ended: nil for an orderly end, or an error such as a reset.
func (w *Wire) End() (string, error) {
	w.t.Helper()
	b, err := io.ReadAll(w.in)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Fatalf("the connection has not ended after %v; it brought %q", WaitLimit, w.Received())
	}
	return string(b), err
}

// Buffered is how many bytes were received and not read yet.
func (w *Wire) Buffered() int { return w.in.Buffered() }

// CloseWrite ends the stream of what is sent.
func (w *Wire) CloseWrite() {
	w.t.Helper()
	if err := w.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		w.t.Fatal(err)
	}
}

// Reset ends a TCP connection with RST.
func (w *Wire) Reset() {
	if c, ok := w.Conn.(*net.TCPConn); ok {
		c.SetLinger(0)
	}
	w.Close()
}

// Serve makes the connection a TLS server's. What was read before is kept apart.
func (w *Wire) Serve(c *tls.Config) tls.ConnectionState {
	w.t.Helper()
	if n := w.in.Buffered(); n > 0 {
		b, _ := w.in.Peek(n)
		w.Conn = &replay{w.Conn, b}
	}
	s := tls.Server(w.Conn, c)
	s.SetDeadline(time.Now().Add(WaitLimit))
	if err := s.Handshake(); err != nil {
		w.t.Fatalf("TLS handshake: %v", err)
	}
	s.SetDeadline(time.Time{})
	w.use(s)
	return s.ConnectionState()
}

// replay is a connection of which something was read already.
type replay struct {
	net.Conn
	b []byte
}

func (r *replay) Read(p []byte) (int, error) {
	if len(r.b) > 0 {
		n := copy(p, r.b)
		r.b = r.b[n:]
		return n, nil
	}
	return r.Conn.Read(p)
}

// A Socket is a listener whose connections the test itself serves.
type Socket struct {
	t       testing.TB
	address string
	queue   chan net.Conn

	mu     sync.Mutex
	l      net.Listener
	conns  []net.Conn
	opened int
}

// Listen listens on a free port of 127.0.0.1.
func Listen(t testing.TB) *Socket {
	t.Helper()
	return ListenAt(t, "tcp", FreeAddress(t))
}

// ListenUnix listens on a socket in a folder of its own.
func ListenUnix(t testing.TB) *Socket {
	t.Helper()
	dir, err := os.MkdirTemp("", "roster-e2e-") // the test's own folder may be too long a name
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return ListenAt(t, "unix", filepath.Join(dir, "s"))
}

// ListenAt listens at an address.
func ListenAt(t testing.TB, network, address string) *Socket {
	t.Helper()
	l := listen(t, network, address)
	s := &Socket{t: t, l: l, address: l.Addr().String(), queue: make(chan net.Conn, 4096)}
	go s.accept()
	t.Cleanup(s.Close)
	return s
}

func (s *Socket) accept() {
	for {
		c, err := s.l.Accept()
		if err != nil {
			close(s.queue)
			return
		}
		s.mu.Lock()
		s.opened++
		s.conns = append(s.conns, c)
		s.mu.Unlock()
		s.queue <- c
	}
}

// Close closes the listener and all that it accepted.
func (s *Socket) Close() {
	s.l.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.Close()
	}
}

// Address is where it listens.
func (s *Socket) Address() string { return s.address }

// Port is that of the address.
func (s *Socket) Port() string {
	_, port, _ := net.SplitHostPort(s.address)
	return port
}

// Opened is how many connections were accepted.
func (s *Socket) Opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.opened
}

// Accept waits for the next connection.
func (s *Socket) Accept() *Wire {
	s.t.Helper()
	timer := time.NewTimer(WaitLimit)
	defer timer.Stop()
	select {
	case c, ok := <-s.queue:
		if !ok {
			s.t.Fatalf("%s is closed", s.address)
		}
		return newWire(s.t, c)
	case <-timer.C:
		s.t.Fatalf("no connection to %s within %v", s.address, WaitLimit)
		return nil
	}
}

// Each calls serve for each connection, in a goroutine of its own, instead of Accept.
// serve must not fail the test; the connection is closed when it returns.
func (s *Socket) Each(serve func(w *Wire)) {
	go func() {
		for c := range s.queue {
			go func() {
				defer c.Close()
				serve(newWire(s.t, c))
			}()
		}
	}()
}
