package table

import (
	"fmt"
	"slices"
	"time"

	"roster/balancer"
	"roster/store"
)

// Choice is how one director chooses, for people.
type Choice struct {
	Director string
	Type     store.DirectorType
	Why      string // in words; also why there is no choice
	Members  []MemberState
}

// MemberState is what a director sees in one of its members.
type MemberState struct {
	Name   string
	State  State
	Left   time.Duration // of an ejection
	Weight float64       // by definition
	Share  float64       // of requests by weight now, 0 to 1
	Chosen bool
}

// State is why a member may be chosen or not.
type State string

// The states. Available is the only one that is chosen from, but for panic, for a shard
// that ignores health, for cookies, which lead to who is Draining, too, and for who is
// Ejected when there is nobody else.
const (
	StateAvailable State = "available"
	StateSick      State = "sick" // a director: it has nobody to choose
	StateDraining  State = "draining"
	StateEjected   State = "ejected"
	StateMissing   State = "missing"  // nobody defines it
	StateNone      State = "none"     // a backend that always fails
	StateFault     State = "at fault" // what it needs is missing
	StateUnused    State = "weight 0"
	StateTried     State = "tried"
	StateCycle     State = "cycle" // a director that is being asked already
	StateTooDeep   State = "too deep"
)

// ExplainPick says how a request to ref would be given to a backend, director by
// director; where there is nobody to choose, also the directors below that are why. It
// moves nothing: what it chooses by turns or at random is what the next
// request may get. b and err are as Pick's, and nothing has to be told afterwards. a is
// one that has begun, and has no pick to be told of.
func (t *Table) ExplainPick(ref Ref, a *Ask) (choices []Choice, b *Backend, err error) {
	s := t.slots.at(ref)
	switch {
	case s == nil || s.Backend == nil && s.Director == nil:
		return nil, nil, balancer.ErrNoBackend
	case s.Backend != nil && s.Backend.Fault != nil:
		return nil, nil, s.Backend.Fault
	case s.Backend != nil && !s.Available():
		return nil, nil, balancer.ErrNoBackend
	case s.Backend != nil:
		return nil, s.Backend, nil
	}
	a.how.Peek = true
	found := t.find(ref, s, a)
	a.how.Peek = false
	w := &a.walk
	w.tried, w.exact, w.pardon, w.depth = a.tried, true, false, 0
	w.begin()
	if !found {
		w.push(ref)
		choices = w.nobody(s.Director, nil)
		if s.refused() {
			choices[0].Why = fmt.Sprintf("the operator's word on it is %q", s.Override.Def.State)
		}
		a.backend, a.depth = nil, 0
		return choices, nil, balancer.ErrNoBackend
	}
	for i := range a.steps[:a.depth] {
		step := &a.steps[i]
		w.push(ref)
		w.begin()
		choices = append(choices, w.choice(step.d, int(step.at), a.why(step)))
		ref = step.member()
	}
	b = a.backend
	clear(a.steps[:a.depth])
	a.backend, a.depth = nil, 0
	return choices, b, nil
}

// maxNobody bounds the directors of an explanation of why there is no choice.
const maxNobody = 32

// nobody adds the choice of a director that has none, the last of the trail, and those of
// the directors below it that have none, each once: the reason is there.
func (w *walk) nobody(d *Director, choices []Choice) []Choice {
	w.begin()
	c := w.choice(d, -1, "no member may be chosen")
	choices = append(choices, c)
	for i := range d.Members {
		if len(choices) == maxNobody {
			break
		}
		ref := d.Members[i].Ref
		s := w.t.slots.at(ref)
		if c.Members[i].State != StateSick || s.Director == nil || s.refused() ||
			slices.ContainsFunc(choices, func(c Choice) bool { return c.Director == s.Name }) || !w.push(ref) {
			continue
		}
		choices = w.nobody(s.Director, choices)
		w.depth--
	}
	return choices
}

func (a *Ask) why(s *step) string {
	def := s.d.Def
	v := s.d.view.Load()
	switch {
	case s.byCookie:
		return fmt.Sprintf("the request's cookie %q leads there", def.Cookie.Name)
	case s.d.Members[s.at].Seat.Ejected(a.now) && !v.Panic():
		return "it is ejected, but nobody else may be chosen"
	case v.Panic():
		return fmt.Sprintf("panic: less than %g of the members are available, so all are used", def.Panic)
	}
	switch def.Type {
	case store.RoundRobin:
		return "its turn"
	case store.Fallback:
		if def.Sticky {
			return "the one chosen last, or the next available after it"
		}
		return "the first available"
	case store.Hash, store.Shard:
		return fmt.Sprintf("key %08x of %s", a.key(def), def.By)
	case store.LeastConnections:
		return "the fewest requests for its weight"
	case store.P2C:
		return "the less loaded of two"
	}
	return "at random, by weight"
}

// choice describes the members of a director, the last of the trail.
func (w *walk) choice(d *Director, chosen int, why string) Choice {
	c := Choice{Director: d.Name, Type: d.Def.Type, Why: why, Members: make([]MemberState, len(d.Members))}
	shares := d.view.Load().Shares()
	for i := range d.Members {
		m := &d.Members[i]
		c.Members[i] = MemberState{Name: m.Name, State: w.state(d, i), Weight: m.Weight, Share: shares[i], Chosen: i == chosen}
		if chosen < 0 { // the view does not know who asks, nor how deep it is
			c.Members[i].Share = 0
		}
		if c.Members[i].State == StateEjected {
			c.Members[i].Left = m.Seat.Until() - w.now
		}
	}
	return c
}

func (w *walk) state(d *Director, i int) State {
	m := &d.Members[i]
	s := w.t.slots.at(m.Ref)
	switch {
	case s == nil || s.Backend == nil && s.Director == nil:
		return StateMissing
	case s.Director != nil && slices.Contains(w.trail[:w.depth], m.Ref):
		return StateCycle
	case s.Director != nil && w.depth == maxDepth:
		return StateTooDeep
	case s.Backend != nil && s.Backend.Def.None:
		return StateNone
	case s.Backend != nil && (s.Backend.Fault != nil || s.Backend.Pool == nil):
		return StateFault
	case s.draining():
		return StateDraining
	case s.Backend != nil && !s.Available(), s.Director != nil && !w.available(m.Ref, s):
		return StateSick
	case m.Seat.Ejected(w.now):
		return StateEjected
	case s.Backend != nil && slices.Contains(w.tried, m.Ref):
		return StateTried
	case !(m.Weight > 0):
		return StateUnused
	}
	return StateAvailable
}
