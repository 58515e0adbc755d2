package proxy

import (
	"math/bits"
	"sync/atomic"
	"time"

	"roster/exchange"
)

// shards is how many sets of counters there are, so that connections on
// different cores mostly do not share a cache line. A power of two.
const shards = 8

// shard is one set of counters.
type shard struct {
	accepted atomic.Uint64
	requests [6]atomic.Uint64 // by class of the answer; [0]: none was sent
	failures [exchange.Kinds]atomic.Uint64
	retries  atomic.Uint64
	// Retries that the budget refused; routes' conditions that failed the request, and
	// those that were passed over.
	refused, conditions, skipped atomic.Uint64
	outcomes                     [3]atomic.Uint64 // by table.Outcome

	received atomic.Uint64
	sent     atomic.Uint64
	// of connections:
	handshakes, handshakesFailed, noHeader, http2 atomic.Uint64

	latencies [latencyBuckets]atomic.Uint64
	micros    atomic.Uint64
	_         [64]byte
}

// Stats are the counters of a Proxy since it was made.
type Stats struct {
	Connections int    // open now
	Accepted    uint64 // connections
	Crowded     uint64 // times a listener had as many as it may have
	NoHeader    uint64 // connections refused for want of a PROXY header
	Handshakes  uint64 // of TLS that succeeded
	BadTLS      uint64 // and that did not
	HTTP2       uint64 // connections that spoke HTTP/2
	// Requests by class of the answer's status, 1 (a tunnel) to 5; those without
	// an answer (the client went, or was cut off before a head) at 0.
	Requests [6]uint64
	// Failures by exchange.Kind.
	Failures [exchange.Kinds]uint64
	Retries  uint64 // requests sent once more, to the same or another backend
	// RetriesRefused are those that were not sent once more for want of budget.
	RetriesRefused uint64
	// Conditions are requests answered 500 because the condition of their route could
	// not be computed.
	Conditions uint64
	// Skipped are conditions that could not be computed and were taken for false, as
	// their routes say on_error skip.
	Skipped uint64
	// Outcomes, by table.Outcome, are what the table was told of the backends that it
	// chose: one for each choice, so retries of another backend count again.
	Outcomes [3]uint64
	Received uint64 // bytes from clients
	Sent     uint64 // bytes to clients
	// Latency is of whole requests, from the head received to the answer's last
	// byte handed to the system.
	Latency Latency
}

// Latency is a histogram in four buckets for each doubling.
type Latency struct {
	Buckets [latencyBuckets]uint64
	Sum     time.Duration
}

const (
	latencySteps   = 4 // per doubling: a bucket is at most a quarter wide
	latencyBuckets = 27 * latencySteps
)

// bucketOf finds the bucket of a number of microseconds: below 4 each has its
// own, above them one holds a quarter of a doubling. The last also holds what is
// longer than it.
func bucketOf(us uint64) int {
	if us < latencySteps {
		return int(us)
	}
	octave := bits.Len64(us) - 3 // of the first bit after the two kept
	return min(int(octave+1)*latencySteps+int(us>>octave)-latencySteps, latencyBuckets-1)
}

// Bound is the upper bound of bucket i, exclusive.
func (Latency) Bound(i int) time.Duration {
	i++
	if i < latencySteps {
		return time.Duration(i) * time.Microsecond
	}
	octave := i/latencySteps - 1
	return time.Duration(latencySteps+i%latencySteps) << octave * time.Microsecond
}

// record counts a request that has ended.
func (s *shard) record(status int, failure exchange.Kind, took time.Duration) {
	class := status / 100
	if class > 5 {
		class = 5
	}
	s.requests[class].Add(1)
	if failure != exchange.None {
		s.failures[failure].Add(1)
	}
	us := uint64(took / time.Microsecond)
	s.latencies[bucketOf(us)].Add(1)
	s.micros.Add(us)
}

// Stats returns the counters. They are read one by one, so they may disagree by
// the requests of the moment.
func (p *Proxy) Stats() Stats {
	s := Stats{Crowded: p.crowded.Load()}
	var micros uint64
	for i := range p.shards {
		sh := &p.shards[i]
		s.Accepted += sh.accepted.Load()
		s.NoHeader += sh.noHeader.Load()
		s.Handshakes += sh.handshakes.Load()
		s.BadTLS += sh.handshakesFailed.Load()
		s.HTTP2 += sh.http2.Load()
		s.Retries += sh.retries.Load()
		s.RetriesRefused += sh.refused.Load()
		s.Conditions += sh.conditions.Load()
		s.Skipped += sh.skipped.Load()
		s.Received += sh.received.Load()
		s.Sent += sh.sent.Load()
		micros += sh.micros.Load()
		for j := range sh.requests {
			s.Requests[j] += sh.requests[j].Load()
		}
		for j := range sh.failures {
			s.Failures[j] += sh.failures[j].Load()
		}
		for j := range sh.outcomes {
			s.Outcomes[j] += sh.outcomes[j].Load()
		}
		for j := range sh.latencies {
			s.Latency.Buckets[j] += sh.latencies[j].Load()
		}
	}
	s.Latency.Sum = time.Duration(micros) * time.Microsecond
	p.mu.Lock()
	s.Connections = p.count
	for _, w := range p.workers {
		s.Connections += int(w.count.Load())
	}
	p.mu.Unlock()
	return s
}
