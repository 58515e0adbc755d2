package tracing

import (
	"encoding/hex"

	"roster/message"
)

// A Context is what a traceparent says: the trace that a request belongs to, and its
// place there (W3C Trace Context, 3.2).
type Context struct {
	Trace  [16]byte // not all zero
	Parent [8]byte  // the span that sent the request; not all zero
	Flags  byte
}

// Flags that are known. Random, of level 2 of the recommendation, says that the last seven
// bytes of the trace's id are.
const (
	Sampled = 1 << 0
	Random  = 1 << 1
)

// parentSize is the length of a traceparent of version 00, in bytes, and where in it the
// ids are.
const (
	parentSize = 55
	traceAt    = 3
	spanAt     = 36
	flagsAt    = 53
)

// Parse reads a traceparent. One of a later version than 00 is read as far as 00 goes, as
// the recommendation wants it (4.4): it may be longer, and become shorter here.
func Parse(value []byte) (Context, bool) {
	var c Context
	var version, flags [1]byte
	if len(value) < parentSize || value[traceAt-1] != '-' || value[spanAt-1] != '-' || value[flagsAt-1] != '-' ||
		!unhex(version[:], value) || !unhex(c.Trace[:], value[traceAt:]) ||
		!unhex(c.Parent[:], value[spanAt:]) || !unhex(flags[:], value[flagsAt:]) ||
		c.Trace == [16]byte{} || c.Parent == [8]byte{} || version[0] == 0xff {
		return Context{}, false
	}
	if len(value) > parentSize && (version[0] == 0 || value[parentSize] != '-') {
		return Context{}, false
	}
	c.Flags = flags[0] & (Sampled | Random)
	return c, true
}

// write writes the context as a traceparent of version 00.
func (c *Context) write(dst *[parentSize]byte) {
	dst[0], dst[1], dst[traceAt-1], dst[spanAt-1], dst[flagsAt-1] = '0', '0', '-', '-', '-'
	hex.Encode(dst[traceAt:], c.Trace[:])
	hex.Encode(dst[spanAt:], c.Parent[:])
	hex.Encode(dst[flagsAt:], []byte{c.Flags})
}

// TraceID is the id of the trace that a request with these fields belongs to, as it is
// written there; nil if there is no valid traceparent, or more than one.
func TraceID(fields []message.Field) []byte {
	value := parent(fields)
	if _, ok := Parse(value); !ok {
		return nil
	}
	return value[traceAt : spanAt-1]
}

// parent is the value of the only traceparent, nil if there is none or are several: which
// of them is true nobody knows.
func parent(fields []message.Field) (value []byte) {
	found := false
	for i := range fields {
		if fields[i].ID == message.Traceparent {
			if found {
				return nil
			}
			found, value = true, fields[i].Value
		}
	}
	return value
}

// unhex reads as many bytes as dst has from small hexadecimal digits.
func unhex(dst, src []byte) bool {
	for i := range dst {
		hi, lo := digit(src[2*i]), digit(src[2*i+1])
		if hi|lo > 15 {
			return false
		}
		dst[i] = hi<<4 | lo
	}
	return true
}

func digit(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}
