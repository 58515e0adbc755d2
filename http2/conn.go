package http2

import (
	"net"

	"roster/message"
)

// A Conn is one end of an HTTP/2 connection.
type Conn struct {
	cfg Config
	nc  net.Conn
}

// NewServer returns the server's end of c, which it owns from then on. What comes
// first from c is the client's preface.
func NewServer(c net.Conn, cfg Config) *Conn { return &Conn{cfg: cfg.withDefaults(), nc: c} }

// NewClient returns the client's end of c, which it owns from then on.
func NewClient(c net.Conn, cfg Config) *Conn { return &Conn{cfg: cfg.withDefaults(), nc: c} }

// Serve reads frames until the connection ends, and calls handle for each stream
// in a goroutine of its own; goroutines are used again. When a handler returns, what is left of
// its stream is reset: with NO_ERROR if its answer was whole. Serve returns when
// all handlers have, with the connection closed. The error is nil for an orderly
// end: the client closed with no stream open, or GoAway or Close was called.
func (c *Conn) Serve(handle func(*Stream)) error { panic("not yet") }

// Run reads frames until the connection ends, and closes it. The error is nil for
// an orderly end, as of Serve.
func (c *Conn) Run() error { panic("not yet") }

// GoAway ends the connection gracefully: no new streams, and it is closed when the
// last one has ended. A server says so twice, so that streams on their way are
// not lost (RFC 9113 section 6.8). It does not block, and may be called again.
func (c *Conn) GoAway() {}

// Close ends the connection at once; all streams fail.
func (c *Conn) Close() {}

// Reserve takes place for one more stream, if there is any: the server's limit of
// streams (100 until it said so), no GOAWAY either way, stream identifiers left,
// the connection alive. After true, Open or Unreserve must be called. Clients only.
func (c *Conn) Reserve() bool { return false }

// Unreserve gives back a place that Reserve took.
func (c *Conn) Unreserve() {}

// Active returns how many streams are open or reserved.
func (c *Conn) Active() int { return 0 }

// Done is closed when the connection has ended. After GOAWAY that is when its last
// stream has; Reserve is false from the start.
func (c *Conn) Done() <-chan struct{} { return nil }

// Open sends a request's head and the first bytes of its body, as many as flow
// control allows at once: n of them, the rest is for Send. end says that data is
// all there is; the stream is ended if n is len(data). Reserve must have been true
// before, and its place is the stream's from here on, or given back after an error.
//
// The head goes out as with Send; of r, Method, Target, Authority, Fields and
// Length count. The error is a *ResetError that is Unprocessed if nothing was sent,
// else that of the connection.
func (c *Conn) Open(r *message.Request, scheme string, data []byte, end bool) (s *Stream, n int, err error) {
	panic("not yet")
}
