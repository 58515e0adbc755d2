package balancer

import (
	"cmp"
	"math"
	"slices"
	"strconv"
)

// ring is shard's ring: points in order, each belonging to a member. It is
// Varnish's (vmod_directors_shard_cfg.c): the points of a member are Hash of its
// name and n, for n = 0 to replicas times its weight - 1. Points that are equal,
// whose order Varnish leaves open, are in the order of their members' names, so
// that a ring does not depend on how it came about.
type ring struct {
	replicas int
	owners   []int32  // by point: a member's position
	points   []uint32 // in order
	names    []string // by position
	counts   []int32  // by position: how many points; 0 for those without weight and all places of a name but its first
}

// maxPoints bounds a ring, at 256 MiB. Varnish's limit is 2^32, shared among the
// members as here: each has at most maxPoints divided by their number.
const maxPoints = 1 << 25

// renew is the ring of members: the old view's, if that is the same, else one made
// of it by dropping the points of who left or weighs something else, and merging
// those of who is new.
func renew(old *View, replicas int, members []Member) *ring {
	was := &ring{replicas: replicas}
	if old != nil && old.ring != nil && old.ring.replicas == replicas {
		if was = old.ring; len(members) == len(old.members) && (len(members) == 0 || &members[0] == &old.members[0]) {
			return was
		}
	}
	r := &ring{replicas: replicas, names: make([]string, len(members)), counts: make([]int32, len(members))}
	first := make(map[string]int32, len(members))
	weights := make([]float64, len(members)) // of all places of the name
	for i := range members {
		r.names[i] = members[i].Name
		if !(members[i].Weight > 0) {
			continue
		}
		at, ok := first[r.names[i]]
		if !ok {
			at = int32(i)
			first[r.names[i]] = at
		}
		weights[at] += members[i].Weight
	}
	for i, w := range weights {
		r.counts[i] = pointsOf(w, replicas, len(members))
	}
	if slices.Equal(r.counts, was.counts) && slices.Equal(r.names, was.names) {
		return was
	}

	to := make([]int32, len(was.names)) // positions, then and now; -1 = gone
	kept := make(set, (len(members)+63)/64)
	total := 0
	expect := 0 // most members are where they were, but for some that came or went before them
	for i, name := range was.names {
		to[i] = -1
		if was.counts[i] == 0 {
			continue
		}
		at, ok := int32(expect), expect < len(members) && r.names[expect] == name && r.counts[expect] > 0
		if !ok {
			at, ok = first[name]
		}
		if ok && r.counts[at] == was.counts[i] {
			to[i] = at
			kept.add(int(at))
			total += int(was.counts[i])
		}
		if ok {
			expect = int(at) + 1
		}
	}
	joined := r.fresh(kept)
	r.merge(was, to, joined, total+len(joined))
	return r
}

// pointsOf is how many points a member has, of so many members.
func pointsOf(weight float64, replicas, members int) int32 {
	if !(weight > 0) {
		return 0
	}
	return int32(min(max(math.Floor(weight*float64(replicas)), 1), float64(maxPoints/members)))
}

// point is a point with its owner's position in the lower half.
type point uint64

func (p point) at() uint32   { return uint32(p >> 32) }
func (p point) owner() int32 { return int32(uint32(p)) }

// fresh makes the points of all members but those kept, in order.
func (r *ring) fresh(kept set) []point {
	n := 0
	for i, count := range r.counts {
		if !kept.has(i) {
			n += int(count)
		}
	}
	points := make([]point, 0, n)
	var ident []byte
	for i, count := range r.counts {
		if kept.has(i) {
			continue
		}
		ident = append(ident[:0], r.names[i]...)
		for j := range int64(count) {
			points = append(points, point(Hash(strconv.AppendInt(ident, j, 10)))<<32|point(i))
		}
	}
	slices.Sort(points)
	for i := 1; i < len(points); i++ {
		if points[i].at() == points[i-1].at() {
			end := i + 1
			for end < len(points) && points[end].at() == points[i].at() {
				end++
			}
			slices.SortFunc(points[i-1:end], func(a, b point) int {
				return cmp.Compare(r.names[a.owner()], r.names[b.owner()])
			})
			i = end
		}
	}
	return points
}

// merge fills in the ring with those points of was whose owners are still there,
// and with joined, n in all.
func (r *ring) merge(was *ring, to []int32, joined []point, n int) {
	points, owners := make([]uint32, n), make([]int32, n)
	k := 0
	for i, p := range was.points {
		owner := to[was.owners[i]]
		if owner < 0 {
			continue
		}
		for len(joined) > 0 && (joined[0].at() < p || joined[0].at() == p && r.names[joined[0].owner()] < r.names[owner]) {
			points[k], owners[k] = joined[0].at(), joined[0].owner()
			joined = joined[1:]
			k++
		}
		points[k], owners[k] = p, owner
		k++
	}
	for _, p := range joined {
		points[k], owners[k] = p.at(), p.owner()
		k++
	}
	r.points, r.owners = points, owners
}

// lookup is the index of the first point not below key; above the last point it is
// the last one, without going round, as in Varnish's code. (To start where the key
// should be, as points are spread evenly, saved a quarter of 200 ns among 670,000
// points and nothing else: not worth its lines.)
func (r *ring) lookup(key uint32) int {
	i, _ := slices.BinarySearch(r.points, key)
	return min(i, len(r.points)-1)
}
