package balancer_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"roster/balancer"
	"roster/store"
)

// state is what a test says of a member.
type state struct {
	sick, missing bool
	active        int
	latency       time.Duration
}

// health is the Members of a test. The zero state is a healthy member.
type health []state

func (h health) Available(i int) bool        { return !h[i].sick && !h[i].missing }
func (h health) Present(i int) bool          { return !h[i].missing }
func (h health) Active(i int) int            { return h[i].active }
func (h health) Latency(i int) time.Duration { return h[i].latency }

// many is n healthy members of weight 1, m0 to m(n-1).
func many(n int) ([]balancer.Member, health) {
	members := make([]balancer.Member, n)
	for i := range members {
		members[i] = balancer.Member{Ref: uint32(i), Name: fmt.Sprintf("m%d", i), Weight: 1}
	}
	return members, make(health, n)
}

// weighing is healthy members of these weights.
func weighing(weights ...float64) ([]balancer.Member, health) {
	members, h := many(len(weights))
	for i, w := range weights {
		members[i].Weight = w
	}
	return members, h
}

func director(kind store.DirectorType) *store.Director {
	def := &store.Director{Type: kind}
	if kind == store.Shard {
		def.Replicas, def.Healthy = 67, store.HealthyChosen
	}
	return def
}

// seeded is a State whose chances are the same in each run.
func seeded(seed uint64) *balancer.State {
	return &balancer.State{Rand: rand.New(rand.NewPCG(seed, 0)).Uint64}
}

// counts picks n times, with the keys of n strings, and counts.
func counts(t *testing.T, view *balancer.View, m balancer.Members, members, n int, now time.Duration) []int {
	t.Helper()
	got := make([]int, members)
	for i := range n {
		at := view.Pick(&balancer.Query{Key: balancer.Hash(fmt.Append(nil, "/", i)), Now: now}, m)
		if at < 0 {
			t.Fatalf("pick %d found none", i)
		}
		got[at]++
	}
	return got
}

// fit fails the test if counts are not shares of their sum: Pearson's chi-squared
// above the bound that chance exceeds once in 100,000 times. The chances of tests
// are seeded, so a test that passed goes on to pass.
func fit(t *testing.T, what string, got []int, shares ...float64) {
	t.Helper()
	sum, whole := 0, 0.0
	for i := range got {
		sum, whole = sum+got[i], whole+shares[i]
	}
	chi, freedom := 0.0, -1.0
	for i := range got {
		want := float64(sum) * shares[i] / whole
		if want == 0 {
			if got[i] > 0 {
				t.Errorf("%s: member %d has %d of %d, want none: %v", what, i, got[i], sum, got)
			}
			continue
		}
		chi += (float64(got[i]) - want) * (float64(got[i]) - want) / want
		freedom++
	}
	// The quantile by Wilson and Hilferty; 4.265 is the normal distribution's.
	bound := freedom * math.Pow(1-2/(9*freedom)+4.265*math.Sqrt(2/(9*freedom)), 3)
	if freedom > 0 && chi > bound {
		t.Errorf("%s: chi-squared is %.1f, want at most %.1f: %v for shares %v", what, chi, bound, got, shares)
	}
}
