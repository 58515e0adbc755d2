package proxy

import (
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"roster/node/loop"
	"roster/pool"
)

// worker is a loop with what belongs to it: its share of the listeners, its clients, and
// its idle connections to backends. All of it is the loop's thread's but the atomics.
type worker struct {
	p     *Proxy
	loop  *loop.Loop
	lane  *pool.Lane
	shard *shard
	ended chan struct{} // closed when the loop has ended

	clients *evented     // all, linked by before and after
	count   atomic.Int64 // of them
	sweeps  []*sweep     // under way
	spare   *evented     // to be used again, linked by after
	spares  int
	ears    []*ear
	serving *evented   // of whom the function that runs is, if it is not by its receiver
	warm    []*evented // idle ones that may have their memory still
	cooling loop.Timer
}

// mostSpares is how many clients without a connection a worker keeps to be used again.
const mostSpares = 1024

// startWorkers starts the loops, unless they run.
func (p *Proxy) startWorkers() ([]*worker, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.workers) < p.config.Loops {
		w := &worker{p: p, shard: &p.shards[len(p.workers)%shards], ended: make(chan struct{})}
		l, err := loop.New(loop.Config{Start: p.start, Panic: w.panicked, Faults: p.config.faults})
		if err != nil {
			return nil, fmt.Errorf("loop: %w", err)
		}
		w.loop = l
		w.lane = p.config.Pools.NewLane(w.closeIdle)
		w.lane.UseClock(p.start, l.Now)
		p.workers = append(p.workers, w)
		go func() {
			defer close(w.ended)
			l.Run()
		}()
	}
	return p.workers, nil
}

// stop ends a worker, whose clients have ended.
func (w *worker) stop() {
	w.lane.End()
	w.loop.Post(w.loop.Stop)
	<-w.ended
}

// closeIdle closes connections that are idle no more. It may be called from any goroutine.
func (w *worker) closeIdle(links []*pool.Link) {
	posted := w.loop.Post(func() {
		n := min(len(links), sweepBatch)
		for _, l := range links[:n] {
			w.drop(l.Owner.(*backend))
		}
		if n < len(links) {
			w.closeIdle(links[n:])
		}
	})
	if !posted { // the loop has ended, and its epoll with it
		for _, l := range links {
			w.loop.CloseFD(l.FD)
		}
	}
}

// Clients without a request keep the memory to serve one for warmTime, if there are not
// more than mostWarm: whoever sends one request after the other is spared its return.
const (
	warmTime = 500 * time.Millisecond
	mostWarm = 256
)

// keepWarm is called when c begins to wait for a request.
func (w *worker) keepWarm(c *evented) {
	c.rested = w.loop.Now()
	if len(c.back.b) > smallBuffer || len(c.in.b) > smallBuffer {
		c.giveWork() // what is large is for others
		return
	}
	switch {
	case c.warm:
	case len(w.warm) == mostWarm:
		c.giveWork()
	default:
		c.warm = true
		if w.warm = append(w.warm, c); len(w.warm) == 1 {
			w.loop.Arm(&w.cooling, c.rested+warmTime, w)
		}
	}
}

// Expired takes the memory of clients that have been idle for long enough.
func (w *worker) Expired(*loop.Timer) {
	now := w.loop.Now()
	w.warm = slices.DeleteFunc(w.warm, func(c *evented) bool {
		idle := c.phase == atHead && c.work != nil && c.headSince == 0 && c.in.empty()
		c.warm = idle && now-c.rested < warmTime
		if idle && !c.warm {
			c.giveWork()
		}
		return !c.warm
	})
	if len(w.warm) > 0 {
		w.loop.Arm(&w.cooling, now+warmTime, w)
	}
}

// chill forgets that c has memory.
func (w *worker) chill(c *evented) {
	if c.warm {
		c.warm = false
		i := slices.Index(w.warm, c)
		w.warm = slices.Delete(w.warm, i, i+1)
	}
}

// post has f run on the loop for a client, which then goes on. It is false if the loop has
// ended. It may be called from any goroutine.
func (w *worker) post(c *evented, f func()) bool {
	return w.loop.Post(func() {
		w.serving = c
		f()
		c.serve()
		w.serving = nil
	})
}

// panicked is told of a panic in what h serves, which ends no more than that.
func (w *worker) panicked(h any, v any, stack []byte) {
	c := w.serving
	w.serving = nil
	if h, ok := h.(*evented); ok {
		c = h
	}
	if c == nil {
		w.p.config.Logger.Error("panic in a loop", "panic", v, "stack", string(stack))
		return
	}
	c.panicked(v, stack)
}

// drain ends the listeners once their queues are empty.
func (w *worker) drain() {
	for _, e := range slices.Clone(w.ears) {
		if e.rounds == 0 {
			e.drain()
		}
	}
}

// endIdle ends clients as soon as they are without a request.
func (w *worker) endIdle() { w.sweep((*evented).nudged) }

// abort ends a listener and its connections at once.
func (w *worker) abort(l *listener) {
	for _, e := range slices.Clone(w.ears) {
		if e.l == l {
			e.close()
		}
	}
	w.sweep(func(c *evented) {
		if c.l == l {
			c.aborted()
		}
	})
}

// sweep is what is done to each client that there is when it begins.
type sweep struct {
	do   func(*evented)
	next *evented // to have it done; unlist moves it on
}

// sweepBatch is how many have it done, or connections are closed, before others have their
// turn: to end a connection takes some 20 us.
const sweepBatch = 64

// sweep has f done to each client.
func (w *worker) sweep(f func(*evented)) {
	s := &sweep{f, w.clients}
	w.sweeps = append(w.sweeps, s)
	w.sweepOn(s)
}

func (w *worker) sweepOn(s *sweep) {
	defer func() { // also where one panics
		if s.next != nil {
			w.loop.Post(func() { w.sweepOn(s) })
			return
		}
		w.sweeps = slices.DeleteFunc(w.sweeps, func(other *sweep) bool { return other == s })
	}()
	for range sweepBatch {
		c := s.next
		if c == nil {
			return
		}
		s.next = c.after
		w.serving = c
		s.do(c)
		c.serve()
		w.serving = nil
	}
}

// open begins to serve a connection.
func (w *worker) open(l *listener, fd int, remote netip.AddrPort) {
	c := w.spare
	if c != nil {
		w.spare, c.after = c.after, nil
		w.spares--
	} else {
		c = &evented{w: w}
	}
	c.client = client{p: w.p, l: l, loop: w.loop, shard: w.shard, remote: netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())}
	if err := w.loop.Add(&c.source, fd, c, loop.Edge); err != nil {
		w.p.config.Logger.Error("accept", "listener", l.name, "error", err)
		w.loop.CloseFD(fd)
		l.freeSlot()
		return
	}
	if c.after = w.clients; c.after != nil {
		c.after.before = c
	}
	w.clients = c
	w.count.Add(1)
	l.parts.Add(1)
	w.shard.accepted.Add(1)
	c.phase = atHead
	if len(l.AcceptProxy) > 0 && c.mustIntroduce() {
		c.phase = greeting
		c.headSince = w.loop.Now()
		c.setTimer(c.headSince + w.p.config.HeadTimeout)
		return
	}
	c.peer = w.p.policy.Peer(c.remote.Addr(), false)
	c.rest()
}

// forget takes a client off the register; its memory is used again.
func (w *worker) forget(c *evented) {
	w.unlist(c)
	w.count.Add(-1)
	l := c.l
	c.reset()
	if w.spares < mostSpares {
		c.after, w.spare = w.spare, c
		w.spares++
	}
	l.freeSlot()
	l.parts.Done()
}

func (w *worker) unlist(c *evented) {
	w.chill(c)
	for _, s := range w.sweeps {
		if s.next == c {
			s.next = c.after
		}
	}
	if c.before != nil {
		c.before.after = c.after
	} else {
		w.clients = c.after
	}
	if c.after != nil {
		c.after.before = c.before
	}
	c.before, c.after = nil, nil
}

// panicked is client.end after a panic.
func (c *evented) panicked(v any, stack []byte) {
	if stack == nil {
		stack = debug.Stack()
	}
	c.p.config.Logger.Error("panic while serving a connection", "client", c.remote, "panic", v, "stack", string(stack))
	if c.phase == freed {
		return
	}
	c.endWaits()
	if c.work != nil {
		c.dropLink(false)
		c.dropBackend(false)
		c.ask.End()
		c.work = nil // it may be in any state
	}
	c.ending = reset
	c.shut()
}
