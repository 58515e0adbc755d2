package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"roster/store"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var silent = slog.New(slog.DiscardHandler)

// A network is what a test's backends are: by address, what happens when it is
// dialled. Without an entry it is a pipe whose other end the test gets.
type network struct {
	mu    sync.Mutex
	on    map[string]func(context.Context) (net.Conn, error)
	dials []string
	ends  []net.Conn
}

func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dials = append(n.dials, address)
	f := n.on[address]
	n.mu.Unlock()
	if f != nil {
		return f(ctx)
	}
	here, there := net.Pipe()
	n.mu.Lock()
	n.ends = append(n.ends, there)
	n.mu.Unlock()
	return here, nil
}

func (n *network) set(address string, f func(context.Context) (net.Conn, error)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.on == nil {
		n.on = make(map[string]func(context.Context) (net.Conn, error))
	}
	n.on[address] = f
}

func (n *network) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.dials)
}

func fails(err error) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) { return nil, err }
}

func hangs(ctx context.Context) (net.Conn, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A zone is a resolver that answers from a map.
type zone struct {
	mu      sync.Mutex
	hosts   map[string][]netip.Addr
	lookups int
	delay   time.Duration
}

func (z *zone) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	z.mu.Lock()
	z.lookups++
	delay, addrs := z.delay, append([]netip.Addr(nil), z.hosts[host]...)
	z.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if len(addrs) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return addrs, nil
}

func (z *zone) slow(delay time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.delay = delay
}

func (z *zone) count() int {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.lookups
}

func (z *zone) set(host string, addrs ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.hosts == nil {
		z.hosts = make(map[string][]netip.Addr)
	}
	z.hosts[host] = nil
	for _, a := range addrs {
		z.hosts[host] = append(z.hosts[host], netip.MustParseAddr(a))
	}
}

// inBubble runs f with a running Manager over n and z, and checks at the end
// that every connection was accounted for.
func inBubble(t *testing.T, f func(t *testing.T, m *Manager, n *network, z *zone)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n, z := &network{}, &zone{}
		m := New(Config{Dial: n.dial, Resolver: z, Logger: silent})
		cancel, ended := runManager(t, m)
		f(t, m, n, z)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
		for _, end := range n.ends {
			end.Close()
		}
	})
}

// runManager runs m until stop; then ended gets what Run returned.
func runManager(t *testing.T, m *Manager) (stop func(), ended <-chan error) {
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- m.Run(ctx) }()
	return cancel, result
}

func acquire(t *testing.T, m *Manager, def store.Backend) *Pool {
	t.Helper()
	if def.Protocol == "" {
		def.Protocol = store.HTTP1
	}
	p, err := m.Acquire(&def, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func get(t *testing.T, p *Pool) *Conn {
	t.Helper()
	c, err := p.Get(t.Context(), Request{ConnectTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	checkCounts(t, p)
	return c
}

func checkCounts(t *testing.T, p *Pool) {
	t.Helper()
	s := p.Stats()
	if int(s.Opened-s.Closed) != s.Active+s.Idle || s.Active < 0 || s.Idle < 0 {
		t.Errorf("opened - closed != active + idle: %+v", s)
	}
}

func wantKind(t *testing.T, err error, kind Kind, held bool) *Error {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Kind != kind || e.Held != held {
		t.Fatalf("error is %v (%#v), want kind %v, held %v", err, e, kind, held)
	}
	return e
}

func TestMostRecentlyUsedIdleConnectionIsTakenFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: time.Minute})
		defer p.Release()
		a, b, c := get(t, p), get(t, p), get(t, p)
		b.Put()
		c.Put()
		a.Put()
		for i, want := range []*Conn{a, c, b} {
			if got := get(t, p); got != want || !got.Reused() {
				t.Errorf("Get %d: not the most recently used one", i)
			}
		}
		if fresh := get(t, p); fresh.Reused() || n.count() != 4 {
			t.Errorf("fresh.Reused, dials = %v, %d, want false, 4", fresh.Reused(), n.count())
		} else {
			fresh.Discard()
		}
		a.Discard()
		b.Discard()
		c.Discard()
		if s := p.Stats(); s != (Stats{Opened: 4, Closed: 4, Reused: 3}) {
			t.Errorf("Stats = %+v", s)
		}
	})
}

func TestFreshIsNeverReused(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, _ *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		get(t, p).Put()
		c, err := p.Get(t.Context(), Request{Fresh: true})
		if err != nil || c.Reused() {
			t.Errorf("Get = reused %v, %v", c.Reused(), err)
		}
		c.Discard()
	})
}

func TestPoolsAreSharedByIdentityOnly(t *testing.T) {
	t.Parallel()
	base := func(change func(*store.Backend)) store.Backend {
		b := store.Backend{Host: "web.example", Port: 80, Protocol: store.HTTP1}
		change(&b)
		return b
	}
	via := func(b *store.Backend) {
		b.Via, b.Authority = "v", "web.example"
	}
	deps := func(b store.Backend) Deps {
		d := Deps{Certificate: &store.Certificate{Cert: "c", Key: "k"}}
		if b.Via != "" {
			d.Via = &store.Backend{Path: "/run/" + b.Via, Protocol: store.HTTP1}
		}
		return d
	}
	for _, row := range []struct {
		name   string
		a, b   func(*store.Backend)
		shared bool
	}{
		{"nothing", func(b *store.Backend) {}, func(b *store.Backend) {}, true},
		{"case of the host", func(b *store.Backend) {}, func(b *store.Backend) { b.Host = "WEB.Example" }, true},
		{"timeouts", func(b *store.Backend) {}, func(b *store.Backend) { b.IdleTimeout, b.ConnectTimeout = 1, 2 }, true},
		{"max_connections", func(b *store.Backend) {}, func(b *store.Backend) { b.MaxConnections = 5 }, true},
		{"reuse", func(b *store.Backend) {}, func(b *store.Backend) { b.NoReuse = true }, true},
		{"host", func(b *store.Backend) {}, func(b *store.Backend) { b.Host = "web2.example" }, false},
		{"port", func(b *store.Backend) {}, func(b *store.Backend) { b.Port = 81 }, false},
		{"path", func(b *store.Backend) {}, func(b *store.Backend) { b.Host, b.Path = "", "/x" }, false},
		{"abstract or not", func(b *store.Backend) { b.Host, b.Path = "", "@/x" }, func(b *store.Backend) { b.Host, b.Path = "", "/x" }, false},
		{"protocol", func(b *store.Backend) {}, func(b *store.Backend) { b.Protocol = store.H2C }, false},
		{"preamble", func(b *store.Backend) {}, func(b *store.Backend) { b.Preamble = []byte("x") }, false},
		{"PROXY header", func(b *store.Backend) {}, func(b *store.Backend) { b.ProxyHeader = 1 }, false},
		{"PROXY version", func(b *store.Backend) { b.ProxyHeader = 2 }, func(b *store.Backend) { b.ProxyHeader = 1 }, false},
		{"pool id", func(b *store.Backend) {}, func(b *store.Backend) { b.Pool = "x" }, false},
		{"pool id like another part", func(b *store.Backend) { b.Pool = "x p1:y" }, func(b *store.Backend) { b.Pool, b.Preamble = "x", []byte("y") }, false},
		{"long but equal", func(b *store.Backend) { b.Preamble = make([]byte, 999) }, func(b *store.Backend) { b.Preamble = make([]byte, 999) }, true},
		{"long", func(b *store.Backend) { b.Preamble = make([]byte, 999) }, func(b *store.Backend) { b.Preamble = make([]byte, 998) }, false},
		{"via", func(b *store.Backend) {}, via, false},
		{"same via", via, via, true},
		{"another via", via, func(b *store.Backend) { via(b); b.Via = "w" }, false},
		{"authority", via, func(b *store.Backend) { via(b); b.Authority = "" }, false},
		{"TLS", func(b *store.Backend) {}, func(b *store.Backend) { b.TLS = &store.TLS{} }, false},
		{"same TLS", func(b *store.Backend) { b.TLS = &store.TLS{ServerName: "web.example"} }, func(b *store.Backend) { b.TLS = &store.TLS{} }, true},
		{"server name", func(b *store.Backend) { b.TLS = &store.TLS{ServerName: "x"} }, func(b *store.Backend) { b.TLS = &store.TLS{} }, false},
		{"verification", func(b *store.Backend) { b.TLS = &store.TLS{InsecureSkipVerify: true} }, func(b *store.Backend) { b.TLS = &store.TLS{} }, false},
		{"CA", func(b *store.Backend) { b.TLS = &store.TLS{CA: "x"} }, func(b *store.Backend) { b.TLS = &store.TLS{} }, false},
		{"client certificate", func(b *store.Backend) { b.TLS = &store.TLS{Certificate: "x"} }, func(b *store.Backend) { b.TLS = &store.TLS{} }, false},
		{"client certificate's name", func(b *store.Backend) { b.TLS = &store.TLS{Certificate: "x"} }, func(b *store.Backend) { b.TLS = &store.TLS{Certificate: "y"} }, true},
		{"ALPN", func(b *store.Backend) { b.TLS = &store.TLS{ALPN: []string{"x"}} }, func(b *store.Backend) { b.TLS = &store.TLS{} }, false},
	} {
		a, b := base(row.a), base(row.b)
		m := New(Config{})
		p, err := m.Acquire(&a, deps(a))
		if err != nil {
			t.Fatal(err)
		}
		q, err := m.Acquire(&b, deps(b))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.shared == q.shared; got != row.shared {
			t.Errorf("differing in %s: shared = %v, want %v", row.name, got, row.shared)
		}
		p.Release()
		q.Release()
		if m.Pools() != 0 || len(m.Names()) != 0 {
			t.Errorf("%s: pools, names left after the last release: %d, %v", row.name, m.Pools(), m.Names())
		}
	}
}

func TestAcquireReportsDanglingReferences(t *testing.T) {
	t.Parallel()
	addr := store.Backend{Host: "10.0.0.1", Port: 80, Protocol: store.HTTP1}
	with := func(change func(*store.Backend)) *store.Backend {
		b := addr
		change(&b)
		return &b
	}
	for _, row := range []struct {
		name string
		def  *store.Backend
		deps Deps
	}{
		{"via missing", with(func(b *store.Backend) { b.Via = "v" }), Deps{}},
		{"via has a via", with(func(b *store.Backend) { b.Via = "v" }), Deps{Via: with(func(b *store.Backend) { b.Via = "w" })}},
		{"via is none", with(func(b *store.Backend) { b.Via = "v" }), Deps{Via: &store.Backend{None: true}}},
		{"certificate missing", with(func(b *store.Backend) { b.TLS = &store.TLS{Certificate: "c"} }), Deps{}},
		{"via's certificate missing", with(func(b *store.Backend) { b.Via = "v" }),
			Deps{Via: with(func(b *store.Backend) { b.TLS = &store.TLS{Certificate: "c"} })}},
	} {
		if p, err := New(Config{}).Acquire(row.def, row.deps); p != nil || !errors.Is(err, ErrDangling) {
			t.Errorf("%s: Acquire = %v, %v, want ErrDangling", row.name, p, err)
		}
	}
	if _, err := New(Config{}).Acquire(&store.Backend{None: true}, Deps{}); err == nil {
		t.Error("Acquire of none: no error")
	}
}

// Sharing pools share connections, but each returns them with its own timeout.
func TestIdleTimeoutIsOfTheDefinitionThatReturns(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		long := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: time.Minute})
		short := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: 3 * time.Second})
		forever := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		a, b, c := get(t, long), get(t, short), get(t, forever)
		a.Put()
		b.Put()
		c.Put()
		for _, row := range []struct {
			wait time.Duration
			idle int
		}{{3*time.Second - 1, 3}, {time.Second + 1, 2}, {56*time.Second - 2, 2}, {2 * time.Second, 1}, {time.Hour, 1}} {
			time.Sleep(row.wait)
			synctest.Wait()
			if got := long.Stats().Idle; got != row.idle {
				t.Errorf("after %v more, idle = %d, want %d", row.wait, got, row.idle)
			}
			checkCounts(t, long)
		}
		long.Release()
		short.Release()
		forever.Release()
	})
}

// The janitor comes late by up to a second, but Get does not use what is over.
func TestConnectionOverItsIdleTimeoutIsNotUsed(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: 100 * time.Millisecond})
		defer p.Release()
		get(t, p).Put()
		time.Sleep(100*time.Millisecond - 1)
		c := get(t, p)
		if !c.Reused() {
			t.Error("within the timeout: not reused")
		}
		c.Put()
		time.Sleep(100 * time.Millisecond)
		c = get(t, p)
		if c.Reused() {
			t.Error("after the timeout: reused")
		}
		c.Discard()
	})
}

func TestLastReleaseClosesIdleOnesAndReturnedOnes(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		def := store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: time.Hour}
		p, q := acquire(t, m, def), acquire(t, m, def)
		a, b := get(t, p), get(t, q)
		a.Put()
		p.Release()
		if got := q.Stats().Idle; got != 1 {
			t.Errorf("idle while another holds the pool = %d, want 1", got)
		}
		q.Release()
		if s := q.Stats(); s.Idle != 0 || s.Active != 1 {
			t.Errorf("after the last release: %+v", s)
		}
		b.Put()
		late := get(t, q) // a request that holds an older table
		late.Put()
		if s := q.Stats(); s != (Stats{Opened: 3, Closed: 3}) {
			t.Errorf("after all came back: %+v", s)
		}
		if m.Pools() != 0 {
			t.Errorf("pools = %d, want 0", m.Pools())
		}
	})
}

func TestReuseFalseNeitherTakesNorLeaves(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		single := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, NoReuse: true})
		get(t, p).Put()
		c := get(t, single)
		if c.Reused() {
			t.Error("took an idle connection")
		}
		c.Put()
		if got := p.Stats().Idle; got != 1 {
			t.Errorf("idle = %d, want 1", got)
		}
		p.Release()
		single.Release()
	})
}

func TestConnectionWithProxyHeaderServesOneRequest(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, ProxyHeader: 1})
		defer p.Release()
		c := get(t, p)
		c.TakePrologue()
		c.Put()
		if s := p.Stats(); s.Idle != 0 || s.Closed != 1 {
			t.Errorf("Stats = %+v", s)
		}
	})
}

func TestDrainClosesConnectionsAsTheyComeBack(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		a, b := get(t, p), get(t, p)
		a.Put()
		p.Drain(true)
		b.Put()
		if s := p.Stats(); s.Idle != 0 || s.Active != 0 {
			t.Errorf("draining: %+v", s)
		}
		p.Drain(false)
		get(t, p).Put()
		if s := p.Stats(); s.Idle != 1 {
			t.Errorf("no longer draining: %+v", s)
		}
	})
}

func TestWrongEndsPanic(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		c := get(t, p)
		c.Put()
		for name, f := range map[string]func(){"Put after Put": c.Put, "Discard after Put": c.Discard} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				f()
			}()
		}
		checkCounts(t, p)
		p.Release()
		defer func() {
			if recover() == nil {
				t.Error("second Release: no panic")
			}
		}()
		p.Release()
	})
}

func TestRefusedAddressIsHeldDownForAllBackends(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1")
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		q := acquire(t, m, store.Backend{Host: "web.example", Port: 80, Pool: "other"})
		elsewhere := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 81})
		n.set("10.0.0.1:80", fails(&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}))

		_, err := p.Get(t.Context(), Request{})
		if e := wantKind(t, err, Refused, false); e.ProxyStatus() != "connection_refused" {
			t.Errorf("ProxyStatus = %s", e.ProxyStatus())
		}
		_, err = q.Get(t.Context(), Request{})
		if e := wantKind(t, err, Refused, true); e.ProxyStatus() != "connection_refused" {
			t.Errorf("held: ProxyStatus = %s", e.ProxyStatus())
		}
		if n.count() != 1 {
			t.Errorf("dials = %d, want 1", n.count())
		}
		get(t, elsewhere).Discard()

		time.Sleep(250*time.Millisecond - 1)
		_, err = p.Get(t.Context(), Request{})
		wantKind(t, err, Refused, true)
		n.set("10.0.0.1:80", nil)
		time.Sleep(time.Nanosecond)
		get(t, p).Discard()
		get(t, q).Discard()
		p.Release()
		q.Release()
		elsewhere.Release()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if len(m.held.held) != 0 {
			t.Errorf("held addresses left: %v", m.held.held)
		}
	})
}

func TestProbeDialsHeldAddressAndEndsHolddown(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		n.set("10.0.0.1:80", fails(syscall.ENETUNREACH))
		_, err := p.DialProbe(t.Context())
		if e := wantKind(t, err, Unroutable, false); e.ProxyStatus() != "destination_ip_unroutable" {
			t.Errorf("ProxyStatus = %s", e.ProxyStatus())
		}
		_, err = p.Get(t.Context(), Request{})
		wantKind(t, err, Unroutable, true)
		n.set("10.0.0.1:80", nil)
		c, err := p.DialProbe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Put()
		if s := p.Stats(); s.Opened != 0 || s.Active != 0 || s.Idle != 0 {
			t.Errorf("a probe's connection counts: %+v", s)
		}
		get(t, p).Discard()
	})
}

func TestLocalFaultHoldsForASecondAndIsCounted(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.EACCES, syscall.EPERM} {
		t.Run(errno.Error(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
				defer p.Release()
				n.set("10.0.0.1:80", fails(os.NewSyscallError("connect", errno)))
				_, err := p.Get(t.Context(), Request{})
				wantKind(t, err, Local, false)
				time.Sleep(time.Second - 1)
				_, err = p.Get(t.Context(), Request{})
				wantKind(t, err, Local, true)
				time.Sleep(time.Nanosecond)
				_, err = p.Get(t.Context(), Request{})
				wantKind(t, err, Local, false)
				if got := m.LocalFaults(); got != 2 {
					t.Errorf("LocalFaults = %d, want 2", got)
				}
			})
		})
	}
}

func TestConnectTimeoutIsForAllAddressesTogether(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1", "10.0.0.2", "10.0.0.3")
		for _, a := range []string{"10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"} {
			n.set(a, hangs)
		}
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
		defer p.Release()
		start := time.Now()
		_, err := p.Get(t.Context(), Request{ConnectTimeout: time.Second})
		if e := wantKind(t, err, Timeout, false); e.ProxyStatus() != "connection_timeout" {
			t.Errorf("ProxyStatus = %s", e.ProxyStatus())
		}
		if d := time.Since(start); d != time.Second || n.count() != 3 {
			t.Errorf("took %v and %d dials, want 1s and 3", d, n.count())
		}
		_, err = p.Get(t.Context(), Request{ConnectTimeout: time.Second})
		wantKind(t, err, Timeout, false) // a timeout holds nothing down
	})
}

func TestConnectTimeoutZeroIsNoLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		n.set("10.0.0.1:80", hangs)
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		if _, err := p.Get(ctx, Request{}); err != context.DeadlineExceeded {
			t.Errorf("Get = %v, want the context's own error", err)
		}
	})
}

func TestCancelledDialHoldsNothingDown(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		n.set("10.0.0.1:80", hangs)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := p.Get(ctx, Request{}); err != context.Canceled {
			t.Errorf("Get = %v, want context.Canceled", err)
		}
		n.set("10.0.0.1:80", nil)
		get(t, p).Discard()
	})
}

// RFC 8305: the next address after 250 ms or a failure, families in turns, the
// first connection wins and the others are given up.
func TestHappyEyeballs(t *testing.T) {
	answer := func(after time.Duration) func(context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) {
			select {
			case <-time.After(after):
				here, _ := net.Pipe()
				return here, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
	const a, b, c, d = "[fd00::1]:80", "10.0.0.1:80", "[fd00::2]:80", "10.0.0.2:80"
	for _, row := range []struct {
		name  string
		on    map[string]func(context.Context) (net.Conn, error)
		took  time.Duration
		dials []string
		fails Kind
	}{
		{"first answers at once", nil, 0, []string{a}, 0},
		{"first answers before the stagger", map[string]func(context.Context) (net.Conn, error){a: answer(249 * time.Millisecond)},
			249 * time.Millisecond, []string{a}, 0},
		{"second wins", map[string]func(context.Context) (net.Conn, error){a: hangs}, 250 * time.Millisecond, []string{a, b}, 0},
		{"first wins though second was dialled", map[string]func(context.Context) (net.Conn, error){a: answer(300 * time.Millisecond), b: hangs},
			300 * time.Millisecond, []string{a, b}, 0},
		{"failure starts the next at once", map[string]func(context.Context) (net.Conn, error){a: fails(syscall.ECONNREFUSED)}, 0, []string{a, b}, 0},
		{"last of four", map[string]func(context.Context) (net.Conn, error){a: hangs, b: hangs, c: hangs}, 750 * time.Millisecond, []string{a, b, c, d}, 0},
		{"all refuse", map[string]func(context.Context) (net.Conn, error){a: fails(syscall.ECONNREFUSED), b: fails(syscall.ECONNREFUSED),
			c: fails(syscall.EHOSTUNREACH), d: fails(syscall.ECONNREFUSED)}, 0, []string{a, b, c, d}, Refused},
		{"a local fault among others is told", map[string]func(context.Context) (net.Conn, error){a: fails(syscall.ECONNREFUSED), b: fails(syscall.EADDRNOTAVAIL),
			c: fails(syscall.EHOSTUNREACH), d: fails(syscall.ECONNREFUSED)}, 0, []string{a, b, c, d}, Local},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
				z.set("web.example", "fd00::1", "fd00::2", "10.0.0.1", "10.0.0.2")
				n.on = row.on
				p := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
				defer p.Release()
				start := time.Now()
				conn, err := p.Get(t.Context(), Request{ConnectTimeout: time.Minute})
				if row.fails != 0 {
					wantKind(t, err, row.fails, false)
				} else if err != nil {
					t.Fatal(err)
				} else {
					conn.Discard()
				}
				synctest.Wait()
				if took := time.Since(start); took != row.took || fmt.Sprint(n.dials) != fmt.Sprint(row.dials) {
					t.Errorf("took %v, dialled %v, want %v, %v", took, n.dials, row.took, row.dials)
				}
			})
		})
	}
}

func TestHeldAddressIsLeftOutOfTheRace(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1", "10.0.0.2")
		n.set("10.0.0.1:80", fails(syscall.ECONNREFUSED))
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
		defer p.Release()
		get(t, p).Discard()
		get(t, p).Discard()
		if got, want := fmt.Sprint(n.dials), "[10.0.0.1:80 10.0.0.2:80 10.0.0.2:80]"; got != want {
			t.Errorf("dials = %v, want %v", got, want)
		}
	})
}

func TestRequestsNeverWaitForDNSAfterTheFirstAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1")
		z.slow(time.Second)
		p := acquire(t, m, store.Backend{Host: "Web.Example", Port: 80})
		defer p.Release()
		start := time.Now()
		c, err := p.Get(t.Context(), Request{ConnectTimeout: 2 * time.Second})
		if err != nil || time.Since(start) != time.Second {
			t.Fatalf("first Get: %v after %v", err, time.Since(start))
		}
		c.Discard()
		for range 600 { // a minute, lookups under way for some of it
			start := time.Now()
			get(t, p).Discard()
			if d := time.Since(start); d != 0 {
				t.Fatalf("a later Get waited %v", d)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := z.count(); n < 2 {
			t.Errorf("lookups = %d", n)
		}
	})
}

func TestNameThatWasNeverResolved(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
		defer p.Release()
		_, err := p.Get(t.Context(), Request{ConnectTimeout: time.Second})
		if e := wantKind(t, err, DNS, false); e.ProxyStatus() != "dns_error" || e.Stage != Resolve {
			t.Errorf("ProxyStatus = %s, stage %s", e.ProxyStatus(), e.Stage)
		}
		z.set("web.example", "10.0.0.1")
		time.Sleep(time.Second) // sooner than the interval
		synctest.Wait()
		get(t, p).Discard()

		z.slow(time.Minute)
		slow := acquire(t, m, store.Backend{Host: "slow.example", Port: 80})
		defer slow.Release()
		_, err = slow.Get(t.Context(), Request{ConnectTimeout: time.Second})
		if e := wantKind(t, err, DNS, false); e.ProxyStatus() != "dns_timeout" {
			t.Errorf("ProxyStatus = %s", e.ProxyStatus())
		}
	})
}

func TestAddressesAreKeptWhenResolvingFails(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1")
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
		defer p.Release()
		get(t, p).Put()
		resolved := time.Now()
		z.set("web.example")
		time.Sleep(10 * time.Minute)
		c := get(t, p)
		if !c.Reused() {
			t.Error("the idle connection was not kept")
		}
		c.Discard()
		get(t, p).Discard()
		names := m.Names()
		if len(names) != 1 || names[0].Host != "web.example" || names[0].Err == nil || !names[0].Resolved.Equal(resolved) ||
			fmt.Sprint(names[0].Addresses) != "[10.0.0.1]" {
			t.Errorf("Names = %+v", names)
		}
	})
}

func TestIdleConnectionsToAnAddressThatIsGoneAreClosed(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1", "10.0.0.2")
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80, IdleTimeout: time.Hour})
		defer p.Release()
		gone, busy := get(t, p), get(t, p)
		n.set("10.0.0.1:80", fails(syscall.ECONNREFUSED))
		stays := get(t, p)
		gone.Put()
		stays.Put()
		z.set("web.example", "10.0.0.3", "10.0.0.2")
		time.Sleep(30*time.Second + sweepTicks*tick + tick)
		synctest.Wait()
		if got := p.Stats().Idle; got != 1 {
			t.Errorf("idle = %d, want 1", got)
		}
		busy.Put() // to the address that is gone
		if got := p.Stats().Idle; got != 1 {
			t.Errorf("idle = %d, want 1", got)
		}
		if c := get(t, p); c != stays {
			t.Error("not the connection to the address that stayed")
		}
		get(t, p).Discard()
		stays.Discard()
		if got := n.dials[len(n.dials)-1]; got != "10.0.0.3:80" {
			t.Errorf("dialled %s, want the new address", got)
		}
	})
}

// Between the new answer and the janitor's visit nothing is used either.
func TestGetNeverUsesAnAddressThatIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.set("web.example", "10.0.0.1")
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
		defer p.Release()
		get(t, p).Put()
		p.name.addrs.Store(&addrSet{[]netip.Addr{netip.MustParseAddr("10.0.0.2")}})
		c := get(t, p)
		if c.Reused() || c.dst.addr.String() != "10.0.0.2" {
			t.Errorf("got a connection to %v", c.dst.addr)
		}
		c.Discard()
		checkCounts(t, p)
	})
}

func TestLookupsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.slow(time.Second)
		var pools []*Pool
		tried := 0
		for i := range 200 {
			host := fmt.Sprintf("h%d.example", i)
			z.set(host, "10.0.0.1")
			pools = append(pools, acquire(t, m, store.Backend{Host: host, Port: 80}))
		}
		time.Sleep(time.Second / 2)
		synctest.Wait()
		if n := z.count(); n != maxLookups {
			t.Errorf("lookups at once = %d, want %d", n, maxLookups)
		}
		var waiting sync.WaitGroup
		for _, p := range pools {
			m.names.mu.Lock()
			queued := p.name.index >= 0
			m.names.mu.Unlock()
			if !queued || tried == 20 {
				continue
			}
			tried++
			waiting.Go(func() {
				start := time.Now()
				c, err := p.Get(t.Context(), Request{})
				if err != nil {
					t.Error(err)
					return
				}
				c.Discard()
				if d := time.Since(start); d != 1500*time.Millisecond {
					t.Errorf("a name that a request waits for took %v, want to be next in turn: 1.5s", d)
				}
			})
		}
		waiting.Wait()
		for _, p := range pools {
			p.Release()
		}
	})
}

// A request that waits for a name's first lookup ends when the last definition
// with that name goes, whether the lookup is under way or has not begun.
func TestReleaseEndsTheWaitForALookup(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
		z.slow(time.Second)
		var pools []*Pool
		for i := range maxLookups + 9 {
			pools = append(pools, acquire(t, m, store.Backend{Host: fmt.Sprintf("h%d.example", i), Port: 80}))
		}
		synctest.Wait()
		var waiting sync.WaitGroup
		for _, p := range pools {
			waiting.Go(func() {
				var e *Error
				if _, err := p.Get(t.Context(), Request{}); !errors.As(err, &e) || e.Kind != DNS {
					t.Errorf("Get = %v, want a DNS error", err)
				}
			})
		}
		synctest.Wait()
		start := time.Now()
		for _, p := range pools {
			p.Release()
		}
		waiting.Wait()
		if d := time.Since(start); d != time.Second {
			t.Errorf("waited for %v, want the lookups that were under way only: 1s", d)
		}
	})
}

func TestRunClosesIdleConnectionsAtItsEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		m := New(Config{Dial: n.dial, Resolver: &zone{}, Logger: silent})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		named := acquire(t, m, store.Backend{Host: "web.example", Port: 80})
		a, b := get(t, p), get(t, p)
		a.Put()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
		b.Put()
		get(t, p).Put()
		if s := p.Stats(); s != (Stats{Opened: 3, Closed: 3}) {
			t.Errorf("Stats = %+v", s)
		}
		if _, err := named.Get(t.Context(), Request{}); err == nil {
			t.Error("Get of a name that will never be resolved waits or succeeds")
		}
		p.Release()
		named.Release()
	})
}
