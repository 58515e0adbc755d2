package tracing

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// spans are those that have ended and are not exported yet. They are bounded here rather
// than by the SDK's batch processor, which drops what it has no room for without telling
// how much. It is a processor, before the batch processor, and an exporter, behind it.
type spans struct {
	to     sdk.SpanExporter
	most   int64
	logger *slog.Logger

	batches atomic.Pointer[sdk.SpanProcessor] // nil while Run is not under way
	waiting atomic.Int64
	abort   chan struct{} // closed: exports are given up
	ended   chan struct{} // closed: there are no more

	exported, failed, dropped atomic.Uint64

	reported time.Time // of report, which only exports call
	told     uint64
}

func newSpans(to sdk.SpanExporter, most int, logger *slog.Logger) *spans {
	return &spans{to: to, most: int64(most), logger: logger, abort: make(chan struct{}), ended: make(chan struct{})}
}

func (s *spans) run(ctx context.Context) {
	batches := sdk.NewBatchSpanProcessor(s, sdk.WithMaxQueueSize(int(s.most)))
	s.batches.Store(&batches)
	<-ctx.Done()
	s.batches.Store(nil)
	limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
	defer cancel()
	if err := batches.Shutdown(limit); err != nil {
		close(s.abort)
		<-s.ended
	}
	if lost := s.failed.Load() + s.dropped.Load(); lost > s.told {
		s.logger.Warn("tracing: spans were lost at the end", "spans", lost-s.told)
	}
}

// OnStart is the processor's.
func (s *spans) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd is the processor's. It never waits.
func (s *spans) OnEnd(span sdk.ReadOnlySpan) {
	batches := s.batches.Load()
	if batches == nil {
		s.dropped.Add(1)
		return
	}
	if s.waiting.Add(1) > s.most {
		s.waiting.Add(-1)
		s.dropped.Add(1)
		return
	}
	(*batches).OnEnd(span) // has room for as many
}

// ForceFlush is the processor's, and of no use here.
func (s *spans) ForceFlush(context.Context) error { return nil }

// ExportSpans is the exporter's. Its errors end here: the SDK would print them.
func (s *spans) ExportSpans(ctx context.Context, batch []sdk.ReadOnlySpan) error {
	defer s.waiting.Add(-int64(len(batch)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	exported := make(chan struct{})
	defer close(exported)
	go func() {
		select {
		case <-s.abort:
			cancel()
		case <-exported:
		}
	}()
	err := s.to.ExportSpans(ctx, batch)
	if err != nil {
		s.failed.Add(uint64(len(batch)))
	} else {
		s.exported.Add(uint64(len(batch)))
	}
	s.report(err)
	return nil
}

// reportPause is how often it is logged at most that spans are lost.
const reportPause = time.Minute

func (s *spans) report(err error) {
	lost := s.failed.Load() + s.dropped.Load()
	if lost == s.told || !s.reported.IsZero() && time.Since(s.reported) < reportPause {
		return
	}
	if err == nil {
		err = errors.New("they come faster than the collector takes them")
	}
	s.logger.Warn("tracing: spans are lost", "spans", lost-s.told, "error", brief(err))
	s.reported, s.told = time.Now(), lost
}

// brief is an error's text, which may have a whole answer of the collector in it.
func brief(err error) string {
	const most = 500
	text := err.Error()
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}

// Shutdown is both the processor's, by the provider, which nobody shuts down, and the
// exporter's, after the last export.
func (s *spans) Shutdown(ctx context.Context) error {
	defer close(s.ended)
	return s.to.Shutdown(ctx)
}
