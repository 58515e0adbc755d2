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
	workers   []*worker // started with the first listener that they serve
}

// Listener is where clients connect, and how they speak there.
type Listener struct {
	// Listener is where to accept, unless there are Sockets.
	net.Listener
	// Others are further sockets of the same address.
	Others []net.Listener
	// Sockets are listening sockets of one address that loops serve, see Config.Loops: then
	// there is no Listener. Not with TLS.
	Sockets []Socket
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

// Socket is a listening socket that Go's runtime does not watch.
type Socket interface {
	// FD is its descriptor, which stays the socket's.
	FD() (int, error)
	Addr() net.Addr
	Close() error
}

// listener is one call of Serve.
type listener struct {
	Listener
	p       *Proxy
	name    string
	parts   sync.WaitGroup // its accept loops and its connections
	slots   chan struct{}  // one for each connection, nil for any number
	workers []*worker      // that serve Sockets
	waiting atomic.Int32   // ears that wait for a slot
	full    atomic.Int64   // when it was last said that there are too many
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
// error of ln it returns, when that is so for all of its sockets.
func (p *Proxy) Serve(ctx context.Context, ln Listener) error {
	l := &listener{Listener: ln, p: p, aborted: make(chan struct{})}
	if ln.MaxConnections > 0 {
		l.slots = make(chan struct{}, ln.MaxConnections)
	}
	l.name = ln.Address().String()
	l.parts.Add(1)
	defer p.begin(l)()
	if p.isDrained() {
		l.Close()
		l.parts.Done()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { p.abort(l) })
	var err error
	if len(l.Sockets) > 0 {
		err = p.listen(l)
	} else {
		err = p.acceptAll(l)
	}
	l.parts.Done()
	l.parts.Wait()
	stop()
	if ctx.Err() != nil || p.isDrained() {
		return nil
	}
	return err
}

// acceptAll accepts from all sockets until one fails for good, or all are drained.
func (p *Proxy) acceptAll(l *listener) error {
	ends := make(chan error)
	for _, socket := range l.sockets() {
		go func() { ends <- p.accept(l, socket) }()
	}
	err := <-ends
	if !p.isDrained() {
		l.Close() // the others go with it
	}
	for range l.Others {
		<-ends
	}
	return err
}

// listen has the loops accept: each from sockets of its own, or together with others where
// there are fewer.
func (p *Proxy) listen(l *listener) error {
	workers, err := p.startWorkers()
	if err != nil {
		l.Close()
		return err
	}
	l.workers = workers
	all := make([]*watched, len(l.Sockets))
	for i, s := range l.Sockets {
		fd, err := s.FD()
		if err != nil {
			l.Close()
			return err
		}
		all[i] = &watched{Socket: s, fd: fd}
	}
	parts := max(len(workers), len(all))
	began := make(chan error, parts)
	for i := range parts {
		w, s := workers[i%len(workers)], all[i%len(all)]
		l.parts.Add(1)
		s.ears.Add(1)
		w.loop.Post(func() { began <- w.listen(l, s, len(all) < len(workers)) })
	}
	for range parts {
		if failed := <-began; failed != nil {
			err = failed
			p.abort(l)
		}
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
		var workers []*worker
		if last {
			workers, p.workers = p.workers, nil
		}
		p.mu.Unlock()
		if last {
			cancel()
			watching.Wait()
		}
		for _, w := range workers {
			w.stop()
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

// Close closes all sockets.
func (l *Listener) Close() error {
	var errs []error
	for _, s := range l.Sockets {
		errs = append(errs, s.Close())
	}
	for _, socket := range l.sockets() {
		errs = append(errs, socket.Close())
	}
	return errors.Join(errs...)
}

// Address is where clients connect.
func (l *Listener) Address() net.Addr {
	if len(l.Sockets) > 0 {
		return l.Sockets[0].Addr()
	}
	return l.Addr()
}

func (l *Listener) sockets() []net.Listener {
	if l.Listener == nil {
		return nil
	}
	return append([]net.Listener{l.Listener}, l.Others...)
}

// accept starts connections until a socket fails for good, and closes it.
func (p *Proxy) accept(l *listener, socket net.Listener) error {
	defer socket.Close()
	var pause time.Duration
	rounds := 0
	// Of several sockets each takes a place only for whom it has, or one that waits would
	// keep it from another.
	alone := len(l.Others) == 0
	for {
		if alone {
			p.awaitSlot(l)
		}
		called := p.now()
		conn, err := socket.Accept()
		if err == nil {
			pause = 0
			if !alone {
				p.awaitSlot(l)
			}
			go p.open(l, conn).serve()
			continue
		}
		if alone {
			l.freeSlot()
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if isTimeout(err) && p.isDrained() {
			// It waited, so the queue was empty, unless the time was up before it looked.
			// Clients that keep coming are not waited for without end.
			if rounds++; p.now()-called > queueTime/4 || rounds > queueRounds || !setDeadline(socket) {
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
		p.config.Logger.Error("accept", "listener", l.name, "error", err, "pause", pause)
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
	if l.takeSlot() {
		return
	}
	l.noteFull()
	select {
	case l.slots <- struct{}{}:
	case <-l.aborted:
	}
}

// takeSlot takes the place of one more connection, if there is one.
func (l *listener) takeSlot() bool {
	if l.slots == nil {
		return true
	}
	select {
	case l.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// noteFull counts, and logs now and then, that there is none.
func (l *listener) noteFull() {
	l.p.crowded.Add(1)
	now, last := int64(l.p.now()), l.full.Load()
	if (last == 0 || now-last > int64(crowdedPause)) && l.full.CompareAndSwap(last, now) {
		l.p.config.Logger.Warn("as many clients as may be; more wait", "listener", l.name, "connections", cap(l.slots))
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
	if l.waiting.Load() > 0 {
		l.wakeEars()
	}
}

// wakeEars has the loops that wait for a slot look again.
func (l *listener) wakeEars() {
	if l.waiting.Swap(0) == 0 {
		return
	}
	for _, w := range l.workers {
		w.loop.Post(func() {
			for _, e := range w.ears {
				if e.l == l {
					e.resume()
				}
			}
		})
	}
}

// post has f run on all loops.
func (p *Proxy) post(f func(*worker)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		w.loop.Post(func() { f(w) })
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
	p.mu.Unlock()
	c.shard.accepted.Add(1)
	p.adopt(c)
	return c
}

// adopt registers a connection that a goroutine serves.
func (p *Proxy) adopt(c *client) {
	p.mu.Lock()
	if c.next = p.first; c.next != nil {
		c.next.prev = c
	}
	p.first = c
	p.count++
	first, late := p.count == 1, c.l.isAborted()
	p.mu.Unlock()
	if first {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	if late {
		c.abort()
	}
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
	if len(l.Sockets) == 0 {
		l.Close()
	}
	defer p.post(func(w *worker) { w.abort(l) })
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
// ended. When ctx ends before, the rest is cut off and, if there was a connection, ctx's error
// returned.
// Serve returns too. Calling it again waits again.
func (p *Proxy) Drain(ctx context.Context) error { return p.DrainAfter(ctx, 0) }

// DrainAfter is Drain with patience for connections without a request: for that long
// they are kept, to answer one more and say with it that it was the last, as with HAProxy's
// idle-close-on-response. For a client's request may cross with the end of its
// connection, and not every client sends it again.
func (p *Proxy) DrainAfter(ctx context.Context, patience time.Duration) error {
	p.Retire()
	p.mu.Lock()
	if !p.isDrained() {
		close(p.drained)
	}
	all := make([]*listener, 0, len(p.listeners))
	for l := range p.listeners {
		all = append(all, l)
	}
	for c := p.first; c != nil; c = c.next {
		if h := c.http2.Load(); h != nil {
			h.GoAway() // after which no request is lost
		}
	}
	p.mu.Unlock()

	for _, l := range all {
		for _, socket := range l.sockets() {
			if !setDeadline(socket) {
				socket.Close()
			}
		}
	}
	p.post((*worker).drain)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, l := range all {
			l.parts.Wait()
		}
	}()
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-done:
		case <-ctx.Done():
		}
	}
	p.ending.Store(true)
	p.post((*worker).endIdle)
	p.mu.Lock()
	for c := p.first; c != nil; c = c.next {
		c.nudge()
	}
	p.mu.Unlock()

	select {
	case <-done:
		return nil
	case <-ctx.Done():
		left := p.Stats().Connections
		for _, l := range all {
			p.abort(l)
		}
		if <-done; left == 0 {
			return nil // only listeners were left, waiting for who might be in their queues
		}
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

func setDeadline(socket net.Listener) bool {
	d, ok := socket.(interface{ SetDeadline(time.Time) error })
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
