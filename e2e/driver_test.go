package e2e_test

import (
	"strconv"
	"testing"

	"roster/e2e/harness"
)

// driver is what serves plain HTTP/1.1 in a node: loops, or goroutines if there are none.
// What is said of requests and answers is said of both.
type driver struct {
	name  string
	loops int
}

var drivers = []driver{{"loops", 2}, {"goroutines", 0}}

// args are further arguments of a node that has the driver.
func (d driver) args(more ...string) []string {
	return append([]string{"--loops", strconv.Itoa(d.loops)}, more...)
}

// startDrivers starts a node for each driver, on one etcd. The first has further arguments.
func startDrivers(t *testing.T, first ...string) (nodes []*harness.Node) {
	t.Helper()
	etcd := harness.StartEtcd(t)
	for _, d := range drivers {
		nodes = append(nodes, harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: d.args(first...)}))
		first = nil
	}
	return nodes
}

// put puts one key, and waits until all of these nodes have applied it.
func put(nodes []*harness.Node, key, value string) {
	revision := nodes[0].Put(key, value)
	for _, n := range nodes {
		n.WaitRevision(revision)
	}
}
