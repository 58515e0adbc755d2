package balancer

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// ring is shard's ring: points in order, each belonging to a member. It is
// Varnish's (vmod_directors_shard_cfg.c): the points of a member are Hash of its
// name and n, for n = 0 to replicas times its weight - 1. Points that are equal,
// whose order Varnish leaves open, are in the order of their members' names, so
// that a ring does not depend on how it came about.
//
// Points are in buckets, which rings of one director share: a member that joins or
// leaves costs the buckets that its points are in. So that others' points stay as they
// are when positions move, their owners are numbers that a member keeps.
type ring struct {
	replicas int
	size     int       // points
	shift    int       // a point is in the bucket that it is when shifted right by this
	buckets  [][]point // each in order

	members []Member
	counts  []int32 // by position: how many points; 0 for those without weight and all places of a name but its first
	owners  []int32 // by position: the member's number; -1 where it has no points
	at      []int32 // by number: the member's position; -1 = nobody has the number
	free    []int32 // those numbers
	twice   bool    // a name is there twice
}

// maxPoints bounds a ring, at 256 MiB. Varnish's limit is 2^32, shared among the
// members as here: each has at most maxPoints divided by their number.
const maxPoints = 1 << 25

// perBucket is how many points a bucket has at most, and half of them at least, when a
// ring is laid out: which it is anew when it has grown or shrunk to twice or half of that.
const perBucket = 128

// point is a point with its owner's number in the lower half.
type point uint64

func (p point) at() uint32   { return uint32(p >> 32) }
func (p point) owner() int32 { return int32(uint32(p)) }

// pointsOf is how many points a member has, of so many members.
func pointsOf(weight float64, replicas, members int) int32 {
	if !(weight > 0) {
		return 0
	}
	return int32(min(max(math.Floor(weight*float64(replicas)), 1), float64(maxPoints/members)))
}

// renew is the ring of members: the old view's, if that is the same, else one made
// of it by dropping the points of who left or weighs something else, and adding
// those of who is new.
func renew(old *View, replicas int, members []Member) *ring {
	was := &ring{replicas: replicas, shift: 32, buckets: make([][]point, 1)}
	if old != nil && old.ring != nil && old.ring.replicas == replicas {
		if was = old.ring; len(members) == len(old.members) && (len(members) == 0 || &members[0] == &old.members[0]) {
			return was
		}
	}
	r := &ring{replicas: replicas, size: was.size, shift: was.shift, members: members,
		counts: make([]int32, len(members)), owners: make([]int32, len(members))}
	// Most members are as they were, but for some in between.
	head, tail := 0, 0
	if !was.twice {
		same := func(i, j int) bool {
			return was.members[i].Name == members[j].Name && was.counts[i] == pointsOf(members[j].Weight, replicas, len(members))
		}
		n := min(len(was.members), len(members))
		for head < n && same(head, head) {
			head++
		}
		for tail < n-head && same(len(was.members)-1-tail, len(members)-1-tail) {
			tail++
		}
	}
	before, now := was.members[head:len(was.members)-tail], members[head:len(members)-tail]
	first := make(map[string]int32, len(now)) // position in members, of each name of now
	for i := range now {
		if _, twice := first[now[i].Name]; twice {
			r.twice = true
		} else if now[i].Weight > 0 {
			first[now[i].Name] = int32(head + i)
		}
	}
	if head+tail > 0 && r.anotherOf(was, before, first, head, tail) {
		head, tail, before, now = 0, 0, was.members, members
		clear(first)
		r.twice = true
		for i := range now {
			if _, twice := first[now[i].Name]; !twice && now[i].Weight > 0 {
				first[now[i].Name] = int32(i)
			}
		}
	}
	if len(before) == 0 && len(now) == 0 {
		return was
	}

	copy(r.counts, was.counts[:head])
	copy(r.owners, was.owners[:head])
	copy(r.counts[len(members)-tail:], was.counts[len(was.members)-tail:])
	copy(r.owners[len(members)-tail:], was.owners[len(was.members)-tail:])
	weights := make([]float64, len(now)) // of all places of the name
	for i := range now {
		if now[i].Weight > 0 {
			weights[int(first[now[i].Name])-head] += now[i].Weight
		}
	}
	for i, w := range weights {
		r.counts[head+i] = pointsOf(w, replicas, len(members))
		r.owners[head+i] = -1
	}
	r.free = slices.Clone(was.free)
	var gone, joined []point // of the old ring, and of the new one
	for i := range before {
		owner, count := was.owners[head+i], was.counts[head+i]
		if owner < 0 {
			continue
		}
		if at, ok := first[before[i].Name]; ok && r.counts[at] == count {
			r.owners[at] = owner
			continue
		}
		gone = appendPoints(gone, before[i].Name, owner, count)
		r.free = append(r.free, owner)
	}
	numbers := len(was.at)
	for i := range now {
		at := head + i
		if r.counts[at] == 0 || r.owners[at] >= 0 {
			continue
		}
		if n := len(r.free); n > 0 {
			r.owners[at], r.free = r.free[n-1], r.free[:n-1]
		} else {
			r.owners[at] = int32(numbers)
			numbers++
		}
		joined = appendPoints(joined, now[i].Name, r.owners[at], r.counts[at])
	}
	r.at = make([]int32, numbers)
	for i := range r.at {
		r.at[i] = -1
	}
	for at, owner := range r.owners {
		if owner >= 0 {
			r.at[owner] = int32(at)
		}
	}
	r.size += len(joined) - len(gone)
	r.merge(was, gone, joined)
	return r
}

// anotherOf says whether a name of now that had no points among before is also among
// those members that did not change.
func (r *ring) anotherOf(was *ring, before []Member, first map[string]int32, head, tail int) bool {
	among := make(map[string]struct{}, len(before))
	for i := range before {
		if was.owners[head+i] >= 0 {
			among[before[i].Name] = struct{}{}
		}
	}
	var joins []string // few, or they are looked up
	for name := range first {
		if _, is := among[name]; !is {
			joins = append(joins, name)
		}
	}
	is := func(name string) bool { return slices.Contains(joins, name) }
	if len(joins) > 8 {
		is = func(name string) bool { _, ok := first[name]; return ok }
	}
	if len(joins) == 0 {
		return false
	}
	for i := range r.members {
		if (i < head || i >= len(r.members)-tail) && is(r.members[i].Name) {
			return true
		}
	}
	return false
}

// appendPoints appends a member's points.
func appendPoints(points []point, name string, owner, count int32) []point {
	points = slices.Grow(points, int(count))
	ident := append(make([]byte, 0, 64), name...)
	for j := range int64(count) {
		points = append(points, point(Hash(strconv.AppendInt(ident, j, 10)))<<32|point(owner))
	}
	return points
}

// merge fills in the buckets: was's, without gone and with joined.
func (r *ring) merge(was *ring, gone, joined []point) {
	slices.Sort(gone)
	slices.Sort(joined)
	for i := 1; i < len(joined); i++ {
		if joined[i].at() == joined[i-1].at() {
			end := i + 1
			for end < len(joined) && joined[end].at() == joined[i].at() {
				end++
			}
			slices.SortFunc(joined[i-1:end], r.compare)
			i = end
		}
	}
	from := was.buckets
	if want := 32 - min(bits.Len(uint(r.size/perBucket)), 20); want < r.shift-1 || want > r.shift+1 {
		r.shift = want
		from = make([][]point, 1<<(32-want))
		for _, bucket := range was.buckets {
			for _, p := range bucket {
				b := p.at() >> want
				from[b] = append(from[b], p)
			}
		}
		r.buckets = from
	} else {
		r.buckets = slices.Clone(from)
	}
	for len(gone)+len(joined) > 0 {
		var b uint32
		switch {
		case len(joined) == 0, len(gone) > 0 && gone[0].at() < joined[0].at():
			b = gone[0].at() >> r.shift
		default:
			b = joined[0].at() >> r.shift
		}
		goes, comes := 0, 0
		for goes < len(gone) && gone[goes].at()>>r.shift == b {
			goes++
		}
		for comes < len(joined) && joined[comes].at()>>r.shift == b {
			comes++
		}
		r.buckets[b] = r.mergeBucket(from[b], gone[:goes], joined[:comes])
		gone, joined = gone[goes:], joined[comes:]
	}
}

// mergeBucket is old without gone, and with joined.
func (r *ring) mergeBucket(old, gone, joined []point) []point {
	points := make([]point, 0, len(old)-len(gone)+len(joined))
	for _, p := range old {
		if _, is := slices.BinarySearch(gone, p); is {
			continue
		}
		for len(joined) > 0 && r.compare(joined[0], p) < 0 {
			points, joined = append(points, joined[0]), joined[1:]
		}
		points = append(points, p)
	}
	return append(points, joined...)
}

// compare is the order of points.
func (r *ring) compare(a, b point) int {
	switch {
	case a.at() < b.at():
		return -1
	case a.at() > b.at():
		return 1
	}
	return strings.Compare(r.members[r.at[a.owner()]].Name, r.members[r.at[b.owner()]].Name)
}

// lookup is the bucket, and the index there, of the first point not below key; above
// the last point it is the last one, without going round, as in Varnish's code. The
// ring is not empty.
func (r *ring) lookup(key uint32) (bucket, i int) {
	bucket = int(key >> r.shift)
	i, _ = slices.BinarySearch(r.buckets[bucket], point(key)<<32)
	if i < len(r.buckets[bucket]) {
		return bucket, i
	}
	for b := bucket + 1; b < len(r.buckets); b++ {
		if len(r.buckets[b]) > 0 {
			return b, 0
		}
	}
	for len(r.buckets[bucket]) == 0 {
		bucket--
	}
	return bucket, len(r.buckets[bucket]) - 1
}
