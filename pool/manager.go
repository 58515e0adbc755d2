package pool

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"roster/store"

	"golang.org/x/sync/errgroup"
)

// Manager owns all pools of a node, and what they share: names, holddowns, the
// clock for idle connections.
type Manager struct {
	config  Config
	start   time.Time // of the clock, see now
	names   *names
	held    holddown
	janitor janitor

	localFaults atomic.Uint64
	localLogged atomic.Int64 // time of the last log line, by now
	mu          sync.Mutex
	byIdentity  map[string]*shared
	lanes       int // made so far
	runEnded    bool
}

// Deps are the definitions that a backend refers to by name.
type Deps struct {
	Via            *store.Backend     // of def.Via
	Certificate    *store.Certificate // of def.TLS.Certificate
	ViaCertificate *store.Certificate // of Via.TLS.Certificate
}

// New returns a Manager without pools. It starts nothing.
func New(c Config) *Manager {
	c = c.withDefaults()
	return &Manager{
		config:     c,
		start:      time.Now().Add(-tick), // so that no time is zero
		names:      newNames(c),
		byIdentity: make(map[string]*shared),
		janitor:    janitor{wake: make(chan struct{}, 1)},
	}
}

// Run resolves names and closes connections that are idle for too long or were
// closed by their backend, until ctx ends; then it closes all idle ones and
// returns nil. Before Run, Get of a backend with a name waits for it.
func (m *Manager) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { m.names.run(ctx); return nil })
	g.Go(func() error { m.janitor.run(ctx, m); return nil })
	err := g.Wait()

	m.mu.Lock()
	m.runEnded = true
	m.mu.Unlock()
	for _, s := range m.all() {
		s.retire()
	}
	return err
}

// all returns what is shared by the pools in use.
func (m *Manager) all() []*shared {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.byIdentity))
}

// Acquire returns the pool for a definition, which must not change any more.
// Pools of the same identity share connections; so acquire for the new
// definition before the release for the old one, or the connections are lost in
// between. The error wraps ErrDangling if deps lacks what def refers to.
func (m *Manager) Acquire(def *store.Backend, deps Deps) (*Pool, error) {
	if err := deps.check(def); err != nil {
		return nil, err
	}
	key := identity(def, deps)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.byIdentity[key]
	if s == nil {
		s = newShared(m, key, def, deps)
		s.retired = m.runEnded
		m.byIdentity[key] = s
	}
	s.refs++
	return &Pool{shared: s, idleTimeout: def.IdleTimeout, noReuse: def.NoReuse}, nil
}

// ForProbes gives pools for Pool.DialProbe alone: nothing is kept in one, and it is
// nobody else's, so that a prober does not keep a backend's connections that is
// gone. What is known of addresses (names, holddowns) they share with all others.
func (m *Manager) ForProbes() ProbePools { return ProbePools{m} }

// ProbePools is what ForProbes returns.
type ProbePools struct{ m *Manager }

// Acquire is as Manager.Acquire.
func (p ProbePools) Acquire(def *store.Backend, deps Deps) (*Pool, error) {
	if err := deps.check(def); err != nil {
		return nil, err
	}
	s := newShared(p.m, "", def, deps)
	s.retired, s.refs = true, 1
	return &Pool{shared: s, noReuse: true}, nil
}

func (d Deps) check(def *store.Backend) error {
	switch {
	case def.None:
		return fmt.Errorf("pool: a none backend has no address")
	case def.Via == "":
	case def.Path != "":
		return fmt.Errorf("pool: a backend with a path cannot have a via")
	case d.Via == nil:
		return fmt.Errorf("pool: via %s: %w", def.Via, ErrDangling)
	case d.Via.Via != "" || d.Via.None:
		return fmt.Errorf("pool: via %s has a via or no address itself: %w", def.Via, ErrDangling)
	case d.Via.TLS != nil && d.Via.TLS.Certificate != "" && d.ViaCertificate == nil:
		return fmt.Errorf("pool: certificate %s of via %s: %w", d.Via.TLS.Certificate, def.Via, ErrDangling)
	}
	if def.TLS != nil && def.TLS.Certificate != "" && d.Certificate == nil {
		return fmt.Errorf("pool: certificate %s: %w", def.TLS.Certificate, ErrDangling)
	}
	return nil
}

// release drops one reference to s; the last one retires it.
func (m *Manager) release(s *shared) {
	m.mu.Lock()
	s.refs--
	last := s.refs == 0
	if last {
		delete(m.byIdentity, s.key)
	}
	m.mu.Unlock()
	if last {
		s.retire()
		s.releaseNames()
	}
}

// Names returns what is known of all host names in use, in no order.
func (m *Manager) Names() []Name { return m.names.list() }

// Pools returns the number of distinct identities in use.
func (m *Manager) Pools() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.byIdentity)
}

// LocalFaults counts dials that failed for this machine's fault.
func (m *Manager) LocalFaults() uint64 { return m.localFaults.Load() }

// now is the Manager's clock: monotonic, cheaper than a time.Time, never zero.
func (m *Manager) now() time.Duration { return time.Since(m.start) }

// localFault counts, and logs at most once a second: without descriptors every
// request would have a line.
func (m *Manager) localFault(e *Error) {
	total := m.localFaults.Add(1)
	now, last := int64(m.now()), m.localLogged.Load()
	if (last == 0 || now-last >= int64(time.Second)) && m.localLogged.CompareAndSwap(last, now) {
		m.config.Logger.Error("cannot connect for a local fault", "address", e.Addr, "error", e.Err, "total", total)
	}
}

// dial is the system's connect, or the test's.
func (m *Manager) dial(ctx context.Context, t target) (net.Conn, error) {
	if m.config.Dial != nil {
		return m.config.Dial(ctx, t.network(), t.String())
	}
	if t.path != "" {
		return dialUnix(ctx, t.path)
	}
	return dialTCP(ctx, &dialer, t.addr)
}
