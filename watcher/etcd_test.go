package watcher

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"roster/store"
	"roster/store/storetest"
)

const prefix = "/roster/"

// quick shortens what tests would wait for. Everything else is as in production.
var quick = Config{
	ProofInterval: 400 * time.Millisecond, ProofTimeout: time.Second,
	RetryMin: 20 * time.Millisecond, RetryMax: 300 * time.Millisecond,
}

// rig is a watcher on a real etcd, with a reader.
type rig struct {
	*Watcher
	t      *testing.T
	etcd   *clientv3.Client // directly to a member, whatever the watcher's path
	change chan struct{}    // holds a token after a change
	stop   func()

	mu      sync.Mutex
	got     sum
	changes []Change
	log     strings.Builder
}

func (r *rig) Write(line []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.log.Write(line)
}

// connect opens a store as a node does.
func connect(t *testing.T, cfg store.Config) *store.Store {
	t.Helper()
	definitions, err := store.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { definitions.Close() })
	return definitions
}

// watch starts a watcher through its own client, and waits for its first change.
func watch(t *testing.T, direct *clientv3.Client, path store.Config) *rig {
	t.Helper()
	return watchAs(t, quick, direct, path)
}

func watchAs(t *testing.T, cfg Config, direct *clientv3.Client, path store.Config) *rig {
	t.Helper()
	r := &rig{t: t, etcd: direct, change: make(chan struct{}, 1), got: sum{}}
	cfg.Logger = slog.New(slog.NewTextHandler(r, nil))
	cfg.Store = connect(t, path)
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Watcher = w
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { r.Run(ctx) })
	all.Go(func() { r.read(ctx) })
	r.stop = func() { cancel(); all.Wait() }
	t.Cleanup(r.stop)
	r.await("the first change", func() bool { return r.Status().Connected && r.Status().Seen > 0 })
	return r
}

func at(endpoints ...string) store.Config { return store.Config{Endpoints: endpoints} }

func (r *rig) read(ctx context.Context) {
	for {
		c, err := r.Next(ctx)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.changes = append(r.changes, c)
		r.got.add(c)
		r.mu.Unlock()
		signal(r.change)
	}
}

func (r *rig) all() []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

// await waits until something is so.
func (r *rig) await(what string, ok func() bool) {
	r.t.Helper()
	const patience = 3 * recovery // other tests have the processors, too
	limit, tick := time.After(patience), time.NewTicker(10*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-r.change:
		case <-tick.C:
		case <-limit:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("no %s within %v: %+v\n%s", what, patience, r.Watcher.Status(), r.log.String())
		}
	}
}

// same waits for the reader to have what a new watcher lists.
func (r *rig) same(when string) {
	r.t.Helper()
	var diff string
	limit := time.Now().Add(recovery)
	for {
		diff = r.diff()
		if diff == "" {
			return
		}
		if time.Now().After(limit) {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("%s, after %v: (-list +changes):\n%s\n%+v\n%s", when, recovery, diff, r.Watcher.Status(), r.log.String())
		}
		select {
		case <-r.change:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (r *rig) diff() string {
	fresh := newWatcher(quick, etcd{r.etcd, prefix, new(store.Store).Tracked, never})
	ctx, cancel := context.WithTimeout(r.t.Context(), recovery)
	defer cancel()
	l, _, err := fresh.read(ctx)
	if err != nil {
		return err.Error()
	}
	fresh.state.replace(l)
	r.mu.Lock()
	defer r.mu.Unlock()
	return differ(r.got, fresh.state.sum())
}

// write is one transaction.
func (r *rig) write(kv ...string) int64 {
	r.t.Helper()
	return write(r.t, r.etcd, pairs(kv...))
}

func write(t errorer, client *clientv3.Client, values map[string]*string) int64 {
	t.Helper()
	var ops []clientv3.Op
	for key, value := range values {
		if value == nil {
			ops = append(ops, clientv3.OpDelete(prefix+key))
		} else {
			ops = append(ops, clientv3.OpPut(prefix+key, *value))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*recovery) // not what is tested
	defer cancel()
	resp, err := client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		t.Fatalf("write: %v", err)
	}
	return resp.Header.Revision
}

func (r *rig) lost() {
	r.t.Helper()
	r.await("loss of etcd", func() bool { return !r.Status().Connected })
}

// TestEtcdsOwnWatchStaysMuteAfterARestore is why this package exists: the client's
// watch goes on without a word, and nothing comes any more.
func TestEtcdsOwnWatchStaysMuteAfterARestore(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	direct := m.Client()
	write(t, direct, pairs(backendA, good))
	old := m.Snapshot()
	for range 5 {
		write(t, direct, pairs(backendA, better))
	}
	r := watch(t, direct, at(m.Endpoint()))
	seen := r.Status().Seen
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(t.Context()))
	defer cancel()
	theirs := connect(t, at(m.Endpoint())).Client().Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(seen+1), clientv3.WithProgressNotify(), clientv3.WithCreatedNotify())
	if first := <-theirs; !first.Created {
		t.Fatalf("response = %+v, want the watch created", first)
	}

	m.Restore(old)
	revision := r.write(backendB, good)
	if revision > seen {
		t.Fatalf("revision is %d after the restore, want at most the %d of before", revision, seen)
	}
	r.same("after the restore")
	select {
	case response := <-theirs:
		t.Errorf("etcd's own watch said %+v; then it may be used", response)
	case <-time.After(time.Second):
	}
	if got := r.Status().Seen; got > revision {
		t.Errorf("seen = %d, want at most %d", got, revision)
	}
	last := r.all()[len(r.all())-1]
	if last.Revision > revision {
		t.Errorf("last change is of revision %d, want at most %d", last.Revision, revision)
	}
}

func TestRealEtcd(t *testing.T) {
	t.Parallel()
	fill := func(r *rig) {
		r.write(backendA, good, backendB, good, "backends/c", good)
		r.write("backends/c", bad)
		r.same("at the start")
	}
	for _, tt := range []struct {
		name string
		run  func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig)
	}{
		{"stopped and started", func(t *testing.T, m *storetest.Member, _ *storetest.Proxy, r *rig) {
			m.Stop()
			r.lost()
			m.Start()
			r.write(backendA, better)
			r.same("after the start")
			if s := r.Status(); s.Relists != 0 {
				t.Errorf("%d relists, want none", s.Relists)
			}
		}},
		{"compacted while cut off", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			proxy.Cut()
			r.lost()
			r.write(backendA, better, backendB, "")
			m.Compact(r.write("backends/d", good))
			proxy.Heal()
			r.await("relist", func() bool { return r.Status().Relists == 1 && r.Status().Seen >= 5 })
			if last := r.all()[len(r.all())-1]; len(last.Puts) != 2 || len(last.Deletes) != 1 {
				t.Errorf("last change = %+v, want the difference only", last)
			}
			if c := r.sum()[keyOf(t, "backends/c")]; c.Rejected == nil || c.Definition == nil {
				t.Errorf("item = %+v, want its valid version remembered, which etcd forgot", c)
			}
			r.write("backends/c", better)
			r.same("after the compaction")
		}},
		{"compacted while cut off, nothing of ours changed", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			proxy.Cut()
			r.lost()
			var revision int64
			for range 3 {
				resp, err := r.etcd.Put(t.Context(), "/elsewhere", "x")
				if err != nil {
					t.Fatal(err)
				}
				revision = resp.Header.Revision
			}
			m.Compact(revision)
			proxy.Heal()
			r.await("connection", func() bool { return r.Status().Connected && r.Status().Seen >= revision })
			r.write(backendA, better, "backends/c", better)
			r.same("after the compaction")
			if s := r.Status(); s.Relists != 0 {
				t.Errorf("%d relists, want none", s.Relists)
			}
		}},
		{"restored, other values at the same revisions", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			old := m.Snapshot()
			r.write(backendA, better)
			r.write(backendB, better)
			r.write("backends/gone", good)
			r.same("before")
			before := len(r.all())
			proxy.Cut()
			r.lost()
			m.Restore(old)
			r.write(backendA, best)
			r.write(backendB, better)
			for range 20 {
				r.write("colours/red", "x")
			}
			proxy.Heal()
			r.same("after the restore")
			for _, c := range r.all()[before:] {
				for _, item := range c.Puts {
					if item.Key.Name != "a" {
						t.Errorf("%v is in a change, although it did not change", item.Key)
					}
				}
			}
		}},
		{"restored to an older revision", func(t *testing.T, m *storetest.Member, _ *storetest.Proxy, r *rig) {
			old := m.Snapshot()
			for range 10 {
				r.write(backendA, better)
			}
			r.same("before")
			m.Restore(old)
			r.same("after the restore")
			r.write(backendB, best)
			r.same("after a put")
		}},
		{"another cluster", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			proxy.Cut()
			r.lost()
			m.Replace()
			for range 30 {
				r.write(backendB, best)
			}
			proxy.Heal()
			r.same("after the replacement")
		}},
		{"an empty cluster, until a key appears", func(t *testing.T, m *storetest.Member, _ *storetest.Proxy, r *rig) {
			m.Replace()
			r.await("hold", func() bool { return r.Status().Held != "" })
			if len(r.sum()) != 3 {
				t.Errorf("%d keys, want all kept", len(r.sum()))
			}
			r.write("backends/new", good)
			r.same("after a key appeared")
			r.await("end of the hold", func() bool { return r.Status().Held == "" })
		}},
		{"emptied, until acknowledged", func(t *testing.T, m *storetest.Member, _ *storetest.Proxy, r *rig) {
			m.Wipe()
			r.await("hold", func() bool { return r.Status().Held != "" })
			if len(r.sum()) != 3 {
				t.Errorf("%d keys, want all kept", len(r.sum()))
			}
			r.write("ack", "1000")
			r.same("after the acknowledgement")
		}},
		{"all deleted while cut off", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			proxy.Cut()
			r.lost()
			if _, err := r.etcd.Delete(t.Context(), prefix, clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
			proxy.Heal()
			r.same("after the deletion")
			if len(r.sum()) != 0 {
				t.Errorf("%d keys, want none", len(r.sum()))
			}
		}},
		{"all deleted and compacted while cut off", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			proxy.Cut()
			r.lost()
			resp, err := r.etcd.Delete(t.Context(), prefix, clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			m.Compact(resp.Header.Revision)
			proxy.Heal()
			r.same("after the deletion")
		}},
		{"packets lost", func(t *testing.T, m *storetest.Member, proxy *storetest.Proxy, r *rig) {
			proxy.Blackhole()
			r.write(backendA, better)
			r.lost()
			proxy.Heal()
			r.same("after the partition")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := storetest.Etcd(t)
			proxy := storetest.NewProxy(t, m.Address())
			r := watch(t, m.Client(), at(proxy.Endpoint()))
			fill(r)
			tt.run(t, m, proxy, r)
			r.await("proof of freshness", func() bool {
				s := r.Status()
				return s.Connected && s.Error == "" && time.Since(s.Fresh) < 2*quick.ProofInterval
			})
		})
	}
}

func (r *rig) sum() sum {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got
}

func TestALostLeaderAndALostMember(t *testing.T) {
	t.Parallel()
	members := storetest.Cluster(t, 3)
	r := watch(t, members[0].Client(), at(storetest.Endpoints(members)...))
	r.write(backendA, good)
	r.same("at the start")

	// The member watched goes away: another one serves.
	for i, m := range members {
		if m.Address() == r.Status().Endpoint {
			m.Stop()
			r.etcd = members[(i+1)%3].Client()
			r.write(backendA, better)
			r.same("with two members")
			if got := r.Status().Endpoint; got == m.Address() {
				t.Errorf("endpoint = %s, which was stopped", got)
			}
			m.Start()
			break
		}
	}
	// Of three only one is left, which has no leader.
	members[1].Stop()
	members[2].Stop()
	r.lost()
	members[1].Start()
	members[2].Start()
	r.etcd = members[0].Client()
	r.write(backendB, better)
	r.same("with all members again")
}

func TestExpiredAuthentication(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	ctx, root := t.Context(), m.Client()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(root.UserAdd(ctx, "root", "secret"))
	must(root.UserGrantRole(ctx, "root", "root"))
	must(root.RoleAdd(ctx, "reader"))
	must(root.RoleGrantPermission(ctx, "reader", prefix, clientv3.GetPrefixRangeEnd(prefix), clientv3.PermissionType(clientv3.PermRead)))
	must(root.UserAdd(ctx, "node", "node"))
	must(root.UserGrantRole(ctx, "node", "reader"))
	must(root.AuthEnable(ctx))
	admin := connect(t, store.Config{Endpoints: []string{m.Endpoint()}, User: "root", Password: "secret"}).Client()
	proxy := storetest.NewProxy(t, m.Address())

	// The defaults: a password takes etcd long enough to check to slow itself down.
	r := watchAs(t, Config{}, admin, store.Config{Endpoints: []string{proxy.Endpoint()}, User: "node", Password: "node"})
	r.write(backendA, good)
	r.same("with a password")

	m.Restart() // tokens are in memory: every one is invalid now
	r.write(backendA, better)
	r.same("after the tokens were lost")

	must(admin.UserRevokeRole(ctx, "node", "reader"))
	proxy.Cut()
	r.lost()
	proxy.Heal()
	r.await("refusal", func() bool { return strings.Contains(r.Status().Error, "permission denied") })
	if len(r.sum()) != 1 {
		t.Errorf("%d keys, want all kept", len(r.sum()))
	}
	must(admin.UserGrantRole(ctx, "node", "reader"))
	r.write(backendB, better)
	r.same("with the permission again")
}

func TestLargeResponsesAreReceivedInFragments(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, m.Address())
	r := watch(t, m.Client(), at(proxy.Endpoint()))
	proxy.Cut()
	r.lost()
	var revisions []int64
	large := `{"host":"` + strings.Repeat("x", 40<<10) + `"}`
	for range 5 {
		txn := map[string]*string{}
		for i := range 25 { // 1 MB; five of them are more than one response may have
			txn[fmt.Sprintf("backends/b%02d", i)] = &large
		}
		revisions = append(revisions, write(t, r.etcd, txn))
	}
	proxy.Heal()
	r.await("changes", func() bool { return len(r.all()) == 6 })
	for i, c := range r.all()[1:] {
		if c.Revision != revisions[i] || len(c.Puts) != 25 || c.Listed {
			t.Errorf("change %d is of revision %d with %d puts, want %d with 25", i, c.Revision, len(c.Puts), revisions[i])
		}
	}
}

// TestWhatIsAssumedOfEtcd holds etcd to what the model, and so the proofs, rely on.
func TestWhatIsAssumedOfEtcd(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	client := m.Client()
	s := etcd{client, prefix, new(store.Store).Tracked, never}
	ctx := t.Context()
	first := write(t, client, pairs(backendA, good, backendB, good, "stray", "x"))
	second := write(t, client, pairs(backendA, better, backendB, ""))

	if count, touched, h, err := s.survey(ctx, second); err != nil || count != 2 || touched || h.revision != second || h.cluster == 0 || h.term == 0 {
		t.Errorf("survey since the last revision: count %d, touched %t, %+v, %v", count, touched, h, err)
	}
	if count, touched, _, err := s.survey(ctx, first); err != nil || count != 2 || !touched {
		t.Errorf("survey since the first revision: count %d, touched %t, %v; the count must be of all", count, touched, err)
	}
	if count, err := s.count(ctx, first); err != nil || count != 3 {
		t.Errorf("count at the first revision = %d, %v, want 3", count, err)
	}
	keys := []string{backendA, backendB, "none"}
	then, h, err := s.read(ctx, keys, first)
	if err != nil || then[0].mod != first || then[1] == nil || then[2] != nil || h.revision != second {
		t.Errorf("read at the first revision = %v, %+v, %v", then, h, err)
	}
	if p, err := s.page(ctx, "", 1, first); err != nil || len(p.entries) != 1 || p.next != backendA+"\x00" || p.revision != second {
		t.Errorf("page = %+v, %v, want one key and the present revision", p, err)
	}
	if _, _, err := s.read(ctx, keys, second+1); !errors.Is(err, rpctypes.ErrFutureRev) {
		t.Errorf("read of the future: %v, want ErrFutureRev", err)
	}
	m.Compact(second)
	if _, _, err := s.read(ctx, keys, first); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("read of the past: %v, want ErrCompacted", err)
	}
	if _, err := s.count(ctx, first); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("count of the past: %v, want ErrCompacted", err)
	}
	if _, err := s.page(ctx, "", 1, first); !errors.Is(err, rpctypes.ErrCompacted) {
		t.Errorf("list of the past: %v, want ErrCompacted", err)
	}

	ctx, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	w, err := s.watch(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	created, err := w.recv()
	if err != nil || !created.created {
		t.Fatalf("first response = %+v, %v, want the watch created", created, err)
	}
	if got, err := w.recv(); err != nil || got.compacted != second || got.canceled == nil {
		t.Errorf("watch of the past = %+v, %v, want it canceled as compacted at %d", got, err, second)
	}
	w, err = s.watch(ctx, second+1)
	if err != nil {
		t.Fatal(err)
	}
	if w.endpoint() != "" && w.endpoint() != m.Address() {
		t.Errorf("endpoint = %q, want %q", w.endpoint(), m.Address())
	}
	if created, err := w.recv(); err != nil || !created.created {
		t.Fatalf("first response = %+v, %v, want the watch created", created, err)
	}
	if w.endpoint() != m.Address() {
		t.Errorf("endpoint = %q, want %q", w.endpoint(), m.Address())
	}
	third := write(t, client, pairs(backendA, good, "stray", ""))
	got, err := w.recv()
	if err != nil || len(got.events) != 2 || got.fragment {
		t.Fatalf("response = %+v, %v, want two events", got, err)
	}
	for _, e := range got.events {
		if e.mod != third || e.gone != (e.key == "stray") {
			t.Errorf("event = %+v", e)
		}
	}
	if err := w.askProgress(); err != nil {
		t.Fatal(err)
	}
	if got, err := w.recv(); err != nil || !got.progress() || got.revision != third {
		t.Errorf("answer to a progress request = %+v, %v, want revision %d", got, err, third)
	}
}

// TestAnyRealHistory does with etcd what TestAnyHistory does with the model, with
// a few long runs, and lets a second watcher start in the middle.
func TestAnyRealHistory(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	proxy := storetest.NewProxy(t, m.Address())
	r := watch(t, m.Client(), at(proxy.Endpoint()))
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	draw := rapid.Custom(drawWrite)
	saved := m.Snapshot()
	for range 8 {
		seed := random.Int()
		for i := range 30 {
			write(t, r.etcd, draw.Example(seed+i))
		}
		r.same("after writes")
		switch random.IntN(5) {
		case 0:
			proxy.Cut()
			r.lost()
			m.Compact(write(t, r.etcd, draw.Example(seed)) - 1)
			proxy.Heal()
			write(t, r.etcd, pairs("backends/a", good, "backends/b", good, "backends/team/c", good, "directors/d", "", "health/a", "", "backends/9", ""))
		case 1:
			m.Restart()
		case 2:
			saved = m.Snapshot()
		case 3:
			m.Restore(saved)
			write(t, r.etcd, draw.Example(seed))
			write(t, r.etcd, pairs("backends/z", good)) // or an empty one would be held
		case 4:
			m.Replace()
			write(t, r.etcd, pairs("backends/z", good))
			saved = m.Snapshot()
		}
		r.same("after a disturbance")
		other := watch(t, r.etcd, at(m.Endpoint()))
		other.same("of a new watcher")
		other.stop()
	}
}

func TestRunLeavesNothingBehind(t *testing.T) {
	m := storetest.Etcd(t)
	client := m.Client()
	write(t, client, pairs(backendA, good))
	source := etcd{client, prefix, new(store.Store).Tracked, never}
	ignore := []goleak.Option{
		goleak.IgnoreCurrent(),
		goleak.IgnoreAnyFunction("google.golang.org/grpc.(*addrConn).connect"), // the client's, not ours
	}
	for _, stopped := range []bool{false, true} {
		w := newWatcher(quick, source)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.Run(ctx) }()
		if !stopped {
			if _, err := w.Next(ctx); err != nil {
				t.Fatal(err)
			}
		} else {
			m.Stop()
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v, want nil after cancellation", err)
		}
		if _, err := w.Next(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Next = %v, want the context's error", err)
		}
		goleak.VerifyNone(t, ignore...)
	}
}
