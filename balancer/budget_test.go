package balancer_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roster/balancer"
)

// take takes as many retries as there are.
func take(b *balancer.Budget, share float64, now time.Duration) int {
	for n := range 100_000 {
		if !b.Take(share, now) {
			return n
		}
	}
	return -1
}

func TestRetriesAreAShareOfRequests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		requests int
		share    float64
		want     int
	}{{0, 0.2, 10}, {1, 0.2, 11}, {1000, 0.2, 210}, {1000, 0, 0}, {1000, 1, 1010}, {5, -1, 0}} {
		var b balancer.Budget
		for i := range c.requests {
			b.Request(time.Duration(i) * time.Millisecond)
		}
		now := time.Duration(c.requests) * time.Millisecond
		if got := take(&b, c.share, now); got != c.want {
			t.Errorf("%d requests and a share of %v admit %d retries, want %d", c.requests, c.share, got, c.want)
		}
	}
}

func TestTheBudgetLooksAtTenSeconds(t *testing.T) {
	t.Parallel()
	var b balancer.Budget
	for range 100 {
		b.Request(0)
	}
	for _, step := range []struct {
		now  time.Duration
		want int
	}{
		{0, 60},                       // half of 100, and ten
		{9 * time.Second, 0},          // all used
		{10 * time.Second, 10},        // both forgotten; the floor
		{20*time.Second - 1, 0},       // ten seconds and its fraction have not gone by
		{20 * time.Second, 10},        //
		{time.Hour, 10},               //
		{(1 << 24) * time.Second, 10}, // the seconds' count begins anew
	} {
		if got := take(&b, 0.5, step.now); got != step.want {
			t.Errorf("at %v: %d retries, want %d", step.now, got, step.want)
		}
	}
}

// Over any history, what was taken in a window is within the budget of that window.
func TestRetriesNeverExceedTheBudget(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var b balancer.Budget
		share := rapid.SampledFrom([]float64{0.1, 0.5, 1}).Draw(t, "share")
		requests, retries := map[int]int{}, map[int]int{}
		second := rapid.IntRange(0, 1<<24).Draw(t, "second")
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			second += rapid.IntRange(0, 5).Draw(t, "pause")
			now := time.Duration(second) * time.Second
			for range rapid.IntRange(0, 20).Draw(t, "requests") {
				b.Request(now)
				requests[second]++
			}
			for range rapid.IntRange(0, 20).Draw(t, "retries") {
				before, taken := 0, 0
				for s := second - 9; s <= second; s++ {
					before, taken = before+requests[s], taken+retries[s]
				}
				want := float64(taken) < 10+share*float64(before)
				if got := b.Take(share, now); got != want {
					t.Fatalf("at second %d, with %d requests and %d retries in ten: Take is %v", second, before, taken, got)
				}
				if want {
					retries[second]++
				}
			}
		}
	})
}

func TestConcurrentRetriesDoNotExceedTheBudget(t *testing.T) {
	t.Parallel()
	var b balancer.Budget
	for range 1000 {
		b.Request(time.Second)
	}
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if b.Take(0.5, time.Second) {
					taken.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if taken.Load() != 510 {
		t.Errorf("%d retries taken, want 510", taken.Load())
	}
}
