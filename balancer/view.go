package balancer

import (
	"time"

	"roster/store"
)

// Query is what a choice depends on.
type Query struct {
	Key   uint32        // for hash and shard, see Hash
	Retry int           // of this request: 0 at first
	Now   time.Duration // for ramps
	// Peek moves nothing: no cursor, no sticky choice. What it gets is what the next
	// request may get.
	Peek bool
}

// View is a director's members as they were when it was made, laid out for
// picking. It never changes; any number of goroutines may use it.
type View struct {
	state   *State
	def     *store.Director
	members []Member

	live    []int32   // positions of those to choose among, in order
	sums    []float64 // of the weights of live, running; nil = all weigh the same
	guide   []int32   // into sums, see find
	offset  uint64    // added to the cursor where all weigh the same, see resume
	chose   uint64    // State.sticky when the view was made
	current int       // its position
	panic   bool
	next    time.Duration

	// Of shard.
	ring    *ring
	chosen  set // live, as a set
	present set // those that were Present
	ramps   bool
}

const (
	// firstShare is the part of its weight that a member starts with in a
	// slow_start.
	firstShare = 0.1
	// rampSteps is how many views a slow_start takes, each step being small enough
	// not to show in a backend's load; minStep bounds the work of short ones.
	rampSteps = 50
	minStep   = 10 * time.Millisecond
)

// View makes a view of a director's members and tells their seats who is
// available. m is asked at most twice about each. old is the director's last view,
// or nil; it may be of other members and another definition. The view keeps members
// and def, which must not change any more; a slice that is the old view's is known
// to have the same members. It costs time in proportion to the number of
// members; for shard, and only when members joined, left or changed their weight,
// also in proportion to the number of points.
//
// Members that are available in a State's first view are taken as settled: a node
// that starts ramps nobody.
func (s *State) View(def *store.Director, members []Member, m Members, old *View, now time.Duration) *View {
	s.readmit(def, members)
	v := &View{state: s, def: def, members: members}
	live := make([]int32, 0, len(members))
	if def.Type == store.Shard {
		v.ring = renew(old, def.Replicas, members)
		v.chosen, v.present = make(set, (len(members)+63)/64), make(set, (len(members)+63)/64)
	}
	settle, seated, present := !s.seated, false, 0
	for i := range members {
		member := &members[i]
		ok := m.Available(i)
		if seat := member.Seat; seat != nil {
			seated = true
			seat.mark(ok, settle, now)
			if seat.Ejected(now) {
				v.wake(seat.Until())
			}
		}
		if !(member.Weight > 0) {
			continue
		}
		if (def.Panic > 0 || v.ring != nil) && m.Present(i) {
			present++
			if v.ring != nil {
				v.present.add(i)
			}
		}
		if ok {
			live = append(live, int32(i))
		}
	}
	s.seated = seated
	if def.Panic > 0 && present > 0 && float64(len(live)) < def.Panic*float64(present) {
		v.panic = true
		live = live[:0]
		for i := range members {
			if members[i].Weight > 0 && m.Present(i) {
				live = append(live, int32(i))
			}
		}
	}
	v.live = live
	switch def.Type {
	case store.Shard:
		for _, at := range v.live {
			v.chosen.add(int(at))
			v.ramps = v.ramps || members[at].Rampup > 0
		}
	case store.Fallback:
		if def.Sticky {
			v.chose = s.sticky.Load()
			v.current = v.place(v.chose)
		}
	default:
		v.weigh(now)
	}
	if def.Type == store.RoundRobin && v.sums == nil {
		v.resume(old)
	}
	return v
}

// wake notes that the view has to be made anew at t.
func (v *View) wake(t time.Duration) {
	if v.next == 0 || t < v.next {
		v.next = t
	}
}

// Available says whether any member could be chosen when the view was made, be it
// in panic only.
func (v *View) Available() bool { return len(v.live) > 0 }

// Panic says whether so few members were available that the view is of all that
// are present.
func (v *View) Panic() bool { return v.panic }

// Next is when the view has to be made anew though no member's health changed: for
// the next step of a slow_start, or the end of an ejection. 0 = never.
func (v *View) Next() time.Duration { return v.next }

// Shares are the parts of the requests that members are meant to have by their weights,
// by position, as of the view's making: 0 to 1. Of a fallback, one has them all.
func (v *View) Shares() []float64 {
	shares, all := make([]float64, len(v.members)), 0.0
	if v.def.Type == store.Fallback {
		if at := v.first(); at >= 0 {
			shares[at] = 1
		}
		return shares
	}
	for k, at := range v.live {
		w := v.members[at].Weight
		switch {
		case v.sums != nil && k == 0:
			w = v.sums[0]
		case v.sums != nil:
			w = v.sums[k] - v.sums[k-1]
		}
		shares[at] = w
		all += w
	}
	for i := range shares {
		if shares[i] > 0 {
			shares[i] /= all
		}
	}
	return shares
}

// Pick chooses a member and returns its position. It is -1 only if no member with
// a weight is available. The member is Available as m has it, or Present where
// shard ignores health or the director is in panic.
func (v *View) Pick(q *Query, m Members) int {
	at := -1
	switch v.def.Type {
	case store.Random:
		at = v.random(m)
	case store.Hash:
		at = v.hash(q, m)
	case store.Shard:
		return v.shard(q, m)
	case store.LeastConnections:
		at = v.leastConnections(q, m)
	case store.P2C:
		at = v.p2c(m)
	case store.Fallback:
		return v.fallback(q, m)
	default:
		at = v.roundRobin(q, m)
	}
	if at < 0 {
		at = v.scan(q, m)
	}
	return at
}

// may says whether a member of live may still be chosen.
func (v *View) may(at int, m Members) bool {
	if v.panic {
		return m.Present(at)
	}
	return m.Available(at)
}

// scan chooses among all members by weight, one by one: for what was chosen in the
// view is not available any more, or was tried by this request already.
func (v *View) scan(q *Query, m Members) int {
	at := -1
	if !v.panic {
		at = v.among(q, m.Available)
	}
	if at < 0 && v.def.Panic > 0 { // without panic yet: none is available, fewer than any share
		at = v.among(q, m.Present)
	}
	return at
}

// among chooses by weight among the members for which ok holds.
func (v *View) among(q *Query, ok func(int) bool) int {
	total := 0.0
	for i := range v.members {
		if v.members[i].Weight > 0 && ok(i) {
			total += v.weight(i, q.Now)
		}
	}
	if total == 0 {
		return -1
	}
	u := float64(q.Key) / (1 << 32)
	if v.def.Type != store.Hash {
		u = unit(v.state.random())
	}
	x, sum, at := u*total, 0.0, -1
	for i := range v.members {
		if v.members[i].Weight > 0 && ok(i) {
			at = i
			if sum += v.weight(i, q.Now); sum > x {
				break
			}
		}
	}
	return at
}
