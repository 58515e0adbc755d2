package proxy

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"roster/exchange"
	"roster/pool"
)

// upload is a request's body on its way to the backend in a goroutine of its own,
// which until done has the client's side of the connection: its buffer, its
// reads, the body's framing.
type upload struct {
	awaited  atomic.Bool  // the client waits for 100 (Continue) and has sent nothing
	read     atomic.Bool  // the client's body was received to its end
	sentAt   atomic.Int64 // when all of it was sent, or could not be, by Proxy.now; 0: not yet
	stopping atomic.Bool
	done     chan struct{}

	// After done:
	complete bool // all of it was sent
	failure  exchange.Failure
}

func (c *client) startUpload(awaited bool) {
	u := &upload{done: make(chan struct{})}
	u.awaited.Store(awaited)
	c.upload = u
	go c.pump(u, c.link)
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
	c.link.Abort()
	c.nudge()
	<-u.done
}

// pump is the upload's goroutine.
func (c *client) pump(u *upload, link *pool.Conn) {
	defer close(u.done)
	f := c.pumpBody(u, link)
	if u.stopping.Load() || f.Kind == exchange.None {
		return
	}
	u.failure = f
	link.Abort() // so that nobody waits for an answer to this
}

// pumpBody sends the rest of the body. A backend that takes no more is no
// failure yet: it may have answered.
func (c *client) pumpBody(u *upload, link *pool.Conn) (f exchange.Failure) {
	chunked := c.request.Length < 0
	c.in.r, c.in.w = 0, 0
	for {
		if left := c.body.Remaining(); left > smallBuffer || c.in.w == len(c.in.b) {
			c.in.grow(largeBuffer)
		}
		n, f := c.receiveBody(u)
		if f.Kind != exchange.None {
			return f
		}
		c.in.w += n
		var piece []byte
		var done bool
		if chunked {
			var err error
			c.chunks, done, err = rechunk(c.chunks[:0], &c.in, &c.body)
			if err != nil {
				return badBody(err)
			}
			piece = c.chunks
		} else {
			left := c.body.Remaining()
			piece = c.in.unread()
			if int64(len(piece)) >= left {
				piece, done = piece[:left], true
			}
			c.body.Skip(int64(len(piece)))
			c.in.r += len(piece)
		}
		if done {
			u.read.Store(true) // before the backend can answer
		}
		if len(piece) > 0 {
			link.ArmWrite(c.timeouts.BetweenBytes)
			if _, err := link.Write(piece); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					return exchange.Failure{Kind: exchange.WriteTimeout}
				}
				u.sentAt.Store(int64(c.p.now()))
				return exchange.Failure{}
			}
		}
		if done {
			u.sentAt.Store(int64(c.p.now()))
			u.complete = true
			return exchange.Failure{}
		}
	}
}

// receiveBody reads from the client, who may be silent for BodyTimeout, but for
// as long as the backend likes if it is for 100 (Continue) that it waits.
func (c *client) receiveBody(u *upload) (int, exchange.Failure) {
	c.armRead(c.p.now() + c.p.config.BodyTimeout)
	for {
		if u.stopping.Load() {
			return 0, exchange.Failure{Kind: exchange.ClientGone} // nobody asks
		}
		n, err := c.conn.Read(c.in.room())
		switch {
		case n > 0:
			u.awaited.Store(false)
			c.shard.received.Add(uint64(n))
			return n, exchange.Failure{}
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return 0, exchange.Failure{Kind: exchange.ClientGone}
		}
		now := c.p.now()
		switch {
		case u.awaited.Load():
			c.setRead(now + c.p.config.BodyTimeout)
		case now < c.reading.want:
			c.setRead(c.reading.want)
		default:
			return 0, exchange.Failure{Kind: exchange.ClientTimeout}
		}
	}
}

// isTimeout says whether err is that of a deadline.
func isTimeout(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
