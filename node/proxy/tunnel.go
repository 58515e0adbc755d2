package proxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/pool"
)

// tunnel sends the answer that switches protocols, and then copies bytes both
// ways until both sides have closed, one has failed, or neither has sent
// anything for the tunnel timeout.
func (c *client) tunnel() {
	c.status = c.x.Response.Status
	c.keepEntry()
	c.tell(c.outcome.after(exchange.None)) // what follows is the two sides' own affair
	link := c.link
	out := http1.AppendResponse(c.out[:0], &c.x.Response, c.x.ClientMinor())
	c.out = append(out, c.back.unread()...)
	c.bodySent = int64(len(c.back.unread()))
	err := c.write(c.out)
	if err == nil {
		c.conn.SetWriteDeadline(time.Time{})
		link.SetDeadline(time.Time{})
		early := c.in.unread()
		if len(early) > 0 {
			_, err = link.Write(early)
			c.tunnelled = int64(len(early))
		}
	}
	// From here on the end of the client's stream is passed on, and is no reason to
	// cancel anything.
	if c.endWait() && err == nil && !c.lost() {
		c.copyBothWays(link)
	}
	c.conn.Close()
	c.endTry(exchange.None)
	c.dropBackend(false)
	c.picked.Runtime.Responses[0].Add(1)
	c.account()
}

// copyBothWays has the second goroutine for the client's bytes.
func (c *client) copyBothWays(link *pool.Conn) {
	t := &traffic{p: c.p, timeout: c.timeouts.Tunnel}
	t.last.Store(int64(c.p.now()))
	c.back.r, c.back.w = 0, 0
	c.in.r, c.in.w = 0, 0
	c.conn.SetReadDeadline(time.Time{}) // it was the idle timeout's
	done := make(chan int64)
	go func() {
		n, ok := t.copy(link, c.conn, link.Conn, c.in.b, &c.shard.received)
		if !ok {
			link.Abort()
			c.conn.Close()
		}
		done <- n
	}()
	n, ok := t.copy(c.conn, link, c.conn, c.back.b, &c.shard.sent)
	if !ok {
		link.Abort()
		c.conn.Close()
	}
	c.bodySent += n
	c.tunnelled += <-done
}

// traffic is what the two directions of a tunnel know of each other.
type traffic struct {
	p       *Proxy
	timeout time.Duration
	last    atomic.Int64 // when a byte passed, either way, by Proxy.now
}

// copy copies from src until it ends, and then closes dst's sending side; end is
// dst without what may be around it. It is false if something failed, a silence
// that is too long included. total is how much it was.
func (t *traffic) copy(dst io.Writer, src net.Conn, end net.Conn, buf []byte, count *atomic.Uint64) (total int64, ok bool) {
	for {
		if t.timeout > 0 {
			src.SetReadDeadline(t.p.start.Add(time.Duration(t.last.Load()) + t.timeout))
		}
		n, err := src.Read(buf)
		if n > 0 {
			t.last.Store(int64(t.p.now()))
			count.Add(uint64(n))
			total += int64(n)
			if t.timeout > 0 {
				end.SetWriteDeadline(t.p.start.Add(time.Duration(t.last.Load()) + t.timeout))
			}
			if _, err := dst.Write(buf[:n]); err != nil {
				return total, false
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			half, ok := end.(interface{ CloseWrite() error })
			return total, ok && half.CloseWrite() == nil
		case isTimeout(err) && t.timeout <= 0:
			src.SetReadDeadline(time.Time{}) // a nudge, which was for a wait that is over
		case isTimeout(err) && t.p.now()-time.Duration(t.last.Load()) < t.timeout:
			// The other direction was busy meanwhile, or it was a nudge.
		default:
			return total, false
		}
	}
}
