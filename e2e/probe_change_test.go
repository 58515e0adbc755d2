package e2e_test

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"

	"roster/e2e/harness"
)

// quiet is for servers whose errors are expected.
var quiet = log.New(io.Discard, "", 0)

// A probed origin serves requests at one listener and probes at another.
type probed struct {
	*harness.Socket // of requests
	probes          *harness.Socket

	ill   atomic.Bool
	hold  sync.Mutex // answers to probes wait for it
	mu    sync.Mutex
	asked []string // the probes' targets
}

// startProbed starts an origin that answers requests with its name, and probes with 200,
// or 500 while it is ill.
func startProbed(t *testing.T, name string) *probed {
	t.Helper()
	o := &probed{Socket: echoes(harness.Listen(t), name), probes: harness.Listen(t)}
	o.probes.Each(func(w *harness.Wire) {
		m, err := w.ReadRequest()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.asked = append(o.asked, m.Target())
		o.mu.Unlock()
		o.hold.Lock()
		ill := o.ill.Load()
		o.hold.Unlock()
		if ill || strings.HasPrefix(m.Target(), "/ill") {
			io.WriteString(w, bad)
		} else {
			io.WriteString(w, closed)
		}
	})
	return o
}

// definition is a backend with a probe of this origin. The fields are the probe's.
func (o *probed) definition(window, threshold, initial int, interval string, fields ...string) string {
	return at(o.Socket, inline(window, threshold, initial, interval, append(fields, `"port":`+o.probes.Port())...))
}

// count is how many probes came.
func (o *probed) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.asked)
}

// more waits until n more probes have come whole.
func (o *probed) more(t *testing.T, n int) {
	t.Helper()
	before := o.count()
	harness.Until(t, fmt.Sprintf("%d more probes", n), func() (bool, any) { return o.count() >= before+n, o.count() - before })
}

// waitServed waits until a backend serves, or does not.
func (p *plane) waitServed(name string, want bool) {
	p.t.Helper()
	harness.Until(p.t, fmt.Sprintf("%s served: %t", name, want), func() (bool, any) {
		got := p.isServed(name)
		return got == want, got
	})
}

var probeTypeTests = []planeTest{
	{"https is verified for probes, too", func(t *testing.T, p *plane) {
		ca, other := newIssuer(t), newIssuer(t)
		for name, issuer := range map[string]*issuer{"good": ca, "sick": other} {
			origin := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			origin.Config.ErrorLog = quiet
			origin.TLS = issuer.server("127.0.0.1")
			origin.StartTLS()
			t.Cleanup(origin.Close)
			p.backend(name, fmt.Sprintf(`{"host":%q,"tls":{%s},%s}`, origin.Listener.Addr(), ca.trust(), oneProbe(name == "good")))
		}
		p.waitHealth("good", "healthy")
		if h := p.waitHealth("sick", "sick"); !strings.Contains(h.Probe.why(), "handshake") {
			t.Errorf("%+v", h)
		}
	}},
	{"a probe of an h2c or h2 backend is a request over HTTP/2", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		clear, secure := startH2Origin(t, nil), startH2Origin(t, ca)
		p.backend("h2c", clear.definition(`"protocol":"h2c","host_header":"a.test",`+oneProbe(true)))
		p.backend("h2", secure.definition(fmt.Sprintf(`"protocol":"h2","tls":{%s},%s`, ca.trust(), oneProbe(true))))
		p.backend("sick", clear.definition(`"protocol":"h2c",`+oneProbe(false, `"expected_response":204`)))
		p.waitHealth("h2c", "healthy")
		p.waitHealth("h2", "healthy")
		if h := p.waitHealth("sick", "sick"); !strings.Contains(h.Probe.why(), "200") {
			t.Errorf("%+v", h)
		}
		secure.mu.Lock()
		defer secure.mu.Unlock()
		if got := fmt.Sprint(secure.requests); got != "[HTTP/2.0 GET "+secure.address+" ]" {
			t.Errorf("requests %v", got)
		}
	}},
	{"an HTTP/1.1 server is no h2c backend", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		p.backend("b", at(o.Socket, `"protocol":"h2c"`, oneProbe(false)))
		p.waitHealth("b", "sick")
	}},
	{"grpc follows the health service", func(t *testing.T, p *plane) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		health := grpchealth.NewServer()
		server := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(server, health)
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		t.Cleanup(func() { server.Stop(); <-served })
		health.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
		def := func(more string) string {
			return fmt.Sprintf(`{"host":%q,%s}`, l.Addr(), inline(1, 1, 0, "20ms", `"type":"grpc"`+more))
		}
		p.put("backends/"+p.name("all"), def(""), "backends/"+p.name("shop"), def(`,"service":"shop"`), "backends/"+p.name("none"), def(`,"service":"unknown"`))
		p.waitHealth("all", "healthy")
		p.waitHealth("shop", "sick")
		health.SetServingStatus("shop", grpc_health_v1.HealthCheckResponse_SERVING)
		p.waitHealth("shop", "healthy")
		health.Shutdown()
		p.waitHealth("all", "sick")
		p.waitHealth("shop", "sick")
		if h := p.health("none"); h.State != "sick" {
			t.Errorf("%+v", h)
		}
	}},
	{"tcp is good once connected, with what has to be sent first", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"proxy_header":2`, oneProbe(true, `"type":"tcp"`)))
		w := origin.Accept()
		if got, _ := w.End(); got != v2Signature+"\x20\x00\x00\x00" {
			t.Errorf("sent %q", got)
		}
		p.waitHealth("b", "healthy")
		p.backend("nobody", fmt.Sprintf(`{"host":%q,%s}`, harness.FreeAddress(t), oneProbe(false, `"type":"tcp"`)))
		p.waitHealth("nobody", "sick")
	}},
}

var probeChangeTests = []planeTest{
	{"a named probe changed in place is followed by all that name it", func(t *testing.T, p *plane) {
		o := startProbed(t, "a")
		named := func(url string) string {
			return fmt.Sprintf(`{"url":%q,"port":%s,"window":2,"threshold":1,"interval":"20ms"}`, url, o.probes.Port())
		}
		p.put("probes/"+p.name("p"), named("/well"))
		p.backend("a", at(o.Socket, fmt.Sprintf(`"probe":%q`, p.name("p"))))
		p.backend("b", at(o.Socket, `"comment":"x"`, fmt.Sprintf(`"probe":%q`, p.name("p"))))
		p.waitHealth("a", "healthy")
		p.waitHealth("b", "healthy")
		p.put("probes/"+p.name("p"), named("/ill"))
		p.waitHealth("a", "sick")
		p.waitHealth("b", "sick")
		o.targets()
		o.more(t, 3)
		for _, target := range o.targets() {
			if target != "/ill" {
				t.Errorf("the old check went on: %s", target)
			}
		}
		p.put("probes/"+p.name("p"), named("/well"))
		p.waitHealth("a", "healthy")
		p.waitHealth("b", "healthy")
	}},
	{"a probe that comes later is followed, and one that goes is none", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		o.ill.Store(true)
		p.backend("b", at(o.Socket, fmt.Sprintf(`"probe":%q`, p.name("p"))))
		if !p.isServed("b") {
			t.Error("without a probe it should be healthy")
		}
		p.put("probes/"+p.name("p"), fmt.Sprintf(`{"port":%s,"window":1,"threshold":1,"interval":"20ms"}`, o.probes.Port()))
		p.waitServed("b", false)
		p.put("probes/"+p.name("p"), "")
		if !p.isServed("b") {
			t.Error("without the probe it should be healthy again")
		}
	}},
	{"a live backend keeps its verdict until its new check has an answer", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		p.backend("b", o.definition(1, 1, 0, "20ms"))
		p.waitHealth("b", "healthy")
		slow := harness.Listen(t)
		p.put("backends/"+p.name("b"), at(o.Socket, inline(1, 1, 0, "1h", `"port":`+slow.Port())))
		w := slow.Accept()
		w.Request()
		if !p.isServed("b") {
			t.Error("sick before the first answer to its new check")
		}
		answerProbe(w, false)
		p.waitServed("b", false)
		slower := harness.Listen(t)
		p.put("backends/"+p.name("b"), at(o.Socket, inline(1, 1, 1, "1h", `"port":`+slower.Port())))
		w = slower.Accept()
		w.Request()
		if p.isServed("b") {
			t.Error("healthy before the first answer to its new check")
		}
		answerProbe(w, true)
		p.waitServed("b", true)
	}},
	{"a new backend is sick until its first good probe", func(t *testing.T, p *plane) {
		o, probes := echoes(harness.Listen(t), "b"), harness.Listen(t)
		p.backend("b", at(o, fmt.Sprintf(`"probe":{"port":%s}`, probes.Port())))
		w := probes.Accept()
		w.Request()
		if p.isServed("b") {
			t.Error("served before the first answer")
		}
		answerProbe(w, true)
		p.waitServed("b", true)
	}},
	{"a backend that joins a prober is judged by its history at once", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		p.put("backends/"+p.name("a"), at(o.Socket, `"host_header":"same"`, inline(3, 3, 0, "20ms", `"port":`+o.probes.Port())))
		p.waitHealth("a", "healthy")
		p.backend("b", at(o.Socket, `"host_header":"same"`, inline(2, 2, 0, "20ms", `"port":`+o.probes.Port())))
		if !p.isServed("b") {
			t.Error("not healthy at once, by two good ones that had been")
		}
	}},
	{"a backend going sick wakes its queue, which fails at once", func(t *testing.T, p *plane) {
		origin, probes := harness.Listen(t), harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":10,"wait_timeout":"1h"`,
			inline(1, 1, 1, "20ms", `"timeout":"1h","port":`+probes.Port())))
		probe := probes.Accept()
		probe.Request()
		first := p.ask("b")
		w := origin.Accept()
		w.Request()
		var queued []*harness.Wire
		for range 3 {
			queued = append(queued, p.ask("b"))
		}
		p.waitState("b", "3 queued", func(s backendState) bool { return s.Requests.Queued == 3 })
		answerProbe(probe, false)
		for _, c := range queued {
			wantError(t, c.Response(), 503, "destination_unavailable")
		}
		w.Send(answer("one")) // what was in progress finishes
		want(t, first.Response(), "one")
	}},
}

// targets are those of the probes since the last call.
func (o *probed) targets() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked := o.asked
	o.asked = nil
	return asked
}

var overrideTests = []planeTest{
	{"overrides win over probes, which go on underneath", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		p.backend("b", o.definition(1, 1, 0, "20ms"))
		p.waitServed("b", true)
		override := "health/" + p.name("b")
		p.put(override, " Sick\n")
		if p.isServed("b") {
			t.Error("served though overridden sick")
		}
		if h := p.health("b"); h.State != "sick" || h.Admin != "sick" {
			t.Errorf("%+v", h)
		}
		o.more(t, 3)
		o.ill.Store(true)
		o.more(t, 2)
		p.put(override, `{"state":"healthy","reason":"we know","by":"me"}`)
		if !p.isServed("b") {
			t.Error("not served though overridden healthy")
		}
		if h := p.health("b"); h.State != "healthy" || h.Admin != "healthy" || h.Reason != "we know" {
			t.Errorf("%+v", h)
		}
		o.more(t, 2)
		p.put(override, "auto")
		if p.isServed("b") {
			t.Error("served though its probes are bad")
		}
		o.ill.Store(false)
		p.waitServed("b", true)
		p.put(override, "drain")
		if p.isServed("b") {
			t.Error("served though drained")
		}
		o.more(t, 2)
		p.put(override, "")
		if !p.isServed("b") {
			t.Error("not served after the override was deleted")
		}
	}},
	{"an override under a lease expires by itself", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		p.backend("b", o.definition(1, 1, 0, "20ms"))
		p.waitServed("b", true)
		lease, err := p.etcd.Grant(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.etcd.Put(t.Context(), "/roster/health/"+p.name("b"), "sick", clientv3.WithLease(lease.ID))
		if err != nil {
			t.Fatal(err)
		}
		p.WaitRevision(r.Header.Revision)
		// It may have expired on a machine that is this slow; what it was is told.
		if h := p.health("b"); h.State != "sick" && p.Status().Seen == r.Header.Revision {
			t.Errorf("%+v", h)
		}
		p.waitServed("b", true)
		if h := p.health("b"); h.Admin != "auto" {
			t.Errorf("%+v", h)
		}
	}},
	{"drain: no new requests, those in flight and in the queue finish, connections close", func(t *testing.T, p *plane) {
		origin, other := harness.Listen(t), startProbed(t, "other")
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":9,"wait_timeout":"1h","probe":"none"`))
		p.put("backends/"+p.name("other"), other.definition(1, 1, 1, "20ms"),
			"directors/"+p.name("d"), fmt.Sprintf(`{"type":"round_robin","backends":[%q,%q]}`, p.name("b"), p.name("other")),
			"routes/"+p.name("d"), fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q}`, p.name("d"), p.name("d")))
		running := p.ask("b")
		w := origin.Accept()
		w.Request()
		queued := p.ask("b")
		p.waitState("b", "one queued", func(s backendState) bool { return s.Requests.Queued == 1 })
		p.put("health/"+p.name("b"), "drain")
		for range 5 {
			want(t, p.ask("d").Response(), "other")
			wantError(t, p.ask("b").Response(), 503, "destination_unavailable")
		}
		w.Send(answer("running"))
		want(t, running.Response(), "running")
		if more, _ := w.End(); more != "" { // the connection is not used again
			t.Errorf("and then %q", more)
		}
		w = origin.Accept()
		w.Request()
		w.Send(answer("queued"))
		want(t, queued.Response(), "queued")
		if more, _ := w.End(); more != "" {
			t.Errorf("and then %q", more)
		}
	}},
	{"a director overridden sick answers as none does", func(t *testing.T, p *plane) {
		o := startProbed(t, "b")
		p.put("backends/"+p.name("b"), o.definition(1, 1, 1, "20ms"),
			"directors/"+p.name("d"), fmt.Sprintf(`{"type":"round_robin","backends":[%q]}`, p.name("b")),
			"routes/"+p.name("d"), fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q}`, p.name("d"), p.name("d")))
		want(t, p.ask("d").Response(), "b")
		p.put("health/"+p.name("d"), "sick")
		wantError(t, p.ask("d").Response(), 503, "destination_unavailable")
		p.put("health/"+p.name("d"), "")
		want(t, p.ask("d").Response(), "b")
	}},
	{"a queue is woken by an override of sick", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1,"wait_limit":9,"wait_timeout":"1h","probe":"none"`))
		first := p.ask("b")
		w := origin.Accept()
		w.Request()
		queued := p.ask("b")
		p.waitState("b", "one queued", func(s backendState) bool { return s.Requests.Queued == 1 })
		p.put("health/"+p.name("b"), "sick")
		wantError(t, queued.Response(), 503, "destination_unavailable")
		w.Send(answer("one"))
		want(t, first.Response(), "one")
	}},
}
