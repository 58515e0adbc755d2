package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// etcdProxy is etcd's grpc-proxy in front of a cluster.
type etcdProxy struct {
	*harness.Process
	t       *testing.T
	address string
	args    []string
}

func newEtcdProxy(t *testing.T, endpoints string) *etcdProxy {
	t.Helper()
	address := harness.FreeAddress(t)
	p := &etcdProxy{t: t, address: address, args: []string{"grpc-proxy", "start", "--endpoints=" + endpoints,
		"--listen-addr=" + address, "--advertise-client-url=" + address, "--data-dir=" + filepath.Join(t.TempDir(), "proxy")}}
	p.start()
	return p
}

func (p *etcdProxy) start() {
	p.t.Helper()
	p.Process = harness.StartProcess(p.t, "grpc-proxy", harness.EtcdBinary(p.t), p.args, nil)
	harness.Until(p.t, "the proxy to answer", func() (bool, any) {
		r := harness.Run(p.t, "", nil, harness.Etcdctl(p.t), "--endpoints="+p.address, "get", "/")
		return r.Code == 0, r
	})
}

// Nodes behind etcd's grpc-proxy follow all changes, are members of the fleet, and serve on
// when the proxy dies: with another one, without a gap.
func TestNodesServeBehindEtcdsProxy(t *testing.T) {
	t.Parallel()
	f := newFleet(t)
	first, second := newEtcdProxy(t, f.etcd.Endpoints()), newEtcdProxy(t, f.etcd.Endpoints())
	start := func(id, etcd string) *harness.Node {
		return harness.StartNode(t, harness.NodeConfig{Etcd: etcd, ID: id, Args: []string{"--min-revision-wait", "30s", "--revision-header"}})
	}
	one, both := start("one", first.address), start("both", first.address+","+second.address)
	nodes := []*harness.Node{one, both}
	converges(t, f.etcd, nodes, 10)
	if got := f.put(0, "30s").states(); got != "both=done one=done" {
		t.Errorf("--wait: %s", got)
	}
	// Freshness is proven: what is known of etcd is as new as a read, though the proxy does not
	// answer requests for progress.
	for _, n := range nodes {
		seen := f.etcd.Revision()
		n.WaitStatus("a proof", func(s harness.Status) bool { return s.Seen >= seen && s.Etcd.Relists == 0 })
	}

	first.Kill()
	rev := f.etcd.Put("/roster/backends/late", `{"none": true}`)
	both.WaitStatus("the other proxy", func(s harness.Status) bool { return s.Etcd.Connected && s.Revision >= rev })
	one.WaitStatus("the loss", func(s harness.Status) bool { return !s.Etcd.Connected })
	if a := one.Get("/"); a.Status != 200 {
		t.Errorf("without its proxy it answers %v", a)
	}
	f.lapsed("one")
	if got := f.put(6, "5s").states(); got != "both=done one=unknown" {
		t.Errorf("--wait without the proxy: %s", got)
	}
	first.start()
	one.WaitStatus("its proxy", func(s harness.Status) bool { return s.Etcd.Connected && s.Revision >= rev })
	if got := f.put(0, "30s").states(); got != "both=done one=done" {
		t.Errorf("--wait with the proxy again: %s", got)
	}
	converges(t, f.etcd, nodes, 10)
	for _, n := range nodes {
		if s := n.Status(); s.Etcd.Relists != 0 {
			t.Errorf("%s listed %d times anew", s.Node, s.Etcd.Relists)
		}
	}
	// An orderly end takes its keys back, and the lease with them.
	if code := one.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if keys := f.keys(); keys["nodes/one"] != nil || keys["members/one"] != nil {
		t.Errorf("after its end: %v", keys)
	}
	if s := first.Log(); strings.Contains(s, "panic") {
		t.Errorf("the proxy says:\n%s", s)
	}
}
