package e2e_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/e2e/harness"
)

// sloppy lets an origin answer every request, whatever comes before it.
func sloppy(s *harness.Socket) *harness.Socket {
	s.Each(func(w *harness.Wire) {
		for begun := false; ; {
			line, err := w.ReadLine()
			if err != nil {
				return
			}
			begun = begun || strings.Contains(line, "GET /")
			if begun && line == "\r\n" {
				begun = false
				fmt.Fprint(w, answer("sloppy"))
			}
		}
	})
	return s
}

// idle makes n idle connections, the last the one that was used last, of as many clients.
func (p *plane) idle(name string, origin *harness.Socket, n int) (clients, conns []*harness.Wire) {
	p.t.Helper()
	for range n {
		c, w := p.hold(name, origin)
		clients, conns = append(clients, c), append(conns, w)
	}
	for i, w := range conns {
		w.Send(answer("held"))
		want(p.t, clients[i].Response(), "held")
	}
	return clients, conns
}

// ends ends w, which is idle, and waits until that is at its other end: where processors are
// busy, segments of two connections come in any order.
func ends(t *testing.T, w *harness.Wire, end func(*harness.Wire)) {
	t.Helper()
	if runtime.GOOS != "linux" {
		end(w)
		return
	}
	both := procAddress(w.RemoteAddr()) + " " + procAddress(w.LocalAddr())
	idle := regexp.MustCompile(both + ` 01 [0-9A-F]{8}:00000000 `) // established, with nothing to be read
	isIdle := func() bool {
		sockets, err := os.ReadFile("/proc/net/tcp")
		if err != nil {
			t.Fatal(err)
		}
		return idle.Match(sockets)
	}
	if !isIdle() {
		t.Fatalf("%s is not idle", both)
	}
	end(w)
	harness.Until(t, "what "+w.LocalAddr().String()+" said to arrive", func() (bool, any) { return !isIdle(), "nothing" })
}

// procAddress is an IPv4 address as /proc/net/tcp has it.
func procAddress(a net.Addr) string {
	tcp := a.(*net.TCPAddr)
	return fmt.Sprintf("%08X:%04X", binary.NativeEndian.Uint32(tcp.IP.To4()), tcp.Port)
}

var poolTests = []planeTest{
	{"backends share connections by address, preamble, via, authority and pool", func(t *testing.T, p *plane) {
		gate := harness.Listen(t) // only its address is used in via
		echoes(gate, "gate")
		for i, test := range []struct {
			one, other string
			shared     bool
		}{
			{`"host":"127.0.0.1","port":PORT`, `"host":"127.0.0.1","port":PORT`, true},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1","port":PORT`, true},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1:PORT","connect_timeout":"1s","first_byte_timeout":"2s","between_bytes_timeout":"3s","tunnel_timeout":"4s","idle_timeout":"5s"`, true},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1:PORT","host_header":"h.example","override_host":true,"max_connections":5,"comment":"c","labels":{"a":"b"},"probe":"none"`, true},
			{`"host":"localhost:PORT"`, `"host":"LocalHost:PORT"`, true},
			{`"host":"127.0.0.1:PORT"`, `"host":"localhost:PORT"`, false}, // the host as written
			{`"host":"127.0.0.1:PORT","pool":"a"`, `"host":"127.0.0.1:PORT","pool":"a"`, true},
			{`"host":"127.0.0.1:PORT","pool":"a"`, `"host":"127.0.0.1:PORT","pool":"b"`, false},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1:PORT","pool":"b"`, false},
			{`"host":"127.0.0.1:PORT","preamble":"YQ0K"`, `"host":"127.0.0.1:PORT","preamble":"YQ0K"`, true},
			{`"host":"127.0.0.1:PORT","preamble":"YQ0K"`, `"host":"127.0.0.1:PORT","preamble":"Yg0K"`, false},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1:PORT","preamble":"Yg0K"`, false},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1:PORT","proxy_header":1`, false},
			{`"host":"127.0.0.1:PORT","proxy_header":2`, `"host":"127.0.0.1:PORT","proxy_header":2`, false},
			{`"host":"127.0.0.1:PORT"`, `"host":"127.0.0.1:PORT","reuse":false`, false},
			{`"host":"127.0.0.1:PORT","reuse":false`, `"host":"127.0.0.1:PORT"`, false},
		} {
			origin := sloppy(harness.Listen(t))
			one, other := fmt.Sprintf("one%d", i), fmt.Sprintf("other%d", i)
			p.backend(one, "{"+strings.ReplaceAll(test.one, "PORT", origin.Port())+"}")
			p.backend(other, "{"+strings.ReplaceAll(test.other, "PORT", origin.Port())+"}")
			c := p.client()
			for _, name := range []string{one, other} {
				c.Send(p.get(name))
				want(t, c.Response(), "sloppy")
			}
			if got := origin.Opened() == 1; got != test.shared {
				t.Errorf("%s and %s: %d connections, shared is to be %v", test.one, test.other, origin.Opened(), test.shared)
			}
		}
	}},
	{"backends behind a via share connections by what the via is told", func(t *testing.T, p *plane) {
		for i, test := range []struct {
			one, other string
			shared     bool
		}{
			{`"host":"192.0.2.1"`, `"host":"192.0.2.1","comment":"c"`, true},
			{`"host":"192.0.2.1"`, `"host":"192.0.2.2"`, false},
			{`"host":"192.0.2.1"`, `"host":"192.0.2.1","authority":"a.example"`, false},
			{`"host":"192.0.2.1","authority":"a.example"`, `"host":"192.0.2.1","authority":"a.example:1"`, true},
			{`"host":"192.0.2.1","host_header":"a.example"`, `"host":"192.0.2.1","host_header":"b.example"`, false},
			{`"host":"192.0.2.1","host_header":"a.example","authority":""`, `"host":"192.0.2.1","host_header":"b.example","authority":""`, true},
		} {
			gate := sloppy(harness.Listen(t))
			name := fmt.Sprintf("gate%d", i)
			p.backend(name, at(gate))
			c := p.client()
			for n, def := range []string{test.one, test.other} {
				b := fmt.Sprintf("b%d-%d", i, n)
				p.backend(b, fmt.Sprintf(`{%s,"via":%q}`, def, p.name(name)))
				c.Send(p.get(b))
				want(t, c.Response(), "sloppy")
			}
			if got := gate.Opened() == 1; got != test.shared {
				t.Errorf("%s and %s: %d connections, shared is to be %v", test.one, test.other, gate.Opened(), test.shared)
			}
		}
	}},
	{"the most recently used idle connection is taken first", func(t *testing.T, p *plane) {
		if p.driver.loops > 1 {
			p = p.oneLoop() // each has idle connections of its own
		}
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		clients, conns := p.idle("b", origin, 3)
		for range 3 {
			clients[0].Send(p.get("b"))
			serve(conns[2], "newest")
			want(t, clients[0].Response(), "newest")
		}
		for i := 2; i >= 0; i-- {
			clients[i].Send(p.get("b"))
			conns[i].Request()
		}
		if n := origin.Opened(); n != 3 {
			t.Errorf("%d connections, want 3", n)
		}
	}},
	{"an idle connection is taken before one is made, whichever loop has it", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		const n = 8
		clients, conns := p.idle("b", origin, n)
		var waits sync.WaitGroup
		for _, w := range conns {
			waits.Go(func() { w.Request() })
		}
		for _, c := range slices.Concat(clients[n/2:], clients[:n/2]) { // not the one that used it last
			c.Send(p.get("b"))
		}
		waits.Wait() // all are in use: one that is answered may be taken again
		for _, w := range conns {
			w.Send(answer("again"))
		}
		for _, c := range clients {
			want(t, c.Response(), "again")
		}
		if got := origin.Opened(); got != n {
			t.Errorf("%d connections, want %d", got, n)
		}
		p.waitState("b", "all to be idle", func(s backendState) bool { return s.Connections.Idle == n && s.Connections.Active == 0 })
	}},
	{"idle_timeout closes what is not used", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"idle_timeout":"100ms"`))
		c := p.ask("b")
		w := origin.Accept()
		serve(w, "one")
		want(t, c.Response(), "one")
		if more, _ := w.End(); more != "" {
			t.Errorf("more on the idle connection: %q", more)
		}
		c.Send(p.get("b"))
		serve(origin.Accept(), "two")
		want(t, c.Response(), "two")
	}},
	{"connections live as long as any backend refers to them", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("a", at(origin))
		p.backend("b", at(origin))
		c := p.ask("a")
		w := origin.Accept()
		serve(w, "one")
		want(t, c.Response(), "one")
		p.put("backends/"+p.name("b"), at(origin, `"comment":"changed"`, `"first_byte_timeout":"7s"`))
		p.put("backends/"+p.name("a"), "")
		c.Send(p.get("b"))
		serve(w, "two")
		want(t, c.Response(), "two")
		p.put("backends/"+p.name("b"), at(origin, `"pool":"another"`))
		if more, _ := w.End(); more != "" {
			t.Errorf("more on a connection that nobody refers to: %q", more)
		}
	}},
	{"a drained backend takes nothing new, and its connections close as they come back", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		first, idle := p.hold("b", origin)
		c, w := p.hold("b", origin)
		idle.Send(answer("idle"))
		want(t, first.Response(), "idle")
		p.put("health/"+p.name("b"), "drain")
		if more, _ := idle.End(); more != "" {
			t.Errorf("more on the idle connection: %q", more)
		}
		wantError(t, p.ask("b").Response(), 503, "destination_unavailable")
		w.Send(answer("one"))
		want(t, c.Response(), "one")
		if more, _ := w.End(); more != "" {
			t.Errorf("more on a connection that came back: %q", more)
		}
	}},
	{"a reused connection that fails is nobody's problem", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		for _, method := range []string{"GET", "HEAD", "OPTIONS", "PUT", "DELETE"} {
			// Closed and reset: after the request was read, and with it unread.
			for _, end := range []func(*harness.Wire){
				func(w *harness.Wire) { w.Request(); w.Close() },
				func(w *harness.Wire) { w.Request(); w.Reset() },
				func(w *harness.Wire) { w.Take(1); w.Close() },
			} {
				c := p.ask("b")
				w := origin.Accept()
				serve(w, "one")
				want(t, c.Response(), "one")
				body := ""
				if method == "PUT" {
					body = "abc"
				}
				c.Send(method, " ", p.target("b"), fmt.Sprintf(" HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
				end(w)
				w = origin.Accept()
				m := w.Request()
				if m.Method() != method || m.Body != body {
					t.Errorf("%s: sent again as %v", method, m)
				}
				w.Send("HTTP/1.1 204 x\r\nConnection: close\r\n\r\n")
				if m := c.Response(); m.Status() != 204 {
					t.Errorf("%s: %v, want 204", method, m)
				}
				w.End()
			}
		}
	}},
	{"a request that may not be sent twice is not", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		large := strings.Repeat("x", 300<<10)
		for _, test := range []struct{ name, send string }{
			{"POST", p.post("b", "abc")},
			{"POST without a body", post(p.target("b"), "Content-Length: 0\r\n", "")},
			{"PATCH", strings.Replace(p.post("b", "abc"), "POST", "PATCH", 1)},
			{"a method that nobody knows", strings.Replace(p.post("b", ""), "POST", "BREW", 1)},
			{"PUT with a body that is gone", strings.Replace(p.post("b", large), "POST", "PUT", 1)},
		} {
			opened := origin.Opened()
			c := p.ask("b")
			w := origin.Accept()
			serve(w, "one")
			want(t, c.Response(), "one")
			c.Send(test.send)
			w.Request()
			w.Close()
			if m := c.Response(); m.Get("proxy-status") != "roster; error=connection_terminated" || m.Status() != 502 {
				t.Errorf("%s: %v, want 502 for connection_terminated", test.name, m)
			}
			if n := origin.Opened() - opened; n != 1 {
				t.Errorf("%s: %d connections, want no second one", test.name, n)
			}
		}
	}},
	{"nothing is sent a third time, and nothing again once an answer began", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		c := p.ask("b")
		w := origin.Accept()
		w.Request()
		w.Close() // a fresh one: no second try
		wantError(t, c.Response(), 502, "connection_terminated")

		c.Send(p.get("b"))
		w = origin.Accept()
		serve(w, "one")
		want(t, c.Response(), "one")
		c.Send(p.get("b"))
		w.Request()
		w.Close()
		w = origin.Accept()
		w.Request()
		w.Close()
		wantError(t, c.Response(), 502, "connection_terminated")

		c.Send(p.get("b"))
		w = origin.Accept()
		serve(w, "one")
		want(t, c.Response(), "one")
		c.Send(p.get("b"))
		w.Request()
		w.Send("H")
		w.Close()
		wantError(t, c.Response(), 502, "http_response_incomplete")
		if n := origin.Opened(); n != 4 {
			t.Errorf("%d connections, want 4", n)
		}
	}},
	{"a close seen on an idle connection never meets a request", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin))
		large := strings.Repeat("x", 300<<10)
		for _, body := range []string{"abc", "", large} {
			for _, end := range []func(*harness.Wire){
				func(w *harness.Wire) { w.Close() },
				func(w *harness.Wire) { w.Reset() },
				func(w *harness.Wire) {
					w.Send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				},
				func(w *harness.Wire) { w.Send("\n") },
			} {
				c := p.ask("b")
				w := origin.Accept()
				serve(w, "one")
				want(t, c.Response(), "one")
				ends(t, w, end)
				go c.Write([]byte(p.post("b", body)))
				next := origin.Accept()
				if m := next.Request(); m.Body != body {
					t.Errorf("a body of %d bytes at the origin, want %d", len(m.Body), len(body))
				}
				next.Send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\ntwo")
				want(t, c.Response(), "two")
			}
		}
	}},
	{"a refused address is not dialled again for a while, for no backend", func(t *testing.T, p *plane) {
		address := harness.FreeAddress(t)
		_, port, _ := strings.Cut(address, ":")
		p.backend("a", fmt.Sprintf(`{"host":%q}`, address))
		p.backend("b", fmt.Sprintf(`{"host":"127.0.0.1","port":%s,"pool":"another"}`, port))
		c := p.client()
		for range 50 {
			begun := time.Now()
			c.Send(p.get("a"))
			wantError(t, c.Response(), 502, "connection_refused")
			origin := echoes(harness.ListenAt(t, "tcp", address), "back") // now there is somebody
			c.Send(p.get("a"), p.get("b"))
			second, third := c.Response(), c.Response()
			if time.Since(begun) > 200*time.Millisecond {
				origin.Close() // the time was over, or nearly so, and nothing is said by what came
				continue
			}
			wantError(t, second, 502, "connection_refused")
			wantError(t, third, 502, "connection_refused")
			if n := origin.Opened(); n != 0 {
				t.Errorf("%d connections to an address that is held down", n)
			}
			harness.Until(t, "an answer after the holddown", func() (bool, any) {
				c.Send(p.get("b"))
				m := c.Response()
				return m.Status() == 200, m
			})
			return
		}
		harness.Lack(t, "this machine is too slow to ask three times within 200 ms")
	}},
}
