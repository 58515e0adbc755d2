package proxy

import (
	"context"
	"io"

	"golang.org/x/sys/unix"

	"roster/exchange"
	"roster/node/loop"
	"roster/pool"
)

// backend is a connection to a backend, in use by a client of its worker or idle.
type backend struct {
	w        *worker
	link     *pool.Link // nil while it is being made
	target   pool.Target
	source   loop.Source
	client   *evented // nil: idle
	readable bool     // there may be something to read
	ended    bool     // the backend has closed its side, or all
	marked   bool     // urgent data has come: see loop.Mark
}

// idle returns a connection that is idle, for a request that is to be sent once only if
// sure. Nothing has come on it unasked.
func (w *worker) idle(p *pool.Pool, sure bool) *backend {
	for {
		link := p.Idle(w.lane)
		if link == nil {
			return nil
		}
		b := link.Owner.(*backend)
		if b.w != w {
			sure = true // what became of it meanwhile, the other loop may not have seen
			if b = w.steal(b); b == nil {
				continue
			}
		}
		if sure || b.source.Pending() {
			if w.loop.Peek(b.source.FD()) != loop.ErrAgain {
				b.link.Discard()
				w.drop(b)
				continue
			}
		}
		b.readable = false
		return b
	}
}

// steal moves an idle connection of another worker here. The pool has taken it.
func (w *worker) steal(from *backend) *backend {
	link := from.link
	if err := loop.Steal(from.w.loop, link.FD); err != nil {
		link.Discard()
		from.w.loop.Post(func() { from.w.loop.Close(&from.source) })
		return nil
	}
	from.w.loop.Post(func() { from.w.loop.Forget(&from.source) })
	b, err := w.adopt(link)
	if err != nil {
		return nil
	}
	return b
}

// adopt makes a new connection one of the worker's.
func (w *worker) adopt(link *pool.Link) (*backend, error) {
	b := &backend{w: w, link: link}
	if err := w.loop.Add(&b.source, link.FD, b, loop.Edge); err != nil {
		link.Discard()
		w.loop.CloseFD(link.FD)
		return nil, err
	}
	link.Owner = b
	return b, nil
}

// closeLink closes a connection that no loop has.
func closeLink(link *pool.Link) {
	link.Discard()
	unix.Close(link.FD)
}

// drop closes a connection on which neither side owes the other anything: see
// pool.Conn's hangUp.
func (w *worker) drop(b *backend) { w.loop.Reset(&b.source) }

// readFrom reads from a backend.
func (w *worker) readFrom(b *backend, room []byte) (int, error) {
	if !b.readable {
		return 0, loop.ErrAgain
	}
	n, err := w.loop.Read(b.source.FD(), room)
	err = b.orEnded(err)
	b.readable = err == nil && (n == len(room) || b.ended || b.marked)
	return n, err
}

// orEnded is err, but that one who has ended, or takes nothing any more, is not waited for.
func (b *backend) orEnded(err error) error {
	if err == loop.ErrAgain && b.ended {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Ready is called when the backend's socket has become so.
func (b *backend) Ready(e loop.Events) {
	if e&(loop.In|loop.Hup|loop.Err) != 0 || e == 0 {
		b.readable = true
	}
	b.ended = b.ended || e&(loop.Hup|loop.Err) != 0
	b.marked = b.marked || e&loop.Mark != 0
	c := b.client
	if c == nil {
		b.readyIdle()
		return
	}
	b.w.serving = c
	if b.link == nil {
		if e&(loop.Out|loop.Hup|loop.Err) != 0 {
			c.run(c.dialled())
		}
	} else {
		c.heardOf(b)
	}
	c.serve()
	b.w.serving = nil
}

// heardOf goes on when the request's backend has become ready.
func (c *evented) heardOf(b *backend) {
	if f := c.upload(); f.Kind != exchange.None {
		c.run(c.fail(f))
	}
	switch {
	case c.backend != b: // the request has failed
	case c.stuck != 0: // the client's turn
	case c.phase == asked && b.readable:
		c.run(c.nextHead())
	case c.phase == answering:
		c.run(c.forward())
	}
}

// readyIdle ends an idle connection if something has come on it. An event may also be
// that of bytes which were read long since.
func (b *backend) readyIdle() {
	if !b.readable {
		return
	}
	if b.w.loop.Peek(b.source.FD()) == loop.ErrAgain {
		b.readable = false
		return
	}
	if b.link.TakeIdle(b.w.lane) {
		b.w.drop(b)
	}
}

// dropLink gives the connection back, or closes it.
func (c *evented) dropLink(reuse bool) {
	b := c.backend
	if b == nil {
		return
	}
	c.backend, b.client = nil, nil
	c.passage.close(c.w.loop)
	if s := c.sending; s != nil {
		s.over = true
		s.passage.close(c.w.loop)
	}
	switch {
	case b.link == nil:
		c.picked.Pool.ConnectFailed(b.target, context.Canceled)
		c.w.loop.Close(&b.source)
	case reuse && b.quiet():
		if !b.link.Put(c.w.lane) {
			c.w.drop(b)
		}
	default:
		b.link.Discard()
		c.w.loop.Close(&b.source)
	}
}

// quiet says that nothing is left to be read, as far as one can know. A read that filled
// its buffer has not told.
func (b *backend) quiet() bool {
	if b.readable && !b.ended {
		b.readable = b.w.loop.Peek(b.source.FD()) != loop.ErrAgain
	}
	return !b.readable && !b.ended
}

// dialTarget begins to connect to the one address that there is.
func (c *evented) dialTarget(t pool.Target, want pool.Request) (exchange.Step, bool) {
	b := &backend{w: c.w, target: t, client: c}
	fd, err := t.Connect()
	switch {
	case err == unix.EAGAIN: // the queue of a socket is full
		return c.open(want)
	case err != nil:
		return c.fail(c.notConnected(c.picked.Pool.ConnectFailed(t, err)))
	}
	if err := c.w.loop.Add(&b.source, fd, b, loop.Edge); err != nil {
		c.picked.Pool.ConnectFailed(t, context.Canceled) // the address is not to blame
		c.w.loop.CloseFD(fd)
		return c.fail(exchange.Failure{Kind: exchange.Local})
	}
	c.backend = b
	c.phase = waits
	c.until = 0
	if limit := c.timeouts.Connect; limit > 0 {
		c.until = c.w.loop.Now() + limit
	}
	c.armBackend()
	return 0, false
}

// dialled goes on when the connection is made, or has failed.
func (c *evented) dialled() (exchange.Step, bool) {
	b := c.backend
	c.until = 0
	if err := b.target.Finish(b.source.FD()); err != nil {
		return c.notMade(err)
	}
	b.link = c.picked.Pool.Connected(b.target, b.source.FD())
	b.link.Owner = b
	return c.connected(b)
}

// notMade gives up the connection that was to be made.
func (c *evented) notMade(err error) (exchange.Step, bool) {
	b := c.backend
	c.backend, b.client = nil, nil
	c.w.loop.Close(&b.source)
	return c.fail(c.notConnected(c.picked.Pool.ConnectFailed(b.target, err)))
}
