package e2e_test

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"roster/e2e/harness"
)

// fullBacklog is a definition of a backend whose listener accepts nothing, and whose
// queue is full: it drops what comes to it.
func fullBacklog(t *testing.T, more string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }) // for the queue of one
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return fmt.Sprintf(`{"host":%q,%s}`, l.Addr(), more)
}

const upgrade = "Connection: upgrade\r\nUpgrade: test\r\n"

// switched is the answer that begins a tunnel.
const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: test\r\n\r\n"

var timeoutTests = []planeTest{
	{"connect_timeout is 504", func(t *testing.T, p *plane) {
		p.backend("b", fullBacklog(t, `"connect_timeout":"100ms"`))
		wantError(t, p.ask("b").Response(), 504, "connection_timeout")
	}},
	{"connect_timeout of the route wins", func(t *testing.T, p *plane) {
		p.put("backends/"+p.name("b"), fullBacklog(t, `"connect_timeout":"1h"`),
			"routes/"+p.name("b"), fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q,"connect_timeout":"100ms"}`, p.name("b"), p.name("b")))
		wantError(t, p.ask("b").Response(), 504, "connection_timeout")
	}},
	{"first_byte_timeout is 504", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"first_byte_timeout":"100ms"`))
		c := p.ask("b")
		w := origin.Accept()
		w.Request()
		wantError(t, c.Response(), 504, "http_response_timeout")
		if more, _ := w.End(); more != "" {
			t.Errorf("more after the timeout: %q", more)
		}
	}},
	{"first_byte_timeout of the route wins", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.put("backends/"+p.name("b"), at(origin, `"first_byte_timeout":"1h"`),
			"routes/"+p.name("b"), fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q,"first_byte_timeout":"100ms"}`, p.name("b"), p.name("b")))
		wantError(t, p.ask("b").Response(), 504, "http_response_timeout")
	}},
	{"timeout of the route is for the whole request", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.put("backends/"+p.name("b"), at(origin),
			"routes/"+p.name("b"), fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q,"timeout":"100ms"}`, p.name("b"), p.name("b")))
		wantError(t, p.ask("b").Response(), 504, "http_response_timeout")
	}},
	{"between_bytes_timeout within the head is 504", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"between_bytes_timeout":"100ms"`))
		c := p.ask("b")
		w := origin.Accept()
		w.Request()
		w.Send("HTTP/1.1 200 OK\r\nContent-")
		wantError(t, c.Response(), 504, "http_response_timeout")
	}},
	{"between_bytes_timeout within the body cuts it", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"between_bytes_timeout":"100ms"`))
		for _, head := range []string{"Content-Length: 1000000", "Content-Length: 4", "Transfer-Encoding: chunked", "X: until the end"} {
			for _, client := range []string{"HTTP/1.1", "HTTP/1.0"} {
				c := p.client()
				c.Send("GET ", p.target("b"), " ", client, "\r\nHost: a\r\n\r\n")
				w := origin.Accept()
				w.Request()
				w.Send("HTTP/1.1 200 OK\r\n", head, "\r\n\r\n", "3\r\n")
				if m, err := c.ReadResponse("GET"); err == nil || m.Status() != 200 {
					t.Errorf("%s, %s: %v, %v, want a cut", head, client, m, err)
				}
				w.End()
			}
		}
	}},
	{"between_bytes_timeout bounds writes to the backend", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"between_bytes_timeout":"100ms"`))
		c := p.client()
		go c.Write([]byte(p.post("b", strings.Repeat("x", 32<<20))))
		origin.Accept() // and read nothing
		wantError(t, c.Response(), 504, "connection_write_timeout")
	}},
	{"tunnel_timeout ends a silent tunnel, on both sides", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"tunnel_timeout":"300ms","between_bytes_timeout":"1ms"`))
		c := p.client()
		c.Send(get(p.target("b"), upgrade), "early")
		w := origin.Accept()
		if m := w.Request(); m.Get("upgrade") != "test" || m.Get("connection") != "upgrade" {
			t.Errorf("request %v, want an upgrade", m)
		}
		w.Send(switched, "hello")
		if m := c.Response(); m.Status() != 101 || m.Get("upgrade") != "test" {
			t.Fatalf("answer %v, want 101", m)
		}
		if got := c.Take(5); got != "hello" {
			t.Errorf("from the origin %q", got)
		}
		if got := w.Take(5); got != "early" {
			t.Errorf("from the client %q", got)
		}
		c.Send("ping")
		w.Take(4)
		w.Send("pong")
		c.Take(4)
		if more, _ := c.End(); more != "" {
			t.Errorf("client got %q", more)
		}
		if more, _ := w.End(); more != "" {
			t.Errorf("origin got %q", more)
		}
	}},
	{"a tunnel passes the end of one direction on", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		c := p.client()
		c.Send(get(p.target("b"), upgrade))
		w := origin.Accept()
		w.Request()
		w.Send(switched)
		c.Response()
		c.Send("last words")
		c.CloseWrite()
		if got, err := w.End(); got != "last words" || err != nil {
			t.Errorf("origin got %q, %v", got, err)
		}
		w.Send("answer")
		w.Close()
		if got, err := c.End(); got != "answer" || err != nil {
			t.Errorf("client got %q, %v", got, err)
		}
	}},
	{"a client that goes away cancels its request", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		c := p.ask("b")
		w := origin.Accept()
		w.Request()
		c.Close()
		w.End()
	}},
}
