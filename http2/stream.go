package http2

import (
	"io"
	"os"
	"sync"
	"time"

	"roster/http1"
	"roster/message"
)

// A Stream is one request and its answer. Each is made anew and not used again, so
// that an Abort that comes late finds the stream it was meant for.
type Stream struct {
	c  *Conn
	id uint32

	// All guarded by the connection's lock.

	// What the peer sends.
	heads       *head // not read yet
	lastHead    *head
	interims    int // of those, how many are 1xx
	trailers    *head
	body        body
	received    int64 // bytes of the body
	declared    int64 // its content-length
	recvWindow  int32
	unacked     int32
	answered    bool // client: the final head has come
	empty       bool // client: the answer has no body, whatever content-length says
	remoteEnded bool
	toHEAD      bool
	toCONNECT   bool

	// What we send.
	sendWindow int32
	localEnded bool
	queued     bool // in c.waiting

	closed   bool  // not in c.streams any more
	err      error // reset
	kept     bool  // client: because of the peer, so what came before may be read
	handled  bool  // server: the handler has returned
	onGone   func()
	wasGone  bool
	readable sync.Cond
	writable sync.Cond
	reading  bool // waits for readable
	sending  bool // waits for writable
	readTill int64
	sendTill int64
	sendTime time.Duration // ArmWrite's
	progress bool          // since sendTill was set
}

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
func (s *Stream) Request(r *message.Request) error {
	h := s.heads // the handler's alone
	s.heads = nil
	err := h.request(r, s.c.cfg.MaxTarget)
	h.free()
	if err != nil {
		return err
	}
	return nil
}

// Head waits for the next head of the answer and reads it into r, whose Fields are
// used again: any number of interim ones (1xx), then the final one. It must not be
// called after that. Clients only.
//
// Length is the content-length, 0 if the answer ended with its head, else
// message.Unknown. The error is a *ResetError, an *http1.Error for an answer that
// is malformed or too large, os.ErrDeadlineExceeded, or the connection's, which
// wraps io.ErrUnexpectedEOF or is that of reading or writing.
func (s *Stream) Head(r *message.Response) error {
	c := s.c
	c.mu.Lock()
	for s.heads == nil {
		if s.remoteEnded && s.err == nil {
			c.mu.Unlock()
			return io.EOF
		}
		if err := s.awaitRead(); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	h := s.heads
	s.heads = h.next
	interim := h.status < 200
	if interim {
		s.interims--
	}
	bodiless := interim || s.empty
	c.mu.Unlock()
	h.response(r, bodiless)
	h.free()
	return nil
}

// awaitRead waits for something to happen to what the peer sends. The error says
// why nothing will.
func (s *Stream) awaitRead() error {
	switch {
	case s.err != nil:
		return s.err
	case s.c.err != nil:
		return s.c.err
	case s.readTill != 0 && s.readTill <= s.c.now():
		return os.ErrDeadlineExceeded
	}
	if s.readTill != 0 {
		s.c.arm(s.readTill)
	}
	s.reading = true
	s.readable.Wait()
	s.reading = false
	return nil
}

// Read reads from the body. It returns io.EOF at its end, and errors as Head does;
// a body that is not as long as its content-length is a *ResetError.
func (s *Stream) Read(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if s.body.size > 0 {
			n := s.body.read(p)
			s.credit(n)
			c.flushWindows()
			return n, nil
		}
		if s.remoteEnded && (s.err == nil || s.kept) {
			return 0, io.EOF
		}
		if err := s.awaitRead(); err != nil {
			return 0, err
		}
	}
}

// credit gives n bytes back to the windows, once that is worth a frame.
func (s *Stream) credit(n int) {
	s.c.credit(n)
	if s.remoteEnded || s.closed || s.c.err != nil {
		return
	}
	if s.unacked += int32(n); s.unacked >= (s.c.cfg.StreamWindow+1)/2 {
		s.c.appendWindow(s.id, s.unacked)
		s.recvWindow += s.unacked
		s.unacked = 0
	}
}

func (c *Conn) credit(n int) {
	if c.unacked += int32(n); c.unacked >= c.cfg.ConnWindow/2 && c.err == nil {
		c.appendWindow(0, c.unacked)
		c.recvWindow += c.unacked
		c.unacked = 0
	}
}

// flushWindows writes what credit appended, if it did.
func (c *Conn) flushWindows() {
	if c.out != nil {
		c.flush()
	}
}

// Trailers returns the trailer fields, without those that mean something only in
// a head. Call it after io.EOF from Read.
func (s *Stream) Trailers() []message.Field {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.trailers == nil {
		return nil
	}
	return s.trailers.fields
}

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
// and only Reset and Abort are left. Without an error the bytes were written, or
// will be by another stream's Send that is writing.
func (s *Stream) Send(head *message.Response, data []byte, end bool, trailers []message.Field) error {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := s.sendErr(); err != nil {
		return err
	}
	c.pace = s.sendTime
	if head != nil {
		start := c.startHeaders()
		c.out.b = appendResponse(c.out.b, head)
		ends := end && len(data) == 0 && len(trailers) == 0
		c.endHeaders(start, s.id, ends)
		if ends {
			s.endLocal()
			return c.flush()
		}
	}
	for len(data) > 0 {
		n := c.allowance(s, len(data))
		if n > 0 && (c.out == nil || len(c.out.b) < maxOut) {
			ends := end && n == len(data) && len(trailers) == 0
			c.appendData(s, data[:n], ends)
			s.progress = true
			if data = data[n:]; ends {
				c.unawait(s)
				s.endLocal()
				return c.flush()
			}
			continue
		}
		c.flush() // an error comes from awaitSend
		if err := s.awaitSend(); err != nil {
			c.unawait(s)
			return err
		}
	}
	c.unawait(s)
	if end {
		start := c.startHeaders()
		block := len(c.out.b)
		if c.out.b = appendTrailers(c.out.b, trailers); len(c.out.b) > block {
			c.endHeaders(start, s.id, true)
		} else {
			c.out.b = c.out.b[:start]
			c.appendData(s, nil, true)
		}
		s.endLocal()
	}
	return c.flush()
}

// sendErr is why nothing can be sent.
func (s *Stream) sendErr() error {
	switch {
	case s.localEnded:
		return errEnded
	case s.err != nil:
		return s.err
	}
	return s.c.err
}

// awaitSend waits until there may be place for more data. It has been looked for
// in vain, but the lock may have been given up since.
func (s *Stream) awaitSend() error {
	c := s.c
	if err := s.sendErr(); err != nil {
		return err
	}
	switch {
	case s.sendWindow <= 0: // nobody should wait for this one's turn
		c.unawait(s)
	case c.sendWindow <= 0, len(c.waiting) > 0 && (c.waiting[0] != s || s.progress && len(c.waiting) > 1):
		c.await(s)
	case c.out != nil && len(c.out.b) >= maxOut && c.writing:
		c.full = append(c.full, s)
	default:
		return nil
	}
	now := c.now()
	if s.progress {
		s.progress = false
		if s.sendTime > 0 {
			s.sendTill = now + int64(s.sendTime)
		}
	}
	if s.sendTill != 0 {
		if s.sendTill <= now {
			return os.ErrDeadlineExceeded
		}
		c.arm(s.sendTill)
	}
	s.sending = true
	s.writable.Wait()
	s.sending = false
	return s.sendErr()
}

// Write is Send(nil, p, false, nil).
func (s *Stream) Write(p []byte) (int, error) {
	if err := s.Send(nil, p, false, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// endLocal notes that our END_STREAM is on its way.
func (s *Stream) endLocal() {
	s.localEnded = true
	if s.remoteEnded {
		s.c.closeStream(s)
	}
}

// endRemote notes that the peer's has come.
func (s *Stream) endRemote() {
	s.remoteEnded = true
	if s.localEnded {
		s.c.closeStream(s)
	}
	s.readable.Signal()
}

func (s *Stream) wake() {
	s.readable.Broadcast()
	s.writable.Broadcast()
}

// Reset ends the stream with RST_STREAM and the code, unless it has ended. Reads
// and sends fail with a *ResetError from then on. It does not block.
func (s *Stream) Reset(code uint32) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err != nil && !s.kept {
		return
	}
	s.reset(code, &ResetError{Code: code}, false)
	if c.out != nil {
		c.flushLater()
	}
}

// reset ends the stream from here; err is what reads and sends return, or, if the
// peer is to blame, what a client reads after what came before.
func (s *Stream) reset(code uint32, err error, blamed bool) {
	c := s.c
	s.err, s.kept = err, blamed && c.client
	if !s.closed && c.err == nil {
		c.appendReset(s.id, code)
		c.forget(s.id)
	}
	c.closeStream(s)
	if !s.kept {
		s.discard()
	}
	s.wake()
}

// forget has what still comes for a stream ignored.
func (c *Conn) forget(id uint32) {
	c.closed[c.closedAt] = id
	c.closedAt = (c.closedAt + 1) % recent
}

// forgotten says whether a stream was reset here a short while ago.
func (c *Conn) forgotten(id uint32) bool {
	for _, f := range c.closed {
		if f == id {
			return true
		}
	}
	return false
}

// discard throws away what was not read.
func (s *Stream) discard() {
	s.c.credit(s.body.drop())
	if !s.c.client {
		return // heads is the handler's
	}
	for s.heads != nil {
		h := s.heads
		s.heads = h.next
		h.free()
	}
}

// lost notes that the peer, or the connection, has ended the stream. Only the
// reader calls it; it calls what OnGone was given later.
func (s *Stream) lost() {
	if s.localEnded || s.handled || s.wasGone {
		return
	}
	s.wasGone = true
	if s.onGone != nil {
		s.c.later = append(s.c.later, s.onGone)
		s.onGone = nil
	}
}

// Abort is Reset(Cancel). A Send that is just writing to the connection still
// returns only with that write, which Config.WriteTimeout bounds.
func (s *Stream) Abort() { s.Reset(Cancel) }

// OnGone has f called once when the peer resets the stream, or the connection
// ends, before our side has ended: at once if it has happened. It is called from
// the goroutine that reads the connection, so it must not block, and may still be
// running when a handler returns.
func (s *Stream) OnGone(f func()) {
	s.c.mu.Lock()
	gone := s.wasGone
	if !gone {
		s.onGone = f
	}
	s.c.mu.Unlock()
	if gone {
		f()
	}
}

// ReadEnded reports whether the peer has sent all of its side.
func (s *Stream) ReadEnded() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.remoteEnded
}

// ArmRead bounds Read and Head to d from now; then they return
// os.ErrDeadlineExceeded. Zero means no limit. The stream stays usable.
func (s *Stream) ArmRead(d time.Duration) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.readTill = 0
	if d > 0 {
		s.readTill = c.now() + int64(d)
		if s.reading {
			c.arm(s.readTill)
		}
	}
}

// ArmWrite bounds Send to d without progress: from now, or from when the last
// bytes were taken. Zero means no limit. If it is the connection that takes no byte
// for that long (up to a quarter more), the connection has ended.
func (s *Stream) ArmWrite(d time.Duration) {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	s.sendTill, s.sendTime, s.progress = 0, max(d, 0), false
	if d > 0 {
		s.sendTill = c.now() + int64(d)
		if s.sending {
			c.arm(s.sendTill)
		}
	}
}

// work is a goroutine that handles one stream after another.
func (c *Conn) worker(s *Stream) {
	defer c.wg.Done()
	for s != nil {
		c.handle(s)
		s.finish()
		s = <-c.work
	}
	c.mu.Lock()
	c.workers--
	c.mu.Unlock()
}

// finish is for what a handler left.
func (s *Stream) finish() {
	c := s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	s.handled = true
	s.onGone = nil
	if s.heads != nil {
		s.heads.free()
		s.heads = nil
	}
	if s.closed {
		s.discard()
		c.flushWindows()
		return
	}
	code := InternalError
	if s.localEnded {
		code = NoError
	}
	s.reset(code, &ResetError{Code: code}, false)
	c.flush()
}

// errMalformed is a backend's answer that is not HTTP.
func errMalformed(msg string) error {
	return &http1.Error{Status: 502, Type: "http_protocol_error", Msg: msg}
}

var errAnswerLarge = &http1.Error{Status: 502, Type: "http_response_header_section_size", Msg: "response head too large"}
