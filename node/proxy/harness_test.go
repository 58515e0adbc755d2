package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/node/sockets"
	"roster/node/table"
	"roster/pool"
	"roster/store"
	"roster/watcher"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// rig is a proxy on loopback with the definitions of one test.
type rig struct {
	*Proxy
	t       testing.TB
	addr    string
	applier *table.Applier
	pools   *pool.Manager
	rev     int64
}

// definitions are keys and values, as they would be in etcd; {name} stands for
// the address of the origin of the name.
type definitions map[string]string

func newRig(t testing.TB, c Config, defs definitions) *rig {
	t.Helper()
	return newRigOver(t, pool.Config{}, c, defs)
}

// newRigOver is newRig with a pool of the test's making.
func newRigOver(t testing.TB, pools pool.Config, c Config, defs definitions) *rig {
	t.Helper()
	return newRigWith(t, testLoops, pools, c, defs)
}

// newRigWith is newRigOver for the driver of the test's choice.
func newRigWith(t testing.TB, loops int, pools pool.Config, c Config, defs definitions) *rig {
	t.Helper()
	r := &rig{t: t, pools: pool.New(pools)}
	r.applier = table.NewApplier(r.pools)
	r.apply(defs)
	if c.Table == nil {
		c.Table = r.applier.Current
	}
	if c.Logger == nil {
		c.Logger = slog.New(alarmed{slog.DiscardHandler, t})
	}
	if c.HeadTimeout == 0 {
		c.HeadTimeout = 2 * patience // or a connection that should be closed at once may be by that
	}
	c.Loops, c.Pools = loops, r.pools
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	r.Proxy = New(c)
	var ln Listener
	r.addr = open(t, loops, &ln)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() {
		if err := r.Serve(ctx, ln); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	done.Go(func() { r.pools.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return r
}

// open opens l on a free port of loopback, for so many loops, or none.
func open(t testing.TB, loops int, l *Listener) (addr string) {
	t.Helper()
	if loops == 0 || l.TLS != nil {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Listener = ln
		return ln.Addr().String()
	}
	opened, err := new(sockets.Set).Listen("tcp", "127.0.0.1:0", loops)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	for _, s := range opened.Sockets {
		l.Sockets = append(l.Sockets, s)
	}
	return opened.Addr().String()
}

func (r *rig) apply(defs definitions) {
	r.t.Helper()
	r.rev++
	change := watcher.Change{Revision: r.rev}
	for k, v := range defs {
		key, ok := store.ParseKey(k)
		if !ok {
			r.t.Fatalf("key %s", k)
		}
		if v == "" {
			change.Deletes = append(change.Deletes, key)
			continue
		}
		def, _, err := store.Decode(key, []byte(v), store.Reject)
		if err != nil {
			r.t.Fatalf("%s: %v", k, err)
		}
		change.Puts = append(change.Puts, watcher.Item{Key: key, CreateRevision: r.rev, ModRevision: r.rev, Definition: def})
	}
	r.applier.Apply(change)
}

// dial connects to the proxy.
func (r *rig) dial() *peer { return dial(r.t, r.addr) }

// exchange sends raw bytes on a connection of their own and returns all that
// comes back until the proxy closes it.
func (r *rig) exchange(raw string) string {
	r.t.Helper()
	c := r.dial()
	c.send(raw)
	return c.rest()
}

// peer is one end of a connection in a test. Every wait ends after patience.
type peer struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return newPeer(t, conn)
}

func newPeer(t testing.TB, conn net.Conn) *peer {
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return &peer{t, conn, bufio.NewReader(conn)}
}

func (p *peer) send(raw string) {
	p.t.Helper()
	if _, err := io.WriteString(p.Conn, raw); err != nil {
		p.t.Errorf("send %.40q: %v", raw, err)
	}
}

// until reads up to and with an ending.
func (p *peer) until(end string) string {
	var b bytes.Buffer
	for !strings.HasSuffix(b.String(), end) {
		c, err := p.r.ReadByte()
		if err != nil {
			p.t.Errorf("read %.200q, then %v, want %q", b.String(), err, end)
			return b.String()
		}
		b.WriteByte(c)
	}
	return b.String()
}

// head reads a head.
func (p *peer) head() string { p.t.Helper(); return p.until("\r\n\r\n") }

// take reads n bytes.
func (p *peer) take(n int) string {
	p.t.Helper()
	b := make([]byte, n)
	if m, err := io.ReadFull(p.r, b); err != nil {
		p.t.Errorf("read %d of %d bytes, then %v", m, n, err)
	}
	return string(b)
}

// rest reads all there is until the end, an error among it.
func (p *peer) rest() string {
	p.t.Helper()
	b, err := io.ReadAll(p.r)
	if err != nil {
		return string(b) + fmt.Sprintf("<%v>", bare(err))
	}
	return string(b)
}

func bare(err error) string {
	s := err.Error()
	return s[strings.LastIndex(s, ": ")+1:]
}

// origin is a backend that a test plays itself: accept returns its next
// connection.
type origin struct {
	t  testing.TB
	ln net.Listener
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return &origin{t, ln}
}

// newDead returns an origin that refuses connections. It has an address of its own, so that
// no origin or node of a test beside it gets its port.
func newDead(t testing.TB, address string) *origin {
	t.Helper()
	ln, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	return &origin{t, ln}
}

func (o *origin) addr() string { return o.ln.Addr().String() }

// backend is the origin's definition, with more fields if given.
func (o *origin) backend(more ...string) string {
	return fmt.Sprintf(`{"host": %q%s}`, o.addr(), strings.Join(append([]string{""}, more...), ", "))
}

func (o *origin) accept() *peer {
	o.t.Helper()
	o.ln.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	conn, err := o.ln.Accept()
	if err != nil {
		o.t.Fatalf("origin: %v", err)
	}
	return newPeer(o.t, conn)
}

// quiet fails if somebody connects although nobody should, within a moment.
func (o *origin) quiet() {
	o.t.Helper()
	o.ln.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if conn, err := o.ln.Accept(); err == nil {
		conn.Close()
		o.t.Error("origin got a connection, want none")
	}
}

// serve plays the origin with the same answer to every request that has no body.
func (o *origin) serve(answer string) {
	go func() {
		for {
			conn, err := o.ln.Accept()
			if err != nil {
				return
			}
			o.t.Cleanup(func() { conn.Close() })
			go func() {
				r := bufio.NewReader(conn)
				for {
					for {
						line, err := r.ReadString('\n')
						if err != nil {
							return
						}
						if line == "\r\n" {
							break
						}
					}
					if _, err := io.WriteString(conn, answer); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// eventually waits until something is so.
func eventually(t testing.TB, is func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond) // to look without a pause would take the time of others
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("still not so")
		}
	}
}

// alarmed is a log in which an error fails the test.
type alarmed struct {
	slog.Handler
	t testing.TB
}

func (a alarmed) Enabled(context.Context, slog.Level) bool { return true }

func (a alarmed) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		r.Attrs(func(at slog.Attr) bool { a.t.Errorf("logged: %s: %v", r.Message, at); return true })
	}
	return nil
}
