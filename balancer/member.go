package balancer

import (
	"sync/atomic"
	"time"

	"roster/store"
)

// Member is one place in a director.
type Member struct {
	Ref    uint32        // who it is: equal ones are the same backend or director
	Name   string        // what shard hashes, Varnish's ident
	Weight float64       // 0 or less = never chosen
	Rampup time.Duration // of shard; 0 = none
	Seat   *Seat         // nil where Remembers says so
}

// Members is what there is to know of a director's members at this moment, by
// position. Pick asks it for one request, View for all that will come.
type Members interface {
	// Available says whether the member may be chosen: it is there, healthy, not
	// ejected, not refused by an operator and, in Pick, not tried before by this
	// request. Weights are not its business.
	Available(i int) bool
	// Present says whether the member may be chosen where health does not count
	// (panic, shard's healthy=ignore): it is there, be it sick or ejected, not
	// refused by an operator and, in Pick, not tried before by this request. What is
	// Available is Present.
	Present(i int) bool
	// Active is the number of requests in progress there or queued for it.
	Active(i int) int
	// Latency is the member's decayed average, see Latency; 0 = not known.
	Latency(i int) time.Duration
}

// Seat is what a director remembers of a member by its name: since when it has
// been available, how many requests in a row failed, when it was ejected. It
// outlives views, changes of the director's definition and of its members, and a
// name listed twice has one. The zero value is a member never seen available.
type Seat struct {
	since    atomic.Int64 // see mark
	failures atomic.Int64 // in a row
	until    atomic.Int64 // end of the newest ejection; 0 = was never ejected

	// Guarded by State.mu.
	times  int    // ejections that still count
	viewed uint64 // State.views, when it was last a member's; kept while somebody is ejected
}

// What Seat.since holds, other than the moment since when the member has been
// available, plus one.
const (
	away    = 0
	settled = -1 // available since long ago
)

// mark notes whether the member is available now. One that becomes available
// begins to ramp, unless it is settled already.
func (s *Seat) mark(available, settle bool, now time.Duration) {
	switch since := s.since.Load(); {
	case !available:
		if since != away {
			s.since.Store(away)
		}
	case since == away && settle:
		s.since.Store(settled)
	case since == away:
		s.since.Store(int64(now) + 1)
	}
}

// grown is how far a ramp of length ramp has come, 0 to 1.
func (s *Seat) grown(ramp, now time.Duration) float64 {
	if s == nil || ramp <= 0 {
		return 1
	}
	switch since := s.since.Load(); since {
	case settled:
		return 1
	case away:
		return 0
	default:
		age := now - time.Duration(since-1)
		return min(max(float64(age)/float64(ramp), 0), 1)
	}
}

// Ejected says whether the member is ejected by its director's outlier.
func (s *Seat) Ejected(now time.Duration) bool {
	return s != nil && int64(now) < s.until.Load()
}

// Until is when the newest ejection ends or ended; 0 = there was none.
func (s *Seat) Until() time.Duration { return time.Duration(s.until.Load()) }

// Remembers says whether a director's members need Seats.
func Remembers(def *store.Director) bool {
	if def.SlowStart > 0 || def.Rampup > 0 || def.Outlier != nil {
		return true
	}
	for i := range def.Members {
		if def.Members[i].Rampup > 0 {
			return true
		}
	}
	return false
}
