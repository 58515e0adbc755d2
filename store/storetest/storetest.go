// Package storetest gives tests an etcd to work with: the real one, embedded,
// on free ports of loopback, and ended with the test. Its data is not synced to
// disk and its elections take a tenth of a second, so that a member starts in a
// fraction of one.
//
// Every function fails the test instead of returning an error, so it must be
// called from the test's own goroutine.
package storetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"roster/store"
	"roster/store/embedded"
)

// patience is how long anything here may take before the test fails: a member
// starts in 0.2 s, but not on a machine that does much else.
const patience = 30 * time.Second

// Fast makes a member fast and forgetful, as an embedded.Config's Tune.
func Fast(ec *embed.Config) {
	ec.UnsafeNoFsync = true
	ec.TickMs, ec.ElectionMs = 10, 100
}

// Open opens a store that is closed with the test.
func Open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(cfg)
	if err != nil {
		t.Fatalf("storetest: %v", err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// A Member is one etcd member at an address that stays its own, running or not,
// until the test ends.
type Member struct {
	t      testing.TB
	listen string
	data   string
	token  string
	tune   func(*embed.Config)
	server *embedded.Server
	client *clientv3.Client
}

// Etcd starts a cluster of one member. Tune, if given, has the last word on its
// configuration, at each start.
func Etcd(t testing.TB, tune ...func(*embed.Config)) *Member {
	t.Helper()
	m := newMember(t)
	m.tune = func(ec *embed.Config) {
		for _, f := range tune {
			f(ec)
		}
	}
	m.Start()
	return m
}

func newMember(t testing.TB) *Member {
	t.Helper()
	m := &Member{
		t: t, listen: reserve(t), data: filepath.Join(t.TempDir(), "etcd"), token: rand.Text(),
	}
	t.Cleanup(func() {
		if m.client != nil {
			m.client.Close()
		}
		m.Stop()
	})
	return m
}

// Address is the member's client address, host and port.
func (m *Member) Address() string { return m.listen }

// Endpoint is the member's client URL.
func (m *Member) Endpoint() string { return "http://" + m.listen }

// Start runs the member with the data it has, at the same address, and returns
// when it answers. It does nothing if the member runs.
func (m *Member) Start() {
	m.t.Helper()
	if err := m.start(); err != nil {
		m.t.Fatalf("storetest: start etcd: %v", err)
	}
}

func (m *Member) start() error {
	if m.server != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	server, err := embedded.Start(ctx, embedded.Config{
		Dir: m.data, Listen: m.listen, Logger: slog.New(slog.DiscardHandler),
		Tune: func(ec *embed.Config) {
			Fast(ec)
			ec.InitialClusterToken = m.token
			m.tune(ec)
		},
	})
	if err != nil {
		return err
	}
	m.server = server
	return nil
}

// Stop ends the member and frees its address: connections are refused until
// Start. It does nothing if the member does not run.
func (m *Member) Stop() {
	if m.server != nil {
		m.server.Close()
		m.server = nil
	}
}

// Restart is Stop and Start.
func (m *Member) Restart() {
	m.t.Helper()
	m.Stop()
	m.Start()
}

// Store is a new store on this member alone, with the default prefix.
func (m *Member) Store() *store.Store {
	m.t.Helper()
	return Open(m.t, store.Config{Endpoints: []string{m.Endpoint()}})
}

// Client is a client of this member alone, of which there is one, closed when
// the test ends.
func (m *Member) Client() *clientv3.Client {
	m.t.Helper()
	if m.client == nil {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: []string{m.Endpoint()},
			DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{ // a stopped member comes back soon
				Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond},
			})},
			Logger: zap.NewNop(),
		})
		if err != nil {
			m.t.Fatalf("storetest: %v", err)
		}
		m.client = c
	}
	return m.client
}

// Compact drops history before the revision, physically, at once.
func (m *Member) Compact(revision int64) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := m.Client().Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		m.t.Fatalf("storetest: compact to %d: %v", revision, err)
	}
}

// A Snapshot is a copy of a member's data, cluster and member id included.
type Snapshot struct{ dir string }

// Snapshot copies the member's data. The member is stopped meanwhile if it
// runs, and runs again afterwards.
func (m *Member) Snapshot() Snapshot {
	m.t.Helper()
	s := Snapshot{dir: filepath.Join(m.t.TempDir(), "snapshot")}
	m.stopped(func() error { return os.CopyFS(s.dir, os.DirFS(m.data)) })
	return s
}

// Restore takes the member back to a snapshot of its own: the same cluster at
// the same address, with a lower revision. It runs afterwards.
func (m *Member) Restore(s Snapshot) {
	m.t.Helper()
	m.stopped(func() error {
		if err := os.RemoveAll(m.data); err != nil {
			return err
		}
		return os.CopyFS(m.data, os.DirFS(s.dir))
	})
	m.Start()
}

// Replace puts a new, empty cluster, with another cluster id, at the member's
// address. It runs afterwards.
func (m *Member) Replace() {
	m.t.Helper()
	m.token = rand.Text()
	m.Wipe()
}

// Wipe empties the member's data and keeps the cluster id, as etcd does when
// its data directory is removed and it is started as before. It runs
// afterwards, at revision 1.
func (m *Member) Wipe() {
	m.t.Helper()
	m.stopped(func() error { return os.RemoveAll(m.data) })
	m.Start()
}

// stopped does what needs the data to itself.
func (m *Member) stopped(do func() error) {
	m.t.Helper()
	running := m.server != nil
	m.Stop()
	if err := do(); err != nil && !os.IsNotExist(err) {
		m.t.Fatalf("storetest: %v", err)
	}
	if running {
		m.Start()
	}
}

// Cluster starts a cluster of n members.
func Cluster(t testing.TB, n int) []*Member {
	t.Helper()
	members := make([]*Member, n)
	var initial []string
	for i := range members {
		members[i] = newMember(t)
		peer := url.URL{Scheme: "http", Host: reserve(t)}
		name := fmt.Sprintf("member-%d", i+1)
		initial = append(initial, name+"="+peer.String())
		members[i].token = members[0].token
		members[i].tune = func(ec *embed.Config) {
			ec.Name = name
			ec.ListenPeerUrls = []url.URL{peer}
			ec.AdvertisePeerUrls = ec.ListenPeerUrls
			ec.InitialCluster = strings.Join(initial, ",")
			ec.TickMs, ec.ElectionMs = 50, 500 // more patient, or load makes it elect without end
		}
	}
	errs := make(chan error, n)
	for _, m := range members { // each waits for the others
		go func() { errs <- m.start() }()
	}
	for range members {
		if err := <-errs; err != nil {
			t.Fatalf("storetest: start a cluster: %v", err)
		}
	}
	return members
}

// Endpoints are the client URLs of members.
func Endpoints(members []*Member) []string {
	var urls []string
	for _, m := range members {
		urls = append(urls, m.Endpoint())
	}
	return urls
}
