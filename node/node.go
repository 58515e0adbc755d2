// Package node is one proxy node: it follows a prefix of etcd, keeps a table of
// what is there, and serves clients by it.
//
// It joins the rooms below and owns what they share: the listeners, the table,
// the order in which things start and end. A definition's way through it is
// watcher, then [table.Applier], then one atomic pointer that the proxy loads
// once per request.
package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"roster/node/accesslog"
	"roster/node/admin"
	"roster/node/certs"
	"roster/node/guard"
	"roster/node/presence"
	"roster/node/proxy"
	"roster/node/snapshot"
	"roster/node/table"
	"roster/node/tracing"
	"roster/pool"
	"roster/prober"
	"roster/store"
	"roster/store/embedded"
	"roster/watcher"
)

// firstPresence is how long the first attempt to write presence may hold up the node's
// first list, where etcd is slow, or is not there.
const firstPresence = 2 * time.Second

// heldNames is how many of the backends held the log names.
const heldNames = 10

// worthALine is how many definitions deleted at once are worth a line of the log.
const worthALine = 10

// Node is one proxy node. Use New.
type Node struct {
	config   Config
	store    *store.Store
	watcher  *watcher.Watcher
	pools    *pool.Manager
	probers  *prober.Manager
	applier  *table.Applier
	proxy    *proxy.Proxy
	certs    *certs.Set                    // of listeners with TLS; nil without any
	log      atomic.Pointer[accesslog.Log] // nil for none
	tracer   *tracing.Tracer               // nil for none
	serving  []net.Addr                    // where clients are listened for
	admin    net.Addr                      // nil for none
	peers    *peers                        // nil: this node and others do not speak
	read     chan struct{}                 // closed once the first definitions are read
	applied  chan struct{}                 // closed once the first table is there
	ready    chan struct{}                 // closed once its probes have answered, too
	guard    *guard.Guard                  // nil: nothing is held
	health   *healthLog
	events   admin.Events
	draining atomic.Bool
	newTable atomic.Pointer[chan struct{}] // closed with the next table

	secretNeeded chan struct{}          // holds one value
	noSecret     atomic.Pointer[string] // why there is none
	started      time.Time
	presence     *presence.Keeper
	drains       drains
	listed       atomic.Int64 // revision of the newest list that is applied
	saidHeld     int          // how many held backends the log told of last; for apply alone
	snapshots    *snapshot.Writer
	picture      atomic.Pointer[snapshot.Picture] // that the node started from; nil for none
	turn         turn

	applySeconds prometheus.Histogram
}

// New checks the configuration. It starts nothing.
func New(c Config) (*Node, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	n := &Node{config: c.withDefaults(), started: time.Now(), read: make(chan struct{}), applied: make(chan struct{}), ready: make(chan struct{}), turn: newTurn(), secretNeeded: make(chan struct{}, 1), applySeconds: newApplySeconds()}
	n.announceTable()
	return n, nil
}

// Run serves until ctx ends and then drains: the node is not ready, after
// DrainDelay it stops to accept, and requests in flight have DrainTimeout to
// finish. It returns nil after that, or why it could not go on. Call it once.
func (n *Node) Run(ctx context.Context) error {
	log := n.config.Logger
	if err := n.open(); err != nil {
		return err
	}
	defer n.config.Sockets.Close()
	listeners, err := n.listen()
	if err != nil {
		return err
	}
	for _, l := range listeners {
		n.serving = append(n.serving, l.Address())
	}
	if n.config.Predecessor == nil {
		close(n.turn.here)
	}
	n.notify("STATUS=waiting for the definitions in etcd, and for the first answers of probes")
	var adminListener net.Listener
	if n.config.Admin != "" {
		if adminListener, err = n.listenOne(n.config.Admin); err != nil {
			return fmt.Errorf("node: admin: %w", err)
		}
	}
	if n.peers, err = n.openPeers(); err != nil {
		return err
	}
	defer n.peers.close()
	switch closed, err := n.config.Sockets.Leftover(); {
	case err != nil:
		return fmt.Errorf("node: %w", err)
	case len(closed) > 0:
		log.Info("no longer listened on", "addresses", closed)
	}

	own := n.peers.own() // where no backend may point
	if adminListener != nil {
		n.admin = adminListener.Addr()
		own = append(own, n.admin.(*net.TCPAddr).AddrPort())
	}
	var etcdFailed <-chan error
	if n.config.Embedded != nil {
		log.Info("starting embedded etcd", "data", n.config.Embedded.Dir)
		etcd, err := embedded.Start(ctx, *n.config.Embedded)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("node: %w", err)
		}
		defer etcd.Close()
		etcdFailed = etcd.Err()
		own = append(own, etcd.Addresses()...)
		n.config.Store.Endpoints = []string{etcd.Endpoint()}
		log.Info("embedded etcd is ready", "endpoint", etcd.Endpoint())
	}
	n.peers.advertise(&n.config)
	if err := n.build(own); err != nil {
		return err
	}
	defer n.store.Close()

	// What is below the proxy outlives it, so that requests in flight finish, and
	// their lines are written.
	below, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	ctx, superseded := context.WithCancel(ctx)
	defer superseded()
	g, gctx := errgroup.WithContext(below)
	g.Go(func() error { return n.presence.Run(gctx) })
	g.Go(func() error { return n.watch(gctx) })
	g.Go(func() error { return n.pools.Run(gctx) })
	g.Go(func() error { return n.probers.Run(gctx) })
	g.Go(func() error { return n.health.run(gctx) })
	g.Go(func() error { return n.ask(gctx) })
	g.Go(func() error { return n.applyAndKeep(gctx) })
	g.Go(func() error { return n.applier.Run(gctx) })
	g.Go(func() error { return n.makeSecret(gctx) })
	if n.certs != nil {
		g.Go(func() error { return n.certs.Run(gctx) })
	}
	if accessLog := n.log.Load(); accessLog != nil {
		g.Go(func() error { return accessLog.Run(gctx) })
	}
	if n.tracer != nil {
		g.Go(func() error { return n.tracer.Run(gctx) })
	}
	if adminListener != nil {
		server := &admin.Server{Node: n, Access: n.config.AdminAccess, Metrics: n.metrics(), Events: &n.events, Store: n.store, Logger: log,
			Members: n.store, Traffic: n.traffic, HeldSince: n.guard.Since,
			Policy: n.proxy.Policy(), Start: n.applier.Start(), Retire: n.turn.over}
		g.Go(func() error {
			select {
			case <-n.turn.here:
				return server.Serve(gctx, adminListener)
			case <-gctx.Done():
				return nil
			}
		})
	}
	if n.peers != nil {
		g.Go(func() error { return n.tellPeers(gctx) })
		g.Go(func() error { return n.peers.credentials.Run(gctx) })
	}
	g.Go(func() error { return n.upgrade(ctx, superseded) })
	g.Go(func() error {
		defer stop()
		return n.serve(ctx, gctx, listeners)
	})
	if etcdFailed != nil {
		g.Go(func() error {
			select {
			case err := <-etcdFailed:
				log.Error("the embedded etcd has failed; serving on with the definitions of now, start the node again", "error", err)
			case <-gctx.Done():
			}
			return nil
		})
	}
	err = g.Wait()
	log.Info("stopped")
	return err
}

// open makes what the node has of files.
func (n *Node) open() (err error) {
	c := &n.config
	if c.hasTLS() {
		c.Certificates.Logger = c.Logger
		if n.certs, err = certs.New(c.Certificates); err != nil {
			return fmt.Errorf("node: %w", err)
		}
	}
	if c.AccessLog.Format != "" {
		c.AccessLog.Logger = c.Logger
		log, err := accesslog.New(c.AccessLog)
		if err != nil {
			return fmt.Errorf("node: %w", err)
		}
		n.log.Store(log)
	}
	if c.Tracing.Enabled() {
		c.Tracing.Node, c.Tracing.Version, c.Tracing.Logger = c.ID, c.Version, c.Logger
		if n.tracer, err = tracing.New(c.Tracing); err != nil {
			return fmt.Errorf("node: %w", err)
		}
	}
	return nil
}

// listen opens all listeners, or takes those that were given to this process.
func (n *Node) listen() (all []proxy.Listener, err error) {
	for _, address := range n.config.Listen {
		e, err := parseEndpoint(address)
		if err != nil {
			return nil, fmt.Errorf("node: listen: %w", err)
		}
		l := proxy.Listener{AcceptProxy: n.config.AcceptProxy, MaxConnections: n.config.MaxConnections}
		if e.tls {
			l.TLS = n.certs.TLS()
		}
		evented := !e.tls && n.config.Loops > 0
		count := 1
		if evented {
			count = n.config.Loops
		}
		opened, err := n.config.Sockets.Listen(e.network, e.address, count)
		if err != nil {
			return nil, fmt.Errorf("node: listen: %w", err)
		}
		for _, socket := range opened.Sockets {
			if evented {
				l.Sockets = append(l.Sockets, socket)
				continue
			}
			ln, err := socket.Listener()
			if err != nil {
				return nil, fmt.Errorf("node: listen: %w", err)
			}
			if l.Listener == nil {
				l.Listener = ln
			} else {
				l.Others = append(l.Others, ln)
			}
		}
		all = append(all, l)
	}
	return all, nil
}

// listenOne is for listeners that are not for clients.
func (n *Node) listenOne(address string) (net.Listener, error) {
	opened, err := n.config.Sockets.Listen("tcp", address, 1)
	if err != nil {
		return nil, err
	}
	if len(opened.Sockets) > 1 {
		return nil, fmt.Errorf("%s was inherited as %d sockets, want one", address, len(opened.Sockets))
	}
	return opened.Sockets[0].Listener()
}

// build makes the parts, now that every address is known.
func (n *Node) build(own []netip.AddrPort) (err error) {
	c := &n.config
	c.Store.Logger = c.Logger
	if n.store, err = store.Open(c.Store); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	rules := c.Destinations
	rules.Self = slices.Concat(rules.Self, own)
	watching := watcher.Config{
		Store: n.store, UnknownFields: c.UnknownFields, Logger: c.Logger,
		Changed: func() { n.presence.Changed() }, // n.watcher does not run before there is n.presence
	}
	if c.Snapshot != "" {
		watching.Values, watching.Saved, watching.SavedAfter = true, n.readSnapshot, c.SnapshotAfter
	}
	if n.watcher, err = watcher.New(watching); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	n.presence = presence.New(presence.Config{Store: n.store, Node: c.ID, State: n.present, Logger: c.Logger})
	n.pools = pool.New(pool.Config{DNSInterval: c.DNSInterval, Rules: rules, Logger: c.Logger})
	n.probers = prober.New(prober.Config{Pools: n.pools.ForProbes(), Node: c.ID, Logger: c.Logger})
	n.health = newHealthLog(c.Logger)
	n.applier = table.NewApplier(n.pools)
	if c.Guard > 0 {
		n.guard = guard.New(c.Guard)
	}
	if c.Snapshot != "" {
		n.snapshots = n.newSnapshots()
	}
	n.applier.Probe(n.probers, func(t prober.Transition) {
		n.health.note(t)
		n.events.Health(t)
	})
	serving := c.serving()
	serving.Table, serving.Start, serving.Await, serving.AccessLog = n.applier.Current, n.applier.Start(), n.await, n.log.Load()
	serving.Tracing, serving.Loops, serving.Pools = n.tracer, c.Loops, n.pools
	n.proxy = proxy.New(serving)
	return nil
}

// serve runs the proxy until ctx ends, then drains it. Work that outlives ctx
// ends with below.
func (n *Node) serve(ctx, below context.Context, listeners []proxy.Listener) error {
	log := n.config.Logger
	if !n.awaitTurn(ctx) {
		return nil
	}
	if n.certs != nil {
		if st := n.certs.Stats(1); len(st.Files)+len(st.Defined) == 0 {
			log.Warn("no certificates yet: TLS handshakes fail until there is a definition of one, or --tls-cert is given")
		}
	}
	g, gctx := errgroup.WithContext(below)
	for _, l := range listeners {
		log.Info("serving", "address", l.Address().String(), "tls", l.TLS != nil)
		g.Go(func() error {
			if err := n.proxy.Serve(gctx, l); err != nil {
				return fmt.Errorf("node: %s: %w", l.Address(), err)
			}
			return nil
		})
	}
	close(n.turn.accepting)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !n.turn.isHere() {
		g.Go(func() error {
			if n.config.Predecessor.Serving(ctx) == nil {
				n.turnIsHere()
			} else {
				stop()
			}
			return nil
		})
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-gctx.Done():
			return nil
		}
		n.drain(gctx)
		return nil
	})
	return g.Wait()
}

// watch follows the definitions from when the fleet knows of the node, so that nobody
// has to wait for it who does not see it.
func (n *Node) watch(ctx context.Context) error {
	patience := firstPresence
	if n.snapshots != nil {
		patience = min(patience, n.config.SnapshotAfter/2)
	}
	waiting, over := context.WithTimeout(ctx, patience)
	var explaining sync.WaitGroup
	explaining.Go(func() { n.watcher.Explain(waiting) })
	select {
	case <-n.presence.Tried():
	case <-waiting.Done():
	}
	over()
	explaining.Wait()
	return n.watcher.Run(ctx)
}

// apply is the only one to change the table.
func (n *Node) apply(ctx context.Context) error {
	for first := true; ; first = false {
		change, err := n.watcher.Next(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		original := change
		if change.Resumed {
			change = n.resume(change)
		} else {
			guarded := n.guard.Apply(change, time.Now())
			if n.sayHeld(guarded); guarded.None {
				n.presence.Changed()
				n.keep(original)
				continue
			}
			change = guarded.Change
		}
		if n.certs != nil {
			n.certs.Apply(certificates(change)) // before the table, whose revision says that all is in effect
		}
		old := n.Table()
		warmed := func() {}
		if first {
			close(n.read)
			if !original.Resumed { // else etcd is not there, where peers are found
				warmed = n.warm(ctx)
			}
		}
		n.drains.begin(change)
		t := n.applier.Apply(change)
		n.announceTable()
		warmed()
		n.drains.end(change)
		if change.Listed {
			n.listed.Store(change.Revision)
		}
		n.presence.Changed()
		took := time.Since(change.Received)
		n.applySeconds.Observe(took.Seconds())
		n.keep(original)
		n.events.Applied(change, t)
		n.needSecret()
		n.overrides(change, old)
		if first {
			close(n.applied)
		}
		c := t.Counts()
		level := slog.LevelDebug
		if len(change.Deletes) >= worthALine || c.Backends == 0 && old.Counts().Backends > 0 {
			level = slog.LevelInfo
		}
		n.config.Logger.Log(ctx, level, "applied", "revision", t.Revision(), "puts", len(change.Puts), "deletes", len(change.Deletes),
			"took", took, "digest", t.Digest(), "backends", c.Backends)
		for r := range t.NewlyRejected(old) {
			n.config.Logger.Warn("definition rejected", "key", r.Key, "revision", r.Revision, "in_effect", r.InEffect, "error", r.Err)
		}
	}
}

// sayHeld logs what the guard holds, loudly, each time that it has doubled, and that it
// lets go.
func (n *Node) sayHeld(o guard.Outcome) {
	log, h := n.config.Logger, n.guard.Held()
	switch {
	case o.Held > 0 && h.Count >= 2*n.saidHeld:
		n.saidHeld = h.Count
		log.Error("too many backends were removed at once: they are held, and served on; roster ack releases them",
			"backends", h.Count, "guard", fmt.Sprintf("%d%%", n.config.Guard), "acknowledge", h.Revision, "names", h.Names[:min(len(h.Names), heldNames)])
	case o.Held > 0:
		log.Debug("more removals are held", "backends", o.Held, "acknowledge", h.Revision)
	}
	if o.Passed > 0 {
		log.Warn("removals are not held: as many backends are as there were before", "removed", o.Passed, "held", h.Count, "acknowledge", h.Revision)
	}
	if o.Released > 0 {
		log.Info("held removals are acknowledged", "backends", o.Released, "still_held", h.Count)
	}
	if h.Count == 0 && n.saidHeld > 0 {
		n.saidHeld = 0
		log.Info("no removed backends are held any more")
	}
}

// certificates are those that a change puts into effect; nil for one taken out.
func certificates(change watcher.Change) map[string]*store.Certificate {
	changed := make(map[string]*store.Certificate)
	for _, key := range change.Deletes {
		if key.Kind == store.Certificates {
			changed[key.Name] = nil
		}
	}
	for _, item := range change.Puts {
		if item.Key.Kind == store.Certificates {
			def, _ := item.Definition.(*store.Certificate) // nil: rejected, with nothing in its place
			changed[item.Key.Name] = def
		}
	}
	return changed
}

// Reopen has the file of the access log opened anew, after it was moved away. It
// may be called at any time; where there is none it does nothing.
func (n *Node) Reopen() {
	if log := n.log.Load(); log != nil {
		log.Reopen()
	}
}

// announceTable wakes those who wait for a new table.
func (n *Node) announceTable() {
	next := make(chan struct{})
	if last := n.newTable.Swap(&next); last != nil {
		close(*last)
	}
}

// await returns nil once the table has seen a revision, or ctx's error.
func (n *Node) await(ctx context.Context, revision int64) error {
	const pause = 5 * time.Millisecond // what has not touched the prefix is seen without a new table
	for {
		applied := *n.newTable.Load()
		if n.seen() >= revision {
			return nil
		}
		select {
		case <-applied:
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// seen is the newest revision seen. A table just published is ahead of what its
// reader has told the watcher.
func (n *Node) seen() int64 { return max(n.watcher.Status().Seen, n.Table().Revision()) }

// Table is the newest table.
func (n *Node) Table() *table.Table { return n.applier.Current() }

// Ready says whether clients should be sent here: a whole revision is applied, the
// probes of it have answered or had ReadyTimeout, and the node is not draining. Losing
// etcd does not change it.
func (n *Node) Ready() bool { return n.waiting() == "" }

// waiting says why the node is not ready; empty if it is.
func (n *Node) waiting() string {
	switch {
	case n.draining.Load() && !n.turn.isOver(): // else whoever asks again is served, by the next process
		return "draining"
	case !isClosed(n.applied):
		return "no revision of etcd is applied yet"
	case !isClosed(n.ready):
		return "not all backends' probes have answered yet"
	}
	return ""
}

// Probes are the checks that the node makes.
func (n *Node) Probes() []prober.State { return n.probers.List() }

// Status is what the node knows of itself.
func (n *Node) Status() admin.Status {
	w := n.watcher.Status()
	t := n.Table()
	waiting := n.waiting()
	s := admin.Status{
		Node:     n.config.ID,
		Version:  n.config.Version,
		Ready:    waiting == "",
		Waiting:  waiting,
		Draining: n.draining.Load(),
		Revision: t.Revision(),
		Seen:     n.seen(),
		Digest:   t.Digest().String(),
		Etcd: admin.Etcd{
			Connected: w.Connected,
			Endpoint:  w.Endpoint,
			Error:     w.Error,
			Cluster:   fmt.Sprintf("%x", w.Cluster),
			Relists:   w.Relists,
		},
		HeldList: w.Held,
		Held:     n.held(w),
		Ignored:  w.Ignored,
		Leaving:  n.applier.Leaving(),
		Presence: n.presence.Status(),
		Snapshot: n.snapshotStatus(w),
	}
	if !w.Fresh.IsZero() {
		ms := time.Since(w.Fresh).Milliseconds()
		s.Etcd.FreshMS = &ms
	}
	s.Counts.Probers = n.probers.Stats().Probers
	s.Describe(t)
	s.Warnings = slices.Insert(s.Warnings, 0, n.secretWarnings()...) // never nil: it is a list in JSON
	return s
}

// held is what is kept although etcd does not have it; nil: nothing.
func (n *Node) held(w watcher.Status) *admin.Held {
	h := n.guard.Held()
	if h.Count == 0 && w.Held == "" {
		return nil
	}
	held := &admin.Held{Backends: h.Count, Names: h.Names, Since: h.Since, Revision: h.Revision, List: w.Held}
	if w.Held != "" { // its acknowledgement is one of all that was removed before, too
		held.Revision = w.HeldRevision
		if h.Count == 0 {
			held.Names, held.Since = []string{}, w.HeldSince
		}
	}
	return held
}

// overrides logs, and sends as events, what operators say of backends and directors.
func (n *Node) overrides(c watcher.Change, old *table.Table) {
	lines := 0
	say := func(name string, def *store.Health) {
		var was *store.Health
		if s := old.Lookup(name); s != nil && s.Override != nil {
			was = s.Override.Def
		}
		if was == nil && def == nil || was != nil && def != nil && *was == *def {
			return
		}
		n.events.Override(name, def)
		if lines++; lines > healthLines {
			return
		}
		if def == nil {
			n.config.Logger.Info("override ended", "name", name, "was", was.State)
			return
		}
		n.config.Logger.Info("override", "name", name, "state", def.State, "reason", secretless(def.Reason), "by", secretless(def.By))
	}
	for _, key := range c.Deletes {
		if key.Kind == store.HealthKind {
			say(key.Name, nil)
		}
	}
	for _, item := range c.Puts {
		if def, ok := item.Definition.(*store.Health); ok {
			say(item.Key.Name, def)
		}
	}
	if lines > healthLines {
		n.config.Logger.Info("more overrides", "count", lines-healthLines)
	}
}

// secretless is text of an override without a key that got into it.
func secretless(s string) string {
	return string(store.RedactValue(store.Key{Kind: store.HealthKind}, []byte(s)))
}
