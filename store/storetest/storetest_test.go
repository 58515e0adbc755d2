package storetest_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"roster/store/storetest"
)

func put(t *testing.T, c *clientv3.Client, key string) (cluster uint64, revision int64) {
	t.Helper()
	r, err := c.Put(t.Context(), key, "x")
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return r.Header.ClusterId, r.Header.Revision
}

func count(t *testing.T, c *clientv3.Client) int64 {
	t.Helper()
	r, err := c.Get(t.Context(), "", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		t.Fatal(err)
	}
	return r.Count
}

func TestStoppedMemberKeepsItsDataAndAddress(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	cluster, revision := put(t, m.Client(), "/a")
	address := m.Address()
	m.Stop()
	if c, err := net.Dial("tcp", address); err == nil {
		c.Close()
		t.Error("a stopped member accepts connections")
	}
	m.Start()
	cluster2, revision2 := put(t, m.Client(), "/b")
	if cluster2 != cluster || revision2 != revision+1 || m.Address() != address {
		t.Errorf("after a restart cluster %x, revision %d at %s, want %x, %d at %s",
			cluster2, revision2, m.Address(), cluster, revision+1, address)
	}
}

func TestRestoreGoesBackInTheSameCluster(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	cluster, revision := put(t, m.Client(), "/a")
	old := m.Snapshot()
	for range 5 {
		put(t, m.Client(), "/b")
	}
	m.Restore(old)
	cluster2, revision2 := put(t, m.Client(), "/c")
	if cluster2 != cluster || revision2 != revision+1 || count(t, m.Client()) != 2 {
		t.Errorf("after a restore cluster %x, revision %d, %d keys, want %x, %d, 2",
			cluster2, revision2, count(t, m.Client()), cluster, revision+1)
	}
}

func TestReplaceIsAnotherClusterAndWipeTheSame(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	cluster, revision := put(t, m.Client(), "/a")
	m.Wipe()
	if c, r := put(t, m.Client(), "/b"); c != cluster || r != revision || count(t, m.Client()) != 1 {
		t.Errorf("after Wipe cluster %x, revision %d, want %x, %d and one key", c, r, cluster, revision)
	}
	m.Replace()
	if c, r := put(t, m.Client(), "/c"); c == cluster || r != revision || count(t, m.Client()) != 1 {
		t.Errorf("after Replace cluster %x, revision %d, want another than %x, %d and one key", c, r, cluster, revision)
	}
}

func TestClusterSurvivesTheLossOfOne(t *testing.T) {
	t.Parallel()
	members := storetest.Cluster(t, 3)
	put(t, members[0].Client(), "/a")
	members[0].Stop()
	put(t, members[1].Client(), "/b")
	members[0].Start()
	if got := count(t, members[0].Client()); got != 2 {
		t.Errorf("the member that came back has %d keys, want 2", got)
	}
}

func TestProxy(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t)
	p := storetest.NewProxy(t, m.Address())
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{p.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	put(t, c, "/a")
	for _, cut := range []struct {
		name string
		do   func()
	}{{"cut", p.Cut}, {"blackhole", p.Blackhole}, {"mute", p.Mute}} {
		cut.do()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := c.Get(ctx, "/a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("through a %s: %v, want no answer", cut.name, err)
		}
		cancel()
		p.Heal()
		put(t, c, "/a")
	}
}
