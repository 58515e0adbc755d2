package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"roster/exchange"
	"roster/pool"
)

// Proxy serves clients. Its methods may be called from any goroutine.
type Proxy struct {
	config     Config
	policy     *exchange.Policy
	start      time.Time     // of the clock, see now
	draining   atomic.Bool   // each answer is the last of its connection
	crowded    atomic.Uint64 // times a listener was full
	ending     atomic.Bool   // so is each wait for a request
	tick       atomic.Int64  // of the watch over clients
	wake       chan struct{} // tells the watch of the first connection
	shards     [shards]shard
	newSession func(*pool.Conn) (pool.Session, error) // startSession

	mu        sync.Mutex
	first     *client // all connections, linked by next and prev
	count     int
	accepted  uint64
	listeners map[*listener]struct{}
	drained   chan struct{} // closed by Drain
	serving   int           // calls of Serve; while there are any, the watch runs
	watching  *sync.WaitGroup
	endWatch  context.CancelFunc
}

// Listener is where clients connect, and how they speak there.
type Listener struct {
	net.Listener
	// TLS is spoken first if it is not nil. NextProtos says what is offered: h2
	// and http/1.1. Without TLS a client may speak HTTP/2 by prior knowledge.
	TLS *tls.Config
	// AcceptProxy are the peers whose connections must begin with a PROXY header;
	// from others it is no request, and answered 400.
	AcceptProxy []netip.Prefix
	// MaxConnections are served at a time; more wait in the system's queue. 0: any
	// number.
	MaxConnections int
}

// listener is one call of Serve.
type listener struct {
	Listener
	parts   sync.WaitGroup // its accept loop and its connections
	slots   chan struct{}  // one for each connection, nil for any number
	full    time.Duration  // when it was last said that there are too many
	aborted chan struct{}  // closed by abort, with Proxy.mu
}

// isAborted is for those with Proxy.mu, or for whom it is enough to know soon.
func (l *listener) isAborted() bool {
	select {
	case <-l.aborted:
		return true
	default:
		return false
	}
}

// New returns a Proxy for a config that is valid. It starts nothing.
func New(c Config) *Proxy {
	c = c.withDefaults()
	p := &Proxy{
		config:    c,
		policy:    exchange.New(c.Exchange),
		start:     c.Start,
		listeners: make(map[*listener]struct{}),
		drained:   make(chan struct{}),
		wake:      make(chan struct{}, 1),
	}
	p.tick.Store(1)
	p.newSession = p.startSession
	return p
}

// Policy is that of the proxy's exchanges.
func (p *Proxy) Policy() *exchange.Policy { return p.policy }

// now is the Proxy's clock: monotonic, never zero.
func (p *Proxy) now() time.Duration { return time.Since(p.start) + 1 }

// Serve accepts connections until ctx ends or Drain is called, and returns when
// all of them have ended: at once in the first case, cutting requests off; after
// their requests in the second. Either way it closes ln and returns nil; another
// error of ln it returns.
func (p *Proxy) Serve(ctx context.Context, ln Listener) error {
	l := &listener{Listener: ln, aborted: make(chan struct{})}
	if ln.MaxConnections > 0 {
		l.slots = make(chan struct{}, ln.MaxConnections)
	}
	l.parts.Add(1)
	defer p.begin(l)()
	if p.isDrained() {
		ln.Close()
		l.parts.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { p.abort(l) })
	err := p.accept(l)
	ln.Close()
	l.parts.Done()
	l.parts.Wait()
	stop()
	if ctx.Err() != nil || p.isDrained() {
		return nil
	}
	return err
}

// begin registers a listener, and returns what takes it off the register.
func (p *Proxy) begin(l *listener) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.listeners[l] = struct{}{}
	if p.serving++; p.serving == 1 {
		var ctx context.Context
		ctx, p.endWatch = context.WithCancel(context.Background())
		p.watching = new(sync.WaitGroup)
		p.watching.Go(func() { p.watch(ctx) })
	}
	return func() {
		p.mu.Lock()
		delete(p.listeners, l)
		p.serving--
		last, cancel, watching := p.serving == 0, p.endWatch, p.watching
		p.mu.Unlock()
		if last {
			cancel()
			watching.Wait()
		}
	}
}

func (p *Proxy) isDrained() bool {
	select {
	case <-p.drained:
		return true
	default:
		return false
	}
}

// accept starts connections until the listener fails for good.
func (p *Proxy) accept(l *listener) error {
	var pause time.Duration
	rounds := 0
	for {
		p.awaitSlot(l)
		called := p.now()
		conn, err := l.Accept()
		if err == nil {
			pause = 0
			go p.open(l, conn).serve()
			continue
		}
		l.freeSlot()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if isTimeout(err) && p.isDrained() {
			// It waited, so the queue was empty, unless the time was up before it looked.
			// Clients that keep coming are not waited for without end.
			if rounds++; p.now()-called > queueTime/4 || rounds > queueRounds || !l.setDeadline() {
				return err
			}
			continue
		}
		var temporary interface{ Temporary() bool }
		if !errors.As(err, &temporary) || !temporary.Temporary() {
			return err
		}
		// No descriptors, mostly: the queue keeps the clients until some end.
		pause = min(max(2*pause, 5*time.Millisecond), time.Second)
		p.config.Logger.Error("accept", "listener", l.Addr(), "error", err, "pause", pause)
		select {
		case <-time.After(pause):
		case <-p.drained:
			return err
		}
	}
}

// awaitSlot takes the place of one more connection, once there is one. A listener
// that ends takes none.
func (p *Proxy) awaitSlot(l *listener) {
	if l.slots == nil {
		return
	}
	select {
	case l.slots <- struct{}{}:
		return
	default:
	}
	p.crowded.Add(1)
	if now := p.now(); l.full == 0 || now-l.full > crowdedPause {
		l.full = now
		p.config.Logger.Warn("as many clients as may be; more wait", "listener", l.Addr(), "connections", cap(l.slots))
	}
	select {
	case l.slots <- struct{}{}:
	case <-l.aborted:
	}
}

// crowdedPause is how often it is logged at most that a listener is full.
const crowdedPause = time.Minute

func (l *listener) freeSlot() {
	if l.slots == nil {
		return
	}
	select {
	case <-l.slots:
	default: // the last wait was given up
	}
}

// open registers a connection.
func (p *Proxy) open(l *listener, conn net.Conn) *client {
	c := &client{p: p, l: l, conn: conn, bare: conn}
	c.ready = c.receive
	c.raw = rawConn(conn)
	c.remote = addrPort(conn.RemoteAddr())
	c.greeting.Store(true)

	l.parts.Add(1)
	p.mu.Lock()
	c.shard = &p.shards[p.accepted%shards]
	p.accepted++
	if c.next = p.first; c.next != nil {
		c.next.prev = c
	}
	p.first = c
	p.count++
	first, late := p.count == 1, l.isAborted()
	p.mu.Unlock()

	c.shard.accepted.Add(1)
	if first {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	if late {
		c.abort()
	}
	return c
}

// closed takes a connection off the register.
func (p *Proxy) closed(c *client) {
	p.mu.Lock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		p.first = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	p.count--
	p.mu.Unlock()
	c.l.freeSlot()
	c.l.parts.Done()
}

// abort ends a listener and its connections at once.
func (p *Proxy) abort(l *listener) {
	l.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !l.isAborted() {
		close(l.aborted)
	}
	for c := p.first; c != nil; c = c.next {
		if c.l == l {
			c.abort()
		}
	}
}

// Retire makes each answer from now on the last of its connection, while new
// connections are still accepted: it gives load balancers time to go elsewhere.
func (p *Proxy) Retire() { p.draining.Store(true) }

// Drain accepts what waits in the listeners' queues, closes them, ends
// connections as soon as they are without a request, and returns when all have
// ended. When ctx ends before, the rest is cut off and ctx's error returned.
// Serve returns too. Calling it again waits again.
func (p *Proxy) Drain(ctx context.Context) error {
	p.Retire()
	p.mu.Lock()
	if !p.isDrained() {
		close(p.drained)
	}
	all := make([]*listener, 0, len(p.listeners))
	for l := range p.listeners {
		all = append(all, l)
	}
	p.mu.Unlock()

	for _, l := range all {
		if !l.setDeadline() {
			l.Close()
		}
	}
	p.ending.Store(true)
	p.mu.Lock()
	for c := p.first; c != nil; c = c.next {
		c.nudge()
	}
	p.mu.Unlock()

	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, l := range all {
			l.parts.Wait()
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		for _, l := range all {
			p.abort(l)
		}
		<-done
		return ctx.Err()
	}
}

// queueTime is for how long there must be nothing to accept for a drained
// listener to close. A connection whose handshake was under way when Drain was
// called is in the queue by then. It closes after queueRounds of them in any case.
const (
	queueTime   = 20 * time.Millisecond
	queueRounds = 25
)

func (l *listener) setDeadline() bool {
	d, ok := l.Listener.Listener.(interface{ SetDeadline(time.Time) error })
	return ok && d.SetDeadline(time.Now().Add(queueTime)) == nil
}

// addrPort is a TCP address, or the zero AddrPort for others.
func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
