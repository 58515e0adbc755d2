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
		if moved >= turnBytes {
			c.w.loop.Again(&c.source)
			return f
		}
		n, f := c.receiveBody()
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
	k := min(n, len(s.pend.a)+len(s.pend.b))
	s.pend.sent(k)
	s.tail = s.tail[n-k:]
	return true
}

// receiveBody receives the next piece of the body; n is 0 if there is none yet.
func (c *evented) receiveBody() (n int, f exchange.Failure) {
	s := c.sending
	now := c.w.loop.Now()
	if !c.readable {
		if s.asked == 0 {
			s.asked = now
			if at, _ := c.clientDeadline(); at != 0 {
				c.setTimer(at)
			}
		}
		return 0, f
	}
	c.in.r, c.in.w = 0, 0 // what was there is sent
	if c.body.Remaining() > smallBuffer {
		c.in.grow(largeBuffer)
	}
	n, err := c.read()
	switch {
	case err == loop.ErrAgain:
		return c.receiveBody()
	case err != nil:
		return 0, exchange.Failure{Kind: exchange.ClientGone}
	}
	if s.asked != 0 && !s.awaited {
		s.waited += now - s.asked
	}
	s.awaited, s.asked = false, 0
	c.shard.received.Add(uint64(n))
	s.received += int64(n)
	if c.phase == asked && c.p.tooSlow(s.received, s.waited) {
		return 0, tooSlow
	}
	piece, end, err := unframe(&c.in, &c.body)
	if err != nil {
		return 0, badBody(err)
	}
	s.body += int64(len(piece))
	if end {
		s.end, s.read = true, true
	}
	c.frameBody(piece, end)
	return n, f
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
