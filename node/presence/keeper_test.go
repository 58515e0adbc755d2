package presence_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"

	"roster/node/presence"
	"roster/store"
	"roster/store/storetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// patience is how long a test waits for what should take a second or two.
const patience = 30 * time.Second

func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		<-tick.C
	}
}

// running is a Keeper that runs.
type running struct {
	*presence.Keeper
	state atomic.Int64
	log   lockedBuffer
	stop  func()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// ttl is the shortest that tells a keepalive from none: etcd counts in seconds.
const ttl = 2 * time.Second

func keep(t testing.TB, s *store.Store, node string, change ...func(*presence.Config)) *running {
	t.Helper()
	r := &running{}
	c := presence.Config{Store: s, Node: node, TTL: ttl, RetryMax: 500 * time.Millisecond}
	c.State = func() store.Presence { return store.Presence{ID: node, Digest: fmt.Sprint(r.state.Load())} }
	c.Logger = slog.New(slog.NewTextHandler(&r.log, nil))
	for _, f := range change {
		f(&c)
	}
	r.Keeper = presence.New(c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	r.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(r.stop)
	return r
}

func (r *running) wait(t testing.TB) {
	t.Helper()
	until(t, "presence", func() bool { return r.Status().Present })
}

// keys are what etcd has of nodes: "nodes" and "members" by key.
func keys(t testing.TB, c *clientv3.Client) map[string]*clientv3.GetResponse {
	t.Helper()
	all := map[string]*clientv3.GetResponse{}
	for _, side := range []string{"nodes", "members"} {
		r, err := c.Get(t.Context(), "/roster-"+side+"/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		all[side] = r
	}
	return all
}

func count(t testing.TB, c *clientv3.Client) (nodes, members int64) {
	t.Helper()
	all := keys(t, c)
	return all["nodes"].Count, all["members"].Count
}

// The leases of all are kept alive, and nothing is written.
func TestIdleNodesLeaveEtcdsRevisionStill(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	var all []*running
	longer := func(c *presence.Config) { c.TTL = 2 * ttl } // so that the seconds left that etcd tells rise and fall
	for i := range 20 {
		all = append(all, keep(t, storetest.Open(t, store.Config{Endpoints: []string{etcd.Endpoint()}}), fmt.Sprint("n", i), longer))
	}
	for _, r := range all {
		r.wait(t)
	}
	before := keys(t, etcd.Client())["nodes"]
	if before.Count != 20 {
		t.Fatalf("%d presences, want 20", before.Count)
	}
	// A lease that has more time left than before was kept alive.
	last, renewed := map[int64]int64{}, map[int64]int{}
	until(t, "a keepalive of each lease", func() bool {
		done := true
		for _, kv := range before.Kvs {
			if renewed[kv.Lease] >= 2 { // the first look is none
				continue
			}
			r, err := etcd.Client().TimeToLive(t.Context(), clientv3.LeaseID(kv.Lease))
			if err != nil || r.TTL < 0 {
				t.Fatalf("the lease of %s: %+v, %v", kv.Key, r, err)
			}
			if r.TTL > last[kv.Lease] {
				renewed[kv.Lease]++
			}
			last[kv.Lease] = r.TTL
			done = done && renewed[kv.Lease] >= 2
		}
		return done
	})
	if after := keys(t, etcd.Client())["nodes"].Header.Revision; after != before.Header.Revision {
		t.Errorf("etcd is at revision %d, was at %d when all were idle", after, before.Header.Revision)
	}
}

func TestTheFirstChangeIsWrittenAtOnceAndLaterOnesOnceAnInterval(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	const interval = 300 * time.Millisecond
	r := keep(t, etcd.Store(), "n1", func(c *presence.Config) { c.Interval = interval })
	r.wait(t)
	written := func() (version int64, state string) {
		kvs := keys(t, etcd.Client())["nodes"].Kvs
		if len(kvs) != 1 {
			t.Fatalf("%d presences, want 1", len(kvs))
		}
		events, _, err := etcd.Store().Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Live {
				state = e.Presence.Digest
			}
		}
		return kvs[0].Version, state
	}
	began := time.Now()
	for i := range int64(1000) {
		r.state.Store(i + 1)
		r.Changed()
		if i%100 == 0 {
			written()
		}
	}
	until(t, "the last state", func() bool { _, state := written(); return state == "1000" })
	version, _ := written()
	if most := 3 + int64(time.Since(began)/interval); version > most {
		t.Errorf("%d writes in %v, want at most %d", version, time.Since(began), most)
	}
}

func TestAnOrderlyEndLeavesNothing(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	r := keep(t, etcd.Store(), "n1")
	r.wait(t)
	if nodes, members := count(t, etcd.Client()); nodes != 1 || members != 1 {
		t.Fatalf("%d presences and %d members, want 1 and 1", nodes, members)
	}
	watched := etcd.Client().Watch(t.Context(), "/roster-", clientv3.WithPrefix())
	r.stop()
	if nodes, members := count(t, etcd.Client()); nodes != 0 || members != 0 {
		t.Errorf("%d presences and %d members are left", nodes, members)
	}
	if first := <-watched; len(first.Events) != 2 || first.Events[0].Kv.ModRevision != first.Events[1].Kv.ModRevision {
		t.Errorf("its keys did not end in one revision: %v", first.Events)
	}
	leases, err := etcd.Client().Leases(t.Context())
	if err != nil || len(leases.Leases) != 0 {
		t.Errorf("leases %v are left, %v", leases, err)
	}
}

func TestALostLeaseIsReplacedAndItsKeysAreBack(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	r := keep(t, etcd.Store(), "n1")
	r.wait(t)
	first := keys(t, etcd.Client())["nodes"].Kvs[0]
	if _, err := etcd.Client().Revoke(t.Context(), clientv3.LeaseID(first.Lease)); err != nil {
		t.Fatal(err)
	}
	if _, err := etcd.Client().Delete(t.Context(), "/roster-members/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	until(t, "both keys", func() bool { nodes, members := count(t, etcd.Client()); return nodes == 1 && members == 1 })
	again := keys(t, etcd.Client())["nodes"].Kvs[0]
	if string(again.Key) != string(first.Key) || again.Lease == first.Lease {
		t.Errorf("got %s under lease %x, want %s under another than %x", again.Key, again.Lease, first.Key, first.Lease)
	}
}

func TestANodeThatIsCutOffStaysAMemberAndComesBack(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, etcd.Address())
	r := keep(t, storetest.Open(t, store.Config{Endpoints: []string{proxy.Address()}, RequestTimeout: time.Second}), "n1")
	r.wait(t)
	proxy.Blackhole()
	until(t, "the end of its presence", func() bool { nodes, _ := count(t, etcd.Client()); return nodes == 0 })
	if _, members := count(t, etcd.Client()); members != 1 {
		t.Errorf("%d members, want the one that is cut off", members)
	}
	until(t, "it to know", func() bool { return !r.Status().Present })
	proxy.Heal()
	until(t, "its return", func() bool { nodes, _ := count(t, etcd.Client()); return nodes == 1 })
	until(t, "it to know", func() bool { return r.Status().Present })
	if lines := strings.Count(r.log.String(), "presence cannot be written"); lines != 1 {
		t.Errorf("%d lines of its loss, want 1:\n%s", lines, r.log.String())
	}
}

func TestAStartWithoutEtcdIsTriedAndGoesOn(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, etcd.Address())
	proxy.Cut()
	r := keep(t, storetest.Open(t, store.Config{Endpoints: []string{proxy.Address()}, RequestTimeout: time.Second}), "n1")
	select {
	case <-r.Tried():
	case <-time.After(patience):
		t.Fatal("the first attempt does not end")
	}
	if s := r.Status(); s.Present {
		t.Errorf("status = %+v without etcd", s)
	}
	proxy.Heal()
	r.wait(t)
}

func TestARoleThatMayNotWriteIsToldOnceAndServedOn(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t, func(ec *embed.Config) { ec.BcryptCost = 4 }) // the least: with the race detector 10 takes seconds
	c := etcd.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	must(c.RoleAdd(ctx, "reader"))
	must(c.RoleGrantPermission(ctx, "reader", "/roster/", "/roster0", clientv3.PermissionType(clientv3.PermRead)))
	for user, role := range map[string]string{"root": "root", "node": "reader"} {
		must(c.UserAdd(ctx, user, user))
		if role == "root" {
			must(c.RoleAdd(ctx, "root"))
		}
		must(c.UserGrantRole(ctx, user, role))
	}
	must(c.AuthEnable(ctx))
	r := keep(t, storetest.Open(t, store.Config{Endpoints: []string{etcd.Endpoint()}, User: "node", Password: "node"}), "n1")
	until(t, "the refusal", func() bool { return strings.Contains(r.Status().Error, "permission denied") })
	<-r.Tried()
	root := storetest.Open(t, store.Config{Endpoints: []string{etcd.Endpoint()}, User: "root", Password: "root"}).Client()
	for _, side := range []string{"nodes", "members"} {
		must(root.RoleGrantPermission(ctx, "reader", "/roster-"+side+"/n1/", "/roster-"+side+"/n10", clientv3.PermissionType(clientv3.PermReadWrite)))
	}
	r.wait(t)
	if lines := strings.Count(r.log.String(), "level=WARN"); lines != 1 {
		t.Errorf("%d warnings, want 1:\n%s", lines, r.log.String())
	}
	r.stop()
	for _, side := range []string{"nodes", "members"} {
		if got, err := root.Get(ctx, "/roster-"+side+"/", clientv3.WithPrefix()); err != nil || got.Count != 0 {
			t.Errorf("%d keys of %s are left, %v", got.Count, side, err)
		}
	}
}

// unsure has one transaction done, and its answer lost.
type unsure struct {
	clientv3.KV
	lose func() bool
}

func (u unsure) Txn(ctx context.Context) clientv3.Txn { return &unsureTxn{u.KV.Txn(ctx), u.lose} }

type unsureTxn struct {
	clientv3.Txn
	lose func() bool
}

func (u *unsureTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { u.Txn = u.Txn.If(cs...); return u }
func (u *unsureTxn) Then(ops ...clientv3.Op) clientv3.Txn { u.Txn = u.Txn.Then(ops...); return u }
func (u *unsureTxn) Else(ops ...clientv3.Op) clientv3.Txn { u.Txn = u.Txn.Else(ops...); return u }
func (u *unsureTxn) Commit() (*clientv3.TxnResponse, error) {
	r, err := u.Txn.Commit()
	if err == nil && u.lose() {
		return nil, context.DeadlineExceeded
	}
	return r, err
}

// What was written last is not known then: also what was there before is written again.
func TestAWriteWithoutAnAnswerIsNotTakenForNone(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := storetest.Open(t, store.Config{Endpoints: []string{etcd.Endpoint()}})
	var r *running
	var lost atomic.Bool
	made := make(chan struct{})
	s.Client().KV = unsure{s.Client().KV, func() bool {
		<-made
		return r.state.CompareAndSwap(1, 0) && !lost.Swap(true) // it is as it was by then
	}}
	r = keep(t, s, "n1", func(c *presence.Config) { c.Interval = 50 * time.Millisecond })
	close(made)
	r.wait(t)
	r.state.Store(1)
	r.Changed()
	until(t, "the answer to be lost, and the first state", func() bool {
		events, _, err := etcd.Store().Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Live {
				return lost.Load() && e.Presence.Digest == "0"
			}
		}
		return false
	})
}

// An interval that never ends: what is written is written without waiting for it.
func TestReadinessIsWrittenAtOnce(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	var ready atomic.Bool
	var state atomic.Int64
	r := keep(t, etcd.Store(), "n1", func(c *presence.Config) {
		c.Interval = time.Hour
		c.State = func() store.Presence {
			return store.Presence{ID: "n1", Ready: ready.Load(), Digest: fmt.Sprint(state.Load())}
		}
	})
	r.wait(t)
	written := func() (p store.Presence) {
		events, _, err := etcd.Store().Members(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if e.Live {
				p = *e.Presence
			}
		}
		return p
	}
	change := func(what string, ok func(store.Presence) bool) {
		t.Helper()
		r.Changed()
		until(t, what, func() bool { return ok(written()) })
	}
	state.Store(1)
	change("the first change", func(p store.Presence) bool { return p.Digest == "1" })
	state.Store(2)
	r.Changed()
	ready.Store(true)
	change("its readiness", func(p store.Presence) bool { return p.Ready && p.Digest == "2" })
	state.Store(3)
	r.Changed()
	ready.Store(false)
	change("the end of that", func(p store.Presence) bool { return !p.Ready && p.Digest == "3" })
}
