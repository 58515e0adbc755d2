package bench

import (
	"fmt"
	"testing"
	"time"

	"roster/e2e/harness"
)

// A node's start on an etcd that holds all definitions, until /readyz says that it
// serves them, and what it then holds: the difference to a node with ten backends, for
// each backend. Metrics are on, and have been scraped.
func BenchmarkInitialLoad(b *testing.B) {
	needProc(b)
	const few = 10
	start := func(b *testing.B, n int) (*harness.Node, time.Duration, time.Duration) {
		etcd := startEtcd(b)
		revision := fill(b, etcd, n)
		node := harness.NewNode(b, harness.NodeConfig{Etcd: etcd.Endpoints()})
		begun := time.Now()
		node.Start()
		node.WaitReady()
		ready, used := time.Since(begun), cpu(b, node.Pid())
		if s := node.WaitRevision(revision); s.Counts["backends"] != n {
			b.Fatalf("node has %d backends, want %d", s.Counts["backends"], n)
		}
		node.AdminGet("/metrics")
		return node, ready, used
	}
	for _, n := range sizes(10_000, 100_000) {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			base, _, _ := start(b, few)
			least := settled(b, base)
			base.Kill()
			for b.Loop() {
				node, ready, used := start(b, n)
				_, highest := node.Memory()
				m := settled(b, node)
				each := func(now, then int64) float64 { return float64(now-then) / float64(n-few) }
				b.ReportMetric(ready.Seconds(), "ready-s")
				b.ReportMetric(used.Seconds(), "cpu-s")
				b.ReportMetric(float64(highest)/(1<<20), "highest-MiB")
				b.ReportMetric(float64(m.RSS)/(1<<20), "resident-MiB")
				b.ReportMetric(each(m.RSS, least.RSS), "resident-B/backend")
				b.ReportMetric(each(m.InUse, least.InUse), "heap-inuse-B/backend")
				b.ReportMetric(each(m.Live, least.Live), "heap-live-B/backend")
				node.Kill()
			}
		})
	}
}
