package proxy

import (
	"time"

	"roster/exchange"
	"roster/message"
	"roster/node/loop"
)

// sending is a request on its way to the backend that did not go out in one piece.
type sending struct {
	awaited  bool // the client waits for 100 (Continue) and has sent nothing
	read     bool // the client's body was received to its end
	complete bool // all was sent
	over     bool // nothing more will be
	end      bool // pend has the end
	chunked  bool
	sentAt   time.Duration // when all was sent, or could not be; 0: not yet
	asked    time.Duration // since when the client is waited for; 0: it is not
	stuck    time.Duration // since when the backend takes nothing; 0: it does
	waited   time.Duration // for the client in all
	received int64         // from the client, framing included
	body     int64         // of the body itself
	pend     pending
	tail     []byte // after pend
	frame    []byte
	passage  // for most of a large body
}

// startSending takes note of what is left of the request, of which n bytes were sent.
func (c *evented) startSending(n int, prologue, body []byte) exchange.Failure {
	s := &sending{read: c.whole, end: c.whole, chunked: c.x.Request.Length < 0, received: int64(len(c.first)), body: int64(len(c.first))}
	c.sending = s
	s.awaited = c.request.Expect100 && len(c.first) == 0
	if head := len(prologue) + len(c.out); n < head {
		// The memory of heads is used again before all of this may be sent.
		s.frame = append(append(s.frame, prologue...), c.out...)
		s.pend = pending{s.frame[n:], body}
		s.stuck = c.w.loop.Now()
	} else {
		s.pend = pending{nil, body[n-head:]}
	}
	if !c.whole {
		c.keepEntry()
		c.x.BodyGone()
	}
	return c.upload()
}

// upload sends on what comes of the request's body, if there is more than was sent with its
// head.
func (c *evented) upload() (f exchange.Failure) {
	if c.work == nil || c.sending == nil {
		return f
	}
	s := c.sending
	for moved := 0; !s.over; {
		if !s.pend.empty() || len(s.tail) > 0 {
			if !c.flushBody() {
				return f
			}
			continue
		}
		if s.end {
			s.over, s.complete, s.sentAt = true, true, c.w.loop.Now()
			c.armBackend()
			return f
		}
		if moved >= s.turn() {
			c.w.loop.Again(&c.source)
			return f
		}
		receive := c.receiveBody
		if s.pipe != nil || !s.chunked && !c.marked && s.open(c.w.loop, c.body.Remaining(), c.backend.source.FD()) {
			receive = c.spliceBody
		}
		n, f := receive()
		if f.Kind != exchange.None || n == 0 {
			return f
		}
		moved += n
	}
	return f
}

// flushBody sends what is pending to the backend; it is false if not all of it could be.
func (c *evented) flushBody() bool {
	s := c.sending
	n, err := c.w.loop.Writev(c.backend.source.FD(), s.pend.a, s.pend.b, s.tail)
	if !c.bodyTaken(err) {
		return false
	}
	k := min(n, len(s.pend.a)+len(s.pend.b))
	s.pend.sent(k)
	s.tail = s.tail[n-k:]
	return true
}

// bodyTaken notes what a write of the body to the backend said: false if it takes nothing.
func (c *evented) bodyTaken(err error) bool {
	s := c.sending
	switch {
	case err == loop.ErrAgain:
		if s.stuck == 0 {
			s.stuck = c.w.loop.Now()
		}
		c.armBackend()
		return false
	case err != nil:
		// A backend that takes no more is no failure yet: it may have answered.
		s.over, s.sentAt = true, c.w.loop.Now()
		c.backend.readable, c.backend.ended = true, true
		c.w.loop.Again(&c.backend.source)
		return false
	}
	s.stuck = 0
	return true
}

// receiveBody receives the next piece of the body; n is 0 if there is none yet.
func (c *evented) receiveBody() (n int, f exchange.Failure) {
	if !c.readable {
		c.awaitBody()
		return 0, f
	}
	c.in.r, c.in.w = 0, 0 // what was there is sent
	if c.body.Remaining() > smallBuffer {
		c.in.grow(largeBuffer)
	}
	n, err := c.read()
	switch {
	case err == loop.ErrAgain:
		c.awaitBody()
		return 0, f
	case err != nil:
		return 0, exchange.Failure{Kind: exchange.ClientGone}
	}
	if f := c.bodyCame(n); f.Kind != exchange.None {
		return 0, f
	}
	piece, end, err := unframe(&c.in, &c.body)
	if err != nil {
		return 0, badBody(err)
	}
	s := c.sending
	s.body += int64(len(piece))
	if end {
		s.end, s.read = true, true
	}
	c.frameBody(piece, end)
	return n, f
}

// awaitBody begins to wait for the client.
func (c *evented) awaitBody() {
	if s := c.sending; s.asked == 0 {
		s.asked = c.w.loop.Now()
		if at, _ := c.clientDeadline(); at != 0 {
			c.setTimer(at)
		}
	}
}

// bodyCame notes that n bytes have come of the client.
func (c *evented) bodyCame(n int) (f exchange.Failure) {
	s := c.sending
	if s.asked != 0 && !s.awaited {
		s.waited += c.w.loop.Now() - s.asked
	}
	s.awaited, s.asked = false, 0
	c.shard.received.Add(uint64(n))
	s.received += int64(n)
	if c.phase == asked && c.p.tooSlow(s.received, s.waited) {
		return tooSlow
	}
	return f
}

// spliceBody moves some of the body through the pipe; n is 0 if that has to wait.
func (c *evented) spliceBody() (n int, f exchange.Failure) {
	s := c.sending
	for {
		for s.pipe.Held() > 0 {
			out, err := c.w.loop.Drain(s.pipe, c.backend.source.FD())
			if !c.bodyTaken(err) {
				return 0, f
			}
			n += out
		}
		if s.through == 0 {
			s.close(c.w.loop)
			return n, f
		}
		if n > 0 {
			return n, f
		}
		if c.marked { // which splice(2) does not get past
			s.close(c.w.loop)
			return c.receiveBody()
		}
		if !c.readable {
			c.awaitBody()
			return 0, f
		}
		in, err := s.fill(c.w.loop, c.source.FD())
		switch {
		case err == loop.ErrAgain:
			c.readable = false
			continue
		case err != nil:
			return 0, exchange.Failure{Kind: exchange.ClientGone}
		}
		c.body.Skip(int64(in))
		s.body += int64(in)
		if f := c.bodyCame(in); f.Kind != exchange.None {
			return 0, f
		}
	}
}

// frameBody makes a piece of the body pending.
func (c *evented) frameBody(piece []byte, end bool) {
	s := c.sending
	if !s.chunked {
		s.pend = pending{nil, piece}
		return
	}
	var trailers []message.Field
	if end {
		trailers = c.requestTrailers()
	}
	var line int
	s.frame, line = appendAround(s.frame[:0], len(piece), end, trailers)
	s.pend = pending{s.frame[:line], piece}
	s.tail = s.frame[line:]
}
