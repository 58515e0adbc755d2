package proxy

import (
	"io"

	"roster/exchange"
	"roster/http1"
	"roster/message"
	"roster/node/loop"
)

// flush sends what is pending to the client. done says that nothing is left.
func (c *evented) flush() (done bool, err error) {
	for {
		n, err := c.write()
		if err != nil && err != loop.ErrAgain {
			return false, err
		}
		if n > 0 {
			c.shard.sent.Add(uint64(n))
			c.pend.sent(n)
			c.unstick()
		}
		if c.pend.empty() {
			c.pend = pending{}
			return true, nil
		}
		if err == loop.ErrAgain {
			c.noteStuck()
			return false, nil
		}
	}
}

// write sends what is pending to the client, once.
func (c *evented) write() (n int, err error) {
	if c.x.Response.Close && (c.phase == replying || c.phase == answering && c.final) {
		return c.w.loop.WritevLast(c.source.FD(), c.pend.a, c.pend.b) // done comes next
	}
	return c.w.loop.Writev(c.source.FD(), c.pend.a, c.pend.b, nil)
}

// noteStuck begins to count the time in which the client takes nothing.
func (c *evented) noteStuck() {
	if c.stuck == 0 {
		c.stuck = c.w.loop.Now()
		at, _ := c.clientDeadline()
		c.setTimer(at)
	}
}

// unstick notes that the client takes something. The backend was not waited for meanwhile.
func (c *evented) unstick() {
	if c.stuck != 0 {
		c.stuck, c.heard = 0, c.w.loop.Now()
	}
}

// flushInterim sends an interim answer, and then receives the next head.
func (c *evented) flushInterim() (exchange.Step, bool) {
	done, err := c.flush()
	switch {
	case err != nil:
		return c.fail(exchange.Failure{Kind: exchange.ClientGone})
	case !done:
		return 0, false
	}
	if s := c.sending; s != nil && s.awaited {
		s.awaited, s.asked = false, 0 // from now on the client is waited for
		if f := c.upload(); f.Kind != exchange.None {
			return c.fail(f)
		}
	}
	return c.nextHead()
}

// answerIt begins to send the answer whose head was received.
func (c *evented) answerIt() (exchange.Step, bool) {
	c.status = c.x.Response.Status
	c.phase = answering
	c.framed = c.x.Response.Length == message.Unknown && c.x.ClientMinor() > 0
	c.unsent, c.final = true, false
	c.answerBody.Reset(c.answer.Length)
	c.out = http1.AppendResponse(c.out[:0], &c.x.Response, c.x.ClientMinor())
	return c.take()
}

// forward sends the answer on as it comes.
func (c *evented) forward() (exchange.Step, bool) {
	for moved := 0; ; {
		if !c.pend.empty() {
			done, err := c.flush()
			switch {
			case err != nil:
				return c.fail(exchange.Failure{Kind: exchange.ClientGone})
			case !done:
				return 0, false
			}
		}
		if c.final {
			c.done(c.finish())
			return 0, false
		}
		if moved >= c.passage.turn() {
			c.w.loop.Again(&c.source)
			return 0, false
		}
		n, step, going := c.moreAnswer()
		if n == 0 {
			return step, going
		}
		moved += n
	}
}

// moreAnswer receives more of the answer, n bytes, and makes them pending; 0: the request
// waits, or step is next.
func (c *evented) moreAnswer() (n int, step exchange.Step, going bool) {
	if c.timeouts.Total > 0 && c.left() <= 0 {
		step, going = c.fail(exchange.Failure{Kind: exchange.Truncated})
		return 0, step, going
	}
	if c.pipe != nil || c.answer.Length > 0 && c.back.empty() && !c.backend.marked && c.passage.open(c.w.loop, c.answerBody.Remaining(), c.source.FD()) {
		return c.splice()
	}
	b := c.backend
	if c.answerBody.Remaining() > smallBuffer || c.back.w == len(c.back.b) {
		c.back.grow(largeBuffer)
	}
	n, err := c.w.readFrom(b, c.back.room())
	switch {
	case err == loop.ErrAgain:
		c.armBackend()
		return 0, 0, false
	case err == io.EOF && c.answerBody.EOF() == nil:
		c.answerEnded = true
		n = 1
	case err != nil:
		step, going = c.fail(exchange.Failure{Kind: exchange.Truncated})
		return 0, step, going
	default:
		c.back.w += n
	}
	c.heard = c.w.loop.Now()
	step, going = c.takeMore()
	if going {
		return 0, step, going
	}
	return n, 0, false
}

// take takes what came of the answer with its head, and sends it.
func (c *evented) take() (exchange.Step, bool) {
	if step, failed := c.takeMore(); failed {
		return step, true
	}
	c.unsent = false
	return c.forward()
}

// takeMore makes pending what was received of the answer.
func (c *evented) takeMore() (step exchange.Step, failed bool) {
	if !c.unsent {
		c.out = c.out[:0]
	}
	direct, done, err := c.takeAnswer(c.framed)
	switch {
	case err != nil && c.unsent:
		c.x.Withdraw()
		c.status = 0
		return c.fail(badAnswer(err))
	case err != nil:
		return c.fail(exchange.Failure{Kind: exchange.Truncated})
	}
	if done {
		if c.framed {
			c.out = http1.AppendLastChunk(c.out, c.answerTrailers())
		}
		// Before the last byte leaves: who has it may count on the slot.
		c.finishBackend()
		c.final = true
	}
	c.pend = pending{c.out, direct}
	return 0, false
}

// finishBackend ends what the request had of its backend, the answer being here as a
// whole.
func (c *evented) finishBackend() {
	reuse := !c.answer.Close && !c.x.Request.Close && c.back.empty() &&
		(c.sending == nil || c.sending.complete)
	c.countAnswer()
	c.dropLink(reuse)
	c.dropBackend(false)
}

// reply sends an answer that the exchange made.
func (c *evented) reply() {
	x := &c.x
	c.status = x.Response.Status
	c.bodySent = int64(len(x.Body))
	c.out = http1.AppendResponse(c.out[:0], &x.Response, x.ClientMinor())
	c.pend = pending{c.out, x.Body}
	c.phase = replying
	c.flushReply()
}

func (c *evented) flushReply() {
	done, err := c.flush()
	switch {
	case err != nil:
		c.endRequest(exchange.Failure{Kind: exchange.ClientGone})
	case done:
		c.done(c.finish())
	}
}

// splice moves some of the answer through the pipe.
func (c *evented) splice() (n int, step exchange.Step, going bool) {
	for {
		for c.pipe.Held() > 0 {
			out, err := c.w.loop.Drain(c.pipe, c.source.FD())
			if err == loop.ErrAgain {
				c.noteStuck()
				return 0, 0, false
			}
			if err != nil {
				step, going = c.fail(exchange.Failure{Kind: exchange.ClientGone})
				return 0, step, going
			}
			c.unstick()
			c.answerBody.Skip(int64(out))
			c.bodySent += int64(out)
			c.shard.sent.Add(uint64(out))
			n += out
		}
		if c.through == 0 {
			c.passage.close(c.w.loop)
			return n, 0, false
		}
		if n > 0 {
			return n, 0, false
		}
		if c.backend.marked { // which splice(2) does not get past
			c.passage.close(c.w.loop)
			return c.moreAnswer()
		}
		err := error(loop.ErrAgain)
		if c.backend.readable {
			_, err = c.fill(c.w.loop, c.backend.source.FD())
			err = c.backend.orEnded(err)
		}
		switch {
		case err == loop.ErrAgain:
			c.backend.readable = false
			c.armBackend()
			return 0, 0, false
		case err != nil:
			step, going = c.fail(exchange.Failure{Kind: exchange.Truncated})
			return 0, step, going
		}
		c.heard = c.w.loop.Now()
	}
}
