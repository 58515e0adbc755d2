// Package balancer chooses among a director's members. It knows positions and
// whether each may be chosen now, nothing of HTTP, sockets or etcd.
//
// A chooser's state (a cursor) outlives the tables that use it, is safe for
// any number of goroutines, and is read and moved without a lock.
package balancer

import (
	"errors"
	"sync/atomic"
)

// ErrNoBackend says that no member may be chosen: all are sick, missing or
// none. The client's answer is 503.
var ErrNoBackend = errors.New("no healthy backend")

// RoundRobin is Varnish's round_robin director (vmod_directors): the first
// member from the cursor on that may be chosen, and the cursor moves past it.
// The zero value is ready.
type RoundRobin struct {
	cursor atomic.Uint64
}

// Pick returns the position of the next of n members for which ok holds, or
// -1. ok is asked at most n times, each position once.
func (r *RoundRobin) Pick(n int, ok func(int) bool) int {
	if n == 0 {
		return -1
	}
	start := int((r.cursor.Add(1) - 1) % uint64(n))
	for i := range n {
		at := start + i
		if at >= n {
			at -= n
		}
		if ok(at) {
			if i > 0 {
				r.cursor.Add(uint64(i)) // past the chosen one, as Varnish moves it
			}
			return at
		}
	}
	return -1
}
