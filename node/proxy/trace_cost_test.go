//go:build !race

// The race detector allocates.

package proxy

import (
	"strings"
	"testing"

	"roster/node/tracing"
)

// TestTracingCostsNoMemory: nor a request that takes part in a trace and is not sampled,
// whoever began the trace.
func TestTracingCostsNoMemory(t *testing.T) {
	ln := benchOrigin(t, answerOf(1<<10))
	tracer, err := tracing.New(tracing.Config{Endpoint: "http://127.0.0.1:4318"})
	if err != nil {
		t.Fatal(err)
	}
	r := newRig(t, Config{Tracing: tracer}, definitions{"backends/a": `{"host": "` + ln.Addr().String() + `"}`})
	for name, request := range map[string]string{
		"new":       browserGet,
		"continued": strings.Replace(browserGet, "\r\n\r\n", "\r\ntraceparent: "+aParent+"\r\ntracestate: a=1,b=2\r\n\r\n", 1),
	} {
		c, raw := newBenchClient(t, r.addr), []byte(request)
		if n := testing.AllocsPerRun(500, func() {
			if err := c.do(raw, 1<<10); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: %v allocations per request", name, n)
		}
	}
}
