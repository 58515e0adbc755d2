package e2e_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"roster/e2e/harness"
)

// An h2Origin answers over HTTP/2 only, with and without TLS, and counts.
type h2Origin struct {
	address string
	held    chan struct{} // one value for each request that waits for release
	release chan struct{}

	mu       sync.Mutex
	opened   int
	open     int
	requests []string // protocol, method, Host, X-Forwarded-For
}

func startH2Origin(t testing.TB, ca *issuer) *h2Origin {
	t.Helper()
	o := &h2Origin{held: make(chan struct{}, 100), release: make(chan struct{})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.address = l.Addr().String()
	s := &http.Server{Handler: o, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0), ConnState: func(_ net.Conn, state http.ConnState) {
		o.mu.Lock()
		defer o.mu.Unlock()
		switch state {
		case http.StateNew:
			o.opened++
			o.open++
		case http.StateClosed:
			o.open--
		}
	}}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if ca == nil {
			s.Protocols.SetUnencryptedHTTP2(true)
			s.Serve(l)
			return
		}
		s.Protocols.SetHTTP2(true)
		s.TLSConfig = ca.server("127.0.0.1")
		s.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return o
}

func (o *h2Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	o.mu.Lock()
	o.requests = append(o.requests, fmt.Sprint(r.Proto, " ", r.Method, " ", r.Host, " ", r.Header.Get("X-Forwarded-For")))
	o.mu.Unlock()
	if strings.HasSuffix(r.URL.Path, "hold") {
		o.held <- struct{}{}
		select {
		case <-o.release:
		case <-r.Context().Done():
		}
	}
	w.Header().Set("Trailer", "X-Trailer")
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush() // so that its length is not known
	w.Write(body)
	w.Header().Set("X-Trailer", "end")
}

// counts are the connections ever opened, those open now, and the requests.
func (o *h2Origin) counts() (opened, open, requests int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.opened, o.open, len(o.requests)
}

func (o *h2Origin) definition(more string) string {
	return fmt.Sprintf(`{"host":%q,%s}`, o.address, more)
}

var protocolTests = []planeTest{
	{"protocol h2c begins with HTTP/2's preface, after preamble and PROXY header", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"protocol":"h2c","preamble":"aGVsbG8NCg==","proxy_header":1`))
		c := p.ask("b")
		w := origin.Accept()
		header := fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", addrPort(c.LocalAddr()).Port(), addrPort(c.RemoteAddr()).Port())
		prologue := "hello\r\n" + header + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
		if got := w.Take(len(prologue)); got != prologue {
			t.Errorf("connection begins with %q, want %q", got, prologue)
		}
		w.Close()
		if m := c.Response(); m.Status() != 502 {
			t.Errorf("%v, want 502", m)
		}
	}},
	{"requests over h2c share one connection", func(t *testing.T, p *plane) {
		origin := startH2Origin(t, nil)
		p.backend("b", origin.definition(`"protocol":"h2c"`))
		p.backend("other", origin.definition(`"protocol":"h2c","host_header":"h.example","override_host":true`))
		var clients []*harness.Wire
		for range 10 {
			c := p.client()
			c.Send(get("/"+p.name("b")+"/hold", ""))
			clients = append(clients, c)
		}
		for range clients {
			<-origin.held
		}
		c := p.client()
		c.Send(p.post("other", "abc"))
		if m := c.Response(); m.Status() != 200 || m.Body != "abc" || !strings.EqualFold(fmt.Sprint(m.Trailers), "[{X-Trailer end}]") {
			t.Errorf("answer %v, want abc with a trailer", m)
		}
		close(origin.release)
		for _, c := range clients {
			want(t, c.Response(), "")
		}
		large := strings.Repeat("0123456789", 100<<10)
		go c.Write([]byte(p.post("b", large)))
		want(t, c.Response(), large)
		if opened, _, requests := origin.counts(); opened != 1 || requests != 12 {
			t.Errorf("%d connections with %d requests, want 1 with 12", opened, requests)
		}
		origin.mu.Lock()
		defer origin.mu.Unlock()
		if got := origin.requests[10]; got != "HTTP/2.0 POST h.example 127.0.0.1" {
			t.Errorf("request %s", got)
		}
	}},
	{"protocol h2 is agreed on in the handshake", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		origin := startH2Origin(t, ca)
		p.backend("b", origin.definition(fmt.Sprintf(`"protocol":"h2","tls":{%s}`, ca.trust())))
		c := p.client()
		c.Send(p.post("b", "abc"), p.get("b"))
		want(t, c.Response(), "abc")
		want(t, c.Response(), "")
		if opened, _, requests := origin.counts(); opened != 1 || requests != 2 {
			t.Errorf("%d connections with %d requests, want 1 with 2", opened, requests)
		}

		old := harness.Listen(t)
		config := ca.server("127.0.0.1") // which knows of no HTTP/2
		p.backend("old", at(old, fmt.Sprintf(`"protocol":"h2","tls":{%s}`, ca.trust())))
		c.Send(p.get("old"))
		w := old.Accept()
		w.Serve(config)
		if m := c.Response(); m.Status() != 502 {
			t.Errorf("%v, want 502", m)
		}
		if more, _ := w.End(); more != "" {
			t.Errorf("sent all the same: %q", more)
		}
	}},
	{"a connection of h2c with a PROXY header, or without reuse, serves one request", func(t *testing.T, p *plane) {
		origin := startH2Origin(t, nil)
		p.backend("b", origin.definition(`"protocol":"h2c","reuse":false`))
		c := p.client()
		for range 3 {
			c.Send(p.post("b", "abc"))
			want(t, c.Response(), "abc")
		}
		if opened, _, _ := origin.counts(); opened != 3 {
			t.Errorf("%d connections, want 3", opened)
		}
		harness.Until(t, "the end of all connections", func() (bool, any) {
			_, open, _ := origin.counts()
			return open == 0, open
		})
	}},
	{"idle_timeout closes connections of h2c", func(t *testing.T, p *plane) {
		origin := startH2Origin(t, nil)
		p.backend("b", origin.definition(`"protocol":"h2c","idle_timeout":"100ms"`))
		c := p.client()
		c.Send(p.post("b", "abc"))
		want(t, c.Response(), "abc")
		harness.Until(t, "the end of the connection", func() (bool, any) {
			_, open, _ := origin.counts()
			return open == 0, open
		})
		c.Send(p.post("b", "abc"))
		want(t, c.Response(), "abc")
	}},
	{"max_connections counts requests over h2c", func(t *testing.T, p *plane) {
		origin := startH2Origin(t, nil)
		p.backend("b", origin.definition(`"protocol":"h2c","max_connections":1`))
		c := p.client()
		c.Send(get("/"+p.name("b")+"/hold", ""))
		<-origin.held
		wantError(t, p.ask("b").Response(), 503, "connection_limit_reached")
		close(origin.release)
		want(t, c.Response(), "")
		c.Send(p.get("b"))
		want(t, c.Response(), "")
	}},
	{"first_byte_timeout over h2c is 504; others finish on that connection, and none begin", func(t *testing.T, p *plane) {
		origin := startH2Origin(t, nil)
		p.backend("b", origin.definition(`"protocol":"h2c","first_byte_timeout":"100ms"`))
		p.backend("patient", origin.definition(`"protocol":"h2c"`))
		other := p.client()
		other.Send(get("/"+p.name("patient")+"/hold", ""))
		<-origin.held
		c := p.client()
		c.Send(get("/"+p.name("b")+"/hold", ""))
		wantError(t, c.Response(), 504, "http_response_timeout")
		c.Send(p.post("b", "abc"))
		want(t, c.Response(), "abc")
		close(origin.release)
		want(t, other.Response(), "")
		if opened, _, _ := origin.counts(); opened != 2 {
			t.Errorf("%d connections, want 2", opened)
		}
	}},
}
