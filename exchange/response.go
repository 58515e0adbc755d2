package exchange

import (
	"slices"
	"time"

	"roster/message"
	"roster/store"
)

// maxInterims bounds the 1xx answers to one request: a backend must not keep a
// request for ever by promising an answer.
const maxInterims = 64

// Answered reports a head of the backend's answer; in stays as it is while
// Response is in use. The steps it may return: Interim, Wait, Answer, Tunnel, or
// those of Failed for an answer that is not acceptable.
func (x *Exchange) Answered(in *message.Response) Step {
	switch {
	case in.Status == 101:
		if !x.upgrade || in.Upgrade == nil {
			return x.Failed(Failure{Kind: BadAnswer, Text: "the backend switched protocols unasked"})
		}
	case in.Status < 200:
		if x.interims++; x.interims > maxInterims {
			return x.Failed(Failure{Kind: BadAnswer, Text: "the backend sent too many interim answers"})
		}
		if x.minor == 0 {
			return Wait // HTTP/1.0 has none: RFC 9110 15.2
		}
	}
	x.nominated = x.nominated[:0]
	for i := range in.Fields {
		if f := &in.Fields[i]; f.ID == message.Connection && !x.nominated.add(f.Value) {
			return x.Failed(Failure{Kind: BadAnswer, Text: "the answer's Connection names too many fields"})
		}
	}
	x.answer(in)
	switch {
	case in.Status == 101:
		x.sentHead = true
		return Tunnel
	case in.Status < 200:
		x.interim = true
		return Interim
	}
	x.sentHead = true
	return Answer
}

// answer makes Response of the backend's head.
func (x *Exchange) answer(in *message.Response) {
	out := &x.Response
	fields := out.Fields[:0]
	*out = message.Response{
		Status: in.Status, Reason: in.Reason, Major: 1, Minor: 1,
		Length: in.Length, Bodiless: in.Bodiless,
	}
	if in.Major > 1 {
		out.Reason = text(reason(in.Status)) // HTTP/2 has none, and some HTTP/1 clients want one
	}
	final := in.Status >= 200
	if final {
		if in.Length == message.UntilClose {
			out.Length = message.Unknown
		}
		out.Close = x.endsConnection() || x.minor == 0 && out.Length < 0
	}
	if in.Status == 101 {
		out.Upgrade = in.Upgrade
	}
	// What a GET would have got is worth knowing for HEAD and 304; elsewhere the
	// length is the codec's to write.
	length := in.Bodiless && final && in.Status != 204
	dated := !final
	for i := range in.Fields {
		f := &in.Fields[i]
		switch {
		case f.ID == message.ContentLength && length:
			length = false
		case hop(f.ID):
			continue
		case f.ID == message.Other:
			if len(x.nominated) > 0 && x.nominated.has(f.Name) {
				continue
			}
		case f.ID == message.Trailer:
			if out.Length >= 0 || x.minor == 0 {
				continue
			}
		case f.ID == message.Date:
			dated = true
		}
		fields = append(fields, *f)
	}
	if !dated {
		fields = append(fields, message.New(message.Date, x.policy.date())) // RFC 9110 6.6.1
	}
	if final {
		fields = append(fields, message.New(message.Via, x.policy.via[min(in.Minor+2*b2u(in.Major > 1), 2)]))
		fields = x.appendRevision(fields)
		if x.route != nil {
			fields = x.edit(fields, &x.route.ResponseHeaders)
		}
		if x.cookie != nil && !shared(in) {
			fields = append(fields, message.New(message.SetCookie, x.appendCookie()))
		}
	}
	out.Fields = fields
}

// shared says whether an answer may be given to others than who asked for it: it
// is from a cache (RFC 9111 5.1), or one may keep it although it sets a cookie
// (RFC 9111 5.2.2.9, 5.2.2.10, 7.3), or brings what one has up to date. A client's
// cookie would go to all of them.
func shared(in *message.Response) bool {
	if in.Status == 304 {
		return true
	}
	for i := range in.Fields {
		switch f := &in.Fields[i]; {
		case f.ID == message.CacheControl:
			for list := f.Value; len(list) > 0; {
				var directive []byte
				directive, list = message.NextToken(list)
				if message.EqualFold(directive, "public") || len(directive) > len(sMaxAge) && message.EqualFold(directive[:len(sMaxAge)], sMaxAge) &&
					directive[len(sMaxAge)] == '=' {
					return true
				}
			}
		case f.ID == message.Other && message.EqualFold(f.Name, "age"):
			return true
		}
	}
	return false
}

const sMaxAge = "s-maxage"

// appendCookie writes the value of Set-Cookie (RFC 6265 4.1.1). No script needs the
// cookie, and only requests that lead here from other sites' pages by a link carry it.
func (x *Exchange) appendCookie() []byte {
	start := len(x.scratch)
	b := append(append(append(x.scratch, x.cookie.Name...), '='), x.session...)
	if x.cookie.Path != "" {
		b = append(append(b, "; Path="...), x.cookie.Path...)
	}
	if ttl := x.cookie.TTL; ttl > 0 {
		// Whole seconds; 0 of them would delete it.
		b = appendInt(append(b, "; Max-Age="...), int64((ttl+time.Second-1)/time.Second))
	}
	b = append(b, "; HttpOnly; SameSite=Lax"...)
	if x.peer.secure {
		b = append(b, "; Secure"...)
	}
	x.scratch = b
	return x.since(start)
}

func (x *Exchange) appendRevision(fields []message.Field) []message.Field {
	if !x.policy.config.RevisionHeader || !x.routed {
		return fields
	}
	start := len(x.scratch)
	x.scratch = appendInt(x.scratch, x.revision)
	return append(fields, message.New(message.XRosterRevision, x.since(start)))
}

// Trailers leaves out the fields that may not come after a body: all the
// well-known ones, since each says something that had to be known before it (RFC
// 9110 6.5.1), and recipients who take trailers for headers must not be told who
// the client is by the client.
func Trailers(fields []message.Field) []message.Field {
	known := func(f message.Field) bool { return f.ID != message.Other }
	if !slices.ContainsFunc(fields, known) {
		return fields
	}
	// Not in place: a request that is sent again has its trailers asked for again.
	return slices.DeleteFunc(slices.Clone(fields), known)
}

// respond makes the answer that a route gives by itself.
func (x *Exchange) respond(r *store.Respond) Step {
	x.begin(r.Status)
	x.Response.Fields = x.appendRevision(x.Response.Fields)
	for _, h := range r.Headers {
		x.Response.Fields = add(x.Response.Fields, h)
	}
	x.Response.Fields = x.edit(x.Response.Fields, &x.route.ResponseHeaders)
	x.body(text(r.Body))
	return Reply
}

// begin starts an answer that is made here.
func (x *Exchange) begin(status int) {
	x.Response = message.Response{
		Status: status, Reason: text(reason(status)), Major: 1, Minor: 1,
		Close:  x.endsConnection(),
		Fields: append(x.Response.Fields[:0], message.New(message.Date, x.policy.date())),
	}
	x.sentHead = true
}

// endsConnection says whether the client's connection ends with the answer: it was
// to end anyway, or the rest of the body would be taken for the next request.
func (x *Exchange) endsConnection() bool { return x.closing || !x.bodyRead && !x.stream }

func (x *Exchange) field(id message.ID, value []byte) {
	x.Response.Fields = append(x.Response.Fields, message.New(id, value))
}

// body ends an answer that is made here.
func (x *Exchange) body(b []byte) {
	r := &x.Response
	x.Body = nil
	switch {
	case r.Status < 200 || r.Status == 204 || r.Status == 304:
		r.Bodiless = true
	case x.head:
		r.Bodiless = true
		start := len(x.scratch)
		x.scratch = appendInt(x.scratch, len(b))
		x.field(message.ContentLength, x.since(start))
	default:
		r.Length = int64(len(b))
		x.Body = b
	}
}

// reason is what is said beside a status; it means nothing.
func reason(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 103:
		return "Early Hints"
	case 200:
		return "OK"
	case 201:
		return "Created"
	case 202:
		return "Accepted"
	case 204:
		return "No Content"
	case 206:
		return "Partial Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 303:
		return "See Other"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case 400:
		return "Bad Request"
	case 401:
		return "Unauthorized"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 406:
		return "Not Acceptable"
	case 408:
		return "Request Timeout"
	case 409:
		return "Conflict"
	case 410:
		return "Gone"
	case 412:
		return "Precondition Failed"
	case 413:
		return "Content Too Large"
	case 414:
		return "URI Too Long"
	case 415:
		return "Unsupported Media Type"
	case 416:
		return "Range Not Satisfiable"
	case 417:
		return "Expectation Failed"
	case 422:
		return "Unprocessable Content"
	case 429:
		return "Too Many Requests"
	case 431:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case 505:
		return "HTTP Version Not Supported"
	case 508:
		return "Loop Detected"
	}
	return ""
}
