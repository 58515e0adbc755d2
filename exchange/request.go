package exchange

import (
	"bytes"
	"net/netip"
	"strings"
	"unsafe"

	"roster/message"
	"roster/store"
)

// build makes Request of the client's head: everything that does not depend on
// the backend.
func (x *Exchange) build() {
	x.built = true
	in, out := x.in, &x.Request
	fields := out.Fields[:0]
	*out = message.Request{
		Method: in.Method, Target: in.Target, Major: 1, Minor: 1,
		Length: in.Length, Expect100: in.Expect100 && x.minor > 0,
	}
	if x.route != nil && x.route.StripPrefix != "" {
		out.Target = x.strip(in.Target, x.route.StripPrefix)
	}
	trusted := x.peer.trusted
	limited := string(in.Method) == "TRACE" || string(in.Method) == "OPTIONS"
	var proto, host, forwarded, chain, te bool
	for i := range in.Fields {
		f := &in.Fields[i]
		if hop(f.ID) && (f.ID != message.ContentLength || in.Length != 0) {
			te = te || f.ID == message.TE && x.minor > 0 && message.HasToken(f.Value, "trailers")
			continue
		}
		switch f.ID {
		case message.Other:
			if len(x.nominated) > 0 && x.nominated.has(f.Name) || poses(f.Name) {
				continue
			}
		case message.Host, message.XRequestID:
			continue
		case message.Traceparent, message.Tracestate:
			if x.traceparent != nil {
				continue
			}
		case message.Trailer:
			if in.Length >= 0 {
				continue
			}
		case message.Expect:
			if !out.Expect100 {
				continue
			}
		case message.MaxForwards:
			if limited {
				if n, ok := parseInt(f.Value); ok && n > 0 {
					start := len(x.scratch)
					x.scratch = appendInt(x.scratch, n-1)
					fields = append(fields, message.New(message.MaxForwards, x.since(start)))
				}
				continue
			}
		case message.XForwardedFor:
			chain = true
			continue
		case message.Forwarded:
			forwarded = true
			continue
		case message.XForwardedProto, message.XForwardedHost: // a trusted peer's, see check
			proto = proto || f.ID == message.XForwardedProto
			host = host || f.ID == message.XForwardedHost
		}
		fields = append(fields, *f)
	}

	if te {
		// Trailers are passed on, so the wish for them may be: gRPC insists on it.
		// Other codings end here.
		fields = append(fields, message.New(message.TE, trailers))
	}
	if len(x.peer.text) > 0 {
		value := x.peer.text
		if trusted && chain {
			start := len(x.scratch)
			x.appendList(message.XForwardedFor)
			x.scratch = append(x.scratch, value...)
			value = x.since(start)
		}
		fields = append(fields, message.New(message.XForwardedFor, value))
	}
	if !proto {
		fields = append(fields, message.New(message.XForwardedProto, x.peer.proto()))
	}
	if !host && len(in.Authority) > 0 {
		fields = append(fields, message.New(message.XForwardedHost, in.Authority))
	}
	// A trusted proxy that sends X-Forwarded-For only would become the client of a
	// Forwarded begun here.
	if !trusted || forwarded || !chain {
		start := len(x.scratch)
		if trusted {
			x.appendList(message.Forwarded)
		}
		x.appendForwarded()
		fields = append(fields, message.New(message.Forwarded, x.since(start)))
	}
	fields = append(fields,
		message.New(message.Via, x.policy.onward[min(in.Minor+2*b2u(in.Major > 1), 2)]),
		message.New(message.XRequestID, x.requestID))
	if x.traceparent != nil {
		fields = append(fields, message.New(message.Traceparent, x.traceparent))
		if len(x.tracestate) > 0 {
			fields = append(fields, message.New(message.Tracestate, x.tracestate))
		}
	}
	out.Fields = fields
	if x.route != nil {
		out.Fields = x.edit(out.Fields, &x.route.RequestHeaders)
	}
}

func b2u(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// since returns the scratch written from start on.
func (x *Exchange) since(start int) []byte {
	return x.scratch[start:len(x.scratch):len(x.scratch)]
}

// appendList writes the values of all fields of id as one list, and the comma for
// one more, to scratch.
func (x *Exchange) appendList(id message.ID) {
	for i := range x.in.Fields {
		if f := &x.in.Fields[i]; f.ID == id && len(f.Value) > 0 {
			x.scratch = append(append(x.scratch, f.Value...), ", "...)
		}
	}
}

// appendForwarded writes this hop's element of Forwarded (RFC 7239).
func (x *Exchange) appendForwarded() {
	b := append(x.scratch, x.peer.node...)
	if host := x.in.Authority; len(host) > 0 {
		b = append(b, ";host="...)
		token := true
		for _, c := range host {
			token = token && isToken(c)
		}
		if token {
			b = append(b, host...)
		} else {
			b = append(b, '"')
			for _, c := range host {
				if c == '"' || c == '\\' {
					b = append(b, '\\')
				}
				b = append(b, c)
			}
			b = append(b, '"')
		}
	}
	x.scratch = append(append(b, ";proto="...), x.peer.proto()...)
}

// setBackend fills in what the backend decides. Host is written from Authority.
func (x *Exchange) setBackend() {
	host := x.in.Authority
	switch {
	case x.route != nil && x.route.RewriteHost != "":
		host = text(x.route.RewriteHost)
	case x.def.OverrideHost || len(host) == 0:
		host = text(x.def.HostHeader)
	}
	x.Request.Authority = host
	x.Request.Close = x.def.NoReuse
	x.Request.Upgrade = nil
	if x.upgrade = x.mayUpgrade(); x.upgrade {
		x.Request.Upgrade = x.in.Upgrade
	}
}

// mayUpgrade says whether the backend is asked to change the protocol. HTTP/2 and
// HTTP/1.0 have no upgrade, one to h2c would let whatever follows past every rule
// (RFC 9113 has dropped it), and one with a body is nobody's practice.
func (x *Exchange) mayUpgrade() bool {
	in := x.in
	return in.Upgrade != nil && x.minor > 0 && !x.stream && in.Length == 0 &&
		x.def.Protocol != store.HTTP2 && x.def.Protocol != store.H2C && !message.HasToken(in.Upgrade, "h2c")
}

// Client is the address that the request is from: the peer's, or what trusted
// proxies say. It is not valid for a client on a socket. First asked after Refuse
// or BodyGone, it knows no more than the peer's.
func (x *Exchange) Client() netip.Addr {
	if !x.clientKept {
		x.clientKept = true
		x.client = x.peer.addr
		if x.peer.trusted && x.in != nil {
			x.walk()
		}
	}
	return x.client
}

// walk follows X-Forwarded-For from right to left as long as those who wrote it
// are trusted.
func (x *Exchange) walk() {
	for i := len(x.in.Fields) - 1; i >= 0; i-- {
		f := &x.in.Fields[i]
		if f.ID != message.XForwardedFor {
			continue
		}
		for list := f.Value; len(list) > 0; {
			at := bytes.LastIndexByte(list, ',')
			element := bytes.Trim(list[at+1:], " \t")
			list = list[:max(at, 0)]
			if len(element) == 0 {
				continue
			}
			addr, ok := parseAddr(element)
			if !ok {
				return
			}
			x.client = addr
			if !x.policy.trusts(addr) {
				return
			}
		}
	}
}

// parseAddr reads an address as proxies write it: alone, in brackets, or with a
// port.
func parseAddr(b []byte) (netip.Addr, bool) {
	if end := bytes.IndexByte(b, ']'); b[0] == '[' && end > 0 {
		b = b[1:end]
	} else if at := bytes.IndexByte(b, ':'); at >= 0 && bytes.LastIndexByte(b, ':') == at {
		b = b[:at]
	}
	a, err := netip.ParseAddr(unsafe.String(unsafe.SliceData(b), len(b)))
	return a.Unmap().WithZone(""), err == nil
}

// setRequestID keeps a trusted peer's id or makes one. It is copied, for it is
// needed for as long as the exchange lasts.
func (x *Exchange) setRequestID() {
	if x.peer.trusted {
		if id := x.in.Get(message.XRequestID); validID(id) {
			start := len(x.scratch)
			x.scratch = append(x.scratch, id...)
			x.requestID = x.since(start)
			return
		}
	}
	x.requestID = x.newRequestID()
}

func (x *Exchange) newRequestID() []byte {
	start := len(x.scratch)
	x.scratch = x.policy.ids.append(x.scratch, x.peer)
	return x.since(start)
}

// strip takes a prefix off a target's path, at the end of a segment. The path is
// compared as routes see it, encoded letters decoded and empty segments merged, and what
// is left of it stays as it is written, but for one with dot segments: what they go up to
// may be gone with the prefix, so of that path the backend gets what routes see.
func (x *Exchange) strip(target []byte, prefix string) []byte {
	if raw, _, _ := bytes.Cut(target, []byte{'?'}); dotted(raw) && len(x.path) > 0 {
		start := len(x.scratch)
		x.scratch = append(append(x.scratch, x.path...), target[len(raw):]...)
		target = x.since(start)
	}
	i := 0
	for j := 0; j < len(prefix); j++ {
		if i >= len(target) {
			return target
		}
		c, n := target[i], 1
		switch {
		case c == '?':
			return target
		case c == '%' && i+2 < len(target):
			hi, lo := unhex(target[i+1]), unhex(target[i+2])
			if hi < 0 || lo < 0 {
				return target
			}
			if d := byte(hi<<4 | lo); isLetter(d) || isDigit(d) || strings.IndexByte("-._~", d) >= 0 {
				c, n = d, 3
			} else if j+2 < len(prefix) && prefix[j] == '%' && hi == unhex(prefix[j+1]) && lo == unhex(prefix[j+2]) {
				n, j = 3, j+2
				i += n
				continue
			}
		}
		if c != prefix[j] {
			return target
		}
		i += n
		if c == '/' {
			for i < len(target) && target[i] == '/' {
				i++
			}
		}
	}
	rest := target[i:]
	switch {
	case prefix[len(prefix)-1] == '/':
		return target[i-1:]
	case len(rest) > 0 && rest[0] == '/':
		for len(rest) > 1 && rest[1] == '/' {
			rest = rest[1:] // "//x" would name a host to some
		}
		return rest
	case len(rest) == 0 || rest[0] == '?':
		start := len(x.scratch)
		x.scratch = append(append(x.scratch, '/'), rest...)
		return x.since(start)
	}
	return target // "/java" is not a prefix of "/javascript"
}

// dotted says whether a path has a segment "." or "..", in any spelling.
func dotted(path []byte) bool {
	dots, other := 0, false
	for i := 0; i < len(path); i++ {
		switch c := path[i]; {
		case c == '/':
			if dots > 0 && dots <= 2 && !other {
				return true
			}
			dots, other = 0, false
		case c == '.':
			dots++
		case c == '%' && i+2 < len(path) && path[i+1] == '2' && path[i+2]|0x20 == 'e':
			dots++
			i += 2
		default:
			other = true
		}
	}
	return dots > 0 && dots <= 2 && !other
}

func unhex(c byte) int {
	switch {
	case isDigit(c):
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
