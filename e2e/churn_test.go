package e2e_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// What a soak's definitions are:
//
//   - anchor-0 and anchor-1, on origins that are always there, are members of every
//     director and never change, so that each request has somebody to answer it;
//   - member-N, on origins that go down, come, change, go, and are overridden;
//   - leased-N, on an origin that is always there, is under a lease, and N is new each time;
//   - pool-N are directors and host-N.test routes to them, any of which may be as it likes;
//   - pair is a backend with a route, which are put in one transaction always: the field
//     that the route sets has to be the Host that the backend sets.
const (
	soakMembers = 12
	pools       = 4
	hosts       = 10
	anchors     = `"anchor-0", "anchor-1"`
)

// churn changes definitions at random.
type churn struct {
	lab    *lab
	count  *writer
	serial atomic.Int64
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	leases []clientv3.LeaseID // the newest few
}

// churnRate is how many changes are begun each second.
const churnRate = 50

// startChurn starts writers that together make churnRate changes a second. A change that
// etcd has not answered within a second counts as refused; it may come later.
func startChurn(l *lab, seed uint64) *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{lab: l, count: l.writer, cancel: cancel}
	const writers = 5
	for i := range writers {
		random := rand.New(rand.NewPCG(seed, 1000+uint64(i)))
		c.wg.Go(func() {
			tick := time.NewTicker(writers * time.Second / churnRate)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					c.change(ctx, random)
				}
			}
		})
	}
	l.t.Cleanup(c.end)
	return c
}

// end stops the writers. Twice is no harm.
func (c *churn) end() {
	c.cancel()
	c.wg.Wait()
}

func (c *churn) change(ctx context.Context, r *rand.Rand) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var err error
	if kind := r.IntN(20); kind < 3 {
		err = c.lease(ctx, r)
	} else {
		var ops []clientv3.Op
		if kind < 5 { // several at once
			for _, key := range r.Perm(soakMembers)[:2+r.IntN(4)] {
				ops = append(ops, c.member(r, key))
			}
			ops = append(ops, c.pool(r, r.IntN(pools)), c.route(r, r.IntN(hosts)))
		} else {
			ops = c.one(r)
		}
		_, err = c.lab.etcd.Client().Txn(ctx).Then(ops...).Commit()
	}
	if err != nil {
		c.count.refused.Add(1)
	} else {
		c.count.taken.Add(1)
	}
}

func (c *churn) one(r *rand.Rand) []clientv3.Op {
	switch r.IntN(8) {
	case 0:
		return []clientv3.Op{c.pool(r, r.IntN(pools))}
	case 1:
		return []clientv3.Op{c.route(r, r.IntN(hosts))}
	case 2, 3:
		return c.pair(c.serial.Add(1))
	case 4:
		return []clientv3.Op{override(r)}
	}
	return []clientv3.Op{c.member(r, r.IntN(soakMembers))}
}

// invalid is in every value that is to be rejected.
const invalid = `"no_such_field": 1`

// member puts, deletes or spoils a backend whose origin may be down.
func (c *churn) member(r *rand.Rand, i int) clientv3.Op {
	key := fmt.Sprint(backendsPrefix, memberName(i))
	switch r.IntN(10) {
	case 0, 1:
		return clientv3.OpDelete(key)
	case 2:
		return clientv3.OpPut(key, c.origin(i).Definition(invalid))
	}
	more := []string{fmt.Sprintf(`"comment": "%d"`, c.serial.Add(1)), fmt.Sprintf(`"idle_timeout": "%ds"`, 1+r.IntN(4))}
	switch r.IntN(4) {
	case 0:
		more = append(more, `"probe": "none"`)
	case 1:
		more = append(more, fmt.Sprintf(`"probe": {"expect_close": false, "interval": "%dms", "window": %d, "threshold": 2}`, 100*(1+r.IntN(10)), 2+r.IntN(6)))
	case 2:
		more = append(more, fmt.Sprintf(`"host_header": "%s.test", "override_host": true`, memberName(i)), `"max_connections": 1000`)
	case 3:
		more = append(more, `"reuse": false`, `"first_byte_timeout": "20s"`)
	}
	return clientv3.OpPut(key, c.origin(i).Definition(more...))
}

func memberName(i int) string { return fmt.Sprint("member-", i) }

// origin of a member: one of those that go down.
func (c *churn) origin(i int) *harness.Origin { return c.lab.origins[2+i%(len(c.lab.origins)-2)] }

// pool puts a director.
func (c *churn) pool(r *rand.Rand, i int) clientv3.Op {
	some := []string{anchors, `"nobody"`}
	for _, m := range r.Perm(soakMembers)[:r.IntN(soakMembers)] {
		some = append(some, fmt.Sprintf(`{"name": %q, "weight": %d}`, memberName(m), 1+r.IntN(3)))
	}
	r.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	kind := []string{
		`"round_robin", "slow_start": "2s"`, `"random"`, `"least_connections"`, `"p2c"`, `"fallback"`, `"fallback", "sticky": true`,
		`"hash", "by": "url"`, `"shard", "by": "path"`, `"round_robin", "outlier": {"consecutive": 3, "ejection": "2s"}`,
		`"random", "cookie": {"name": "member"}`,
	}[r.IntN(10)]
	if r.IntN(3) == 0 {
		kind += `, "select": {"pool": "leased"}`
	}
	return clientv3.OpPut(fmt.Sprint("/roster/directors/pool-", i), fmt.Sprintf(`{"type": %s, "backends": [%s]}`, kind, strings.Join(some, ", ")))
}

// route puts, deletes or spoils a route. A host without one is served by the director
// default.
func (c *churn) route(r *rand.Rand, i int) clientv3.Op {
	key := fmt.Sprint("/roster/routes/route-", i)
	switch r.IntN(10) {
	case 0:
		return clientv3.OpDelete(key)
	case 1:
		return clientv3.OpPut(key, fmt.Sprintf(`{"match": {"host": "host-%d.test"}, "backend": "nobody", %s}`, i, invalid))
	}
	return clientv3.OpPut(key, fmt.Sprintf(`{"match": {"host": "host-%d.test"}, "backend": "pool-%d", "retries": %d, "response_headers": {"set": {"X-Serial": "%d"}}}`,
		i, r.IntN(pools), r.IntN(3), c.serial.Add(1)))
}

// pair puts a backend and its route, of one generation.
func (c *churn) pair(generation int64) []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpPut(backendsPrefix+"pair", c.lab.origins[1].Definition(fmt.Sprintf(`"host_header": "g%d", "override_host": true, "idle_timeout": "1s"`, generation))),
		clientv3.OpPut("/roster/routes/pair", fmt.Sprintf(`{"match": {"host": "pair.test"}, "backend": "pair", "request_headers": {"set": {%q: "g%d"}}}`, harness.EchoField, generation)),
	}
}

// whole is what a request for the host pair.test shows of a table that is not of one
// revision.
func whole(check harness.Check, r harness.Checked) string {
	if got, set := r.Header.Get(harness.HostField), r.Header.Get(harness.EchoField); check.Host == "pair.test" && (got != set || got == "") {
		return fmt.Sprintf("half of a transaction: the route is of %q and the backend of %q", set, got)
	}
	return ""
}

func override(r *rand.Rand) clientv3.Op {
	key := "/roster/health/" + memberName(r.IntN(soakMembers))
	if state := r.IntN(6); state < 4 {
		return clientv3.OpPut(key, []string{"sick", "healthy", "auto", "drain"}[state])
	}
	return clientv3.OpDelete(key)
}

// lease puts a new backend or an override under a lease, or keeps a lease alive, or ends
// one. Those that nobody keeps alive end by themselves.
func (c *churn) lease(ctx context.Context, r *rand.Rand) error {
	client := c.lab.etcd.Client()
	c.mu.Lock()
	var old clientv3.LeaseID
	if len(c.leases) > 0 {
		old = c.leases[r.IntN(len(c.leases))]
	}
	c.mu.Unlock()
	switch what := r.IntN(4); {
	case what == 0 && old != 0:
		client.KeepAliveOnce(ctx, old) // it may have ended
		return ctx.Err()
	case what == 1 && old != 0:
		client.Revoke(ctx, old)
		return ctx.Err()
	}
	lease, err := client.Grant(ctx, 2+r.Int64N(4))
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.leases = append(c.leases, lease.ID)
	c.leases = c.leases[max(0, len(c.leases)-20):]
	c.mu.Unlock()
	if r.IntN(3) == 0 {
		_, err = client.Put(ctx, "/roster/health/"+memberName(r.IntN(soakMembers)), "sick", clientv3.WithLease(lease.ID))
		return err
	}
	_, err = client.Put(ctx, fmt.Sprint(backendsPrefix, "leased-", c.serial.Add(1)),
		c.lab.origins[0].Definition(`"labels": {"pool": "leased"}`, `"idle_timeout": "1s"`), clientv3.WithLease(lease.ID))
	return err
}

// base is what is always there, whatever the churn does.
func (c *churn) base() []clientv3.Op {
	ops := append(c.pair(0), clientv3.OpPut(directorKey, `{"type": "round_robin", "backends": [`+anchors+`]}`))
	for i := range 2 {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("%sanchor-%d", backendsPrefix, i), c.lab.origins[i].Definition(`"idle_timeout": "1s"`)))
	}
	for i := range pools {
		ops = append(ops, clientv3.OpPut(fmt.Sprint("/roster/directors/pool-", i), `{"type": "round_robin", "backends": [`+anchors+`]}`))
	}
	return ops
}

// rest makes the definitions the same as after any other call: the base, members that
// no director has, and a route for each host. The writers must have ended.
func (c *churn) rest(t *testing.T) {
	t.Helper()
	ops := c.base()
	for i := range soakMembers {
		ops = append(ops, clientv3.OpPut(backendsPrefix+memberName(i), c.origin(i).Definition(`"probe": {"expect_close": false, "interval": "1s"}`, `"idle_timeout": "1s"`)))
	}
	for i := range hosts {
		ops = append(ops, clientv3.OpPut(fmt.Sprint("/roster/routes/route-", i), fmt.Sprintf(`{"match": {"host": "host-%d.test"}, "backend": "pool-%d"}`, i, i%pools)))
	}
	for _, kind := range []string{"backends", "directors", "routes", "health"} {
		harness.Delete(t, c.lab.etcd.Endpoints(), "/roster/"+kind+"/", "--prefix")
	}
	rev := c.lab.etcd.Txn(ops...)
	for _, n := range c.lab.nodes {
		n.For(t).WaitStatus("rest", func(st harness.Status) bool { return st.Revision >= rev && st.Leaving == 0 })
	}
}

// valid deletes what is to be rejected, which a node that starts may know less of than
// one that was there before, and waits until the last lease has ended.
func (c *churn) valid(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.WaitLimit)
	defer cancel()
	harness.Until(t, "no invalid value and no lease", func() (bool, any) {
		r, err := c.lab.etcd.Client().Get(ctx, "/roster/", clientv3.WithPrefix())
		if err != nil {
			return false, err
		}
		left := 0
		for _, kv := range r.Kvs {
			bad := strings.Contains(string(kv.Value), invalid)
			if bad {
				harness.Delete(t, c.lab.etcd.Endpoints(), string(kv.Key))
			}
			if bad || kv.Lease != 0 {
				left++
			}
		}
		return left == 0, left
	})
}
