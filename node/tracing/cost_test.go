//go:build !race

// The race detector allocates.

package tracing

import "testing"

// TestNoAllocationsWithoutASpan: with tracing on, a request that is not sampled costs no
// memory, and without an export none does.
func TestNoAllocationsWithoutASpan(t *testing.T) {
	for _, sample := range []float64{0, 1} {
		for name, fields := range benchFields {
			tracer := &Tracer{sample: sample}
			r := new(Trace)
			if n := testing.AllocsPerRun(1000, func() { r.Begin(tracer, fields, false) }); n != 0 {
				t.Errorf("%s: %v allocations", name, n)
			}
		}
	}
}
