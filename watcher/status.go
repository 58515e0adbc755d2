package watcher

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"roster/store"
)

// Status is a copy of what the watcher knows of itself. Taking one is cheap.
type Status struct {
	// Connected: a watch is open on a history that proved to be the expected one.
	// False while an empty list is held.
	Connected bool

	// Seen is the newest revision up to which nothing is missing from the changes
	// that the reader has done with (it is done with a change when it asks for the
	// next). It moves on events and on proofs, also with writes outside the prefix,
	// and goes back only with etcd's history. 0 before the first change.
	Seen int64

	// Listed is the revision of the newest list with which the reader is done: one that
	// found no difference counts, too, of which there is no change. It is not moved by
	// what others write. Compaction may leave nothing else of a change that was undone. 0
	// before the first.
	Listed int64

	// Fresh is the newest moment of which it is proven that every change committed
	// before it, as far as the member of etcd watched knows, has been received. In
	// good times it trails the present by at most about a ProofInterval. Zero before
	// the first proof; it stands still while etcd is lost or a list is held.
	Fresh time.Time

	// Resumed: the state is the one that was saved (see Config.Saved), and etcd has not
	// been listed since.
	Resumed bool

	// Endpoint is the address of the member of etcd watched now, or last.
	Endpoint string

	// Error is why there is no connection; empty if Connected.
	Error string

	// Held, if not empty, says why an empty list is not believed, and what releases it.
	Held string
	// HeldRevision is the one to acknowledge, to have that list believed, and HeldSince
	// when it was first held. Zero while none is.
	HeldRevision int64
	HeldSince    time.Time

	// Cluster is the id of the etcd cluster that the state is from; 0 before the first list.
	Cluster uint64

	Keys     int   // definitions in etcd under the prefix, the rejected included
	Rejected int   // of them, those whose newest value is invalid
	Ignored  int   // keys of no known kind under the prefix
	Ack      int64 // the revision up to which the prefix's key "ack" acknowledges; 0 without one
	Relists  int64 // lists completed after the first
	Streams  int64 // watch streams opened
}

// Status returns a copy of the watcher's view of itself.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := w.status
	status.Seen, status.Listed = w.queue.progress(), w.queue.lists()
	return status
}

// saw notes that nothing is missing up to a revision.
func (w *Watcher) saw(revision int64) {
	w.seen = revision
	w.queue.advance(revision)
}

func (w *Watcher) update(f func(*Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f(&w.status)
}

func (w *Watcher) count(s *Status) {
	s.Cluster = w.state.cluster
	s.Keys, s.Rejected, s.Ignored, s.Ack = len(w.state.keys), w.state.rejected, w.state.ignored(), w.state.ack
}

// fresh notes that what etcd had at a moment is known.
func (w *Watcher) fresh(at time.Time) {
	w.update(func(s *Status) {
		if at.After(s.Fresh) {
			s.Fresh = at
		}
	})
	w.cfg.Changed()
}

func (w *Watcher) connected(endpoint string) {
	w.update(func(s *Status) { s.Connected, s.Error, s.Endpoint = true, "", endpoint })
	if w.down {
		w.down, w.refused = false, false
		w.cfg.Logger.Info("etcd is back", "endpoint", endpoint, "revision", w.seen, "away", time.Since(w.since).Round(time.Millisecond))
	}
}

// Explain notes in the status why there is no etcd as soon as that is known, while requests
// still wait for a connection. It returns then, or when ctx ends. Run does it by itself.
func (w *Watcher) Explain(ctx context.Context) {
	if err := w.source.unreachable(ctx); err != nil {
		w.update(func(s *Status) {
			if !s.Connected {
				s.Error = err.Error()
			}
		})
	}
}

// ended notes how a session ended.
func (w *Watcher) ended(err error) {
	switch {
	case errors.Is(err, errHeld):
		w.update(func(s *Status) { s.Connected, s.Error = false, err.Error() })
	case errors.Is(err, errReopen), errors.Is(err, errStale):
		w.cfg.Logger.Debug("watching anew", "reason", err)
	default:
		w.update(func(s *Status) { s.Connected, s.Error = false, err.Error() })
		if !w.down {
			w.down, w.since = true, time.Now()
			if w.seen == 0 {
				w.cfg.Logger.Warn("etcd is not reachable: nothing is known yet", "error", err)
			} else {
				w.cfg.Logger.Warn("etcd is not reachable: keeping what is known", "error", err, "revision", w.seen)
			}
			w.refused = denied(err)
		} else if denied(err) && !w.refused { // it is there again, and that will not mend by itself
			w.refused = true
			w.cfg.Logger.Warn("etcd refuses: keeping what is known", "error", err, "revision", w.seen)
		}
	}
}

// denied says whether etcd refuses us for who we are.
func denied(err error) bool {
	for _, refusal := range []error{store.ErrDenied, rpctypes.ErrPermissionDenied, rpctypes.ErrAuthFailed, rpctypes.ErrUserEmpty, rpctypes.ErrInvalidAuthToken} {
		if errors.Is(err, refusal) {
			return true
		}
	}
	return false
}
