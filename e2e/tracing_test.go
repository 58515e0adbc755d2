package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/node/tracing/tracingtest"
)

const (
	traceID     = "4bf92f3577b34da6a3ce929d0e0e4736"
	traceParent = "00-" + traceID + "-00f067aa0ba902b7-01"
)

// getTraced asks a node for a path, with fields as pairs, over HTTP/1.1 or, without TLS, HTTP/2.
func getTraced(t *testing.T, two bool, url string, fields ...string) *http.Response {
	t.Helper()
	var p http.Protocols
	p.SetHTTP1(!two)
	p.SetUnencryptedHTTP2(two)
	transport := &http.Transport{Protocols: &p, TLSClientConfig: &tls.Config{}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), harness.WaitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Add(fields[i], fields[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp
}

// From a client by way of a node to an origin, the ids are one chain, and the collector has
// it: in a trace that the client began and in one of the node's own, over HTTP/1.1 and HTTP/2, with
// a retry. What it tells of the trace is in the access log, too. The end has the last spans.
func TestTracing(t *testing.T) {
	t.Parallel()
	c := tracingtest.New(t)
	log := filepath.Join(t.TempDir(), "access.log")
	node := harness.StartNode(t, harness.NodeConfig{ID: "edge-1", Args: []string{
		"--otlp-endpoint", c.URL, "--tracing-sample", "1", "--access-log", "json", "--access-log-file", log,
	}, Env: []string{"OTEL_EXPORTER_OTLP_HEADERS=x-key=secret", "OTEL_BSP_SCHEDULE_DELAY=100"}})
	dead, web := harness.StartOrigin(t, "dead"), harness.StartOrigin(t, "web-1")
	dead.Stop()
	node.Put("/roster/backends/dead", dead.Definition())
	node.Put("/roster/backends/web-1", web.Definition())
	node.Put("/roster/directors/first-dead", `{"type": "fallback", "backends": ["dead", "web-1"]}`)
	node.Put("/roster/routes/retry", `{"match": {"path": "/retry"}, "backend": "first-dead", "retries": 1}`)
	node.WaitRevision(node.Put("/roster/routes/web", `{"backend": "web-1"}`))

	var want []string // ids of traces, of ours by what the origin was told
	for _, two := range []bool{false, true} {
		for _, path := range []string{"/hello?secret", "/retry"} {
			for _, began := range []bool{true, false} {
				var fields []string
				if began {
					fields = []string{"traceparent", traceParent, "tracestate", "congo=1"}
				}
				if resp := getTraced(t, two, node.URL()+path, fields...); resp.StatusCode != 200 {
					t.Fatalf("%s: %s", path, resp.Status)
				}
				told := web.Last().Header
				parent := told.Get("Traceparent")
				spans := waitSpans(t, c, parent)
				for i, s := range spans {
					from := spans[0].ID
					switch {
					case i == 0 && began:
						from = traceParent[36:52]
					case i == 0:
						from = ""
					}
					if s.Trace != parent[3:35] || s.Parent != from || began && (s.Trace != traceID || s.State != "congo=1") {
						t.Errorf("%s: span %d is %+v, want parent %q", path, i, s, from)
					}
					if s.Resource["service.name"] != "roster" || s.Resource["service.instance.id"] != "edge-1" || strings.Contains(fmt.Sprint(s), "secret") {
						t.Errorf("%s: span %d is %+v", path, i, s)
					}
				}
				version := map[bool]string{false: "1.1", true: "2"}[two]
				if tries := 1 + strings.Count(path, "retry"); len(spans) != 1+tries || spans[0].Attributes["network.protocol.version"] != version {
					t.Errorf("%s: %d tries: %+v", path, tries, spans)
				}
				if last := spans[len(spans)-1]; "00-"+last.Trace+"-"+last.ID != parent[:52] || last.Attributes["roster.backend"] != "web-1" {
					t.Errorf("%s: the origin was told %s, the last try is %+v", path, parent, last)
				}
				if got := told.Get("Tracestate"); got != "" != began {
					t.Errorf("%s: tracestate %q", path, got)
				}
				want = append(want, parent[3:35])
			}
		}
	}
	if key := c.Requests()[0].Header.Get("X-Key"); key != "secret" {
		t.Errorf("the collector's key is %q", key)
	}

	// What waits for its time to be exported is exported at the end.
	before := len(c.Spans())
	getTraced(t, false, node.URL()+"/hello")
	want = append(want, web.Last().Header.Get("Traceparent")[3:35])
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n := len(c.Spans()) - before; n != 2 {
		t.Errorf("%d spans at the end, want 2", n)
	}
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(lines)) {
		var l struct {
			Trace string `json:"trace_id"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Trace)
	}
	slices.Sort(got)
	slices.Sort(want)
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("trace_id in the access log:\n%q, want\n%q", got, want)
	}
	if s := node.Log(); strings.Contains(s, "secret") {
		t.Errorf("the log has the collector's key: %s", s)
	}
}

// waitSpans waits for the spans of the request that an origin was told to be part of.
func waitSpans(t *testing.T, c *tracingtest.Collector, parent string) (spans []tracingtest.Span) {
	t.Helper()
	harness.Until(t, "the spans of "+parent, func() (bool, any) {
		all := c.Spans()
		var server string
		for _, s := range all {
			if "00-"+s.Trace+"-"+s.ID == parent[:min(len(parent), 52)] {
				server = s.Parent
			}
		}
		spans = nil
		for _, s := range all {
			if server != "" && (s.ID == server || s.Parent == server) {
				spans = append(spans, s)
			}
		}
		return len(spans) > 0 && spans[0].ID == server, all
	})
	return spans
}

// A collector that hangs slows no request down, and holds up the end by two seconds at most;
// what it did not take is counted.
func TestACollectorThatHangsHoldsNothingUp(t *testing.T) {
	t.Parallel()
	c := tracingtest.New(t)
	c.Hang()
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--otlp-endpoint", c.URL, "--tracing-sample", "1"},
		Env: []string{"OTEL_BSP_MAX_QUEUE_SIZE=100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE=50"}})
	web := harness.StartOrigin(t, "web-1")
	node.WaitRevision(node.Put(webKey, web.Definition()))
	loop := harness.StartLoop(t, node.URL(), 4)
	harness.Until(t, "spans to be dropped", func() (bool, any) {
		n := node.Metric(`roster_tracing_spans_total{result="dropped"}`)
		return n > 100, n
	})
	counts := loop.Stop()
	if counts.Failed() > 0 || len(c.Requests()) == 0 {
		t.Errorf("%+v, %d requests to the collector", counts, len(c.Requests()))
	}
	began := time.Now()
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the end took %v", took)
	}
	if s := node.Log(); !strings.Contains(s, "spans were lost at the end") {
		t.Errorf("not logged: %s", s)
	}
}

// Without tracing what a client sends goes on as it is, and nothing is begun; with it but
// without an export a traceparent is there, and anybody's wish to be sampled is not passed on
// but a trusted proxy's.
func TestTraceparentWithoutExport(t *testing.T) {
	t.Parallel()
	web := harness.StartOrigin(t, "web-1")
	off := harness.StartNode(t, harness.NodeConfig{})
	off.WaitRevision(off.Put(webKey, web.Definition()))
	on := harness.StartNode(t, harness.NodeConfig{Args: []string{"--tracing", "--tracing-sample", "0"}})
	on.WaitRevision(on.Put(webKey, web.Definition()))
	trusting := harness.StartNode(t, harness.NodeConfig{Args: []string{"--tracing", "--tracing-sample", "0", "--trusted-proxies", "127.0.0.0/8"}})
	trusting.WaitRevision(trusting.Put(webKey, web.Definition()))
	for _, row := range []struct {
		name           string
		node           *harness.Node
		parent, state  string
		begins, beyond string // of traceparent as the origin gets it: what it begins with, and ends with
		keeps          bool   // tracestate
	}{
		{"off", off, traceParent, "a=1", traceParent, "", true},
		{"off, not valid", off, "nonsense", "a", "nonsense", "", true},
		{"off, none", off, "", "", "", "", false},
		{"on", on, traceParent, "a=1", traceParent[:36], "-00", true},
		{"on, not valid", on, "ff" + traceParent[2:], "a=1", "00-", "-02", false},
		{"on, none", on, "", "", "00-", "-02", false},
		{"trusting", trusting, traceParent, "a=1", traceParent, "", true},
	} {
		var fields []string
		if row.parent != "" {
			fields = []string{"traceparent", row.parent, "tracestate", row.state}
		}
		getTraced(t, false, row.node.URL()+"/", fields...)
		h := web.Last().Header
		got, state := h.Get("Traceparent"), h.Get("Tracestate")
		if !strings.HasPrefix(got, row.begins) || !strings.HasSuffix(got, row.beyond) || row.begins == "" && got != "" || (state != "") != row.keeps {
			t.Errorf("%s: the origin got %q and %q", row.name, got, state)
		}
		if row.beyond != "" && strings.Contains(got, traceParent[36:52]) {
			t.Errorf("%s: the origin got %q, in the client's name", row.name, got)
		}
	}
}
