package watcher

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"
)

const (
	// pageSize is how many keys one read of a list asks for: about 0.5 MB of
	// backends, so that no page holds etcd up for long.
	pageSize = 1000
	// minPage is what that may shrink to where a page takes too long.
	minPage = 8
	// maxVersions is how far back a valid version of an invalid key is looked for.
	maxVersions = 100
	// maxWalks is how many invalid keys are looked after at once.
	maxWalks = 8
)

// hold is an empty list that is not believed.
type hold struct {
	cluster  uint64
	revision int64 // of the first such list; 0: nothing is held
	since    time.Time
}

// list lists the prefix and takes the list over, unless it has to be held.
func (w *Watcher) list(ctx context.Context) error {
	for w.queue.full() { // or a reader that is stuck would let lists pile up
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.queue.room:
		}
	}
	began := time.Now()
	l, term, err := w.read(ctx)
	if err != nil {
		return because(ctx, fmt.Errorf("list: %w", err))
	}
	at := time.Now()
	if w.saved != nil && l.empty() {
		w.resume() // to be compared with
	}
	held, acknowledged, err := w.hold(ctx, l)
	if err != nil {
		return because(ctx, fmt.Errorf("list: %w", err))
	}
	if held {
		return errHeld
	}
	first := w.state.cluster == 0
	back := l.revision < w.seen
	raised := l.ack > w.state.ack
	bad := w.state.badAck
	change := w.state.replace(l)
	w.tellBadAck(bad)
	change.Received = at
	if acknowledged {
		change.Ack = max(change.Ack, change.Revision)
	}
	w.stale, w.held, w.term, w.saved = false, hold{}, term, nil
	w.seen = l.revision
	w.update(func(s *Status) { // before the change, whose reader may ask which cluster it is of
		w.count(s)
		s.Held, s.HeldRevision, s.HeldSince, s.Resumed = "", 0, time.Time{}, false
		if !first {
			s.Relists++
		}
	})
	if first || back || len(change.Puts)+len(change.Deletes) > 0 {
		w.queue.push(change)
	} else if raised {
		change.Listed = false // it has nothing but that
		w.queue.push(change)
	}
	w.queue.list(l.revision)
	w.fresh(began) // its first page was a linearizable read
	w.cfg.Logger.Info("listed", "revision", l.revision, "keys", len(w.state.keys),
		"changed", len(change.Puts), "deleted", len(change.Deletes), "rejected", w.state.rejected)
	return nil
}

// tellBadAck logs that the key ack has no revision, unless that was so before.
func (w *Watcher) tellBadAck(before error) {
	if bad := w.state.badAck; bad != nil && (before == nil || before.Error() != bad.Error()) {
		w.cfg.Logger.Warn("nothing is acknowledged", "key", ackKey, "error", bad)
	}
}

// hold decides whether an empty list must be held: one that is not the successor of
// a state that is not empty, and not acknowledged by the key "ack". acknowledged: it
// would have been held.
func (w *Watcher) hold(ctx context.Context, l *listing) (held, acknowledged bool, err error) {
	definitions, _ := w.state.definitions()
	if w.state.cluster == 0 || definitions == 0 || !l.empty() {
		return false, false, nil
	}
	// What was held stays so: a history of the past does not become ours by growing.
	again := w.held.revision > 0 && l.cluster == w.held.cluster && l.revision >= w.held.revision
	if l.cluster == w.state.cluster && l.revision >= w.seen && !again {
		// An etcd that was wiped and set up as before has the cluster's id, and revisions
		// that what others write, nodes their presence among them, may have brought that far.
		if successor, err := w.continues(ctx); successor || err != nil {
			return false, false, err
		}
	}
	now := w.held
	if !again {
		now = hold{cluster: l.cluster, revision: l.revision, since: time.Now()}
	}
	if l.ack >= now.revision {
		return false, true, nil
	}
	if now == w.held {
		return true, false, nil
	}
	w.held = now
	why := fmt.Sprintf("etcd is empty at revision %d of cluster %x, after revision %d of cluster %x: keeping %d definitions until some are put, other than backends with a lease, or revision %d is acknowledged (roster ack %d)",
		l.revision, l.cluster, w.seen, w.state.cluster, definitions, now.revision, now.revision)
	w.update(func(s *Status) { s.Held, s.HeldRevision, s.HeldSince = why, now.revision, now.since })
	w.cfg.Changed()
	w.cfg.Logger.Error("an empty etcd is not believed", "held", why)
	return true, false, nil
}

// continues says whether etcd had, at the revision that the state is of, what the state
// has of it; or whether compaction has left nothing to tell that by. There is a key.
func (w *Watcher) continues(parent context.Context) (bool, error) {
	marks := w.landmarks()
	keys := make([]string, len(marks))
	for i, m := range marks {
		keys[i] = m.key
	}
	ctx, cancel := context.WithTimeout(parent, w.cfg.ListTimeout)
	defer cancel()
	then, _, err := w.source.read(ctx, keys, w.state.at)
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return true, nil
	case err != nil:
		return false, err
	}
	return marks.exact(then) == ours, nil
}

// read reads all keys at one revision, with a version for each that is invalid.
func (w *Watcher) read(ctx context.Context) (*listing, uint64, error) {
	var l *listing
	var term uint64
	for from, revision := "", int64(0); ; revision = l.revision {
		p, err := w.readPage(ctx, from, revision)
		switch {
		case err != nil:
			return nil, 0, err
		case l == nil:
			l, term = w.state.list(p.cluster, p.revision), p.term
			w.answered.Store(true)
		case p.cluster != l.cluster || p.revision < l.revision:
			return nil, 0, fmt.Errorf("etcd was replaced at revision %d of the list", l.revision)
		}
		for _, e := range p.entries {
			l.add(e)
		}
		if from = p.next; from == "" {
			break
		}
	}
	found := make([]version, len(l.invalid))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(maxWalks)
	for i, bad := range l.invalid {
		g.Go(func() (err error) {
			found[i], err = w.walk(gctx, l, bad)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, 0, err
	}
	for i, bad := range l.invalid {
		l.resolve(bad, found[i])
	}
	return l, term, nil
}

func (w *Watcher) readPage(ctx context.Context, from string, revision int64) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.ListTimeout)
	defer cancel()
	p, err := w.source.page(ctx, from, w.pageSize, revision)
	if err != nil && ctx.Err() == context.DeadlineExceeded {
		w.pageSize = min(w.pageSize, max(minPage, w.pageSize/4))
	}
	return p, err
}

// walk goes back through etcd's history for the version of an invalid key to use.
func (w *Watcher) walk(ctx context.Context, l *listing, bad invalid) (version, error) {
	at := bad.entry
	for range maxVersions {
		if at.create == at.mod {
			return version{}, nil
		}
		e, h, err := w.readOne(ctx, at.key, at.mod-1)
		switch {
		case errors.Is(err, rpctypes.ErrCompacted):
			return l.remembered(bad), nil
		case err != nil:
			return version{}, fmt.Errorf("history of %s: %w", at.key, err)
		case h.cluster != l.cluster || e == nil:
			return version{}, fmt.Errorf("history of %s: etcd was replaced", at.key)
		}
		if v, done := l.older(bad, *e); done {
			return v, nil
		}
		at = *e
	}
	return l.remembered(bad), nil
}

func (w *Watcher) readOne(ctx context.Context, key string, revision int64) (*entry, header, error) {
	ctx, cancel := context.WithTimeout(ctx, w.cfg.ListTimeout)
	defer cancel()
	entries, h, err := w.source.read(ctx, []string{key}, revision)
	if err != nil {
		return nil, h, err
	}
	return entries[0], h, nil
}
