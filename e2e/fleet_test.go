package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
	"roster/store/storetest"
)

// fleet is some nodes on one etcd, and roster's commands about them.
type fleet struct {
	t    *testing.T
	etcd *harness.Etcd
}

func newFleet(t *testing.T) *fleet { return &fleet{t, harness.StartEtcd(t)} }

func (f *fleet) node(id string) *harness.Node {
	f.t.Helper()
	return harness.StartNode(f.t, harness.NodeConfig{Etcd: f.etcd.Endpoints(), ID: id})
}

// roster runs a command and checks its exit code and a part of what it says.
func (f *fleet) roster(code int, part string, args ...string) harness.Result {
	f.t.Helper()
	// No node of this machine is to be asked, should there be one.
	r := harness.Run(f.t, "", []string{"ROSTER_ETCD=" + f.etcd.Endpoints()}, harness.Roster(f.t), args...)
	if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, part) {
		f.t.Fatalf("roster %s: %v\nwant code %d and %q", strings.Join(args, " "), r, code, part)
	}
	return r
}

// start starts a command.
func (f *fleet) start(args ...string) *harness.Process {
	f.t.Helper()
	return harness.StartProcess(f.t, "roster "+args[0], harness.Roster(f.t), args, []string{"ROSTER_ETCD=" + f.etcd.Endpoints()})
}

type receipt struct {
	Revision int64
	Receipt  struct {
		Done  bool
		Nodes []struct {
			Node, Instance, State string
			Milliseconds          int64
		}
	}
}

// states are the states of a receipt's nodes.
func (r receipt) states() string {
	var all []string
	for _, n := range r.Receipt.Nodes {
		all = append(all, n.Node+"="+n.State)
	}
	return strings.Join(all, " ")
}

// put puts a definition that is new and waits for it.
func (f *fleet) put(code int, timeout string) receipt {
	f.t.Helper()
	r := f.roster(code, "", "put", "probe", "p", `{"interval":"`+fmt.Sprint(f.etcd.Revision()%50+1)+`s"}`, "--wait", "--wait-timeout", timeout, "-o", "json")
	var got receipt
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
		f.t.Fatalf("%v: %v", r, err)
	}
	return got
}

// keys are those of nodes in etcd, as "nodes/n1" and "members/n1", with their values.
func (f *fleet) keys() map[string]*keyValue {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), harness.WaitLimit)
	defer cancel()
	all := map[string]*keyValue{}
	for _, side := range []string{"nodes", "members"} {
		r, err := f.etcd.Client().Get(ctx, "/roster-"+side+"/", clientv3.WithPrefix())
		if err != nil {
			f.t.Fatal(err)
		}
		for _, kv := range r.Kvs {
			rel := strings.TrimPrefix(string(kv.Key), "/roster-")
			all[rel[:strings.LastIndexByte(rel, '/')]] = &keyValue{kv.Value, clientv3.LeaseID(kv.Lease)}
		}
	}
	return all
}

type keyValue struct {
	value []byte
	lease clientv3.LeaseID
}

// lapsed waits until nodes are members without a presence.
func (f *fleet) lapsed(ids ...string) {
	f.t.Helper()
	harness.Within(f.t, 2*harness.WaitLimit, fmt.Sprintf("the presence of %v to end", ids), func() (bool, any) {
		keys := f.keys()
		for _, id := range ids {
			if keys["nodes/"+id] != nil || keys["members/"+id] == nil {
				return false, keys
			}
		}
		return true, nil
	})
}

func TestPutWaitsForEveryMemberAndSaysHowLongEachTook(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	nodes := []*harness.Node{f.node("n1"), f.node("n2"), f.node("n3")}
	web := harness.StartOrigin(t, "web")
	host, port, _ := strings.Cut(web.Address(), ":")
	r := f.roster(0, "applied by all members, 3, after ", "put", "backend", "web-1", "host="+host, "port="+port, "--wait")
	for _, id := range []string{"n1", "n2", "n3"} {
		if !strings.Contains(r.Stdout, id+": done after ") {
			t.Errorf("no line of %s: %v", id, r)
		}
	}
	for _, n := range nodes {
		if got := n.Get("/").Origin; got != "web" {
			t.Errorf("%s answers %q once the put is applied", n.Address(), got)
		}
	}
	for range 20 {
		got := f.put(0, "30s")
		if got.states() != "n1=done n2=done n3=done" || !got.Receipt.Done {
			t.Errorf("receipt %+v", got)
		}
		for _, n := range nodes {
			if s := n.Status(); s.Revision < got.Revision {
				t.Errorf("%s is at revision %d after the wait for %d", s.Node, s.Revision, got.Revision)
			}
		}
	}
	f.roster(0, "applied by all members, 3", "delete", "probe", "p", "--wait")
	// One that starts after the deletion never learns its revision.
	f.node("n4")
	f.roster(0, "applied by all members, 4", "health", "web-1", "auto", "--wait")
	f.roster(0, "n4", "status")
}

// A node that does not run, and one that is cut off from etcd, may both be serving.
func TestMembersThatAreCutOffAreUnknownNamedAndWaitedFor(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	network := storetest.NewProxy(t, f.etcd.Address(0))
	f.node("n1")
	cut := harness.StartNode(t, harness.NodeConfig{Etcd: network.Address(), ID: "n2"})
	stopped := f.node("n3")
	f.put(0, "30s")

	network.Blackhole()
	stopped.Signal(syscall.SIGSTOP)
	if got := f.put(6, "5s").states(); !strings.HasPrefix(got, "n1=done ") || strings.Count(got, "done") != 1 {
		t.Errorf("soon after: %s", got) // the others are behind, or unknown if their leases have ended
	}
	f.lapsed("n2", "n3")
	if got := f.put(6, "5s"); got.states() != "n1=done n2=unknown n3=unknown" {
		t.Errorf("afterwards: %s", got.states())
	}
	f.roster(6, "n3: unknown, its presence has ended; roster forget n3", "put", "probe", "p", "timeout=1s", "--wait", "--wait-timeout", "1s")
	f.roster(1, "node n2 is unknown", "status")
	f.roster(1, "there is no member n9", "forget", "n9")
	f.roster(1, "node n1/", "forget", "n1")

	waiting := f.start("put", "probe", "p", "timeout=3s", "--wait")
	harness.Until(t, "n1 to be done", func() (bool, any) { return strings.Contains(waiting.Log(), "n1: done"), waiting.Log() })
	f.roster(0, "forgot n2/", "forget", "n2")
	if !waiting.Running() {
		t.Errorf("it did not wait for n3:\n%s", waiting.Log())
	}
	stopped.Signal(syscall.SIGCONT)
	if code := waiting.Wait(); code != 0 || !strings.Contains(waiting.Log(), "n3: done") {
		t.Errorf("exit code %d after n3 was back:\n%s", code, waiting.Log())
	}
	// A node that was forgotten is a member again once it is back.
	network.Heal()
	cut.WaitStatus("its connection", func(s harness.Status) bool { return s.Etcd.Connected })
	harness.Until(t, "n2 to be a member", func() (bool, any) {
		keys := f.keys()
		return keys["members/n2"] != nil && keys["nodes/n2"] != nil, keys
	})
	if got := f.put(0, "30s"); got.states() != "n1=done n2=done n3=done" {
		t.Errorf("with all back: %s", got.states())
	}
}

func TestAnOrderlyEndLeavesNothingAndAKillAMember(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n1, n2 := f.node("n1"), f.node("n2")
	if code := n1.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if keys := f.keys(); len(keys) != 2 || keys["members/n2"] == nil || keys["nodes/n2"] == nil {
		t.Errorf("after the end of n1: %v", keys)
	}
	n2.Kill()
	f.lapsed("n2")
	if got := f.put(6, "1s"); got.states() != "n2=unknown" {
		t.Errorf("after the kill of n2: %s", got.states())
	}
	n2.Restart() // another process, and another member
	if got := f.put(6, "5s"); got.states() != "n2=unknown n2=done" && got.states() != "n2=done n2=unknown" {
		t.Errorf("after its start: %s", got.states())
	}
	r := f.roster(0, "forgot n2/", "forget", "n2")
	if strings.Count(r.Stdout, "forgot") != 1 {
		t.Errorf("the process that runs was forgotten, too: %v", r)
	}
	if got := f.put(0, "30s"); got.states() != "n2=done" {
		t.Errorf("after the other was forgotten: %s", got.states())
	}
}

// hold sends a request that an origin holds, and returns a channel that is closed with
// its answer.
func hold(t *testing.T, n *harness.Node, o *harness.Origin) <-chan struct{} {
	t.Helper()
	before := o.Held()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		resp, err := http.Get(n.URL() + "/hold")
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the held request was answered %s", resp.Status)
		}
	}()
	o.WaitHeld(before + 1)
	return answered
}

func TestDrainWaitsUntilNothingIsLeftOnABackend(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"backend", "director", "deleted"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t)
			n1, n2 := f.node("n1"), f.node("n2")
			web := harness.StartOrigin(t, "web")
			f.etcd.Put("/roster/backends/web-1", web.Definition())
			rev := f.etcd.Put("/roster/directors/default", `{"type": "round_robin", "backends": ["web-1"]}`)
			n1.WaitRevision(rev)
			n2.WaitRevision(rev)
			if got := n1.Get("/").Origin; got != "web" { // and a connection is idle
				t.Fatalf("n1 answers %q", got)
			}
			answered := hold(t, n2, web)

			name := "web-1"
			switch how {
			case "director":
				name = "default"
			case "deleted":
				f.roster(0, "", "delete", "backend", "web-1")
			}
			drain := f.start("drain", name, "--wait", "--reason", "test")
			// n1 is done, and n2 says that it is not: then, at the latest, it would return.
			harness.Until(t, "n2 to say that it has a request", func() (bool, any) {
				var p struct{ Leaving []map[string]any }
				key := f.keys()["nodes/n2"]
				if err := json.Unmarshal(key.value, &p); err != nil {
					return false, err
				}
				busy := len(p.Leaving) == 1 && p.Leaving[0]["active"] == 1.0 && p.Leaving[0]["settled"] == true
				return busy && strings.Contains(drain.Log(), "n1: done"), fmt.Sprintf("%s\n%s", key.value, drain.Log())
			})
			if !drain.Running() {
				t.Fatalf("it returned while a request was in progress:\n%s", drain.Log())
			}
			web.Release()
			if code := drain.Wait(); code != 0 || !strings.Contains(drain.Log(), "no member has a request or connection of web-1: safe to kill") {
				t.Errorf("exit code %d:\n%s", code, drain.Log())
			}
			if web.Held() != 0 {
				t.Error("it returned while the origin was at work")
			}
			<-answered
			web.WaitConnections(0)
			if a := n1.Get("/"); a.Status != http.StatusServiceUnavailable {
				t.Errorf("n1 answers %v", a)
			}
			if how == "deleted" {
				f.roster(1, "there is no health web-1", "get", "health", "web-1")
				return
			}
			f.roster(0, "", "health", "web-1", "auto", "--wait")
			if got := n1.Get("/").Origin; got != "web" {
				t.Errorf("after the drain n1 answers %q", got)
			}
		})
	}
}

func TestDrainThatTimesOutSaysWhatIsLeftWhere(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	n1 := f.node("n1")
	web := harness.StartOrigin(t, "web")
	n1.WaitRevision(f.etcd.Put("/roster/backends/web-1", web.Definition()))
	answered := hold(t, n1, web)
	f.roster(6, "n1: web-1 has 1 request in progress, 0 queued, 1 connection", "drain", "web-1", "--wait", "--wait-timeout", "5s")
	web.Release()
	<-answered
	f.roster(0, "safe to kill", "drain", "web-1", "--wait")
}

// Leases are kept alive and requests served, and nothing is written. With
// ROSTER_E2E_LONG it is 20 nodes for a minute.
func TestIdleNodesLeaveEtcdStill(t *testing.T) {
	t.Parallel()
	nodes, keepalives := 4, 2
	if harness.Long() {
		nodes, keepalives = 20, 18
	}
	f := newFleet(t)
	web := harness.StartOrigin(t, "web")
	f.etcd.Put("/roster/backends/web-1", web.Definition())
	var first *harness.Node
	for i := range nodes {
		if n := f.node(fmt.Sprint("n", i)); first == nil {
			first = n
		}
	}
	harness.Until(t, "all to say that they are ready", func() (bool, any) {
		ready := 0
		for key, kv := range f.keys() {
			if strings.HasPrefix(key, "nodes/") && strings.Contains(string(kv.value), `"ready":true`) {
				ready++
			}
		}
		return ready == nodes, ready
	})
	before := f.etcd.Revision()
	leases := map[clientv3.LeaseID]int64{}
	for key, kv := range f.keys() {
		if strings.HasPrefix(key, "nodes/") {
			leases[kv.lease] = 0
		}
	}
	// A lease that has more time left than before was kept alive.
	renewed := map[clientv3.LeaseID]int{}
	for range keepalives {
		harness.Until(t, "a keepalive of each lease", func() (bool, any) {
			first.Get("/")
			for lease, last := range leases {
				r, err := f.etcd.Client().TimeToLive(context.Background(), lease)
				if err != nil || r.TTL < 0 {
					t.Fatalf("lease %x: %+v, %v", lease, r, err)
				}
				if r.TTL > last {
					renewed[lease]++
				}
				leases[lease] = r.TTL
				if renewed[lease] == 0 {
					return false, renewed
				}
			}
			clear(renewed)
			return true, nil
		})
	}
	if after := f.etcd.Revision(); after != before {
		t.Errorf("etcd is at revision %d, was at %d when all nodes were idle", after, before)
	}
}

func TestRegisterEndsItsBackendWithItselfItsCommandAndItsLease(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	node := f.node("n1")
	web := harness.StartOrigin(t, "web")
	host, port, _ := strings.Cut(web.Address(), ":")
	answers := func(want int) {
		t.Helper()
		harness.Until(t, fmt.Sprintf("an answer %d", want), func() (bool, any) {
			a := node.Get("/")
			return a.Status == want, a
		})
	}
	answers(http.StatusServiceUnavailable)

	// With a command: signals are passed on, and its exit code is ours.
	r := f.start("register", "web-9", "host="+host, "port="+port, "--", "sh", "-c", `trap "exit 3" TERM; echo up; while :; do sleep 0.05; done`)
	harness.Until(t, "the command", func() (bool, any) { return strings.Contains(r.Log(), "up"), r.Log() })
	answers(http.StatusOK)
	if code := r.Terminate(); code != 3 {
		t.Errorf("exit code %d, want the command's 3", code)
	}
	f.roster(1, "there is no backend web-9", "get", "backend", "web-9")
	answers(http.StatusServiceUnavailable)

	// Killed: the backend ends with its lease.
	r = f.start("register", "web-9", "host="+host, "port="+port, "--ttl", "2s")
	answers(http.StatusOK)
	r.Kill()
	answers(http.StatusServiceUnavailable)
	f.roster(1, "there is no backend web-9", "get", "backend", "web-9")

	// Frozen for longer than its lease lasts: it is made again.
	r = f.start("register", "web-9", "host="+host, "port="+port, "--ttl", "2s")
	answers(http.StatusOK)
	r.Signal(syscall.SIGSTOP)
	answers(http.StatusServiceUnavailable)
	r.Signal(syscall.SIGCONT)
	answers(http.StatusOK)
	if code := r.Terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	answers(http.StatusServiceUnavailable)
}
