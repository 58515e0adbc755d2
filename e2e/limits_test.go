package e2e_test

import (
	"fmt"
	"strings"
	"testing"

	"roster/e2e/harness"
)

func queued(n int) func(backendState) bool {
	return func(s backendState) bool { return s.Requests.Queued == n }
}

// nth is a GET with a number.
func (p *plane) nth(name string, n int) string { return get(fmt.Sprint(p.target(name), n), "") }

// hold lets one request wait at the origin.
func (p *plane) hold(name string, origin *harness.Socket) (*harness.Wire, *harness.Wire) {
	p.t.Helper()
	c := p.ask(name)
	w := origin.Accept()
	w.Request()
	return c, w
}

var limitTests = []planeTest{
	{"max_connections without a queue is 503 at once", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1`))
		c, w := p.hold("b", origin)
		m := p.ask("b").Response()
		wantError(t, m, 503, "connection_limit_reached")
		w.Send(answer("one"))
		want(t, c.Response(), "one")
		if n := origin.Opened(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	}},
	{"wait_limit without wait_timeout is no queue", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":10`))
		p.hold("b", origin)
		wantError(t, p.ask("b").Response(), 503, "connection_limit_reached")
	}},
	{"the queue is first come, first served, and has an end", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":3,"wait_timeout":"1h"`))
		c, w := p.hold("b", origin)
		var waiting []*harness.Wire
		for n := 1; n <= 3; n++ {
			next := p.client()
			next.Send(p.nth("b", n))
			p.waitState("b", fmt.Sprintf("%d in the queue", n), queued(n))
			waiting = append(waiting, next)
		}
		wantError(t, p.ask("b").Response(), 503, "connection_limit_reached")
		w.Send(answer("held"))
		want(t, c.Response(), "held")
		for n, next := range waiting {
			m := w.Request()
			if !strings.HasSuffix(m.Target(), fmt.Sprint(n+1)) {
				t.Errorf("%s at the origin, want request %d", m.Target(), n+1)
			}
			p.waitState("b", "one less in the queue", queued(2-n))
			w.Send(answer("waited"))
			want(t, next.Response(), "waited")
		}
		if n := origin.Opened(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	}},
	{"wait_timeout is 503", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":1,"wait_timeout":"100ms"`))
		c, w := p.hold("b", origin)
		wantError(t, p.ask("b").Response(), 503, "connection_limit_reached")
		w.Send(answer("one"))
		want(t, c.Response(), "one")
	}},
	{"a client that goes away leaves the queue", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":2,"wait_timeout":"1h"`))
		c, w := p.hold("b", origin)
		first := p.ask("b")
		p.waitState("b", "one in the queue", queued(1))
		second := p.client()
		second.Send(p.nth("b", 2))
		p.waitState("b", "two in the queue", queued(2))
		first.Close()
		p.waitState("b", "one in the queue", queued(1))
		w.Send(answer("one"))
		want(t, c.Response(), "one")
		if m := w.Request(); !strings.HasSuffix(m.Target(), "2") {
			t.Errorf("%s at the origin, want the second", m.Target())
		}
		w.Send(answer("two"))
		want(t, second.Response(), "two")
	}},
	{"a deleted backend fails its queue at once and finishes what is under way", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":5,"wait_timeout":"1h"`))
		c, w := p.hold("b", origin)
		waiting := p.ask("b")
		p.waitState("b", "one in the queue", queued(1))
		p.put("backends/"+p.name("b"), "")
		wantError(t, waiting.Response(), 503, "destination_unavailable")
		wantError(t, p.ask("b").Response(), 503, "destination_unavailable")
		w.Send(answer("one"))
		want(t, c.Response(), "one")
		if more, _ := w.End(); more != "" {
			t.Errorf("more after the deletion: %q", more)
		}
	}},
	{"a backend that goes sick fails its queue at once", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":5,"wait_timeout":"1h"`))
		c, w := p.hold("b", origin)
		waiting := p.ask("b")
		p.waitState("b", "one in the queue", queued(1))
		p.put("health/"+p.name("b"), "sick")
		wantError(t, waiting.Response(), 503, "destination_unavailable")
		w.Send(answer("one"))
		want(t, c.Response(), "one")
		p.put("health/"+p.name("b"), "auto")
		c.Send(p.get("b"))
		serve(w, "two")
		want(t, c.Response(), "two")
	}},
	{"requests of an older definition count against the new limit", func(t *testing.T, p *plane) {
		origin, second := harness.Listen(t), harness.Listen(t)
		p.backend("b", at(origin))
		c, w := p.hold("b", origin)
		p.put("backends/"+p.name("b"), at(second, `"max_connections":1`)) // elsewhere, under the same name
		wantError(t, p.ask("b").Response(), 503, "connection_limit_reached")
		w.Send(answer("one"))
		want(t, c.Response(), "one")
		c.Send(p.get("b"))
		serve(second.Accept(), "two")
		want(t, c.Response(), "two")
	}},
	{"a raised limit admits those who wait", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":5,"wait_timeout":"1h"`))
		p.hold("b", origin)
		waiting := p.ask("b")
		p.waitState("b", "one in the queue", queued(1))
		p.put("backends/"+p.name("b"), at(origin, `"max_connections":2`))
		serve(origin.Accept(), "two")
		want(t, waiting.Response(), "two")
	}},
	{"a tunnel counts until its end", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1`))
		c := p.client()
		c.Send(get(p.target("b"), upgrade))
		w := origin.Accept()
		w.Request()
		w.Send(switched)
		c.Response()
		wantError(t, p.ask("b").Response(), 503, "connection_limit_reached")
		c.Close()
		w.End()
		w.Close()
		p.waitState("b", "the end of the tunnel", func(s backendState) bool { return s.Requests.Active == 0 })
		c = p.ask("b")
		serve(origin.Accept(), "after")
		want(t, c.Response(), "after")
	}},
	{"the slot is free before the answer's last byte leaves", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1`))
		body := strings.Repeat("x", 400<<10)
		origin.Each(func(w *harness.Wire) {
			for n := 0; ; n++ {
				if _, err := w.ReadRequest(); err != nil {
					return
				}
				switch n % 3 {
				case 0:
					fmt.Fprint(w, answer("short"))
				case 1:
					fmt.Fprint(w, answer(body))
				case 2:
					fmt.Fprintf(w, "HTTP/1.1 200 OK\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", chunked, len(body), body)
				}
			}
		})
		for range 30 {
			if m := p.ask("b").Response(); m.Status() != 200 {
				t.Fatalf("the request after one that has its answer: %v", m)
			}
		}
	}},
}
