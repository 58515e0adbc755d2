package prober

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"roster/http1"
	"roster/message"
	"roster/pool"
)

// dialer is what a probe needs of a *pool.Pool.
type dialer interface {
	DialProbe(ctx context.Context) (*pool.Conn, error)
}

// outcome is what one probe found.
type outcome struct {
	saw       observation
	stage     Stage
	text      string
	answered  time.Duration // from the start to a whole answer; 0: none
	local     bool          // this machine's fault: nothing is known of the backend
	cancelled bool          // given up, so nothing is known either
}

func (o *outcome) fail(s Stage, format string, args ...any) {
	o.stage, o.text = s, fmt.Sprintf(format, args...)
}

func (o *outcome) good(text string) {
	o.saw |= sawHappy
	o.text = text
}

// A probe is one run of a check.
type probe struct {
	*Check
	outcome
	ctx   context.Context // of the call of run; ends with the probe's time
	start time.Time
	conn  *pool.Conn
	rw    net.Conn // conn, or what records it
	// gentle: the connection is closed without a reset, because the backend closed
	// it before, or may not have read all yet.
	gentle bool
}

// run makes the check once. ctx is all that bounds it in time. t may be nil.
func (c *Check) run(ctx context.Context, d dialer, t *trace) outcome {
	p := probe{Check: c, ctx: ctx, start: time.Now()}
	conn, err := d.DialProbe(ctx)
	if err != nil {
		p.notConnected(err)
		return p.outcome
	}
	p.conn, p.rw = conn, conn
	if t != nil {
		p.rw = t.follow(conn)
	}
	switch a := conn.RemoteAddr().(type) {
	case *net.UnixAddr:
		p.saw = sawUnix
	case *net.TCPAddr:
		p.saw = sawIPv6
		if a.IP.To4() != nil {
			p.saw = sawIPv4
		}
	}
	stop := context.AfterFunc(ctx, conn.Abort)
	switch c.way {
	case byHTTP1:
		p.http1()
	case byHTTP2:
		p.http2()
	case byGRPC:
		p.grpc()
	case byTCP:
		p.tcp()
	}
	stop()
	if p.gentle || conn.TCP() == nil {
		conn.Discard()
	} else {
		conn.Put() // resets it, which leaves no port in TIME_WAIT
	}
	return p.outcome
}

// over tells if the probe's time is over, or it was given up, and that is why
// something failed.
func (p *probe) over() bool {
	switch p.ctx.Err() {
	case nil:
		return false
	case context.DeadlineExceeded:
		return true
	}
	p.cancelled = true
	return true
}

func (p *probe) notConnected(err error) {
	stage, what, missing := Connect, err, "connection"
	var e *pool.Error
	if errors.As(err, &e) {
		what = e.Err
		p.local = e.Kind == pool.Local
		switch e.Stage {
		case pool.Resolve:
			stage, missing = Resolve, "address"
		case pool.Handshake:
			stage, missing = Handshake, "TLS"
		}
	}
	if p.over() && !p.local {
		p.fail(stage, "no %s within %v", missing, p.Timeout())
		return
	}
	p.fail(stage, "%v", what)
}

func (p *probe) tcp() {
	if prologue := p.conn.TakePrologue(); prologue != nil {
		if !p.send(prologue) {
			return
		}
		p.gentle = true
	}
	p.answered = time.Since(p.start)
	p.good("connected")
}

// send writes b and notes how that went.
func (p *probe) send(b []byte) bool {
	if _, err := p.rw.Write(b); err != nil {
		p.notSent(err)
		return false
	}
	p.saw |= sawSent
	return true
}

func (p *probe) notSent(err error) {
	p.saw |= sawSendFailed
	if p.over() {
		p.fail(Send, "request not taken within %v", p.Timeout())
		return
	}
	p.fail(Send, "%v", bare(err))
}

// scratch is what reading an answer takes.
type scratch struct {
	buf    []byte
	parser http1.Parser
	head   message.Response
}

var scratches = sync.Pool{New: func() any { return &scratch{buf: make([]byte, 0, 2<<10)} }}

// maxDrain is the size of buffer that long answers are read away with.
const maxDrain = 32 << 10

var methodGET = []byte("GET")

// http1 sends the request and judges the answer: its head has to be one that
// package http1 reads, or no request would be answered through us either.
func (p *probe) http1() {
	s := scratches.Get().(*scratch)
	defer func() {
		s.parser.Reset()
		s.head.Reset()
		if cap(s.buf) <= maxDrain {
			scratches.Put(s)
		}
	}()
	s.buf = p.appendRequest(s.buf[:0])
	if !p.send(s.buf) {
		return
	}

	s.buf = s.buf[:0]
	received, judged := 0, false
	for {
		room := s.buf[len(s.buf):cap(s.buf)]
		n, err := p.rw.Read(room)
		received += n
		switch {
		case n == 0:
		case !judged:
			s.buf = s.buf[:len(s.buf)+n]
			judged = p.judge(s)
			switch {
			case judged && !p.probe.ExpectClose:
				p.received()
				return
			case judged:
				s.buf = s.buf[:0]
			case len(s.buf) == cap(s.buf):
				s.buf = append(s.buf, 0)[:len(s.buf)]
			}
		case n == cap(s.buf) && n < maxDrain:
			s.buf = make([]byte, 0, maxDrain)
		}
		if err != nil {
			p.notReceived(err, received, judged)
			return
		}
	}
}

// judge looks at what came so far. It is true once there is a verdict.
func (p *probe) judge(s *scratch) bool {
	want := p.probe.ExpectedResponse
	for {
		n, err := s.parser.Response(s.buf, &s.head, methodGET)
		switch {
		case err != nil:
			p.fail(Answer, "%v: %s", err, firstLine(s.buf))
			return true
		case n == 0:
			return false
		}
		if got := s.head.Status; interim(got) && got != want {
			s.buf = s.buf[:copy(s.buf, s.buf[n:])]
			continue
		}
		p.status(s.head.Status, firstLine(s.buf))
		return true
	}
}

// interim tells if another head follows that of a status.
func interim(status int) bool { return status < 200 && status != 101 }

func (p *probe) status(got int, text string) {
	if want := p.probe.ExpectedResponse; got != want {
		p.fail(Status, "%s, want %d", text, want)
		return
	}
	p.good(text)
}

// received notes that the answer came whole.
func (p *probe) received() {
	p.saw |= sawReceived
	p.answered = time.Since(p.start)
}

// notReceived deals with the end of reading, which is a good one if the
// connection was to be closed and is.
func (p *probe) notReceived(err error, received int, judged bool) {
	switch closed := isClosed(err); {
	case closed && received == 0:
		p.gentle = true
		p.fail(Receive, "closed without an answer")
		return
	case closed:
		p.gentle = true
		p.received()
		if !judged {
			p.fail(Answer, "closed after %d bytes, before the end of the head", received)
		}
		return
	}
	happy := p.saw&sawHappy != 0
	p.saw = p.saw&^sawHappy | sawReceiveFailed
	over := p.over()
	switch {
	case judged && over && happy:
		p.fail(Close, "%s, but not closed within %v", p.text, p.Timeout())
	case judged && over:
		p.text += fmt.Sprintf("; not closed within %v", p.Timeout())
	case judged && happy:
		p.fail(Close, "%s, but then %v", p.text, bare(err))
	case judged:
	case over && received == 0:
		p.fail(Receive, "no answer within %v", p.Timeout())
	case over:
		p.fail(Receive, "only %d bytes within %v, not the whole head", received, p.Timeout())
	default:
		p.fail(Receive, "%v", bare(err))
	}
}

// isClosed: over TLS, a close without an alert before it is one too.
func isClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// bare drops what package net adds around an error number.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// maxText bounds what is kept of an answer's first line, in bytes. Varnish keeps
// 128 of the whole answer.
const maxText = 100

// firstLine is the first line of an answer, fit to be shown.
func firstLine(b []byte) string {
	if i := bytes.IndexAny(b, "\r\n"); i >= 0 {
		b = b[:i]
	}
	return printable(b[:min(len(b), maxText)])
}

// printable is b with all that is not printable ASCII escaped as in Go's strings.
func printable(b []byte) string {
	for _, c := range b {
		if c < ' ' || c > '~' {
			quoted := strconv.QuoteToASCII(string(b))
			return quoted[1 : len(quoted)-1]
		}
	}
	return string(b)
}
