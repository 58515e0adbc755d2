package table

import (
	"sync/atomic"

	"roster/balancer"
	"roster/pool"
	"roster/prober"
)

// Runtime is what belongs to a backend's name whatever its definition says:
// the limit of requests in progress with its queue, and counters. It lives
// from the backend's creation until its last request after the deletion.
type Runtime struct {
	pool.Limit // which ends with a word that every request touches, as what follows is

	Requests  atomic.Uint64    // requests given to this backend, retries included
	Responses [5]atomic.Uint64 // answers by class: 1xx (never counted), 2xx, 3xx, 4xx, 5xx at index class-1

	Failures atomic.Uint64 // of Requests, those that got no whole answer from it

	latency balancer.Latency                // of requests that came by directors which go by it
	retries atomic.Pointer[balancer.Budget] // of routes that name the backend; made when one retries

	told prober.Verdict // that notify knows, while there is a probe; of the Applier's health
}

// budget returns the backend's own retry budget.
func (r *Runtime) budget() *balancer.Budget {
	if b := r.retries.Load(); b != nil {
		return b
	}
	r.retries.CompareAndSwap(nil, new(balancer.Budget))
	return r.retries.Load()
}
