package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

const webKey = "/roster/backends/web-1"

// A backend put with etcdctl is served, another value of it changes what is served, and
// its deletion ends it, while clients go on asking.
func TestWhatEtcdctlPutsIsServed(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	one, two := harness.StartOrigin(t, "one"), harness.StartOrigin(t, "two")
	loop := harness.StartLoop(t, node.URL()+"/", 4)

	loop.WaitStatus(http.StatusServiceUnavailable, 1)
	node.Put(webKey, one.Definition())
	loop.WaitOrigin("one")

	begun := loop.Counts()
	node.WaitRevision(node.Put(webKey, two.Definition()))
	loop.WaitRequests(8) // those that were on their way
	atOne := one.Requests()
	loop.WaitOrigin("two")
	loop.WaitRequests(100)
	if now := one.Requests(); now != atOne {
		t.Errorf("%d requests reached the old backend after the change", now-atOne)
	}
	if now := loop.Counts(); now.Failed() != begun.Failed() {
		t.Errorf("%d requests failed while the backend changed: %v", now.Failed()-begun.Failed(), now.Samples)
	}

	node.WaitRevision(harness.Delete(t, node.Endpoints(), webKey))
	loop.WaitStatus(http.StatusServiceUnavailable, 10)
	atTwo := two.Requests()
	loop.WaitRequests(100)
	if now := two.Requests(); now != atTwo {
		t.Errorf("%d requests reached the backend after its deletion", now-atTwo)
	}
	if c := loop.Stop(); c.Errors != 0 {
		t.Errorf("%d requests had no answer: %v", c.Errors, c.Samples)
	}
}

func TestTwoNodesConverge(t *testing.T) {
	t.Parallel()
	converge(t, harness.StartEtcd(t), 2)
}

func TestFiveNodesOnThreeEtcdMembersConverge(t *testing.T) {
	t.Parallel()
	converge(t, harness.StartEtcdCluster(t, 3), 5)
}

// converge shows that n nodes on one etcd come to one table, whatever order they saw
// its changes in, and that one that was killed and missed changes serves the same.
func converge(t *testing.T, etcd *harness.Etcd, n int) {
	t.Helper()
	one, two := harness.StartOrigin(t, "one"), harness.StartOrigin(t, "two")
	put := func(name, value string) clientv3.Op { return clientv3.OpPut("/roster/"+name, value) }

	// Half of the history is older than the nodes.
	for i := range 20 {
		etcd.Txn(put(fmt.Sprintf("backends/b-%d", i), one.Definition(fmt.Sprintf(`"comment": "%d"`, i))))
	}
	nodes := make([]*harness.Node, n)
	for i := range nodes {
		nodes[i] = harness.NewNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: fmt.Sprintf("node-%d", i)})
		nodes[i].Start()
	}
	for _, node := range nodes {
		node.WaitReady()
	}
	for i := range 20 {
		etcd.Txn(
			put(fmt.Sprintf("backends/b-%d", i), two.Definition()),
			clientv3.OpDelete(fmt.Sprintf("/roster/backends/b-%d", 19-i)),
		)
	}
	etcd.Txn(put("backends/broken", `{"prt": 1}`), put("routes/r", `{"match": {"path": "/r/*"}, "backend": "b-0"}`),
		put("backends/a", one.Definition()), put("backends/b-0", two.Definition()))
	rev := etcd.Put("/roster/directors/default", `{"type": "round_robin", "backends": ["a"]}`)
	want := tableOf(nodes[0], rev)
	for _, node := range nodes[1:] {
		same(t, node, want, rev)
	}

	// The last node misses changes.
	last := nodes[n-1]
	loop := harness.StartLoop(t, nodes[0].URL()+"/", 2)
	loop.WaitOrigin("one")
	last.Kill()
	etcd.Txn(put("backends/a", two.Definition()), clientv3.OpDelete("/roster/backends/broken"))
	rev = etcd.Put("/roster/backends/c", one.Definition())
	want = tableOf(nodes[0], rev)
	last.Restart()
	for _, node := range nodes[1:] {
		same(t, node, want, rev)
	}
	for _, node := range nodes {
		if got := node.Get("/"); got.Origin != "two" {
			t.Errorf("%s: %v, want an answer of two", node.Address(), got)
		}
		if got := node.Get("/r/x"); got.Origin != "two" {
			t.Errorf("%s: %v, want an answer of two by the route", node.Address(), got)
		}
	}
	loop.WaitOrigin("two")
	if c := loop.Stop(); c.Failed() != 0 {
		t.Errorf("%d requests to another node failed: %v", c.Failed(), c.Samples)
	}
}

// A table is what a node says it serves.
type table struct {
	Revision int64
	Digest   string
	Rejected []harness.Rejected
	Backends []backend
}

type backend struct {
	Name       string          `json:"name"`
	Revision   int64           `json:"revision"`
	Definition json.RawMessage `json:"definition"`
}

func tableOf(node *harness.Node, rev int64) table {
	s := node.WaitStatus(fmt.Sprintf("revision %d", rev), func(s harness.Status) bool { return s.Revision >= rev })
	var page struct {
		Items []backend `json:"items"`
	}
	if err := json.Unmarshal([]byte(node.AdminGet("/v1/backends?limit=1000").Body), &page); err != nil {
		panic(err)
	}
	return table{s.Revision, s.Digest, s.Rejected, page.Items}
}

func same(t *testing.T, node *harness.Node, want table, rev int64) {
	t.Helper()
	if diff := cmp.Diff(want, tableOf(node, rev)); diff != "" {
		t.Errorf("the table of %s, -first node +this:\n%s", node.Address(), diff)
	}
}

// An invalid value put over a good one changes nothing but the status, also for a node
// that starts afterwards; after a delete nothing of it comes back.
func TestInvalidValueKeepsTheGoodOne(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints()})
	origin := harness.StartOrigin(t, "one")
	node.WaitRevision(etcd.Put(webKey, origin.Definition()))
	loop := harness.StartLoop(t, node.URL()+"/", 2)
	loop.WaitOrigin("one")

	rev := etcd.Put(webKey, `{"host": "", "prt": 1, "port": 99999}`)
	rejected := func() harness.Rejected {
		t.Helper()
		s := node.WaitStatus("the rejected key", func(s harness.Status) bool { return len(s.Rejected) == 1 })
		return s.Rejected[0]
	}
	first := rejected()
	if first.Key != "backends/web-1" && first.Key != webKey || first.Revision != rev {
		t.Errorf("rejected: %+v, want backends/web-1 at revision %d", first, rev)
	}
	for _, want := range []string{"host: ", "prt: ", "port: "} {
		if !slices.ContainsFunc(first.Errors, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("no error about %q in %q", want, first.Errors)
		}
	}
	loop.WaitOrigin("one")
	if c := loop.Stop(); c.Failed() != 0 {
		t.Errorf("%d requests failed: %v", c.Failed(), c.Samples)
	}

	digest := node.Status().Digest
	node.Kill()
	node.Restart()
	if diff := cmp.Diff(first, rejected()); diff != "" {
		t.Errorf("rejected after a restart, -before +after:\n%s", diff)
	}
	if got := node.Status().Digest; got != digest {
		t.Errorf("digest %s after a restart, want %s", got, digest)
	}
	if got := node.Get("/"); got.Origin != "one" {
		t.Errorf("after a restart: %v, want an answer of one", got)
	}

	gone := func(when string) {
		t.Helper()
		if got := node.Get("/"); got.Status != http.StatusServiceUnavailable {
			t.Errorf("%s: %v, want 503", when, got)
		}
	}
	node.WaitRevision(etcd.Delete(webKey))
	gone("after a delete")
	if s := node.Status(); len(s.Rejected) != 0 {
		t.Errorf("rejected after a delete: %+v", s.Rejected)
	}
	rev = etcd.Put(webKey, `{"prt": 1}`)
	node.WaitRevision(rev)
	gone("after an invalid value for a deleted key")
	if got := rejected(); got.Revision != rev {
		t.Errorf("rejected at revision %d, want %d", got.Revision, rev)
	}
	node.Kill()
	node.Restart()
	gone("after another restart")
	rejected()
	node.WaitRevision(etcd.Put(webKey, origin.Definition()))
	if got := node.Get("/"); got.Origin != "one" {
		t.Errorf("after a good value: %v, want an answer of one", got)
	}
	if s := node.Status(); len(s.Rejected) != 0 {
		t.Errorf("rejected after a good value: %+v", s.Rejected)
	}
}
