package balancer

import "math"

// maxLooks is how many members least_connections looks at for one request.
const maxLooks = 256

// leastConnections takes the first idle member from a moving start on, else the
// one that would have the fewest requests for its weight. The start moves as
// round_robin's choice does, so idle members get shares by weight.
func (v *View) leastConnections(q *Query, m Members) int {
	n := len(v.live)
	if n == 0 {
		return -1
	}
	turn := v.cursor(q)
	k := int(turn % uint64(n))
	if v.sums != nil {
		k = v.find(unit(turn * golden))
	}
	best, least := -1, math.Inf(1)
	for range min(n, maxLooks) {
		if at := int(v.live[k]); v.may(at, m) {
			active := m.Active(at)
			if active <= 0 {
				return at
			}
			if load := float64(active+1) / v.weightOf(k); load < least {
				best, least = at, load
			}
		}
		if k++; k == n {
			k = 0
		}
	}
	return best
}

// p2c draws two members by weight and takes the one whose next request should be
// answered first: its latency, times the requests there for its weight and the new
// one. Of members that weigh the same it draws two different ones; of others it
// may draw one twice, else two members would have even shares whatever their
// weights.
func (v *View) p2c(m Members) int {
	n := len(v.live)
	if n == 0 {
		return -1
	}
	for range redraws {
		a := v.find(unit(v.state.random()))
		b := a
		if v.sums != nil {
			b = v.find(unit(v.state.random()))
		} else if n > 1 {
			if b = int(unit(v.state.random()) * float64(n-1)); b >= a {
				b++
			}
		}
		switch okA, okB := v.may(int(v.live[a]), m), a != b && v.may(int(v.live[b]), m); {
		case okA && okB && v.quicker(b, a, m):
			return int(v.live[b])
		case okA:
			return int(v.live[a])
		case okB:
			return int(v.live[b])
		}
	}
	return -1
}

// quicker says whether the a-th of live is expected to answer before the b-th. One
// whose latency is not known is tried when idle, and counts as being like the
// other one when busy.
func (v *View) quicker(a, b int, m Members) bool {
	atA, atB := int(v.live[a]), int(v.live[b])
	activeA, activeB := max(m.Active(atA), 0), max(m.Active(atB), 0)
	latencyA, latencyB := float64(m.Latency(atA)), float64(m.Latency(atB))
	if latencyA <= 0 && activeA > 0 {
		latencyA = latencyB
	}
	if latencyB <= 0 && activeB > 0 {
		latencyB = latencyA
	}
	if latencyA <= 0 && latencyB <= 0 {
		latencyA, latencyB = 1, 1
	}
	return latencyA*(1+float64(activeA)/v.weightOf(a)) < latencyB*(1+float64(activeB)/v.weightOf(b))
}
