package pool

import (
	"container/list"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// A Session carries several exchanges over one connection, as HTTP/2 does; the
// pool knows no more of it. All methods may be called from any goroutine. The
// pool calls them without holding a lock.
type Session interface {
	// Reserve takes the place of one more exchange. If it is true, an exchange or
	// Unreserve must follow.
	Reserve() bool
	// Unreserve gives back a place that no exchange took.
	Unreserve()
	// Active is the number of exchanges under way or reserved.
	Active() int
	// Done is closed when the session has ended; Reserve may be false for good
	// before that.
	Done() <-chan struct{}
	// GoAway ends the session with its last exchange, at once if Active is 0. What
	// is reserved already may still be used, so the backend must not be told
	// before.
	GoAway()
	// Close ends it at once.
	Close()
}

var errNoPlace = errors.New("the new connection takes no exchange")

// session is a Session as its pool sees it.
type session struct {
	Session
	dst, via foundAt
	// What the last user's definition says of unused connections. 0: no limit.
	idleTimeout atomic.Int64
	used        atomic.Bool // since the janitor was here

	made      time.Duration // by the Manager's clock
	idleSince time.Duration // the janitor's; 0: it was in use
}

// asNew is how old a session may be for those who ask for a new one. When one
// breaks, all its requests ask at nearly the same time, and one dial has to do.
const asNew = time.Second

// foundAt is a place for many goroutines.
type foundAt struct {
	place
	set atomic.Pointer[addrSet] // instead of place's
}

func (f *foundAt) init(p place) {
	f.addr = p.addr
	f.set.Store(p.set)
}

// still tells if n still stands for f.
func (f *foundAt) still(n *name) bool {
	p := place{f.addr, f.set.Load()}
	if !stillAt(n, &p) {
		return false
	}
	if p.set != f.set.Load() {
		f.set.Store(p.set)
	}
	return true
}

// sessions is what a shared has once it was asked for a session. Everything but
// the atomics belongs to the shared's mu.
type sessions struct {
	// usable are those for everybody, newest first. The slice is replaced, never
	// changed, so that it can be walked without the lock.
	usable atomic.Pointer[[]*session]
	reused atomic.Uint64
	// ending have no place for anybody any more.
	ending map[*session]struct{}

	queue list.List // of *sessionWaiter: those who wait for a session to be made
	dials []*sessionDial
	// patience is the longest of those who waited since the queue was empty; 0: no
	// limit. Dials that last longer are begun anew.
	patience time.Duration
	// places is how many exchanges the last new session took when there were more
	// to take; 0 while all had room. It says how many dials the queue is worth.
	places int
}

// sessionWaiter is a call of GetSession. It is in the queue as long as element is
// not nil.
type sessionWaiter struct {
	pool    *Pool
	start   func(*Conn) (Session, error)
	element *list.Element
	made    chan madeSession // holds one, so that nobody waits for the waiter
}

type madeSession struct {
	session *session // with a place reserved
	err     error
}

// sessionDial is one new session on its way.
type sessionDial struct {
	cancel context.CancelFunc
	begun  time.Duration // by the Manager's clock
}

// GetSession returns a session of this pool's identity with a place reserved in
// it, reused if there was one. Otherwise it makes one: start gets a connection,
// which is the Session's from then on, also if start fails. Who comes meanwhile
// waits for it, so start may serve callers that gave one of their own, and it runs
// in a goroutine of the pool; if nobody waits any more, or it takes longer than any
// of those who wait would, its connection is aborted, and the others get another.
//
// What Get promises of errors, timeouts, holddowns and addresses that are gone
// holds here. Fresh asks for a session that was made within the last second or
// is made now. Definitions without reuse, those with a PROXY header, and pools that
// are draining or released have sessions of one exchange each. Unused ones end a
// few seconds after their idle timeout.
func (p *Pool) GetSession(ctx context.Context, r Request, start func(*Conn) (Session, error)) (s Session, reused bool, err error) {
	x, reused, err := p.getSession(ctx, r, start)
	if err != nil {
		p.mu.Lock()
		p.failed++
		p.mu.Unlock()
		return nil, false, err
	}
	return x.Session, reused, nil
}

func (p *Pool) getSession(ctx context.Context, r Request, start func(*Conn) (Session, error)) (x *session, reused bool, err error) {
	for !p.noReuse && p.def.ProxyHeader == 0 && !p.draining.Load() {
		all := p.withSessions()
		known := all.usable.Load()
		if x := p.reserve(all, known, r.Fresh); x != nil {
			return x, true, nil
		}
		p.mu.Lock()
		if p.retired {
			p.mu.Unlock()
			break
		}
		if all.usable.Load() != known {
			p.mu.Unlock()
			continue // one was made since
		}
		w := &sessionWaiter{pool: p, start: start, made: make(chan madeSession, 1)}
		if all.queue.Len() == 0 || r.ConnectTimeout <= 0 {
			all.patience = max(r.ConnectTimeout, 0)
		} else if all.patience > 0 {
			all.patience = max(all.patience, r.ConnectTimeout)
		}
		w.element = all.queue.PushBack(w)
		p.dialForQueueLocked(all)
		p.mu.Unlock()
		x, err := p.await(ctx, r, all, w)
		return x, false, err
	}
	x, err = p.ownSession(ctx, r, start)
	return x, false, err
}

// withSessions returns the sessions of s, which most pools have none of.
func (s *shared) withSessions() *sessions {
	if all := s.sessions.Load(); all != nil {
		return all
	}
	all := &sessions{ending: make(map[*session]struct{})}
	all.usable.Store(new([]*session))
	if !s.sessions.CompareAndSwap(nil, all) {
		return s.sessions.Load()
	}
	return all
}

// reserve takes a place in one of the sessions known, or of the new ones among them.
func (p *Pool) reserve(all *sessions, known *[]*session, fresh bool) *session {
	for _, x := range *known {
		if fresh && p.m.now()-x.made > asNew {
			return nil // the others are older
		}
		if !p.stillUsable(x) {
			p.dismiss(all, x)
			continue
		}
		if x.Reserve() {
			x.use(p)
			all.reused.Add(1)
			return x
		}
	}
	return nil
}

// stillUsable tells if x leads to an address that its host still has.
func (s *shared) stillUsable(x *session) bool {
	return x.dst.still(s.name) && (s.extra == nil || x.via.still(s.extra.viaName))
}

// use notes who has a place in x. Nothing is written that is so already, since
// all requests to a backend come by here.
func (x *session) use(p *Pool) {
	if t := int64(p.idleTimeout); x.idleTimeout.Load() != t {
		x.idleTimeout.Store(t)
	}
	if !x.used.Load() {
		x.used.Store(true)
	}
}

// dialForQueueLocked makes sure that as many sessions are on their way as those
// who wait need.
func (s *shared) dialForQueueLocked(all *sessions) {
	need := min(all.queue.Len(), 1)
	if all.places > 0 {
		need = (all.queue.Len() + all.places - 1) / all.places
	}
	for len(all.dials) < need {
		ctx, cancel := context.WithCancel(context.Background())
		d := &sessionDial{cancel, s.m.now()}
		all.dials = append(all.dials, d)
		first := all.queue.Front().Value.(*sessionWaiter)
		go s.dialSession(ctx, all, d, first.pool, first.start)
	}
}

// dialSession makes a session for those who wait. p is the pool of one of them.
func (s *shared) dialSession(ctx context.Context, all *sessions, d *sessionDial, p *Pool, start func(*Conn) (Session, error)) {
	x, err := s.newSession(ctx, Request{}, start)
	d.cancel()
	if err != nil {
		s.dialFailed(all, d, err)
		return
	}
	x.idleTimeout.Store(int64(p.idleTimeout)) // perhaps nobody waits any more
	taken, full := 0, false
	for {
		var n int
		var last *Pool
		n, last, full = s.serveQueue(all, x)
		if taken += n; last != nil {
			p = last
		}
		s.mu.Lock()
		if full || all.queue.Len() == 0 {
			break
		}
		s.mu.Unlock() // some have come since
	}
	if full && taken == 0 {
		s.mu.Unlock()
		x.Close()
		s.dialFailed(all, d, &Error{Kind: Terminated, Stage: Handshake, Addr: s.endpoint(), Err: errNoPlace})
		return
	}
	if full {
		all.places = taken
	} else if all.places > 0 {
		all.places = max(all.places, taken)
	}
	all.forgetDialLocked(d)
	s.opened++
	retired, visit := s.retired, int64(0)
	if retired {
		all.ending[x] = struct{}{}
	} else {
		known := *all.usable.Load()
		all.setUsableLocked(append(append(make([]*session, 0, len(known)+1), x), known...))
		visit = s.visitSessionLocked(x)
	}
	if all.queue.Len() > 0 {
		s.dialForQueueLocked(all)
	} else {
		all.giveUpLocked()
	}
	s.mu.Unlock()
	if visit != 0 {
		s.m.janitor.register(s, visit)
	}
	switch {
	case retired:
		x.GoAway()
	case p.draining.Load():
		s.dismiss(all, x) // Drain has not seen it
	}
	s.watchSession(all, x)
}

// dialFailed tells all who wait, unless another dial may still serve them.
func (s *shared) dialFailed(all *sessions, d *sessionDial, err error) {
	s.mu.Lock()
	var waiters []*sessionWaiter
	if all.forgetDialLocked(d) && len(all.dials) == 0 {
		for all.queue.Len() > 0 {
			waiters = append(waiters, all.popLocked())
		}
	}
	s.mu.Unlock()
	for _, w := range waiters {
		w.made <- madeSession{err: err}
	}
}

// serveQueue gives places in x to those who wait; full says that it has no more, and
// last is the pool of the last who got one.
func (s *shared) serveQueue(all *sessions, x *session) (taken int, last *Pool, full bool) {
	for {
		s.mu.Lock()
		waiting := all.queue.Len()
		s.mu.Unlock()
		if waiting == 0 {
			return taken, last, false
		}
		if !x.Reserve() {
			return taken, last, true
		}
		s.mu.Lock()
		w := all.popLocked()
		s.mu.Unlock()
		if w == nil {
			x.Unreserve()
			return taken, last, false
		}
		x.use(w.pool)
		w.made <- madeSession{session: x}
		taken++
		last = w.pool
	}
}

// await waits for w's turn, as long as r and ctx allow.
func (s *shared) await(ctx context.Context, r Request, all *sessions, w *sessionWaiter) (*session, error) {
	var late <-chan time.Time
	if r.ConnectTimeout > 0 {
		timer := time.NewTimer(r.ConnectTimeout)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case made := <-w.made:
		return made.session, made.err
	case <-late:
		if s.leave(all, w) {
			s.dialAnew(all)
			return nil, s.connectTimeout()
		}
		made := <-w.made
		return made.session, made.err
	case <-ctx.Done():
		if !s.leave(all, w) {
			if made := <-w.made; made.err == nil {
				made.session.Unreserve()
			}
		}
		return nil, ctx.Err()
	}
}

// leave takes w out of the queue; it is false if w was served before. When
// nobody waits any more, nothing is dialled any more.
func (s *shared) leave(all *sessions, w *sessionWaiter) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.element == nil {
		return false
	}
	all.queue.Remove(w.element)
	w.element = nil
	if all.queue.Len() == 0 {
		all.giveUpLocked()
	}
	return true
}

// dialAnew gives up dials that have lasted longer than any of those who wait is
// ready to: a backend that took the connection and fell silent would keep all who
// come for ever. Who has waited long enough calls it.
func (s *shared) dialAnew(all *sessions) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if all.queue.Len() == 0 || all.patience == 0 {
		return
	}
	now := s.m.now()
	all.dials = slices.DeleteFunc(all.dials, func(d *sessionDial) bool {
		over := now-d.begun >= all.patience
		if over {
			d.cancel()
		}
		return over
	})
	s.dialForQueueLocked(all)
}

// popLocked takes the first out of the queue, nil if it is empty.
func (all *sessions) popLocked() *sessionWaiter {
	first := all.queue.Front()
	if first == nil {
		return nil
	}
	w := all.queue.Remove(first).(*sessionWaiter)
	w.element = nil
	return w
}

// giveUpLocked ends all dials. One that succeeds all the same is kept.
func (all *sessions) giveUpLocked() {
	for _, d := range all.dials {
		d.cancel()
	}
	all.dials = nil
}

// forgetDialLocked is false if d was given up before.
func (all *sessions) forgetDialLocked(d *sessionDial) bool {
	i := slices.Index(all.dials, d)
	if i < 0 {
		return false
	}
	all.dials = slices.Delete(all.dials, i, i+1)
	return true
}

func (all *sessions) setUsableLocked(list []*session) { all.usable.Store(&list) }

// connectTimeout is the error of who waited for a session for too long.
func (s *shared) connectTimeout() *Error {
	e := &Error{Kind: Timeout, Stage: Connect, Addr: s.endpoint(), Err: context.DeadlineExceeded}
	if s.name != nil && s.name.addrs.Load() == nil {
		e.Kind, e.Stage = DNS, Resolve
	}
	return e
}

// endpoint is the address as written.
func (s *shared) endpoint() string {
	if s.def.Path != "" {
		return s.def.Path
	}
	return net.JoinHostPort(s.def.Host, strconv.Itoa(int(s.def.Port)))
}

// newSession dials and starts a session, ctx being the limit of both.
func (s *shared) newSession(ctx context.Context, r Request, start func(*Conn) (Session, error)) (*session, error) {
	c, err := s.connect(ctx, r, false)
	if err != nil {
		return nil, err
	}
	c.session = true
	addr := c.socket.RemoteAddr().String()
	stop := context.AfterFunc(ctx, c.Abort)
	inner, err := start(c)
	if !stop() {
		if err == nil {
			inner.Close()
		}
		err = ctx.Err()
	}
	if err != nil {
		c.Close()
		return nil, startError(addr, err)
	}
	x := &session{Session: inner, made: s.m.now()}
	x.dst.init(c.dst)
	x.via.init(c.via)
	return x, nil
}

// startError classifies what a start returned.
func startError(addr string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	e = &Error{Kind: Terminated, Stage: Handshake, Addr: addr, Err: err}
	if isTimeout(err) {
		e.Kind = Timeout
	}
	return e
}

// ownSession makes a session for one exchange.
func (p *Pool) ownSession(ctx context.Context, r Request, start func(*Conn) (Session, error)) (*session, error) {
	limited := ctx
	if r.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, r.ConnectTimeout)
		defer cancel()
	}
	x, err := p.newSession(limited, r, start)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, err
	case !x.Reserve():
		x.Close()
		return nil, &Error{Kind: Terminated, Stage: Handshake, Addr: p.endpoint(), Err: errNoPlace}
	}
	all := p.withSessions()
	p.mu.Lock()
	p.opened++
	all.ending[x] = struct{}{}
	p.mu.Unlock()
	x.GoAway()
	go p.watchSession(all, x)
	return x, nil
}

// watchSession takes x off the lists when it is done.
func (s *shared) watchSession(all *sessions, x *session) {
	<-x.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	delete(all.ending, x)
	all.removeUsableLocked(x)
}

func (all *sessions) removeUsableLocked(x *session) bool {
	known := *all.usable.Load()
	i := slices.Index(known, x)
	if i < 0 {
		return false
	}
	all.setUsableLocked(slices.Concat(known[:i], known[i+1:]))
	return true
}

// dismiss lets x end with the exchanges that it has.
func (s *shared) dismiss(all *sessions, x *session) {
	s.mu.Lock()
	mine := all.removeUsableLocked(x)
	if mine {
		all.ending[x] = struct{}{}
	}
	s.mu.Unlock()
	if mine {
		x.GoAway()
	}
}

// dismissAll lets all sessions end with the exchanges that they have.
func (s *shared) dismissAll() {
	all := s.sessions.Load()
	if all == nil {
		return
	}
	for _, x := range *all.usable.Load() {
		s.dismiss(all, x)
	}
}

// visitSessionLocked makes sure that the janitor comes for x; see
// janitor.register, to be called with the tick unless that is 0.
func (s *shared) visitSessionLocked(x *session) (register int64) {
	now := s.m.now()
	visit := tickOf(now) + sweepTicks
	if t := time.Duration(x.idleTimeout.Load()); t > 0 {
		visit = min(visit, tickOf(now+t)+1)
	}
	if s.visit != 0 && s.visit <= visit {
		return 0
	}
	s.visit = visit
	return visit
}

// sweepSessions ends those that nobody used for too long, or that lead to an
// address that is gone. next is the tick of the next visit to the others, 0 if
// there are none; seen is what it looked at. Only the janitor calls it.
func (s *shared) sweepSessions(now time.Duration) (seen *[]*session, next int64) {
	all := s.sessions.Load()
	if all == nil {
		return nil, 0
	}
	seen = all.usable.Load()
	for _, x := range *seen {
		timeout := time.Duration(x.idleTimeout.Load())
		idle := x.idleFor(now)
		if !s.stillUsable(x) || timeout > 0 && idle >= timeout {
			s.dismiss(all, x)
			continue
		}
		visit := tickOf(now) + sweepTicks
		if timeout > 0 {
			visit = min(visit, tickOf(now+timeout-idle)+1)
		}
		next = earlier(next, visit)
	}
	return seen, next
}

// nextVisitLocked is the tick of the next visit to sessions: soon, if there are
// others now than the janitor has seen.
func (s *shared) nextVisitLocked(now time.Duration, seen *[]*session, next int64) int64 {
	if all := s.sessions.Load(); all != nil {
		if known := all.usable.Load(); known != seen && len(*known) > 0 {
			return tickOf(now) + 1
		}
	}
	return next
}

// earlier returns the earlier of two ticks; 0 is none.
func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// idleFor is how long x surely was without an exchange.
func (x *session) idleFor(now time.Duration) time.Duration {
	used := x.used.Swap(false)
	switch {
	case x.Active() > 0:
		x.idleSince = 0
		return 0
	case used || x.idleSince == 0:
		x.idleSince = now
	}
	return now - x.idleSince
}

// sessionsLocked returns all sessions that have not ended.
func (s *shared) sessionsLocked() []*session {
	all := s.sessions.Load()
	if all == nil {
		return nil
	}
	list := slices.Clone(*all.usable.Load())
	for x := range all.ending {
		list = append(list, x)
	}
	return list
}
