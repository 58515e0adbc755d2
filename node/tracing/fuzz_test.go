package tracing

import (
	"bytes"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

// What is sent on is valid whatever came, says the same again when it is read, and what
// OpenTelemetry reads of a tracestate that it accepts is what was sent.
func FuzzBegin(f *testing.F) {
	f.Add(usual, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7", "", true)
	f.Add("cc-"+aTrace+"-"+aSpan+"-01-more", "a=1", "b=2", false)
	f.Add("00-"+aTrace+"-"+aSpan+"-00", strings.Repeat("k", 200)+"="+strings.Repeat("v", 200), "a="+strings.Repeat("v", 200), false)
	f.Add("ff-"+aTrace+"-"+aSpan+"-01", "a=1,a=2", "", true)
	f.Add("", "a = 1", "t@s=\t", false)
	f.Fuzz(func(t *testing.T, parent, state1, state2 string, trusted bool) {
		fields := head("traceparent", parent, "tracestate", state1, "tracestate", state2)
		if state2 == "" {
			fields = fields[:2]
		}
		var r Trace
		r.Begin(&Tracer{}, fields, trusted)
		came, ok := Parse([]byte(parent))
		sent, valid := Parse(r.Parent())
		switch {
		case !valid || len(r.Parent()) != parentSize || !bytes.HasPrefix(r.Parent(), []byte("00-")):
			t.Fatalf("sent %q", r.Parent())
		case ok && came.Trace != sent.Trace:
			t.Errorf("%q leaves the trace of %q", r.Parent(), parent)
		case ok && (came.Parent == sent.Parent) != (came.Flags == sent.Flags):
			t.Errorf("%q is sent as %q", parent, r.Parent())
		case !trusted && sent.Flags&Sampled != 0:
			t.Errorf("sampled by somebody's wish: %q", r.Parent())
		case !ok && r.State() != nil:
			t.Errorf("tracestate %q without a valid traceparent", r.State())
		}
		if len(r.State()) == 0 {
			return
		}
		if len(r.State()) > maxState {
			t.Errorf("%d bytes of tracestate", len(r.State()))
		}
		if again := state(head("tracestate", string(r.State()))); !bytes.Equal(again, r.State()) {
			t.Errorf("%q becomes %q, and that %q", state1, r.State(), again)
		}
		if theirs, err := trace.ParseTraceState(string(r.State())); err == nil && strings.Count(string(r.State()), "=") != theirs.Len() {
			t.Errorf("%q is %q to them", r.State(), theirs)
		}
	})
}
