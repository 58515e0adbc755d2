package e2e_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
)

// switches are how often a thread of the process stopped running: it did so once each time
// it was woken.
func switches(t *testing.T, pid int) (sum int64) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("no threads of process %d: %v", pid, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			if name == "voluntary_ctxt_switches" {
				n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
				if err != nil {
					t.Fatalf("%s: %v", path, err)
				}
				sum += n
			}
		}
	}
	return sum
}

// A node without clients, and one whose clients ask nothing, sleeps. The aim is 10 a second;
// here a busy machine may double it, for the runtime's own thread looks again and again while
// another waits for a processor.
func TestIdleNodeSleeps(t *testing.T) {
	harness.NeedProc(t)
	etcd := harness.StartEtcd(t)
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Plain: true})
	web := harness.StartOrigin(t, "web-1")
	node.WaitRevision(node.Put("/roster/backends/web-1", web.Definition()))
	const most = 20
	for _, clients := range []int{0, 100} {
		harness.OpenIdle(t, clients, "www.example", func() (net.Conn, error) { return net.Dial("tcp", node.Address()) })
		var least float64 // of several looks, for what was done before may end in the first
		harness.Until(t, "a node that sleeps", func() (bool, any) {
			before, began := switches(t, node.Pid()), time.Now()
			<-time.After(3 * time.Second) // what is counted
			rate := float64(switches(t, node.Pid())-before) / time.Since(began).Seconds()
			if least == 0 || rate < least {
				least = rate
			}
			return least <= most, fmt.Sprintf("%.1f wake-ups a second", least)
		})
		t.Logf("%.1f wake-ups a second with %d idle clients", least, clients)
	}
}
