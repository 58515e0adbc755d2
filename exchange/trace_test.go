package exchange

import (
	"testing"

	"roster/store"
)

// TestTraceGoesOn: the client's traceparent and tracestate are a field as any other, unless
// the driver has ones to put in their place, even if Connection names them.
func TestTraceGoesOn(t *testing.T) {
	t.Parallel()
	const raw = "GET / HTTP/1.1\r\nHost: h\r\nConnection: traceparent, tracestate\r\nTraceParent: p\r\ntraceparent: q\r\ntracestate: s\r\ntracestate: t\r\n\r\n"
	p := newPlay(t, Config{}, "192.0.2.1")
	check(t, p.send(raw, nil, plainBackend), []string{"TraceParent: p", "traceparent: q", "tracestate: s", "tracestate: t"}, nil)

	p.step(p.begin(raw), Route)
	parent := []byte("ours-1")
	p.x.Trace(parent, []byte("a=1"))
	p.step(p.x.Routed(&store.Route{Retries: 1}, 7), Pick)
	p.step(p.x.Picked(plainBackend), Connect)
	p.step(p.x.Connected(false), Send)
	check(t, p.sent(), []string{"traceparent: ours-1", "tracestate: a=1"}, []string{"TraceParent", ": q", ": s", ": t"})

	// The next backend sees another.
	p.step(p.x.Failed(Failure{Kind: Refused}), Pick)
	copy(parent, "ours-2")
	p.step(p.x.Picked(plainBackend), Connect)
	p.step(p.x.Connected(false), Send)
	check(t, p.sent(), []string{"traceparent: ours-2", "tracestate: a=1"}, []string{"ours-1"})

	// Without a state there is none, and nothing of this is left for the next request.
	p.step(p.begin(raw), Route)
	p.x.Trace(parent, nil)
	p.step(p.x.Routed(nil, 7), Pick)
	p.step(p.x.Picked(plainBackend), Connect)
	p.step(p.x.Connected(false), Send)
	check(t, p.sent(), []string{"traceparent: ours-2"}, []string{"tracestate"})
	check(t, p.send(raw, nil, plainBackend), []string{"TraceParent: p"}, []string{"ours"})

	// A route's edits come last.
	p.step(p.begin(raw), Route)
	p.x.Trace(parent, nil)
	p.step(p.x.Routed(&store.Route{RequestHeaders: store.HeaderEdits{Remove: []string{"traceparent"}}}, 7), Pick)
	p.step(p.x.Picked(plainBackend), Connect)
	p.step(p.x.Connected(false), Send)
	check(t, p.sent(), nil, []string{"traceparent"})
}
