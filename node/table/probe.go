package table

import (
	"time"

	"roster/prober"
	"roster/store"
)

// Probers gives references to probers. A *prober.Manager is one.
type Probers interface {
	Acquire(c *prober.Check, u prober.Use) (*prober.Ref, error)
}

// defaultProbe is the name of the probe for backends that have none of their own.
const defaultProbe = "default"

// Probe has backends probed; without it none is. notify, which may be nil, gets each
// change of a verdict, one at a time: those that a probe made, and those that came
// with a definition. It must not block, nor call a. Call Probe before the first Apply.
func (a *Applier) Probe(probers Probers, notify func(prober.Transition)) {
	a.probers, a.notify = probers, notify
}

// transition is told of what probes changed.
func (a *Applier) transition(t prober.Transition) {
	a.health.Lock()
	defer a.health.Unlock()
	s := a.Current().Lookup(t.Name)
	if s == nil || s.Backend == nil || s.Backend.Probe != t.Ref {
		return // its definition is no longer in effect
	}
	if ref, ok := a.Current().names.Get([]byte(t.Name)); ok {
		a.views.mark(ref) // again: it may have changed while this table was made
	}
	a.settleQueue(t.Name)
	a.tell(s.Backend.Runtime, t)
}

// tell tells of a verdict, unless it is known.
func (a *Applier) tell(r *Runtime, t prober.Transition) {
	if r.told == prober.VerdictOf(t.Healthy) {
		return
	}
	r.told = prober.VerdictOf(t.Healthy)
	if a.notify != nil {
		a.notify(t)
	}
}

// settleQueue puts a backend's limit into effect, and shuts or opens its queue by what is
// published now, and by its verdict of now. It is called under health, after each
// change of either, so that the last call has seen the last of both.
func (a *Applier) settleQueue(name string) {
	s := a.Current().Lookup(name)
	if s == nil || s.Backend == nil {
		return
	}
	s.Backend.limit()
	if s.sick() {
		s.Backend.Runtime.Fail()
	}
}

// sick says whether nobody is to wait for the slot's backend. Those who wait for one
// that is drained have chosen it before.
func (s *Slot) sick() bool {
	if s.Override != nil {
		switch s.Override.Def.State {
		case store.Sick:
			return true
		case store.Healthy, store.Drain:
			return false
		}
	}
	return s.Backend.Probe != nil && !s.Backend.Probe.Healthy()
}

// HealthSince is when the health of the slot's backend last changed, or the backend
// came to be.
func (s *Slot) HealthSince() time.Time {
	if s.Backend == nil || s.Backend.Probe == nil || s.Override != nil && s.Override.Def.State != store.Auto {
		return s.Since
	}
	if since := s.Backend.Probe.Snapshot().Since; since.After(s.Since) {
		return since
	}
	return s.Since
}

// probeOf finds the probe that a definition asks for; nil for none.
func (t *Table) probeOf(def *store.Backend) *store.Probe {
	name := def.Probe.Name
	switch {
	case def.None || def.Probe.None:
		return nil
	case def.Probe.Inline != nil:
		return def.Probe.Inline
	case name == "":
		name = defaultProbe
	}
	d, ok := t.probes.Get([]byte(name))
	if !ok {
		return nil
	}
	return d.Def.(*store.Probe)
}

// reprobe has those backends look at their probe again that use the one of a name.
func (w *work) reprobe(key store.Key) {
	for name := range w.users[key] {
		w.reprobed = append(w.reprobed, name)
	}
	if key.Name == defaultProbe {
		w.reprobeAll = true
	}
}

// probeAll looks at the backends that may use the default probe. They are not kept in
// a list: it would be of nearly all, and that probe changes rarely.
func (w *work) probeAll() {
	for ref := range w.refs {
		s := w.edit.at(Ref(ref))
		if s == nil || s.Backend == nil {
			continue
		}
		if p := &s.Backend.Def.Probe; p.Name == "" && p.Inline == nil && !p.None {
			w.probe(s.Name)
		}
	}
}

// probe gives a backend the reference to a prober that its definitions ask for. The
// older one stays with the older table until the new one is out, so that each request
// sees the verdict on the address that it would go to; and so that a check which only
// moves from one backend to another is probed on.
func (w *work) probe(name string) {
	ref, s := w.find(name)
	if w.probers == nil || s == nil || s.Backend == nil {
		return
	}
	old := s.Backend.Probe
	var check *prober.Check
	// Its directors know at once: a view that says no is believed.
	use := prober.Use{Name: name, Notify: w.onTransition, Changed: func() { w.views.mark(ref) }}
	if p := w.t.probeOf(s.Backend.Def); p != nil && s.Backend.Pool != nil {
		deps, _ := w.deps(s.Backend.Def) // the pool has them
		check, use.Judge = prober.CheckOf(s.Backend.Def, p, deps), prober.JudgeOf(p)
	}
	if old == nil && check == nil && (s.Backend.Fault == nil || s.Backend.Pool == nil) {
		return
	}
	var was prober.Snapshot
	if old != nil {
		was = old.Snapshot()
		if check != nil && check.Key() == was.Check.Key() && use.Judge == was.Judge {
			return
		}
		use.Carry, use.Since = prober.VerdictOf(was.Healthy), was.Since
		w.after = append(w.after, old.Release)
	} else if b := w.before.Lookup(name); b != nil && b.Backend != nil && b.Backend.Pool != nil {
		use.Carry, use.Since = prober.Healthy, b.Since
	}

	s = w.own(ref)
	b := s.Backend
	b.Probe = nil
	if b.Pool != nil {
		b.Fault = nil // but for the check's own
	}
	if check != nil {
		b.Probe, b.Fault = w.probers.Acquire(check, use)
	}
	healthy := b.Pool != nil && (b.Probe == nil || b.Probe.Healthy())
	if b.Probe == nil && use.Carry == prober.VerdictOf(healthy) && use.Since.After(s.Since) {
		s.Since = use.Since
	} else if b.Probe == nil {
		s.Since = time.Now()
	}
	w.after = append(w.after, func() {
		w.settleQueue(name)
		if use.Carry == prober.Unjudged {
			if b.Runtime.told = prober.VerdictOf(healthy); b.Probe != nil && !healthy {
				b.Runtime.told = prober.Unjudged // whatever the first answer is, it is news
			}
			return
		}
		news := prober.Transition{Name: name, Ref: b.Probe, Healthy: healthy, Judge: use.Judge, At: time.Now(), Text: "its definition changed"}
		switch {
		case old == nil:
			b.Runtime.told = use.Carry
		case was.Healthy == healthy && was.Probes == 0:
			return // nothing is known of it yet
		case was.Healthy == healthy: // it may be news all the same: transition is too late for the older check's
			news.Judge, news.Good, news.At, news.Stage, news.Text = was.Judge, was.Good, was.Since, was.Stage, was.Text
		}
		w.tell(b.Runtime, news)
	})
}
