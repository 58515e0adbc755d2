package watcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// compacted deals with a watch that cannot be had from where we are: if nothing
// under the prefix was touched since, it is had from the present on.
func (w *Watcher) compacted(ctx context.Context, revision int64) error {
	same, err := w.unchanged(ctx)
	if err != nil {
		return err
	}
	if same {
		w.queue.list(w.state.at) // as good as one: what was done and undone meanwhile nobody tells any more
		return errReopen
	}
	w.stale = true
	w.cfg.Logger.Info("etcd compacted changes not seen yet: listing again", "seen", w.seen, "compacted", revision)
	return errStale
}

// doubt judges a stream that is silent although asked. Nil: nothing is missing.
func (w *Watcher) doubt(ctx context.Context) error {
	current, err := w.prove(ctx)
	if err != nil || current {
		return err
	}
	// Something was written, maybe elsewhere, and we were not told of it.
	same, err := w.unchanged(ctx)
	if err == nil && !same {
		return errReopen
	}
	return err
}

// unchanged asks etcd whether the keys are what they were at state.at, given that
// its history is ours, and if so goes on from the moment of asking.
func (w *Watcher) unchanged(ctx context.Context) (bool, error) {
	at := time.Now()
	ctx, cancel := context.WithTimeout(ctx, w.cfg.ListTimeout)
	defer cancel()
	count, touched, h, err := w.source.survey(ctx, w.state.at)
	if err != nil {
		return false, fmt.Errorf("survey: %w", err)
	}
	if err := w.check(h); err != nil {
		return false, err
	}
	// No key is new or changed, so a deletion would show in the count.
	if touched || count != w.state.size() {
		return false, nil
	}
	w.state.at = h.revision
	w.saw(h.revision)
	w.fresh(at)
	return true, nil
}

// prove reads, linearizably, whether etcd's history is the one we know. It is
// current if nothing at all was written since.
func (w *Watcher) prove(parent context.Context) (current bool, err error) {
	at := time.Now()
	ctx, cancel := context.WithTimeout(parent, w.cfg.ProofTimeout)
	defer cancel()
	h, verdict, err := w.compare(ctx, w.landmarks())
	if errors.Is(err, errStale) {
		return false, err
	}
	if err != nil {
		return false, because(parent, fmt.Errorf("proof: %w", err))
	}
	if err := w.check(h); err != nil {
		return false, err
	}
	if verdict != ours {
		return false, w.alien("nothing shows that its history is the one known up to revision %d", w.seen)
	}
	if h.revision != w.seen {
		return false, nil
	}
	w.fresh(at)
	return true, nil
}

// recount compares the number of keys at state.at, where compaction has left it:
// another history that repeats what the marks know may have more in its revisions.
func (w *Watcher) recount(parent context.Context) error {
	ctx, cancel := context.WithTimeout(parent, w.cfg.ListTimeout)
	defer cancel()
	switch count, err := w.source.count(ctx, w.state.at); {
	case errors.Is(err, rpctypes.ErrCompacted):
		return nil
	case err != nil:
		return because(parent, fmt.Errorf("proof: %w", err))
	case count != w.state.size():
		return w.alien("it had %d keys at revision %d, not %d", count, w.state.at, w.state.size())
	}
	return nil
}

// compare reads the keys of marks and judges them: as they were when we knew all,
// or as they are, if compaction took that. Without any mark there must be no key.
func (w *Watcher) compare(ctx context.Context, marks marks) (header, verdict, error) {
	if len(marks) == 0 {
		p, err := w.source.page(ctx, "", w.pageSize, 0)
		if err != nil {
			return header{}, alien, err
		}
		for _, e := range p.entries {
			if e.mod <= w.seen {
				return p.header, alien, nil
			}
		}
		return p.header, ours, nil
	}
	keys := make([]string, len(marks))
	for i, m := range marks {
		keys[i] = m.key
	}
	then, h, err := w.source.read(ctx, keys, w.state.at)
	switch {
	case err == nil:
		return h, marks.exact(then), nil
	case errors.Is(err, rpctypes.ErrFutureRev):
		return header{}, alien, w.alien("revision %d is in its future", w.state.at)
	case !errors.Is(err, rpctypes.ErrCompacted):
		return header{}, alien, err
	}
	now, h, err := w.source.read(ctx, keys, 0)
	if err != nil {
		return header{}, alien, err
	}
	return h, marks.judge(now, w.seen), nil
}

// check holds the header of a linearizable read against the history we know.
func (w *Watcher) check(h header) error {
	switch {
	case h.cluster != w.state.cluster:
		return w.alien("cluster is %x, was %x", h.cluster, w.state.cluster)
	case h.revision < w.seen:
		return w.alien("revision is %d, after %d", h.revision, w.seen)
	case h.term < w.term:
		return w.alien("raft term is %d, after %d", h.term, w.term)
	}
	w.term = h.term
	return nil
}

// alien notes that etcd's history is not ours.
func (w *Watcher) alien(format string, args ...any) error {
	w.stale = true
	reason := fmt.Sprintf(format, args...)
	w.cfg.Logger.Warn("etcd was replaced or restored: listing again", "reason", reason)
	return fmt.Errorf("%w: %s", errStale, reason)
}

// landmarks are the marks, with a key among them that is present if there is any.
func (w *Watcher) landmarks() marks {
	marks := w.state.marks
	if !marks.anchored() {
		if anchor, ok := w.state.anchor(); ok {
			marks = slices.Insert(slices.Clone(marks), 0, anchor)
		}
	}
	return marks
}
