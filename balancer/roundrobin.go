package balancer

import "slices"

// cursor is the number of the turn, and goes on to the next. For a retry it is any
// number, and takes nobody's turn: if it took the next, then of two members, one of
// which fails, that one would be the first choice of every request, and not of every
// other.
func (v *View) cursor(q *Query) uint64 {
	if q.Peek {
		return v.state.cursor.Load()
	}
	if q.Retry > 0 {
		return v.state.random()
	}
	return v.state.cursor.Add(1) - 1
}

// golden is 2^64 divided by the golden ratio: multiples of it, modulo 2^64, fill
// the range more evenly than those of any other number.
const golden = 0x9E3779B97F4A7C15

// roundRobin takes exact turns among members of equal weight: the first from the
// cursor on that may be chosen, and the cursor moves past it, as in Varnish.
// Among others a turn goes to each as often as its weight says, and as evenly as
// it can be without a lock: multiples of the golden ratio, looked up in the sums.
func (v *View) roundRobin(q *Query, m Members) int {
	n := len(v.live)
	if n == 0 {
		return -1
	}
	if q.Retry > 0 {
		return v.random(m)
	}
	if v.sums != nil {
		for range redraws {
			if at := int(v.live[v.find(unit(v.cursor(q)*golden))]); v.may(at, m) {
				return at
			}
			if q.Peek {
				break
			}
		}
		return -1
	}
	k := int((v.cursor(q) + v.offset) % uint64(n))
	for i := range n {
		if at := int(v.live[k]); v.may(at, m) {
			if i > 0 && !q.Peek {
				v.state.cursor.Add(uint64(i))
			}
			return at
		}
		if k++; k == n {
			k = 0
		}
	}
	return -1
}

// redraws is how often a choice by chance is made again when it fell on a member
// that is not available any more, before all are looked at.
const redraws = 8

// resume lets turns go on with the member after the last one's, though there are
// more or fewer to take turns now.
func (v *View) resume(old *View) {
	n := uint64(len(v.live))
	if n == 0 || old == nil || old.sums != nil || len(old.live) == 0 {
		return
	}
	cursor := v.state.cursor.Load()
	due := old.live[(cursor+old.offset)%uint64(len(old.live))]
	low, _ := slices.BinarySearch(v.live, due)
	v.offset = (uint64(low) + n - cursor%n) % n
}
