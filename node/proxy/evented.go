package proxy

import (
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"roster/exchange"
	"roster/node/inbound"
	"roster/node/loop"
	"roster/pool"
)

// evented is a client whose connection a loop serves: it has no goroutine and never
// waits, but is told what has become ready. It speaks plain HTTP/1.1. For anything else
// it leaves the loop, once, and goes on as a client with a goroutine.
//
// What is said of client, its request and its backend is the same for both; the methods
// of client that wait are not called, and those of the same names here take their place.
type evented struct {
	client
	w             *worker
	before, after *evented // of the worker

	source  loop.Source
	timer   loop.Timer // for what the client has to do
	overdue loop.Timer // for what the backend has to do
	phase   phase

	readable bool          // there may be something to read
	hup      bool          // the client has closed its side of the connection
	dead     bool          // or all of it
	marked   bool          // urgent data has come: see loop.Mark
	warm     bool          // in worker.warm
	rested   time.Duration // when it became idle

	// Of the request:
	backend *backend
	turn    uint32        // of the wait for what another thread does; one that is over is another
	cancel  func()        // ends what another thread does
	slot    *pool.Waiter  // in the queue for a slot
	until   time.Duration // in it, or to connect; 0: without limit
	waiting time.Duration // since when the client waits for a backend
	heard   time.Duration // when something was last sent to or received from the backend
	pend    pending       // to be sent to the client
	stuck   time.Duration // since when it takes nothing; 0: it does
	unsent  bool          // the answer's head is still to be sent
	framed  bool          // the answer is sent in chunks
	final   bool          // pend is the last of the answer
	passage               // for most of a large answer
	drained int           // bytes read while lingering
}

// phase is what the connection does.
type phase uint8

const (
	freed     phase = iota
	greeting        // waits for a PROXY header
	atHead          // idle, or within a request's head
	waits           // for a revision, a slot or a connection, see turn
	asked           // the request is being sent, or is, and there is no answer yet
	answering       // the answer is being sent
	replying        // as answering, of one that was made here
	lingering       // reads what the client still sends, see linger
)

// pending is two pieces to be sent one after the other.
type pending struct{ a, b []byte }

func (p *pending) empty() bool { return len(p.a)+len(p.b) == 0 }

// sent takes n bytes off.
func (p *pending) sent(n int) {
	k := min(n, len(p.a))
	p.a, p.b = p.a[k:], p.b[n-k:]
}

// Ready is called when the client's socket has become so, or has been put off.
func (c *evented) Ready(e loop.Events) {
	if e&(loop.In|loop.Hup|loop.Err) != 0 {
		c.readable = true
	}
	c.hup = c.hup || e&(loop.Hup|loop.Err) != 0
	c.dead = c.dead || e&(loop.Gone|loop.Err) != 0
	c.marked = c.marked || e&loop.Mark != 0
	switch c.phase {
	case greeting:
		c.greet()
	case lingering:
		c.lingerOn()
	case replying, answering, asked:
		c.proceed()
	}
	c.serve()
}

// proceed moves on what the client's socket may have held up.
func (c *evented) proceed() {
	if f := c.upload(); f.Kind != exchange.None {
		c.run(c.fail(f))
		return
	}
	switch {
	case c.phase == replying:
		c.flushReply()
	case c.phase == answering:
		c.run(c.forward())
	case c.phase == asked && !c.pend.empty():
		c.run(c.flushInterim())
	}
}

// turnRequests is how many steps a connection may take before others have their turn.
const turnRequests = 16

// serve serves the requests that have come, until one has to wait or there are none.
func (c *evented) serve() {
	c.serveAll()
	if c.hup {
		c.noteHup()
	}
}

func (c *evented) serveAll() {
	for steps := 0; c.phase == atHead; steps++ {
		if steps == turnRequests {
			c.w.loop.Again(&c.source)
			return
		}
		if c.work != nil && !c.in.empty() {
			switch found, f := c.parse(); {
			case found == noRequest:
				c.refuse(f)
				c.reply()
				continue
			case found == preface:
				c.leave(func(g *client) verdict { return speak2 })
				return
			case found == aRequest && c.request.Upgrade != nil:
				c.leave((*client).exchange)
				return
			case found == aRequest:
				c.run(c.start(), true)
				continue
			}
		}
		if !c.readable {
			c.rest()
			return
		}
		c.receive()
	}
}

// receive reads what there is, once.
func (c *evented) receive() {
	c.takeWork()
	n, err := c.read()
	switch {
	case err == loop.ErrAgain:
		return
	case err != nil:
		c.shut()
		return
	}
	c.shard.received.Add(uint64(n))
	c.resting = false
}

// read takes what there is into the buffer, by one call. A read that fills less than the
// room has taken all, but for the end of the stream, and where there may be a mark.
func (c *evented) read() (n int, err error) {
	room := c.in.room()
	n, err = c.w.loop.Read(c.source.FD(), room)
	c.in.w += n
	c.readable = err == nil && (n == len(room) || c.hup || c.marked)
	return n, err
}

// rest waits for more of the client.
func (c *evented) rest() {
	if c.headSince != 0 {
		c.w.loop.Arm(&c.timer, c.headSince+c.p.config.HeadTimeout, c)
		return
	}
	if c.work != nil && c.in.empty() {
		c.w.keepWarm(c)
	}
	switch {
	case !c.p.ending.Load():
		if !c.resting {
			c.resting = true
			c.w.loop.Arm(&c.timer, c.w.loop.Now()+c.p.config.IdleTimeout, c)
		}
	case c.served || c.last:
		c.shut()
	case !c.graced:
		c.graced = true
		c.setTimer(c.w.loop.Now() + newcomers)
	}
}

// setTimer replaces a time that may be later.
func (c *evented) setTimer(at time.Duration) { c.w.loop.Arm(&c.timer, at, c) }

// nudged looks anew at a connection that may have to end since the proxy is ending. A
// request may have come at the same moment.
func (c *evented) nudged() {
	if c.phase != atHead || c.headSince != 0 {
		return
	}
	c.readable = true
	c.serve()
}

// Expired is called when a time is over that was set.
func (c *evented) Expired(t *loop.Timer) {
	if t == &c.timer {
		c.clientLate()
	} else {
		c.backendLate()
	}
	c.serve()
}

// clientLate looks which of the client's times is over.
func (c *evented) clientLate() {
	now := c.w.loop.Now()
	switch c.phase {
	case greeting, lingering:
		c.free()
	case atHead:
		switch {
		case c.headSince == 0:
			if c.p.ending.Load() {
				c.last, c.readable = true, true // one more look
				return
			}
			c.shut()
		case now >= c.headSince+c.p.config.HeadTimeout:
			c.refuse(exchange.Failure{Kind: exchange.ClientTimeout})
			c.reply()
		default:
			c.rest()
		}
	case waits, asked, answering, replying:
		switch at, f := c.clientDeadline(); {
		case at == 0:
		case now < at:
			c.setTimer(at)
		default:
			c.endRequest(f)
		}
	}
}

// clientDeadline is until when the client has to do something, and what it means if it
// has not; 0: it need not.
func (c *evented) clientDeadline() (at time.Duration, f exchange.Failure) {
	sooner := func(t time.Duration, kind exchange.Kind) {
		if at == 0 || t < at {
			at, f = t, exchange.Failure{Kind: kind}
		}
	}
	if c.stuck != 0 {
		sooner(c.stuck+c.p.config.WriteTimeout, exchange.ClientTimeout)
	}
	if s := c.sending; s != nil && s.asked != 0 && !s.awaited && c.phase == asked {
		sooner(s.asked+c.p.config.BodyTimeout, exchange.ClientTimeout)
	}
	if c.hup && c.phase != replying {
		sooner(c.waiting+goneAfter, exchange.ClientGone)
	}
	return at, f
}

// goneAfter is how long a client whose stream has ended has to have waited for its
// request to be cancelled: see the package.
const goneAfter = 500 * time.Millisecond

// noteHup cancels the request of a client that has gone, or will.
func (c *evented) noteHup() {
	switch c.phase {
	case waits, asked, answering:
		if c.dead || c.w.loop.Now() >= c.waiting+goneAfter {
			c.endRequest(exchange.Failure{Kind: exchange.ClientGone})
			return
		}
		at, _ := c.clientDeadline()
		c.setTimer(at)
	}
}

// endRequest ends a request under way by a failure.
func (c *evented) endRequest(f exchange.Failure) {
	if c.phase == replying {
		c.x.Failed(f)
		c.cut()
		c.shut()
		return
	}
	c.run(c.fail(f))
}

// aborted ends the connection wherever it is.
func (c *evented) aborted() {
	switch c.phase {
	case waits, asked, answering, replying:
		c.endRequest(exchange.Failure{Kind: exchange.ClientGone})
	}
	if c.phase != freed {
		c.free()
	}
}

// greet waits for the PROXY header.
func (c *evented) greet() {
	c.takeWork()
	for c.readable {
		_, err := c.read()
		if err == loop.ErrAgain {
			break
		}
		if err != nil {
			c.free()
			return
		}
		src, dst, size, err := inbound.ParseHeader(c.in.unread())
		switch {
		case err != nil:
			c.shard.noHeader.Add(1)
			c.p.config.Logger.Debug("no PROXY header", "peer", c.remote, "error", err)
			c.peer = c.p.policy.Peer(c.remote.Addr(), false)
			c.headSince = 0
			c.refuse(noHeader)
			c.reply()
			return
		case size > 0:
			if src.IsValid() && dst.IsValid() {
				c.remote, c.server = src, &dst
			}
			c.in.r += size
			c.peer = c.p.policy.Peer(c.remote.Addr(), false)
			c.headSince = 0
			c.phase = atHead
			return
		}
	}
	if c.in.empty() {
		c.giveWork()
	}
}

// done is the end of a request.
func (c *evented) done(v verdict) {
	c.stuck = 0
	if v == more {
		c.phase = atHead
		return
	}
	if c.ending == plain {
		// What was written last leaves with the end of the stream (see write): not at all
		// if the socket were closed with bytes unread, which is a reset.
		c.w.loop.Shutdown(c.source.FD())
	}
	c.shut()
}

// shut ends the connection.
func (c *evented) shut() {
	switch c.ending {
	case linger:
		c.linger(lingerTime)
	case brief:
		c.linger(briefTime)
	case reset:
		c.w.loop.Reset(&c.source)
		c.free()
	default:
		c.free()
	}
}

// linger closes our side and reads until the client has closed its own: closing with
// bytes unread is a reset, which may overtake the answer.
func (c *evented) linger(d time.Duration) {
	c.ending = plain
	if c.w.loop.Shutdown(c.source.FD()) != nil {
		c.free()
		return
	}
	c.phase = lingering
	c.drained = 0
	c.setTimer(c.w.loop.Now() + d)
	c.readable = true
	c.lingerOn()
}

func (c *evented) lingerOn() {
	c.takeWork()
	for steps := 0; c.readable; steps++ {
		if steps == turnRequests {
			c.w.loop.Again(&c.source)
			return
		}
		n, err := c.w.loop.Read(c.source.FD(), c.in.b)
		switch c.drained += n; {
		case err == loop.ErrAgain:
			c.readable = false
		case err != nil, c.drained >= lingerBytes:
			c.free()
			return
		}
	}
}

// free ends what is left of the connection.
func (c *evented) free() {
	c.endWaits()
	c.w.loop.Close(&c.source)
	c.giveWork()
	c.w.forget(c)
}

// reset makes the memory ready for another connection.
func (c *evented) reset() {
	c.w.loop.Unlink(&c.timer)
	c.w.loop.Unlink(&c.overdue)
	c.passage.close(c.w.loop)
	w, turn := c.w, c.turn
	*c = evented{w: w, turn: turn + 1}
}

// leave hands the connection to a goroutine of its own, which begins with first.
func (c *evented) leave(first func(*client) verdict) {
	conn, err := netConn(c.source.FD())
	if err != nil {
		c.p.config.Logger.Error("a connection cannot leave its loop", "client", c.remote, "error", err)
		if c.try.table != nil { // a request has begun
			c.run(c.fail(exchange.Failure{Kind: exchange.Local}))
		} else {
			c.ending = reset
			c.shut()
		}
		return
	}
	w := c.w
	w.loop.CloseFD(w.loop.Release(&c.source)) // in two steps: its duplicate would keep it in the epoll
	w.loop.Unlink(&c.timer)
	w.loop.Unlink(&c.overdue)
	w.unlist(c)
	c.phase = freed
	g := &c.client
	g.loop = nil
	g.conn, g.bare = conn, conn
	g.raw = rawConn(conn)
	g.ready = g.receive
	g.resting = false
	go func() {
		g.p.adopt(g) // may wait
		w.count.Add(-1)
		defer g.p.closed(g)
		defer g.end()
		v := first(g)
		if v == more {
			v = g.feed()
		}
		g.goOn(v)
	}()
}

// netConn is a socket as package net has it: a duplicate.
func netConn(fd int) (net.Conn, error) {
	other, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	f := os.NewFile(uintptr(other), "")
	defer f.Close()
	return net.FileConn(f)
}

// local is where the client connected to; not valid for a socket.
func (c *evented) local() netip.AddrPort {
	if c.server == nil {
		at := c.w.loop.Sockname(c.source.FD())
		c.server = &at
	}
	return *c.server
}
