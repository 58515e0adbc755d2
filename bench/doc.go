// Package bench measures the built roster from outside: real processes, a real
// etcd, real sockets. It has no code of its own, only benchmarks; how roster compares
// with other proxies is told by the program in peers.
//
//	go test -run '^$' -bench . -timeout 20m ./bench
//
// What they report besides ns/op is named in docs/PERFORMANCE.md, with the results
// and the machine they are from. The sizes are those of the aims; ROSTER_BENCH_MAX
// caps them, for a quick look:
//
//	ROSTER_BENCH_MAX=1000 go test -run '^$' -bench . ./bench
//
// Processes are asked for their CPU time and memory through /proc, so this needs
// Linux; elsewhere the benchmarks are skipped.
package bench
