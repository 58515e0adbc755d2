package pool

import (
	"container/heap"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxLookups bounds the lookups under way, and so the goroutines and
	// sockets of resolving. A lookup that fails takes seconds, so a few dead
	// names must not hold up the others; a resolver answers dozens at once.
	maxLookups = 32
	// lookupTimeout bounds one lookup; resolv.conf's own default is 5 s for
	// each try and server.
	lookupTimeout = 10 * time.Second
	// firstRetry is the pause after a name's first failed lookup, doubled up to
	// the DNS interval: a new backend's record often appears just after it.
	firstRetry = time.Second
)

var (
	errNoAddress = errors.New("no address")
	errEnded     = errors.New("resolver has ended")
	errReleased  = errors.New("not in use any more")
)

// names looks up what backends are called. One goroutine (run) starts lookups
// when they are due; Get reads the newest answer and never looks up itself.
type names struct {
	interval time.Duration
	resolver Resolver
	logger   *slog.Logger
	wake     chan struct{} // holds one: something is due earlier than before

	mu      sync.Mutex
	byHost  map[string]*name
	queue   nameQueue
	running int // lookups under way
	ended   bool
}

// A name is one host in use, shared by all pools that name it.
type name struct {
	host     string
	addrs    atomic.Pointer[addrSet] // nil until a lookup succeeded
	answered chan struct{}           // closed after the first lookup, whatever came of it

	// Of names.mu:
	refs     int
	index    int // in the queue, -1 if a lookup is under way
	due      time.Time
	pause    time.Duration // before the next try, while there was no answer yet
	err      error         // of the last lookup
	resolved time.Time     // last success
}

// An addrSet is what a name stood for at one time. An answer like the one before
// keeps its set, so comparing pointers usually answers "still valid?".
type addrSet struct{ addrs []netip.Addr }

// contains tells if ip was among the addresses.
func (s *addrSet) contains(ip netip.Addr) bool { return slices.Contains(s.addrs, ip) }

// Name is what is known of one host name.
type Name struct {
	Host      string
	Addresses []netip.Addr // of the last lookup that succeeded
	Resolved  time.Time    // when that was; zero: never
	Err       error        // of the last lookup, nil if it succeeded
}

func newNames(c Config) *names {
	return &names{
		interval: c.DNSInterval,
		resolver: c.Resolver,
		logger:   c.Logger,
		wake:     make(chan struct{}, 1),
		byHost:   make(map[string]*name),
	}
}

// acquire returns the name for a host, its first lookup being due at once.
func (n *names) acquire(host string) *name {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.byHost[host]
	if e == nil {
		e = &name{host: host, due: time.Now(), index: -1, answered: make(chan struct{})}
		n.byHost[host] = e
		if n.ended {
			e.err = errEnded
			close(e.answered)
		} else {
			heap.Push(&n.queue, e)
			n.nudge()
		}
	}
	e.refs++
	return e
}

func (n *names) release(e *name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.refs--; e.refs > 0 {
		return
	}
	delete(n.byHost, e.host)
	if e.index >= 0 {
		heap.Remove(&n.queue, e.index)
		e.giveUp(errReleased)
	}
}

// giveUp ends the wait for a first lookup that will never be. The caller holds
// names.mu.
func (e *name) giveUp(err error) {
	select {
	case <-e.answered:
	default:
		e.err = err
		close(e.answered)
	}
}

// get returns the addresses of e. It waits only while the very first lookup is
// not over yet, and puts that one before those nobody waits for.
func (n *names) get(ctx context.Context, e *name) (*addrSet, error) {
	if s := e.addrs.Load(); s != nil {
		return s, nil
	}
	select {
	case <-e.answered:
	default:
		n.hurry(e)
		select {
		case <-e.answered:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if s := e.addrs.Load(); s != nil {
		return s, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return nil, e.err
}

func (n *names) hurry(e *name) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.index >= 0 {
		e.due = time.Time{}
		heap.Fix(&n.queue, e.index)
		n.nudge()
	}
}

// list returns what is known of all names in use.
func (n *names) list() []Name {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Name, 0, len(n.byHost))
	for _, e := range n.byHost {
		info := Name{Host: e.host, Resolved: e.resolved, Err: e.err}
		if s := e.addrs.Load(); s != nil {
			info.Addresses = s.addrs
		}
		all = append(all, info)
	}
	return all
}

// run starts lookups until ctx ends, then waits for those under way.
func (n *names) run(ctx context.Context) {
	var lookups sync.WaitGroup
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			lookups.Wait()
			n.end()
			return
		case <-timer.C:
		case <-n.wake:
		}
		timer.Reset(n.startDue(ctx, &lookups))
	}
}

// startDue starts the lookups that are due and returns the time to the next.
func (n *names) startDue(ctx context.Context, lookups *sync.WaitGroup) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for len(n.queue) > 0 && n.running < maxLookups {
		if wait := n.queue[0].due.Sub(now); wait > 0 {
			return wait
		}
		e := heap.Pop(&n.queue).(*name)
		n.running++
		lookups.Go(func() { n.lookUp(ctx, e) })
	}
	return time.Hour // until woken: nothing to do, or a lookup has to end first
}

// lookUp asks the resolver once and files the answer.
func (n *names) lookUp(ended context.Context, e *name) {
	ctx, cancel := context.WithTimeout(ended, lookupTimeout)
	defer cancel()
	addrs, err := n.resolver.LookupNetIP(ctx, "ip", e.host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	if err == nil && len(addrs) == 0 {
		err = errNoAddress
	}
	if ended.Err() != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		e.giveUp(errEnded) // end would not find it if it was released meanwhile
		return
	}
	switch n.file(e, addrs, err) {
	case failed:
		n.logger.Warn("name not resolved", "host", e.host, "error", err)
	case moved:
		n.logger.Info("name resolved", "host", e.host, "addresses", addrs)
	}
}

// news is what is worth a log line: a first answer is not, at 100,000 names.
type news uint8

const (
	nothing news = iota
	moved        // other addresses than before, or some after a failure
	failed       // after a success, or at first
)

// file records an answer and schedules the next lookup.
func (n *names) file(e *name, addrs []netip.Addr, err error) (what news) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running--
	n.nudge()
	old, now := e.addrs.Load(), time.Now()
	if err == nil {
		if e.err != nil {
			what = moved
		}
		if old == nil || !sameAddrs(old.addrs, addrs) {
			e.addrs.Store(&addrSet{addrs})
			if old != nil {
				what = moved
			}
		}
		e.resolved, e.pause = now, n.interval
	} else {
		if e.err == nil {
			what = failed
		}
		if old == nil {
			e.pause = min(max(2*e.pause, firstRetry), n.interval)
		}
	}
	e.err = err
	select {
	case <-e.answered:
	default:
		close(e.answered)
	}
	if e.refs > 0 {
		// Up to a tenth early, so that names first seen together drift apart.
		e.due = now.Add(e.pause - rand.N(e.pause/10+1))
		heap.Push(&n.queue, e)
	}
	return what
}

// end lets nobody wait for a lookup that will never be.
func (n *names) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = true
	for _, e := range n.byHost {
		e.giveUp(errEnded)
	}
}

func (n *names) nudge() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// sameAddrs ignores the order: servers rotate it, and a set kept in its order
// keeps the connections where they are.
func sameAddrs(a, b []netip.Addr) bool {
	if len(a) != len(b) {
		return false
	}
	for _, ip := range a {
		if !slices.Contains(b, ip) {
			return false
		}
	}
	return true
}

// nameQueue is a heap by due time; see container/heap.
type nameQueue []*name

func (q nameQueue) Len() int           { return len(q) }
func (q nameQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q nameQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *nameQueue) Push(x any) {
	e := x.(*name)
	e.index = len(*q)
	*q = append(*q, e)
}
func (q *nameQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	e.index = -1
	return e
}
