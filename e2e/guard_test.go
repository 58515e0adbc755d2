package e2e_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// web is the name of a backend of these tests.
func web(i int) string { return fmt.Sprintf("web-%02d", i) }

// startGuard starts an etcd with 20 backends, all of one echo and members of the
// director default, and a node that guards half of them.
func startGuard(t *testing.T, args ...string) (*harness.Etcd, *harness.Node, int) {
	t.Helper()
	etcd, port := harness.StartEtcd(t), echo(t)
	var ops []clientv3.Op
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("%q", web(i)))
		ops = append(ops, clientv3.OpPut(backendsPrefix+web(i), echoBackend(port, web(i))))
	}
	ops = append(ops, clientv3.OpPut(directorKey, `{"type": "round_robin", "backends": [`+strings.Join(names, ", ")+`]}`))
	revision := etcd.Txn(ops...)
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "guarded", Args: args})
	node.WaitRevision(revision)
	return etcd, node, port
}

// answersAll asks until every answer of a list has come; other clients take their turns of
// the director, too. None that is not in the list may come.
func answersAll(t *testing.T, node *harness.Node, want ...string) {
	t.Helper()
	got := map[string]bool{}
	harness.Until(t, "all to answer", func() (bool, any) {
		a := node.Get("/")
		if a.Status != 200 || !slices.Contains(want, a.Body) {
			t.Fatalf("answer %v, want one of %v", a, want)
		}
		got[a.Body] = true
		return len(got) == len(want), got
	})
}

// A mass deletion is held, and served on; the fleet is told; what is put again returns,
// and roster ack releases the rest.
func TestAMassDeletionIsHeldUntilItIsAcknowledged(t *testing.T) {
	t.Parallel()
	etcd, node, port := startGuard(t, "--guard", "50%")
	plain := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "plain"})
	var all []string
	for i := range 20 {
		all = append(all, web(i))
	}
	traffic := startTraffic(t, node.Address(), 2, append(slices.Clone(all), "new")...)
	traffic.more(50)

	var ops []clientv3.Op
	for i := range 15 {
		ops = append(ops, clientv3.OpDelete(backendsPrefix+web(i)))
	}
	// Everything else of the same transaction applies.
	ops = append(ops, clientv3.OpPut(backendsPrefix+"more", echoBackend(port, "new")))
	removed := etcd.Txn(ops...)
	st := node.WaitRevision(removed)
	if st.Held == nil || st.Held.Backends != 15 || st.Held.Revision != removed || len(st.Held.Names) != 15 || st.Held.Names[0] != web(0) {
		t.Fatalf("held = %+v, want the 15 of revision %d", st.Held, removed)
	}
	if st.Counts["backends"] != 21 {
		t.Errorf("%d backends, want 21", st.Counts["backends"])
	}
	answersAll(t, node, all...)
	if n := node.Metric("roster_backends_held"); n != 15 {
		t.Errorf("the metric says %v held, want 15", n)
	}
	if n := strings.Count(node.Log(), "too many backends were removed at once"); n != 1 {
		t.Errorf("%d lines of the log say so, want 1", n)
	}
	var b struct {
		Removed string `json:"removed"`
	}
	for name, want := range map[string]bool{web(0): true, web(19): false} {
		b.Removed = ""
		if err := json.Unmarshal([]byte(node.AdminGet("/v1/backends/"+name).Body), &b); err != nil || (b.Removed != "") != want {
			t.Errorf("%s is marked %q (%v), want a mark: %t", name, b.Removed, err, want)
		}
	}

	// The fleet is told, and which nodes hold.
	if n := plain.WaitRevision(removed).Counts["backends"]; n != 6 {
		t.Errorf("the node without a guard has %d backends, want 6", n)
	}
	status := func() harness.Result {
		return harness.CLI(t, "status", "--etcd", etcd.Endpoints(), "--admin", node.AdminAddress())
	}
	harness.Until(t, "roster status to tell", func() (bool, any) {
		r := status()
		return r.Code == 1 && strings.Contains(r.Stdout, "held by guarded: 15 removed backends since") &&
			strings.Contains(r.Stderr, fmt.Sprintf("node guarded holds 15 backends that were removed; roster ack %d", removed)) &&
			strings.Contains(r.Stderr, fmt.Sprintf("nodes differ at revision %d", removed)), r
	})

	// What is put again returns, with its new definition.
	back := etcd.Put(backendsPrefix+web(3), echoBackend(port, "new"))
	if st := node.WaitRevision(back); st.Held == nil || st.Held.Backends != 14 {
		t.Errorf("held = %+v after a return, want 14", st.Held)
	}
	answersAll(t, node, append(slices.Delete(slices.Clone(all), 3, 4), "new")...)

	// Only the revision that removed them, or a later one, releases.
	ack := func(revision int64) harness.Result {
		return harness.CLI(t, "ack", "--etcd", etcd.Endpoints(), fmt.Sprint(revision))
	}
	if r := ack(1 << 40); r.Code != 1 || !strings.Contains(r.Stderr, "in the future") {
		t.Errorf("an acknowledgement of the future: %+v", r)
	}
	if r := ack(removed - 1); r.Code != 0 {
		t.Errorf("ack: %+v", r)
	}
	probe := etcd.Put(backendsPrefix+"more", echoBackend(port, "new"))
	if st := node.WaitRevision(probe); st.Held == nil || st.Held.Backends != 14 {
		t.Errorf("held = %+v after an acknowledgement of an older revision, want 14", st.Held)
	}
	if r := ack(removed); r.Code != 0 || !strings.Contains(r.Stdout, fmt.Sprintf("acknowledged removals up to revision %d", removed)) {
		t.Errorf("ack: %+v", r)
	}
	st = node.WaitStatus("the release", func(st harness.Status) bool { return st.Held == nil })
	if other := plain.WaitRevision(probe); st.Revision != other.Revision || st.Digest != other.Digest {
		t.Errorf("after the release: revision %d, digest %s; the node without a guard has %d and %s", st.Revision, st.Digest, other.Revision, other.Digest)
	}
	if r := ack(removed - 1); r.Code != 0 || !strings.Contains(r.Stdout, "already") {
		t.Errorf("ack of an older one: %+v", r)
	}
	harness.Until(t, "roster status to be well", func() (bool, any) {
		r := status()
		return r.Code == 0, r
	})
	if n := node.Metric("roster_backends_held"); n != 0 {
		t.Errorf("the metric says %v held, want 0", n)
	}
	traffic.end()
}

// Leases that end one after the other: what brings the backends below the share is held.
func TestLeasesThatEndTogetherAreHeld(t *testing.T) {
	t.Parallel()
	etcd, port := harness.StartEtcd(t), echo(t)
	client := etcd.Client()
	var leases []clientv3.LeaseID
	var last int64
	for i := range 12 {
		lease, err := client.Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, lease.ID)
		last = etcd.Txn(clientv3.OpPut(backendsPrefix+web(i), echoBackend(port, web(i)), clientv3.WithLease(lease.ID)))
	}
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--guard", "50%"}})
	node.WaitRevision(last)
	for _, lease := range leases {
		r, err := client.Revoke(t.Context(), lease)
		if err != nil {
			t.Fatal(err)
		}
		last = r.Header.Revision
	}
	st := node.WaitRevision(last)
	if st.Held == nil || st.Held.Backends != 6 || st.Counts["backends"] != 6 {
		t.Errorf("held = %+v of %v, want 6, and 6 backends", st.Held, st.Counts)
	}
	if st.Held != nil && st.Held.Revision != last {
		t.Errorf("to acknowledge is revision %d, want %d", st.Held.Revision, last)
	}
	// One that starts serves what etcd holds.
	node.Kill()
	node.Start()
	node.WaitReady()
	if st := node.Status(); st.Held != nil || st.Counts["backends"] != 0 {
		t.Errorf("after a restart: held %+v of %v, want nothing", st.Held, st.Counts)
	}
}

// An emptied etcd and the guard are released by one acknowledgement.
func TestOneAcknowledgementReleasesAnEmptyListAndTheGuard(t *testing.T) {
	t.Parallel()
	etcd, node, _ := startGuard(t, "--guard", "50%")
	var ops []clientv3.Op
	for i := range 15 {
		ops = append(ops, clientv3.OpDelete(backendsPrefix+web(i)))
	}
	node.WaitRevision(etcd.Txn(ops...))
	etcd.Kill()
	etcd.Wipe()
	st := node.WaitStatus("a held list", func(st harness.Status) bool { return st.HeldList != "" })
	if st.Held == nil || st.Held.Backends != 15 || st.Held.List != st.HeldList || st.Counts["backends"] != 20 {
		t.Fatalf("held = %+v of %v, want the list and 15 of 20", st.Held, st.Counts)
	}
	if r := harness.CLI(t, "ack", "--etcd", etcd.Endpoints(), fmt.Sprint(st.Held.Revision)); r.Code != 0 {
		t.Fatalf("ack: %+v", r)
	}
	node.WaitStatus("the release", func(st harness.Status) bool {
		return st.Held == nil && st.HeldList == "" && st.Counts["backends"] == 0
	})
}

// Off, which is the default: nothing is held.
func TestNothingIsHeldWithoutGuard(t *testing.T) {
	t.Parallel()
	etcd, node, _ := startGuard(t)
	var ops []clientv3.Op
	for i := range 20 {
		ops = append(ops, clientv3.OpDelete(backendsPrefix+web(i)))
	}
	removed := etcd.Txn(ops...)
	before := node.WaitRevision(removed)
	if before.Held != nil || before.Counts["backends"] != 0 {
		t.Errorf("held = %+v of %v, want nothing", before.Held, before.Counts)
	}
	if r := harness.CLI(t, "ack", "--etcd", etcd.Endpoints(), fmt.Sprint(removed)); r.Code != 0 {
		t.Fatalf("ack: %+v", r)
	}
	now := etcd.Revision()
	st := node.WaitStatus("the acknowledgement to be seen", func(st harness.Status) bool { return st.Seen >= now })
	if st.Revision != before.Revision || st.Digest != before.Digest {
		t.Errorf("an acknowledgement makes revision %d of %d", st.Revision, before.Revision)
	}
}
