package node

import (
	"time"

	"roster/exchange"
	"roster/node/admin"
)

// classes are the words for classes of answers.
var classes = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// traffic is what went through the node so far.
func (n *Node) traffic() admin.Traffic {
	s := n.proxy.Stats()
	out := admin.Traffic{
		At: time.Now(), Started: n.started, Retries: s.Retries, Clients: s.Connections, Accepted: s.Accepted, Received: s.Received, Sent: s.Sent,
		Requests: make(map[string]uint64, len(s.Requests)), Failures: make(map[string]uint64),
		Latency: admin.Latency{SumSeconds: s.Latency.Sum.Seconds(), Buckets: []admin.LatencyBucket{}},
	}
	for class, v := range s.Requests {
		out.Requests[classes[class]] = v
	}
	for kind, v := range s.Failures {
		if v > 0 && exchange.Kind(kind) != exchange.None {
			out.Failures[exchange.Kind(kind).String()] = v
		}
	}
	for i, v := range s.Latency.Buckets {
		if v > 0 {
			out.Latency.Buckets = append(out.Latency.Buckets, admin.LatencyBucket{BelowSeconds: s.Latency.Bound(i).Seconds(), Count: v})
		}
	}
	for slot := range n.Table().Slots("", "") {
		if b := slot.Backend; b != nil {
			out.Active += b.Runtime.Active()
			out.Queued += b.Runtime.Queued()
		}
	}
	return out
}
