package balancer

import (
	"slices"

	"roster/store"
)

// maxAlternative bounds the members that one choice passes over for a retry; a
// route has at most 100 retries.
const maxAlternative = 128

// walk is a way along a ring, from a key's point once round.
type walk struct {
	ring   *ring
	bucket int
	i      int // there, of the next point
	left   int // points to go

	seen [maxAlternative + 1]int32 // members that are not to come again
	n    int
}

// walk begins at a key's point. The ring is not empty.
func (r *ring) walk(key uint32) walk {
	w := walk{ring: r, left: r.size}
	w.bucket, w.i = r.lookup(key)
	return w
}

// next is the next member on the way, -1 at its end. A member that is not passed
// comes again.
func (w *walk) next() int {
	for w.left > 0 {
		points := w.ring.buckets[w.bucket]
		if w.i == len(points) {
			w.i = 0
			if w.bucket++; w.bucket == len(w.ring.buckets) {
				w.bucket = 0
			}
			continue
		}
		at := w.ring.at[points[w.i].owner()]
		w.i++
		w.left--
		if !slices.Contains(w.seen[:w.n], at) {
			return int(at)
		}
	}
	return -1
}

// pass says that a member is not to come again.
func (w *walk) pass(at int) {
	w.seen[w.n] = int32(at)
	w.n++
}

// seek is the next member on the way for which both was and may hold; a nil was
// holds for all.
func (w *walk) seek(was set, may func(int) bool) int {
	for at := w.next(); at >= 0; at = w.next() {
		if (was == nil || was.has(at)) && may(at) {
			return at
		}
	}
	return -1
}

// shard chooses as Varnish's shard director does (vmod_directors_shard_dir.c): the
// member of the key's point, or the next on the ring that may be chosen. The nth
// retry passes over n members first: those that are there, or with healthy=all
// those that were healthy. When the ring is at its end, it is the last one passed
// that may be chosen (Varnish knows it only if it was not the last passed).
func (v *View) shard(q *Query, m Members) int {
	may, was := m.Available, v.chosen
	if v.panic {
		may = m.Present
	}
	ignore := v.def.Healthy == store.HealthyIgnore
	if ignore {
		may, was = m.Present, v.present
	}
	if v.ring.size == 0 {
		return -1
	}
	w := v.ring.walk(q.Key)
	counts := v.present
	if v.def.Healthy == store.HealthyAll {
		counts = v.chosen
	}
	last := -1
	for alt := min(q.Retry, len(v.members)-1, maxAlternative); alt > 0; {
		at := w.next()
		if at < 0 {
			break
		}
		if !counts.has(at) {
			continue
		}
		w.pass(at)
		alt--
		if may(at) {
			last = at
		}
	}
	at := -1
	if len(v.live) > 0 || ignore {
		at = w.seek(was, may)
	}
	if at < 0 {
		at = last
	}
	if at < 0 {
		return v.stale(q, m, may)
	}
	if q.Retry > 0 || ignore || !v.ramps && v.def.Warmup == 0 {
		return at
	}
	return v.ramp(at, &w, was, may, q)
}

// ramp gives a part of the requests to the next member: those that one which ramps
// up cannot take yet, or those that warm the next one up.
func (v *View) ramp(at int, w *walk, was set, may func(int) bool, q *Query) int {
	member := &v.members[at]
	grown := member.Seat.grown(member.Rampup, q.Now)
	if grown >= 1 && v.def.Warmup == 0 {
		return at
	}
	w.pass(at)
	other := w.seek(was, may)
	if other < 0 {
		return at
	}
	if grown < 1 {
		next := &v.members[other]
		if next.Seat.grown(next.Rampup, q.Now) < 1 || unit(v.state.random()) < grown {
			return at
		}
		return other
	}
	if unit(v.state.random()) >= v.def.Warmup {
		return at
	}
	return other
}

// stale chooses when none that could be chosen as the view was made may be now.
func (v *View) stale(q *Query, m Members, may func(int) bool) int {
	any := func(ok func(int) bool) bool {
		for i := range v.members {
			if v.members[i].Weight > 0 && ok(i) {
				return true
			}
		}
		return false
	}
	switch {
	case any(may):
	case v.def.Panic > 0 && any(m.Present):
		may = m.Present
	default:
		return -1 // at less cost than the ring's
	}
	w := v.ring.walk(q.Key)
	return w.seek(nil, may)
}
