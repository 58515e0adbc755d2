package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// A lab is a fleet on three members of etcd, each node on an island of its own, and
// somebody who changes definitions all the time.
type lab struct {
	t       *testing.T
	etcd    *harness.Etcd
	islands []*harness.Island
	nodes   []*harness.Node
	origins []*harness.Origin
	writer  *writer
	quota   int  // etcd's --quota-backend-bytes: small, so that it can be filled
	long    bool // faults last as long as the table of docs/PERFORMANCE.md says
}

// newLab starts etcd and origins. The first origins are as long as the test is there.
func newLab(t *testing.T, quota, origins int) *lab {
	t.Helper()
	l := &lab{t: t, islands: harness.NewIslands(t, 3), quota: quota, writer: &writer{}}
	l.etcd = harness.StartEtcdAt(t, l.islands[0].EtcdHost, 3, fmt.Sprint("--quota-backend-bytes=", quota))
	for i := range origins {
		l.origins = append(l.origins, harness.StartOriginAt(t, l.islands[0].OriginHost, fmt.Sprintf("origin-%d", i)))
	}
	return l
}

// startNodes starts a node on each island.
func (l *lab) startNodes(config func(i int) harness.NodeConfig) {
	l.t.Helper()
	for i, island := range l.islands {
		c := config(i)
		c.Etcd, c.ID, c.Island = l.etcd.EndpointsAtHost(), fmt.Sprintf("node-%d", i), island
		l.nodes = append(l.nodes, harness.StartNode(l.t, c))
	}
}

// lasting is a duration of the short form of a fault or of the long one.
func (l *lab) lasting(short, whole time.Duration) time.Duration {
	if l.long {
		return whole
	}
	return short
}

// put writes with a limit of time, as often as it takes, and returns the revision.
func (l *lab) put(t *testing.T, key, value string) (rev int64) {
	t.Helper()
	harness.Until(t, "etcd to take a put", func() (bool, any) {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		r, err := l.etcd.Client().Put(ctx, key, value)
		if err != nil {
			return false, err
		}
		rev = r.Header.Revision
		return true, nil
	})
	return rev
}

// A writer puts definitions, one at a time, and counts.
type writer struct {
	taken, refused atomic.Int64
}

// startWriter changes one of ten backends every 100 ms. A put that is not answered
// within a second counts as refused.
func (l *lab) startWriter() {
	client, w := l.etcd.Client(), l.writer
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			put, cancel := context.WithTimeout(ctx, time.Second)
			_, err := client.Put(put, fmt.Sprintf("%schanged-%d", backendsPrefix, i%10), l.origins[0].Definition(fmt.Sprintf(`"comment": "%d"`, i)))
			cancel()
			if err != nil {
				w.refused.Add(1)
			} else {
				w.taken.Add(1)
			}
		}
	})
	l.t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// routedBy is the revision that a node routes requests by.
func routedBy(n *harness.Node) (rev int64, err error) {
	var c harness.Checker
	defer c.Close()
	r := c.Do(n, harness.Check{Method: "GET", Host: "www.example", Path: "/"})
	if r.Failed() {
		return 0, errors.New(r.String())
	}
	_, err = fmt.Sscan(r.Header.Get("X-Roster-Revision"), &rev)
	return rev, err
}

// reaches waits until a put that is begun now is served by every node. It returns how long
// after since etcd took the put, and the last node served it.
func (l *lab) reaches(t *testing.T, since time.Time) (taken, served time.Duration) {
	t.Helper()
	rev := l.put(t, backendsPrefix+"marker", l.origins[0].Definition())
	taken = time.Since(since)
	for _, n := range l.nodes { // one after the other: the last is as late as the latest
		harness.Until(t, fmt.Sprintf("revision %d in the answers of %s", rev, n.Address()), func() (bool, any) {
			got, err := routedBy(n)
			return err == nil && got >= rev, fmt.Sprint(got, err)
		})
	}
	return taken, time.Since(since)
}

// converge is reaches, and waits until all nodes have the same definitions and say in etcd
// that they are there.
func (l *lab) converge(t *testing.T, since time.Time) (taken, served time.Duration) {
	t.Helper()
	taken, served = l.reaches(t, since)
	harness.Until(t, "the same digest of all at one revision", func() (bool, any) {
		seen := map[string]bool{}
		for _, n := range l.nodes {
			st := n.For(t).Status()
			seen[fmt.Sprint(st.Revision, " ", st.Digest)] = true
			if !st.Etcd.Connected {
				return false, fmt.Sprintf("%s: %+v", n.Address(), st.Etcd)
			}
		}
		return len(seen) == 1, seen
	})
	l.present(t)
	return taken, served
}

// present waits until etcd has the presence of each node, once.
func (l *lab) present(t *testing.T) {
	t.Helper()
	harness.Until(t, "presence of all nodes", func() (bool, any) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		r, err := l.etcd.Client().Get(ctx, "/roster-nodes/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
		if err != nil {
			return false, err
		}
		var ids []string
		for _, kv := range r.Kvs {
			ids = append(ids, strings.Split(string(kv.Key), "/")[2])
		}
		return len(ids) == len(l.nodes), ids
	})
}

// lasts waits for a part of a fault.
func lasts(t *testing.T, d time.Duration) {
	t.Helper()
	begun := time.Now()
	harness.Within(t, d+harness.WaitLimit, d.String(), func() (bool, any) { return time.Since(begun) >= d, nil })
}

// TestFaults breaks etcd, and what leads to it, in every way that the table has, under
// traffic to all nodes: no request fails, and afterwards all nodes serve what etcd has. It
// prints the table of docs/PERFORMANCE.md. The long form has the durations of that.
func TestFaults(t *testing.T) {
	t.Parallel()
	l := newLab(t, 24<<20, 2)
	l.long = harness.Long()
	for i, o := range l.origins {
		l.etcd.Put(fmt.Sprintf("%sweb-%d", backendsPrefix, i), o.Definition(`"probe": {"expect_close": false, "interval": "1s"}`))
	}
	l.etcd.Put(directorKey, `{"type": "round_robin", "backends": ["web-0", "web-1"]}`)
	l.startNodes(func(int) harness.NodeConfig { return harness.NodeConfig{Args: []string{"--revision-header"}} })
	var traffic []*load // one for each node
	for i, n := range l.nodes {
		one := &load{
			t: t, pause: 25 * time.Millisecond, seed: uint64(i),
			pick: func(r *rand.Rand) (target, bool) { return target{Node: n}, r.IntN(3) == 0 },
			next: func(r *rand.Rand) harness.Check { return someCheck(r, "www.example", "/") },
		}
		one.run(3)
		traffic = append(traffic, one)
	}
	l.startWriter()
	rows := []string{"| fault | it lasted | requests | failed | puts meanwhile, refused | a put is taken after | and served by all after |", "| --- | --- | --- | --- | --- | --- | --- |"}
	for _, fault := range []struct {
		name string
		run  func(t *testing.T) // returns when the fault has ended
	}{
		{"none", func(t *testing.T) { lasts(t, l.lasting(time.Second, 10*time.Second)) }},
		{"kill -9 of etcd's leader", l.killLeader},
		{"no quorum", l.loseQuorum},
		{"a frozen leader", l.freezeLeader},
		{"a node cut off from etcd", func(t *testing.T) { l.cutOff(t, 2) }},
		{"members restarted one by one", l.restartMembers},
		{"compaction and defragmentation", l.compact},
		{"a slow leader, stopped 800 ms of each second", l.slowLeader},
		{"no space", l.fill},
	} {
		t.Run(fault.name, func(t *testing.T) {
			var requests int64
			var failed []int
			for _, one := range traffic {
				requests -= one.requests.Load()
				failed = append(failed, len(one.failures(0)))
			}
			taken, refused := l.writer.taken.Load(), l.writer.refused.Load()
			begun := time.Now()
			fault.run(t)
			ended := time.Now()
			taken, refused = l.writer.taken.Load()-taken, l.writer.refused.Load()-refused
			putAfter, servedAfter := l.converge(t, ended)
			var failures []failure
			for i, one := range traffic {
				requests += one.requests.Load()
				failures = append(failures, one.failures(failed[i])...)
			}
			if len(failures) > 0 || requests == 0 {
				t.Errorf("%d of %d requests failed, the first:\n%s", len(failures), requests, firstOf(failures))
			}
			rows = append(rows, fmt.Sprintf("| %s | %.1f s | %d | %d | %d, %d | %v | %v |", fault.name, ended.Sub(begun).Seconds(), requests, len(failures),
				taken+refused, refused, putAfter.Round(time.Millisecond), servedAfter.Round(time.Millisecond)))
		})
	}
	t.Logf("3 nodes, 3 members of etcd\n%s", strings.Join(rows, "\n"))
}

// killLeader kills the member that leads. It comes back after the others have another.
func (l *lab) killLeader(t *testing.T) {
	leader := l.etcd.Leader()
	l.etcd.Member(leader).Kill()
	if next := l.etcd.Leader(); next == leader {
		t.Errorf("member %d leads after it was killed", next)
	}
	l.put(t, backendsPrefix+"with-two", l.origins[0].Definition())
	lasts(t, l.lasting(time.Second, 20*time.Second))
	l.etcd.StartMembers(leader)
}

// loseQuorum kills two of three members, the leader among them.
func (l *lab) loseQuorum(t *testing.T) {
	leader := l.etcd.Leader()
	dead := []int{leader, (leader + 1) % 3}
	for _, i := range dead {
		l.etcd.Member(i).Kill()
	}
	refused := l.writer.refused.Load()
	lasts(t, l.lasting(5*time.Second, time.Minute))
	if l.writer.refused.Load() == refused {
		t.Error("no put was refused without a quorum")
	}
	for _, n := range l.nodes {
		n.For(t).WaitStatus("etcd.connected false", func(st harness.Status) bool { return !st.Etcd.Connected && st.Ready })
	}
	l.etcd.StartMembers(dead...)
}

// freezeLeader stops the member that leads, whose connections stand. The others have a
// leader soon, and nodes find their way to them while it is stopped: after 13 s at most,
// when keep-alive has ended what stands.
func (l *lab) freezeLeader(t *testing.T) {
	frozen := l.etcd.Member(l.etcd.Leader())
	frozen.Signal(syscall.SIGSTOP)
	defer frozen.Signal(syscall.SIGCONT)
	stopped := time.Now()
	taken, served := l.reaches(t, stopped)
	t.Logf("while it is frozen a put is taken after %v, and served by all after %v", taken.Round(time.Millisecond), served.Round(time.Millisecond))
	lasts(t, l.lasting(0, time.Minute)-time.Since(stopped))
}

// cutOff loses every packet between a node and etcd. The others go on, and it serves
// what it has, and says so.
func (l *lab) cutOff(t *testing.T, i int) {
	cut := l.nodes[i].For(t)
	l.islands[i].Cut()
	before, err := routedBy(cut)
	if err != nil {
		t.Fatal(err)
	}
	rev := l.put(t, backendsPrefix+"unseen", l.origins[0].Definition())
	for j, n := range l.nodes {
		if j != i {
			n.For(t).WaitRevision(rev)
		}
	}
	cut.WaitStatus("etcd.connected false", func(st harness.Status) bool { return !st.Etcd.Connected && st.Ready })
	lasts(t, l.lasting(0, 40*time.Second)) // longer than its presence lasts
	if got, err := routedBy(cut); err != nil || got >= rev {
		t.Errorf("a node that is cut off serves by revision %d (%v), by %d when it was cut, and %d came after", got, err, before, rev)
	}
	l.islands[i].Heal()
}

// restartMembers ends each member in an orderly way and starts it again.
func (l *lab) restartMembers(t *testing.T) {
	for i := range 3 {
		l.etcd.Member(i).Terminate()
		l.put(t, backendsPrefix+"with-two", l.origins[0].Definition())
		l.etcd.StartMembers(i)
		lasts(t, l.lasting(0, 5*time.Second))
	}
}

// bulk writes n keys of 1 MiB that no node looks at, until an error.
func (l *lab) bulk(n int) error {
	value := strings.Repeat("x", 1<<20)
	for i := range n {
		ctx, cancel := context.WithTimeout(context.Background(), harness.WaitLimit)
		_, err := l.etcd.Client().Put(ctx, fmt.Sprint("/bulk/", i), value)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// free deletes what bulk wrote, and gives the space back.
func (l *lab) free(t *testing.T) {
	t.Helper()
	rev := harness.Delete(t, l.etcd.Endpoints(), "/bulk/", "--prefix")
	l.etcd.Ctl("compaction", fmt.Sprint(rev), "--physical")
	for i := range 3 {
		harness.Ctl(t, l.etcd.Address(i), "defrag", "--command-timeout=20s")
	}
}

// compact compacts the history up to now and defragments all members.
func (l *lab) compact(t *testing.T) {
	rounds := 1
	if l.long {
		rounds = 5
	}
	for range rounds {
		if err := l.bulk(10); err != nil {
			t.Fatal(err)
		}
		l.free(t)
	}
}

// slowLeader stops whichever member leads for 800 ms of each second.
func (l *lab) slowLeader(t *testing.T) {
	taken := l.writer.taken.Load()
	for begun := time.Now(); time.Since(begun) < l.lasting(10*time.Second, time.Minute); {
		leader := l.etcd.Member(l.etcd.Leader())
		leader.Signal(syscall.SIGSTOP)
		lasts(t, 800*time.Millisecond)
		leader.Signal(syscall.SIGCONT)
		lasts(t, 200*time.Millisecond)
	}
	if l.writer.taken.Load() == taken {
		t.Error("a slow etcd took no put at all: that is another fault")
	}
}

// fill writes until etcd has no space. It takes no put then, and no new lease: what is
// there goes on, leases that are kept alive and those that end included, and a node may
// start.
func (l *lab) fill(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*harness.WaitLimit)
	defer cancel()
	client := l.etcd.Client()
	var lease clientv3.LeaseID
	harness.Until(t, "a backend under a lease", func() (bool, any) {
		r, err := client.Grant(ctx, 600)
		if err != nil {
			return false, err
		}
		lease = r.ID
		_, err = client.Put(ctx, backendsPrefix+"ending", l.origins[0].Definition(), clientv3.WithLease(lease))
		return err == nil, err
	})
	if err := l.bulk(2 * l.quota >> 20); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Fatalf("etcd is filled: %v, want %v", err, rpctypes.ErrNoSpace)
	}
	full := time.Now()
	harness.Until(t, "each member to know of no space", func() (bool, any) {
		_, err := client.Grant(ctx, 5)
		return errors.Is(err, rpctypes.ErrNoSpace), err
	})
	refused := l.writer.refused.Load()
	if _, err := client.Revoke(ctx, lease); err != nil {
		t.Fatal(err)
	}
	for _, n := range l.nodes {
		n.For(t).WaitStatus("the end of a lease", func(st harness.Status) bool {
			return st.Etcd.Connected && !strings.Contains(n.For(t).AdminGet("/v1/backends").Body, `"ending"`)
		})
	}
	// One that starts serves, though it cannot say that it is there.
	late := harness.StartNode(t, harness.NodeConfig{Etcd: l.etcd.EndpointsAtHost(), ID: "late", Island: l.islands[0]})
	if a := late.Get("/"); a.Status != 200 {
		t.Errorf("a node that starts while etcd is full answers %v", a)
	}
	if code := late.Terminate(); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	lasts(t, l.lasting(12*time.Second, time.Minute)-time.Since(full)) // longer than presence lasts by itself
	l.present(t)
	if l.writer.refused.Load() == refused {
		t.Error("no put was refused without space")
	}
	l.free(t)
	l.etcd.Ctl("alarm", "disarm")
}
