package proxy

import (
	"context"
	"time"
)

// The state of a connection as the watch sees it, in client.state. A number
// above zero is the tick at which the client began to wait for a backend; one
// below lastState, negated, that at which its connection became idle.
const (
	busy      = 0  // nothing to watch: reading or writing would notice
	cancelled = -1 // the client went while it waited
	lastState = -1
)

// watchTick is how often the watch looks.
const watchTick = 250 * time.Millisecond

// watch looks at clients on whose sockets nobody reads or waits. While a backend
// takes its time, has the client gone? And did the end of the stream come
// together with the last bytes read, so that the wait for more never hears of
// it? (A read that did not fill its buffer is not followed by another that finds
// nothing, which would cost every request a system call.)
//
// What is seen is the end of the client's stream; a client that closes only its
// sending side before it has the answer counts as gone, as in nginx and net/http.
func (p *Proxy) watch(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		ticker := time.NewTicker(watchTick)
		for p.lookAtAll() {
			select {
			case <-ctx.Done():
				ticker.Stop()
				return
			case <-ticker.C:
			}
		}
		ticker.Stop()
	}
}

// lookAtAll is one tick. It is false if there are no connections.
func (p *Proxy) lookAtAll() bool {
	now := p.tick.Add(1)
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := p.first; c != nil; c = c.next {
		c.look(now)
	}
	return p.first != nil
}

// look is the watch's look at one connection. A request that has waited for long
// is looked at every fourth tick.
func (c *client) look(now int64) {
	s := c.state.Load()
	switch {
	case s > 0:
		if age := now - s; age < 2 || age > 8 && age%4 != 0 || !hungUp(c.raw) {
			return
		}
		if c.state.CompareAndSwap(s, cancelled) {
			c.unblock()
		}
	case s < lastState:
		if age := now + s + 1; age < 2 {
			return
		}
		if hungUp(c.raw) {
			c.nudge()
		}
		c.state.CompareAndSwap(s, busy)
	}
}

// unblock ends what the request waits for. The caller has made it cancelled, so
// its connection is not put back for others.
func (c *client) unblock() {
	c.life.end()
	if b := c.waitingOn.Load(); b != nil {
		b.Abort()
	}
	if b := c.calling.Load(); b != nil {
		b.Abort()
	}
}

// nudge makes the wait for a client's bytes end, so that it is thought over.
func (c *client) nudge() {
	switch {
	case c.stream != nil:
		c.stream.ArmRead(1)
	case c.http2.Load() != nil:
		c.http2.Load().GoAway()
	case !c.greeting.Load(): // what comes before requests has its own time
		c.conn.SetReadDeadline(longAgo)
	}
}

var longAgo = time.Unix(1, 0)

// abort ends the connection wherever it is. What is over it, TLS, is not asked: it
// may be about to be put there, and it takes its time to say goodbye.
func (c *client) abort() {
	c.life.end() // before the look at the state: who begins to wait looks at them the other way round
	if s := c.state.Load(); s > 0 && c.state.CompareAndSwap(s, cancelled) {
		c.unblock()
	}
	if c.stream == nil {
		c.bare.Close()
	}
}

// startWait begins a wait for a backend.
func (c *client) startWait() {
	c.waitingOn.Store(nil)
	c.calling.Store(nil)
	c.state.Store(c.p.tick.Load())
}

// endWait ends it. It is false if the client went meanwhile.
func (c *client) endWait() bool {
	s := c.state.Load()
	return s != cancelled && c.state.CompareAndSwap(s, busy)
}

// gone tells if the client went while it waited.
func (c *client) gone() bool { return c.state.Load() == cancelled }

// lost tells if nobody is to be served any more: the client went while it waited, or
// its connection was ended from here.
func (c *client) lost() bool { return c.gone() || c.life.over.Load() }

// startIdle lets the watch have one look at the idle connection.
func (c *client) startIdle() { c.state.Store(-c.p.tick.Load() - 1) }
