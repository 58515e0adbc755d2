package node

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/node/peer"
	"roster/node/presence"
	"roster/prober"
	"roster/store"
)

// warmLimit is how long a node that starts may wait for what its peers know.
const warmLimit = 2 * time.Second

// maxDrains is how many backends /v1/drains tells of.
const maxDrains = 10_000

// peers is the node's listener for its peers. Nil is none; nil has all methods.
type peers struct {
	listener    net.Listener
	credentials *peer.Credentials
	address     string // where peers reach it; empty: nowhere
}

func (c Config) validatePeer() error {
	var errs *multierror.Error
	fail := func(format string, args ...any) { errs = multierror.Append(errs, fmt.Errorf(format, args...)) }
	if c.PeerListen == "" {
		if what := cmp.Or(c.PeerAdvertise, c.PeerFiles.Cert, c.PeerFiles.Key, c.PeerFiles.CA); what != "" {
			fail("peer-listen is missing, and %q is for it: want an address such as :6083, or nothing of peer-advertise, peer-tls-cert, peer-tls-key and peer-tls-ca", what)
		}
		return errs.ErrorOrNil()
	}
	if err := checkHostPort(c.PeerListen); err != nil {
		fail("peer-listen is %q: %w", c.PeerListen, err)
	}
	if host, _, err := net.SplitHostPort(c.PeerAdvertise); c.PeerAdvertise != "" && (err != nil || host == "" || checkHostPort(c.PeerAdvertise) != nil) {
		fail("peer-advertise is %q, want the HOST:PORT where peers reach this node", c.PeerAdvertise)
	}
	return multierror.Append(errs, c.PeerFiles.Validate()).ErrorOrNil()
}

// openPeers listens for peers.
func (n *Node) openPeers() (*peers, error) {
	c := &n.config
	if c.PeerListen == "" {
		return nil, nil
	}
	credentials, err := peer.Open(c.PeerFiles, c.Logger)
	if err != nil {
		return nil, fmt.Errorf("node: peer: %w", err)
	}
	l, err := n.listenOne(c.PeerListen)
	if err != nil {
		return nil, fmt.Errorf("node: peer: %w", err)
	}
	return &peers{listener: l, credentials: credentials}, nil
}

func (p *peers) close() {
	if p != nil {
		p.listener.Close()
	}
}

// own is where no backend may point.
func (p *peers) own() []netip.AddrPort {
	if p == nil {
		return nil
	}
	return []netip.AddrPort{p.listener.Addr().(*net.TCPAddr).AddrPort()}
}

// advertise finds out where peers reach the node.
func (p *peers) advertise(c *Config) {
	if p == nil {
		return
	}
	if p.address = c.PeerAdvertise; p.address != "" {
		return
	}
	at := p.own()[0]
	if at.Addr().IsUnspecified() {
		ip := outward(c.Store.Endpoints)
		if !ip.IsValid() {
			c.Logger.Warn("peers are not told where this node is, want --peer-advertise", "peer_listen", c.PeerListen)
			return
		}
		at = netip.AddrPortFrom(ip, at.Port())
	}
	p.address = at.String()
}

// outward is the address of this machine that leads to etcd; where etcd is on this machine,
// another of its addresses, if there is one. It sends nothing but, for a name, to DNS.
func outward(endpoints []string) (ip netip.Addr) {
	for _, e := range endpoints {
		if _, rest, ok := strings.Cut(e, "://"); ok {
			e = rest
		}
		if _, _, err := net.SplitHostPort(e); err != nil {
			e = net.JoinHostPort(strings.Trim(e, "[]"), "2379")
		}
		conn, err := net.DialTimeout("udp", e, time.Second)
		if err != nil {
			continue
		}
		ip = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
		conn.Close()
		if !ip.IsLoopback() {
			return ip
		}
	}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return ip
}

// identity says to peers whose this node is.
func (n *Node) identity() peer.Identity {
	id := peer.Identity{Prefix: n.store.Prefix(), Instance: store.Instance{Node: n.config.ID, ID: n.presence.Status().Instance}}
	if cluster := n.watcher.Status().Cluster; cluster != 0 {
		id.Cluster = fmt.Sprintf("%x", cluster)
	}
	return id
}

// tellPeers tells them what the node knows, from when it knows something. Until then it
// does not take their connections: with sockets handed over, those are for the process that
// did so.
func (n *Node) tellPeers(ctx context.Context) error {
	for _, soon := range []chan struct{}{n.applied, n.turn.here} {
		select {
		case <-soon:
		case <-ctx.Done():
			return nil
		}
	}
	s := &peer.Server{
		Credentials: n.peers.credentials, Identity: n.identity, Logger: n.config.Logger,
		Histories: func() iter.Seq2[prober.Key, prober.History] { return n.probers.Histories() },
		Drains: func() (d peer.Drains) {
			if d.Items, d.More = n.leaving(n.Table(), maxDrains); d.Items == nil {
				d.Items = []store.Leaving{} // a list in JSON
			}
			return d
		},
	}
	return s.Serve(ctx, n.peers.listener)
}

// warm has the probers of the first table begin with what peers know, of which it asks
// before that is made. done, after it was, says what came of that.
func (n *Node) warm(ctx context.Context) (done func()) {
	if n.peers == nil {
		return func() {}
	}
	log := n.config.Logger
	ctx, cancel := context.WithTimeout(ctx, warmLimit)
	defer cancel()
	start := time.Now()
	others, err := n.others(ctx)
	if err != nil {
		log.Warn("cold start: peers are not known", "error", err)
		return func() {}
	}
	c := peer.Client{Credentials: n.peers.credentials, Identity: n.identity()}
	seeds, asked := c.Ask(ctx, others)
	took := time.Since(start)
	for _, a := range asked {
		if a.Err != nil {
			log.Warn("a peer did not tell what it knows of backends' health", "peer", a.Node, "address", a.Address, "error", a.Err)
		}
	}
	n.probers.Seed(seeds)
	return func() {
		n.probers.Seed(nil)
		from, used := n.probers.Seeded(), 0
		for _, count := range from {
			used += count
		}
		log.Info("start with what peers know of backends' health", "peers", len(others), "asked", len(asked), "histories", len(seeds),
			"used", used, "checks", n.probers.Stats().Probers, "from", from, "took", took)
	}
}

// others are the peers that are worth asking: those that were ready. Another process of
// this node, which hands over to it, is one.
func (n *Node) others(ctx context.Context) (all []peer.Peer, err error) {
	events, _, err := n.store.Members(ctx)
	if err != nil {
		return nil, err
	}
	var members presence.Members
	members.Take(events)
	self := n.identity().Instance
	for i, m := range members {
		p := m.Presence
		if i == self || p == nil || p.Peer == "" || !p.Ready && !p.Draining {
			continue
		}
		if p.Peer == n.peers.address && i.Node != self.Node {
			continue // a node that was here
		}
		all = append(all, peer.Peer{Instance: i, Address: p.Peer})
	}
	return all, nil
}
