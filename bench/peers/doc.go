// Peers compares roster with HAProxy and nginx on this machine, each as a proxy in
// front of the same kind of origin, over loopback. It needs Linux, haproxy, nginx, wrk
// and, for HTTP/2, h2load:
//
//	go run ./bench/peers -help
//
// A scenario is run in rounds; in each the proxies are loaded one after the other, in an
// order that changes from round to round, so that what else happens on the machine
// meets all of them. What counts is the CPU time of a request: user and system time of
// all threads of the proxy, from /proc, over the requests that the load generator has
// seen answered. Requests per second say less: they end where the first core is full.
//
// By default a proxy has core 0 for itself, and load and origin are on core 1.
// With -unpinned the system places all threads, and the proxies use all cores.
//
// Each proxy does what it would do in service: roster routes by host, has limits and
// timeouts, counts, and sends X-Forwarded-For and Via; HAProxy and nginx have timeouts,
// keep connections to the origin and send X-Forwarded-For.
package main
