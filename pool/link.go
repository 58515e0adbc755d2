package pool

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"roster/store"
)

// A Link is a plain connection (TCP or Unix) by its descriptor, for those who wait for
// sockets by themselves: the runtime's poller does not know it. Whoever got it owns it
// until Put (reusable) or Discard (not). It never closes its descriptor: its owner does,
// and for an idle one the Lane's close.
type Link struct {
	FD    int // non-blocking, closed on exec
	Owner any // whatever the owner needs with it; it is kept while the Link is idle

	pool     *Pool
	from     *Lane
	dst, via place
	remote   netip.AddrPort
	prologue []byte
	reused   bool
	stolen   bool
	closed   bool

	at           atomic.Pointer[links] // where it is idle, nil if it is in use
	newer, older *Link                 // of at's mu, as is expires
	expires      time.Duration         // while idle, by the Manager's clock; 0: never
}

var (
	errNotPlain     = errors.New("pool: no Link over TLS or for HTTP/2")
	errNoDescriptor = errors.New("pool: the connection has no descriptor")
)

// Plain tells if p's connections can be Links: HTTP/1 without TLS on the way.
func (p *Pool) Plain() bool {
	if via := p.viaDef(); via != nil && via.TLS != nil {
		return false
	}
	return p.def.TLS == nil && p.def.Protocol == store.HTTP1
}

// Open dials as Get does, and returns the connection as a Link. It waits, so it is not
// for the thread of a Lane. Errors are Get's, and one of no kind if p is not Plain.
func (p *Pool) Open(ctx context.Context, r Request) (*Link, error) {
	l, err := p.openLink(ctx, r)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.failed++
		return nil, err
	}
	p.opened++
	p.active++
	return l, nil
}

func (p *Pool) openLink(ctx context.Context, r Request) (*Link, error) {
	if !p.Plain() {
		return nil, errNotPlain
	}
	c, err := p.open(ctx, r, false)
	if err != nil {
		return nil, err
	}
	defer c.socket.Close() // the descriptor's copy keeps the connection
	if c.raw == nil {
		return nil, errNoDescriptor
	}
	fd, err := -1, error(nil)
	if failed := c.raw.Control(func(from uintptr) { fd, err = duplicate(from) }); failed != nil {
		err = failed
	}
	if err != nil {
		e := &Error{Kind: Local, Stage: Connect, Addr: p.endpoint(), Err: err}
		p.m.localFault(e)
		return nil, e
	}
	return &Link{
		FD: fd, pool: p, dst: c.dst, via: c.via, prologue: c.prologue,
		remote: addrPort(c.socket.RemoteAddr()),
	}, nil
}

// Reused tells if the connection carried a request before; see Conn.Reused.
func (l *Link) Reused() bool { return l.reused }

// From returns the Lane that Idle took it from, nil if it is new.
func (l *Link) From() *Lane { return l.from }

// Stolen tells if Idle took it from another Lane than the one it was called for, so that
// it has to be moved from one thread to the other.
func (l *Link) Stolen() bool { return l.stolen }

// Remote returns the address it is connected to, that of the via if there is one; the
// zero AddrPort for a socket in the file system.
func (l *Link) Remote() netip.AddrPort { return l.remote }

// Prologue returns what TakePrologue will.
func (l *Link) Prologue() []byte { return l.prologue }

// TakePrologue is as Conn.TakePrologue.
func (l *Link) TakePrologue() []byte {
	b := l.prologue
	l.prologue = nil
	return b
}

// Put makes the Link available to others by way of a Lane. If it is false, the Link is
// not kept, and the caller closes it; that neither side owes the other anything, so a
// reset spares the local port (see Conn).
func (l *Link) Put(ln *Lane) bool {
	if l.closed || l.at.Load() != nil {
		panic("pool: Put of a Link that is not in use")
	}
	p := l.pool
	if l.prologue == nil && !p.noReuse && p.def.ProxyHeader == 0 && l.current() && p.linksOf(ln).put(l) {
		return true
	}
	l.Discard()
	return false
}

// Discard ends the use of the Link: the caller closes it. What was ended before stays so.
func (l *Link) Discard() {
	if l.at.Load() != nil {
		panic("pool: Discard of a Link that was put back")
	}
	if l.closed {
		return
	}
	l.closed = true
	s := l.pool.shared
	s.mu.Lock()
	s.active--
	s.closed++
	s.mu.Unlock()
}

// TakeIdle takes the Link, in which something happened while it was idle, from the Lane,
// and the caller closes it. It is false if the Link is not idle there any more: somebody
// else has it, or is to close it.
func (l *Link) TakeIdle(ln *Lane) bool {
	x := l.at.Load()
	return x != nil && x.lane == ln && x.remove(l)
}

// current tells if l leads to an address that its host still has.
func (l *Link) current() bool {
	s := l.pool.shared
	return stillAt(s.name, &l.dst) && (s.extra == nil || stillAt(s.extra.viaName, &l.via))
}

// fit tells if an idle l may be used at all.
func (l *Link) fit(now time.Duration) bool {
	return (l.expires == 0 || now < l.expires) && l.current()
}
