package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"roster/exchange"
	"roster/message"
	"roster/node/tracing"
	"roster/node/tracing/tracingtest"
)

const (
	aTrace   = "4bf92f3577b34da6a3ce929d0e0e4736"
	aSpan    = "00f067aa0ba902b7"
	aParent  = "00-" + aTrace + "-" + aSpan + "-01"
	loopback = "127.0.0.0/8"
)

// traced is a tracer that exports to a collector, and what ends it: then all spans are
// there.
func traced(t *testing.T, sample float64) (*tracing.Tracer, func() []tracingtest.Span) {
	t.Helper()
	c := tracingtest.New(t)
	tracer, err := tracing.New(tracing.Config{Endpoint: c.URL, Sample: sample})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { tracer.Run(ctx) })
	end := func() []tracingtest.Span {
		cancel()
		done.Wait()
		return c.Spans()
	}
	t.Cleanup(func() { end() })
	// Spans made before Run are dropped, so the first are thrown away.
	eventually(t, func() bool {
		var r tracing.Trace
		r.Begin(tracer, []message.Field{message.New(message.Traceparent, []byte(aParent))}, true)
		before, _ := tracer.Stats()
		r.Start(tracing.Request{})
		r.End(tracing.Result{})
		after, _ := tracer.Stats()
		return after == before
	})
	return tracer, func() []tracingtest.Span {
		var own []tracingtest.Span
		for _, s := range end() {
			if s.Attributes["roster.request_id"] != "" || s.Kind == "client" {
				own = append(own, s)
			}
		}
		return own
	}
}

// line is the value of a field of a head.
func line(head, name string) string {
	for l := range strings.SplitSeq(head, "\r\n") {
		if k, v, _ := strings.Cut(l, ": "); strings.EqualFold(k, name) {
			return v
		}
	}
	return ""
}

// chain checks that spans are one request's, its tries in order, and that the backends were
// told of their try.
func chain(t *testing.T, spans []tracingtest.Span, trace, parent string, told ...string) {
	t.Helper()
	if len(spans) != len(told)+1 {
		t.Fatalf("%d spans, want %d: %+v", len(spans), len(told)+1, spans)
	}
	for i, s := range spans {
		switch {
		case trace != "" && s.Trace != trace, s.Trace != spans[0].Trace:
			t.Errorf("span %d is of trace %s", i, s.Trace)
		case i == 0 && (s.Parent != parent || s.Kind != "server"):
			t.Errorf("the request's: %+v, want parent %q", s, parent)
		case i > 0 && (s.Parent != spans[0].ID || s.Kind != "client"):
			t.Errorf("try %d: %+v, want parent %s", i, s, spans[0].ID)
		case i > 0 && told[i-1] != "" && !strings.HasPrefix(told[i-1], "00-"+s.Trace+"-"+s.ID+"-"):
			t.Errorf("backend %d was told %s, want %s", i, told[i-1], s.ID)
		}
	}
}

// TestTraceOfARetry: a request, a backend that refuses it, and one that answers: three
// spans, of which the backend was told its own.
func TestTraceOfARetry(t *testing.T) {
	t.Parallel()
	tracer, spans := traced(t, 0)
	bad, good := newOrigin(t), newOrigin(t)
	r := newRig(t, Config{Tracing: tracer, Exchange: exchange.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix(loopback)}}}, definitions{
		"backends/a": bad.backend(), "backends/b": good.backend(),
		"directors/d": `{"type": "fallback", "backends": ["a", "b"]}`,
		"routes/www":  `{"match": {"host": "www.test"}, "backend": "d", "retries": 1}`,
	})
	c := r.dial()
	c.send("GET /path?secret HTTP/1.1\r\nHost: www.test\r\ntraceparent: " + aParent + "\r\ntracestate: a=1\r\n\r\n")
	first := bad.accept()
	told1 := first.head()
	first.Close()
	second := good.accept()
	told2 := second.head()
	second.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	c.until("ok")
	if got := line(told2, "tracestate"); got != "a=1" {
		t.Errorf("tracestate %q in %q", got, told2)
	}
	all := spans()
	chain(t, all, aTrace, aSpan, line(told1, "traceparent"), line(told2, "traceparent"))
	for i, want := range []map[string]string{
		{"roster.route": "www", "roster.director": "d", "roster.backend": "b", "roster.retries": "1", "roster.revision": "1", "http.response.status_code": "200",
			"url.path": "/path", "error.type": "", "client.address": "127.0.0.1"},
		{"roster.backend": "a", "error.type": "closed", "http.response.status_code": "", "http.request.resend_count": ""},
		{"roster.backend": "b", "error.type": "", "http.response.status_code": "200", "http.request.resend_count": "1", "url.full": "http://www.test/path",
			"network.peer.port": good.addr()[strings.LastIndexByte(good.addr(), ':')+1:]},
	} {
		for k, v := range want {
			if got := all[i].Attributes[k]; got != v {
				t.Errorf("span %d: %s is %q, want %q", i, k, got, v)
			}
		}
		if all[i].Error != (i == 1) {
			t.Errorf("span %d: error is %v", i, all[i].Error)
		}
	}
}

// TestTraceOfARequestWithoutATry: what the proxy answers by itself has a span, too.
func TestTraceOfARequestWithoutATry(t *testing.T) {
	t.Parallel()
	tracer, spans := traced(t, 1)
	r := newRig(t, Config{Tracing: tracer}, definitions{})
	r.exchange("GET / HTTP/1.1\r\nHost: www.test\r\nConnection: close\r\n\r\n")
	r.exchange("TRACE / HTTP/1.1\r\nHost: www.test\r\nMax-Forwards: 0\r\nConnection: close\r\n\r\n")
	all := spans()
	if len(all) != 2 || all[0].Trace == all[1].Trace {
		t.Fatalf("%+v", all)
	}
	for i, want := range []string{"503 no_backend true", "200  false"} {
		a := all[i].Attributes
		if got := fmt.Sprintf("%s %s %v", a["http.response.status_code"], a["error.type"], all[i].Error); got != want {
			t.Errorf("span %d: %s, want %s", i, got, want)
		}
	}
}

// TestTraceOfAClientThatLeaves ends both spans, and is nobody's error.
func TestTraceOfAClientThatLeaves(t *testing.T) {
	t.Parallel()
	tracer, spans := traced(t, 1)
	o := newOrigin(t)
	r := newRig(t, Config{Tracing: tracer}, definitions{"backends/a": o.backend()})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	told := o.accept().head()
	c.Close()
	eventually(t, func() bool { return r.Stats().Failures[exchange.ClientGone] == 1 })
	all := spans()
	chain(t, all, "", "", line(told, "traceparent"))
	for i, s := range all {
		if s.Attributes["error.type"] != "client_gone" || s.Error {
			t.Errorf("span %d: %+v", i, s)
		}
	}
}

// TestTraceOfABrokenAnswer is of an answer that had begun well.
func TestTraceOfABrokenAnswer(t *testing.T) {
	t.Parallel()
	tracer, spans := traced(t, 1)
	o := newOrigin(t)
	r := newRig(t, Config{Tracing: tracer}, definitions{"backends/a": o.backend()})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	b := o.accept()
	told := b.head()
	b.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	b.Close()
	c.rest()
	all := spans()
	chain(t, all, "", "", line(told, "traceparent"))
	for i, s := range all {
		if s.Attributes["error.type"] != "truncated" || s.Attributes["http.response.status_code"] != "200" || !s.Error {
			t.Errorf("span %d: %+v", i, s)
		}
	}
}

// TestTraceOfATunnel lasts as long as it does.
func TestTraceOfATunnel(t *testing.T) {
	t.Parallel()
	tracer, spans := traced(t, 1)
	o := newOrigin(t)
	r := newRig(t, Config{Tracing: tracer}, definitions{"backends/a": o.backend()})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
	b := o.accept()
	told := b.head()
	b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
	c.head()
	b.send("hello")
	c.take(5)
	c.Close()
	b.Close()
	eventually(t, func() bool { return r.Stats().Requests[1] == 1 })
	all := spans()
	chain(t, all, "", "", line(told, "traceparent"))
	for i, s := range all {
		if s.Attributes["http.response.status_code"] != "101" || s.Error {
			t.Errorf("span %d: %+v", i, s)
		}
	}
}

// TestTraceOfGRPC: calls of HTTP/2 from end to end, with a body.
func TestTraceOfGRPC(t *testing.T) {
	t.Parallel()
	tracer, spans := traced(t, 1)
	told := make(chan http.Header, 1)
	o := newTwoOrigin(t, func(w http.ResponseWriter, q *http.Request) {
		told <- q.Header.Clone()
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer:Grpc-Status", "0")
		w.Write([]byte{0, 0, 0, 0, 0})
	})
	r := newRig(t, Config{Tracing: tracer}, definitions{"backends/a": fmt.Sprintf(`{"host": %q, "protocol": "h2c"}`, o)})
	conn, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := conn.Invoke(ctx, "/test.Echo/One", wrapperspb.String("hello"), new(wrapperspb.StringValue)); err != nil {
		t.Fatal(err)
	}
	head := <-told
	eventually(t, func() bool { return r.Stats().Requests[2] == 1 })
	all := spans()
	chain(t, all, "", "", head.Get("Traceparent"))
	if a := all[0].Attributes; a["url.path"] != "/test.Echo/One" || a["network.protocol.version"] != "2" || a["http.request.method"] != "POST" {
		t.Errorf("%+v", a)
	}
}

// newTwoOrigin serves HTTP/2 without TLS.
func newTwoOrigin(t *testing.T, h http.HandlerFunc) net.Addr {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var two http.Protocols
	two.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: h, Protocols: &two, ReadHeaderTimeout: time.Minute}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
	return ln.Addr()
}
