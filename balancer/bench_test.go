package balancer_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"roster/balancer"
	"roster/store"
)

var types = []store.DirectorType{
	store.RoundRobin, store.Fallback, store.Random, store.Hash, store.Shard, store.LeastConnections, store.P2C,
}

// BenchmarkPick: no allocations; round_robin and random near constant.
func BenchmarkPick(b *testing.B) {
	for _, kind := range types {
		for _, weights := range []string{"equal", "mixed"} {
			for _, n := range []int{2, 100, 10_000} {
				b.Run(fmt.Sprintf("type=%s/weights=%s/members=%d", kind, weights, n), func(b *testing.B) {
					members, health := many(n)
					if weights == "mixed" {
						for i := range members {
							members[i].Weight = float64(1 + i%5)
						}
					}
					var m balancer.Members = health // once, not for each pick
					view := new(balancer.State).View(director(kind), members, m, nil, 0)
					b.ReportAllocs()
					b.ResetTimer()
					b.RunParallel(func(pb *testing.PB) {
						q := &balancer.Query{Key: rand.Uint32()}
						for pb.Next() {
							q.Key += 0x9E3779B9
							if view.Pick(q, m) < 0 {
								b.Error("none")
							}
						}
					})
				})
			}
		}
	}
}

// BenchmarkView: 200 us for 10,000 members, when the health of one changed.
func BenchmarkView(b *testing.B) {
	for _, kind := range types {
		for _, weights := range []string{"equal", "mixed", "ramping"} {
			b.Run(fmt.Sprintf("type=%s/weights=%s/members=10000", kind, weights), func(b *testing.B) {
				members, health := many(10_000)
				def := director(kind)
				for i := range members {
					switch weights {
					case "mixed":
						members[i].Weight = float64(1 + i%5)
					case "ramping":
						def.SlowStart = time.Minute
						members[i].Seat = new(balancer.Seat)
						health[i].sick = i%2 == 0
					}
				}
				state := new(balancer.State)
				view := state.View(def, members, health, nil, 0)
				for i := range health {
					health[i].sick = false
				}
				now, i := time.Duration(0), 0
				b.ReportAllocs()
				for b.Loop() {
					now += time.Microsecond
					i = (i + 7919) % len(members)
					health[i].sick = !health[i].sick
					view = state.View(def, members, health, view, now)
				}
			})
		}
	}
}

// BenchmarkRing: 5 ms for one of 10,000 members with 67 points each that joins or
// leaves.
func BenchmarkRing(b *testing.B) {
	def := director(store.Shard)
	members, health := many(10_001)
	joined, left := members, append(append([]balancer.Member(nil), members[:5000]...), members[5001:]...)
	b.Run("change=merge/members=10000", func(b *testing.B) {
		state := new(balancer.State)
		view := state.View(def, left, health, nil, 0)
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			next := joined
			if i%2 == 1 {
				next = left
			}
			view = state.View(def, next, health, view, 0)
		}
	})
	b.Run("change=afresh/members=10000", func(b *testing.B) {
		state := new(balancer.State)
		b.ReportAllocs()
		for b.Loop() {
			state.View(def, joined, health, nil, 0)
		}
	})
}

func BenchmarkHash(b *testing.B) {
	for _, n := range []int{20, 1000} {
		url := make([]byte, n)
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				balancer.Hash(url)
			}
		})
	}
}

func BenchmarkBudget(b *testing.B) {
	var budget balancer.Budget
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			budget.Request(time.Duration(i) * time.Microsecond)
			if i%10 == 0 {
				budget.Take(0.2, time.Duration(i)*time.Microsecond)
			}
		}
	})
}

func BenchmarkLatency(b *testing.B) {
	var l balancer.Latency
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			now := time.Duration(i) * time.Microsecond
			l.Observe(time.Millisecond, now)
			l.Value(now)
		}
	})
}
