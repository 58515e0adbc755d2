package prober

import (
	"bufio"
	"context"
	"flag"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"roster/pool"
	"roster/store"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.DiscardHandler)

// A network is made of pipes. It knows by address what answers there.
type network struct {
	served sync.WaitGroup

	mu     sync.Mutex
	places map[string]*place
}

// A place is what answers at an address, and counts.
type place struct {
	mu     sync.Mutex
	serve  func(net.Conn)                  // nil: refuses
	dial   func(ctx context.Context) error // asked before, if it is set
	dialed []time.Time
}

// newNetwork returns one whose connections have all ended before the test has.
func newNetwork(t testing.TB) *network {
	n := &network{places: make(map[string]*place)}
	t.Cleanup(n.served.Wait)
	return n
}

// at returns the place of an address, which refuses if it is new.
func (n *network) at(address string) *place {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.places[address]
	if p == nil {
		p = &place{}
		n.places[address] = p
	}
	return p
}

// does sets what connections to p meet.
func (p *place) does(serve func(net.Conn)) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serve, p.dial = serve, nil
	return p
}

// dialing sets what dials to p meet.
func (p *place) dialing(dial func(context.Context) error) *place {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dial = dial
	return p
}

func (p *place) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.dialed)
}

func (p *place) times() []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]time.Time(nil), p.dialed...)
}

func (n *network) total() (count int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.places {
		count += p.count()
	}
	return count
}

func (n *network) Dial(ctx context.Context, kind, address string) (net.Conn, error) {
	p := n.at(address)
	p.mu.Lock()
	serve, dial := p.serve, p.dial
	p.dialed = append(p.dialed, time.Now())
	p.mu.Unlock()
	if dial != nil {
		if err := dial(ctx); err != nil {
			return nil, err
		}
	}
	if serve == nil {
		return nil, syscall.ECONNREFUSED
	}
	here, there := net.Pipe()
	var remote net.Addr = &net.UnixAddr{Name: address, Net: "unix"}
	if kind == "tcp" {
		remote, _ = net.ResolveTCPAddr("tcp", address)
	}
	near := &pipe{Conn: here, remote: remote, closed: make(chan struct{})}
	n.served.Go(func() {
		defer there.Close()
		serve(&farEnd{there, near.closed})
	})
	return near, nil
}

// pipe is the end of the one that dialled.
type pipe struct {
	net.Conn
	remote net.Addr
	once   sync.Once
	closed chan struct{}
}

func (p *pipe) RemoteAddr() net.Addr { return p.remote }

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.Conn.Close()
}

type farEnd struct {
	net.Conn
	closed chan struct{} // by the other end
}

// deaf is a backend that does not even read.
func deaf(c net.Conn) { <-c.(*farEnd).closed }

// pools returns pools on n.
func (n *network) pools() *pool.Manager {
	return pool.New(pool.Config{Dial: n.Dial, Logger: silent})
}

// blackHole is a dial that is never answered.
func blackHole(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// request reads one head, and returns it.
func request(c net.Conn) string {
	r := bufio.NewReader(c)
	var all strings.Builder
	for {
		line, err := r.ReadString('\n')
		all.WriteString(line)
		if err != nil || line == "\r\n" {
			return all.String()
		}
	}
}

// says answers a request with text and closes.
func says(text string) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		io.WriteString(c, text)
	}
}

const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"

var (
	good = says(okay)
	bad  = says("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
)

// backend is a definition at an address.
func backend(t testing.TB, host string) *store.Backend {
	t.Helper()
	return decode[*store.Backend](t, store.Backends, `{"host": "`+host+`"}`)
}

func decode[D store.Definition](t testing.TB, kind store.Kind, value string) D {
	t.Helper()
	d, _, err := store.Decode(store.Key{Kind: kind, Name: "it"}, []byte(value), store.Reject)
	if err != nil {
		t.Fatal(err)
	}
	return d.(D)
}

// probeOf is a probe's definition.
func probeOf(t testing.TB, value string) *store.Probe {
	t.Helper()
	return decode[*store.Probe](t, store.Probes, value)
}

// check is that of a probe of host.
func check(t testing.TB, host, value string) *Check {
	t.Helper()
	return CheckOf(backend(t, host), probeOf(t, value), pool.Deps{})
}

// bubble runs f in a bubble with a Manager that runs until f returns.
func bubble(t *testing.T, c Config, f func(t *testing.T, n *network, m *Manager)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		if c.Pools == nil {
			c.Pools = n.pools()
		}
		if c.Logger == nil {
			c.Logger = silent
		}
		m := New(c)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run returned %v, want nil", err)
			}
		}()
		f(t, n, m)
	})
}

func (m *Manager) mustAcquire(t testing.TB, c *Check, u Use) *Ref {
	t.Helper()
	r, err := m.Acquire(c, u)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// lineCounter counts what is logged.
type lineCounter struct {
	mu sync.Mutex
	n  int
}

func (l *lineCounter) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *lineCounter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n++
	return len(b), nil
}

func (l *lineCounter) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}
