package exchange

import (
	"net/netip"
	"slices"
	"time"

	"roster/message"
	"roster/store"
)

// Step is what to do next. Each names the method that reports how it went;
// wherever that may be Failed, it is Failed that reports a failure.
type Step uint8

const (
	// Revision: wait until a table has seen MinRevision, at most the policy's
	// MinRevisionWait; then Waited.
	Revision Step = iota
	// Route: find the route; then Routed, or Failed.
	Route
	// Pick: choose a backend (another one, if there was one); then Picked, or Failed.
	Pick
	// Connect: take the backend's slot, unless it is held, and a connection, a new
	// one if Fresh; then Connected, or Failed.
	Connect
	// Send: send Request with its body and read the answer's head; then
	// Answered, or Failed.
	Send
	// Wait: read the next head of the answer; then Answered, or Failed.
	Wait
	// Interim: send Response, a 1xx, to the client; then as Wait.
	Interim
	// Answer: send Response and the answer's body to the client, and Failed if that
	// goes wrong. It is the last step otherwise.
	Answer
	// Tunnel: send Response, then copy bytes both ways until both ends close.
	Tunnel
	// Reply: send Response and Body, which the exchange made; the last step.
	Reply
	// Cut: close the client's connection without another byte, so that it cannot
	// take what it got for the whole (see Reset), or with HTTP/2 reset the stream;
	// the last step.
	Cut
)

// Exchange is the state of one request and its answer. The zero value is ready
// for Begin, and so is one that has ended.
type Exchange struct {
	// Request is what to send to the backend at Send.
	Request message.Request
	// Response is what to send to the client at Interim, Answer, Tunnel and Reply.
	// Its Close says whether to close the connection afterwards; with HTTP/2, where
	// that would end other requests too, it is true only after CloseClient.
	Response message.Response
	// Body goes with Response at Reply. It is nil where there may be none.
	Body []byte

	policy *Policy
	peer   *Peer
	in     *message.Request // borrowed until BodyGone
	route  *store.Route     // nil: the default rule
	def    *store.Backend
	path   []byte // as routes see it, borrowed as in is
	budget Budget // nil: any number of retries

	cookie  *store.Cookie // to be set on the answer; nil: none
	session []byte        // its value, borrowed

	client   netip.Addr
	revision int64 // asked for, then that of the table
	minor    uint8 // of the client's version
	retries  int   // tries of other backends
	repeats  int   // of the same
	refusals int   // repeats because the request was not processed
	interims int
	failure  Kind

	head       bool // the method is HEAD
	idempotent bool
	stream     bool // HTTP/2: the client has other requests on its connection
	upgrade    bool // an upgrade was asked for, and was sent on
	clientKept bool // client holds the client's address
	routed     bool // by the table of revision
	built      bool // Request is made, but for what the backend decides
	closing    bool // the client's connection ends with this answer
	fresh      bool // no reused connection any more
	reused     bool
	interim    bool // a 1xx was sent to the client
	sentHead   bool // the answer's head was handed out
	bodyRead   bool // the client's body was read to its end
	bodyGone   bool // part of the body cannot be sent again

	requestID   []byte
	traceparent []byte // in place of the client's, borrowed; nil: the client's goes on
	tracestate  []byte // with it
	scratch     []byte
	nominated   nominated
}

// Begin starts an exchange with the head of a request, of which it takes what a peer
// that is not trusted says about hops before it. in must stay as it is until the first
// byte of the answer or BodyGone.
func (x *Exchange) Begin(p *Policy, peer *Peer, in *message.Request) Step {
	x.reset(p, peer)
	x.in = in
	x.minor = in.Minor
	if in.Major > 1 {
		x.minor, x.stream = 1, true
	}
	x.head = string(in.Method) == "HEAD"
	x.idempotent = idempotent(in.Method)
	x.bodyRead = in.Length == 0
	x.closing = in.Close
	x.setRequestID()
	return x.check()
}

// Refuse answers what is no request, or none yet: f is BadRequest or
// ClientTimeout.
func (x *Exchange) Refuse(p *Policy, peer *Peer, f Failure) Step {
	x.reset(p, peer)
	x.minor = 1
	x.requestID = x.newRequestID()
	return x.Failed(f)
}

func (x *Exchange) reset(p *Policy, peer *Peer) {
	*x = Exchange{
		Request:   message.Request{Fields: x.Request.Fields[:0]},
		Response:  message.Response{Fields: x.Response.Fields[:0]},
		policy:    p,
		peer:      peer,
		scratch:   x.scratch[:0],
		nominated: x.nominated[:0],
	}
}

// Shrink gives back scratch space that an unusual request left large, and what
// it borrowed. Call it when no exchange is under way.
func (x *Exchange) Shrink() {
	const usual, usualFields = 4 << 10, 64
	scratch, request, response := x.scratch[:0], x.Request.Fields[:0], x.Response.Fields[:0]
	if cap(scratch) > usual {
		scratch = nil
	}
	if cap(request) > usualFields {
		request = nil
	}
	if cap(response) > usualFields {
		response = nil
	}
	*x = Exchange{scratch: scratch, nominated: x.nominated[:0]}
	x.Request.Fields, x.Response.Fields = request, response
}

// maxTiers is how many proxies of our name a request may have passed: far more
// than there are tiers, few enough for a loop in which somebody drops comments.
const maxTiers = 16

// check looks at what no backend needs to be asked for.
func (x *Exchange) check() Step {
	in := x.in
	if string(in.Method) == "CONNECT" {
		// A method that a gateway does not implement: RFC 9110 9.1. What follows the
		// head would be the tunnel's.
		return x.Failed(Failure{Kind: BadRequest, Status: 501, Text: "CONNECT is not implemented"})
	}
	if x.stream && len(in.Authority) == 0 && in.Get(message.Host) == nil {
		// As HTTP/1.1 without Host, which the parser refuses (RFC 9112 3.2).
		return x.Failed(Failure{Kind: BadRequest, Text: "the request names no host"})
	}
	minRevision := x.policy.config.MinRevisionWait > 0
	tiers, claims := 0, false
	for i := range in.Fields {
		f := &in.Fields[i]
		switch f.ID {
		case message.Connection:
			if !x.nominated.add(f.Value) {
				return x.Failed(Failure{Kind: BadRequest, Text: "Connection names too many fields"})
			}
		case message.Via:
			n, own := passes(f.Value, x.policy.pseudo, x.policy.comment)
			if tiers += n; own || tiers > maxTiers {
				return x.Failed(Failure{Kind: Loop})
			}
		case message.Expect:
			if x.minor > 0 && !message.EqualFold(f.Value, "100-continue") {
				return x.Failed(Failure{Kind: BadRequest, Status: 417, Text: "the only expectation known is 100-continue"})
			}
		case message.XMinRevision:
			if !minRevision {
				continue
			}
			n, ok := parseInt(f.Value)
			if !ok {
				return x.Failed(Failure{Kind: BadRequest, Text: "X-Min-Revision is no revision"})
			}
			x.revision = max(x.revision, n)
		default:
			claims = claims || forwarding(f.ID)
		}
	}
	if step, done := x.lastHop(); done {
		return step
	}
	if claims && !x.peer.trusted {
		// No backend gets them, and no route may be chosen by them: whoever is not
		// trusted could claim to have come by TLS.
		in.Fields = slices.DeleteFunc(in.Fields, func(f message.Field) bool { return forwarding(f.ID) })
	}
	if x.revision > 0 {
		return Revision
	}
	return Route
}

// forwarding says whether a field is about the hops before this proxy.
func forwarding(id message.ID) bool {
	switch id {
	case message.Forwarded, message.XForwardedFor, message.XForwardedProto, message.XForwardedHost, message.XForwardedPort, message.XForwardedOther:
		return true
	}
	return false
}

// lastHop answers TRACE and OPTIONS that may go no further (RFC 9110 7.6.2).
func (x *Exchange) lastHop() (Step, bool) {
	trace := string(x.in.Method) == "TRACE"
	if !trace && string(x.in.Method) != "OPTIONS" {
		return 0, false
	}
	v := x.in.Get(message.MaxForwards)
	if v == nil {
		return 0, false
	}
	n, ok := parseInt(v)
	switch {
	case !ok:
		return x.Failed(Failure{Kind: BadRequest, Text: "Max-Forwards is no number"}), true
	case n > 0:
		return 0, false
	}
	x.begin(200)
	x.field(xRequestID, x.requestID)
	if !trace {
		x.body(nil)
		return Reply, true
	}
	x.field(contentType, messageHTTP)
	x.body(x.reflect())
	return Reply, true
}

// reflect writes the request as it came, for the answer to TRACE, without what
// may be secret (RFC 9110 9.3.8).
func (x *Exchange) reflect() []byte {
	start := len(x.scratch)
	b := append(append(append(x.scratch, x.in.Method...), ' '), x.in.Target...)
	b = append(append(b, " HTTP/1."...), '0'+x.minor, '\r', '\n')
	if x.stream && x.in.Get(message.Host) == nil {
		b = append(append(append(b, "Host: "...), x.in.Authority...), '\r', '\n')
	}
	for _, f := range x.in.Fields {
		switch f.ID {
		case message.Authorization, message.ProxyAuthorization, message.Cookie:
		default:
			b = append(append(append(append(b, f.Name...), ": "...), f.Value...), '\r', '\n')
		}
	}
	x.scratch = append(b, '\r', '\n')
	return x.scratch[start:len(x.scratch):len(x.scratch)]
}

// MinRevision is the revision to wait for at Revision.
func (x *Exchange) MinRevision() int64 { return x.revision }

// Waited reports that a table has seen MinRevision.
func (x *Exchange) Waited() Step { return Route }

// Routed reports the route that the request takes, nil for the default rule, and
// the revision of the table that said so.
func (x *Exchange) Routed(route *store.Route, revision int64) Step {
	x.route, x.revision, x.routed = route, revision, true
	if route != nil && route.Respond != nil {
		return x.respond(route.Respond)
	}
	return Pick
}

// SetPath tells the path as routes see it, normalised, which strip_prefix needs. It has to
// stay as it is for as long as the request's head.
func (x *Exchange) SetPath(path []byte) { x.path = path }

// Budget says whether a request may be tried again: a share of all requests is
// tried, or backends that fail would get the more the less they can take.
type Budget interface {
	// Take takes the right to one more try, if there is one.
	Take() bool
}

// Limit makes tries of other backends depend on b. It is asked last: what it gives is
// used. Repeats to the same backend, of what it has not looked at, are few and
// free. Begin forgets b, and then there is no such limit.
func (x *Exchange) Limit(b Budget) { x.budget = b }

// Trace has these go to backends in the place of the client's traceparent and
// tracestate, which go on untouched without; an empty state is none. They are borrowed
// until the next Begin. parent may be changed in place before each Connected: a backend that
// is tried sees its own.
func (x *Exchange) Trace(parent, state []byte) { x.traceparent, x.tracestate = parent, state }

// Picked reports the chosen backend.
func (x *Exchange) Picked(def *store.Backend) Step {
	x.def = def
	x.cookie, x.session = nil, nil
	return Connect
}

// SetCookie has the answer of the backend that was Picked set a cookie, which leads the
// client's next request there again. value stays as it is until the next of Picked and Begin.
func (x *Exchange) SetCookie(c *store.Cookie, value []byte) { x.cookie, x.session = c, value }

// Idempotent says whether sending the request twice means no more than sending it once.
func (x *Exchange) Idempotent() bool { return x.idempotent }

// Fresh says that the connection must be a new one.
func (x *Exchange) Fresh() bool { return x.fresh }

// Connected reports a connection to the backend, and whether it was used before.
func (x *Exchange) Connected(reused bool) Step {
	x.reused = reused
	if !x.built {
		x.build()
	}
	x.setBackend()
	return Send
}

// Timeouts are those for the backend that was picked, by its definition and the
// route's.
func (x *Exchange) Timeouts() Timeouts {
	t := Timeouts{
		Connect:      x.def.ConnectTimeout,
		FirstByte:    x.def.FirstByteTimeout,
		BetweenBytes: x.def.BetweenBytesTimeout,
		Tunnel:       x.def.TunnelTimeout,
	}
	if r := x.route; r != nil {
		t.Total = r.Timeout
		override(&t.Connect, r.ConnectTimeout)
		override(&t.FirstByte, r.FirstByteTimeout)
		override(&t.BetweenBytes, r.BetweenBytesTimeout)
	}
	return t
}

func override(t *time.Duration, by time.Duration) {
	if by != store.Inherit {
		*t = by
	}
}

// BodyRead tells that the client's body was read to its end, so that the
// connection may be used again. A request without a body needs no telling.
func (x *Exchange) BodyRead() { x.bodyRead = true }

// BodyGone tells that a part of the body, or of the head, is no longer in
// memory: nothing can be sent a second time, and nothing borrowed from the head
// is touched again.
func (x *Exchange) BodyGone() {
	x.bodyGone = true
	x.in, x.path = nil, nil
	x.Request.Reset()
}

// CloseClient makes the answer, if its head is still to come, the last one on the
// client's connection.
func (x *Exchange) CloseClient() { x.closing = true }

// Reset tells how to cut the connection: by RST where the end of the
// connection would be the end of the body, else by closing it.
func (x *Exchange) Reset() bool {
	return x.sentHead && x.minor == 0 && x.Response.Length < 0
}

// Failure is why there is no good answer, None if there is one.
func (x *Exchange) Failure() Kind { return x.failure }

// Retries is how many times the request was tried again, with the same backend
// or with another.
func (x *Exchange) Retries() int { return x.retries + x.repeats }

// RequestID is the value of X-Request-Id.
func (x *Exchange) RequestID() []byte { return x.requestID }

// Head says whether the method is HEAD.
func (x *Exchange) Head() bool { return x.head }

// Withdraw tells that the head handed out at Answer was not sent, so that what
// went wrong can still be told.
func (x *Exchange) Withdraw() { x.sentHead = false }

// ClientMinor is the minor version of HTTP/1 that the client speaks; with HTTP/2
// it is 1, which has all that HTTP/2 has.
func (x *Exchange) ClientMinor() uint8 { return x.minor }

// idempotent says whether sending a request twice means no more than once
// (RFC 9110 9.2.2).
func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE":
		return true
	}
	return false
}

// parseInt reads a number without sign. What is larger than any is the largest.
func parseInt(b []byte) (int64, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		if n >= (1<<63-1)/10 {
			n = (1<<63-1)/10 - 1
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func appendInt[T int | int64](dst []byte, n T) []byte {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return append(dst, b[i:]...)
		}
	}
}
