package balancer_test

import (
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"roster/balancer"
)

// The choice is the first from the cursor on that may be chosen, and the cursor
// moves past it; -1 only if none may.
func TestRoundRobinPicksTheNextThatMayBeChosen(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var turn balancer.RoundRobin
		cursor := 0
		for range rapid.IntRange(1, 40).Draw(t, "picks") {
			ok := rapid.SliceOfN(rapid.Bool(), 0, 6).Draw(t, "ok")
			asked := make([]int, len(ok))
			got := turn.Pick(len(ok), func(i int) bool { asked[i]++; return ok[i] })
			want := -1
			for i := range ok {
				if at := (cursor + i) % len(ok); ok[at] {
					want = at
					break
				}
			}
			if got != want {
				t.Fatalf("picked %d of %v with the cursor at %d, want %d", got, ok, cursor, want)
			}
			for i, n := range asked {
				if n > 1 {
					t.Fatalf("asked %d times about %d", n, i)
				}
			}
			// Where the cursor is afterwards depends on whether it moved from a number
			// of members that has changed since: follow what the picks show.
			if len(ok) > 0 {
				if want >= 0 {
					cursor += (want-cursor%len(ok)+len(ok))%len(ok) + 1
				} else {
					cursor++
				}
			}
		}
	})
}

func TestRoundRobinIsEvenAmongConcurrentCallers(t *testing.T) {
	t.Parallel()
	const members, callers, each = 4, 8, 1000
	var turn balancer.RoundRobin
	var mu sync.Mutex
	counts := make([]int, members)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			mine := make([]int, members)
			for range each {
				mine[turn.Pick(members, func(int) bool { return true })]++
			}
			mu.Lock()
			defer mu.Unlock()
			for i, n := range mine {
				counts[i] += n
			}
		})
	}
	wg.Wait()
	for i, n := range counts {
		if n != callers*each/members {
			t.Errorf("member %d was picked %d times, want %d", i, n, callers*each/members)
		}
	}
}

func BenchmarkRoundRobin(b *testing.B) {
	for _, n := range []int{2, 100, 10_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			var turn balancer.RoundRobin
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					turn.Pick(n, func(int) bool { return true })
				}
			})
		})
	}
}
