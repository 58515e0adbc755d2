// Package harness runs the built roster against real etcd members, real origins
// and real clients, for end-to-end tests and benchmarks.
//
// A test starts what it needs and says what it waits for:
//
//	etcd := harness.StartEtcd(t)
//	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints()})
//	web := harness.StartOrigin(t, "web-1")
//	rev := etcd.Put("/roster/backends/web-1", web.Definition())
//	node.WaitRevision(rev)
//	if got := node.Get("/").Origin; got != "web-1" { ... }
//
// Everything started is ended when the test ends, by its process id, and its log
// is printed when the test failed. A process that found a data race fails the
// test. Addresses are free ports on loopback, never given twice in one process.
// Nothing here sleeps: waiting is asking a state again until it is as wanted or
// the deadline (WaitLimit) has passed, and the state last seen is in the failure. A
// network that is cut between a node and etcd is storetest.NewProxy, or, with packets
// that are lost, an Island. Traffic that verifies every byte is a Checker.
//
// The programs are built once per test binary, when first needed: roster (with
// the race detector when the test has it, or when ROSTER_E2E_RACE is 1), etcd and
// etcdctl (as pinned in go.mod). ROSTER_E2E_BIN names a roster to take instead.
//
// # Bytes
//
// Where bytes matter the test is client and origin itself: Dial and Listen give a Wire,
// on which it sends what it likes and reads requests and answers with a reader that
// takes nothing that could be read in two ways.
//
// # What a machine lacks
//
// A test that needs a program or something of the system calls Require or Lack: it is
// skipped with the reason, and fails when ROSTER_REQUIRE_ALL is 1, as in CI.
//
// # Concurrency
//
// Functions that take a testing.TB, and methods that can fail a test, belong to
// the goroutine that runs the test, as FailNow does. Origin, Loop and Wire's Read
// methods may be used from any goroutine. A subtest takes Node.For.
package harness
