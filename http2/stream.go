package http2

import (
	"time"

	"roster/message"
)

// A Stream is one request and its answer.
type Stream struct{}

// Request reads the head of a server's stream into r, whose Fields are used again.
// Call it once, first.
//
// Fields keep their order, names are in small letters; several Cookie fields become
// one (RFC 9113 section 8.2.3). Method, Target, Authority and Scheme are from the
// pseudo fields, Authority else from Host. Length is the content-length, 0 if
// the request ended with its head, else message.Unknown. Major is 2.
//
// The error is an *http1.Error that says what to answer; then r may hold
// a part of the request only.
func (s *Stream) Request(r *message.Request) error { panic("not yet") }

// Head waits for the next head of the answer and reads it into r, whose Fields are
// used again: any number of interim ones (1xx), then the final one. It must not be called after
// that. Clients only.
//
// Length is the content-length, 0 if the answer ended with its head, else
// message.Unknown. The error is a *ResetError, os.ErrDeadlineExceeded, or the
// connection's, which wraps io.ErrUnexpectedEOF or is that of reading or writing.
func (s *Stream) Head(r *message.Response) error { panic("not yet") }

// Read reads from the body. It returns io.EOF at its end, and errors as Head does;
// a body that is not as long as its content-length is a *ResetError.
func (s *Stream) Read(p []byte) (int, error) { panic("not yet") }

// Trailers returns the trailer fields, without those that mean something only in
// a head. Call it after io.EOF from Read.
func (s *Stream) Trailers() []message.Field { panic("not yet") }

// Send sends a head, then data, then, with end, the trailers and the end, in as
// few writes as possible. head is a response, interim ones (1xx) included; it is
// nil when it was sent before, and on a client. It blocks for flow control, and
// for other streams' bytes if the connection is slow.
//
// Fields about the connection and content-length are left out; content-length is
// made from Length as http1.AppendResponse does. So are fields that are not valid,
// and those not allowed in trailers.
//
// Errors are as for Head. After os.ErrDeadlineExceeded a part may have been sent,
// and only Reset and Abort are left.
func (s *Stream) Send(head *message.Response, data []byte, end bool, trailers []message.Field) error {
	panic("not yet")
}

// Write is Send(nil, p, false, nil).
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.Send(nil, p, false, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Reset ends the stream with RST_STREAM and the code, unless it has ended. Reads
// and sends fail with a *ResetError from then on.
func (s *Stream) Reset(code uint32) {}

// Abort is Reset(Cancel). A Send that is just writing to the connection still
// returns only with that write, which Config.WriteTimeout bounds.
func (s *Stream) Abort() { s.Reset(Cancel) }

// OnGone has f called once when the peer resets the stream, or the connection
// ends, before our side has ended: at once if it has happened. It is called from
// the goroutine that reads the connection, so it must not block, and may still be
// running when a handler returns.
func (s *Stream) OnGone(f func()) {}

// ReadEnded reports whether the peer has sent all of its side.
func (s *Stream) ReadEnded() bool { return false }

// ArmRead bounds Read and Head to d from now; then they return
// os.ErrDeadlineExceeded. Zero means no limit. The stream stays usable.
func (s *Stream) ArmRead(d time.Duration) {}

// ArmWrite bounds Send to d without progress: from now, or from when the last
// bytes were taken. Zero means no limit.
func (s *Stream) ArmWrite(d time.Duration) {}
