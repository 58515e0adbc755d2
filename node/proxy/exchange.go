package proxy

import (
	"context"
	"errors"
	"os"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/node/table"
	"roster/pool"
	"roster/store"
)

// try is what belongs to one request.
type try struct {
	began  time.Duration // the head was complete
	table  *table.Table
	ref    table.Ref
	first  []byte // the body's first bytes, or all of it, as they are sent
	chunks []byte // memory of first where it is not in the client's buffer
	whole  bool   // the body was received to its end

	picked   *table.Backend
	held     bool       // a slot of it
	link     *pool.Conn // to it
	timeouts exchange.Timeouts
	begun    bool // bytes of the answer have come
	upload   *upload
	// answerEnded: the backend closed, which is the end of the answer's body.
	answerEnded bool
	status      int // of the answer, 0: none yet
}

// begin prepares for the request whose head was received: it takes what is there
// of the body.
func (c *client) begin() {
	c.try = try{chunks: c.chunks[:0], began: c.p.now()}
	c.served = true
	c.body.Reset(c.request.Length)
	switch length := c.request.Length; {
	case length == 0:
		c.whole = true
	case length > 0:
		c.first = c.in.unread()
		if int64(len(c.first)) >= length {
			c.first, c.whole = c.first[:length], true
		}
		c.body.Skip(int64(len(c.first)))
		c.in.r += len(c.first)
	default:
		// A broken body is found here or by the upload, and either way no backend
		// takes it for a whole one. Here the answer can still be 400.
		c.chunks, c.whole, _ = rechunk(c.chunks, &c.in, &c.body)
		c.first = c.chunks
	}
}

// rechunk appends what src holds of a chunked body to dst, in chunks of our own
// making. done says that this includes the end.
func rechunk(dst []byte, src *buffer, body *http1.Body) (_ []byte, done bool, err error) {
	for {
		data, n, event, err := body.Next(src.unread())
		src.r += n
		switch {
		case err != nil:
			return dst, false, err
		case event == http1.Data:
			dst = appendChunk(dst, data)
		case event == http1.End:
			return http1.AppendLastChunk(dst, exchange.Trailers(body.Trailers())), true, nil
		default:
			return dst, false, nil
		}
	}
}

func appendChunk(dst, data []byte) []byte {
	dst = http1.AppendChunk(dst, len(data))
	dst = append(dst, data...)
	return append(dst, http1.ChunkEnd...)
}

// exchange serves one request.
func (c *client) exchange() verdict {
	x := &c.x
	step := x.Begin(c.p.policy, &c.peer, &c.request)
	if c.whole {
		x.BodyRead()
	}
	if c.p.draining.Load() {
		x.CloseClient()
	}
	if step != exchange.Reply {
		if _, _, _, err := c.body.Next(nil); err != nil {
			step = x.Failed(badBody(err))
		}
	}
	for {
		switch step {
		case exchange.Revision:
			step = c.await()
		case exchange.Route:
			step = c.route()
		case exchange.Pick:
			step = c.pick()
		case exchange.Connect:
			step = c.connect()
		case exchange.Send:
			step = c.send()
		case exchange.Interim:
			c.out = http1.AppendResponse(c.out[:0], &x.Response, x.ClientMinor())
			if err := c.write(c.out); err != nil {
				step = c.fail(exchange.Failure{Kind: exchange.ClientGone})
				continue
			}
			if c.upload != nil {
				c.upload.awaited.Store(false)
			}
			step = c.head(0, nil)
		case exchange.Wait:
			step = c.head(0, nil)
		case exchange.Answer:
			var done bool
			if step, done = c.sendAnswer(); done {
				return c.finish()
			}
		case exchange.Tunnel:
			c.tunnel()
			return over
		case exchange.Reply:
			return c.reply()
		case exchange.Cut:
			return c.cut()
		default:
			panic("unknown step")
		}
	}
}

func badBody(err error) exchange.Failure {
	f := badRequest(err)
	f.Kind = exchange.BadBody
	return f
}

// await waits for the revision that the request asks for.
func (c *client) await() exchange.Step {
	ctx, cancel := context.WithTimeout(c.ctx, c.p.config.Exchange.MinRevisionWait)
	defer cancel()
	c.startWait()
	err := c.p.config.Await(ctx, c.x.MinRevision())
	switch {
	case !c.endWait():
		return c.x.Failed(exchange.Failure{Kind: exchange.ClientGone})
	case err != nil:
		return c.x.Failed(exchange.Failure{Kind: exchange.Stale})
	}
	return c.x.Waited()
}

// route asks the table, which is the request's from now on.
func (c *client) route() exchange.Step {
	c.table = c.p.config.Table()
	if c.table == nil {
		return c.x.Failed(exchange.Failure{Kind: exchange.NoBackend})
	}
	route, ref, err := c.table.Match(&c.request, c.x.Client())
	switch {
	case errors.Is(err, table.ErrCondition):
		return c.x.Failed(exchange.Failure{Kind: exchange.Internal, Text: table.ErrCondition.Error()})
	case err != nil:
		return c.x.Failed(exchange.Failure{Kind: exchange.BadRequest, Text: "the path is not valid"})
	}
	c.ref = ref
	var def *store.Route
	if route != nil {
		def = route.Def
	}
	return c.x.Routed(def, c.table.Revision())
}

// pick asks the table for a backend.
func (c *client) pick() exchange.Step {
	c.release()
	b, err := c.table.Pick(c.ref)
	if err != nil {
		return c.x.Failed(exchange.Failure{Kind: exchange.NoBackend})
	}
	c.picked = b
	if b.Def.Protocol != store.HTTP1 && b.Def.Protocol != "" {
		return c.x.Failed(exchange.Failure{Kind: exchange.Internal, Status: 502, Text: "HTTP/2 to backends is not spoken yet"})
	}
	step := c.x.Picked(b.Def)
	c.timeouts = c.x.Timeouts()
	return step
}

// connect takes a slot and a connection.
func (c *client) connect() exchange.Step {
	c.startWait()
	if c.timeouts.Total > 0 && c.left() <= 0 {
		return c.fail(exchange.Failure{Kind: exchange.Late})
	}
	ctx, cancel := c.limited()
	defer cancel()
	if !c.held {
		if err := c.picked.Runtime.Acquire(ctx); err != nil {
			return c.fail(c.notConnected(err))
		}
		c.held = true
	}
	c.picked.Runtime.Requests.Add(1)
	return c.dial(ctx)
}

// limited is the context of waits for a backend, with what is left of the route's
// time for the whole request.
func (c *client) limited() (context.Context, context.CancelFunc) {
	if c.timeouts.Total <= 0 {
		return c.ctx, func() {}
	}
	return context.WithTimeout(c.ctx, c.left())
}

// dial takes a connection. ctx is limited.
func (c *client) dial(ctx context.Context) exchange.Step {
	link, err := c.picked.Pool.Get(ctx, pool.Request{
		ConnectTimeout: c.timeouts.Connect, Fresh: c.x.Fresh(), Unchecked: c.whole,
		Client: c.remote, Server: c.local,
	})
	if err != nil {
		return c.fail(c.notConnected(err))
	}
	c.link = link
	c.waitingOn.Store(link)
	if c.gone() || c.aborted.Load() {
		return c.fail(exchange.Failure{Kind: exchange.ClientGone})
	}
	return c.x.Connected(link.Reused())
}

// notConnected says why there is no slot or no connection.
func (c *client) notConnected(err error) exchange.Failure {
	var e *pool.Error
	switch {
	case c.gone() || c.aborted.Load():
		return exchange.Failure{Kind: exchange.ClientGone}
	case errors.Is(err, pool.ErrBusy), errors.Is(err, pool.ErrWaitTimeout):
		return exchange.Failure{Kind: exchange.Busy}
	case errors.Is(err, pool.ErrSick):
		return exchange.Failure{Kind: exchange.Sick}
	case errors.As(err, &e) && e.Kind == pool.Timeout:
		return exchange.Failure{Kind: exchange.ConnectTimeout}
	case errors.As(err, &e):
		return exchange.Failure{Kind: exchange.Refused, Type: e.ProxyStatus()}
	case errors.Is(err, context.DeadlineExceeded):
		return exchange.Failure{Kind: exchange.Late}
	}
	return exchange.Failure{Kind: exchange.Refused, Type: "proxy_internal_error"}
}

// send sends the request and receives the answer's head.
func (c *client) send() exchange.Step {
	x := &c.x
	c.out = http1.AppendRequest(c.out[:0], &x.Request)
	c.begun = false
	if c.back.b == nil {
		c.back.take()
	}
	c.back.r, c.back.w = 0, 0
	c.answers.Reset()
	c.armBackend(c.timeouts.FirstByte)
	c.link.ArmWrite(c.timeouts.BetweenBytes)
	if c.whole {
		n, err := c.link.RoundTrip(c.out, c.first, c.back.room())
		if err == pool.ErrStale {
			// It was closed while it was idle, and nothing was sent: this is the look at
			// the connection that Get left to RoundTrip, not a try that failed.
			c.link.Discard()
			c.link = nil
			ctx, cancel := c.limited()
			defer cancel()
			return c.dial(ctx)
		}
		return c.head(n, err)
	}
	c.bufs = append(c.bufs[:0], c.out)
	if len(c.first) > 0 {
		c.bufs = append(c.bufs, c.first)
	}
	if _, err := c.link.WriteBuffers(&c.bufs); err != nil {
		return c.fail(c.broken(err))
	}
	awaited := c.request.Expect100 && len(c.first) == 0
	x.BodyGone()
	c.startUpload(awaited)
	return c.head(0, nil)
}

// armBackend sets how long reads from the backend wait.
func (c *client) armBackend(d time.Duration) {
	if c.timeouts.Total > 0 {
		left := max(c.left(), time.Nanosecond)
		if d <= 0 || left < d {
			d = left
		}
	}
	c.link.ArmRead(d)
}

// left is what the route's time for the whole request has left.
func (c *client) left() time.Duration { return c.began + c.timeouts.Total - c.p.now() }

// head receives until the head of an answer is complete. n and err are of a read
// that was made already, if any.
func (c *client) head(n int, err error) exchange.Step {
	method := methodGet
	if c.x.Head() {
		method = methodHead
	}
	for {
		if n > 0 {
			c.back.w += n
			c.begun = true
		}
		if !c.back.empty() {
			used, err := c.answers.Response(c.back.unread(), &c.answer, method)
			if err != nil {
				f := badRequest(err)
				f.Kind = exchange.BadAnswer
				return c.fail(f)
			}
			if used > 0 {
				c.back.r += used
				c.answers.Reset()
				if c.upload != nil && c.upload.read.Load() {
					c.x.BodyRead()
				}
				if c.p.draining.Load() {
					c.x.CloseClient()
				}
				step := c.x.Answered(&c.answer)
				if step == exchange.Reply || step == exchange.Cut || step == exchange.Pick || step == exchange.Connect {
					c.failed(step, exchange.BadAnswer)
				}
				return step
			}
		}
		if err != nil {
			return c.fail(c.broken(err))
		}
		if c.begun {
			c.armBackend(c.timeouts.BetweenBytes)
		}
		n, err = c.link.Read(c.back.room())
		if err != nil && n == 0 && c.extend(err) {
			err = nil
		}
	}
}

var (
	methodGet  = []byte("GET")
	methodHead = []byte("HEAD")
)

// extend tells if a timeout is none, since the backend has not got the whole
// request yet, or has it for less than the first-byte timeout.
func (c *client) extend(err error) bool {
	u := c.upload
	if u == nil || c.begun || !errors.Is(err, os.ErrDeadlineExceeded) || u.awaited.Load() ||
		c.timeouts.Total > 0 && c.left() <= 0 {
		return false
	}
	since := c.p.now() - time.Duration(u.sentAt.Load())
	switch {
	case u.sentAt.Load() == 0:
		c.armBackend(c.timeouts.FirstByte)
	case since < c.timeouts.FirstByte:
		c.armBackend(c.timeouts.FirstByte - since)
	default:
		return false
	}
	return true
}

// broken says what an error of the backend's connection means before the
// answer's head is complete.
func (c *client) broken(err error) exchange.Failure {
	kind := exchange.Closed
	switch {
	case c.gone() || c.aborted.Load():
		kind = exchange.ClientGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		switch {
		case c.timeouts.Total > 0 && c.left() <= 0:
			kind = exchange.Late
		case c.begun:
			kind = exchange.BetweenBytes
		default:
			kind = exchange.FirstByte
		}
	case c.begun:
		kind = exchange.Incomplete
	}
	return exchange.Failure{Kind: kind}
}

// fail reports a failure with a backend at hand, whose connection is given up.
func (c *client) fail(f exchange.Failure) exchange.Step {
	if u := c.upload; u != nil {
		c.stopUpload()
		if u.read.Load() {
			c.x.BodyRead()
		}
		if u.failure.Kind != exchange.None {
			f = u.failure // what came first
		}
	}
	if c.gone() {
		f = exchange.Failure{Kind: exchange.ClientGone}
	}
	step := c.x.Failed(f)
	c.failed(step, f.Kind)
	return step
}

// failed cleans up after a failure that leads to step.
func (c *client) failed(step exchange.Step, kind exchange.Kind) {
	c.stopUpload()
	if kind.Backend() {
		c.picked.Runtime.Failures.Add(1)
	}
	c.discard()
	switch step {
	case exchange.Connect:
		c.shard.retries.Add(1)
	case exchange.Pick:
		c.shard.retries.Add(1)
		c.release()
	default:
		c.release()
	}
}
