package tracing

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"

	"roster/node/tracing/tracingtest"
)

// Who decides whether a request is sampled, and what then is sent on.
func TestWhoDecides(t *testing.T) {
	t.Parallel()
	const unsampled = "00-" + aTrace + "-" + aSpan + "-00"
	for _, row := range []struct {
		name    string
		came    string
		trusted bool
		sample  float64
		flags   byte
		same    bool // what came is sent on as it came
	}{
		{"a trusted proxy wants it", usual, true, 0, Sampled, true},
		{"a trusted proxy does not", unsampled, true, 1, 0, true},
		{"anybody wants it, and the draw too", usual, false, 1, Sampled, true},
		{"anybody wants it, the draw does not", usual, false, 0, 0, false},
		{"anybody does not, the draw does", unsampled, false, 1, Sampled, false},
		{"neither does", unsampled, false, 0, 0, true},
		{"random ids stay so", "00-" + aTrace + "-" + aSpan + "-03", false, 0, Random, false},
		{"nobody has begun it, drawn", "", true, 1, Sampled | Random, false},
		{"nobody has begun it, not drawn", "", true, 0, Random, false},
		{"not valid", "ff" + usual[2:], true, 0, Random, false},
	} {
		var r Trace
		r.Begin(&Tracer{sample: row.sample}, head("traceparent", row.came, "tracestate", "a=1"), row.trusted)
		sent, ok := Parse(r.Parent())
		came, valid := Parse([]byte(row.came))
		if !ok || sent.Flags != row.flags || (string(r.Parent()) == row.came) != row.same {
			t.Errorf("%s: %q is sent as %q", row.name, row.came, r.Parent())
		}
		if valid && (sent.Trace != came.Trace || string(r.State()) != "a=1") || !valid && r.State() != nil {
			t.Errorf("%s: %q is sent as %q with state %q", row.name, row.came, r.Parent(), r.State())
		}
		if !row.same && sent.Parent == came.Parent {
			t.Errorf("%s: a change in another's name: %q", row.name, r.Parent())
		}
		if string(r.ID()) != string(r.Parent()[3:35]) || r.Recorded() {
			t.Errorf("%s: id %q of %q, recorded %v", row.name, r.ID(), r.Parent(), r.Recorded())
		}
	}
}

func TestTheShareThatIsSampled(t *testing.T) {
	t.Parallel()
	const n, share = 100_000, 0.1
	got := 0
	// A client that has found an id which is sampled has no use of it.
	fields := head("traceparent", usual)
	for range n {
		var r Trace
		if r.Begin(&Tracer{sample: share}, fields, false); r.Parent()[flagsAt+1] == '1' {
			got++
		}
	}
	// Ten standard deviations.
	if off := math.Abs(float64(got) - n*share); off > 10*math.Sqrt(n*share*(1-share)) {
		t.Errorf("%d of %d are sampled, want %v", got, n, share)
	}
}

func TestTheZeroTraceDoesNothing(t *testing.T) {
	t.Parallel()
	var r Trace
	r.Start(Request{})
	r.BeginTry(Try{})
	r.Event(EventSlot)
	r.Sent(false, nil, nil)
	r.EndTry(Result{})
	r.End(Result{})
	if r.Parent() != nil || r.State() != nil || r.ID() != nil || r.Recorded() || r.Trying() {
		t.Errorf("%+v", r)
	}
}

// run runs a tracer until stop.
func run(tracer *Tracer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { tracer.Run(ctx) })
	return func() {
		cancel()
		done.Wait()
	}
}

// running waits until spans are taken.
func running(t *testing.T, tracer *Tracer) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); tracer.spans.batches.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Run has not begun")
		}
	}
}

func request() Request {
	return Request{
		Method: []byte("GET"), Target: []byte("/search?q=secret"), Authority: []byte("www.test:8080"), UserAgent: []byte("curl/8.5"),
		ID: []byte("9f86d081"), TLS: true, Major: 1, Minor: 1,
		Client: netip.MustParseAddr("192.0.2.7"), Peer: netip.MustParseAddrPort("10.0.0.1:50000"),
	}
}

// A request and its tries as a collector sees them.
func TestSpans(t *testing.T) {
	t.Setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20x")
	c := tracingtest.New(t)
	tracer, err := New(Config{Endpoint: c.URL, Sample: 0, Node: "edge-1", Version: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(tracer)
	running(t, tracer)
	var r Trace
	r.Begin(tracer, head("traceparent", usual, "tracestate", "a=1"), true)
	r.Start(request())
	r.BeginTry(Try{Method: []byte("GET"), Backend: "web-1", Host: "10.0.0.7", Port: 8080})
	first := string(r.Parent())
	r.Event(EventSlot)
	r.EndTry(Result{Failure: "refused", Bad: true})
	r.BeginTry(Try{Method: []byte("GET"), Backend: "web-2", Retries: 1})
	second := string(r.Parent())
	r.Event(EventSlot)
	r.Sent(false, []byte("www.test"), []byte("/search?q=secret"))
	r.Event(EventFirstByte)
	r.EndTry(Result{Status: 404, Peer: netip.MustParseAddrPort("10.0.0.8:8080")})
	r.End(Result{Status: 404, Route: "www", Director: "web", Backend: "web-2", Revision: 17, Retries: 1})
	stop()

	if rs := c.Requests(); len(rs) != 1 || rs[0].URL.Path != "/v1/traces" || rs[0].Header.Get("Authorization") != "Bearer x" {
		t.Errorf("requests %+v", rs)
	}
	spans := c.Spans()
	if len(spans) != 3 {
		t.Fatalf("%d spans, want 3: %+v", len(spans), spans)
	}
	server := spans[0]
	for i, s := range spans {
		parent, sent := server.ID, []string{"", first, second}[i]
		if i == 0 {
			parent = aSpan
		} else if want := "00-" + aTrace + "-" + s.ID + "-01"; sent != want {
			t.Errorf("try %d was told %s, want %s", i, sent, want)
		}
		if s.Trace != aTrace || s.Parent != parent || s.State != "a=1" || s.Name != "GET" || s.End < s.Start {
			t.Errorf("span %d: %+v, want parent %s", i, s, parent)
		}
		for k, v := range map[string]string{"service.name": "roster", "service.instance.id": "edge-1", "service.version": "1.2.3", "deployment.environment.name": "test"} {
			if s.Resource[k] != v {
				t.Errorf("span %d: resource's %s is %q, want %q", i, k, s.Resource[k], v)
			}
		}
	}
	for i, want := range []struct {
		kind, attributes, events string
		failed                   bool
	}{
		{"server", "client.address=192.0.2.7 http.request.method=GET http.response.status_code=404 network.peer.address=10.0.0.1 network.peer.port=50000 " +
			"network.protocol.version=1.1 roster.backend=web-2 roster.director=web roster.request_id=9f86d081 roster.retries=1 roster.revision=17 roster.route=www " +
			"server.address=www.test server.port=8080 url.path=/search url.scheme=https user_agent.original=curl/8.5", "", false},
		{"client", "error.type=refused http.request.method=GET roster.backend=web-1 server.address=10.0.0.7 server.port=8080", "slot", true},
		{"client", "error.type=404 http.request.method=GET http.request.resend_count=1 http.response.status_code=404 network.peer.address=10.0.0.8 network.peer.port=8080 " +
			"roster.backend=web-2 url.full=http://www.test/search url.scheme=http", "slot,sent,first byte", true},
	} {
		s := spans[i]
		if s.Kind != want.kind || s.Text() != want.attributes || strings.Join(s.Events, ",") != want.events || s.Error != want.failed {
			t.Errorf("span %d: %s %s\n events %q error %v\nwant %s", i, s.Kind, s.Text(), s.Events, s.Error, want.attributes)
		}
	}
	if s, ok := tracer.Stats(); !ok || s != (Stats{Exported: 3}) {
		t.Errorf("stats %+v, %v", s, ok)
	}
}

// Whatever bytes a client sends, its spans and those of others get there.
func TestBytesThatAreNoText(t *testing.T) {
	t.Parallel()
	c := tracingtest.New(t)
	tracer, err := New(Config{Endpoint: c.URL, Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(tracer)
	running(t, tracer)
	bad := []byte("/\xff\xfe\x00" + strings.Repeat("€", 3*maxText))
	var r Trace
	r.Begin(tracer, nil, false)
	r.Start(Request{Method: bad, Target: bad, Authority: bad, UserAgent: bad, ID: bad, Major: 2})
	r.BeginTry(Try{Method: bad, Backend: "a"})
	r.Sent(true, bad, bad)
	r.EndTry(Result{Failure: "closed"})
	r.End(Result{})
	stop()
	spans := c.Spans()
	if s, _ := tracer.Stats(); len(spans) != 2 || s.Failed > 0 {
		t.Fatalf("%d spans, %+v", len(spans), s)
	}
	if s := spans[0]; s.Parent != "" || s.Name != "HTTP" || s.Attributes["http.request.method"] != "_OTHER" || !strings.HasPrefix(s.Attributes["http.request.method_original"], "/\ufffd") {
		t.Errorf("%+v", s)
	}
	for _, s := range spans {
		for k, v := range s.Attributes {
			if n := len([]rune(v)); n > maxText+1 { // the SDK's count is off by one for U+FFFD
				t.Errorf("%s has %d characters", k, n)
			}
		}
	}
}

// exporter is one that does as it is told.
type exporter struct {
	hangs bool
	err   error
}

func (e exporter) ExportSpans(ctx context.Context, _ []sdk.ReadOnlySpan) error {
	if e.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return e.err
}

func (exporter) Shutdown(context.Context) error { return nil }

// spend makes n requests of one span each.
func spend(tracer *Tracer, n int) {
	for range n {
		var r Trace
		r.Begin(tracer, nil, false)
		r.Start(request())
		r.End(Result{Status: 200})
	}
}

// A collector that hangs costs spans, which are all counted, and neither a request's time nor
// more than two seconds of the end's.
func TestACollectorThatHangsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		tracer, err := newTracer(Config{Sample: 1, Logger: slog.New(slog.NewTextHandler(&logged, nil))}, exporter{hangs: true})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(tracer)
		synctest.Wait()
		began := time.Now()
		spend(tracer, queueSize()+1000)
		if took := time.Since(began); took != 0 { // the bubble's clock runs only while all wait
			t.Errorf("requests waited %v", took)
		}
		if s, _ := tracer.Stats(); s != (Stats{Dropped: 1000}) {
			t.Errorf("%+v", s)
		}
		stop()
		if took := time.Since(began); took != flushLimit {
			t.Errorf("the end took %v, want %v", took, flushLimit)
		}
		if s, _ := tracer.Stats(); s != (Stats{Dropped: 1000, Failed: uint64(queueSize())}) {
			t.Errorf("at the end %+v", s)
		}
		spend(tracer, 1) // after the end
		if s, _ := tracer.Stats(); s.Dropped != 1001 {
			t.Errorf("after the end %+v", s)
		}
		if n := strings.Count(logged.String(), "\n"); n < 1 || n > 2 || !strings.Contains(logged.String(), "spans were lost at the end") {
			t.Errorf("logged %d lines: %s", n, &logged)
		}
	})
}

// A dead collector is a line of the log a minute.
func TestADeadCollectorIsALineAMinute(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		why := errors.New("connection refused" + strings.Repeat(".", 1000))
		tracer, err := newTracer(Config{Sample: 1, Logger: slog.New(slog.NewTextHandler(&logged, nil))}, exporter{err: why})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(tracer)
		synctest.Wait()
		for range 150 { // seconds
			spend(tracer, 10)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if n := strings.Count(logged.String(), "\n"); n != 3 || !strings.Contains(logged.String(), `error="connection refused....`) || logged.Len() > 2000 {
			t.Errorf("%d lines in 2.5 minutes: %s", n, &logged)
		}
		stop()
		if s, _ := tracer.Stats(); s != (Stats{Failed: 1500}) {
			t.Errorf("%+v", s)
		}
	})
}

func TestNothingIsExportedWithoutAnEndpoint(t *testing.T) {
	t.Parallel()
	tracer, err := New(Config{On: true, Sample: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Run(context.Background()); err != nil {
		t.Error(err)
	}
	var r Trace
	if r.Begin(tracer, nil, false); r.Recorded() {
		t.Error("a span is wanted")
	}
	if s, ok := tracer.Stats(); ok {
		t.Errorf("stats %+v", s)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		config Config
		want   string // the error; empty for none
	}{
		{Config{}, ""},
		{Config{Endpoint: "http://127.0.0.1:4318", Sample: 1}, ""},
		{Config{Endpoint: "https://collector.test/prefix/v1/traces"}, ""},
		{Config{Sample: -0.1}, "tracing-sample is -0.1, want 0 (none) to 1 (all)"},
		{Config{Sample: 1.5}, "tracing-sample is 1.5, want 0 (none) to 1 (all)"},
		{Config{Sample: math.NaN()}, "tracing-sample is NaN, want 0 (none) to 1 (all)"},
		{Config{Endpoint: "127.0.0.1:4318"}, "otlp-endpoint: want a URL such as http://127.0.0.1:4318"},
		{Config{Endpoint: "grpc://127.0.0.1:4317"}, "otlp-endpoint: want a URL such as http://127.0.0.1:4318"},
		{Config{Endpoint: "http://:4318"}, "otlp-endpoint: want a URL such as http://127.0.0.1:4318"},
		{Config{Endpoint: "http://me:secret@h:4318"}, "otlp-endpoint: the URL has a user or password, want them in OTEL_EXPORTER_OTLP_HEADERS"},
		{Config{Endpoint: "http://h:4318/?key=secret"}, "otlp-endpoint: the URL has a query or fragment, want none; keys belong in OTEL_EXPORTER_OTLP_HEADERS"},
	} {
		err := row.config.Validate()
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%+v: %v, want %q", row.config, err, row.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%v has the secret", err)
		}
	}
	for in, want := range map[string]string{
		"http://h:4318": "http://h:4318/v1/traces", "http://h/": "http://h/v1/traces", "https://h/a": "https://h/a",
	} {
		if got, err := endpoint(in); got != want || err != nil {
			t.Errorf("endpoint(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}
