package bench

import (
	"crypto/tls"
	"net"
	"testing"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// What a client's connection takes of the node's memory while it has no request, each
// having served one: resident memory, and of that the heap and the stacks of
// goroutines. What the kernel holds for the socket is not in it.
func BenchmarkIdleConnections(b *testing.B) {
	needProc(b)
	n := sizes(10_000)[0]
	b.Run("plain", func(b *testing.B) {
		node := startIdleNode(b)
		idle(b, node, n, func() (net.Conn, error) { return net.Dial("tcp", node.Address()) })
	})
	b.Run("tls", func(b *testing.B) {
		ca := certstest.NewCA(b)
		cert, key := ca.Issue(b, "www.example").Write(b, b.TempDir(), "www")
		address := harness.FreeAddress(b)
		node := startIdleNode(b, "--listen", "tls://"+address, "--tls-cert", cert, "--tls-key", key)
		config := &tls.Config{RootCAs: ca.Pool(), ServerName: "www.example", NextProtos: []string{"http/1.1"}}
		idle(b, node, n, func() (net.Conn, error) { return tls.Dial("tcp", address, config) })
	})
}

func startIdleNode(b *testing.B, args ...string) *harness.Node {
	b.Helper()
	node := harness.StartNode(b, harness.NodeConfig{Args: args})
	web := harness.StartOrigin(b, "web-1")
	node.WaitRevision(node.Put("/roster/backends/web-1", web.Definition()))
	return node
}

func idle(b *testing.B, node *harness.Node, n int, dial func() (net.Conn, error)) {
	b.Helper()
	harness.NeedDescriptors(b, n+2000)
	harness.OpenIdle(b, 100, "www.example", dial) // what the first ones need once
	for b.Loop() {
		before, stacks := settled(b, node), collect(b, node)["Stack"]
		harness.OpenIdle(b, n, "www.example", dial)
		after := settled(b, node)
		each := func(bytes int64) float64 { return float64(bytes) / float64(n) }
		b.ReportMetric(each(after.RSS-before.RSS), "resident-B/conn")
		b.ReportMetric(each(after.Live-before.Live), "heap-B/conn")
		b.ReportMetric(each(collect(b, node)["Stack"]-stacks), "stack-B/conn")
	}
}
