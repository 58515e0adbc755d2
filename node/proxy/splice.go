package proxy

import (
	"errors"
	"io"
	"syscall"
	"time"

	"roster/exchange"
	"roster/node/loop"
)

const (
	// spliceAbove is the rest of a body from which on moving it within the kernel
	// is worth the pipe and two more calls.
	spliceAbove = 256 << 10
	// spliceRest is left for the ordinary way, which gives the slot back before it
	// sends the last bytes.
	spliceRest = 16 << 10
)

// spliceAnswer passes n bytes of the answer's body on without looking at them,
// from socket to socket where the system can. It is not done if these are not
// plain TCP connections.
func (c *client) spliceAnswer(n int64) (done bool, f exchange.Failure) {
	client, link := c.plain(), c.link.TCP()
	if client == nil || link == nil || !c.sharpen() {
		return false, f
	}
	c.conn.SetWriteDeadline(time.Time{})
	c.writing = alarm{}
	c.pipe = io.LimitedReader{R: link, N: n}
	for c.pipe.N > 0 {
		c.armBackend(c.timeouts.BetweenBytes)
		moved, err := client.ReadFrom(&c.pipe)
		c.answerBody.Skip(moved)
		c.shard.sent.Add(uint64(moved))
		c.bodySent += moved
		switch {
		case err == nil && c.pipe.N > 0:
			return true, exchange.Failure{Kind: exchange.Truncated}
		case err == nil:
		case isTimeout(err) && (moved > 0 || !c.link.ReadExpired(err)):
			// A deadline that is kept since the pause before these bytes.
		case !isTimeout(err) && failed(c.raw):
			// ETIMEDOUT is what sharpen has asked for.
			if errors.Is(err, syscall.ETIMEDOUT) {
				return true, exchange.Failure{Kind: exchange.ClientTimeout}
			}
			return true, exchange.Failure{Kind: exchange.ClientGone}
		default:
			return true, exchange.Failure{Kind: exchange.Truncated}
		}
	}
	return true, f
}

// sharpen lets the system end the connection when the client takes nothing for
// WriteTimeout. A deadline would not do: it may come while bytes are in the pipe
// of a client that is slow but takes some, and those would be lost.
func (c *client) sharpen() bool {
	if !c.sharp {
		c.sharp = setUserTimeout(c.raw, c.p.config.WriteTimeout)
	}
	return c.sharp
}

// passage is the way of most of a large body in a loop: through a pipe.
type passage struct {
	pipe    *loop.Pipe // nil: there is none
	through int64      // bytes to go into it
	paced   bool       // see loop.Paced
}

// How much of a body is moved before others have their turn. To a paced socket it is about
// a segment: of more, each would wait for a timer of its own.
const (
	turnBytes  = 512 << 10
	pacedBytes = 60 << 10
)

func (p *passage) turn() int {
	if p.pipe != nil && p.paced {
		return pacedBytes
	}
	return turnBytes
}

// open takes a pipe if what is left of a body is worth it.
func (p *passage) open(l *loop.Loop, left int64, to int) bool {
	if left <= spliceAbove {
		return false
	}
	pipe, err := l.Pipe()
	if err != nil {
		return false
	}
	p.pipe, p.through, p.paced = pipe, left-spliceRest, l.Paced(to)
	return true
}

// fill receives some of the body.
func (p *passage) fill(l *loop.Loop, from int) (n int, err error) {
	n, err = l.Fill(p.pipe, from, int(min(p.through, int64(p.turn()))))
	p.through -= int64(n)
	return n, err
}

// close gives the pipe back.
func (p *passage) close(l *loop.Loop) {
	if p.pipe != nil {
		l.PutPipe(p.pipe)
		p.pipe = nil
	}
}
