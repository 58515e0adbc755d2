package watcher

import (
	"context"
	"fmt"
	"time"
)

// reception is a message with its time, or the end of the stream.
type reception struct {
	message
	at  time.Time
	err error
}

// receive hands over what the stream brings, one by one: a reader that does not
// take them stops the stream by gRPC's flow control. It ends with the stream.
func receive(ctx context.Context, s stream, received chan<- reception) {
	for {
		m, err := s.recv()
		select {
		case received <- reception{m, time.Now(), err}:
		case <-ctx.Done():
			if err == nil {
				continue // recv fails soon: the stream ends with ctx
			}
		}
		if err != nil {
			return
		}
	}
}

// follow takes in what a stream of our history brings until it ends. proven is set
// once nothing is missing.
func (w *Watcher) follow(ctx context.Context, s stream, received <-chan reception, proven *bool) error {
	var (
		group grouper
		asked time.Time // when progress was asked for; zero: it was answered
		heard bool      // something came since
		stop  bool      // the reader has too much to do
	)
	wait := time.Duration(0)
	if *proven {
		wait = jitter(w.cfg.ProofInterval)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	take := func(r reception) error {
		if r.err != nil {
			return because(ctx, fmt.Errorf("watch: %w", r.err))
		}
		heard = true
		if err := w.take(ctx, r, &group); err != nil {
			return err
		}
		if r.progress() && !asked.IsZero() {
			w.fresh(asked)
			*proven, asked = true, time.Time{}
			timer.Reset(jitter(w.cfg.ProofInterval))
		}
		return nil
	}
	for {
		incoming, due := received, timer.C
		if full := w.queue.full(); full {
			incoming, due, stop = nil, nil, true
		} else if stop {
			stop, asked = false, time.Time{}
			timer.Reset(0)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.queue.room:
		case r := <-incoming:
			if err := take(r); err != nil {
				return err
			}
		case <-due:
			if !asked.IsZero() && !heard {
				select {
				case r := <-received: // it was only we who were late
					if err := take(r); err != nil {
						return err
					}
				default:
					if err := w.doubt(ctx); err != nil {
						return err
					}
					*proven, asked = true, time.Time{}
					timer.Reset(jitter(w.cfg.ProofInterval))
					continue
				}
				if asked.IsZero() {
					continue
				}
			}
			asked, heard = time.Now(), false
			if err := s.askProgress(); err != nil {
				return because(ctx, fmt.Errorf("watch: %w", err))
			}
			timer.Reset(w.cfg.ProofTimeout)
		}
	}
}

// take takes in one message of a proven stream.
func (w *Watcher) take(ctx context.Context, r reception, group *grouper) error {
	if r.cluster != 0 && r.cluster != w.state.cluster {
		return w.alien("the watch is answered by cluster %x, not %x", r.cluster, w.state.cluster)
	}
	if r.compacted > 0 {
		return w.compacted(ctx, r.compacted)
	}
	if r.canceled != nil {
		return fmt.Errorf("watch: %w", r.canceled)
	}
	if r.progress() {
		if r.revision < w.state.at {
			return w.alien("the watch is at revision %d, after %d", r.revision, w.state.at)
		}
		if r.revision > w.seen {
			w.saw(r.revision)
		}
		return nil
	}
	group.add(r.events, r.fragment, r.at, func(revision int64, events []entry, at time.Time) {
		if revision <= w.state.at {
			return // asked for from the next on
		}
		bad := w.state.badAck
		change, ok := w.state.apply(revision, events)
		w.tellBadAck(bad)
		if ok {
			change.Received = at
			w.queue.push(change)
		}
		w.saw(max(revision, w.seen))
	})
	w.update(w.count)
	return nil
}
