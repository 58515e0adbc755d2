package storetest

import (
	"net"
	"sync"
	"testing"
)

// A Proxy stands between clients and one address, and can be cut: the network
// between them, at their mercy.
type Proxy struct {
	target   string
	listener net.Listener

	mu    sync.Mutex
	state state
	heal  chan struct{} // closed when the state is no longer swallow or mute
	conns map[net.Conn]struct{}
}

type state int

const (
	open    state = iota
	cut           // connections are reset, new ones at once
	swallow       // connections stand, nothing passes
	mute          // connections stand, nothing passes to clients
	closed
)

// NewProxy starts a proxy to a member's address, or any other. It ends with t.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("storetest: %v", err)
	}
	p := &Proxy{target: target, listener: l, heal: make(chan struct{}), conns: make(map[net.Conn]struct{})}
	close(p.heal)
	var done sync.WaitGroup
	done.Go(func() { p.accept(&done) })
	t.Cleanup(func() {
		l.Close()
		p.set(closed)
		done.Wait()
	})
	return p
}

// Address is the proxy's own, host and port.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Endpoint is Address as a client URL.
func (p *Proxy) Endpoint() string { return "http://" + p.Address() }

// Cut resets all connections, and new ones as they come, until Heal.
func (p *Proxy) Cut() { p.set(cut) }

// Blackhole lets nothing through, in either direction, until Heal. Connections
// stand and new ones are accepted, so nobody is told; bytes sent meanwhile
// arrive afterwards, as TCP would have it after a partition.
func (p *Proxy) Blackhole() { p.set(swallow) }

// Mute lets requests through and holds the answers back until Heal.
func (p *Proxy) Mute() { p.set(mute) }

// Heal undoes Cut, Blackhole and Mute.
func (p *Proxy) Heal() { p.set(open) }

func (p *Proxy) set(s state) {
	p.mu.Lock()
	defer p.mu.Unlock()
	holds := func(s state) bool { return s == swallow || s == mute }
	if holds(p.state) {
		close(p.heal)
	}
	if holds(s) {
		p.heal = make(chan struct{})
	}
	p.state = s
	if s == cut || s == closed {
		for c := range p.conns {
			reset(c)
		}
		clear(p.conns)
	}
}

// wait returns once bytes may pass, to the client or from it, or false if they
// never will.
func (p *Proxy) wait(toClient bool) bool {
	for {
		p.mu.Lock()
		s, heal := p.state, p.heal
		p.mu.Unlock()
		switch {
		case s == open || s == mute && !toClient:
			return true
		case s == swallow || s == mute:
			<-heal
		default:
			return false
		}
	}
}

// keep makes c one of the connections that a cut resets; false if it is cut.
func (p *Proxy) keep(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == cut || p.state == closed {
		reset(c)
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(p.conns, c)
	}
}

func (p *Proxy) accept(done *sync.WaitGroup) {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		if p.keep(client) {
			done.Go(func() { p.serve(client) })
		}
	}
}

func (p *Proxy) serve(client net.Conn) {
	defer p.drop(client)
	if !p.wait(false) {
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		reset(client)
		return
	}
	if !p.keep(server) {
		return
	}
	defer p.drop(server)
	var back sync.WaitGroup
	back.Go(func() { p.pipe(client, server, true) })
	p.pipe(server, client, false)
	back.Wait()
}

// pipe copies until either side ends, and then ends both.
func (p *Proxy) pipe(dst, src net.Conn, toClient bool) {
	defer p.drop(dst, src)
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if !p.wait(toClient) {
			return
		}
		if _, werr := dst.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// reset closes so that the peer reads "connection reset" and not a polite end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	c.Close()
}
