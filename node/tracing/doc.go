// Package tracing takes part in distributed traces: it reads and writes traceparent and
// tracestate (W3C Trace Context) and exports spans with OpenTelemetry's SDK.
//
//	tracer, err := tracing.New(tracing.Config{Endpoint: "http://127.0.0.1:4318", Sample: 0.01})
//	go tracer.Run(ctx)
//
//	var t tracing.Trace
//	t.Begin(tracer, request.Fields, trusted) // now t.Parent and t.State are for the backend
//	if t.Recorded() {
//		t.Start(tracing.Request{...})
//	}
//	t.BeginTry(...)                          // and Parent names the span of this try
//	t.EndTry(...)
//	t.End(...)
//
// A request that is not sampled costs the reading of its fields and a random number, and
// no memory. One that is sampled has a span for itself and one for each try.
//
// docs/TRACING.md says what users can rely on.
//
// # Concurrency
//
// A Tracer may be used from any goroutine. A Trace belongs to its request.
package tracing
