package watcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"roster/store"
)

// Watcher follows one prefix. Next is for one reader; Status is for anyone.
type Watcher struct {
	cfg      Config
	source   source
	queue    *queue
	pageSize int

	// What follows is owned by Run.

	state *state
	seen  int64  // nothing is missing from state up to here
	term  uint64 // highest raft term of a linearizable read of this history
	stale bool   // state must be compared with a new list
	held  hold
	since time.Time

	down    bool // etcd's loss was logged
	refused bool // and that it refuses us

	saved    func() *Saved // nil: none, or asked already
	deadline time.Time     // for etcd, before it is asked
	answered atomic.Bool   // the list under way has begun to come

	mu     sync.Mutex
	status Status // without Seen, which the queue knows
}

// New returns a watcher that has not begun. An error is about cfg.
func New(cfg Config) (*Watcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return newWatcher(cfg, etcd{cfg.Store.Client(), cfg.Store.Prefix(), cfg.Store.Tracked, cfg.Store.Unreachable}), nil
}

func newWatcher(cfg Config, source source) *Watcher {
	return &Watcher{
		cfg: cfg.withDefaults(), source: source, queue: newQueue(), pageSize: pageSize,
		state: newState(cfg.UnknownFields, cfg.Values), stale: true,
		saved: cfg.Saved, deadline: time.Now().Add(cfg.withDefaults().SavedAfter),
	}
}

// Next returns the next change, blocking until there is one. The first is the
// listed state as a whole, also if it is empty. A call says that the reader is
// done with the change before. It returns ctx's error when ctx ends, and no other.
func (w *Watcher) Next(ctx context.Context) (Change, error) { return w.queue.next(ctx) }

// Run follows the prefix until ctx ends, and returns nil then. Nothing that etcd
// does or fails to do ends it. Call it once.
//
//	            .--------------- empty, of a past or another cluster: held
//	            v                      |
//	list ---> proof <---.              |
//	  ^         |        \ lost, reopen|
//	  |  alien, |         \            |
//	  '-- compacted     watching ------'
//
// A session is one pass through that: a list if the state is stale, one stream, a
// proof that the stream is of the history we know, and then events until it ends.
func (w *Watcher) Run(ctx context.Context) error {
	w.since = time.Now()
	for attempt := 0; ; attempt++ {
		began := time.Now()
		proven, err := w.session(ctx)
		if ctx.Err() != nil {
			w.update(func(s *Status) { s.Connected, s.Error = false, "stopped" })
			return nil
		}
		w.ended(err)
		if proven && time.Since(began) > w.cfg.RetryMax { // else streams may be ending as they begin
			attempt = 0
		}
		pause := backoff(w.cfg.RetryMin, w.cfg.RetryMax, attempt)
		if w.saved != nil {
			if left := time.Until(w.deadline); left > 0 {
				pause = min(pause, left)
			} else {
				w.resume()
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// backoff is the pause before another attempt: it doubles from least to most, and
// half of it is random, so that a fleet does not come back in step.
func backoff(least, most time.Duration, attempt int) time.Duration {
	d := most
	if attempt < 20 && least<<attempt < most {
		d = least << attempt
	}
	return d/2 + rand.N(d/2+1)
}

// jitter spreads an interval by a fifth to both sides.
func jitter(d time.Duration) time.Duration { return d - d/5 + rand.N(d*2/5+1) }

// The ways in which a session ends while etcd is well.
var (
	errStale  = errors.New("what is known of etcd is out of date")
	errReopen = errors.New("the watch has to be opened anew")
	errHeld   = errors.New("an empty list is held")

	// And where it is not, but there may be something else to begin with.
	errUnanswered = errors.New("list: no answer within the time that a start gives it")
)

// session says whether it came so far as to prove that nothing is missing.
func (w *Watcher) session(parent context.Context) (proven bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel(nil)
	helpers.Go(func() { w.Explain(ctx) })

	if w.saved != nil {
		w.answered.Store(false)
		limit := time.AfterFunc(time.Until(w.deadline), func() {
			if !w.answered.Load() {
				cancel(errUnanswered)
			}
		})
		defer limit.Stop()
	}
	if w.stale {
		if err := w.list(ctx); err != nil {
			return false, err
		}
	}

	// Twice the usual: with a password, etcd hashes it first, which is slow on purpose.
	patience := 2 * w.cfg.ProofTimeout
	limit := time.AfterFunc(patience, func() { cancel(fmt.Errorf("watch: no answer within %v", patience)) })
	defer limit.Stop()
	s, err := w.source.watch(ctx, w.state.at+1)
	if err != nil {
		return false, because(ctx, fmt.Errorf("watch: %w", err))
	}
	w.update(func(s *Status) { s.Streams++ })
	received := make(chan reception)
	helpers.Go(func() { receive(ctx, s, received) })
	var first reception
	select {
	case first = <-received:
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
	if first.err != nil || !limit.Stop() {
		return false, because(ctx, fmt.Errorf("watch: %w", first.err))
	}
	if first.canceled != nil {
		// Maybe the server has forgotten our login, which a read renews and a stream not.
		if _, err := w.prove(ctx); errors.Is(err, errStale) {
			return false, err
		}
		return false, fmt.Errorf("watch: %w", first.canceled)
	}
	if !first.created {
		return false, errors.New("watch: etcd sent something else before the watch was created")
	}
	current, err := w.prove(ctx)
	if err != nil {
		return false, err
	}
	if err := w.recount(ctx); err != nil {
		return false, err
	}
	w.connected(s.endpoint())
	err = w.follow(ctx, s, received, &current)
	return current, err
}

// because returns why ctx ended, or err while it lasts, or if it says why there is no etcd.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil && !errors.Is(err, store.ErrUnavailable) {
		return context.Cause(ctx)
	}
	return err
}
