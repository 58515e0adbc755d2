package prober

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"roster/pool"
	"roster/store"
)

// MaxTrace bounds what a Report keeps of the bytes in each direction.
const MaxTrace = 64 << 10

// Report is one run of a check, for people who want to see it.
type Report struct {
	Good  bool
	Stage Stage  // where it failed
	Text  string // what was wrong, or the answer's first line
	Local bool   // for a fault of this machine, which says nothing about the backend

	Remote string // the address connected to, empty if none was

	// Sent and Received are the bytes on the connection, under TLS if there is
	// any; the first MaxTrace of them. The totals count all.
	Sent, Received           []byte
	SentTotal, ReceivedTotal int64

	// Times since the start; -1: not reached. Answered is when the answer was
	// whole, and the connection closed if that is expected.
	Connected, FirstByte, Answered, Ended time.Duration
}

// maxShown bounds how much of Received Render shows, in bytes.
const maxShown = 4 << 10

// Render is the report as text: what was sent (>), what came (<), the verdict.
func (r *Report) Render() string {
	var b strings.Builder
	if r.Connected >= 0 {
		fmt.Fprintf(&b, "connected to %s after %s\n", r.Remote, ms(r.Connected))
	}
	renderBytes(&b, '>', r.Sent, r.SentTotal)
	if r.FirstByte >= 0 {
		fmt.Fprintf(&b, "first byte after %s\n", ms(r.FirstByte))
	}
	renderBytes(&b, '<', r.Received[:min(len(r.Received), maxShown)], r.ReceivedTotal)
	switch {
	case r.Good:
		fmt.Fprintf(&b, "good after %s: %s\n", ms(r.Ended), r.Text)
	case r.Local:
		fmt.Fprintf(&b, "not known after %s, for a fault of this machine: %s: %s\n", ms(r.Ended), r.Stage, r.Text)
	default:
		fmt.Fprintf(&b, "bad after %s: %s: %s\n", ms(r.Ended), r.Stage, r.Text)
	}
	return b.String()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.3fms", float64(d)/float64(time.Millisecond)) }

// renderBytes writes the lines of p, what is not printable as in Go's strings.
func renderBytes(b *strings.Builder, mark byte, p []byte, total int64) {
	for line := range bytes.Lines(p) {
		line = bytes.TrimSuffix(bytes.TrimSuffix(line, []byte("\n")), []byte("\r"))
		fmt.Fprintf(b, "%c %s\n", mark, printable(line))
	}
	if more := total - int64(len(p)); more > 0 {
		fmt.Fprintf(b, "%c ... and %d bytes more\n", mark, more)
	}
}

// Pools gives the pool to connect by. A *pool.Manager is one.
type Pools interface {
	Acquire(def *store.Backend, deps pool.Deps) (*pool.Pool, error)
}

// Once makes a check once, at the longest for its timeout. The error is not the
// check's: the check refers to something missing, or ctx ended.
func Once(ctx context.Context, pools Pools, c *Check) (*Report, error) {
	p, err := pools.Acquire(c.def, c.deps)
	if err != nil {
		return nil, err
	}
	defer p.Release()
	limited, cancel := context.WithTimeout(ctx, c.Timeout())
	defer cancel()
	t := &trace{start: time.Now(), report: Report{Connected: -1, FirstByte: -1, Answered: -1}}
	o := c.run(limited, p, t)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	r := &t.report
	r.Ended = time.Since(t.start)
	r.Good, r.Stage, r.Text, r.Local = o.saw&sawHappy != 0, o.stage, o.text, o.local
	if o.answered > 0 {
		r.Answered = o.answered
	}
	return r, nil
}

// trace records a connection.
type trace struct {
	start time.Time

	mu     sync.Mutex // HTTP/2 reads and writes at once
	report Report
}

// follow returns conn as recorded from here on.
func (t *trace) follow(conn *pool.Conn) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.report.Connected = time.Since(t.start)
	t.report.Remote = conn.RemoteAddr().String()
	return &recorded{Conn: conn, t: t}
}

type recorded struct {
	*pool.Conn
	t *trace
}

func (r *recorded) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	p := &r.t.report
	if n > 0 && p.FirstByte < 0 {
		p.FirstByte = time.Since(r.t.start)
	}
	p.Received = keep(p.Received, b[:n])
	p.ReceivedTotal += int64(n)
	return n, err
}

// Write sends what has to be sent first by itself, to see it.
func (r *recorded) Write(b []byte) (int, error) {
	if prologue := r.TakePrologue(); prologue != nil {
		if _, err := r.write(prologue); err != nil {
			return 0, err
		}
	}
	return r.write(b)
}

func (r *recorded) write(b []byte) (int, error) {
	n, err := r.Conn.Write(b)
	r.t.mu.Lock()
	defer r.t.mu.Unlock()
	p := &r.t.report
	p.Sent = keep(p.Sent, b[:n])
	p.SentTotal += int64(n)
	return n, err
}

func keep(kept, b []byte) []byte {
	return append(kept, b[:min(len(b), MaxTrace-len(kept))]...)
}
