// Fleet measures how a change comes to all nodes of a fleet, and what that costs etcd. It
// needs Linux, and builds roster and etcd from this source tree:
//
//	go run ./bench/fleet -help
//
// # Nodes
//
// Processes of the built binary on one etcd. Before each put a client of each node sends a
// request that the node holds until it serves by a newer revision (X-Min-Revision); the time is
// from before the put is sent until the answer that shows the new definition has come. So
// nothing is polled, and the least that can be told apart is what an answer takes, a fraction
// of a millisecond. As many puts follow without any request: those tell the CPU time of a put,
// from which that of the same time without puts is taken off.
//
// All processes share this machine's cores. With many nodes on few cores the times are mostly
// of waiting for a core, and say what is not to be exceeded, not what a fleet on machines of its
// own would take.
//
// # Simulated nodes
//
// What a node does with etcd, without a proxy, in this program: each has a connection of its
// own, and roster's watcher, as "watchers", or presence under a lease, too, as "members".
// They tell what etcd needs for a thousand of them, and what it needs behind etcd's grpc-proxy.
package main
