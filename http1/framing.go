package http1

import (
	"bytes"
	"math"

	"roster/message"
)

// framing is what the fields say about the end of the message and the connection.
type framing struct {
	length  int64 // -1: no Content-Length
	chunked bool
	coding  []byte // Transfer-Encoding, if it is not chunked
	close   bool
	upgrade []byte
}

func readFraming(fields []message.Field, minor uint8, response bool) (m framing, f *fault) {
	var keepAlive, upgrade, coded bool
	m.length = -1
	for i := range fields {
		switch value := fields[i].Value; fields[i].ID {
		case message.ContentLength:
			n, ok := ParseLength(value)
			if !ok {
				return m, faultLength
			}
			if m.length >= 0 && (!response || n != m.length) {
				return m, faultLengths
			}
			m.length = n
		case message.TransferEncoding:
			if coded {
				return m, faultCoding
			}
			coded = true
			if m.chunked = message.EqualFold(value, "chunked"); !m.chunked {
				m.coding = value
			}
		case message.Connection:
			for token, rest := message.NextToken(value); len(token) > 0; token, rest = message.NextToken(rest) {
				switch len(token) {
				case len("close"):
					m.close = m.close || message.EqualFold(token, "close")
				case len("upgrade"):
					upgrade = upgrade || message.EqualFold(token, "upgrade")
				case len("keep-alive"):
					keepAlive = keepAlive || message.EqualFold(token, "keep-alive")
				}
			}
		case message.Upgrade:
			if m.upgrade == nil {
				m.upgrade = value
			}
		}
	}
	if minor == 0 {
		m.close = m.close || !keepAlive
		upgrade = false // RFC 9110 section 7.8
	}
	if !upgrade || len(m.upgrade) == 0 {
		m.upgrade = nil
	}
	switch {
	case !coded:
	case minor == 0:
		return m, faultOld
	case m.length >= 0:
		return m, faultBoth
	case m.chunked:
	case lastIsChunked(m.coding):
		return m, &faultUnsupported
	default:
		return m, faultCoding
	}
	return m, nil
}

// faultUnsupported: codings before a final chunked. The message ends somewhere,
// but a proxy that does not know the coding cannot vouch for it.
var faultUnsupported = fault{errCoding, errBackend}

// lastIsChunked reports whether value is a list of codings of which the last,
// and no other, is chunked (RFC 9112 section 6.3).
func lastIsChunked(value []byte) bool {
	comma := bytes.LastIndexByte(value, ',')
	if comma < 0 {
		return false
	}
	first, _ := message.NextToken(value[:comma])
	last, _ := message.NextToken(value[comma+1:])
	return len(first) > 0 && message.EqualFold(last, "chunked") && !message.HasToken(value[:comma], "chunked")
}

// ParseLength reads a Content-Length: digits and nothing else, below 2^63.
func ParseLength(b []byte) (n int64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	for _, c := range b {
		if class[c]&isDigit == 0 {
			return 0, false
		}
		d := int64(c - '0')
		if n > (math.MaxInt64-d)/10 {
			return 0, false
		}
		n = n*10 + d
	}
	return n, true
}

func frameRequest(r *message.Request) *Error {
	m, f := readFraming(r.Fields, r.Minor, false)
	if f != nil {
		return f.request
	}
	hosts := 0
	var host []byte
	for i := range r.Fields {
		switch value := r.Fields[i].Value; r.Fields[i].ID {
		case message.Host:
			hosts++
			host = value
		case message.Expect:
			r.Expect100 = r.Expect100 || r.Minor > 0 && message.HasToken(value, "100-continue")
		}
	}
	switch {
	case hosts > 1:
		return errHosts
	case hosts == 0 && r.Minor > 0:
		return errNoHost
	case len(host) > 0 && !validAuthority(host):
		return errHost
	}
	if r.Authority == nil {
		r.Authority = host
	}
	r.Close, r.Upgrade = m.close, m.upgrade
	switch {
	case m.chunked:
		r.Length = message.Unknown
	case m.length > 0:
		r.Length = m.length
	}
	return nil
}

func frameResponse(r *message.Response, method []byte) *Error {
	m, f := readFraming(r.Fields, r.Minor, true)
	if f != nil {
		return f.response
	}
	r.Close, r.Upgrade = m.close, m.upgrade
	framed := m.chunked || m.length > 0
	switch { // RFC 9112 section 6.3, in its order
	case r.Status < 200:
		if framed {
			return errInterim // whoever believes the field loses its place
		}
		r.Bodiless = true
	case r.Status == 204:
		// Believed by others, such fields leave bytes behind.
		r.Bodiless = true
		r.Close = r.Close || framed
	case r.Status == 304, string(method) == "HEAD", r.Status < 300 && string(method) == "CONNECT":
		r.Bodiless = true
	case m.chunked:
		r.Length = message.Unknown
	case m.length >= 0:
		r.Length = m.length
	default:
		r.Length = message.UntilClose
		r.Close = true
	}
	return nil
}
