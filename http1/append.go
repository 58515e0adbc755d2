package http1

import (
	"slices"
	"strconv"

	"roster/message"
)

// AppendRequest appends the head of r as an HTTP/1.1 request: origin-form or *
// (the authority for CONNECT), Host from Authority, Fields in order, then what
// r.Close, r.Upgrade and r.Length ask for.
//
// Host, Content-Length, Transfer-Encoding, Connection, Keep-Alive,
// Proxy-Connection and Upgrade among Fields are left out, since they are written
// from r itself; but an explicit Content-Length of a request without a body stays
// as 0. A TE field is named in Connection (RFC 9110 section 10.1.4).
//
// No byte of r can end a line or a word early: a field with a control character
// in it (the parser lets none through) is left out whole, and what is not visible
// ASCII in method, target and authority is percent-encoded.
func AppendRequest(dst []byte, r *message.Request) []byte {
	dst = slices.Grow(dst, len(r.Method)+len(r.Target)+len(r.Authority)+64)
	if token(r.Method) {
		dst = append(dst, r.Method...)
	} else {
		dst = appendVisible(dst, r.Method)
	}
	dst = append(dst, ' ')
	if len(r.Target) == 0 {
		dst = append(dst, '/')
	}
	dst = appendVisible(dst, r.Target)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = appendVisible(dst, r.Authority)
	dst = append(dst, "\r\n"...)
	var te, lengthGiven bool
	for i := range r.Fields {
		f := &r.Fields[i]
		if framed[f.ID] {
			lengthGiven = lengthGiven || f.ID == message.ContentLength
			continue
		}
		if f.ID == message.Host {
			continue
		}
		te = te || f.ID == message.TE
		dst = appendField(dst, f)
	}
	dst = appendConnection(dst, r.Close, r.Upgrade, te)
	switch {
	case r.Length > 0, lengthGiven && r.Length == 0, r.Length == 0 && expectsContent(r.Method):
		dst = appendLength(dst, r.Length)
	case r.Length < 0:
		dst = append(dst, chunkedField...)
	}
	return append(dst, "\r\n"...)
}

// AppendResponse appends the head of r as an HTTP/1.1 response (which a 1.0
// client understands, RFC 9110 section 2.5) to a client of version 1.peerMinor.
//
// A body of unknown length is chunked, but ends with the connection if
// peerMinor is 0; then, as with message.UntilClose and r.Close, the head says
// Connection: close, and the caller has to close.
//
// Of Fields the same are left out as in AppendRequest, Host excepted; a bodiless
// response keeps its Content-Length, but for 1xx and 204 (RFC 9110 section 8.6).
func AppendResponse(dst []byte, r *message.Response, peerMinor uint8) []byte {
	dst = slices.Grow(dst, len(r.Reason)+128)
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+r.Status/100%10), byte('0'+r.Status/10%10), byte('0'+r.Status%10), ' ')
	if control(r.Reason, 0) == len(r.Reason) {
		dst = append(dst, r.Reason...)
	}
	dst = append(dst, "\r\n"...)
	interim := r.Status < 200
	keepLength := r.Bodiless && !interim && r.Status != 204
	for i := range r.Fields {
		f := &r.Fields[i]
		if framed[f.ID] {
			if f.ID != message.ContentLength || !keepLength {
				continue
			}
			if _, ok := ParseLength(f.Value); !ok {
				continue
			}
			keepLength = false
		}
		dst = appendField(dst, f)
	}
	untilClose := !r.Bodiless && (r.Length == message.UntilClose || r.Length == message.Unknown && peerMinor == 0)
	closing := !interim && (r.Close || untilClose)
	dst = appendConnection(dst, closing, r.Upgrade, false)
	if peerMinor == 0 && !closing && !interim {
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	switch {
	case r.Bodiless, interim, untilClose, r.Status == 204, r.Status == 304:
	case r.Length >= 0:
		dst = appendLength(dst, r.Length)
	default:
		dst = append(dst, chunkedField...)
	}
	return append(dst, "\r\n"...)
}

// ChunkEnd follows the data of every chunk.
const ChunkEnd = "\r\n"

const chunkedField = "Transfer-Encoding: chunked\r\n"

// AppendChunk appends the first line of a chunk of n bytes, n > 0. The data and
// ChunkEnd follow it.
func AppendChunk(dst []byte, n int) []byte {
	if n <= 0 {
		panic("http1: chunk of " + strconv.Itoa(n) + " bytes") // 0 would end the body
	}
	dst = strconv.AppendUint(dst, uint64(n), 16)
	return append(dst, "\r\n"...)
}

// AppendLastChunk appends the end of a chunked body, with the trailer fields
// that may be in one.
func AppendLastChunk(dst []byte, trailers []message.Field) []byte {
	dst = append(dst, "0\r\n"...)
	for i := range trailers {
		if f := &trailers[i]; TrailerAllowed(f.ID) {
			dst = appendField(dst, f)
		}
	}
	return append(dst, "\r\n"...)
}

// framed are the fields that the writers decide about.
var framed = [256]bool{
	message.ContentLength:    true,
	message.TransferEncoding: true,
	message.Connection:       true,
	message.KeepAlive:        true,
	message.ProxyConnection:  true,
	message.Upgrade:          true,
}

// expectsContent: a request of this method without a body says so (RFC 9110
// section 8.6).
func expectsContent(method []byte) bool {
	return string(method) == "POST" || string(method) == "PUT" || string(method) == "PATCH"
}

// appendField appends a line, or nothing if a control character is in it.
func appendField(dst []byte, f *message.Field) []byte {
	start, length := len(dst), len(f.Name)+len(f.Value)+4
	dst = slices.Grow(dst, length)[:start+length]
	line := dst[start:]
	n := copy(line, f.Name)
	line[n], line[n+1] = ':', ' '
	copy(line[n+2:], f.Value)
	if n == 0 || control(line[:length-2], 0) < length-2 {
		return dst[:start]
	}
	line[length-2], line[length-1] = '\r', '\n'
	return dst
}

// appendVisible appends b with everything but visible ASCII, and with '#',
// percent-encoded, so that it stays one word of its line.
func appendVisible(dst, b []byte) []byte {
	start := len(dst)
	dst = append(dst, b...)
	if targetEnd(dst, start) == len(dst) {
		return dst
	}
	dst = dst[:start]
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '#' {
			const digits = "0123456789ABCDEF"
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

func appendConnection(dst []byte, closing bool, upgrade []byte, te bool) []byte {
	if !closing && upgrade == nil && !te {
		return dst
	}
	dst = append(dst, "Connection: "...)
	start := len(dst)
	for _, option := range [...]struct {
		on   bool
		name string
	}{{closing, "close"}, {upgrade != nil, "upgrade"}, {te, "TE"}} {
		if !option.on {
			continue
		}
		if len(dst) > start {
			dst = append(dst, ", "...)
		}
		dst = append(dst, option.name...)
	}
	dst = append(dst, "\r\n"...)
	if upgrade != nil {
		field := message.New(message.Upgrade, upgrade)
		dst = appendField(dst, &field)
	}
	return dst
}
