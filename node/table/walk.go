package table

import (
	"slices"
	"time"

	"roster/balancer"
	"roster/store"
)

// maxDepth is how deep directors nest: a director, and up to seven below it.
const maxDepth = 8

// maxAsked bounds the names that one pick looks at, besides each of the table once.
// Directors of each other, all sick, could ask for ever: eight levels of ten members
// are ten million leaves.
const maxAsked = 1 << 18

// walk is a way down the directors of a table, for one request or, to make a view, for
// none. As balancer.Members it answers for the director that it has come to.
type walk struct {
	t      *Table
	d      *Director // whose members are asked about
	tried  []Ref     // backends not to be chosen again
	now    time.Duration
	exact  bool // ask members, not views
	doubt  bool // ask them where a view may be out of date, even if it says yes
	pardon bool // the ejected count as well
	stale  bool // a view that says no may be out of date
	out    bool // somebody was passed over for being ejected
	met    bool // a member that is a director was asked about

	trail [maxDepth]Ref // directors being asked, so that one that leads back is noticed
	depth int
	asked int // names looked at
	// failed are directors below the trail that have nobody, and the depth they were
	// asked at: they have nobody at that depth or further down, either. It keeps a tangle
	// of directors, all sick, from being walked by each of its ways.
	failed map[Ref]int
}

var _ balancer.Members = (*walk)(nil)

// begin is for a question that has nothing to do with those before: of another trail, say.
func (w *walk) begin() {
	w.asked = 0
	switch n := len(w.failed); {
	case n > 100: // an Ask is kept for long
		w.failed = nil
	case n > 0:
		clear(w.failed)
	}
}

func (w *walk) push(ref Ref) bool {
	if w.depth == maxDepth || slices.Contains(w.trail[:w.depth], ref) {
		return false
	}
	w.trail[w.depth] = ref
	w.depth++
	return true
}

// Available is of balancer.Members.
func (w *walk) Available(i int) bool {
	return !w.ejected(&w.d.Members[i]) && w.member(w.d, i, (*Slot).Available)
}

// ejected says whether a member is passed over for that.
func (w *walk) ejected(m *balancer.Member) bool {
	if w.pardon || !m.Seat.Ejected(w.now) {
		return false
	}
	w.out = true
	return true
}

// Present is of balancer.Members. A director that has nobody to choose is not there; one
// that was ejected is, as is who is sick.
func (w *walk) Present(i int) bool { return w.member(w.d, i, (*Slot).present) }

// member says whether a member may be chosen, were it not ejected: a director that has a
// choice, a backend that was not tried and for which backend holds.
func (w *walk) member(d *Director, i int, backend func(*Slot) bool) bool {
	m := &d.Members[i]
	s := w.t.slots.at(m.Ref)
	switch {
	case s == nil:
		return false
	case s.Backend != nil:
		return backend(s) && !slices.Contains(w.tried, m.Ref)
	case s.Director == nil:
		return false
	}
	w.met = true
	return w.available(m.Ref, s)
}

// available says whether a director has anybody to choose, and may itself be chosen.
func (w *walk) available(ref Ref, s *Slot) bool {
	if at, failed := w.failed[ref]; failed && at <= w.depth {
		return false
	}
	if w.asked++; w.asked > maxAsked+w.t.names.Len() || s.refused() || !w.push(ref) {
		return false
	}
	has := w.has(s.Director)
	w.depth--
	switch {
	case !has:
		if w.failed == nil {
			w.failed = make(map[Ref]int)
		}
		w.failed[ref] = w.depth
	case len(w.failed) > 0:
		// Some may have failed only because they lead back to one on this way.
		clear(w.failed)
	}
	return has
}

// has says whether a director, the last of the trail, has anybody to choose. A view is
// trusted where it says yes, for who is chosen is asked again; and where it says no,
// unless it may be out of date.
func (w *walk) has(d *Director) bool {
	if v := d.view.Load(); v != nil && !w.exact {
		if v.ready && !(w.doubt && w.outdated(d, v)) {
			return true
		}
		for _, at := range v.directors {
			if m := &d.Members[at]; !w.ejected(m) && w.member(d, int(at), (*Slot).Available) {
				return true
			}
		}
		if !w.outdated(d, v) {
			w.out = w.out || v.out
			return false
		}
		w.stale = true
	}
	return w.any(d, true) || (d.Def.Panic > 0 || loose(d.Def)) && w.any(d, false)
}

// any says whether a member is available, else only present, one by one.
func (w *walk) any(d *Director, available bool) bool {
	backend := (*Slot).present
	if available {
		backend = (*Slot).Available
	}
	for i := range d.Members {
		if w.asked++; w.asked > maxAsked+w.t.names.Len() {
			return false
		}
		if m := &d.Members[i]; m.Weight > 0 && !(available && w.ejected(m)) && w.member(d, i, backend) {
			return true
		}
	}
	return false
}

// drained says whether a member is a director that its operator drains: who comes back
// by a cookie is let in.
func (w *walk) drained(i int) bool {
	m := &w.d.Members[i]
	s := w.t.slots.at(m.Ref)
	if s == nil || s.Director == nil || !s.draining() || !w.push(m.Ref) {
		return false
	}
	has := w.has(s.Director)
	w.depth--
	return has
}

// Active is of balancer.Members.
func (w *walk) Active(i int) int {
	s := w.t.slots.at(w.d.Members[i].Ref)
	switch {
	case s == nil:
	case s.Backend != nil:
		r := s.Backend.Runtime
		n := r.Active()
		if most := s.Backend.Def.MaxConnections; most > 0 && n >= most {
			n += r.Queued()
		}
		return n
	case s.Director != nil:
		return int(s.Director.run.active.Load())
	}
	return 0
}

// Latency is of balancer.Members.
func (w *walk) Latency(i int) time.Duration {
	if l := w.latency(w.d, i); l != nil {
		return l.Value(w.now)
	}
	return 0
}

func (w *walk) latency(d *Director, i int) *balancer.Latency {
	s := w.t.slots.at(d.Members[i].Ref)
	switch {
	case s == nil:
	case s.Backend != nil:
		return &s.Backend.Runtime.latency
	case s.Director != nil:
		return &s.Director.run.latency
	}
	return nil
}

// makeView looks at a director's members. w.t need not be published, but has to be
// complete. The caller holds views.making.
func (w *walk) makeView(ref Ref, d *Director) *view {
	w.d, w.depth, w.met, w.out = d, 0, false, false
	w.begin()
	w.push(ref)
	v := &view{View: d.run.state.View(d.Def, d.Members, w, d.run.last, w.now), edit: w.t.edit}
	d.run.last = v.View
	v.ready = v.Available()
	for i := 0; w.met && i < len(d.Members); i++ {
		s := w.t.slots.at(d.Members[i].Ref)
		if s != nil && s.Director != nil && d.Members[i].Weight > 0 {
			v.directors = append(v.directors, int32(i))
		}
	}
	ignored := loose(d.Def)
	if len(v.directors) > 0 && !v.Panic() || ignored && !v.ready {
		// What directors say of themselves now is not to be trusted later.
		v.ready = false
		for i := range d.Members {
			s := w.t.slots.at(d.Members[i].Ref)
			if s != nil && s.Backend != nil && d.Members[i].Weight > 0 && (w.Available(i) || ignored && w.Present(i)) {
				v.ready = true
				break
			}
		}
	}
	v.out = w.out
	v.sessions = w.t.sessions(d)
	return v
}

// outdated says whether a director's view may be out of date, or ahead of the walk's table.
func (w *walk) outdated(d *Director, v *view) bool {
	return d.run.stale.Load() || w.t.edit < v.edit || v.Next() != 0 && w.now >= v.Next()
}

// loose says whether a director chooses members whatever their health is.
func loose(def *store.Director) bool { return def.Healthy == store.HealthyIgnore }

// present says whether the slot's backend is there and not refused by an operator.
func (s *Slot) present() bool {
	return s.Backend.Pool != nil && s.Backend.Fault == nil && !s.refused()
}

// draining says whether the operator wants no new requests at the slot's name, but
// those that belong there.
func (s *Slot) draining() bool { return s.Override != nil && s.Override.Def.State == store.Drain }

// reachable says whether the slot's backend may be chosen for who comes back to it.
func (s *Slot) reachable() bool {
	if !s.draining() {
		return s.Available()
	}
	b := s.Backend
	return b.Pool != nil && b.Fault == nil && (b.Probe == nil || b.Probe.Healthy())
}
