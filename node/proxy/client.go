package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"roster/exchange"
	"roster/http1"
	"roster/http2"
	"roster/message"
	"roster/node/accesslog"
	"roster/node/inbound"
	"roster/node/loop"
	"roster/node/table"
	"roster/pool"
)

// client is who sends requests one after the other: a connection, or one stream
// of a connection that speaks HTTP/2. All of it but what the watch needs belongs
// to one goroutine.
type client struct {
	p      *Proxy
	l      *listener
	loop   *loop.Loop // nil: a goroutine serves it
	shard  *shard
	stream *http2.Stream // nil for a connection, which has the five below
	conn   net.Conn
	bare   net.Conn        // conn as it was accepted: that does not change
	under  *underTLS       // below conn, if that is TLS
	raw    syscall.RawConn // the socket, nil if it is read through conn
	ready  func(fd uintptr) bool

	peer   exchange.Peer
	remote netip.AddrPort  // not valid for a socket
	server *netip.AddrPort // where the client connected to, if a PROXY header says so, or of a stream

	*work                          // nil while there is nothing to serve
	headSince        time.Duration // the first byte of an incomplete head, else 0
	reading, writing alarm
	verdict          verdict // of receive
	served           bool    // a request, at least
	mayBe2           bool    // what came is the beginning of HTTP/2's preface
	graced           bool    // given time for the first while draining
	resting          bool    // idle, and the time for it is set
	last             bool    // wait no more: serve what is there and end
	ending           ending
	sharp            bool // TCP_USER_TIMEOUT is set

	// For the watch, and whoever ends the connection from outside.
	next, prev *client // of Proxy.mu
	state      atomic.Int64
	waitingOn  atomic.Pointer[pool.Conn]
	calling    atomic.Pointer[http2.Stream] // or this, of a backend that speaks HTTP/2
	http2      atomic.Pointer[http2.Conn]   // what the connection speaks, or the stream's connection
	greeting   atomic.Bool                  // what comes before requests is not over
	life       lifetime
}

// work is the memory that serves requests, taken when there are bytes to look at
// and given back when a connection is idle.
type work struct {
	in   buffer // from the client
	back buffer // from the backend
	out  []byte // heads, and what is sent with them
	bufs net.Buffers
	vec  [2][]byte

	parser     http1.Parser // of requests
	answers    http1.Parser
	request    message.Request
	answer     message.Response // the backend's
	body       http1.Body       // of the request
	answerBody http1.Body
	x          exchange.Exchange
	ask        table.Ask
	limit      *deadline // used again until somebody has waited
	pipe       io.LimitedReader
	entry      accesslog.Entry
	kept       bool // entry has what it needs of the request's head
	try
}

// socket is the connection below TLS or not, nil if it is no TCP.
func (c *client) socket() *net.TCPConn {
	t, _ := c.bare.(*net.TCPConn)
	return t
}

// plain is the connection if nothing is between HTTP and TCP, else nil.
func (c *client) plain() *net.TCPConn {
	if c.under != nil || c.stream != nil {
		return nil
	}
	return c.socket()
}

// local is where the client connected to; not valid for a socket.
func (c *client) local() netip.AddrPort {
	if c.server != nil {
		return *c.server
	}
	return addrPort(c.bare.LocalAddr())
}

// now is Proxy.now, in a loop as of the turn's beginning.
func (c *client) now() time.Duration {
	if c.loop != nil {
		return c.loop.Now()
	}
	return c.p.now()
}

// verdict is what a connection goes on with.
type verdict uint8

const (
	more   verdict = iota // wait for more bytes
	aside                 // a request that itself reads from the client: not inside the wait
	speak2                // it is HTTP/2 that the client speaks
	over                  // end the connection
)

// ending is how a connection ends.
type ending uint8

const (
	plain  ending = iota
	linger        // after reading what the client still sends
	brief         // as linger, where nothing is known to be on its way
	reset         // with a reset, so that the client cannot take the end for the answer's
)

// alarm is a deadline that is armed, and one that is wanted. As long as the
// armed one is not later, it stays: arming costs more than firing early at times.
type alarm struct{ armed, want time.Duration } // by Proxy.now, 0: none

var works = sync.Pool{New: func() any { return new(work) }}

// serve runs the connection until its end.
func (c *client) serve() {
	defer c.p.closed(c)
	defer c.end()
	if !c.greet() {
		return
	}
	v := more
	if is, sure := c.speaksHTTP2(); is && sure {
		v = speak2
	} else if c.work != nil {
		v = c.feed() // what came behind the PROXY header
	}
	c.goOn(v)
}

// goOn serves a connection from a verdict on.
func (c *client) goOn(v verdict) {
	for v != over {
		switch v {
		case speak2:
			c.serveHTTP2()
			return
		case more:
			v = c.wait()
		case aside:
			if v = c.exchange(); v == more {
				v = c.feed()
			}
		}
	}
}

// end closes the connection, also after a panic, which ends no more than this.
func (c *client) end() {
	if r := recover(); r != nil {
		c.p.config.Logger.Error("panic while serving a connection", "client", c.remote, "panic", r, "stack", string(debug.Stack()))
		c.ending = reset
		if c.work != nil {
			c.stopUpload()
			c.dropBackend(false)
			c.ask.End()
			c.work = nil // it may be in any state
		}
	}
	c.life.end()
	if c.under != nil {
		c.under.owner = nil // what ends TLS has a time of its own
	}
	switch c.ending {
	case linger:
		c.linger(lingerTime)
	case brief:
		c.linger(briefTime)
	case reset:
		if socket := c.socket(); socket != nil {
			socket.SetLinger(0)
			socket.Close() // past TLS, whose end would say that all is well
		}
	}
	c.conn.Close()
	c.giveWork()
}

// wait receives, and serves what it can, until the verdict is another than more.
func (c *client) wait() verdict {
	for {
		var err error
		if c.raw != nil {
			if err = c.raw.Read(c.ready); err == nil {
				return c.verdict
			}
		} else if err = c.receiveAny(); err == nil {
			return c.verdict
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return over // the other side's end, or ours
		}
		switch now := c.p.now(); {
		case c.p.ending.Load() && c.headSince == 0:
			// One more look, for a request may have come at the same moment; and on a
			// new connection it may be under way.
			c.last = c.served || c.graced
			c.setRead(now + newcomers)
		case now < c.reading.want:
			c.setRead(c.reading.want)
		case c.headSince != 0:
			c.refuse(exchange.Failure{Kind: exchange.ClientTimeout})
			return c.reply()
		default:
			return over
		}
	}
}

// receive is called when the socket may be readable, and returns true with a
// verdict that ends the wait. Requests are served inside: the runtime notes what
// becomes readable meanwhile, so that no read has to find nothing.
func (c *client) receive(fd uintptr) bool {
	if c.under != nil {
		c.under.drained = false
	}
	for {
		c.takeWork()
		n, again, left, err := c.readNow(fd, c.in.room())
		switch {
		case err != nil:
			c.verdict = over
			return true
		case again:
			if c.rest() {
				return true
			}
			c.startIdle()
			return false
		}
		c.state.Store(busy)
		c.shard.received.Add(uint64(n))
		c.in.w += n
		c.resting = false
		if c.verdict = c.feed(); c.verdict != more {
			return true
		}
		if !left && c.in.empty() { // of a head in pieces the rest may be behind urgent data
			if c.rest() {
				return true
			}
			c.startIdle()
			return false
		}
	}
}

// receiveAny is receive for a connection without a socket.
func (c *client) receiveAny() error {
	for {
		if c.rest() {
			return nil
		}
		c.takeWork()
		n, err := c.conn.Read(c.in.room())
		if n == 0 && err != nil {
			return err
		}
		c.shard.received.Add(uint64(n))
		c.in.w += n
		c.resting = false
		if c.verdict = c.feed(); c.verdict != more {
			return nil
		}
	}
}

// newcomers is how long a drained proxy waits for the first request of a
// connection: its client could not know.
const newcomers = time.Second

// rest prepares for a wait for more bytes. It is true if there is nothing to wait
// for.
func (c *client) rest() bool {
	if c.headSince == 0 {
		if c.work != nil && c.in.empty() {
			c.giveWork()
		}
		if !c.resting {
			c.resting = true
			c.armRead(c.p.now() + c.p.config.IdleTimeout)
		}
	} else {
		c.armRead(c.headSince + c.p.config.HeadTimeout)
	}
	if c.headSince == 0 && c.p.ending.Load() {
		if c.served || c.last {
			c.verdict = over
			return true
		}
		if !c.graced {
			c.graced = true
			c.setRead(c.p.now() + newcomers)
		}
	}
	return false
}

// feed serves the requests in the buffer.
func (c *client) feed() verdict {
	for !c.in.empty() {
		switch found, f := c.parse(); found {
		case preface:
			return speak2
		case noRequest:
			c.refuse(f)
			return c.reply()
		case partOfOne:
			return more
		}
		if !c.whole || c.request.Upgrade != nil {
			return aside
		}
		if v := c.exchange(); v != more {
			return v
		}
	}
	return more
}

// found is what a client's bytes begin with.
type found uint8

const (
	partOfOne found = iota
	aRequest        // which is begun
	preface         // of HTTP/2
	noRequest       // and why
)

// parse looks at what is in the buffer, which is not empty.
func (c *client) parse() (found, exchange.Failure) {
	if !c.served && c.headSince == 0 || c.mayBe2 {
		is, sure := c.speaksHTTP2()
		if is {
			return preface, exchange.Failure{}
		}
		if c.mayBe2 = !sure; c.mayBe2 {
			if c.headSince == 0 {
				c.headSince = c.now()
			}
			return partOfOne, exchange.Failure{}
		}
	}
	n, err := c.parser.Request(c.in.unread(), &c.request)
	if err != nil {
		f := badRequest(err)
		if !c.served && inbound.Begins(c.in.unread()) {
			f.Text = "a PROXY header from a peer that is not in --accept-proxy"
		}
		return noRequest, f
	}
	if n == 0 {
		// Some clients send an empty line after a body: that begins no request.
		if c.headSince == 0 && len(bytes.Trim(c.in.unread(), "\r\n")) > 0 {
			c.headSince = c.now()
		}
		return partOfOne, exchange.Failure{}
	}
	c.headSince = 0
	c.in.r += n
	c.begin()
	return aRequest, exchange.Failure{}
}

func badRequest(err error) exchange.Failure {
	f := exchange.Failure{Kind: exchange.BadRequest}
	var e *http1.Error
	if errors.As(err, &e) {
		f.Status, f.Type, f.Text = e.Status, e.Type, e.Msg
	}
	return f
}

// refuse makes the answer to what is no request, the last of the connection.
func (c *client) refuse(f exchange.Failure) {
	c.try = try{began: c.now()}
	c.request.Reset()
	c.x.Refuse(c.p.policy, &c.peer, f)
}

func (c *client) takeWork() {
	if c.work == nil {
		c.work = works.Get().(*work)
		c.in.take()
		c.parser.Limits, c.answers.Limits = c.p.config.Limits, c.p.config.Limits
		c.answerBody.Response = true
	}
}

func (c *client) giveWork() {
	w := c.work
	if w == nil {
		return
	}
	c.work = nil
	c.life.rest()
	w.in.free()
	w.back.free()
	if cap(w.out) > smallBuffer {
		w.out = nil
	}
	const usualFields = 64
	w.request.Reset()
	w.answer.Reset()
	if cap(w.request.Fields) > usualFields {
		w.request.Fields = nil
	}
	if cap(w.answer.Fields) > usualFields {
		w.answer.Fields = nil
	}
	w.parser.Reset()
	w.answers.Reset()
	w.body.Reset(0)
	w.answerBody.Reset(0)
	w.x.Shrink()
	w.ask.End()
	w.try = try{}
	w.vec = [2][]byte{}
	w.bufs = nil
	w.pipe = io.LimitedReader{}
	works.Put(w)
}

// armRead sets the time until which reads wait.
func (c *client) armRead(at time.Duration) {
	if c.stream != nil {
		c.stream.ArmRead(max(at-c.p.now(), 1)) // 0 would be no limit
		return
	}
	c.reading.want = at
	if c.reading.armed == 0 || c.reading.armed > at {
		c.setRead(at)
	}
}

func (c *client) setRead(at time.Duration) {
	c.reading = alarm{at, at}
	c.conn.SetReadDeadline(c.p.start.Add(at))
}

// write sends b to the client, which has WriteTimeout to accept some of it.
func (c *client) write(b []byte) error {
	c.armWrite()
	for {
		n, err := c.conn.Write(b)
		c.shard.sent.Add(uint64(n))
		b = b[n:]
		if err == nil || c.under != nil || !c.early(err, n > 0) {
			return err
		}
	}
}

// write2 sends two pieces in one system call.
func (c *client) write2(a, b []byte) error {
	c.vec = [2][]byte{a, b}
	c.bufs = c.vec[:]
	c.armWrite()
	for {
		n, err := c.bufs.WriteTo(c.conn)
		c.shard.sent.Add(uint64(n))
		if err == nil || c.under != nil || !c.early(err, n > 0) {
			return err
		}
	}
}

func (c *client) armWrite() {
	c.writing.want = 0 // it counts from the first look on, for most writes need none
	if c.writing.armed == 0 {
		c.setWrite(c.p.now() + c.p.config.WriteTimeout/2)
	}
}

func (c *client) setWrite(at time.Duration) {
	c.writing.armed = at
	c.conn.SetWriteDeadline(c.p.start.Add(at))
}

// early tells if a write's timeout came before its time, or after the client
// took something: then the write goes on.
func (c *client) early(err error, progress bool) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	// When between two looks the client took something is not known; so the looks
	// come twice in the time that it has.
	now := c.p.now()
	if progress || c.writing.want == 0 {
		c.writing.want = now + c.p.config.WriteTimeout
	} else if now >= c.writing.want {
		return false
	}
	c.setWrite(min(c.writing.want, now+c.p.config.WriteTimeout/2))
	return true
}

// How long the end of a connection is put off for what the client still sends:
// nginx's lingering_timeout, and a bound to the bytes.
const (
	lingerTime  = 5 * time.Second
	briefTime   = time.Second
	lingerBytes = 8 << 20
)

// linger closes our side and reads until the client has closed its own: closing
// with bytes unread is a reset, which may overtake the answer.
func (c *client) linger(d time.Duration) {
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	c.takeWork()
	c.conn.SetReadDeadline(time.Now().Add(d))
	for total := 0; total < lingerBytes; {
		n, err := c.conn.Read(c.in.b)
		if err != nil {
			return
		}
		total += n
	}
}
