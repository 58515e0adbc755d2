package pool

import (
	"sync"
	"sync/atomic"
	"time"
)

// A Lane keeps idle Links for one thread that serves many, so that threads do not
// meet at each connection they take or put back.
type Lane struct {
	m     *Manager
	index int
	close func([]*Link)
	since func() time.Duration // the Manager's clock, or UseClock's, which
	began time.Duration        // began when it said so
	ended atomic.Bool
}

// NewLane returns a Lane. close gets Links that were idle in it and are no more;
// whoever serves the Lane must close their descriptors. It is called from any
// goroutine, also from that of an Idle or a Drain, without a lock being held, and must
// not wait.
//
// The Manager keeps a Lane for good: there should be one for each thread.
func (m *Manager) NewLane(close func([]*Link)) *Lane {
	m.mu.Lock()
	defer m.mu.Unlock()
	ln := &Lane{m: m, index: m.lanes, close: close, since: m.now}
	m.lanes++
	return ln
}

// UseClock has the thread's own clock, which may be a turn late, tell how long it is since
// start. To be called before the Lane is used.
func (ln *Lane) UseClock(start time.Time, since func() time.Duration) {
	ln.since, ln.began = since, start.Sub(ln.m.start)
}

func (ln *Lane) now() time.Duration { return ln.began + ln.since() }

// End closes what is idle in the Lane, and lets nothing be put there any more.
func (ln *Lane) End() {
	ln.ended.Store(true)
	for _, s := range ln.m.all() {
		s.mu.Lock()
		x := s.linksAt(ln.index)
		s.mu.Unlock()
		if x != nil {
			x.end(true)
		}
	}
}

// links are what one shared has idle in one Lane. To be locked after the shared's mu
// if both are.
type links struct {
	lane *Lane

	mu             sync.Mutex
	newest, oldest *Link
	idle           int32
	active         int32 // what is to be added to the shared's, may be negative
	visit          int32 // tick at which the janitor comes, 0: none is due
	retired        bool
	reused, closed uint64 // to be added to the shared's
}

// linksAt returns the links of a Lane, nil if it never had any.
func (s *shared) linksAt(index int) *links {
	if all := s.lanes.Load(); all != nil && index < len(*all) {
		return (*all)[index]
	}
	return nil
}

// linksOf returns the links of a Lane.
func (s *shared) linksOf(ln *Lane) *links {
	if x := s.linksAt(ln.index); x != nil {
		return x
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if x := s.linksAt(ln.index); x != nil {
		return x
	}
	var all []*links
	if old := s.lanes.Load(); old != nil {
		all = append(all, *old...)
	}
	for len(all) <= ln.index {
		all = append(all, nil)
	}
	x := &links{lane: ln, retired: s.retired || ln.ended.Load()}
	all[ln.index] = x
	s.lanes.Store(&all)
	return x
}

// allLinks returns those of all Lanes that ever had any; some are nil.
func (s *shared) allLinks() []*links {
	if all := s.lanes.Load(); all != nil {
		return *all
	}
	return nil
}

// Idle returns the Link that was put into the Lane last, else one of another Lane, if
// that can be had without waiting; nil if there is none. The socket is the caller's to
// look at: its backend may have closed it.
func (p *Pool) Idle(ln *Lane) *Link {
	all := p.allLinks()
	if len(all) == 0 || p.noReuse {
		return nil
	}
	now := ln.now()
	if x := p.linksAt(ln.index); x != nil {
		x.mu.Lock()
		if l := x.takeAndUnlock(p, now); l != nil {
			return l
		}
	}
	for i := range all {
		x := all[(ln.index+1+i)%len(all)]
		if x == nil || x.lane == ln || !x.mu.TryLock() {
			continue
		}
		if l := x.takeAndUnlock(p, now); l != nil {
			l.stolen = true
			return l
		}
	}
	return nil
}

// takeAndUnlock returns the newest Link that is fit for use, closing those that are not.
func (x *links) takeAndUnlock(p *Pool, now time.Duration) *Link {
	var unfit []*Link
	l := x.newest
	for ; l != nil; l = x.newest {
		if l.fit(now) {
			x.unlinkLocked(l)
			x.active++
			x.reused++
			break
		}
		x.removeLocked(l)
		unfit = append(unfit, l)
	}
	x.mu.Unlock()
	x.close(unfit)
	if l != nil {
		l.pool, l.from, l.reused, l.stolen = p, x.lane, true, false
	}
	return l
}

// put makes l idle. It is false if nothing is kept here.
func (x *links) put(l *Link) bool {
	p := l.pool
	expires, visit := p.idleUntil(x.lane.now())
	x.mu.Lock()
	if x.retired || p.draining.Load() { // that is looked at here, or Drain might miss l
		x.mu.Unlock()
		return false
	}
	l.expires = expires
	l.at.Store(x)
	if l.older = x.newest; l.older != nil {
		l.older.newer = l
	} else {
		x.oldest = l
	}
	x.newest = l
	x.idle++
	x.active--
	register := x.visitLocked(visit)
	x.mu.Unlock()
	if register {
		p.shared.visitBy(visit)
	}
	return true
}

// visitBy makes sure that the janitor comes at a tick or before.
func (s *shared) visitBy(tick int64) {
	s.mu.Lock()
	register := s.visit == 0 || tick < s.visit
	if register {
		s.visit = tick
	}
	s.mu.Unlock()
	if register {
		s.m.janitor.register(s, tick)
	}
}

// unlinkLocked takes l from the list.
func (x *links) unlinkLocked(l *Link) {
	if l.newer != nil {
		l.newer.older = l.older
	} else {
		x.newest = l.older
	}
	if l.older != nil {
		l.older.newer = l.newer
	} else {
		x.oldest = l.newer
	}
	l.newer, l.older = nil, nil
	l.at.Store(nil)
	x.idle--
}

// removeLocked takes l from the list for closing.
func (x *links) removeLocked(l *Link) {
	x.unlinkLocked(l)
	l.closed = true
	x.closed++
}

// remove takes l from the list for closing. It is false if it is not there any more.
func (x *links) remove(l *Link) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if l.at.Load() != x {
		return false
	}
	x.removeLocked(l)
	return true
}

// close hands what was removed to who serves the Lane.
func (x *links) close(removed []*Link) {
	if len(removed) > 0 {
		x.lane.close(removed)
	}
}

// end closes all that are idle; retire lets nothing be put any more.
func (x *links) end(retire bool) {
	x.mu.Lock()
	x.retired = x.retired || retire
	removed := make([]*Link, 0, x.idle)
	for x.newest != nil {
		removed = append(removed, x.newest)
		x.removeLocked(x.newest)
	}
	x.mu.Unlock()
	x.close(removed)
}

// endLinks closes the idle Links of all Lanes.
func (s *shared) endLinks(retire bool) {
	for _, x := range s.allLinks() {
		if x != nil {
			x.end(retire)
		}
	}
}

// sweep closes Links that are over their time or lead to an address that is gone. The
// others' next visit is in x.visit then.
func (x *links) sweep(now time.Duration) {
	var removed []*Link
	x.mu.Lock()
	x.visit = 0 // what is put from here on says itself when it is to be visited
	for l, seen := x.oldest, 1; l != nil; seen++ {
		newer := l.newer
		visit := tickOf(now) + sweepTicks
		if l.fit(now) {
			if l.expires != 0 {
				visit = min(visit, tickOf(l.expires)+1)
			}
			x.visitLocked(visit)
		} else {
			x.removeLocked(l)
			removed = append(removed, l)
		}
		if l = newer; l != nil && seen%sweepChunk == 0 {
			x.mu.Unlock() // its Lane's thread may wait
			x.mu.Lock()
			if l.at.Load() != x {
				x.visitLocked(tickOf(now) + 1) // for what is behind it
				break
			}
		}
	}
	x.mu.Unlock()
	x.close(removed)
}

// visitLocked notes that the janitor has to come at a tick or before. It is false if it
// would anyway.
func (x *links) visitLocked(tick int64) bool {
	if x.visit != 0 && int64(x.visit) <= tick {
		return false
	}
	x.visit = int32(tick)
	return true
}

// visitLinksLocked is the tick of the next visit to the Links, 0 if there are none.
func (s *shared) visitLinksLocked() (next int64) {
	for _, x := range s.allLinks() {
		if x != nil {
			x.mu.Lock()
			next = earlier(next, int64(x.visit))
			x.mu.Unlock()
		}
	}
	return next
}

// addLinksLocked adds the Links to stats that were taken under s.mu, which is still
// held: then they belong together.
func (s *shared) addLinksLocked(stats *Stats) {
	all := s.allLinks()
	for _, x := range all {
		if x != nil {
			x.mu.Lock()
		}
	}
	for _, x := range all {
		if x != nil {
			stats.Active += int(x.active)
			stats.Idle += int(x.idle)
			stats.Closed += x.closed
			stats.Reused += x.reused
			x.mu.Unlock()
		}
	}
}
