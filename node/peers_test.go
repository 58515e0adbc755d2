package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roster/node/certs/certstest"
	"roster/node/peer"
	"roster/store"
	"roster/store/storetest"
)

// withPeers has a node speak with others of a CA.
func withPeers(t testing.TB, ca *certstest.CA, id string) func(*Config) {
	dir := t.TempDir()
	var f peer.Files
	f.Cert, f.Key = ca.Issue(t).Write(t, dir, "peer")
	f.CA = filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, f.CA, ca.PEM)
	return func(c *Config) {
		c.ID, c.PeerListen, c.PeerFiles, c.ReadyTimeout = id, "127.0.0.1:0", f, patience
	}
}

func withLog(l *lines) func(*Config) {
	return func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(l, nil)) }
}

// announced waits until others see in etcd that the node is ready.
func (r *running) announced(etcd *storetest.Member) *store.Presence {
	r.t.Helper()
	var p *store.Presence
	until(r.t, "the node to be announced", func() bool {
		p = presences(r.t, etcd)[r.config.ID]
		return p != nil && p.Ready
	})
	return p
}

// heldSick is a probe whose answer is held, of a backend that is healthy before it; and
// heldWell of one that is sick.
const (
	heldSick = `"probe":{"url":"/up/slow","interval":"1h","timeout":"1h","window":1,"threshold":1,"initial":1}`
	heldWell = `"probe":{"url":"/up/slow","interval":"1h","timeout":"1h","window":1,"threshold":1,"initial":0}`
)

// release lets the first probe of an origin end, and waits for what it means.
func (c *checked) release(n *running, name string, want bool) {
	<-c.arrived
	c.hold <- struct{}{}
	n.untilHealth(name, want)
}

// A node that starts knows from another what backends are like whose answer it has not yet,
// is ready at once, and sends nothing to a sick one. So does another process of the same
// node, and one whose peers are partly gone.
func TestNodeStartsWithWhatItsPeersKnow(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		id   string // of the node that starts
		dead int    // peers that are gone
	}{"another": {id: "b"}, "the same": {id: "a"}, "beside dead peers": {id: "b", dead: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			etcd, ca := storetest.Etcd(t), certstest.NewCA(t)
			well, sick := newChecked(t, 200), newChecked(t, 500)
			writer{t: t, client: etcd.Client()}.put(
				"directors/default", `{"type":"round_robin","backends":["sick","well"]}`,
				"backends/well", well.definition(heldWell), "backends/sick", sick.definition(heldSick))
			a := run(t, etcd, withPeers(t, ca, "a"))
			well.release(a, "well", true)
			sick.release(a, "sick", false)
			if p := a.announced(etcd); p.Peer != a.peers.listener.Addr().String() {
				t.Errorf("announced at %q", p.Peer)
			}
			for i := range row.dead {
				announce(t, etcd, fmt.Sprint("dead-", i), store.Presence{Peer: deadAddress(t), Ready: true})
			}
			var log lines
			b := run(t, etcd, withPeers(t, ca, row.id), withLog(&log))
			until(t, "the node to be ready", b.Ready)
			if !b.healthy("well") || b.healthy("sick") {
				t.Errorf("well is healthy: %v, sick: %v", b.healthy("well"), b.healthy("sick"))
			}
			for range 20 {
				if got := b.get("/"); got != 200 {
					t.Errorf("a request got %d", got)
				}
			}
			if got := sick.requests.Load(); got != 0 {
				t.Errorf("%d requests to the sick one", got)
			}
			for _, name := range []string{"well", "sick"} {
				was, is := a.Table().Lookup(name).Backend.Probe.Snapshot(), b.Table().Lookup(name).Backend.Probe.Snapshot()
				if is.Seeded != 1 || is.Peer != "a" || is.Happy != was.Happy || is.Good != was.Good || is.Text != was.Text || is.Stage != was.Stage {
					t.Errorf("%s: %+v, want as %+v", name, is, was)
				}
			}
			if want := `histories=2 used=2 checks=2 from=map[a:2]`; !strings.Contains(log.String(), want) {
				t.Errorf("no %s in the log:\n%s", want, log.String())
			}
			if got := strings.Count(log.String(), "a peer did not tell"); got > row.dead {
				t.Errorf("%d peers did not tell, want at most %d", got, row.dead)
			}
			// Its own answers win.
			<-well.arrived
			well.status.Store(500)
			well.hold <- struct{}{}
			b.untilHealth("well", false)
			close(sick.hold)
		})
	}
}

func deadAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// announce writes the presence of a node that is not there.
func announce(t testing.TB, etcd *storetest.Member, node string, p store.Presence) {
	t.Helper()
	s := etcd.Store()
	lease, err := s.Grant(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	p.ID = node
	if _, err := s.Announce(t.Context(), store.Instance{Node: node, ID: "i"}, p, lease, 0); err != nil {
		t.Fatal(err)
	}
}

// A node all of whose peers are no good starts without them.
func TestNodeStartsWithoutItsPeers(t *testing.T) {
	t.Parallel()
	etcd, ca := storetest.Etcd(t), certstest.NewCA(t)
	well := newChecked(t, 200)
	writer{t: t, client: etcd.Client()}.put("backends/default", well.definition(once))
	stranger := run(t, storetest.Etcd(t), withPeers(t, ca, "stranger")) // of another etcd
	other := run(t, etcd, withPeers(t, certstest.NewCA(t), "other"))    // of another CA
	other.announced(etcd)
	mute, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	until(t, "the stranger to tell", stranger.Ready)
	announce(t, etcd, "stranger", store.Presence{Peer: stranger.peers.address, Ready: true})
	announce(t, etcd, "dead", store.Presence{Peer: deadAddress(t), Ready: true})
	announce(t, etcd, "mute", store.Presence{Peer: mute.Addr().String(), Ready: true})
	announce(t, etcd, "nonsense", store.Presence{Peer: "::::", Ready: true})
	var log lines
	n := run(t, etcd, withPeers(t, ca, "n"), withLog(&log))
	until(t, "the node to be ready", n.Ready)
	if got := n.get("/"); got != 200 {
		t.Errorf("a request got %d", got)
	}
	for peer, want := range map[string]string{
		"stranger": "421 Misdirected Request", "other": "is not of --peer-tls-ca", "dead": "connection refused", "mute": "TLS handshake timeout", "nonsense": "",
	} {
		if line := "peer=" + peer + " "; !strings.Contains(log.String(), line) || !strings.Contains(log.String(), want) {
			t.Errorf("nothing of %s and %q in the log:\n%s", peer, want, log.String())
		}
	}
	if !strings.Contains(log.String(), "histories=0 used=0 checks=1") {
		t.Errorf("the log is\n%s", log.String())
	}
}

// Who is asked: whoever is ready, or was, and not the node itself, nor one that was where it
// is now.
func TestWhichPeersAreAsked(t *testing.T) {
	t.Parallel()
	etcd, ca := storetest.Etcd(t), certstest.NewCA(t)
	n := run(t, etcd, withPeers(t, ca, "n"))
	n.announced(etcd)
	for node, p := range map[string]store.Presence{
		"ready": {Peer: "10.0.0.1:6083", Ready: true}, "draining": {Peer: "10.0.0.2:6083", Draining: true}, "starting": {Peer: "10.0.0.3:6083"},
		"without": {Ready: true}, "was-here": {Peer: n.peers.address, Ready: true},
	} {
		announce(t, etcd, node, p)
	}
	announce(t, etcd, "n", store.Presence{Peer: n.peers.address, Ready: true}) // another process of it
	all, err := n.others(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, p := range all {
		got[p.String()] = p.Address
	}
	want := map[string]string{"ready/i": "10.0.0.1:6083", "draining/i": "10.0.0.2:6083", "n/i": n.peers.address}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A backend is not a way to where only peers may go.
func TestNoBackendPointsToThePeerListener(t *testing.T) {
	t.Parallel()
	etcd, ca := storetest.Etcd(t), certstest.NewCA(t)
	for _, listen := range []string{"127.0.0.1:0", ":0"} {
		n := run(t, etcd, withPeers(t, ca, "n"), func(c *Config) { c.PeerListen = listen })
		port := n.peers.listener.Addr().(*net.TCPAddr).Port
		writer{t, etcd.Client(), []*running{n}}.put("backends/default", fmt.Sprintf(`{"host":"127.0.0.1","port":%d,"tls":{"insecure_skip_verify":true}}`, port))
		if got := n.get("/v1/drains"); got != 502 {
			t.Errorf("%s: got %d, want 502", listen, got)
		}
		host, _, err := net.SplitHostPort(n.peers.address)
		if ip := net.ParseIP(host); err != nil || ip == nil || ip.IsUnspecified() {
			t.Errorf("%s: peers are told %q", listen, n.peers.address)
		}
		n.stop()
	}
}

func TestConfigOfPeers(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	valid := Config{Listen: []string{":8080"}, Store: store.Config{Endpoints: []string{"127.0.0.1:2379"}}}
	withPeers(t, ca, "n")(&valid)
	valid.PeerAdvertise = "edge-1.example:6083"
	if err := valid.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		`peer-listen is missing, and "10.0.0.1:6083" is for it`: func(c *Config) { c.PeerListen, c.PeerAdvertise = "", "10.0.0.1:6083" },
		`peer-listen is "6083": want host:port`:                 func(c *Config) { c.PeerListen = "6083" },
		`peer-advertise is ":6083", want the HOST:PORT`:         func(c *Config) { c.PeerAdvertise = ":6083" },
		`peer-tls-ca is missing`:                                func(c *Config) { c.PeerFiles.CA = "" },
	} {
		c := valid
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
