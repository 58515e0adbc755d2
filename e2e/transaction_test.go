package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// How much TestTransactionReplacesTheWholeSetAtOnce does.
const (
	setSize    = 50
	setChanges = 200
	setClients = 64 // connections to each node
)

// sets puts one set of backends after the other. Set g has the backends g<g>-<i>, whose
// answers name it. Half of the backends are at an address that only every other set
// has, so that their pools come and go; the others have the pools of the set before.
type sets struct {
	fixed, odd, even []int // ports of the origins
}

func newSets(t testing.TB) *sets {
	t.Helper()
	s := &sets{}
	for range setSize / 2 {
		s.fixed = append(s.fixed, echo(t))
		s.odd = append(s.odd, echo(t))
		s.even = append(s.even, echo(t))
	}
	return s
}

func setName(generation, i int) string { return fmt.Sprintf("g%d-%d", generation, i) }

// ops are one transaction that replaces the set before by that of a generation.
func (s *sets) ops(generation int) []clientv3.Op {
	var ops []clientv3.Op
	var members []string
	moving := s.even
	if generation%2 == 1 {
		moving = s.odd
	}
	for i, port := range append(s.fixed[:len(s.fixed):len(s.fixed)], moving...) {
		if generation > 1 {
			ops = append(ops, clientv3.OpDelete("/roster/backends/"+setName(generation-1, i)))
		}
		name := setName(generation, i)
		ops = append(ops, clientv3.OpPut("/roster/backends/"+name, echoBackend(port, name)))
		members = append(members, strconv.Quote(name))
	}
	director := fmt.Sprintf(`{"type": "round_robin", "backends": [%s]}`, strings.Join(members, ", "))
	return append(ops, clientv3.OpPut("/roster/directors/default", director))
}

// nodeSets is what all clients of one node know of it.
type nodeSets struct {
	newest   atomic.Int64 // newest generation that any client received
	requests atomic.Int64
	stale    atomic.Int64
	failures atomic.Int64

	mu    sync.Mutex
	first []string
	used  map[string]bool // backends that answered
}

func (n *nodeSets) failed(count *atomic.Int64, format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if count.Add(1); len(n.first) < 10 {
		n.first = append(n.first, fmt.Sprintf(format, args...))
	}
}

// run sends one request after the other on one connection until stop is closed.
func (n *nodeSets) run(addr string, stop <-chan struct{}) {
	c, err := dial(addr)
	if err != nil {
		n.failed(&n.failures, "connect: %v", err)
		return
	}
	defer c.conn.Close()
	used := map[string]bool{}
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		for name := range used {
			n.used[name] = true
		}
	}()
	for {
		select {
		case <-stop:
			return
		default:
		}
		known := n.newest.Load() // what somebody has received before this request is sent
		status, body, err := c.get()
		n.requests.Add(1)
		if err != nil {
			n.failed(&n.failures, "%v", err)
			return
		}
		var generation int64
		if _, err := fmt.Sscanf(body, "g%d-", &generation); err != nil || status != http.StatusOK {
			n.failed(&n.failures, "status %d: %s", status, body)
			continue
		}
		used[body] = true
		if generation < known {
			n.failed(&n.stale, "answered by %s after an answer of set %d", body, known)
		}
		for generation > known && !n.newest.CompareAndSwap(known, generation) {
			known = n.newest.Load()
		}
	}
}

// TestTransactionReplacesTheWholeSetAtOnce replaces all backends and the director that
// they are in by one transaction, again and again, under traffic on two nodes. No
// request fails; and from the first answer of a new set on, whoever received it, no
// request to that node is answered by an older one.
func TestTransactionReplacesTheWholeSetAtOnce(t *testing.T) {
	changes := setChanges
	if testing.Short() && os.Getenv("ROSTER_REQUIRE_ALL") == "" {
		changes = 40
	}
	etcd := harness.StartEtcd(t)
	s := newSets(t)
	first := etcd.Txn(s.ops(1)...)

	var nodes []*harness.Node
	var seen []*nodeSets
	stop := make(chan struct{})
	var wg sync.WaitGroup
	end := sync.OnceFunc(func() {
		close(stop)
		wg.Wait()
	})
	t.Cleanup(end)
	for i := range 2 {
		node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: fmt.Sprintf("set-%d", i+1)})
		node.WaitRevision(first)
		n := &nodeSets{used: map[string]bool{}}
		for range setClients {
			wg.Go(func() { n.run(node.Address(), stop) })
		}
		nodes, seen = append(nodes, node), append(seen, n)
	}

	// served waits for answers of a set from both nodes, and for two requests of each
	// client on average.
	served := func(generation int) {
		t.Helper()
		var before [2]int64
		for i, n := range seen {
			before[i] = n.requests.Load()
		}
		harness.Until(t, fmt.Sprintf("answers of set %d from both nodes", generation), func() (bool, any) {
			var newest, requests [2]int64
			for i, n := range seen {
				newest[i], requests[i] = n.newest.Load(), n.requests.Load()-before[i]
				if n.failures.Load() > 0 {
					return true, nil // said below
				}
			}
			return min(newest[0], newest[1]) >= int64(generation) && min(requests[0], requests[1]) >= 2*setClients,
				fmt.Sprint("newest ", newest, " requests ", requests)
		})
	}
	served(1)
	begun := time.Now()
	var last int64
	for generation := 2; generation <= 1+changes; generation++ {
		last = etcd.Txn(s.ops(generation)...)
		if generation%4 != 0 { // else the next one comes at once, and may come together with this one
			served(generation)
		}
	}
	served(1 + changes)
	took := time.Since(begun)
	end()

	for i, n := range seen {
		if n.failures.Load() > 0 || n.stale.Load() > 0 {
			t.Errorf("node %d: of %d requests %d failed and %d were answered by an old set:\n%s",
				i+1, n.requests.Load(), n.failures.Load(), n.stale.Load(), strings.Join(n.first, "\n"))
		}
		status := nodes[i].WaitRevision(last)
		if status.Counts["backends"] != setSize || status.Counts["directors"] != 1 || len(status.Dangling) > 0 {
			t.Errorf("node %d: status = %+v, want %d backends, one director and nothing dangling", i+1, status, setSize)
		}
		generations := map[string]bool{}
		for name := range n.used {
			generation, _, _ := strings.Cut(name, "-")
			generations[generation] = true
		}
		if want := changes * 3 / 4; len(generations) < want {
			t.Errorf("node %d: answers of %d sets, want at least %d", i+1, len(generations), want)
		}
		t.Logf("node %d: %d requests, answers of %d sets (%d backends)", i+1, n.requests.Load(), len(generations), len(n.used))
	}
	if a, b := nodes[0].Status().Digest, nodes[1].Status().Digest; a != b {
		t.Errorf("digests differ: %s and %s", a, b)
	}
	t.Logf("%d transactions in %v", changes, took.Round(time.Millisecond))
}
