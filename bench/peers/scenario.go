//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
)

// host is what requests ask for, where it is not one of many.
const host = "bench.test"

// A scenario is one way to ask.
type scenario struct {
	Key    string // a letter
	Title  string
	path   string
	tls    bool
	h2     bool // HTTP/2, by h2load
	close  bool // a connection for each request
	post   int  // bytes of a request's body
	idle   int  // connections that do nothing meanwhile
	fleet  int  // backends with a host of their own, 0: one backend
	shared bool // they have one address, else each its own
	splice bool // HAProxy with option splice-response
	// Aim is the most CPU time that roster may need for a request, as a share of HAProxy's
	// with one thread; of its own with one backend for the fleet. From the issues "Epoll
	// driver" and, for TLS and HTTP/2, "Data plane".
	Aim float64
}

// scenarios are all there are, with the numbers of idle connections and backends given.
func scenarios(idle, fleet int) []scenario {
	return []scenario{
		{Key: "a", Title: "GET 1 KiB, keep-alive", path: "/1k", Aim: 0.88},
		{Key: "b", Title: "GET 64 KiB, keep-alive", path: "/64k", Aim: 0.85},
		{Key: "c", Title: "GET 1 MiB, keep-alive, HAProxy with splice-response", path: "/1m", splice: true, Aim: 0.75},
		{Key: "d", Title: "GET 1 KiB, a client connection for each request", path: "/1k", close: true, Aim: 0.9},
		{Key: "e", Title: "POST 4 KiB, keep-alive", path: "/post", post: 4 << 10, Aim: 0.9},
		{Key: "f", Title: "GET 1 KiB, keep-alive, TLS", path: "/1k", tls: true, Aim: 1.2},
		{Key: "g", Title: "GET 1 KiB, HTTP/2 over TLS", path: "/1k", tls: true, h2: true, Aim: 2},
		{Key: "h", Title: fmt.Sprintf("GET 1 KiB, keep-alive, %d idle connections beside", idle), path: "/1k", idle: idle, Aim: 0.9},
		{Key: "i", Title: fmt.Sprintf("GET 1 KiB, keep-alive, %d backends at one address and as many hosts", fleet), path: "/1k", fleet: fleet, shared: true, Aim: 1.05},
		{Key: "j", Title: fmt.Sprintf("GET 1 KiB, keep-alive, %d backends at as many addresses and as many hosts", fleet), path: "/1k", fleet: fleet, Aim: 1.05},
	}
}

// choose picks scenarios by their letters, which may be separated by commas.
func choose(all []scenario, keys string) ([]scenario, error) {
	var chosen []scenario
	for _, key := range strings.ReplaceAll(keys, ",", "") {
		i := slices.IndexFunc(all, func(s scenario) bool { return s.Key == string(key) })
		if i < 0 {
			return nil, fmt.Errorf("no scenario %q: there are %s to %s", key, all[0].Key, all[len(all)-1].Key)
		}
		chosen = append(chosen, all[i])
	}
	if len(chosen) == 0 {
		return nil, fmt.Errorf("no scenario chosen")
	}
	return chosen, nil
}

// fleetHost is the host of backend i of a fleet, 1 and up.
func fleetHost(i int) string { return fmt.Sprintf("h%d.test", i) }

// fleetAddress is the address of backend i, on loopback.
func (s scenario) fleetAddress(i int) string {
	if s.shared {
		return "127.0.0.1"
	}
	return fmt.Sprintf("127.1.%d.%d", i>>8, i&255)
}
