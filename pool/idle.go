package pool

import (
	"context"
	"sync"
	"time"
)

const (
	// tick is how exactly the janitor keeps idle timeouts; Get keeps them to
	// the moment.
	tick = time.Second
	// sweepTicks is how long a connection closed by its backend, or whose
	// address is gone, stays at most in a pool nobody uses. 10,000 idle
	// connections cost 2,000 peeks a second so, under 1 ms.
	sweepTicks = 5
	// sweepChunk bounds how many sockets are looked at under one pool's lock.
	sweepChunk = 16
)

// reuse returns the newest idle connection that is fit for use, closing those
// that are not. unchecked leaves out the look at the socket.
func (s *shared) reuse(p *Pool, unchecked bool) *Conn {
	for {
		s.mu.Lock()
		c := s.newest
		if c == nil {
			s.mu.Unlock()
			return nil
		}
		s.unlinkLocked(c)
		c.state = inUse
		s.active++
		s.reused++
		s.mu.Unlock()
		// What is armed stays so; the next owner wants none unless it says.
		c.deadlines[reading].want, c.deadlines[writing].want = 0, 0
		if (c.expires == 0 || s.m.now() < c.expires) && s.current(c) && (unchecked || c.fit()) {
			c.pool, c.reused, c.unchecked = p, true, unchecked
			return c
		}
		s.mu.Lock()
		s.reused--
		s.mu.Unlock()
		c.end(false)
	}
}

// idleUntil is when what becomes idle now is over its time, 0 for never, and the tick at which
// the janitor has to come.
func (p *Pool) idleUntil(now time.Duration) (expires time.Duration, visit int64) {
	visit = tickOf(now) + sweepTicks
	if p.idleTimeout > 0 {
		expires = now + p.idleTimeout
		visit = min(visit, tickOf(expires)+1)
	}
	return expires, visit
}

// put makes c idle, or closes it.
func (s *shared) put(c *Conn) {
	p := c.pool
	keep := !p.noReuse && s.def.ProxyHeader == 0 && s.current(c)
	now := s.m.now()
	s.mu.Lock()
	if c.state != inUse {
		s.mu.Unlock()
		panic("pool: Put of a connection that is not in use")
	}
	if !keep || s.retired || p.draining.Load() { // that is looked at here, or Drain might miss c
		s.mu.Unlock()
		c.end(true)
		return
	}
	c.state = idle
	var visit int64
	c.expires, visit = p.idleUntil(now)
	if c.older = s.newest; c.older != nil {
		c.older.newer = c
	} else {
		s.oldest = c
	}
	s.newest = c
	s.idle++
	s.active--
	register := s.visit == 0 || visit < s.visit
	if register {
		s.visit = visit
	}
	s.mu.Unlock()
	if register {
		s.m.janitor.register(s, visit)
	}
}

// unlinkLocked takes c from the idle list; its state is the caller's to set.
func (s *shared) unlinkLocked(c *Conn) {
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		s.newest = c.older
	}
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		s.oldest = c.newer
	}
	c.newer, c.older = nil, nil
	s.idle--
}

// removeLocked takes c from the idle list for closing.
func (s *shared) removeLocked(c *Conn) {
	s.unlinkLocked(c)
	c.state = closed
	s.closed++
}

// current tells if c leads to an address that its host still has.
func (s *shared) current(c *Conn) bool {
	return stillAt(s.name, &c.dst) && (s.extra == nil || stillAt(s.extra.viaName, &c.via))
}

// takeAll removes all idle connections.
func (s *shared) takeAll() []*Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*Conn, 0, s.idle)
	for s.newest != nil {
		all = append(all, s.newest)
		s.removeLocked(s.newest)
	}
	return all
}

// retire closes what is idle, and from now on what comes back.
func (s *shared) retire() {
	s.mu.Lock()
	s.retired = true
	s.mu.Unlock()
	closeAll(s.takeAll())
	s.endLinks(true)
	s.dismissAll()
}

func closeAll(conns []*Conn) {
	for _, c := range conns {
		c.hangUp()
	}
}

// sweep closes idle connections that are over their time, closed by the backend,
// or lead to an address that is gone, and such sessions. It returns the tick of
// the next visit, 0 if there is nothing to visit.
func (s *shared) sweep(now time.Duration) (next int64) {
	s.mu.Lock()
	conns := make([]*Conn, 0, s.idle)
	for c := s.oldest; c != nil; c = c.newer {
		conns = append(conns, c)
	}
	s.mu.Unlock()

	dead := conns[:0]
	var doubtful []*Conn
	for len(conns) > 0 {
		n := min(len(conns), sweepChunk)
		s.mu.Lock()
		for _, c := range conns[:n] {
			if c.state != idle {
				continue // taken since, so no longer ours to look at
			}
			closed, more := closedOrMore(c.fd)
			switch {
			case c.expires != 0 && now >= c.expires, !s.current(c), closed, more && c.under == nil:
				s.removeLocked(c)
				dead = append(dead, c)
			case more:
				s.unlinkLocked(c)
				c.state = inUse
				s.active++
				doubtful = append(doubtful, c)
			}
		}
		s.mu.Unlock()
		conns = conns[n:]
	}
	closeAll(dead)
	for _, c := range doubtful {
		s.judge(c)
	}
	for _, x := range s.allLinks() {
		if x != nil {
			x.sweep(now)
		}
	}
	seen, next := s.sweepSessions(now)

	s.mu.Lock()
	defer s.mu.Unlock()
	s.visit = earlier(s.nextVisitLocked(now, seen, next), s.visitLinksLocked())
	if s.idle > 0 {
		s.visit = earlier(s.visit, tickOf(now)+sweepTicks)
		for c := s.newest; c != nil; c = c.older {
			if c.expires != 0 {
				s.visit = min(s.visit, max(tickOf(c.expires), tickOf(now))+1)
			}
		}
	}
	return s.visit
}

// judge puts a TLS connection that received something while it was idle back, or
// closes it. The caller has taken it.
func (s *shared) judge(c *Conn) {
	c.deadlines[reading].want, c.deadlines[writing].want = 0, 0
	fit := c.fit()
	s.mu.Lock()
	if !fit || s.retired || c.pool.draining.Load() {
		s.mu.Unlock()
		c.end(false)
		return
	}
	// As the one to be used last: it was idle all the time.
	c.state = idle
	if c.newer = s.oldest; c.newer != nil {
		c.newer.older = c
	} else {
		s.newest = c
	}
	s.oldest = c
	s.idle++
	s.active--
	s.mu.Unlock()
}

func tickOf(now time.Duration) int64 { return int64(now / tick) }

// janitor visits the pools that have idle connections, each at least every
// sweepTicks. Pools without any are not known to it and cost nothing; one is
// registered by a Put at most once between two visits, so a request never pays
// for a timer.
//
// It sleeps until the next visit: without idle connections nothing wakes it.
type janitor struct {
	wake chan struct{} // there is something to do before what it sleeps for

	mu    sync.Mutex
	wheel [sweepTicks + 2][]*shared // by tick; no visit is further ahead
	due   int64                     // the tick it sleeps for; 0: none
}

func (j *janitor) register(s *shared, at int64) {
	j.mu.Lock()
	slot := at % int64(len(j.wheel))
	j.wheel[slot] = append(j.wheel[slot], s)
	j.mu.Unlock()
	j.wakeBy(at)
}

// wakeBy makes sure that the janitor wakes at a tick or before.
func (j *janitor) wakeBy(at int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.due != 0 && j.due <= at {
		return
	}
	j.due = at
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// sleep is the tick to wake at, that of the next visit, later than now; 0 if there is
// none. Where something else is left to do, a sweep's time is not exceeded.
func (j *janitor) sleep(now int64, left bool) int64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.due = 0
	if left {
		j.due = now + sweepTicks
	}
	for at := now + 1; at <= now+int64(len(j.wheel)); at++ {
		if len(j.wheel[at%int64(len(j.wheel))]) > 0 {
			j.due = earlier(j.due, at)
			break
		}
	}
	return j.due
}

func (j *janitor) run(ctx context.Context, m *Manager) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := tickOf(m.now())
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-j.wake:
		}
		now := m.now()
		// All slots at most once, however late the ticker is.
		from := max(last+1, tickOf(now)-int64(len(j.wheel))+1)
		for at := from; at <= tickOf(now); at++ {
			j.visit(at, now)
		}
		last = max(last, tickOf(now))
		if due := j.sleep(last, m.held.purge(now)); due == 0 {
			timer.Stop()
		} else {
			timer.Reset(max(time.Duration(due)*tick-m.now(), 0))
		}
	}
}

// visit sweeps the pools registered for a tick. A pool may be in several slots,
// if a connection came with a shorter timeout; only the earliest is its own.
func (j *janitor) visit(at int64, now time.Duration) {
	j.mu.Lock()
	slot := at % int64(len(j.wheel))
	due := j.wheel[slot]
	j.wheel[slot] = nil
	j.mu.Unlock()
	for _, s := range due {
		s.mu.Lock()
		mine := s.visit != 0 && s.visit <= at
		s.mu.Unlock()
		if !mine {
			continue
		}
		if next := s.sweep(now); next != 0 {
			j.register(s, next)
		}
	}
}
