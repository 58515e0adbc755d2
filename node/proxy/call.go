package proxy

import (
	"context"
	"errors"
	"io"
	"runtime/debug"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/http2"
	"roster/message"
	"roster/node/tracing"
	"roster/pool"
)

// A call is a request to a backend that speaks HTTP/2: a stream in a connection,
// called session by the pool, that many requests share.

// dialCall takes a place in a session.
func (c *client) dialCall(ctx context.Context, want pool.Request) exchange.Step {
	s, reused, err := c.picked.Pool.GetSession(ctx, want, c.p.newSession)
	if err != nil {
		return c.fail(c.notConnected(err))
	}
	c.session, c.reserved = s.(*http2.Conn), true
	c.noteAddress(c.session)
	if c.lost() {
		return c.fail(exchange.Failure{Kind: exchange.ClientGone})
	}
	return c.x.Connected(reused)
}

// sessionWrites is how long a backend may take no byte of a connection that many
// requests share. Each request has its own, shorter or longer, timeout besides.
const sessionWrites = 60 * time.Second

// sessionWindow is as good as none, as in net/http: a few clients that do not read their
// answers would use up any smaller one, and all others of the connection would wait
// for them. Each stream's own window bounds what is kept for its client.
const sessionWindow = 1 << 30

// startSession makes an HTTP/2 session of a new connection. It waits for the
// backend's SETTINGS: before them nobody knows how many requests it takes at once,
// and that it speaks HTTP/2 at all. Silent backends are not asked for a sign of
// life: servers of gRPC end the connection of whom asks more often than every five
// minutes, and calls that wait for events are silent for longer.
func (p *Proxy) startSession(conn *pool.Conn) (pool.Session, error) {
	h := http2.NewClient(conn, http2.Config{
		MaxHeaderSize: p.config.Limits.MaxHead,
		MaxFields:     p.config.Limits.MaxFields,
		ConnWindow:    sessionWindow,
		WriteTimeout:  sessionWrites,
	})
	ended := make(chan error, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				p.config.Logger.Error("panic in a session with a backend", "backend", conn.RemoteAddr(), "panic", r, "stack", string(debug.Stack()))
				h.Close()
			}
		}()
		ended <- h.Run()
	}()
	select {
	case <-h.Ready():
		return h, nil
	case err := <-ended:
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
}

// sendCall sends the request in a stream of its own and receives the answer's
// head.
func (c *client) sendCall() exchange.Step {
	var trailers []message.Field
	if c.whole && c.request.Length != 0 {
		trailers = c.requestTrailers()
	}
	scheme := "http"
	if c.picked.Def.TLS != nil {
		scheme = "https"
	}
	c.reserved = false
	end := c.whole && len(trailers) == 0
	call, n, err := c.session.Open(&c.x.Request, scheme, c.first, end)
	if err != nil {
		return c.fail(c.callBroken(err))
	}
	c.call = call
	c.calling.Store(call)
	if c.lost() {
		return c.fail(exchange.Failure{Kind: exchange.ClientGone})
	}
	c.armBackend(c.timeouts.FirstByte)
	if !end || n < len(c.first) {
		c.startUpload(c.first[n:])
	}
	return c.callHead()
}

// callHead receives the next head of the answer.
func (c *client) callHead() exchange.Step {
	if c.begun {
		c.armBackend(c.timeouts.BetweenBytes)
	}
	for {
		err := c.call.Head(&c.answer)
		if err == nil {
			if !c.begun {
				c.begun = true
				c.mark(&c.marks.firstByte)
				c.trace.Event(tracing.EventFirstByte)
			}
			return c.answered()
		}
		if !c.extend(err) {
			return c.fail(c.callBroken(err))
		}
	}
}

// callBroken says what an error of a call means before the answer's head is
// complete.
func (c *client) callBroken(err error) exchange.Failure {
	f := c.broken(err)
	var reset *http2.ResetError
	var bad *http1.Error
	switch {
	case f.Kind == exchange.ClientGone, isTimeout(err):
	case errors.As(err, &bad):
		f = badAnswer(err)
	case !errors.As(err, &reset):
	case reset.Unprocessed:
		f.Kind, f.Unprocessed = exchange.Closed, true
	case reset.Remote:
		f.Kind = exchange.Incomplete
	default:
		f.Kind = exchange.BadAnswer
	}
	return f
}

// endCall ends what is left of a call: an answer may be whole before its request
// is.
func (c *client) endCall() {
	session := c.session
	if session == nil {
		return
	}
	c.session = nil
	if c.reserved {
		session.Unreserve()
	}
	if call := c.call; call != nil {
		c.call = nil
		if c.silent {
			// Perhaps its host is gone. Others finish there, but none begin.
			session.GoAway()
		}
		call.Reset(http2.Cancel)
	}
}
