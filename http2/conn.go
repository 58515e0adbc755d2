package http2

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/message"
)

// A Conn is one end of an HTTP/2 connection.
type Conn struct {
	cfg    Config
	client bool
	nc     net.Conn
	tls    bool // a Write of more than a record is several
	start  time.Time
	done   chan struct{}
	ready  chan struct{} // closed when the peer's SETTINGS have come

	// Of the goroutine that reads.
	br      *bufio.Reader
	fr      *frames.Framer
	dec     *hpack.Decoder
	head    *head    // being decoded
	block   []byte   // of a field block in several frames
	kick    bool     // it left frames in out that nobody may be writing
	faults  budget   // resets, by the peer or for its mistakes
	empties budget   // frames that do nothing
	later   []func() // given to OnGone
	handle  func(*Stream)
	work    chan *Stream   // to handlers that wait; nil ends one
	wg      sync.WaitGroup // handlers and flushers

	received atomic.Uint32 // frames
	hurry    atomic.Bool   // time limits of writes are set already

	mu      sync.Mutex
	streams map[uint32]*Stream // open or half-closed
	err     error              // why the connection ended, or is about to
	ended   bool               // nothing may be started any more
	timer   *time.Timer
	timerAt int64 // when it is due; 0: not running

	// Streams.
	nextID   uint32 // client: of the next stream
	peerID   uint32 // server: the highest one seen
	reserved int
	running  int            // handlers
	workers  int            // handlers and those that wait
	closed   [recent]uint32 // streams that were reset here: what still comes for them is ignored
	closedAt int            // where in closed the next one goes
	peerMax  uint32         // streams the peer allows
	acked    bool           // our SETTINGS count
	settings bool           // the peer's came
	recvInit int32          // of new streams, their window
	sendInit int32
	drain    drain
	drainAt  int64
	lastID   uint32 // server: of our last GOAWAY
	closing  bool   // close once everything is written
	halfway  bool   // and that was done

	// Flow control of the connection.
	recvWindow int32 // what the peer may send
	unacked    int32 // of that, what was read and not given back yet
	sendWindow int32
	waiting    []*Stream // for sendWindow, in turns

	// Writing. Whoever appends to out sees to it that it is written: by itself if
	// writing is not set.
	out       *buffer
	writing   bool
	answers   int           // bytes in out that answer the peer's frames
	full      []*Stream     // wait for room in out
	quiet     sync.Cond     // writing became false
	sizeSaid  bool          // that we use no dynamic table
	writeTill time.Time     // the deadline set; of who is writing
	pace      time.Duration // of the last Send, see ArmWrite

	idleSince int64
	pingAt    int64  // when to look whether anything was received; 0: no stream was open
	pingSeen  uint32 // received, then
	pinged    bool
}

// recent is how many streams reset here are remembered.
const recent = 128

// drain is how far GOAWAY has come.
type drain uint8

const (
	no        drain = iota
	announced       // a server's first: streams on their way are still taken
	leaving         // a client's own: what is reserved may still be opened
	gone            // no new streams
)

// Times that are nobody's to choose.
const (
	handshakeTimeout = 10 * time.Second // for the preface and SETTINGS
	drainTimeout     = time.Second      // for the answer to the PING with GOAWAY; net/http waits that long too
	lingerTimeout    = time.Second      // for the peer to close after us
	pingTimeout      = 15 * time.Second
	idleWorkers      = 2 * time.Second // after which handlers' goroutines end
)

// maxFrame is how much may be in a frame we receive: the least allowed (RFC 9113
// section 4.2).
const maxFrame = 16384

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// NewServer returns the server's end of c, which it owns from then on. What comes
// first from c is the client's preface.
func NewServer(c net.Conn, cfg Config) *Conn { return newConn(c, cfg, false) }

// NewClient returns the client's end of c, which it owns from then on.
func NewClient(c net.Conn, cfg Config) *Conn { return newConn(c, cfg, true) }

func newConn(nc net.Conn, cfg Config, client bool) *Conn {
	c := &Conn{
		cfg: cfg.withDefaults(), client: client, nc: nc, start: time.Now(),
		done: make(chan struct{}), ready: make(chan struct{}), streams: map[uint32]*Stream{},
		nextID: 1, peerMax: 100, lastID: maxStreamID,
		recvWindow: initialWindow, sendWindow: initialWindow, sendInit: initialWindow,
	}
	c.quiet.L = &c.mu
	_, c.tls = nc.(*tls.Conn)
	c.recvInit = max(c.cfg.StreamWindow, initialWindow) // a smaller one counts from SETTINGS' answer on
	c.hello()
	return c
}

// hello is what each end says first. It is written with the first request, or
// when the reader waits.
func (c *Conn) hello() {
	if c.client {
		c.buf().b = append(c.buf().b, frames.ClientPreface...)
	}
	var s []frames.Setting
	if c.client {
		s = append(s, frames.Setting{ID: frames.SettingEnablePush, Val: 0})
	} else {
		s = append(s, frames.Setting{ID: frames.SettingMaxConcurrentStreams, Val: c.cfg.MaxStreams})
	}
	s = append(s,
		frames.Setting{ID: frames.SettingInitialWindowSize, Val: uint32(c.cfg.StreamWindow)},
		frames.Setting{ID: frames.SettingMaxHeaderListSize, Val: uint32(c.cfg.MaxHeaderSize)})
	c.appendSettings(s)
	if more := c.cfg.ConnWindow - c.recvWindow; more > 0 {
		c.appendWindow(0, more)
		c.recvWindow += more
	}
	c.kick = true
}

const maxStreamID = 1<<31 - 1

// now is the time since start; never 0.
func (c *Conn) now() int64 { return int64(time.Since(c.start)) + 1 }

// Serve reads frames until the connection ends, and calls handle for each stream
// in a goroutine of its own; goroutines are used again. When a handler returns,
// what is left of its stream is reset: with NO_ERROR if its answer was whole. Serve
// returns when all handlers have, with the connection closed. The error is nil for
// an orderly end: the client closed with no stream open, or GoAway or Close was
// called.
func (c *Conn) Serve(handle func(*Stream)) error {
	c.handle = handle
	c.work = make(chan *Stream)
	return c.run()
}

// Run reads frames until the connection ends, and closes it. The error is nil for
// an orderly end, as of Serve.
func (c *Conn) Run() error { return c.run() }

func (c *Conn) run() error {
	c.br = readers.Get().(*bufio.Reader)
	c.br.Reset(c.nc)
	c.fr = frames.NewFramer(nil, c.br)
	c.fr.SetMaxReadFrameSize(maxFrame)
	c.dec = hpack.NewDecoder(4096, c.emit)
	c.mu.Lock()
	c.arm(c.now() + int64(handshakeTimeout))
	c.mu.Unlock()

	err := c.read()
	err = c.end(err)

	c.br.Reset(nil)
	readers.Put(c.br)
	return err
}

// A connError ends the connection with GOAWAY.
type connError struct {
	code uint32
	msg  string
}

func (e *connError) Error() string {
	return fmt.Sprintf("http2: %v: %s", frames.ErrCode(e.code), e.msg)
}

func fatal(code uint32, msg string) error { return &connError{code, msg} }

var errClosed = fmt.Errorf("http2: connection closed: %w", io.ErrUnexpectedEOF)

// end closes the connection after the reader found err, and waits for the
// handlers.
func (c *Conn) end(err error) error {
	var protocol *connError
	c.mu.Lock()
	left := errors.Is(err, io.EOF) && len(c.streams) == 0 // also if our last words did not reach it
	orderly := left || c.closing || c.err == errClosed
	switch {
	case errors.As(err, &protocol):
	case c.err != nil: // the connection broke for another reason, and reading because of that
		err = c.err
	case errors.Is(err, io.EOF):
		if left {
			c.settle(time.Now().Add(lingerTimeout)) // the peer may still read what it asked for
		}
		err = errClosed
	default:
		err = fmt.Errorf("http2: read: %w", err)
	}
	c.fail(err)
	for _, s := range c.streams {
		s.lost()
	}
	clear(c.streams)
	c.mu.Unlock()
	c.runLater()
	if protocol != nil {
		c.lastWords(protocol)
	}
	c.nc.Close()

	c.mu.Lock()
	c.ended = true
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	close(c.done)
	if c.work != nil {
		close(c.work)
	}
	c.wg.Wait()
	c.mu.Lock()
	if c.out != nil {
		c.out.free()
		c.out = nil
	}
	c.mu.Unlock()
	if orderly && protocol == nil {
		return nil
	}
	return err
}

// lastWords sends GOAWAY and lets the peer read it: closing with something
// received and not read would take it from its hands (RST).
func (c *Conn) lastWords(e *connError) {
	till := time.Now().Add(lingerTimeout)
	c.mu.Lock()
	c.settle(till)
	c.appendGoAway(min(c.peerID, c.lastID), e.code, e.msg)
	out := c.out
	c.out = nil
	c.mu.Unlock()
	_, err := c.nc.Write(out.b)
	out.free()
	if err != nil || e.code == EnhanceYourCalm {
		return
	}
	if h, ok := c.nc.(interface{ CloseWrite() error }); ok && h.CloseWrite() == nil {
		c.nc.SetReadDeadline(till)
		io.Copy(io.Discard, c.nc)
	}
}

// settle waits until nobody writes.
func (c *Conn) settle(till time.Time) {
	c.hurry.Store(true)
	c.nc.SetWriteDeadline(till)
	for c.writing {
		c.quiet.Wait()
	}
}

// fail has everything that waits or comes later return err. The reader is not
// stopped.
func (c *Conn) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	for _, s := range c.streams {
		s.wake()
	}
}

// GoAway ends the connection gracefully: no new streams, and it is closed when the
// last one has ended. A server says so twice, so that streams on their way are
// not lost (RFC 9113 section 6.8); a client at the end, and places reserved before
// may still be used. It does not block, and may be called again.
func (c *Conn) GoAway() {
	c.mu.Lock()
	c.goAway()
	c.mu.Unlock()
}

func (c *Conn) goAway() {
	if c.drain != no || c.err != nil {
		return
	}
	if c.client {
		// Said at the end: many servers close a connection with no stream open as
		// soon as they hear it, and one may be about to be opened.
		c.drain = leaving
		c.closeIfDone()
	} else {
		c.drain = announced
		c.appendGoAway(maxStreamID, NoError, "")
		c.appendPing(false, drainPing)
		c.drainAt = c.now() + int64(drainTimeout)
		c.arm(c.drainAt)
	}
	c.flushLater()
}

// drained is called a round trip after the first GOAWAY.
func (c *Conn) drained() {
	if c.drain != announced {
		return
	}
	c.drain = gone
	c.lastID = c.peerID
	c.appendGoAway(c.lastID, NoError, "")
	c.closeIfDone()
	c.flushLater()
}

// closeIfDone closes a connection that is to end when nothing is open any more.
func (c *Conn) closeIfDone() {
	if (c.drain == gone || c.drain == leaving) && len(c.streams) == 0 && c.reserved == 0 && !c.closing {
		if c.drain == leaving {
			c.appendGoAway(0, NoError, "")
		}
		c.closing = true
		c.flushLater()
	}
}

// Close ends the connection at once; all streams fail.
func (c *Conn) Close() {
	c.mu.Lock()
	c.fail(errClosed)
	c.mu.Unlock()
	c.nc.Close()
}

// Reserve takes place for one more stream, if there is any: the server's limit of
// streams (100 until it said so), no GOAWAY either way, stream identifiers left,
// the connection alive. After true, Open or Unreserve must be called. Clients only.
func (c *Conn) Reserve() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.drain != no || uint32(len(c.streams)+c.reserved) >= c.peerMax ||
		c.nextID+2*uint32(c.reserved) > maxStreamID {
		return false
	}
	c.reserved++
	return true
}

// Unreserve gives back a place that Reserve took.
func (c *Conn) Unreserve() {
	c.mu.Lock()
	c.reserved--
	c.closeIfDone()
	c.mu.Unlock()
}

// Active returns how many streams are open or reserved.
func (c *Conn) Active() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.streams) + c.reserved
}

// Done is closed when the connection has ended. After GOAWAY that is when its last
// stream has; Reserve is false from the start.
func (c *Conn) Done() <-chan struct{} { return c.done }

// RemoteAddr is where the connection leads.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Ready is closed when the peer's SETTINGS have come: from then on it is known that
// it speaks HTTP/2, and how many streams it takes at once.
func (c *Conn) Ready() <-chan struct{} { return c.ready }

// Open sends a request's head and the first bytes of its body, as many as flow
// control allows at once: n of them, the rest is for Send. end says that data is
// all there is; the stream is ended if n is len(data). Reserve must have been true
// before, and its place is the stream's from here on, or given back after an error.
//
// The head goes out as with Send; of r, Method, Target, Authority, Fields and
// Length count. The error is a *ResetError that is Unprocessed if nothing was sent,
// else that of the connection.
func (c *Conn) Open(r *message.Request, scheme string, data []byte, end bool) (s *Stream, n int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reserved--
	if c.err != nil || c.drain == gone || c.nextID > maxStreamID {
		c.closeIfDone()
		return nil, 0, &ResetError{Code: RefusedStream, Unprocessed: true}
	}
	s = c.newStream(c.nextID)
	c.nextID += 2
	switch string(r.Method) {
	case "HEAD":
		s.toHEAD = true
	case "CONNECT":
		s.toCONNECT = true
	}
	out := c.buf()
	start := c.startHeaders()
	out.b = appendRequest(out.b, r, scheme)
	c.endHeaders(start, s.id, end && len(data) == 0)
	for n < len(data) {
		m := c.allowance(s, len(data)-n)
		if m == 0 {
			break
		}
		c.appendData(s, data[n:n+m], end && n+m == len(data))
		n += m
	}
	if end && n == len(data) {
		s.endLocal()
	}
	if c.nextID > maxStreamID {
		c.goAway()
	}
	if err := c.flush(); err != nil && !s.remoteEnded { // the answer may be here
		return nil, n, err
	}
	return s, n, nil
}

// closeStream forgets a stream that has ended, or is being reset.
func (c *Conn) closeStream(s *Stream) {
	if s.closed {
		return
	}
	s.closed = true
	delete(c.streams, s.id)
	if len(c.streams) > 0 {
		return
	}
	if c.pingAt != 0 {
		c.pingAt, c.pinged = 0, false
	}
	if !c.client {
		c.idleSince = c.now()
		c.arm(c.idleSince + int64(idleWorkers))
	}
	c.closeIfDone()
}

// newStream makes an open stream.
func (c *Conn) newStream(id uint32) *Stream {
	s := &Stream{c: c, id: id, declared: message.Unknown, recvWindow: c.recvInit, sendWindow: c.sendInit}
	s.readable.L, s.writable.L = &c.mu, &c.mu
	c.streams[id] = s
	if c.cfg.PingInterval > 0 && c.pingAt == 0 {
		c.pingSeen = c.received.Load()
		c.pingAt = c.now() + int64(c.cfg.PingInterval)
		c.arm(c.pingAt)
	}
	return s
}

// arm has tick called at a time, or before.
func (c *Conn) arm(at int64) {
	if c.timerAt != 0 && c.timerAt <= at || c.ended {
		return
	}
	c.timerAt = at
	d := time.Duration(at - c.now())
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.tick)
	} else {
		c.timer.Reset(d)
	}
}

// tick does everything that is due, and arms the timer for what is not. What
// became due later since it was armed costs a tick for nothing, not a Reset each
// time.
func (c *Conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.timerAt = 0
	now := c.now()
	var next int64
	due := func(at int64) bool {
		if at <= now {
			return true
		}
		if next == 0 || at < next {
			next = at
		}
		return false
	}
	for _, s := range c.streams {
		if s.reading && s.readTill != 0 && due(s.readTill) {
			s.readable.Signal()
		}
		if s.sending && s.sendTill != 0 && due(s.sendTill) {
			s.writable.Signal()
		}
	}
	if !c.settings && due(int64(handshakeTimeout)) {
		c.die(errHandshake)
	}
	if c.drain == announced && due(c.drainAt) {
		c.drained()
	}
	if c.pingAt != 0 && due(c.pingAt) {
		c.ping(now)
		due(c.pingAt)
	}
	if !c.client && len(c.streams) == 0 && c.drain == no && c.settings {
		if c.cfg.IdleTimeout > 0 && due(c.idleSince+int64(c.cfg.IdleTimeout)) {
			c.goAway()
			due(c.drainAt)
		}
		if c.workers > c.running && due(c.idleSince+int64(idleWorkers)) {
			c.dismiss()
		}
	}
	if next != 0 {
		c.arm(next)
	}
}

var (
	errHandshake = fmt.Errorf("http2: no SETTINGS for %v: %w", handshakeTimeout, io.ErrUnexpectedEOF)
	errPing      = fmt.Errorf("http2: no answer to PING for %v: %w", pingTimeout, io.ErrUnexpectedEOF)
)

// die ends the connection without a word to the peer, who does not listen.
func (c *Conn) die(err error) {
	c.fail(err)
	c.nc.SetDeadline(time.Unix(1, 0)) // ends reads and writes; Close may block
}

// ping looks whether the peer is alive.
func (c *Conn) ping(now int64) {
	if seen := c.received.Load(); seen != c.pingSeen {
		c.pingSeen, c.pinged = seen, false
		c.pingAt = now + int64(c.cfg.PingInterval)
		return
	}
	if c.pinged {
		c.die(errPing)
		c.pingAt = 0
		return
	}
	c.pinged = true
	c.pingAt = now + int64(pingTimeout)
	c.appendPing(false, alivePing)
	c.flushLater()
}

// dismiss ends the handlers' goroutines that wait for work.
func (c *Conn) dismiss() {
	for {
		select {
		case c.work <- nil:
		default:
			return
		}
	}
}
