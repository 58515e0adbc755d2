package prober

import (
	"context"
	"hash/fnv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"roster/pool"
)

// Manager owns all probers of a node.
type Manager struct {
	config Config
	node   uint64
	start  time.Time // of the clock, see now

	wake    chan struct{} // something is due
	tell    chan struct{} // there are transitions
	results chan result
	probes  sync.WaitGroup

	mu          sync.Mutex
	schedule    schedule
	byKey       map[Key]*prober
	refs        int
	born        uint64 // probers made so far
	waiters     map[*waiter]struct{}
	transitions []Transition
	stats       Stats
	localLogged time.Duration // 0: never
	seeds       map[Key]Seed  // for new probers
	seeded      map[string]int
}

// A prober is what probes one check.
//
// It is asleep, waits for a place, or runs; see schedule. Whoever holds the last
// reference to it takes it away, and nothing brings it back: another one for
// the same check begins anew. One that runs at that moment has its probe cancelled,
// and what that found is dropped.
//
//	made -> asleep -> waiting -> running -> asleep ...
//	         |          |          |
//	         +----------+----------+--> gone
type prober struct {
	check   *Check
	pool    *pool.Pool
	history atomic.Pointer[History]

	// Of the Manager's mu:
	first         *Ref // linked by next and prev
	users         int
	number        uint64 // of those made
	gone          bool
	cancel        context.CancelFunc // of the probe that runs
	local         uint64             // probes that failed for this machine's fault
	due, started  time.Duration
	index         int // in the heap, -1: not there
	line          *line
	before, after *prober
	speed         speed
	busy          bool // running
}

var noHistory History

// New returns a Manager without probers. It starts nothing. A Config that does not
// validate panics.
func New(c Config) *Manager {
	if err := c.Validate(); err != nil {
		panic("prober: " + err.Error())
	}
	c = c.withDefaults()
	node := fnv.New64a()
	node.Write([]byte(c.Node))
	return &Manager{
		config:  c,
		node:    node.Sum64(),
		start:   time.Now().Add(-1), // so that no time is zero
		wake:    make(chan struct{}, 1),
		tell:    make(chan struct{}, 1),
		results: make(chan result, 1024),
		byKey:   make(map[Key]*prober),
		schedule: schedule{
			places: c.Concurrency / 2,
		},
		waiters: make(map[*waiter]struct{}),
	}
}

// now is the Manager's clock: monotonic, never zero.
func (m *Manager) now() time.Duration { return time.Since(m.start) }

// Run probes until ctx ends, and returns nil once no probe is under way and no
// Use.Notify is called any more. Call it once. What was acquired before is probed
// from then on; after it, verdicts stay as they are.
func (m *Manager) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { m.runSchedule(ctx); return nil })
	g.Go(func() error { m.runNotify(ctx); return nil })
	return g.Wait()
}

// A result is what a probe found.
type result struct {
	pr *prober
	outcome
}

// runSchedule starts probes when they are due, and files what they found. Only it
// does: were the lock taken by each probe at its end, thousands would queue for it.
func (m *Manager) runSchedule(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-m.wake:
		case <-timer.C:
		case r := <-m.results:
			m.record(r)
		}
		for m.dispatch(ctx) {
		}
		m.mu.Lock()
		wait := m.schedule.until(m.now())
		m.mu.Unlock()
		timer.Reset(wait)
	}
	ended := make(chan struct{})
	go func() {
		m.probes.Wait()
		close(ended)
	}()
	for {
		select {
		case r := <-m.results:
			m.record(r)
		case <-ended:
			for len(m.results) > 0 {
				m.record(<-m.results)
			}
			return
		}
	}
}

// burst is how many probes are started or filed at a time, so that others get the
// lock too.
const burst = 64

// dispatch starts probes. It is true if there may be more to start.
func (m *Manager) dispatch(ctx context.Context) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	for range burst {
		pr := m.schedule.next(now)
		if pr == nil {
			return false
		}
		m.stats.Started++
		m.stats.Lateness.add(now - pr.due)
		limited, cancel := context.WithTimeout(ctx, pr.check.Timeout())
		pr.cancel = cancel
		m.probes.Add(1)
		go m.probe(ctx, limited, pr)
	}
	return ctx.Err() == nil
}

// probe makes one probe of pr, in the time of limited. run is Run's context.
func (m *Manager) probe(run, limited context.Context, pr *prober) {
	defer m.probes.Done()
	o := pr.check.run(limited, pr.pool, nil)
	if run.Err() != nil {
		o.cancelled = true // also if run had a deadline
	}
	m.results <- result{pr, o}
}

// logEvery is the shortest time from one line about local faults to the next.
const logEvery = 10 * time.Second

// record files what a probe found, and the other results that there are.
func (m *Manager) record(r result) {
	m.mu.Lock()
	now := m.now()
	var fault result // to be logged
	for n := 1; ; n++ {
		if m.file(&r, now) {
			fault = r
		}
		if n == burst || len(m.results) == 0 {
			break
		}
		r = <-m.results
	}
	total := m.stats.Local
	m.mu.Unlock()
	if fault.pr != nil {
		m.config.Logger.Error("a probe failed for a local fault and does not count",
			"check", fault.pr.check, "error", fault.text, "total", total)
	}
}

// file is true if a line about a local fault is due.
func (m *Manager) file(r *result, now time.Duration) bool {
	pr := r.pr
	m.schedule.end(pr, now)
	pr.cancel()
	pr.cancel = nil
	switch {
	case pr.gone, r.cancelled:
		m.stats.Cancelled++
		return false
	case r.local:
		pr.local++
		m.stats.Local++
		m.sleep(pr, now+min(pr.check.Interval(), localRetry))
		if m.localLogged == 0 || now-m.localLogged >= logEvery {
			m.localLogged = now
			return true
		}
		return false
	}
	h := pr.history.Load().next(&r.outcome, time.Now())
	pr.history.Store(h)
	if r.saw&sawHappy != 0 {
		m.stats.Good++
	} else {
		m.stats.Bad++
	}
	for ref := pr.first; ref != nil; ref = ref.next {
		m.judge(ref, h)
	}
	if h.Probes == 1 {
		m.answered(pr)
	}
	m.sleep(pr, now+pause(m.node, pr.check.key, h.Probes-h.Seeded, pr.check.Interval()))
	return false
}

// sleep has pr probed at a time, or after.
func (m *Manager) sleep(pr *prober, due time.Duration) {
	pr.due = due
	m.schedule.add(pr)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A waiter waits for the first answers of the probers that there were.
type waiter struct {
	upTo uint64 // their highest number
	left int
	done chan struct{}
}

// answered notes that pr has an answer, or will have none.
func (m *Manager) answered(pr *prober) {
	for w := range m.waiters {
		if pr.number <= w.upTo {
			if w.left--; w.left == 0 {
				delete(m.waiters, w)
				close(w.done)
			}
		}
	}
}

// Answered waits until every prober that there is now has made a probe, good or
// bad, or is gone, and until the verdicts say so. Local faults are no answer. The
// error is ctx's.
func (m *Manager) Answered(ctx context.Context) error {
	m.mu.Lock()
	w := &waiter{upTo: m.born, done: make(chan struct{})}
	for _, pr := range m.byKey {
		if pr.history.Load().Probes == 0 {
			w.left++
		}
	}
	if w.left == 0 {
		m.mu.Unlock()
		return nil
	}
	m.waiters[w] = struct{}{}
	m.mu.Unlock()
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		m.mu.Lock()
		delete(m.waiters, w)
		m.mu.Unlock()
		return ctx.Err()
	}
}
