package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"roster/store"
)

// stagger is the Connection Attempt Delay of RFC 8305, section 5.
const stagger = 250 * time.Millisecond

// dialer makes plain connections: no keep-alive probes, since every wait has a
// timeout of its own, and no second race of address families.
var dialer = net.Dialer{KeepAlive: -1, FallbackDelay: -1}

var noAddr netip.AddrPort

// A target is one numeric address or one socket, as dialled.
type target struct {
	addr netip.AddrPort
	path string
}

func (t target) network() string {
	if t.path != "" {
		return "unix"
	}
	return "tcp"
}

func (t target) String() string {
	if t.path != "" {
		return t.path
	}
	return t.addr.String()
}

// A place is an address that a connection leads to, and the answer of the
// resolver it was last found in (nil if it was not resolved).
type place struct {
	addr netip.Addr
	set  *addrSet
}

// stillAt tells if n still stands for p. n is nil for what is not a name.
func stillAt(n *name, p *place) bool {
	if n == nil {
		return true
	}
	s := n.addrs.Load()
	if s == p.set {
		return true
	}
	if !s.contains(p.addr) {
		return false
	}
	p.set = s
	return true
}

// acquireName returns the name to resolve for a definition, nil if none.
func (m *Manager) acquireName(def *store.Backend) *name {
	if def.Path != "" {
		return nil
	}
	if _, err := netip.ParseAddr(def.Host); err == nil {
		return nil
	}
	return m.names.acquire(strings.ToLower(def.Host))
}

func (s *shared) releaseNames() {
	if s.name != nil {
		s.m.names.release(s.name)
	}
	if s.extra != nil && s.extra.viaName != nil {
		s.m.names.release(s.extra.viaName)
	}
}

// open dials, and makes what was dialled ready for the request.
func (p *Pool) open(ctx context.Context, r Request, probe bool) (*Conn, error) {
	limited := ctx
	if r.ConnectTimeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, r.ConnectTimeout)
		defer cancel()
	}
	c, err := p.shared.connect(limited, r, probe)
	if err != nil {
		if ctx.Err() != nil && !probe { // of a probe, how far it came is told
			return nil, ctx.Err()
		}
		return nil, err
	}
	return c, nil
}

func (s *shared) connect(ctx context.Context, r Request, probe bool) (*Conn, error) {
	c := &Conn{m: s.m, fd: -1}
	addrs, set, err := s.m.addresses(ctx, s.def, s.name)
	if err != nil {
		return nil, err
	}
	port := s.def.Port
	hop := s.def
	if s.viaDef() != nil {
		// The via is told one address to connect to, the first that may be.
		c.dst = place{addrs[0], set}
		hop = s.viaDef()
		if addrs, set, err = s.m.addresses(ctx, hop, s.extra.viaName); err != nil {
			return nil, err
		}
	}
	targets, err := s.m.targets(hop, addrs)
	if err != nil {
		return nil, err
	}
	socket, t, err := s.m.race(ctx, targets, probe)
	if err != nil {
		return nil, err
	}
	here := place{t.addr.Addr(), set}
	if s.viaDef() != nil {
		c.via = here
	} else {
		c.dst = here
	}
	c.adopt(socket)
	if err := s.prepare(ctx, c, t, netip.AddrPortFrom(c.dst.addr, port), r, probe); err != nil {
		socket.Close()
		return nil, err
	}
	return c, nil
}

func (s *shared) viaDef() *store.Backend {
	if s.extra == nil || s.def.Via == "" {
		return nil
	}
	return s.extra.deps.Via
}

// adopt makes socket the connection below c.
func (c *Conn) adopt(socket net.Conn) {
	c.Conn, c.socket = socket, socket
	if sc, ok := socket.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			c.raw = raw
			raw.Control(func(fd uintptr) { c.fd = int(fd) })
		}
	}
}

// addresses returns where a definition's host is, those where it may be; none
// for a path.
func (m *Manager) addresses(ctx context.Context, def *store.Backend, n *name) ([]netip.Addr, *addrSet, error) {
	if def.Path != "" {
		return nil, nil, nil
	}
	var set *addrSet
	var all []netip.Addr
	if n == nil {
		ip, err := netip.ParseAddr(def.Host)
		if err != nil {
			return nil, nil, &Error{Kind: DNS, Stage: Resolve, Addr: def.Host, Err: err}
		}
		all = []netip.Addr{ip.Unmap()}
	} else {
		var err error
		if set, err = m.names.get(ctx, n); err != nil {
			return nil, nil, &Error{Kind: DNS, Stage: Resolve, Addr: n.host, Err: err}
		}
		all = set.addrs
	}
	var refusal error
	refused := func(ip netip.Addr) bool {
		err := m.config.Rules.Check(netip.AddrPortFrom(ip, def.Port))
		if err != nil && refusal == nil {
			refusal = err
		}
		return err != nil
	}
	if slices.ContainsFunc(all, refused) {
		if all = slices.DeleteFunc(slices.Clone(all), refused); len(all) == 0 {
			return nil, nil, &Error{Kind: Prohibited, Stage: Connect, Addr: def.Host, Err: refusal}
		}
	}
	return all, set, nil
}

// targets returns what to dial for a definition at addrs, in the order to try.
func (m *Manager) targets(def *store.Backend, addrs []netip.Addr) ([]target, error) {
	if def.Path != "" {
		path, err := m.config.Rules.CheckPath(def.Path)
		if err != nil {
			return nil, &Error{Kind: Prohibited, Stage: Connect, Addr: def.Path, Err: err}
		}
		return []target{{path: path}}, nil
	}
	targets := make([]target, 0, len(addrs))
	for _, ip := range interleave(addrs) {
		targets = append(targets, target{addr: netip.AddrPortFrom(ip, def.Port)})
	}
	return targets, nil
}

// interleave orders addresses so that families take turns, the first address's
// first (RFC 8305, section 4), keeping the resolver's order within each.
func interleave(addrs []netip.Addr) []netip.Addr {
	if len(addrs) < 3 {
		return addrs
	}
	var first, second []netip.Addr
	for _, ip := range addrs {
		if ip.Is4() == addrs[0].Is4() {
			first = append(first, ip)
		} else {
			second = append(second, ip)
		}
	}
	out := make([]netip.Addr, 0, len(addrs))
	for i := 0; i < len(first) || i < len(second); i++ {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

// race connects to whichever target answers first (RFC 8305): one after the
// other, the next when the last failed or after stagger. Those held down are
// left out, but not for a probe.
func (m *Manager) race(ctx context.Context, targets []target, probe bool) (net.Conn, target, error) {
	var worst failure
	open := targets
	if !probe {
		open = make([]target, 0, len(targets))
		for _, t := range targets {
			if cause := m.held.cause(t, m.now()); cause != nil {
				worst.add(cause)
			} else {
				open = append(open, t)
			}
		}
	}
	switch len(open) {
	case 0:
		return nil, target{}, worst.err
	case 1:
		conn, err := m.dialOne(ctx, open[0])
		if err != nil {
			worst.add(err)
			return nil, target{}, worst.err
		}
		return conn, open[0], nil
	}

	type result struct {
		conn net.Conn
		t    target
		err  *Error
	}
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan result) // unbuffered: a loser sees ctx and closes
	dial := func(t target) {
		conn, err := m.dialOne(ctx, t)
		select {
		case results <- result{conn, t, err}:
		case <-ctx.Done():
			if conn != nil {
				conn.Close()
			}
		}
	}
	defer cancel()
	timer := time.NewTimer(stagger)
	defer timer.Stop()
	running := 0
	next := func() {
		if len(open) > 0 {
			go dial(open[0])
			open = open[1:]
			running++
			timer.Reset(stagger)
		}
	}
	next()
	for running > 0 {
		select {
		case r := <-results:
			running--
			if r.err == nil {
				return r.conn, r.t, nil
			}
			worst.add(r.err)
			next()
		case <-timer.C:
			next()
		case <-ctx.Done():
			worst.add(&Error{Kind: Timeout, Stage: Connect, Addr: targets[0].String(), Err: ctx.Err()})
			return nil, target{}, worst.err
		}
	}
	return nil, target{}, worst.err
}

// A failure is what to say of several: a fault of this machine above all,
// because it must not be blamed on the backend, else the first.
type failure struct{ err *Error }

func (f *failure) add(e *Error) {
	if f.err == nil || e.Kind == Local && f.err.Kind != Local {
		f.err = e
	}
}

// dialOne connects to t and files how that went.
func (m *Manager) dialOne(ctx context.Context, t target) (net.Conn, *Error) {
	conn, err := m.dial(ctx, t)
	if err == nil {
		m.held.clear(t)
		return conn, nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(ctx.Err(), context.Canceled) {
		return nil, connectError(t.String(), err) // given up, so nothing is known of the address
	}
	return nil, m.refused(t, err)
}

// refused files that t could not be connected to.
func (m *Manager) refused(t target, err error) *Error {
	e := connectError(t.String(), err)
	if e.Kind == Local {
		m.localFault(e)
	}
	m.held.set(t, e, m.now())
	m.janitor.wakeBy(tickOf(m.now()) + sweepTicks)
	return e
}

// dialTCP leaves the local port to connect. Dialer.DialTCP would bind the socket
// before, even to no address: a port bound so, or in TIME_WAIT after, is taken for
// all destinations, so that all backends together share some 28,000.
func dialTCP(ctx context.Context, d *net.Dialer, addr netip.AddrPort) (net.Conn, error) {
	return d.DialContext(ctx, "tcp", addr.String())
}

// dialUnix waits while the socket's backlog is full, which a connect to a Unix
// socket, unlike one over TCP, does not do by itself.
func dialUnix(ctx context.Context, path string) (net.Conn, error) {
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if !errors.Is(err, syscall.EAGAIN) {
			return conn, err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, fmt.Errorf("backlog full: %w", ctx.Err())
		}
	}
}
