package balancer

import (
	"time"

	"roster/store"
)

// weigh fills in sums and guide, unless all of live weigh the same.
func (v *View) weigh(now time.Duration) {
	n := len(v.live)
	if n == 0 {
		return
	}
	var sums []float64
	if v.def.Type == store.Hash {
		sums = make([]float64, n) // always: Varnish's arithmetic is what hash promises
	}
	first, sum, ramping := v.weight(int(v.live[0]), now), 0.0, false
	for k, at := range v.live {
		w := v.weight(int(at), now)
		if sums == nil && w != first {
			sums = make([]float64, n)
			for j, before := 0, 0.0; j < k; j++ {
				before += first
				sums[j] = before
			}
		}
		if sum += w; sums != nil {
			sums[k] = sum
		}
		ramping = ramping || w < v.members[at].Weight
	}
	if ramping {
		v.wake(now + max(v.def.SlowStart/rampSteps, minStep))
	}
	if sums == nil {
		return
	}
	guide := make([]int32, n+1)
	k := 0
	for b := range n {
		for bound := sum * (float64(b) / float64(n)); k < n-1 && sums[k] <= bound; {
			k++
		}
		guide[b] = int32(k)
	}
	guide[n] = int32(n - 1)
	v.sums, v.guide = sums, guide
}

// weight is the member's weight now.
func (v *View) weight(i int, now time.Duration) float64 {
	member := &v.members[i]
	if v.def.SlowStart > 0 {
		if grown := member.Seat.grown(v.def.SlowStart, now); grown < 1 {
			return member.Weight * (firstShare + (1-firstShare)*grown)
		}
	}
	return member.Weight
}

// find returns the first index into live whose running sum is above u times the
// whole, with u in [0,1): Varnish's vdir_pick_by_weight. The guide says where to
// look: guide[b] is the answer for u = b/n, so that a search takes near constant
// time unless weights differ very much.
func (v *View) find(u float64) int {
	n := len(v.live)
	if v.sums == nil {
		return min(int(u*float64(n)), n-1)
	}
	x := u * v.sums[n-1]
	b := min(int(u*float64(n)), n-1)
	low, high := int(v.guide[b]), int(v.guide[b+1])
	// Rounding may have put x on the other side of a bucket's bound.
	for low > 0 && v.sums[low-1] > x {
		low--
	}
	for high < n-1 && v.sums[high] <= x {
		high++
	}
	for low < high {
		if mid := int(uint(low+high) >> 1); v.sums[mid] > x {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low
}

// weightOf is the weight of the k-th of live, in units in which the mean is 1.
func (v *View) weightOf(k int) float64 {
	if v.sums == nil {
		return 1
	}
	w := v.sums[k]
	if k > 0 {
		w -= v.sums[k-1]
	}
	return w * float64(len(v.live)) / v.sums[len(v.live)-1]
}
