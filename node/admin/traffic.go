package admin

import (
	"net/http"
	"time"
)

// Traffic is what went through the node since it began, as counters: who asks twice has
// rates, and percentiles of the time between.
type Traffic struct {
	At      time.Time `json:"at"`
	Started time.Time `json:"started"` // of the process: with another one the counters begin anew

	// Requests by class of the answer: none (the client got no answer), 1xx to 5xx.
	Requests map[string]uint64 `json:"requests"`
	Failures map[string]uint64 `json:"failures"` // requests that failed, by kind; kinds that have not happened are left out
	Retries  uint64            `json:"retries"`
	Latency  Latency           `json:"latency"`

	Clients  int    `json:"clients"`  // their open connections
	Accepted uint64 `json:"accepted"` // their connections so far
	Received uint64 `json:"received_bytes"`
	Sent     uint64 `json:"sent_bytes"`

	Active int `json:"active"` // requests in progress at backends
	Queued int `json:"queued"` // requests that wait for a slot
}

// Latency is how long requests took, from the head received to the last byte sent.
type Latency struct {
	SumSeconds float64         `json:"sum_seconds"`
	Buckets    []LatencyBucket `json:"buckets"` // in order, those that count something
}

// LatencyBucket counts requests that took less than a bound and are in no bucket before it.
// A bucket is at most a quarter wide.
type LatencyBucket struct {
	BelowSeconds float64 `json:"below_seconds"`
	Count        uint64  `json:"count"`
}

func (s *Server) traffic(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	t := Traffic{At: time.Now(), Requests: map[string]uint64{}, Failures: map[string]uint64{}, Latency: Latency{Buckets: []LatencyBucket{}}}
	if s.Traffic != nil {
		t = s.Traffic()
	}
	answer(w, http.StatusOK, t)
}
