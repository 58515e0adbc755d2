package harness_test

import (
	"strings"
	"testing"

	"roster/e2e/harness"
)

func TestEtcdKeepsRestoresAndResetsItsData(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	value := func() string { return strings.TrimSpace(etcd.Ctl("get", "k", "--print-value-only")) }

	first := etcd.Put("k", "-1")
	id := etcd.ClusterID()
	backup := etcd.Backup()
	if got := value(); got != "-1" {
		t.Fatalf("after a backup: %q, want -1", got)
	}
	if second := etcd.Put("k", "two"); second != first+1 {
		t.Fatalf("revision %d after %d", second, first)
	}
	etcd.Kill()
	etcd.Start()
	if got := value(); got != "two" {
		t.Fatalf("after a kill and a start: %q, want two", got)
	}
	etcd.Restore(backup)
	if got, rev := value(), etcd.Revision(); got != "-1" || rev != first {
		t.Fatalf("after a restore: %q at revision %d, want -1 at %d", got, rev, first)
	}
	etcd.Wipe()
	if got, rev := value(), etcd.Revision(); got != "" || rev != 1 {
		t.Fatalf("after a wipe: %q at revision %d, want nothing at 1", got, rev)
	}
	if got := etcd.ClusterID(); got != id {
		t.Fatalf("cluster id %x after a wipe, want %x as before", got, id)
	}
	etcd.Reset()
	if etcd.ClusterID() == id {
		t.Fatalf("the same cluster id after a reset: %x", id)
	}
	if got := value(); got != "" {
		t.Fatalf("after a reset: %q, want nothing", got)
	}
}

func TestEtcdClusterOutlivesOneMember(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcdCluster(t, 3)
	etcd.Put("k", "one")
	etcd.Member(0).Kill()
	rest := etcd.Address(1) + "," + etcd.Address(2)
	harness.Until(t, "a new leader", func() (bool, any) {
		r := harness.Run(t, "", nil, harness.Etcdctl(t), "--endpoints="+rest, "get", "k", "--print-value-only")
		return strings.TrimSpace(r.Stdout) == "one", r
	})
}
