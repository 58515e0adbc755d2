package pool

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is one connection to a backend, owned by whoever got it until Put or
// Discard. Its methods are for one goroutine at a time, except that one may read
// while another writes, and either may call Abort.
//
// That of a Session is the Session's: it may also be closed, and its deadlines be
// set, by other goroutines than those that read and write, as with any net.Conn.
// It does not count; the Session does.
//
// Its net.Conn is what is behind it: *net.TCPConn, *net.UnixConn or *tls.Conn. To
// hand that to something that reads or writes past Conn (splice, an HTTP/2
// framer), send TakePrologue's bytes first.
type Conn struct {
	net.Conn
	pool      *Pool // the one that gave it last, nil for a probe's
	m         *Manager
	socket    net.Conn        // the lowest of all
	under     *under          // what TLS is over, nil without; if a via has TLS too, the via's
	raw       syscall.RawConn // of the socket, nil if it has none
	fd        int             // the socket's descriptor, -1 if it has none
	prologue  []byte          // still to be sent before anything else
	dst, via  place
	trip      *roundTrip // made by the first RoundTrip
	reused    bool
	session   bool // a Session's
	unchecked bool // reused, and not looked at by Get
	aborted   atomic.Bool
	deadlines [2]deadline

	// Of the pool's mu:
	state        state
	newer, older *Conn
	expires      time.Duration // while idle, by the Manager's clock; 0: never
}

type state uint8

const (
	inUse state = iota
	idle
	closed
)

// A deadline is what is armed in the runtime and what is wanted. The two differ
// so that a deadline that moves on with every message costs nothing: the armed
// one stays, and when it fires early it is armed anew.
type deadline struct{ armed, want time.Duration } // by the Manager's clock, 0: none

type way uint8

const (
	reading way = iota
	writing
)

// Reused tells if the connection carried a request before. Then a failure before
// the first byte of an answer may mean no more than that it was closed meanwhile.
func (c *Conn) Reused() bool { return c.reused }

// Protocol returns what ALPN agreed on, "" without TLS or agreement.
func (c *Conn) Protocol() string {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.ConnectionState().NegotiatedProtocol
	}
	return ""
}

// TCP returns the connection if it is plain TCP, for splice, else nil.
func (c *Conn) TCP() *net.TCPConn {
	t, _ := c.Conn.(*net.TCPConn)
	return t
}

// Put makes the connection available to others. The answer must have been read
// to its end, and nothing after it. It carries the idle timeout of the
// definition it was got for: backends that share connections but not their idle
// timeout each decide for those they return.
func (c *Conn) Put() {
	if c.pool == nil {
		c.end(true)
		return
	}
	if c.prologue != nil || c.aborted.Load() {
		c.end(false) // nothing was ever sent, or nothing can be any more
		return
	}
	c.pool.put(c)
}

// Discard closes the connection.
func (c *Conn) Discard() { c.end(false) }

// Close is Discard, for those who know net.Conn only.
func (c *Conn) Close() error {
	c.end(false)
	return nil
}

// Abort makes reads and writes under way, and later ones, fail at once. Unlike
// the others it may be called from any goroutine while the owner has the
// connection. The owner still has to end it; Put will close it.
func (c *Conn) Abort() {
	c.aborted.Store(true)
	c.socket.Close()
}

// end closes c. orderly sends what ends a TLS session well, which may take up to
// 5 s if the backend reads nothing.
func (c *Conn) end(orderly bool) {
	if c.pool != nil {
		s := c.pool.shared
		s.mu.Lock()
		was := c.state
		c.state = closed
		if was == inUse {
			s.active--
			s.closed++
		}
		s.mu.Unlock()
		if was == idle {
			panic("pool: Discard of a connection that was put back")
		}
		if was == closed {
			return
		}
	}
	switch {
	case orderly, c.session && c.Conn == c.socket:
		c.hangUp()
	default:
		c.socket.Close()
	}
}

// hangUp closes a connection on which neither side owes the other anything. Over
// plain TCP that is a reset: after a FIN the local port would be taken for a
// minute more, and a node whose backends come and go, or take one request a
// connection, would run out of them (HAProxy closes its idle ones so, too).
func (c *Conn) hangUp() {
	if tcp := c.TCP(); tcp != nil {
		tcp.SetLinger(0) // an error means that it is closed already
	}
	c.Conn.Close()
}

// TakePrologue returns the bytes that must be sent before any other, nil if there
// are none, and leaves sending them to the caller, who can so put them and the
// request in one write. They must not be changed.
func (c *Conn) TakePrologue() []byte {
	p := c.prologue
	c.prologue = nil
	return p
}

// Write sends b, after what has to be sent first.
func (c *Conn) Write(b []byte) (int, error) {
	if c.prologue != nil {
		bufs := net.Buffers{b}
		n, err := c.WriteBuffers(&bufs)
		return int(n), err
	}
	n, err := c.Conn.Write(b)
	for err != nil && c.early(writing, err) {
		var more int
		more, err = c.Conn.Write(b[n:])
		n += more
	}
	return n, err
}

// WriteBuffers sends all buffers, consuming them, in one system call where it
// can: with writev, and over TLS as one record if they are small.
func (c *Conn) WriteBuffers(bufs *net.Buffers) (int64, error) {
	var prologue int64
	if p := c.TakePrologue(); p != nil {
		prologue = int64(len(p))
		*bufs = append(net.Buffers{p}, *bufs...)
	}
	if _, ok := c.Conn.(*tls.Conn); ok {
		if n, ok := total(*bufs); ok {
			b := records.Get().(*[maxRecord]byte)
			defer records.Put(b)
			at := b[:0]
			for _, part := range *bufs {
				at = append(at, part...)
			}
			*bufs = (*bufs)[len(*bufs):]
			k, err := c.Write(b[:n])
			return int64(k), err
		}
	}
	n, err := bufs.WriteTo(c.Conn)
	for err != nil && c.early(writing, err) {
		var more int64
		more, err = bufs.WriteTo(c.Conn)
		n += more
	}
	return max(n-prologue, 0), err
}

// maxRecord is the longest TLS record (RFC 8446, section 5.1).
const maxRecord = 16 << 10

var records = sync.Pool{New: func() any { return new([maxRecord]byte) }}

// total returns the length of all buffers together; ok if they fit one record.
func total(bufs net.Buffers) (n int, ok bool) {
	for _, b := range bufs {
		n += len(b)
	}
	return n, n <= maxRecord
}

// writeAndRead is RoundTrip by ordinary means.
func (c *Conn) writeAndRead(head, body, buf []byte) (int, error) {
	bufs := net.Buffers{head, body}
	if len(body) == 0 {
		bufs = bufs[:1]
	}
	if _, err := c.WriteBuffers(&bufs); err != nil {
		if isTimeout(err) {
			return 0, err // the time for this is over, so none is left for an answer
		}
		if n, _ := c.Read(buf); n > 0 {
			return n, nil
		}
		return 0, err
	}
	return c.Read(buf)
}

// Read reads, armed deadlines being what ArmRead says.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	for err != nil && n == 0 && c.early(reading, err) {
		n, err = c.Conn.Read(b)
	}
	return n, err
}

// ArmRead bounds all later reads to d from now on; 0 or less means no limit. It
// usually costs no more than reading the clock: see ReadExpired for those who
// read past Read.
func (c *Conn) ArmRead(d time.Duration) { c.arm(reading, d, c.m.now()) }

// ArmWrite bounds all later writes in the same way; over TLS it is set each time.
func (c *Conn) ArmWrite(d time.Duration) { c.arm(writing, d, c.m.now()) }

// Arm is ArmRead and ArmWrite in one, with one look at the clock.
func (c *Conn) Arm(read, write time.Duration) {
	now := c.m.now()
	c.arm(reading, read, now)
	c.arm(writing, write, now)
}

func (c *Conn) arm(w way, d, now time.Duration) {
	dl := &c.deadlines[w]
	dl.want = 0
	if d > 0 {
		dl.want = now + d
	}
	switch {
	case w == writing && c.Conn != c.socket:
		// A TLS connection whose write timed out takes no other: it must not fire early.
		if dl.want != dl.armed {
			c.set(w)
		}
	case dl.want != 0 && (dl.armed == 0 || dl.armed > dl.want):
		c.set(w)
	}
}

// set arms what is wanted.
func (c *Conn) set(w way) {
	dl := &c.deadlines[w]
	dl.armed = dl.want
	var t time.Time
	if dl.want != 0 {
		t = c.m.start.Add(dl.want)
	}
	if w == reading {
		c.Conn.SetReadDeadline(t)
	} else {
		c.Conn.SetWriteDeadline(t)
	}
}

// ReadExpired tells if err, of a read past Conn's own methods, is a timeout that
// was asked for. If it was an old deadline that fired early it is armed anew, and
// the same call must be made again. It is for the goroutine that reads.
func (c *Conn) ReadExpired(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) && !c.early(reading, err)
}

// early tells if a deadline fired before the time that is wanted, and then arms
// it anew.
func (c *Conn) early(w way, err error) bool {
	dl := &c.deadlines[w]
	if dl.armed == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	now := c.m.now()
	if now < dl.armed || dl.want != 0 && now >= dl.want {
		return false
	}
	c.set(w)
	return true
}

// SetDeadline sets both deadlines; those of ArmRead and ArmWrite end.
func (c *Conn) SetDeadline(t time.Time) error {
	c.disarm(reading)
	c.disarm(writing)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline replaces that of ArmRead.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.disarm(reading)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline replaces that of ArmWrite.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.disarm(writing)
	return c.Conn.SetWriteDeadline(t)
}

// disarm writes nothing where nothing was armed: then any goroutine may set a
// deadline while others read and write.
func (c *Conn) disarm(w way) {
	if c.deadlines[w] != (deadline{}) {
		c.deadlines[w] = deadline{}
	}
}
