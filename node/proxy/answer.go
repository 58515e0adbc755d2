package proxy

import (
	"io"

	"roster/exchange"
	"roster/http1"
	"roster/http2"
	"roster/message"
	"roster/node/table"
)

// copyBelow is the size up to which bytes of a body are copied behind the head,
// rather than sent from where they are as a second piece.
const copyBelow = 4 << 10

// sendAnswer sends the answer whose head was received, and its body as it comes.
// done says that it was sent as a whole; otherwise step goes on.
func (c *client) sendAnswer() (step exchange.Step, done bool) {
	x := &c.x
	chunked := c.stream == nil && x.Response.Length == message.Unknown && x.ClientMinor() > 0
	c.status = x.Response.Status
	if c.upload != nil {
		c.upload.answering.Store(true)
	}
	if length := c.answer.Length; c.call != nil && length != 0 {
		c.answerBody.Reset(message.UntilClose) // its end is the stream's
	} else {
		c.answerBody.Reset(length)
	}
	c.out = c.out[:0]
	if c.stream == nil {
		c.out = http1.AppendResponse(c.out, &x.Response, x.ClientMinor())
	}
	for sent := false; ; sent = true {
		direct, done, err := c.takeAnswer(chunked)
		switch {
		case err != nil && !sent:
			x.Withdraw()
			c.status = 0
			return c.fail(badAnswer(err)), false
		case err != nil:
			return c.fail(exchange.Failure{Kind: exchange.Truncated}), false
		}
		var trailers []message.Field
		if done {
			trailers = c.answerTrailers()
			if chunked {
				c.out = http1.AppendLastChunk(c.out, trailers)
			}
			// Before the last byte leaves: who has it may count on the slot.
			c.finishBackend()
		}
		switch {
		case c.stream != nil:
			var head *message.Response
			if !sent {
				head = &x.Response
			}
			if len(c.out) > 0 {
				c.out = append(c.out, direct...)
				direct = c.out
			}
			if head != nil || done || len(direct) > 0 {
				err = c.sendStream(head, direct, done, trailers)
			}
		case len(direct) == 0 && len(c.out) > 0:
			err = c.write(c.out)
		case len(c.out) == 0 && len(direct) > 0:
			err = c.write(direct)
		case len(direct) > 0:
			err = c.write2(c.out, direct)
		}
		if err != nil {
			return c.fail(notTaken(err)), false
		}
		if done {
			return 0, true
		}
		c.out = c.out[:0]
		if f := c.receiveAnswer(); f.Kind != exchange.None {
			return c.fail(f), false
		}
	}
}

// takeAnswer takes what was received of the answer's body: small pieces, and
// those that need framing, to c.out; a large one as direct, to be sent after it.
func (c *client) takeAnswer(chunked bool) (direct []byte, done bool, err error) {
	for {
		data, n, event, err := c.answerBody.Next(c.back.unread())
		c.back.r += n
		switch {
		case err != nil:
			return nil, false, err
		case event == http1.More && c.answerEnded, event == http1.End:
			return direct, true, nil
		case event == http1.More:
			return direct, false, nil
		}
		c.bodySent += int64(len(data))
		switch {
		case chunked:
			c.out = appendFramed(c.out, data, false, nil)
		case len(data) < copyBelow && c.stream == nil || c.answer.Length == message.Unknown && c.call == nil:
			c.out = append(c.out, data...)
		default:
			direct = data // all there is: the body has no framing of its own
		}
	}
}

// answerTrailers are those of an answer received to its end.
func (c *client) answerTrailers() []message.Field {
	if c.call != nil {
		return exchange.Trailers(c.call.Trailers())
	}
	return exchange.Trailers(c.answerBody.Trailers())
}

// receiveAnswer receives more of the answer's body, or passes a long one on.
func (c *client) receiveAnswer() exchange.Failure {
	c.armBackend(c.timeouts.BetweenBytes)
	left := c.answerBody.Remaining()
	if c.link != nil && c.answer.Length > 0 && left > spliceAbove {
		if done, f := c.spliceAnswer(left - spliceRest); done {
			return f
		}
	}
	if left > smallBuffer || c.back.w == len(c.back.b) {
		c.back.grow(largeBuffer)
	}
	n, err := c.readBackend(c.back.room())
	c.back.w += n
	switch {
	case err == nil || n > 0:
		return exchange.Failure{}
	case err == io.EOF && c.answerBody.EOF() == nil:
		c.answerEnded = true
		return exchange.Failure{}
	}
	c.silent = isTimeout(err)
	return exchange.Failure{Kind: exchange.Truncated}
}

// streamPiece is how much of a body goes into a stream at once: four frames that
// fill a TLS record each, see package http2.
const streamPiece = 4 * 16375

// readBackend reads of the answer's body.
func (c *client) readBackend(b []byte) (int, error) {
	if c.stream != nil && len(b) > streamPiece {
		b = b[:streamPiece]
	}
	if c.call != nil {
		return c.call.Read(b)
	}
	return c.link.Read(b)
}

// finishBackend ends what the request had of its backend, the answer being here
// as a whole.
func (c *client) finishBackend() {
	reuse := !c.answer.Close && !c.x.Request.Close && c.back.empty()
	if u := c.upload; u != nil {
		c.stopUpload()
		reuse = reuse && u.complete
	}
	c.countAnswer()
	c.dropBackend(reuse)
}

// countAnswer notes that the answer is here as a whole.
func (c *client) countAnswer() {
	c.endTry(exchange.None)
	c.tell(c.outcome.after(exchange.None))
	if class := c.answer.Status/100 - 1; class < len(c.picked.Runtime.Responses) {
		c.picked.Runtime.Responses[class].Add(1)
	}
}

// dropBackend gives connection and slot back.
func (c *client) dropBackend(reuse bool) {
	c.endTry(exchange.Internal) // unless it has ended: after a panic
	c.tell(table.Unknown)       // so is this
	waited := c.endWait()
	if link := c.link; link != nil {
		c.link = nil
		if reuse && waited {
			link.Put()
		} else {
			link.Discard()
		}
	}
	c.endCall()
	c.release()
}

// discard gives up the connection, but not the slot.
func (c *client) discard() {
	c.endWait()
	if link := c.link; link != nil {
		c.link = nil
		link.Discard()
	}
	c.endCall()
}

// release gives the slot back.
func (c *client) release() {
	if c.held {
		c.held = false
		c.picked.Runtime.Release()
	}
}

// reply sends an answer that the exchange made.
func (c *client) reply() verdict {
	x := &c.x
	c.status = x.Response.Status
	c.bodySent = int64(len(x.Body))
	var err error
	if c.stream != nil {
		err = c.sendStream(&x.Response, x.Body, true, nil)
	} else {
		c.out = http1.AppendResponse(c.out[:0], &x.Response, x.ClientMinor())
		if len(x.Body) < copyBelow {
			c.out = append(c.out, x.Body...)
			err = c.write(c.out)
		} else {
			err = c.write2(c.out, x.Body)
		}
	}
	if err != nil {
		x.Failed(notTaken(err))
		return c.cut()
	}
	return c.finish()
}

// notTaken says why a client did not get what was sent.
func notTaken(err error) exchange.Failure {
	if isTimeout(err) {
		return exchange.Failure{Kind: exchange.ClientTimeout}
	}
	return exchange.Failure{Kind: exchange.ClientGone}
}

// finish ends a request that was answered.
func (c *client) finish() verdict {
	x := &c.x
	c.account()
	if c.stream != nil {
		c.stream.Reset(http2.NoError) // it has ended, unless the request's body has not
		return over
	}
	if !x.Response.Close {
		return more
	}
	// Closing while bytes of the client's are unread, or on their way, is a reset
	// that may overtake the answer.
	switch {
	case !c.whole && !c.bodyRead() || !c.in.empty():
		c.ending = linger
	case !c.request.Close:
		c.ending = brief // it did not know that this is the last answer
	}
	return over
}

// cut ends a request that was not answered, or not as a whole.
func (c *client) cut() verdict {
	c.account()
	switch {
	case c.stream != nil:
		c.stream.Reset(http2.InternalError)
	case c.x.Reset():
		c.ending = reset
	}
	return over
}

// account counts a request that has ended, however it did.
func (c *client) account() {
	now := c.p.now()
	c.shard.record(c.status, c.x.Failure(), now-c.began)
	c.endTrace()
	c.log(now)
}
