package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"roster/prober"
)

// healthLines is how many lines about backends that went sick or healthy are logged
// at a time; of more there is a count.
const healthLines = 20

// healthPause is the time from one such time to the next.
const healthPause = time.Second

// healthLog logs changes of verdicts, each once, at a bounded rate.
type healthLog struct {
	logger *slog.Logger
	wake   chan struct{}

	mu            sync.Mutex
	pending       []prober.Transition // at most healthLines
	sick, healthy int                 // more, that get no line of their own
}

func newHealthLog(logger *slog.Logger) *healthLog {
	return &healthLog{logger: logger, wake: make(chan struct{}, 1)}
}

// note has t logged. It does not block.
func (l *healthLog) note(t prober.Transition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.pending) < healthLines:
		l.pending = append(l.pending, t)
	case t.Healthy:
		l.healthy++
	default:
		l.sick++
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// run logs until ctx ends, and what is left then.
func (l *healthLog) run(ctx context.Context) error {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			l.flush()
			return nil
		case <-l.wake:
		}
		l.flush()
		pause.Reset(healthPause)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

func (l *healthLog) flush() {
	l.mu.Lock()
	pending, sick, healthy := l.pending, l.sick, l.healthy
	l.pending, l.sick, l.healthy = nil, 0, 0
	l.mu.Unlock()
	for _, t := range pending {
		said := "went sick"
		if t.Healthy {
			said = "went healthy"
		}
		attrs := []any{"backend", t.Name}
		if t.Stage != "" {
			attrs = append(attrs, "stage", t.Stage)
		}
		l.logger.Info(said, append(attrs, "text", t.Text, "good", t.Good, "window", t.Judge.Window, "threshold", t.Judge.Threshold, "at", t.At)...)
	}
	if sick+healthy > 0 {
		l.logger.Info("more backends changed health", "went_sick", sick, "went_healthy", healthy)
	}
}

// ask waits for the first answers of the probes of the first table, at most for
// ReadyTimeout, and then says that the node is ready.
func (n *Node) ask(ctx context.Context) error {
	select {
	case <-n.applied:
	case <-ctx.Done():
		return nil
	}
	if limit := n.config.ReadyTimeout; limit > 0 {
		limited, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if n.probers.Answered(limited) != nil && ctx.Err() == nil {
			n.config.Logger.Warn("ready, though not all probes have answered", "ready_timeout", limit)
		}
	}
	close(n.ready)
	n.presence.Changed()
	if !n.draining.Load() { // which has had its say
		n.notify("READY=1\nSTATUS=" + n.servingAt())
	}
	return nil
}
