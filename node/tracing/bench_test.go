package tracing

import (
	"testing"

	"roster/message"
)

var benchFields = map[string][]message.Field{
	"new":       head("Host", "www.test", "Accept", "*/*"),
	"continued": head("Host", "www.test", "traceparent", usual, "tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"),
}

// BenchmarkBegin is what a request pays that is not sampled.
func BenchmarkBegin(b *testing.B) {
	for name, fields := range benchFields {
		b.Run("trace="+name, func(b *testing.B) {
			tracer := &Tracer{sample: 0.01}
			var r Trace
			b.ReportAllocs()
			for b.Loop() {
				r.Begin(tracer, fields, false)
			}
		})
	}
}
