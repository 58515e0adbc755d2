package http2

import (
	"encoding/binary"
	"math/bits"
	"strconv"

	"roster/http1"
	"roster/message"
)

// Field blocks are made without the dynamic table and without Huffman coding: the
// same head costs the same bytes each time, about what HTTP/1.1 would send, but no
// search, no state, and no secret can be guessed from a length (RFC 7541 section 7.1).

// staticName is the index of a name in the static table (RFC 7541 appendix A), 0
// if it is not there.
var staticName = [256]byte{
	message.Accept:             19,
	message.AcceptEncoding:     16,
	message.Authorization:      23,
	message.CacheControl:       24,
	message.ContentEncoding:    26,
	message.ContentLength:      28,
	message.ContentRange:       30,
	message.ContentType:        31,
	message.Cookie:             32,
	message.Date:               33,
	message.Expect:             35,
	message.Location:           46,
	message.ProxyAuthenticate:  48,
	message.ProxyAuthorization: 49,
	message.Range:              50,
	message.Referer:            51,
	message.RetryAfter:         53,
	message.Server:             54,
	message.SetCookie:          55,
	message.UserAgent:          58,
	message.Via:                60,
	message.WWWAuthenticate:    61,
}

// Indexes of the static table.
const (
	indexAuthority  = 1
	indexMethodGET  = 2
	indexMethodPOST = 3
	indexPathRoot   = 4
	indexHTTP       = 6
	indexHTTPS      = 7
	indexStatus     = 8
	indexLength     = 28
)

// First bytes of representations (RFC 7541 section 6).
const (
	indexed      = 0x80
	neverIndexed = 0x10
	tableSize    = 0x20
)

// hop are the fields that never go out: about the connection (RFC 9113 section
// 8.2.2), or made here.
var hop = [256]bool{
	message.Connection:       true,
	message.KeepAlive:        true,
	message.ProxyConnection:  true,
	message.TransferEncoding: true,
	message.Upgrade:          true,
	message.HTTP2Settings:    true,
	message.ContentLength:    true,
	message.TE:               true,
}

// secret fields must not get into the table of somebody further on either.
func secret(id message.ID) bool {
	switch id {
	case message.Authorization, message.ProxyAuthorization, message.Cookie, message.SetCookie:
		return true
	}
	return false
}

func appendRequest(dst []byte, r *message.Request, scheme string) []byte {
	switch string(r.Method) {
	case "GET":
		dst = append(dst, indexed|indexMethodGET)
	case "POST":
		dst = append(dst, indexed|indexMethodPOST)
	default:
		dst = appendText(appendName(dst, indexMethodGET), r.Method)
	}
	if string(r.Method) != "CONNECT" {
		switch scheme {
		case "https":
			dst = append(dst, indexed|indexHTTPS)
		default:
			dst = append(dst, indexed|indexHTTP)
		}
		if len(r.Target) == 0 || len(r.Target) == 1 && r.Target[0] == '/' {
			dst = append(dst, indexed|indexPathRoot)
		} else {
			dst = appendText(appendName(dst, indexPathRoot), r.Target)
		}
	}
	if len(r.Authority) > 0 {
		dst = appendText(appendName(dst, indexAuthority), r.Authority)
	}
	lengthGiven := false
	for i := range r.Fields {
		f := &r.Fields[i]
		if hop[f.ID] {
			lengthGiven = lengthGiven || f.ID == message.ContentLength
			if f.ID == message.TE && message.HasToken(f.Value, "trailers") {
				dst = append(dst, "\x00\x02te\x08trailers"...)
			}
			continue
		}
		if f.ID != message.Host {
			dst = appendField(dst, f)
		}
	}
	if r.Length > 0 || r.Length == 0 && (lengthGiven || expectsContent(r.Method)) {
		dst = appendLength(dst, r.Length)
	}
	return dst
}

// expectsContent: a request of this method without a body says so (RFC 9110
// section 8.6).
func expectsContent(method []byte) bool {
	return string(method) == "POST" || string(method) == "PUT" || string(method) == "PATCH"
}

func appendResponse(dst []byte, r *message.Response) []byte {
	switch r.Status {
	case 200:
		dst = append(dst, indexed|indexStatus)
	case 204:
		dst = append(dst, indexed|9)
	case 206:
		dst = append(dst, indexed|10)
	case 304:
		dst = append(dst, indexed|11)
	case 400:
		dst = append(dst, indexed|12)
	case 404:
		dst = append(dst, indexed|13)
	case 500:
		dst = append(dst, indexed|14)
	default:
		dst = append(dst, indexStatus, 3, byte('0'+r.Status/100%10), byte('0'+r.Status/10%10), byte('0'+r.Status%10))
	}
	interim := r.Status < 200
	keepLength := r.Bodiless && !interim && r.Status != 204
	for i := range r.Fields {
		f := &r.Fields[i]
		if hop[f.ID] {
			if f.ID == message.ContentLength && keepLength {
				if n, ok := http1.ParseLength(f.Value); ok {
					dst = appendLength(dst, n)
					keepLength = false
				}
			}
			continue
		}
		dst = appendField(dst, f)
	}
	if !r.Bodiless && !interim && r.Status != 204 && r.Status != 304 && r.Length >= 0 {
		dst = appendLength(dst, r.Length)
	}
	return dst
}

// appendTrailers appends those of fields that may be trailers.
func appendTrailers(dst []byte, fields []message.Field) []byte {
	for i := range fields {
		if f := &fields[i]; !hop[f.ID] && http1.TrailerAllowed(f.ID) {
			dst = appendField(dst, f)
		}
	}
	return dst
}

func appendLength(dst []byte, n int64) []byte {
	var digits [20]byte
	return appendString(appendName(dst, indexLength), strconv.AppendInt(digits[:0], n, 10))
}

// appendName starts a literal without indexing whose name is in the table.
func appendName(dst []byte, index byte) []byte {
	if index < 15 {
		return append(dst, index)
	}
	return append(dst, 15, index-15)
}

// appendField appends a field, or nothing if it is not valid (RFC 9113 section
// 8.2.1). Space around the value is dropped.
func appendField(dst []byte, f *message.Field) []byte {
	value := trimSpace(f.Value)
	if control(value) < len(value) {
		return dst
	}
	start := len(dst)
	if index := staticName[f.ID]; index > 0 {
		dst = appendName(dst, index)
	} else {
		dst = append(dst, 0)
		dst = appendInt(dst, len(f.Name))
		at := len(dst)
		dst = append(dst, f.Name...)
		name := dst[at:]
		for i, c := range name {
			if name[i] = lowerToken[c]; name[i] == 0 {
				return dst[:start]
			}
		}
		if len(name) == 0 {
			return dst[:start]
		}
	}
	if secret(f.ID) {
		dst[start] |= neverIndexed
	}
	return appendString(dst, value)
}

// appendText appends a pseudo field's value, with what cannot be in one
// percent-encoded.
func appendText(dst, b []byte) []byte {
	escapes := 0
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			escapes++
		}
	}
	if escapes == 0 {
		return appendString(dst, b)
	}
	dst = appendInt(dst, len(b)+2*escapes)
	for _, c := range b {
		if c <= ' ' || c >= 0x7f {
			const digits = "0123456789ABCDEF"
			dst = append(dst, '%', digits[c>>4], digits[c&15])
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

func appendString(dst, b []byte) []byte {
	return append(appendInt(dst, len(b)), b...)
}

// appendInt appends a string's length (RFC 7541 section 5.1, a prefix of 7 bits).
func appendInt(dst []byte, n int) []byte {
	if n < 127 {
		return append(dst, byte(n))
	}
	dst = append(dst, 127)
	for n -= 127; n >= 128; n >>= 7 {
		dst = append(dst, byte(n)|0x80)
	}
	return append(dst, byte(n))
}

// lowerToken maps the characters of a token (RFC 9110 section 5.6.2) to small
// letters, and all others to 0.
var lowerToken = func() (t [256]byte) {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	for _, c := range []byte("!#$%&'*+-.^_`|~0123456789" + letters) {
		t[c] = c
	}
	for _, c := range []byte(letters) {
		t[c-'a'+'A'] = c
	}
	return t
}()

// validName reports whether a received name is a token without capitals (RFC 9113
// section 8.2.1).
func validName(name string) bool {
	for i := range len(name) {
		if c := name[i]; lowerToken[c] != c || c == 0 {
			return false
		}
	}
	return len(name) > 0
}

func blank(c byte) bool { return c == ' ' || c == '\t' }

func trimSpace(b []byte) []byte {
	for len(b) > 0 && blank(b[0]) {
		b = b[1:]
	}
	for len(b) > 0 && blank(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

// control returns the index of the first control character other than tab in b,
// or len(b), eight bytes at a time.
func control(b []byte) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; len(b)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		del := w ^ 0x7f*ones
		if m := ((w-0x20*ones)&^w | (del-ones)&^del) & highs; m != 0 {
			if i += bits.TrailingZeros64(m) >> 3; b[i] != '\t' {
				return i
			}
			i -= 7 // after the tab
		}
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x20 && c != '\t' || c == 0x7f {
			return i
		}
	}
	return i
}
