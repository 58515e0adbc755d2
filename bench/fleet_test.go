package bench

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// opsLimit is how many operations a transaction may have; etcd is started with it,
// for its own default is 128.
const opsLimit = 4096

// membersLimit is how many members a director of these benchmarks has. One of all
// 100,000 backends would be larger than the 1.5 MiB that etcd takes in one request.
const membersLimit = 5000

// sizes are the numbers given, in ascending order, capped where ROSTER_BENCH_MAX says so.
func sizes(all ...int) []int {
	if limit, err := strconv.Atoi(os.Getenv("ROSTER_BENCH_MAX")); err == nil {
		for i, n := range all {
			all[i] = min(n, limit)
		}
	}
	return slices.Compact(all)
}

// startEtcd starts an etcd of one member that takes large transactions.
func startEtcd(b testing.TB) *harness.Etcd {
	b.Helper()
	return harness.StartEtcd(b, fmt.Sprintf("--max-txn-ops=%d", opsLimit))
}

// backendName is the name of backend i.
func backendName(i int) string { return fmt.Sprintf("web-%06d", i) }

// fill puts n backends, each at an address of its own, and directors that have all of
// them as members, up to membersLimit each. It returns the revision after that.
func fill(b testing.TB, etcd *harness.Etcd, n int) int64 {
	b.Helper()
	var ops []clientv3.Op
	for i := range n {
		ops = append(ops, clientv3.OpPut("/roster/backends/"+backendName(i),
			fmt.Sprintf(`{"host":"10.%d.%d.%d","port":8080}`, i>>16, i>>8&255, i&255)))
	}
	var revision int64
	for chunk := range slices.Chunk(ops, opsLimit) {
		revision = etcd.Txn(chunk...)
	}
	for first := 0; first < n; first += membersLimit {
		var members []string
		for i := first; i < min(first+membersLimit, n); i++ {
			members = append(members, strconv.Quote(backendName(i)))
		}
		revision = etcd.Txn(clientv3.OpPut(fmt.Sprintf("/roster/directors/all-%02d", first/membersLimit),
			`{"type":"round_robin","backends":[`+strings.Join(members, ",")+`]}`))
	}
	return revision
}

// routeTo puts a backend that is an origin of this process, and a route to it, so that
// requests for the host are answered by it whatever else there is. It returns the
// revision after that.
func routeTo(etcd *harness.Etcd, host, backend, definition string) int64 {
	return etcd.Txn(
		clientv3.OpPut("/roster/backends/"+backend, definition),
		clientv3.OpPut("/roster/routes/"+backend, fmt.Sprintf(`{"match":{"host":%q},"backend":%q}`, host, backend)),
	)
}
