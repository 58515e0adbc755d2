package pool

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
)

// A Target is the one address that a new connection to a backend goes to, for those who
// connect without waiting.
type Target struct {
	target
	set      *addrSet
	prologue []byte
}

// Target returns where to connect to. It does not wait, and ok is false when Open has to
// do it: names without an answer yet, several addresses, a via, what is held down or
// prohibited. The connection that is made of it goes to Connected, and what it failed for
// to ConnectFailed.
func (p *Pool) Target(r Request) (t Target, ok bool) {
	if !canConnect || p.m.config.Dial != nil || p.def.Via != "" || !p.Plain() {
		return Target{}, false
	}
	if t.target, t.set, ok = p.only(); !ok || p.m.held.cause(t.target, p.m.now()) != nil {
		return Target{}, false
	}
	t.prologue = p.def.Preamble
	if v := p.def.ProxyHeader; v != 0 {
		t.prologue = appendProxyHeader(clip(t.prologue), v, r.Client, r.Server)
	}
	return t, true
}

// only returns the address of a definition, if there is but one and it is known.
func (s *shared) only() (t target, set *addrSet, ok bool) {
	switch {
	case s.def.Path != "":
		// Links in paths are for those who may wait for the file system.
		return target{path: s.def.Path}, nil, s.m.config.Rules.PathDir == ""
	case s.name != nil:
		if set = s.name.addrs.Load(); set == nil || len(set.addrs) != 1 {
			return target{}, nil, false
		}
		t.addr = netip.AddrPortFrom(set.addrs[0], s.def.Port)
	default:
		ip, err := netip.ParseAddr(s.def.Host)
		if err != nil {
			return target{}, nil, false
		}
		t.addr = netip.AddrPortFrom(ip.Unmap(), s.def.Port)
	}
	return t, set, t.addr.Addr().Zone() == "" && s.m.config.Rules.Check(t.addr) == nil
}

// Connected returns the Link of a descriptor that is connected to t.
func (p *Pool) Connected(t Target, fd int) *Link {
	p.m.held.clear(t.target)
	l := &Link{FD: fd, pool: p, dst: place{t.addr.Addr(), t.set}, remote: t.addr}
	if len(t.prologue) > 0 {
		l.prologue = t.prologue
	}
	p.mu.Lock()
	p.opened++
	p.active++
	p.mu.Unlock()
	return l
}

// ConnectFailed files that there was no connection, and returns the error that Open
// would have returned. context.DeadlineExceeded stands for one that took too long, and
// context.Canceled for one that was given up, which says nothing of the address.
func (p *Pool) ConnectFailed(t Target, err error) error {
	p.mu.Lock()
	p.failed++
	p.mu.Unlock()
	if errors.Is(err, context.Canceled) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		// What package net says.
		err = &net.OpError{Op: "dial", Net: t.network(), Addr: t, Err: os.ErrDeadlineExceeded}
	}
	return p.m.refused(t.target, err)
}

// Network is that of a net.Addr: "tcp" or "unix".
func (t Target) Network() string { return t.network() }
