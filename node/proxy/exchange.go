package proxy

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"time"

	"roster/balancer"
	"roster/exchange"
	"roster/http1"
	"roster/http2"
	"roster/message"
	"roster/node/route"
	"roster/node/table"
	"roster/node/tracing"
	"roster/pool"
	"roster/store"
)

// try is what belongs to one request.
type try struct {
	began time.Duration // the head was complete
	table *table.Table
	taken *route.Route // nil: the default rule, or none yet
	ref   table.Ref
	first []byte // the body's first bytes, or all of it, without framing
	whole bool   // the body was received to its end

	picked   *table.Backend
	held     bool           // a slot of it
	link     *pool.Conn     // to it
	to       netip.AddrPort // where a loop's connection leads
	session  *http2.Conn    // or this,
	reserved bool           // with a place in it,
	call     *http2.Stream  // and then the request's stream
	silent   bool           // it let a timeout pass
	timeouts exchange.Timeouts
	begun    bool // bytes of the answer have come
	marks    marks
	address  netip.AddrPort // where the connection leads, for the access log
	cause    string         // why there is none
	bodySent int64          // of the answer's body, to the client
	// tunnelled are the bytes from the client after the switch of protocols.
	tunnelled int64
	upload    *upload
	sending   *sending // or this, of a loop
	// answerEnded: the backend closed, which is the end of the answer's body.
	answerEnded bool
	status      int // of the answer, 0: none yet
	outcome     outcome
	trace       tracing.Trace
}

// begin prepares for the request whose head was received: it takes what is there
// of the body.
func (c *client) begin() {
	c.try = try{began: c.now()}
	c.served = true
	if c.stream != nil {
		c.beginStream()
		return
	}
	c.body.Reset(c.request.Length)
	if c.request.Length == 0 {
		c.whole = true
		return
	}
	// A broken body is found here or by the upload, and either way no backend
	// takes it for a whole one. Here the answer can still be 400.
	c.first, c.whole, _ = unframe(&c.in, &c.body)
}

// unframe takes what src holds of a body out of its framing. data is in the
// memory of src, all in one piece. done says that this includes the end.
func unframe(src *buffer, body *http1.Body) (data []byte, done bool, err error) {
	start := src.r
	end := start
	for {
		piece, n, event, err := body.Next(src.unread())
		src.r += n
		switch {
		case err != nil:
			return nil, false, err
		case event == http1.Data:
			if end == start {
				start, end = src.r-len(piece), src.r // data is the last of what is consumed
			} else {
				end += copy(src.b[end:], piece)
			}
		case event == http1.End:
			return src.b[start:end], true, nil
		default:
			return src.b[start:end], false, nil
		}
	}
}

// appendFramed appends data as a chunk, and with done the end of a chunked body.
func appendFramed(dst, data []byte, done bool, trailers []message.Field) []byte {
	if len(data) > 0 {
		dst = http1.AppendChunk(dst, len(data))
		dst = append(dst, data...)
		dst = append(dst, http1.ChunkEnd...)
	}
	if done {
		dst = http1.AppendLastChunk(dst, trailers)
	}
	return dst
}

// appendAround appends what comes before and behind a piece of n bytes of a chunked body, with
// end also the end of the body. The first line bytes come before.
func appendAround(dst []byte, n int, end bool, trailers []message.Field) (all []byte, line int) {
	start := len(dst)
	if n > 0 {
		dst = http1.AppendChunk(dst, n)
		line = len(dst) - start
		dst = append(dst, http1.ChunkEnd...)
	}
	return appendFramed(dst, nil, end, trailers), line
}

// requestTrailers are those of a request received to its end.
func (c *client) requestTrailers() []message.Field {
	if c.stream != nil {
		return exchange.Trailers(c.stream.Trailers())
	}
	return exchange.Trailers(c.body.Trailers())
}

// exchange serves one request.
func (c *client) exchange() verdict { return c.run(c.start()) }

// start begins the exchange of a request, and says what is to be done first.
func (c *client) start() exchange.Step {
	x := &c.x
	step := x.Begin(c.p.policy, &c.peer, &c.request)
	c.beginTrace()
	if c.whole {
		x.BodyRead()
	}
	c.closeIfDraining()
	if step != exchange.Reply {
		if _, _, _, err := c.body.Next(nil); err != nil {
			step = x.Failed(badBody(err))
		}
	}
	return step
}

// run does what is to be done until the request has ended.
func (c *client) run(step exchange.Step) verdict {
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
			if err := c.interim(); err != nil {
				step = c.fail(exchange.Failure{Kind: exchange.ClientGone})
				continue
			}
			if c.upload != nil {
				c.upload.awaited.Store(false)
			}
			step = c.nextHead()
		case exchange.Wait:
			step = c.nextHead()
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

// closeIfDraining makes the answer the last one of a proxy that drains.
func (c *client) closeIfDraining() {
	if !c.p.draining.Load() {
		return
	}
	c.x.CloseClient()
	if c.stream != nil {
		c.http2.Load().GoAway()
	}
}

// interim sends a 1xx.
func (c *client) interim() error {
	if c.stream != nil {
		return c.sendStream(&c.x.Response, nil, false, nil)
	}
	c.out = http1.AppendResponse(c.out[:0], &c.x.Response, c.x.ClientMinor())
	return c.write(c.out)
}

// nextHead receives a head of the answer.
func (c *client) nextHead() exchange.Step {
	if c.call != nil {
		return c.callHead()
	}
	return c.head(0, nil)
}

func badBody(err error) exchange.Failure {
	f := badRequest(err)
	f.Kind = exchange.BadBody
	return f
}

// await waits for the revision that the request asks for.
func (c *client) await() exchange.Step {
	ctx, cancel := context.WithTimeout(&c.life, c.p.config.Exchange.MinRevisionWait)
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
	c.ask.Begin(&c.request, c.x.Client(), c.began)
	c.x.Limit(budget{c})
	taken, ref, err := c.table.Match(&c.ask)
	if n := c.ask.Skipped(); n > 0 {
		c.shard.skipped.Add(uint64(n))
	}
	c.x.SetPath(c.ask.Path())
	c.taken = taken
	if err != nil {
		return c.x.Failed(c.notRouted(err))
	}
	c.ref = ref
	var def *store.Route
	if taken != nil {
		def = taken.Effect()
	}
	return c.x.Routed(def, c.table.Revision())
}

// notRouted says why there is no route.
func (c *client) notRouted(err error) exchange.Failure {
	var failed *route.ConditionError
	if !errors.As(err, &failed) {
		return exchange.BadPath
	}
	c.shard.conditions.Add(1)
	c.cause = err.Error()
	return exchange.BadCondition
}

// mostPassedOver is how many backends one retry may pass over.
const mostPassedOver = 16

// pick asks the table for a backend. A try may come long after the request: whoever was
// drained or deleted since then gets none, as the fleet may have been told that nothing
// comes to it any more. A request that has gone nowhere yet begins anew by the newest
// table; a retry, whose head is that of its route, goes to another.
func (c *client) pick() exchange.Step {
	c.release()
	b, err := c.table.Pick(c.ref, &c.ask)
	if newest := c.p.config.Table(); newest != c.table {
		for passed := 0; err == nil && !newest.Takes(b); passed++ {
			switch {
			case c.x.Retries() == 0:
				return c.route()
			case passed == mostPassedOver:
				err = balancer.ErrNoBackend
			default:
				b, err = c.table.Pick(c.ref, &c.ask)
			}
		}
	}
	if err != nil {
		return c.x.Failed(exchange.Failure{Kind: exchange.NoBackend})
	}
	c.picked = b
	c.outcome = outcome{due: true, timed: c.ask.Timed()}
	if c.outcome.timed {
		c.outcome.began = c.p.now()
	}
	step := c.x.Picked(b.Def)
	if cookie, value, ok := c.ask.Cookie(); ok {
		c.x.SetCookie(cookie, value)
	}
	c.timeouts = c.x.Timeouts()
	return step
}

// connect takes a slot and a connection.
func (c *client) connect() exchange.Step {
	c.startWait()
	c.marks = marks{}
	c.beginTry()
	if c.timeouts.Total > 0 && c.left() <= 0 {
		return c.fail(exchange.Failure{Kind: exchange.Late})
	}
	ctx := c.limited()
	defer c.unlimit()
	if !c.held {
		if err := c.picked.Runtime.Acquire(ctx); err != nil {
			return c.fail(c.notConnected(err))
		}
		c.held = true
	}
	c.picked.Runtime.Requests.Add(1)
	c.mark(&c.marks.slot)
	c.trace.Event(tracing.EventSlot)
	step := c.dial(ctx)
	if step == exchange.Send {
		c.mark(&c.marks.connected)
	}
	return step
}

// limited is the context of waits for a backend, with what is left of the route's
// time for the whole request. unlimit has to follow.
func (c *client) limited() context.Context {
	if c.timeouts.Total <= 0 {
		return &c.life
	}
	if c.limit == nil {
		c.limit = new(deadline)
	}
	c.limit.life, c.limit.at = &c.life, c.p.start.Add(c.began+c.timeouts.Total)
	return c.limit
}

// unlimit ends a wait. What somebody has waited for, a dial that lost may still hold.
func (c *client) unlimit() {
	if d := c.limit; d != nil && d.inner != nil {
		d.stop()
		c.limit = nil
	}
}

// dial takes a connection. ctx is limited.
func (c *client) dial(ctx context.Context) exchange.Step {
	want := pool.Request{
		ConnectTimeout: c.timeouts.Connect, Fresh: c.x.Fresh(), Unchecked: c.whole,
	}
	if c.picked.Def.ProxyHeader != 0 {
		want.Client, want.Server = c.remote, c.local()
	}
	if c.picked.Def.Protocol != store.HTTP1 {
		return c.dialCall(ctx, want)
	}
	link, err := c.picked.Pool.Get(ctx, want)
	if err != nil {
		return c.fail(c.notConnected(err))
	}
	c.link = link
	c.noteAddress(link)
	c.waitingOn.Store(link)
	if c.lost() {
		return c.fail(exchange.Failure{Kind: exchange.ClientGone})
	}
	return c.x.Connected(link.Reused())
}

// notConnected says why there is no slot or no connection.
func (c *client) notConnected(err error) exchange.Failure {
	var e *pool.Error
	switch {
	case c.lost():
		return exchange.Failure{Kind: exchange.ClientGone}
	case errors.Is(err, pool.ErrBusy), errors.Is(err, pool.ErrWaitTimeout):
		return exchange.Failure{Kind: exchange.Busy}
	case errors.Is(err, pool.ErrSick):
		return exchange.Failure{Kind: exchange.Sick}
	case errors.As(err, &e):
		c.cause = e.Error()
		c.p.config.Logger.Debug("no connection", "backend", c.picked.Name, "error", err)
		f := exchange.Failure{Kind: connectKinds[e.Kind]}
		if f.Kind == exchange.Handshake || f.Kind == exchange.Unresolved {
			f.Type = e.ProxyStatus()
		}
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return exchange.Failure{Kind: exchange.Late}
	}
	return exchange.Failure{Kind: exchange.Internal, Status: 502}
}

var connectKinds = [...]exchange.Kind{
	pool.Refused:    exchange.Refused,
	pool.Unroutable: exchange.Unroutable,
	pool.Timeout:    exchange.ConnectTimeout,
	pool.Terminated: exchange.Handshake,
	pool.TLS:        exchange.Handshake,
	pool.DNS:        exchange.Unresolved,
	pool.Prohibited: exchange.Prohibited,
	pool.Local:      exchange.Local,
}

// send sends the request and receives the answer's head.
func (c *client) send() exchange.Step {
	x := &c.x
	c.begun = false
	c.outcome.send(c)
	c.trace.Sent(c.picked.Def.TLS != nil, x.Request.Authority, x.Request.Target)
	if c.back.b == nil {
		c.back.take()
	}
	c.back.r, c.back.w = 0, 0
	c.silent = false
	if c.session != nil {
		return c.sendCall()
	}
	c.answers.Reset()
	first := c.appendRequest()
	c.link.Arm(c.within(c.timeouts.FirstByte), c.timeouts.BetweenBytes)
	if c.whole {
		n, err := c.link.RoundTrip(c.out, first, c.back.room())
		if err == pool.ErrStale {
			// It was closed while it was idle, and nothing was sent: this is the look at
			// the connection that Get left to RoundTrip, not a try that failed.
			c.link.Discard()
			c.link = nil
			ctx := c.limited()
			defer c.unlimit()
			return c.dial(ctx)
		}
		return c.head(n, err)
	}
	c.bufs = append(c.bufs[:0], c.out)
	if len(first) > 0 {
		c.bufs = append(c.bufs, first)
	}
	if _, err := c.link.WriteBuffers(&c.bufs); err != nil {
		return c.fail(c.broken(err))
	}
	c.startUpload(nil)
	return c.head(0, nil)
}

// appendRequest makes the head of the request, and what is there of its body: the part of
// it that is not to be copied is body.
func (c *client) appendRequest() (body []byte) {
	c.out = http1.AppendRequest(c.out[:0], &c.x.Request)
	if c.x.Request.Length >= 0 {
		return c.first
	}
	var trailers []message.Field
	if c.whole {
		trailers = c.requestTrailers()
	}
	c.out = appendFramed(c.out, c.first, c.whole, trailers)
	return nil
}

// armBackend sets how long reads from the backend wait.
func (c *client) armBackend(d time.Duration) {
	if d = c.within(d); c.call != nil {
		c.call.ArmRead(d)
	} else {
		c.link.ArmRead(d)
	}
}

// within is d, or what is left of the route's time for the whole request.
func (c *client) within(d time.Duration) time.Duration {
	if c.timeouts.Total <= 0 {
		return d
	}
	left := max(c.left(), time.Nanosecond)
	if d <= 0 || left < d {
		return left
	}
	return d
}

// left is what the route's time for the whole request has left.
func (c *client) left() time.Duration { return c.began + c.timeouts.Total - c.p.now() }

// head receives until the head of an answer is complete. n and err are of a read
// that was made already, if any.
func (c *client) head(n int, err error) exchange.Step {
	for {
		c.received(n)
		whole, bad := c.parseAnswer()
		switch {
		case bad != nil:
			return c.fail(badAnswer(bad))
		case whole:
			return c.answered()
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

// received notes n bytes of the answer, before its head is complete.
func (c *client) received(n int) {
	if n == 0 {
		return
	}
	c.back.w += n
	if !c.begun {
		c.begun = true
		c.mark(&c.marks.firstByte)
		c.trace.Event(tracing.EventFirstByte)
	}
}

// parseAnswer looks for the head of an answer in what was received. whole says that it is
// there.
func (c *client) parseAnswer() (whole bool, err error) {
	if c.back.empty() {
		return false, nil
	}
	method := methodGet
	if c.x.Head() {
		method = methodHead
	}
	used, err := c.answers.Response(c.back.unread(), &c.answer, method)
	if used == 0 || err != nil {
		return false, err
	}
	c.back.r += used
	c.answers.Reset()
	return true, nil
}

// badAnswer is the failure of an answer that is none.
func badAnswer(err error) exchange.Failure {
	f := badRequest(err)
	f.Kind = exchange.BadAnswer
	return f
}

// answered reports the head of the answer that was received.
func (c *client) answered() exchange.Step {
	if c.bodyRead() {
		c.x.BodyRead()
	}
	c.closeIfDraining()
	c.outcome.head(c)
	step := c.x.Answered(&c.answer)
	if step == exchange.Reply || step == exchange.Cut || step == exchange.Pick || step == exchange.Connect {
		c.failed(step, exchange.BadAnswer)
	}
	return step
}

var (
	methodGet  = []byte("GET")
	methodHead = []byte("HEAD")
)

// extend tells if a timeout is none, since the backend has not got the whole
// request yet, or has it for less than the first-byte timeout. Interim answers that it
// has sent change nothing about that; a part of a head does.
func (c *client) extend(err error) bool {
	u := c.upload
	if u == nil || !c.back.empty() || !errors.Is(err, os.ErrDeadlineExceeded) || u.awaited.Load() ||
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
	case c.lost():
		kind = exchange.ClientGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.silent = true
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
	c.endTry(kind)
	c.discard()
	if step != exchange.Connect {
		c.tell(c.outcome.after(kind))
	}
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
