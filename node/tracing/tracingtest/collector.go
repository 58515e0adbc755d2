// Package tracingtest has a collector of spans for tests: it takes OTLP in protocol buffers
// over HTTP, keeps what it got, and can be as bad as collectors are.
package tracingtest

import (
	"compress/gzip"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A Collector keeps the spans that it is sent. Its methods may be called from any goroutine.
type Collector struct {
	// URL is that of the server, without a path.
	URL string

	mu       sync.Mutex
	spans    []Span
	requests []*http.Request // without their bodies
	hang     chan struct{}   // closed at the test's end; nil: it answers
	status   int             // 0: 200
	changed  chan struct{}   // closed at each change
}

// A Span is one that came, with ids in hexadecimal digits.
type Span struct {
	Trace, ID, Parent string // Parent is empty for a root
	State, Name       string
	Kind              string // "server", "client"
	Attributes        map[string]string
	Resource          map[string]string
	Events            []string
	Error             bool // its status
	Start, End        uint64
}

// New starts a collector that ends with the test.
func New(t testing.TB) *Collector {
	c := &Collector{changed: make(chan struct{})}
	end := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { c.serve(t, w, r, end) }))
	c.URL = s.URL
	t.Cleanup(func() {
		close(end)
		s.Close()
	})
	return c
}

// Hang has the collector take requests and never answer.
func (c *Collector) Hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hang = make(chan struct{})
}

// Answer has it refuse what comes with a status; 200 ends that.
func (c *Collector) Answer(status int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.status = status
}

func (c *Collector) serve(t testing.TB, w http.ResponseWriter, r *http.Request, end <-chan struct{}) {
	spans, err := read(r)
	if err != nil {
		t.Errorf("collector: %v", err)
	}
	c.mu.Lock()
	hang, status := c.hang, c.status
	c.requests = append(c.requests, r)
	if hang == nil && status == 0 {
		c.spans = append(c.spans, spans...)
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	if hang != nil {
		select {
		case <-end:
		case <-r.Context().Done():
		}
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	if status != 0 {
		w.WriteHeader(status)
	}
}

func read(r *http.Request) (spans []Span, err error) {
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(body); err != nil {
			return nil, err
		}
	}
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-protobuf" {
		return nil, fmt.Errorf("%s with Content-Type %q", r.Method, r.Header.Get("Content-Type"))
	}
	var request collector.ExportTraceServiceRequest
	if err := proto.Unmarshal(raw, &request); err != nil {
		return nil, err
	}
	for _, resource := range request.ResourceSpans {
		about := attributes(resource.Resource.GetAttributes())
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				span := Span{
					Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
					State: s.TraceState, Name: s.Name, Kind: map[otlp.Span_SpanKind]string{otlp.Span_SPAN_KIND_SERVER: "server", otlp.Span_SPAN_KIND_CLIENT: "client"}[s.Kind],
					Attributes: attributes(s.Attributes), Resource: about,
					Error: s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR, Start: s.StartTimeUnixNano, End: s.EndTimeUnixNano,
				}
				for _, e := range s.Events {
					span.Events = append(span.Events, e.Name)
				}
				spans = append(spans, span)
			}
		}
	}
	return spans, nil
}

func attributes(all []*common.KeyValue) map[string]string {
	m := make(map[string]string)
	for _, a := range all {
		switch v := a.Value.GetValue().(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = fmt.Sprint(v.IntValue)
		default:
			m[a.Key] = fmt.Sprint(a.Value)
		}
	}
	return m
}

// Spans are those that came, in the order of their beginning, parents first.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return inOrder(c.spans)
}

func inOrder(all []Span) []Span {
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b Span) int {
		switch {
		case a.Start != b.Start && a.Start < b.Start || a.Start == b.Start && b.Parent == a.ID:
			return -1
		case a.Start != b.Start || a.Parent == b.ID:
			return 1
		}
		return 0
	})
	return all
}

// Requests are those that came, whatever was answered.
func (c *Collector) Requests() []*http.Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Changed is closed when something came since it was asked for.
func (c *Collector) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Text is the attributes as "name=value" in the order of their names.
func (s Span) Text() string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(s.Attributes)) {
		all = append(all, k+"="+s.Attributes[k])
	}
	return strings.Join(all, " ")
}
