package prober

import (
	"context"
	"sync/atomic"
	"time"

	"roster/pool"
)

// Use says what a backend wants of a check.
type Use struct {
	Name  string // the backend's, for Snapshot and Transition
	Judge Judge
	// Carry is the backend's verdict if it was live before, without a probe or known
	// by other means. It holds until the check has an answer. Since is when it was
	// reached, zero for now; a verdict that differs from it is of now in any case.
	Carry Verdict
	Since time.Time
	// Notify is called after each change of the verdict that a probe made, and after a
	// first answer that leaves a new backend sick, in order, from one goroutine of the
	// Manager's. It must not block. Nil means nobody.
	Notify func(Transition)
	// Changed is called as soon as a probe has changed the verdict, before anybody is told
	// that the check has an answer. It is called under the Manager's lock: it must not block,
	// nor call the Manager. Nil means nobody.
	Changed func()
}

// Transition is a change of a backend's verdict.
type Transition struct {
	Name    string
	Ref     *Ref
	Healthy bool // the new verdict; the old one was the other, or there was none
	Good    int  // of the window
	Judge   Judge
	At      time.Time
	Stage   Stage // where the probe failed that decided it, empty if it was good
	Text    string
}

// Ref is one backend's reference to the prober of its check, and its verdict.
// All methods may be called from any goroutine.
type Ref struct {
	m       *Manager
	name    string
	notify  func(Transition)
	changed func()
	healthy atomic.Bool

	// Of the Manager's mu:
	pr         *prober
	next, prev *Ref
	judge      Judge
	carry      Verdict
	released   bool
	since      time.Time
}

// Acquire returns a reference to the prober of a check, which is made if there is
// none; then its first probe is due at once. The error is the pool's: the check
// refers to something missing.
func (m *Manager) Acquire(c *Check, u Use) (*Ref, error) {
	pr, spare, err := m.lockProber(c)
	if err != nil {
		return nil, err
	}
	r := &Ref{m: m, name: u.Name, notify: u.Notify, changed: u.Changed, judge: u.Judge, carry: u.Carry}
	r.link(pr)
	r.healthy.Store(r.verdict(pr.history.Load()))
	r.since = u.Since
	if r.since.IsZero() || u.Carry != VerdictOf(r.healthy.Load()) {
		r.since = time.Now()
	}
	m.mu.Unlock()
	release(spare)
	return r, nil
}

// Release ends the reference; Notify is not called any more, but for a call under
// way. With the last reference to a check its probing ends at once, and its history
// is lost: acquire for a new definition before the release for the old one.
// Releasing twice panics.
func (r *Ref) Release() {
	m := r.m
	m.mu.Lock()
	if r.released {
		m.mu.Unlock()
		panic("prober: released twice")
	}
	r.released = true
	r.unlink()
	unused := m.dropUnused(r.pr)
	m.mu.Unlock()
	release(unused)
}

func (r *Ref) isReleased() bool {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	return r.released
}

// Healthy is the verdict. It costs one load.
func (r *Ref) Healthy() bool { return r.healthy.Load() }

// verdict is that over a history, or what was carried if there is none.
func (r *Ref) verdict(h *History) bool {
	if h.Probes == 0 && r.carry != Unjudged {
		return r.carry == Healthy
	}
	return r.judge.Healthy(h.Happy, h.Probes)
}

func (r *Ref) link(pr *prober) {
	r.pr, r.prev, r.next = pr, nil, pr.first
	if pr.first != nil {
		pr.first.prev = r
	}
	pr.first = r
	pr.users++
	r.m.refs++
}

func (r *Ref) unlink() {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		r.pr.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
	r.pr.users--
	r.m.refs--
}

// lockProber returns the prober of a check, made if there is none, with m.mu
// locked, unless there is an error. The caller releases spare without that lock,
// which no pool is acquired or released under.
func (m *Manager) lockProber(c *Check) (pr *prober, spare *pool.Pool, err error) {
	m.mu.Lock()
	if pr := m.byKey[c.key]; pr != nil {
		return pr, nil, nil
	}
	m.mu.Unlock()
	p, err := m.config.Pools.Acquire(c.def, c.deps)
	if err != nil {
		return nil, nil, err
	}
	m.mu.Lock()
	if pr := m.byKey[c.key]; pr != nil {
		return pr, p, nil
	}
	m.born++
	pr = &prober{check: c, pool: p, number: m.born, index: -1}
	pr.history.Store(m.beginning(c))
	m.byKey[c.key] = pr
	m.sleep(pr, m.now())
	signal(m.wake)
	return pr, nil, nil
}

// dropUnused takes a prober away that nobody refers to any more, and returns the
// pool that the caller has to release without the lock.
func (m *Manager) dropUnused(pr *prober) *pool.Pool {
	if pr.users > 0 {
		return nil
	}
	pr.gone = true
	delete(m.byKey, pr.check.key)
	m.schedule.remove(pr)
	if pr.cancel != nil {
		pr.cancel()
	}
	if pr.history.Load().Probes == 0 {
		m.answered(pr)
	}
	return pr.pool
}

func release(p *pool.Pool) {
	if p != nil {
		p.Release()
	}
}

// judge gives r its verdict over h, and notes a transition if that is another one.
func (m *Manager) judge(r *Ref, h *History) {
	is := r.verdict(h)
	switch {
	case is == r.healthy.Load() && (is || h.Probes > 1 || r.carry != Unjudged):
		return
	case is == r.healthy.Load(): // a new backend that is sick: no change, but news
	case is:
		m.stats.WentHealthy++
		r.since = h.At
	default:
		m.stats.WentSick++
		r.since = h.At
	}
	if r.healthy.Swap(is) != is && r.changed != nil {
		r.changed()
	}
	if r.notify == nil {
		return
	}
	m.transitions = append(m.transitions, Transition{
		Name: r.name, Ref: r, Healthy: is,
		Good: r.judge.Good(h.Happy, h.Probes), Judge: r.judge,
		At: h.At, Stage: h.Stage, Text: h.Text,
	})
	signal(m.tell)
}

// runNotify tells backends of their transitions.
func (m *Manager) runNotify(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.tell:
		}
		m.mu.Lock()
		all := m.transitions
		m.transitions = nil
		m.mu.Unlock()
		for _, t := range all {
			if !t.Ref.isReleased() && ctx.Err() == nil {
				t.Ref.notify(t)
			}
		}
	}
}
