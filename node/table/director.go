package table

import (
	"sync/atomic"

	"roster/balancer"
	"roster/store"
)

// Director is one director as one table sees it. It never changes, but for what its
// view says of its members' health.
type Director struct {
	Name                        string
	Def                         *store.Director
	CreateRevision, ModRevision int64
	// Members are those that Def lists, in order, then those it selects, in name order.
	Members []balancer.Member

	run  *directorRun
	view atomic.Pointer[view] // not nil in a table that is published
}

// directorRun is what a director keeps while its name is one.
type directorRun struct {
	state   balancer.State
	stale   atomic.Bool      // what the view was made from has changed since
	active  atomic.Int64     // requests that came by directors which go by load
	latency balancer.Latency // of requests that came by directors which go by that
	ref     Ref              // of the name; it does not change while it is a director
	group   string           // the labels' group that has it, if it selects; the Applier's

	last     *balancer.View // the newest; of views.making, as are its sessions
	sessions *sessions
	seats    map[string]*balancer.Seat // of members by name, where they need them; the Applier's
}

// seat returns what is remembered of a member; nil where the definition needs nothing.
func (r *directorRun) seat(def *store.Director, name string) *balancer.Seat {
	if r.seats == nil {
		return nil
	}
	s := r.seats[name]
	if s == nil {
		s = new(balancer.Seat)
		r.seats[name] = s
	}
	return s
}

// view is a director's healthy view, with what picking needs besides.
type view struct {
	*balancer.View
	edit      uint64    // that made the table which it is of
	ready     bool      // there is a choice, whatever members say that are directors
	out       bool      // somebody is ejected here or below
	directors []int32   // positions of those, weight 0 left out
	sessions  *sessions // nil: no cookie
}

// byLoad says whether a director looks at the requests of its members.
func byLoad(t store.DirectorType) bool { return t == store.LeastConnections || t == store.P2C }
