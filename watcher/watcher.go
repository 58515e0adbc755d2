package watcher

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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
	down  bool // etcd's loss was logged
	since time.Time

	mu     sync.Mutex
	status Status // without Seen, which the queue knows
}

// hold is an empty list that is not believed.
type hold struct {
	cluster  uint64
	revision int64 // of the first such list; 0: nothing is held
	since    time.Time
}

// New returns a watcher that has not begun. An error is about cfg.
func New(cfg Config) (*Watcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return newWatcher(cfg, etcd{cfg.Store.Client(), cfg.Store.Prefix()}), nil
}

func newWatcher(cfg Config, source source) *Watcher {
	return &Watcher{
		cfg: cfg.withDefaults(), source: source, queue: newQueue(), pageSize: pageSize,
		state: newState(cfg.UnknownFields), stale: true,
	}
}

// Next returns the next change, blocking until there is one. The first is the
// listed state as a whole, also if it is empty. A call says that the reader is
// done with the change before. It returns ctx's error when ctx ends, and no other.
func (w *Watcher) Next(ctx context.Context) (Change, error) { return w.queue.next(ctx) }

// Status returns a copy of the watcher's view of itself.
func (w *Watcher) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	status := w.status
	status.Seen, status.Listed = w.queue.progress(), w.queue.lists()
	return status
}

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
		select {
		case <-ctx.Done():
		case <-time.After(backoff(w.cfg.RetryMin, w.cfg.RetryMax, attempt)):
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
)

// session says whether it came so far as to prove that nothing is missing.
func (w *Watcher) session(parent context.Context) (proven bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	var receiver sync.WaitGroup
	defer receiver.Wait()
	defer cancel(nil)

	w.source.hurry()
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
	receiver.Go(func() { receive(ctx, s, received) })
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

// because returns why ctx ended, or err while it lasts.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

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
		change, ok := w.state.apply(revision, events)
		if ok {
			change.Received = at
			w.queue.push(change)
		}
		w.saw(max(revision, w.seen))
	})
	w.update(w.count)
	return nil
}

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
	change := w.state.replace(l)
	change.Received = at
	if acknowledged {
		change.Ack = max(change.Ack, change.Revision)
	}
	w.stale, w.held, w.term = false, hold{}, term
	if first || back || len(change.Puts)+len(change.Deletes) > 0 {
		w.queue.push(change)
	} else if raised {
		change.Listed = false // it has nothing but that
		w.queue.push(change)
	}
	w.seen = l.revision
	w.queue.list(l.revision)
	w.update(func(s *Status) {
		w.count(s)
		s.Held, s.HeldRevision, s.HeldSince = "", 0, time.Time{}
		if !first {
			s.Relists++
		}
	})
	w.fresh(began) // its first page was a linearizable read
	w.cfg.Logger.Info("listed", "revision", l.revision, "keys", len(w.state.keys),
		"changed", len(change.Puts), "deleted", len(change.Deletes), "rejected", w.state.rejected)
	return nil
}

// hold decides whether an empty list must be held: one that is not the successor of
// a state that is not empty, and not acknowledged by the key "ack". acknowledged: it
// would have been held.
func (w *Watcher) hold(ctx context.Context, l *listing) (held, acknowledged bool, err error) {
	if w.state.cluster == 0 || !l.empty() || w.state.definitions() == 0 {
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
	why := fmt.Sprintf("etcd is empty at revision %d of cluster %x, after revision %d of cluster %x: keeping %d definitions until a key appears or revision %d is acknowledged (roster ack %d)",
		l.revision, l.cluster, w.seen, w.state.cluster, w.state.definitions(), now.revision, now.revision)
	w.update(func(s *Status) { s.Held, s.HeldRevision, s.HeldSince = why, now.revision, now.since })
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
}

func (w *Watcher) connected(endpoint string) {
	w.update(func(s *Status) { s.Connected, s.Error, s.Endpoint = true, "", endpoint })
	if w.down {
		w.down = false
		w.cfg.Logger.Info("etcd is back", "endpoint", endpoint, "revision", w.seen, "away", time.Since(w.since).Round(time.Millisecond))
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
			w.cfg.Logger.Warn("etcd is not reachable: keeping what is known", "error", err, "revision", w.seen)
		}
	}
}
