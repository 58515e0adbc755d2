package balancer

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"roster/store"
)

// State is what a director keeps while its name is one, whatever its definition:
// the cursor of its turns, the choice of a sticky fallback, who is ejected, its
// retry budget. The zero value is ready. All methods may be called at any time
// from any goroutine, but View from one at a time.
type State struct {
	// Rand gives the random numbers instead of math/rand/v2, unless nil: for tests,
	// set before the first use.
	Rand func() uint64

	seated bool // the last view's members had seats

	mu      sync.Mutex
	ejected []*Seat // guarded by mu: some may have come back since
	views   uint64  // guarded by mu: made while somebody was ejected

	// Each request moves the cursor; the fields above are read by each.
	_      [64]byte
	cursor atomic.Uint64
	sticky atomic.Uint64 // see View.place
	_      [64]byte
	budget Budget
}

// Budget is the director's retry budget.
func (s *State) Budget() *Budget { return &s.budget }

func (s *State) random() uint64 {
	if s.Rand != nil {
		return s.Rand()
	}
	return rand.Uint64()
}

// unit makes a number in [0,1) of 64 random bits.
func unit(bits uint64) float64 { return float64(bits>>11) / (1 << 53) }

// Report tells how a request to a member ended, as far as that says something
// about the member: ok, or by its fault. It answers whether the member was ejected
// for it, which it is when def has an outlier, the last Consecutive requests to it
// failed, and of members no more than MaxShare would be ejected at once; one may
// always be where there are two or more and MaxShare is above 0.
//
// An ejection lasts Ejection times the number of ejections so far, at most
// MaxEjection; for each Ejection spent without a new one, one is forgiven. What
// comes in while the member is ejected does not count.
func (s *State) Report(def *store.Director, members int, seat *Seat, ok bool, now time.Duration) (ejected bool) {
	o := def.Outlier
	if o == nil || seat == nil {
		return false
	}
	if ok {
		if seat.failures.Load() != 0 {
			seat.failures.Store(0)
		}
		return false
	}
	if seat.Ejected(now) || seat.failures.Add(1) < int64(o.Consecutive) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ejected = slices.DeleteFunc(s.ejected, func(e *Seat) bool { return !e.Ejected(now) })
	if seat.Ejected(now) || seat.failures.Load() < int64(o.Consecutive) || len(s.ejected) >= mayEject(o.MaxShare, members) {
		return false
	}
	if last := seat.until.Load(); last != 0 && o.Ejection > 0 {
		forgiven := (int64(now) - last) / int64(o.Ejection)
		seat.times = int(max(int64(seat.times)-forgiven, 0))
	}
	seat.times++
	length := o.MaxEjection
	if int64(seat.times) <= int64(o.MaxEjection/max(o.Ejection, 1)) {
		length = o.Ejection * time.Duration(seat.times)
	}
	seat.until.Store(int64(now + length))
	seat.failures.Store(0)
	s.ejected = append(s.ejected, seat)
	return true
}

// readmit ends the ejections of those who are not among members any more, and of all
// where def has no outlier.
func (s *State) readmit(def *store.Director, members []Member) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ejected) == 0 {
		return
	}
	s.views++
	for i := range members {
		if seat := members[i].Seat; seat != nil && def.Outlier != nil {
			seat.viewed = s.views
		}
	}
	s.ejected = slices.DeleteFunc(s.ejected, func(e *Seat) bool {
		if e.viewed == s.views {
			return false
		}
		e.until.Store(0)
		return true
	})
}

// mayEject is how many of n members may be ejected at once.
func mayEject(share float64, n int) int {
	if share <= 0 || n < 2 {
		return 0
	}
	return max(int(share*float64(n)), 1)
}
