package proxy

import (
	"context"
	"net/netip"
	"runtime/debug"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/node/loop"
	"roster/node/tracing"
	"roster/pool"
)

// run does what is to be done, until the request waits for something or has ended. going
// is false if it waits already.
func (c *evented) run(step exchange.Step, going bool) {
	for going {
		switch step {
		case exchange.Revision:
			c.await()
			return
		case exchange.Route:
			step = c.route()
		case exchange.Pick:
			step = c.pick()
		case exchange.Connect:
			step, going = c.connect()
		case exchange.Send:
			step, going = c.send()
		case exchange.Interim:
			c.out = http1.AppendResponse(c.out[:0], &c.x.Response, c.x.ClientMinor())
			c.pend = pending{a: c.out}
			step, going = c.flushInterim()
		case exchange.Wait:
			step, going = c.nextHead()
		case exchange.Answer:
			step, going = c.answerIt()
		case exchange.Reply:
			c.reply()
			return
		case exchange.Cut:
			v := c.cut()
			c.done(v)
			return
		default:
			panic("unknown step")
		}
	}
}

// fail reports a failure; what the request has of a backend is given up.
func (c *evented) fail(f exchange.Failure) (exchange.Step, bool) {
	if c.bodyRead() {
		c.x.BodyRead()
	}
	c.endWaits()
	step := c.x.Failed(f)
	c.failed(step, f.Kind)
	c.dropLink(false)
	return step, true
}

// endWaits gives up what the request waits for.
func (c *evented) endWaits() {
	c.turn++
	if c.cancel != nil {
		c.cancel()
		c.cancel = nil
	}
	if s := c.slot; s != nil {
		c.slot = nil
		c.picked.Runtime.Leave(s) // else its outcome is on its way, for a turn that is over
	}
}

// elsewhere has f run in a goroutine, and done, with what f returned, on the loop if the
// request still waits for it; else lost is called. If f panics, so does the request.
func elsewhere[T any](c *evented, f func(ctx context.Context) T, done, lost func(T)) {
	ctx, cancel := context.WithCancel(context.Background())
	c.turn++
	c.cancel = cancel
	c.phase = waits
	turn, w := c.turn, c.w // c is the loop's: the request may end meanwhile, and its memory be used again
	go func() {
		defer func() {
			if v := recover(); v != nil {
				stack := debug.Stack()
				w.post(c, func() {
					if c.turn == turn {
						c.panicked(v, stack)
					}
				})
			}
		}()
		result := f(ctx)
		posted := w.post(c, func() {
			if c.turn != turn {
				lost(result)
				return
			}
			c.cancel = nil
			cancel()
			done(result)
		})
		if !posted {
			cancel()
			lost(result)
		}
	}()
}

// await waits for the revision that the request asks for.
func (c *evented) await() {
	c.waiting, c.until = c.w.loop.Now(), 0
	revision, config := c.x.MinRevision(), &c.p.config
	elsewhere(c, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, config.Exchange.MinRevisionWait)
		defer cancel()
		return config.Await(ctx, revision)
	}, func(err error) {
		if err != nil {
			c.run(c.fail(exchange.Failure{Kind: exchange.Stale}))
			return
		}
		c.run(c.x.Waited(), true)
	}, func(error) {})
}

// connect takes a slot and a connection. A backend that needs more than plain HTTP/1.1
// is for a goroutine.
func (c *evented) connect() (exchange.Step, bool) {
	c.to, c.sending = netip.AddrPort{}, nil // of a try before
	if !c.picked.Pool.Plain() {
		c.leave(func(g *client) verdict { return g.run(exchange.Connect) })
		return 0, false
	}
	c.waiting = c.w.loop.Now()
	c.until = 0
	c.marks = marks{}
	c.beginTry()
	if c.timeouts.Total > 0 && c.left() <= 0 {
		return c.fail(exchange.Failure{Kind: exchange.Late})
	}
	if c.held || c.picked.Runtime.TryAcquire() {
		c.held = true
		return c.dial()
	}
	return c.queue()
}

// queue waits for a slot.
func (c *evented) queue() (exchange.Step, bool) {
	c.turn++
	s, turn, w, limit := new(pool.Waiter), c.turn, c.w, &c.picked.Runtime.Limit
	held, timeout, err := limit.Enqueue(s, func(err error) {
		w.post(c, func() {
			switch {
			case c.turn != turn:
				if err == nil {
					limit.Release() // nobody is there to use it
				}
			case err != nil:
				c.slot = nil
				c.run(c.fail(c.notConnected(err)))
			default:
				c.slot, c.held = nil, true
				c.run(c.dial())
			}
		})
	})
	switch {
	case err != nil:
		return c.fail(c.notConnected(err))
	case held:
		c.held = true
		return c.dial()
	}
	c.slot = s
	c.phase = waits
	c.until = c.w.loop.Now() + timeout
	c.armBackend()
	return 0, false
}

// dial takes a connection, of those that are idle if there is one.
func (c *evented) dial() (exchange.Step, bool) {
	c.picked.Runtime.Requests.Add(1)
	c.mark(&c.marks.slot)
	c.trace.Event(tracing.EventSlot)
	if !c.x.Fresh() {
		// Sent again it may not be, so the connection has to be good.
		if b := c.w.idle(c.picked.Pool, !c.whole || !c.x.Idempotent()); b != nil {
			return c.connected(b)
		}
	}
	want := pool.Request{ConnectTimeout: c.timeouts.Connect, Fresh: true}
	if c.picked.Def.ProxyHeader != 0 {
		want.Client, want.Server = c.remote, c.local()
	}
	if target, ok := c.picked.Pool.Target(want); ok {
		return c.dialTarget(target, want)
	}
	return c.open(want)
}

// open has a goroutine make a connection that cannot be had without waiting.
func (c *evented) open(want pool.Request) (exchange.Step, bool) {
	c.until = 0 // Open has its own
	type opened struct {
		link *pool.Link
		err  error
	}
	p := c.picked.Pool
	elsewhere(c, func(ctx context.Context) opened {
		link, err := p.Open(ctx, want)
		return opened{link, err}
	}, func(o opened) {
		c.until = 0
		if o.err != nil {
			c.run(c.fail(c.notConnected(o.err)))
			return
		}
		b, err := c.w.adopt(o.link)
		if err != nil {
			c.run(c.fail(exchange.Failure{Kind: exchange.Local}))
			return
		}
		c.run(c.connected(b))
	}, func(o opened) {
		if o.err == nil {
			closeLink(o.link)
		}
	})
	c.armBackend()
	return 0, false
}

// connected has the request use b.
func (c *evented) connected(b *backend) (exchange.Step, bool) {
	b.client = c
	c.backend = b
	c.mark(&c.marks.connected)
	c.to = b.link.Remote()
	if c.p.config.AccessLog != nil {
		c.address = c.to
	}
	return c.x.Connected(b.link.Reused()), true
}

// send sends the request.
func (c *evented) send() (exchange.Step, bool) {
	b := c.backend
	c.begun, c.silent = false, false
	c.sending = nil
	c.outcome.send(&c.client)
	c.trace.Sent(false, c.x.Request.Authority, c.x.Request.Target)
	if c.back.b == nil {
		c.back.take()
	}
	c.back.r, c.back.w = 0, 0
	c.answers.Reset()
	body := c.appendRequest()
	prologue := b.link.TakePrologue()
	c.phase = asked
	c.heard = c.w.loop.Now()
	n, err := c.w.loop.Writev(b.source.FD(), prologue, c.out, body)
	if err != nil && err != loop.ErrAgain {
		// An answer that came before the connection broke is still there.
		b.readable, b.ended = true, true
		return c.nextHead()
	}
	if n < len(prologue)+len(c.out)+len(body) || !c.whole {
		if f := c.startSending(n, prologue, body); f.Kind != exchange.None {
			return c.fail(f)
		}
	}
	if b.readable { // it answers before it is asked, of which there is no second event
		return c.nextHead()
	}
	c.armBackend()
	return 0, false
}

// nextHead receives the head of an answer.
func (c *evented) nextHead() (exchange.Step, bool) {
	b := c.backend
	for {
		whole, bad := c.parseAnswer()
		switch {
		case bad != nil:
			return c.fail(badAnswer(bad))
		case whole:
			step := c.answered()
			switch step {
			case exchange.Reply, exchange.Cut, exchange.Pick, exchange.Connect:
				c.endWaits()
				c.dropLink(false)
			case exchange.Tunnel: // unasked for: what was is a goroutine's
				return c.fail(exchange.Failure{Kind: exchange.BadAnswer})
			}
			return step, true
		case !b.readable:
			c.armBackend()
			return 0, false
		}
		n, err := c.w.readFrom(b, c.back.room())
		if err == loop.ErrAgain {
			continue
		}
		if err != nil {
			return c.fail(c.broken())
		}
		c.received(n)
		c.heard = c.w.loop.Now()
	}
}

// broken says what an error of the backend's connection means before the answer's head is
// complete. Times that are over are backendLate's.
func (c *evented) broken() exchange.Failure {
	if c.begun {
		return exchange.Failure{Kind: exchange.Incomplete}
	}
	return exchange.Failure{Kind: exchange.Closed}
}

// armBackend sets the time at which backendLate is to be called.
func (c *evented) armBackend() {
	if at, _ := c.backendDeadline(); at != 0 {
		c.w.loop.Arm(&c.overdue, at, c)
	} else {
		c.w.loop.Disarm(&c.overdue)
	}
}

// backendDeadline is until when something has to come of the backend, and what it means if it
// does not; 0: without limit.
func (c *evented) backendDeadline() (at time.Duration, f exchange.Failure) {
	sooner := func(t time.Duration, kind exchange.Kind) {
		if at == 0 || t < at {
			at, f = t, exchange.Failure{Kind: kind}
		}
	}
	after := func(since, limit time.Duration, kind exchange.Kind) {
		if limit > 0 {
			sooner(since+limit, kind)
		}
	}
	if c.phase < waits || c.phase > answering || c.stuck != 0 {
		return 0, f // there is no request, or it is the client who is waited for
	}
	s := c.sending
	if s != nil && s.stuck != 0 && !s.over {
		after(s.stuck, c.timeouts.BetweenBytes, exchange.WriteTimeout)
	}
	switch c.phase {
	case waits:
		switch {
		case c.until == 0:
		case c.slot != nil:
			sooner(c.until, exchange.Busy)
		default:
			sooner(c.until, exchange.ConnectTimeout)
		}
	case asked:
		switch {
		case !c.back.empty():
			after(c.heard, c.timeouts.BetweenBytes, exchange.BetweenBytes)
		case s == nil || s.awaited:
			if c.begun { // an interim answer
				after(c.heard, c.timeouts.BetweenBytes, exchange.BetweenBytes)
			} else {
				after(c.heard, c.timeouts.FirstByte, exchange.FirstByte)
			}
		case s.sentAt != 0:
			after(s.sentAt, c.timeouts.FirstByte, exchange.FirstByte)
		}
	case answering:
		after(c.heard, c.timeouts.BetweenBytes, exchange.Truncated)
	}
	if t := c.timeouts.Total; t > 0 {
		kind := exchange.Late
		if c.phase == answering {
			kind = exchange.Truncated
		}
		sooner(c.began+t, kind)
	}
	return at, f
}

// backendLate ends a wait that has been too long.
func (c *evented) backendLate() {
	at, f := c.backendDeadline()
	switch {
	case at == 0:
		return
	case c.w.loop.Now() < at:
		c.w.loop.Arm(&c.overdue, at, c)
		return
	}
	if c.phase == waits && c.slot != nil && f.Kind == exchange.Busy {
		s := c.slot
		if !c.picked.Runtime.Leave(s) {
			return // its outcome is on its way
		}
		c.slot = nil
	}
	if f.Kind == exchange.ConnectTimeout {
		c.run(c.notMade(context.DeadlineExceeded))
		return
	}
	c.silent = true
	c.run(c.fail(f))
}
