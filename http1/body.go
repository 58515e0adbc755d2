package http1

import (
	"fmt"
	"math"

	"roster/message"
)

// An Event is what Next found.
type Event uint8

const (
	More Event = iota // more bytes are needed
	Data              // bytes of the body
	End               // the body has ended
)

// Bounds of what surrounds the data of a chunked body, all of it dropped but the
// trailers.
const (
	maxChunkLine = 1024     // bytes of a chunk's size and extension; signed uploads to S3 use 90
	maxTrailer   = 64 << 10 // bytes, like a head
	keepTrailer  = 4 << 10  // bytes of room kept for the next message
)

// A Body says which of the bytes after a head are the body, and where it ends.
// The zero value is an empty body. It belongs to the connection's owner.
//
//	for {
//		data, n, event, err := body.Next(buf)
//		buf = buf[n:]
//		// use data; on More read, on End stop
//	}
type Body struct {
	// Response: the body is that of a response, so that errors are as for one.
	Response bool

	state    state
	digits   bool  // of the chunk's size: there were some
	left     int64 // bytes of data to come, of the body or of the chunk
	line     int   // bytes of the chunk's first line so far
	err      error // of failed
	section  []byte
	trailers []message.Field
}

// The states of a body:
//
//	counted -> done                                          Content-Length
//	untilClose -> done                                       at EOF
//	size -> space -> extension -> sizeLF -> data -> dataCR -> dataLF -> size
//	sizeLF -> trailer -> trailerLine -> trailerLF -> trailer     after the last chunk
//	trailer -> lastLF -> done
//
// Space and extension may be left out. Every state may become failed.
type state uint8

const (
	done state = iota
	counted
	untilClose
	size
	space
	extension
	sizeLF
	data
	dataCR
	dataLF
	trailer     // at the start of a line
	trailerLine // in a line
	lastLF      // after the CR of the empty line
	failed
)

// Reset starts a body of length bytes, or of message.Unknown (chunked) or
// message.UntilClose.
func (b *Body) Reset(length int64) {
	section := b.section[:0]
	if cap(section) > keepTrailer {
		section = nil
	}
	*b = Body{Response: b.Response, section: section, trailers: b.trailers[:0]}
	switch {
	case length > 0:
		b.state, b.left = counted, length
	case length == message.Unknown:
		b.state = size
	case length == message.UntilClose:
		b.state = untilClose
	case length != 0:
		panic(fmt.Sprintf("http1: body of length %d", length))
	}
}

// Next looks at the bytes that follow the ones already consumed. It consumes n of
// them; data, if the event is Data, are those among them that belong to the body,
// borrowed from buf. Call it again with what follows, also after Data, until the
// event is More (all of buf is consumed, receive more) or End (the rest of buf is
// not of this message). An error is for ever.
func (b *Body) Next(buf []byte) (data []byte, n int, event Event, err error) {
	switch b.state {
	case done:
		return nil, 0, End, nil
	case failed:
		return nil, 0, More, b.err
	case untilClose:
		if len(buf) == 0 {
			return nil, 0, More, nil
		}
		return buf, len(buf), Data, nil
	case counted:
		if len(buf) == 0 {
			return nil, 0, More, nil
		}
		n = int(min(int64(len(buf)), b.left))
		b.skip(int64(n))
		return buf[:n:n], n, Data, nil
	}
	return b.chunked(buf)
}

func (b *Body) chunked(buf []byte) (_ []byte, n int, event Event, err error) {
	for i, c := range buf {
		switch b.state {
		case size:
			if d := hex[c]; d != noHex {
				if b.left > math.MaxInt64>>4 {
					return b.fail(i, faultChunkBig)
				}
				b.left = b.left<<4 | int64(d)
				b.digits = true
				if b.line++; b.line > maxChunkLine {
					return b.fail(i, faultChunkBig)
				}
				continue
			}
			switch {
			case !b.digits:
				return b.fail(i, faultChunk)
			case c == '\r':
				b.state = sizeLF
			case c == ';':
				b.state = extension
			case c == ' ' || c == '\t': // RFC 9112 section 7.1.1 has "bad whitespace" there
				b.state = space
			default:
				return b.fail(i, faultChunk)
			}
		case space:
			if c == ';' {
				b.state = extension
			} else if c != ' ' && c != '\t' {
				return b.fail(i, faultChunk)
			}
			if b.line++; b.line > maxChunkLine {
				return b.fail(i, faultChunkExt)
			}
		case extension:
			if c == '\r' {
				b.state = sizeLF
			} else if c < ' ' && c != '\t' || c == 0x7f {
				return b.fail(i, faultChunkExt)
			}
			if b.line++; b.line > maxChunkLine {
				return b.fail(i, faultChunkExt)
			}
		case sizeLF:
			if c != '\n' {
				return b.fail(i, faultBareCR)
			}
			b.digits, b.line = false, 0
			if b.left == 0 {
				b.state = trailer
			} else {
				b.state = data
			}
		case data:
			n := int(min(int64(len(buf)-i), b.left))
			b.skip(int64(n))
			return buf[i : i+n : i+n], i + n, Data, nil
		case dataCR:
			if c != '\r' {
				return b.fail(i, faultChunkEnd)
			}
			b.state = dataLF
		case dataLF:
			if c != '\n' {
				return b.fail(i, faultChunkEnd)
			}
			b.state = size
		case trailer:
			if c == '\r' {
				b.state = lastLF
				continue
			}
			b.state = trailerLine
			fallthrough
		case trailerLine:
			if len(b.section) == maxTrailer {
				return b.fail(i, faultTrailer)
			}
			b.section = append(b.section, c)
			if c == '\n' {
				if before := len(b.section) - 2; before < 0 || b.section[before] != '\r' {
					return b.fail(i, faultBareLF)
				}
				b.state = trailer
			}
		case lastLF:
			if c != '\n' {
				return b.fail(i, faultBareCR)
			}
			if f := b.readTrailers(); f != nil {
				return b.fail(i, f)
			}
			b.state = done
			return nil, i + 1, End, nil
		}
	}
	return nil, len(buf), More, nil
}

// readTrailers reads the trailer section and keeps the fields that may be in one.
func (b *Body) readTrailers() *fault {
	if len(b.section) == 0 {
		return nil
	}
	b.section = append(b.section, '\r', '\n')
	fields, _, _, f := fieldLines(b.section, 0, b.trailers[:0], maxFields)
	if f != nil {
		return f
	}
	b.trailers = fields[:0]
	for _, field := range fields {
		if TrailerAllowed(field.ID) {
			b.trailers = append(b.trailers, field)
		}
	}
	return nil
}

// TrailerAllowed reports whether a field may be in a trailer section: not if it
// could be mistaken for one that frames, routes, authenticates or describes the
// message (RFC 9110 section 6.5.1), or is about the connection.
func TrailerAllowed(id message.ID) bool {
	switch id {
	case message.ContentLength, message.TransferEncoding, message.Trailer, message.TE,
		message.Connection, message.KeepAlive, message.ProxyConnection, message.Upgrade, message.HTTP2Settings,
		message.Host, message.MaxForwards, message.Expect, message.Range, message.CacheControl, message.Via,
		message.Authorization, message.ProxyAuthorization, message.ProxyAuthenticate, message.ProxyAuthenticationInfo,
		message.WWWAuthenticate, message.Cookie, message.SetCookie,
		message.ContentEncoding, message.ContentType, message.ContentRange,
		message.Date, message.Location, message.RetryAfter,
		message.Forwarded, message.XForwardedFor, message.XForwardedHost, message.XForwardedPort,
		message.XForwardedProto, message.XForwardedOther,
		message.XRequestID, message.XMinRevision, message.XRosterRevision:
		return false
	}
	return true
}

func (b *Body) fail(i int, f *fault) (data []byte, n int, event Event, err error) {
	b.state, b.err = failed, f.in(b.Response)
	return nil, i, More, b.err
}

// skip counts n bytes of data.
func (b *Body) skip(n int64) {
	if b.left -= n; b.left > 0 {
		return
	}
	if b.state == counted {
		b.state = done
	} else {
		b.state = dataCR
	}
}

// Remaining returns how many bytes from here on are data, whatever they are: the
// rest of the Content-Length, or of the chunk. They may be copied without being
// looked at (splice) if Skip is told. 0 if it is not known.
func (b *Body) Remaining() int64 {
	if b.state == counted || b.state == data {
		return b.left
	}
	return 0
}

// Skip notes that n bytes of data, at most Remaining, passed elsewhere.
func (b *Body) Skip(n int64) {
	if n < 0 || n > b.Remaining() {
		panic(fmt.Sprintf("http1: skip of %d bytes where %d are left", n, b.Remaining()))
	}
	if n > 0 {
		b.skip(n)
	}
}

// Done reports whether the body has ended: Next would return End.
func (b *Body) Done() bool { return b.state == done }

// EOF notes that the connection closed. It returns nil if that is, or comes after,
// the end of the body, else ErrTruncated or the earlier error.
func (b *Body) EOF() error {
	switch b.state {
	case untilClose:
		b.state = done
	case failed:
		return b.err
	}
	if b.state == done {
		return nil
	}
	return ErrTruncated
}

// Trailers returns the trailer fields of a chunked body after End, without those
// that mean something only in a head. They are valid until Reset.
func (b *Body) Trailers() []message.Field {
	if b.state != done {
		return nil
	}
	return b.trailers
}

const noHex = 0xff

var hex = func() (h [256]uint8) {
	for c := range h {
		switch {
		case '0' <= c && c <= '9':
			h[c] = uint8(c - '0')
		case 'a' <= c && c <= 'f':
			h[c] = uint8(c - 'a' + 10)
		case 'A' <= c && c <= 'F':
			h[c] = uint8(c - 'A' + 10)
		default:
			h[c] = noHex
		}
	}
	return h
}()
