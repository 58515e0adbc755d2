package pool

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"roster/store"
)

// Pool is one definition's view of the connections to its address. What it adds
// to them is the definition's own: how long they may be idle, whether they may
// be reused.
type Pool struct {
	*shared
	idleTimeout time.Duration // 0: none
	noReuse     bool
	draining    atomic.Bool
	released    atomic.Bool
}

// shared is what all pools of one identity share. At rest, with no connection
// ever made, it must be small: there may be 100,000.
type shared struct {
	m     *Manager
	key   string
	def   *store.Backend // of the first to acquire; what is used of it is in the identity
	name  *name          // of def.Host, nil if it is an address or a path
	extra *extra         // nil for most
	refs  int32          // of m.mu

	retired                bool // of mu: nothing is kept any more
	mu                     sync.Mutex
	newest, oldest         *Conn // idle, linked by older and newer
	idle, active           int32
	visit                  int64 // tick at which the janitor comes, 0: not registered
	opened, reused, closed uint64
	failed                 uint64

	sessions atomic.Pointer[sessions] // nil until one is asked for
	lanes    atomic.Pointer[[]*links] // by the index of their Lane, nil until one has any
}

// extra is what only some pools have.
type extra struct {
	deps    Deps
	viaName *name
	tls     lazyTLS
	viaTLS  lazyTLS
}

// Request says what a connection is wanted for. The zero Request is usable.
type Request struct {
	// ConnectTimeout bounds the time to a usable connection: name (if it was
	// never resolved), all addresses, TLS. Zero means no limit.
	ConnectTimeout time.Duration
	// Fresh asks for a new connection, after a reused one failed; see GetSession
	// for what is a new session.
	Fresh bool
	// Unchecked leaves the look at a reused connection to RoundTrip, which then
	// must be the first use of it.
	Unchecked bool
	// Client and Server are the two ends that a PROXY header names. If either
	// is not valid, as for a client on a socket, the header says UNKNOWN.
	Client, Server netip.AddrPort
}

// Stats is a pool's state at one moment. Pools of one identity have the same.
// Opened - Closed == Active + Idle. A session is one connection.
type Stats struct {
	Active int // in somebody's hands; sessions with an exchange
	Idle   int
	Opened uint64 // connections made, those of probes excepted
	Closed uint64
	Reused uint64 // times Get returned an idle one, GetSession one that was there
	Failed uint64 // times either returned an error
}

func newShared(m *Manager, key string, def *store.Backend, deps Deps) *shared {
	s := &shared{m: m, key: key, def: def, name: m.acquireName(def)}
	if def.TLS != nil || def.Via != "" {
		s.extra = &extra{deps: deps}
		if def.Via != "" {
			s.extra.viaName = m.acquireName(deps.Via)
		}
	}
	return s
}

// Release ends the use of p. After the last one of an identity the idle
// connections are closed, others when they are put back, and sessions with their
// last exchange. Get and GetSession still work: requests may hold an older table.
// Releasing twice panics.
func (p *Pool) Release() {
	if p.released.Swap(true) {
		panic("pool: released twice")
	}
	p.m.release(p.shared)
}

// Drain sets whether connections are closed as they come back to p. It also
// closes those idle now, its identity's others' too, and lets sessions end with
// the exchanges that they have.
func (p *Pool) Drain(on bool) {
	p.draining.Store(on)
	if on {
		closeAll(p.takeAll())
		p.endLinks(false)
		p.dismissAll()
	}
}

// Get returns the most recently used idle connection, or a new one. Errors are
// *Error, or ctx's own. The caller must end it by Put or Discard.
func (p *Pool) Get(ctx context.Context, r Request) (*Conn, error) {
	if !r.Fresh && !p.noReuse {
		if c := p.reuse(p, r.Unchecked); c != nil {
			return c, nil
		}
	}
	c, err := p.open(ctx, r, false)
	if err != nil {
		p.mu.Lock()
		p.failed++
		p.mu.Unlock()
		return nil, err
	}
	c.pool = p
	p.mu.Lock()
	p.opened++
	p.active++
	p.mu.Unlock()
	return c, nil
}

// DialProbe returns a new connection for a probe, ctx being its only limit in
// time. It is dialled although the address be held down, and ends the holddown
// if it succeeds. Its PROXY header is the one of a probe (version 1: its own
// address at both ends; version 2: LOCAL). It counts nowhere, and Put closes it.
func (p *Pool) DialProbe(ctx context.Context) (*Conn, error) {
	return p.open(ctx, Request{}, true)
}

// Stats returns counts that belong together.
func (p *Pool) Stats() Stats {
	s := p.shared
	s.mu.Lock()
	stats := Stats{
		Active: int(s.active), Idle: int(s.idle),
		Opened: s.opened, Closed: s.closed, Reused: s.reused, Failed: s.failed,
	}
	s.addLinksLocked(&stats)
	sessions := s.sessionsLocked()
	s.mu.Unlock()
	for _, x := range sessions {
		if x.Active() > 0 {
			stats.Active++
		} else {
			stats.Idle++
		}
	}
	if all := s.sessions.Load(); all != nil {
		stats.Reused += all.reused.Load()
	}
	return stats
}
