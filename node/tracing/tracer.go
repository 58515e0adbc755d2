package tracing

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// A Tracer decides which requests are sampled and exports their spans.
type Tracer struct {
	sample   float64
	logger   *slog.Logger
	provider *sdk.TracerProvider // nil: nothing is exported
	tracer   trace.Tracer
	spans    *spans
}

// New returns a Tracer for a config that is valid, as far as the environment (OTEL_...) is,
// too. It starts nothing: see Run.
func New(c Config) (*Tracer, error) {
	if c.Endpoint == "" {
		return &Tracer{sample: c.Sample}, nil
	}
	at, err := endpoint(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("tracing: otlp-endpoint: %w", err)
	}
	to, err := otlptracehttp.New(context.Background(), otlptracehttp.WithEndpointURL(at))
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	return newTracer(c, to)
}

// newTracer returns one that exports to any exporter.
func newTracer(c Config, to sdk.SpanExporter) (*Tracer, error) {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	about := []attribute.KeyValue{semconv.ServiceName("roster")}
	if c.Version != "" {
		about = append(about, semconv.ServiceVersion(c.Version))
	}
	if c.Node != "" {
		about = append(about, semconv.ServiceInstanceID(c.Node))
	}
	// What the environment says comes later, and wins.
	res, err := resource.New(context.Background(), resource.WithSchemaURL(semconv.SchemaURL),
		resource.WithTelemetrySDK(), resource.WithAttributes(about...), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("tracing: OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	limits := sdk.NewSpanLimits() // by the environment
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = maxText
	}
	t := &Tracer{sample: c.Sample, logger: c.Logger, spans: newSpans(to, queueSize(), c.Logger)}
	t.provider = sdk.NewTracerProvider(sdk.WithResource(res), sdk.WithRawSpanLimits(limits),
		sdk.WithSampler(sdk.AlwaysSample()), // only what is sampled becomes a span
		sdk.WithSpanProcessor(t.spans))
	t.tracer = t.provider.Tracer("roster", trace.WithInstrumentationVersion(c.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return t, nil
}

// maxText is how many characters a text in a span has at most.
const maxText = 2048

// queueSize is how many spans may wait for their export: some megabytes, and a fifth of a
// second of 10,000 requests/s of which all are sampled.
func queueSize() int {
	if n, err := strconv.Atoi(os.Getenv("OTEL_BSP_MAX_QUEUE_SIZE")); err == nil && n > 0 {
		return n
	}
	return 4096
}

// draw decides whether a request is sampled. The trace's id has no say: a client could
// choose one that always is.
func (t *Tracer) draw() bool { return rand.Float64() < t.sample }

// newTrace and newSpan make ids.
func newTrace() (id [16]byte) {
	for id == ([16]byte{}) {
		binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
		binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	}
	return id
}

func newSpan() (id [8]byte) {
	for id == ([8]byte{}) {
		binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	}
	return id
}

// flushLimit is how long the end waits for a collector to take the last spans.
const flushLimit = 2 * time.Second

// Run exports spans until ctx ends, and then those that are left, for which it waits 2 s at
// most: what a collector has not taken by then is lost, and counted. Before Run, and after,
// spans are dropped. It returns nil, at once if nothing is exported. Call it once.
func (t *Tracer) Run(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	t.spans.run(ctx)
	return nil
}

// Stats are counters since New.
type Stats struct {
	Exported uint64 // spans that the collector has taken
	Failed   uint64 // that it refused, one of the same batch included, or that did not get there
	Dropped  uint64 // for which there was no room, because the collector takes them too slowly
}

// Stats returns the counters; ok is false if nothing is exported.
func (t *Tracer) Stats() (s Stats, ok bool) {
	if t.provider == nil {
		return Stats{}, false
	}
	return Stats{t.spans.exported.Load(), t.spans.failed.Load(), t.spans.dropped.Load()}, true
}
