package peer

import (
	"encoding/binary"
	"io"
	"iter"
	"testing"
	"time"

	"roster/node/certs/certstest"
	"roster/prober"
)

const many = 100_000

// manyHistories are those of backends of which one in ten is sick.
func manyHistories() iter.Seq2[prober.Key, prober.History] {
	at := time.Now()
	well := prober.History{Probes: 64, IPv4: ^uint64(0), Sent: ^uint64(0), Received: ^uint64(0), Happy: ^uint64(0), Last: time.Millisecond, Average: time.Millisecond, At: at, Text: "HTTP/1.1 200 OK"}
	sick := prober.History{Probes: 64, IPv4: ^uint64(0), Sent: ^uint64(0), ReceiveFailed: ^uint64(0), At: at, Stage: prober.Receive, Text: "no answer within 2s"}
	return func(yield func(prober.Key, prober.History) bool) {
		for i := range uint64(many) {
			var key prober.Key
			binary.LittleEndian.PutUint64(key[:], i)
			h := well
			if i%10 == 0 {
				h = sick
			}
			if !yield(key, h) {
				return
			}
		}
	}
}

// BenchmarkAsk is 100,000 histories from one peer, asked for by TLS on loopback, both ends in
// this process.
func BenchmarkAsk(b *testing.B) {
	ca := certstest.NewCA(b)
	s := telling(b, ca, "a", 0, prober.History{})
	s.Histories = manyHistories
	peers := []Peer{at("a", serve(b, s))}
	c := client(b, ca)
	b.ReportAllocs()
	taken := 0
	for b.Loop() {
		seeds, _ := c.Ask(b.Context(), peers)
		taken += len(seeds)
	}
	b.ReportMetric(float64(taken)/float64(b.N), "histories/op") // fewer on a machine that is too slow for its bounds
}

// BenchmarkRecords is the packing alone.
func BenchmarkRecords(b *testing.B) {
	var packed []byte
	b.Run("pack", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			packed = packed[:0]
			for key, h := range manyHistories() {
				packed = appendRecord(packed, key, &h, time.Second)
			}
		}
		b.ReportMetric(float64(len(packed))/many, "bytes/history")
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			in, out := io.Pipe()
			go func() { out.Write(packed); out.Close() }()
			if err := readRecords(in, func(prober.Key, prober.History, time.Duration) {}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
