package http1

import (
	"bytes"

	"roster/message"
)

var (
	schemeHTTP  = []byte("http")
	schemeHTTPS = []byte("https")
	root        = []byte("/")
	asterisk    = []byte("*")
)

// target reads the request target, by its form (RFC 9112 section 3.2), into
// Target, Authority and Scheme. t is not empty and is visible ASCII without '#'.
func (p *Parser) target(t []byte, r *message.Request) *Error {
	switch {
	case string(r.Method) == "CONNECT":
		colon := bytes.LastIndexByte(t, ':')
		if !validAuthority(t) || colon < bytes.LastIndexByte(t, ']') || colon == -1 || colon == len(t)-1 {
			return errConnect
		}
		r.Target, r.Authority = t, t
		return nil
	case t[0] == '/':
		r.Target = t
		return nil
	case len(t) == 1 && t[0] == '*':
		if string(r.Method) != "OPTIONS" {
			return errAsterisk
		}
		r.Target = t
		return nil
	}
	var rest []byte
	switch {
	case len(t) > 7 && message.EqualFold(t[:4], "http") && string(t[4:7]) == "://":
		r.Scheme, rest = schemeHTTP, t[7:]
	case len(t) > 8 && message.EqualFold(t[:5], "https") && string(t[5:8]) == "://":
		r.Scheme, rest = schemeHTTPS, t[8:]
	default:
		return errTargetForm
	}
	end := 0
	for end < len(rest) && rest[end] != '/' && rest[end] != '?' {
		end++
	}
	if end == 0 || !validAuthority(rest[:end]) {
		return errTargetHost // http and https need a host (RFC 9110 section 4.2)
	}
	r.Authority = rest[:end:end]
	switch rest = rest[end:]; {
	case len(rest) == 0 && string(r.Method) == "OPTIONS":
		r.Target = asterisk // RFC 9112 section 3.2.4
	case len(rest) == 0:
		r.Target = root
	case rest[0] == '?':
		p.query = append(append(p.query[:0], '/'), rest...)
		r.Target = p.query
	default:
		r.Target = rest
	}
	return nil
}

// Check reports whether Request could have read the method, target and authority
// of r, which came by another way, such as HTTP/2. The error is an *Error.
func Check(r *message.Request) error {
	connect := string(r.Method) == "CONNECT"
	switch {
	case !token(r.Method):
		return errMethod
	case len(r.Method) > maxMethod:
		return errMethodLong
	case len(r.Authority) > 0 && !validAuthority(r.Authority):
		return errHost
	case connect:
		return nil // the target is the authority
	case targetEnd(r.Target, 0) < len(r.Target):
		return errTargetByte
	case len(r.Target) == 1 && r.Target[0] == '*':
		if string(r.Method) != "OPTIONS" {
			return errAsterisk
		}
	case len(r.Target) == 0 || r.Target[0] != '/':
		return errTargetForm
	}
	return nil
}

func token(b []byte) bool {
	for _, c := range b {
		if class[c]&isToken == 0 {
			return false
		}
	}
	return len(b) > 0
}

// validAuthority reports whether b is uri-host [":" port] with a host that is
// not empty: a registered name without percent-encoding, or an address. The port
// may be empty (RFC 3986 section 3.2.3) and is at most 65535.
func validAuthority(b []byte) bool {
	i := 0
	if len(b) > 0 && b[0] == '[' {
		if i = bytes.IndexByte(b, ']'); i < 0 || !validIPv6(b[1:i]) {
			return false
		}
		i++
	} else {
		for i < len(b) && class[b[i]]&isRegName != 0 {
			i++
		}
		if i == 0 {
			return false
		}
	}
	if i == len(b) {
		return true
	}
	if b[i] != ':' {
		return false
	}
	port := 0
	for _, c := range b[i+1:] {
		if class[c]&isDigit == 0 {
			return false
		}
		if port = port*10 + int(c-'0'); port > 65535 {
			return false
		}
	}
	return true
}

// validIPv6 reports whether b is an IPv6address (RFC 3986 section 3.2.2): no
// zone, which means nothing to another host.
func validIPv6(b []byte) bool {
	groups, gap := 0, false
	if len(b) >= 2 && b[0] == ':' && b[1] == ':' {
		gap = true
		b = b[2:]
	}
	for len(b) > 0 {
		n := 0
		for n < len(b) && class[b[n]]&isHex != 0 {
			n++
		}
		if n < len(b) && b[n] == '.' {
			if !validIPv4(b) {
				return false
			}
			groups += 2
			break
		}
		if n == 0 || n > 4 {
			return false
		}
		groups++
		if b = b[n:]; len(b) == 0 {
			break
		}
		if b[0] != ':' || len(b) == 1 {
			return false
		}
		if b = b[1:]; b[0] == ':' {
			if gap {
				return false
			}
			gap = true
			b = b[1:]
		}
	}
	return groups == 8 && !gap || groups < 8 && gap
}

// validIPv4 reports whether b is four numbers up to 255, without leading zeros.
func validIPv4(b []byte) bool {
	for part := range 4 {
		n, value := 0, 0
		for n < len(b) && n < 3 && class[b[n]]&isDigit != 0 {
			value = value*10 + int(b[n]-'0')
			n++
		}
		if n == 0 || value > 255 || n > 1 && b[0] == '0' {
			return false
		}
		if b = b[n:]; part == 3 {
			break
		}
		if len(b) == 0 || b[0] != '.' {
			return false
		}
		b = b[1:]
	}
	return len(b) == 0
}
