package prober

import (
	"container/heap"
	"encoding/binary"
	"time"
)

// slowAfter is how long a probe may hold one of the places of quick ones.
const slowAfter = 250 * time.Millisecond

// localRetry is how soon a check is tried again after a fault of this machine,
// which is as long as the pool holds such an address.
const localRetry = time.Second

// speed is which half of the places a probe takes.
type speed uint8

const (
	quick speed = iota
	slow
)

// A schedule says which prober's turn it is. Times are by the Manager's clock.
//
// A prober is in one place at a time: asleep in the heap, waiting in the line of
// its speed, or running in one of the places of its speed. A line is first come,
// first served, so a prober waits for those that were due before it, and only
// as long as places are taken: of quick ones at most slowAfter, since a probe that
// takes longer moves over to the slow ones' places if there is one. So probes of
// backends that never answer wait for each other, and not the others for them. A
// check whose last probe took longer than slowAfter begins as a slow one.
type schedule struct {
	asleep  dueHeap
	waiting [2]line
	running [2]line
	places  int // of each speed
}

// add puts a prober to sleep until pr.due.
func (s *schedule) add(pr *prober) { heap.Push(&s.asleep, pr) }

// remove takes a prober off the heap or out of its line. One that runs stays
// until its probe has ended.
func (s *schedule) remove(pr *prober) {
	switch {
	case pr.index >= 0:
		heap.Remove(&s.asleep, pr.index)
	case pr.line != nil && !pr.busy:
		pr.line.remove(pr)
	}
}

// next takes the prober that is to be probed now, nil if there is none.
func (s *schedule) next(now time.Duration) *prober {
	for len(s.asleep) > 0 && s.asleep[0].due <= now {
		pr := heap.Pop(&s.asleep).(*prober)
		s.waiting[pr.speed].push(pr)
	}
	for v := range s.waiting {
		if s.waiting[v].first == nil {
			continue
		}
		if s.running[v].n >= s.places && !(speed(v) == quick && s.moveOver(now)) {
			continue
		}
		pr := s.waiting[v].first
		s.waiting[v].remove(pr)
		s.running[v].push(pr)
		pr.busy, pr.started = true, now
		return pr
	}
	return nil
}

// moveOver makes the place of a quick one free whose probe is not quick any more.
func (s *schedule) moveOver(now time.Duration) bool {
	pr := s.running[quick].first
	if pr == nil || pr.started+slowAfter > now || s.running[slow].n >= s.places {
		return false
	}
	s.running[quick].remove(pr)
	pr.speed = slow
	s.running[slow].push(pr)
	return true
}

// until returns how long there is nothing to do. It is for after next returned nil.
func (s *schedule) until(now time.Duration) time.Duration {
	const forever = time.Hour
	wait := forever
	if len(s.asleep) > 0 {
		wait = min(wait, s.asleep[0].due-now)
	}
	if s.waiting[quick].first != nil && s.running[slow].n < s.places {
		wait = min(wait, s.running[quick].first.started+slowAfter-now)
	}
	return max(wait, 0)
}

// end takes a prober out of its place.
func (s *schedule) end(pr *prober, now time.Duration) {
	s.running[pr.speed].remove(pr)
	pr.busy = false
	pr.speed = quick
	if now-pr.started > slowAfter {
		pr.speed = slow
	}
}

// dueHeap is a container/heap by due time.
type dueHeap []*prober

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

func (h *dueHeap) Push(x any) {
	pr := x.(*prober)
	pr.index = len(*h)
	*h = append(*h, pr)
}

func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	pr := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	pr.index = -1
	return pr
}

// line is a list of probers in order of arrival, linked through them.
type line struct {
	first, last *prober
	n           int
}

func (l *line) push(pr *prober) {
	pr.line, pr.before, pr.after = l, l.last, nil
	if l.last != nil {
		l.last.after = pr
	} else {
		l.first = pr
	}
	l.last = pr
	l.n++
}

func (l *line) remove(pr *prober) {
	if pr.before != nil {
		pr.before.after = pr.after
	} else {
		l.first = pr.after
	}
	if pr.after != nil {
		pr.after.before = pr.before
	} else {
		l.last = pr.before
	}
	pr.line, pr.before, pr.after = nil, nil, nil
	l.n--
}

// pause is the time from the end of a check's nth probe (from 1 on) to the start
// of its next. That is the interval, but two percent more or less, so that no two
// checks stay in step; and after the first a part of the interval that depends
// on node and check, because all the first ones were at once.
func pause(node uint64, key Key, n uint64, interval time.Duration) time.Duration {
	r := mix(node ^ binary.LittleEndian.Uint64(key[:8]) ^ n*0x9e3779b97f4a7c15)
	part := float64(r>>11) / (1 << 53) // 0 to 1
	if n > 1 {
		part = 0.98 + 0.04*part
	}
	return max(time.Duration(part*float64(min(interval, longest))), 1)
}

// longest is an interval, 73 years, that can be added to any time without
// overflow. Definitions may have up to 292.
const longest = 1 << 61

// mix is the finaliser of splitmix64: all bits of x in all bits of the result.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
