package tracing

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"roster/message"
)

// A Trace is one request's part in a trace. The zero value takes no part, and all methods
// of it do nothing. It belongs to one goroutine, and must not be copied after Begin: the
// request that is sent borrows of it.
type Trace struct {
	tracer *Tracer
	header [parentSize]byte // for the backend
	state  []byte

	parent trace.SpanContext // of the server span; only if that is wanted
	wanted bool              // the server span
	server trace.Span        // nil: not sampled, or nothing is exported
	try    trace.Span        // nil: none under way
}

// Begin continues the trace that a request with these fields belongs to, or begins one.
// trusted says whether its sender's word on sampling counts. It allocates nothing unless
// tracestate is in several fields or too long; a single one is borrowed.
func (r *Trace) Begin(t *Tracer, fields []message.Field, trusted bool) {
	*r = Trace{tracer: t}
	c, ok := Parse(parent(fields))
	sampled := byte(0)
	if ok && trusted {
		sampled = c.Flags & Sampled
	} else if t.draw() {
		sampled = Sampled
	}
	if ok {
		r.state = state(fields)
	}
	if r.wanted = sampled != 0 && t.provider != nil; r.wanted && ok {
		r.parent = remote(c, r.state)
	}
	switch {
	case !ok:
		c = Context{Trace: newTrace(), Parent: newSpan(), Flags: Random | sampled}
	case c.Flags&Sampled != sampled:
		// Who says something else of a trace may not say it in another's name: 3.4.
		c.Parent, c.Flags = newSpan(), c.Flags^Sampled
	}
	if r.wanted && !r.parent.IsValid() {
		r.parent = trace.NewSpanContext(trace.SpanContextConfig{TraceID: c.Trace, TraceFlags: trace.TraceFlags(c.Flags)})
	}
	c.write(&r.header)
}

// remote is a context as the SDK has it.
func remote(c Context, state []byte) trace.SpanContext {
	members, _ := trace.ParseTraceState(string(state)) // one that only we understand is only passed on
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: c.Trace, SpanID: c.Parent, TraceFlags: trace.TraceFlags(c.Flags), TraceState: members, Remote: true,
	})
}

// Parent is the traceparent to send to the backend, nil for the zero value. BeginTry changes
// it in place.
func (r *Trace) Parent() []byte {
	if r.tracer == nil {
		return nil
	}
	return r.header[:]
}

// State is the tracestate to send to the backend, nil for none.
func (r *Trace) State() []byte { return r.state }

// ID is the trace's id, in hexadecimal digits; nil for the zero value.
func (r *Trace) ID() []byte {
	if r.tracer == nil {
		return nil
	}
	return r.header[traceAt : spanAt-1]
}

// Recorded says whether spans are made for the request, so that what they need is worth
// the trouble.
func (r *Trace) Recorded() bool { return r.wanted }

// A Request is what the span of a request says from the beginning. Bytes are copied.
type Request struct {
	Method, Target, Authority, UserAgent, ID []byte
	TLS                                      bool
	Major, Minor                             uint8      // version of HTTP
	Client                                   netip.Addr // after trusted proxies
	Peer                                     netip.AddrPort
}

// Start begins the span of a request, if it is wanted. End has to follow.
func (r *Trace) Start(q Request) {
	if !r.wanted {
		return
	}
	scheme, version := "http", "1.1"
	if q.TLS {
		scheme = "https"
	}
	if q.Major > 1 {
		version = "2"
	} else if q.Minor == 0 {
		version = "1.0"
	}
	name, about := method(q.Method)
	about = append(about, semconv.URLScheme(scheme), semconv.URLPath(text(path(q.Target))),
		semconv.NetworkProtocolVersion(version), attribute.String("roster.request_id", text(q.ID)))
	about = server(about, text(q.Authority))
	if q.Client.IsValid() {
		about = append(about, semconv.ClientAddress(q.Client.String()))
	}
	about = peer(about, q.Peer)
	if len(q.UserAgent) > 0 {
		about = append(about, semconv.UserAgentOriginal(text(q.UserAgent)))
	}
	ctx := trace.ContextWithSpanContext(context.Background(), r.parent)
	_, r.server = r.tracer.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(about...))
}

// A Result is how a request ended, or one try to have it answered by a backend.
type Result struct {
	Status  int    // 0: none
	Failure string // what failed, in a word; empty for nothing
	// Bad: it is the fault of this side, or of what is behind it; not the client's.
	Bad bool

	// Of a request:
	Route, Director, Backend string
	Revision                 int64
	Retries                  int
	// Of a try:
	Peer netip.AddrPort // where the connection leads
}

// End ends the span of a request, if there is one. The try has ended by then.
func (r *Trace) End(q Result) {
	if r.server == nil {
		return
	}
	about := []attribute.KeyValue{attribute.Int("roster.retries", q.Retries)}
	for _, a := range []struct{ key, value string }{
		{"roster.route", q.Route}, {"roster.director", q.Director}, {"roster.backend", q.Backend},
	} {
		if a.value != "" {
			about = append(about, attribute.String(a.key, a.value))
		}
	}
	if q.Revision != 0 {
		about = append(about, attribute.Int64("roster.revision", q.Revision))
	}
	r.server.SetAttributes(about...)
	end(r.server, q, 500)
	r.server, r.wanted = nil, false
}

// A Try is what the span of a try says from the beginning.
type Try struct {
	Method  []byte
	Backend string // its name
	Host    string // an address or a name; empty for a socket
	Port    int
	Retries int // how many tries came before
}

// BeginTry begins the span of a try, if the request has one, as whose child the backend
// sees its own: Parent names it from now on.
func (r *Trace) BeginTry(t Try) {
	if r.server == nil {
		return
	}
	name, about := method(t.Method)
	about = append(about, attribute.String("roster.backend", t.Backend))
	if t.Host != "" {
		about = append(about, semconv.ServerAddress(t.Host), semconv.ServerPort(t.Port))
	}
	if t.Retries > 0 {
		about = append(about, semconv.HTTPRequestResendCount(t.Retries))
	}
	ctx := trace.ContextWithSpan(context.Background(), r.server)
	_, r.try = r.tracer.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(about...))
	sent := r.try.SpanContext()
	c := Context{Trace: sent.TraceID(), Parent: sent.SpanID(), Flags: byte(sent.TraceFlags())}
	c.write(&r.header)
}

// Sent notes in the span of the try that a request is sent, and to what URL.
func (r *Trace) Sent(tls bool, authority, target []byte) {
	if r.try == nil {
		return
	}
	scheme := "http"
	if tls {
		scheme = "https"
	}
	r.try.SetAttributes(semconv.URLScheme(scheme), semconv.URLFull(scheme+"://"+text(authority)+text(path(target))))
	r.try.AddEvent(EventSent)
}

// Events of a try.
const (
	EventSlot      = "slot"       // there was a place at the backend
	EventSent      = "sent"       // there was a connection, and the request was begun
	EventFirstByte = "first byte" // of the answer came
)

// Event notes when something happened in the span of the try, if there is one.
func (r *Trace) Event(name string) {
	if r.try != nil {
		r.try.AddEvent(name)
	}
}

// Trying says whether the span of a try is under way.
func (r *Trace) Trying() bool { return r.try != nil }

// EndTry ends the span of the try, if there is one.
func (r *Trace) EndTry(q Result) {
	if r.try == nil {
		return
	}
	r.try.SetAttributes(peer(nil, q.Peer)...)
	end(r.try, q, 400)
	r.try = nil
}

// end ends a span. An answer is an error from a status on: 500 for who gives it, 400 for who gets it
// (OpenTelemetry, semantic conventions for HTTP spans).
func end(s trace.Span, q Result, errors int) {
	if q.Status > 0 {
		s.SetAttributes(semconv.HTTPResponseStatusCode(q.Status))
	}
	switch {
	case q.Failure != "":
		s.SetAttributes(semconv.ErrorTypeKey.String(q.Failure))
	case q.Status >= errors:
		s.SetAttributes(semconv.ErrorTypeKey.String(strconv.Itoa(q.Status)))
	}
	if q.Bad || q.Status >= errors {
		s.SetStatus(codes.Error, q.Failure)
	}
	s.End()
}

// method is a request's method as a span's name and attributes: others than the well-known
// ones are a client's to invent, and are no names.
func method(m []byte) (name string, about []attribute.KeyValue) {
	about = make([]attribute.KeyValue, 0, 16)
	switch name = string(m); name {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY":
		return name, append(about, semconv.HTTPRequestMethodKey.String(name))
	}
	return "HTTP", append(about, semconv.HTTPRequestMethodOther, semconv.HTTPRequestMethodOriginal(text(m)))
}

// server adds the host and port of an authority.
func server(about []attribute.KeyValue, authority string) []attribute.KeyValue {
	if authority == "" {
		return about
	}
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		return append(about, semconv.ServerAddress(strings.Trim(authority, "[]")))
	}
	about = append(about, semconv.ServerAddress(host))
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		about = append(about, semconv.ServerPort(int(n)))
	}
	return about
}

func peer(about []attribute.KeyValue, a netip.AddrPort) []attribute.KeyValue {
	if !a.IsValid() {
		return about
	}
	return append(about, semconv.NetworkPeerAddress(a.Addr().String()), semconv.NetworkPeerPort(int(a.Port())))
}

// path is a target without its query, in which there may be what is nobody's business.
func path(target []byte) []byte {
	for i, c := range target {
		if c == '?' {
			return target[:i]
		}
	}
	return target
}

// text is a client's bytes as text: the SDK's encoding loses a whole batch for a byte that
// is no UTF-8. What is much longer than the limit is not even copied.
func text(b []byte) string {
	const most = 4 * maxText // limits count characters
	return strings.ToValidUTF8(string(b[:min(len(b), most)]), "\ufffd")
}
