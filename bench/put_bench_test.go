package bench

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"
	"time"

	"roster/e2e/harness"
)

// One put of a backend by an etcd client, from before it is sent until a client of the
// node has the answer that shows the new value, asking on one connection without a
// pause. Reported beside it: when etcd answered the put, the requests themselves, and
// the node's own share: from etcd's message received to the new table in effect, as it
// logs it. That share is also reported for as many puts without any requests.
//
// With cores=shared the system spreads node, etcd, origin and clients over the cores as
// it likes. With cores=own the node has core 0 for itself and all else is on core 1, so
// that the node's share is what it does, and not what it waits for a core.
func BenchmarkPutToServed(b *testing.B) {
	for _, n := range sizes(10, 100_000) {
		b.Run(fmt.Sprintf("cores=shared/backends=%d", n), func(b *testing.B) { putToServed(b, n, false) })
		b.Run(fmt.Sprintf("cores=own/backends=%d", n), func(b *testing.B) { putToServed(b, n, true) })
	}
}

func putToServed(b *testing.B, n int, own bool) {
	etcd := startEtcd(b)
	origin := startEcho(b)
	fill(b, etcd, n)
	definition := func(i int) string {
		return fmt.Sprintf(`{"host":"127.0.0.1","port":%d,"host_header":"v%d.test","override_host":true}`, origin.Port, i)
	}
	revision := routeTo(etcd, "put.test", "changing", definition(0))
	node := harness.StartNode(b, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--log-level", "debug"}})
	node.WaitRevision(revision)
	collect(b, node)
	if own {
		separate(b, etcd.Member(0).Pid(), node.Pid())
	}
	client := dial(b, node.Address(), "put.test")
	store := etcd.Client()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()

	type ack struct {
		took time.Duration
		err  error
	}
	acks := make(chan ack, 1)
	var served, acked, requests samples
	put := func(i int) {
		want := fmt.Sprintf("v%d.test", i)
		begun := time.Now()
		go func() {
			_, err := store.Put(ctx, "/roster/backends/changing", definition(i))
			acks <- ack{time.Since(begun), err}
		}()
		for got := ""; got != want; {
			asked := time.Now()
			var err error
			if got, err = client.get(); err != nil {
				b.Fatal(err)
			}
			requests = append(requests, time.Since(asked))
		}
		took := time.Since(begun)
		a := <-acks
		if a.err != nil {
			b.Fatal(a.err)
		}
		served, acked = append(served, took), append(acked, a.took)
	}
	i := 0
	for range 20 { // connections are made, caches are warm
		i++
		put(i)
	}
	served, acked, requests = nil, nil, nil
	warm := etcd.Revision()
	for b.Loop() {
		i++
		put(i)
	}
	last := etcd.Revision()
	node.WaitRevision(last)
	served.report(b, "served")
	acked.report(b, "etcd-ack")
	requests.report(b, "request")
	applied(b, node, warm).report(b, "node")
	b.ReportMetric(float64(len(served)), "puts")
	for range served {
		i++
		if _, err := store.Put(ctx, "/roster/backends/changing", definition(i)); err != nil {
			b.Fatal(err)
		}
	}
	node.WaitRevision(etcd.Revision())
	applied(b, node, last).report(b, "node-alone")
}

var appliedLine = regexp.MustCompile(`msg=applied revision=(\d+) .*took=(\S+)`)

// applied is how long each change after a revision took in a node that logs at debug
// level.
func applied(b testing.TB, n *harness.Node, after int64) samples {
	b.Helper()
	var all samples
	for _, m := range appliedLine.FindAllStringSubmatch(n.Log(), -1) {
		revision, err := strconv.ParseInt(m[1], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		took, err := time.ParseDuration(m[2])
		if err != nil {
			b.Fatal(err)
		}
		if revision > after {
			all = append(all, took)
		}
	}
	return all
}
