package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"roster/exchange"
	"roster/http2"
	"roster/message"
	"roster/pool"
)

// upload is a request's body on its way to the backend in a goroutine of its own,
// which until done has the client's side of the connection: its buffer, its
// reads, the body's framing.
type upload struct {
	awaited   atomic.Bool  // the client waits for 100 (Continue) and has sent nothing
	answering atomic.Bool  // the answer's head is on its way to the client
	read      atomic.Bool  // the client's body was received to its end
	sentAt    atomic.Int64 // when all of it was sent, or could not be, by Proxy.now; 0: not yet
	stopping  atomic.Bool
	done      chan struct{}

	rest    []byte     // to be sent before what is received
	link    *pool.Conn // to the backend
	call    *http2.Stream
	chunked bool
	frame   []byte
	bufs    net.Buffers

	received int64         // from the client, framing included
	body     int64         // of the body itself
	waited   time.Duration // for the client

	// After done:
	complete bool // all of it was sent
	failure  exchange.Failure
}

// bodyRead says whether the client's body was received to its end since the request began.
func (c *client) bodyRead() bool {
	return c.upload != nil && c.upload.read.Load() || c.sending != nil && c.sending.read
}

// sentAt is when all of the body was sent, or could not be; 0: not yet.
func (c *client) sentAt() time.Duration {
	if c.upload != nil {
		return time.Duration(c.upload.sentAt.Load())
	}
	return c.sending.sentAt
}

// startUpload begins to send what follows the first bytes of the body; rest are
// those of them that were not sent.
func (c *client) startUpload(rest []byte) {
	u := &upload{
		done: make(chan struct{}), link: c.link, call: c.call, rest: rest,
		chunked: c.x.Request.Length < 0, received: int64(len(c.first)), body: int64(len(c.first)),
	}
	u.read.Store(c.whole)
	u.awaited.Store(c.request.Expect100 && len(c.first) == 0)
	c.keepEntry()
	c.x.BodyGone()
	c.upload = u
	go c.pump(u)
}

// send sends a piece of the body, and with end its end.
func (u *upload) send(data []byte, end bool, trailers []message.Field, timeout time.Duration) error {
	if u.call != nil {
		u.call.ArmWrite(timeout)
		return u.call.Send(nil, data, end, trailers)
	}
	u.link.ArmWrite(timeout)
	switch {
	case u.chunked && len(data) <= copyBelow:
		u.frame = appendFramed(u.frame[:0], data, end, trailers)
		data = u.frame
	case u.chunked:
		var line int
		u.frame, line = appendAround(u.frame[:0], len(data), end, trailers)
		u.bufs = append(u.bufs[:0], u.frame[:line], data, u.frame[line:])
		_, err := u.link.WriteBuffers(&u.bufs)
		return err
	}
	if len(data) == 0 {
		return nil
	}
	_, err := u.link.Write(data)
	return err
}

// abort makes the backend take no more, and nobody wait for its answer.
func (u *upload) abort() {
	if u.call != nil {
		u.call.Abort()
	} else {
		u.link.Abort()
	}
}

// lastWrite is how long the last write of a body may take after the backend's
// answer has ended.
const lastWrite = 20 * time.Millisecond

// stopUpload waits for the upload's end, and brings it about if it has to: then
// the connection to the backend is of no more use.
func (c *client) stopUpload() {
	u := c.upload
	if u == nil {
		return
	}
	select {
	case <-u.done:
		return
	default:
	}
	if u.read.Load() {
		// Its last write is under way, or has just been made: the answer to it may
		// be here before the goroutine is.
		moment := time.NewTimer(lastWrite)
		defer moment.Stop()
		select {
		case <-u.done:
			return
		case <-moment.C:
		}
	}
	u.stopping.Store(true)
	u.abort()
	c.nudge()
	<-u.done
}

// pump is the upload's goroutine.
func (c *client) pump(u *upload) {
	defer close(u.done)
	f := c.pumpBody(u)
	if u.stopping.Load() || f.Kind == exchange.None {
		return
	}
	u.failure = f
	u.abort()
}

// pumpBody sends the rest of the body. A backend that takes no more is no
// failure yet: it may have answered.
func (c *client) pumpBody(u *upload) (f exchange.Failure) {
	piece, end := u.rest, c.whole
	for {
		if len(piece) > 0 || end {
			var trailers []message.Field
			if end {
				u.read.Store(true) // before the backend can answer
				trailers = c.requestTrailers()
			}
			if err := u.send(piece, end, trailers, c.timeouts.BetweenBytes); err != nil {
				if isTimeout(err) {
					return exchange.Failure{Kind: exchange.WriteTimeout}
				}
				u.sentAt.Store(int64(c.p.now()))
				return exchange.Failure{}
			}
		}
		if end {
			u.sentAt.Store(int64(c.p.now()))
			u.complete = true
			return exchange.Failure{}
		}
		if piece, end, f = c.receiveBody(u); f.Kind != exchange.None {
			return f
		}
		u.body += int64(len(piece))
	}
}

// receiveBody receives the next piece of the body, which is empty if what came
// was framing only.
func (c *client) receiveBody(u *upload) (piece []byte, end bool, f exchange.Failure) {
	c.in.r, c.in.w = 0, 0 // what was there is sent
	if c.body.Remaining() > smallBuffer {
		c.in.grow(largeBuffer)
	}
	n, end, f := c.readBody(u)
	if f.Kind != exchange.None {
		return nil, false, f
	}
	u.received += int64(n)
	if !u.answering.Load() && c.p.tooSlow(u.received, u.waited) {
		return nil, false, tooSlow
	}
	if c.stream != nil {
		return c.in.b[:n], end, f
	}
	c.in.w += n
	piece, end, err := unframe(&c.in, &c.body)
	if err != nil {
		return nil, false, badBody(err)
	}
	return piece, end, f
}

// rateGrace is for how long a body may be slower than MinBodyRate.
const rateGrace = 5 * time.Second

// tooSlow is the failure of a body that is.
var tooSlow = exchange.Failure{Kind: exchange.ClientTimeout, Text: "the request's body came too slowly"}

// tooSlow tells if a client who was waited for sends so little that it can only mean to keep
// the connection busy. What is waited for the backend does not count, nor what comes while it
// answers already.
func (p *Proxy) tooSlow(received int64, waited time.Duration) bool {
	slack := waited - rateGrace
	return p.config.MinBodyRate > 0 && slack > 0 && received < int64(slack.Seconds()*float64(p.config.MinBodyRate))
}

// readBody reads from the client, who may be silent for BodyTimeout, but for as
// long as the backend likes if it is for 100 (Continue) that it waits, or if the
// answer has begun. With HTTP/2 it tells the end of the body.
func (c *client) readBody(u *upload) (n int, end bool, f exchange.Failure) {
	began := c.p.now()
	limit := began + c.p.config.BodyTimeout
	c.armRead(limit)
	for {
		if u.stopping.Load() {
			return 0, false, exchange.Failure{Kind: exchange.ClientGone} // nobody asks
		}
		var err error
		if c.stream != nil {
			n, err = c.stream.Read(c.in.b)
		} else {
			n, err = c.conn.Read(c.in.room())
		}
		now := c.p.now()
		switch {
		case n > 0 || err == io.EOF && c.stream != nil:
			if !u.awaited.Swap(false) {
				u.waited += now - began
			}
			c.shard.received.Add(uint64(n))
			return n, err == io.EOF, exchange.Failure{}
		case !isTimeout(err):
			return 0, false, exchange.Failure{Kind: exchange.ClientGone}
		case u.awaited.Load() || u.answering.Load():
			began = now // and the time until then was the backend's
			limit = now + c.p.config.BodyTimeout
		case now >= limit:
			return 0, false, exchange.Failure{Kind: exchange.ClientTimeout}
		}
		c.rearmRead(limit)
	}
}

// rearmRead arms what armRead may have left for later.
func (c *client) rearmRead(at time.Duration) {
	if c.stream != nil {
		c.stream.ArmRead(max(at-c.p.now(), 1)) // 0 would be no limit
	} else {
		c.setRead(at)
	}
}

// isTimeout says whether err is that of a deadline.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
