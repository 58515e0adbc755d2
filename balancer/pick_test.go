package balancer_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roster/balancer"
	"roster/store"
)

// For any type, members, and health that changes between the view and the pick:
// what is picked is available and has a weight, and there is none only if no
// member is and has. Where health does not count (shard's ignore, panic) it is
// present at least.
func TestPickFindsAnAvailableMemberIfThereIsOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		def := director(rapid.SampledFrom(types).Draw(t, "type"))
		switch def.Type {
		case store.Shard:
			def.Replicas = rapid.IntRange(1, 20).Draw(t, "replicas")
			def.Healthy = rapid.SampledFrom([]store.ShardHealthy{store.HealthyChosen, store.HealthyAll, store.HealthyIgnore}).Draw(t, "healthy")
			def.Warmup = rapid.SampledFrom([]float64{0, 0, 0.5, 1}).Draw(t, "warmup")
			def.Rampup = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "rampup")
		case store.Fallback:
			def.Sticky = rapid.Bool().Draw(t, "sticky")
		case store.Hash:
		default:
			def.SlowStart = rapid.SampledFrom([]time.Duration{0, time.Minute}).Draw(t, "slow start")
		}
		def.Panic = rapid.SampledFrom([]float64{0, 0, 0.5, 1}).Draw(t, "panic")
		weights := []float64{1, 1, 1, 0, 0.5, 3, 1e6}
		if def.Type == store.Shard {
			weights[6] = 30 // a million would be 20 million points
		}
		ignore := def.Healthy == store.HealthyIgnore

		kept := seeded(rapid.Uint64().Draw(t, "seed"))
		seats := make([]balancer.Seat, 8)
		someState := rapid.Custom(func(t *rapid.T) state {
			s := state{sick: rapid.Bool().Draw(t, "sick"), missing: rapid.IntRange(0, 4).Draw(t, "missing") == 0}
			s.active = rapid.IntRange(0, 3).Draw(t, "active")
			s.latency = time.Duration(rapid.IntRange(0, 3).Draw(t, "latency"))
			return s
		})
		var view *balancer.View
		now := time.Duration(0)
		for range rapid.IntRange(1, 4).Draw(t, "views") {
			refs := rapid.SliceOfN(rapid.Uint32Range(0, 7), 0, 8).Draw(t, "members")
			members := make([]balancer.Member, len(refs))
			for i, ref := range refs {
				members[i] = balancer.Member{Ref: ref, Name: fmt.Sprint("m", ref), Rampup: def.Rampup,
					Weight: rapid.SampledFrom(weights).Draw(t, "weight")}
				if balancer.Remembers(def) {
					members[i].Seat = &seats[ref]
				}
			}
			draw := func() health {
				byRef := rapid.SliceOfN(someState, 8, 8).Draw(t, "health")
				h := make(health, len(refs))
				for i, ref := range refs {
					h[i] = byRef[ref]
				}
				return h
			}
			h := draw()
			view = kept.View(def, members, h, view, now)
			for range rapid.IntRange(0, 4).Draw(t, "picks") {
				now += time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "pause"))
				if rapid.Bool().Draw(t, "flip") {
					h = draw()
				}
				q := &balancer.Query{Key: rapid.Uint32().Draw(t, "key"), Now: now,
					Retry: rapid.IntRange(0, 5).Draw(t, "retry"), Peek: rapid.Bool().Draw(t, "peek")}
				any := false
				for i := range members {
					any = any || members[i].Weight > 0 && (h.Available(i) || (ignore || def.Panic > 0) && h.Present(i))
				}
				at := view.Pick(q, h)
				switch {
				case at < 0 && any:
					t.Fatalf("none of %v picked, though one may be: %v", members, h)
				case at < 0:
				case members[at].Weight <= 0:
					t.Fatalf("picked %d, which has no weight", at)
				case h[at].missing:
					t.Fatalf("picked %d, which is missing", at)
				case h[at].sick && !ignore && def.Panic == 0:
					t.Fatalf("picked %d, which is sick: %v", at, h)
				}
			}
		}
	})
}

func TestPeekMovesNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range types {
		def := director(kind)
		def.Sticky = kind == store.Fallback
		members, h := weighing(1, 1, 1)
		a, b := seeded(1), seeded(1)
		viewA, viewB := a.View(def, members, h, nil, 0), b.View(def, members, h, nil, 0)
		for i := range 50 {
			if kind != store.Random && kind != store.P2C { // whose chances are only drawn
				h[i%3].sick = true
				viewA.Pick(&balancer.Query{Key: 7, Peek: true}, h)
				h[i%3].sick = false
				viewA.Pick(&balancer.Query{Key: 7, Peek: true}, h)
			}
			q := &balancer.Query{Key: uint32(i) << 27}
			if a, b := viewA.Pick(q, h), viewB.Pick(q, h); a != b {
				t.Fatalf("%s: pick %d is %d after peeks, %d without", kind, i, a, b)
			}
		}
	}
}

func TestPickDoesNotAllocate(t *testing.T) {
	for _, kind := range types {
		for _, sick := range []bool{false, true} {
			def := director(kind)
			def.Sticky, def.Panic = kind == store.Fallback, 0.1
			members, h := weighing(1, 2, 3, 4)
			view := new(balancer.State).View(def, members, h, nil, 0)
			h[0].sick, h[1].sick, h[2].sick = sick, sick, sick
			var m balancer.Members = h
			q := &balancer.Query{}
			if n := testing.AllocsPerRun(200, func() { q.Key += 1 << 25; view.Pick(q, m) }); n != 0 {
				t.Errorf("%s, sick %v: a pick allocates %v times", kind, sick, n)
			}
		}
	}
}

func TestFallbackTakesTheFirstInOrder(t *testing.T) {
	t.Parallel()
	state, def := new(balancer.State), director(store.Fallback)
	members, h := weighing(0, 1, 1, 1)
	view := state.View(def, members, h, nil, 0)
	for _, c := range []struct {
		sick []int
		want int
	}{{nil, 1}, {[]int{1}, 2}, {[]int{1, 2}, 3}, {[]int{2}, 1}, {[]int{1, 2, 3}, -1}, {nil, 1}} {
		now := slices.Clone(h)
		for _, i := range c.sick {
			now[i].sick = true
		}
		// A view made when all were well is right about who sickened since.
		for what, v := range map[string]*balancer.View{"old": view, "new": state.View(def, members, now, view, 0)} {
			if got := v.Pick(&balancer.Query{}, now); got != c.want {
				t.Errorf("with %v sick, %s view: picked %d, want %d", c.sick, what, got, c.want)
			}
		}
	}
}

func TestStickyFallbackKeepsItsChoiceUntilItIsSick(t *testing.T) {
	t.Parallel()
	state, def := new(balancer.State), director(store.Fallback)
	def.Sticky = true
	members, h := many(4)
	var view *balancer.View
	pick := func(want int, sick ...int) {
		t.Helper()
		now := slices.Clone(h)
		for _, i := range sick {
			now[i].sick = true
		}
		if view != nil {
			peek := view.Pick(&balancer.Query{Peek: true}, now)
			if got := view.Pick(&balancer.Query{}, now); got != want || peek != want {
				t.Errorf("with %v sick: picked %d, peeked %d, want %d", sick, got, peek, want)
			}
		}
		view = state.View(def, members, now, view, 0)
		if got := view.Pick(&balancer.Query{}, now); got != want {
			t.Errorf("with %v sick, new view: picked %d, want %d", sick, got, want)
		}
	}
	pick(0)
	pick(1, 0)
	pick(1) // the first is well again: the choice stays
	pick(3, 1, 2)
	pick(0, 3) // after the last comes the first
	pick(1, 0)
	pick(-1, 0, 1, 2, 3)
	pick(1) // the choice outlives that none was there

	// A retry goes elsewhere; the choice of others stays.
	tried := slices.Clone(h)
	tried[1].missing = true
	if got := view.Pick(&balancer.Query{Retry: 1}, tried); got != 2 {
		t.Errorf("a retry picked %d, want 2", got)
	}
	pick(1)

	// The choice moves with its member, and goes to the next when it leaves.
	members = append([]balancer.Member{{Ref: 9, Name: "new", Weight: 1}}, members...)
	h = make(health, 5)
	view = state.View(def, members, h, view, 0)
	if got := view.Pick(&balancer.Query{}, h); members[got].Name != "m1" {
		t.Errorf("after one joined before it, the choice is %s, want m1", members[got].Name)
	}
	members = slices.Delete(slices.Clone(members), 2, 3)
	view = state.View(def, members, h, view, 0)
	if got := view.Pick(&balancer.Query{}, h); members[got].Name != "m2" {
		t.Errorf("after it left, the choice is %s, want m2", members[got].Name)
	}
}

func TestPanicUsesAllThatArePresent(t *testing.T) {
	t.Parallel()
	for _, kind := range weighted {
		state, def := seeded(13), director(kind)
		def.Panic = 0.5
		members, h := weighing(1, 1, 2, 1, 0)
		h[3].missing = true // neither counted nor chosen; nor is the one without weight
		view := state.View(def, members, h, nil, 0)
		h[0].sick = true
		for _, c := range []struct {
			sick   int
			panics bool
			shares []float64
		}{{0, false, []float64{1, 1, 2, 0, 0}}, {1, false, []float64{0, 1, 2, 0, 0}}, {2, true, []float64{1, 1, 2, 0, 0}}, {3, true, []float64{1, 1, 2, 0, 0}}} {
			for i := range 3 {
				h[i].sick = i < c.sick
			}
			view = state.View(def, members, h, view, 0)
			if view.Panic() != c.panics || !view.Available() {
				t.Errorf("%s, %d of 3 sick: Panic is %v, want %v; Available %v", kind, c.sick, view.Panic(), c.panics, view.Available())
			}
			fit(t, fmt.Sprint(kind, ", sick: ", c.sick), counts(t, view, h, 5, 8_000, 0), c.shares...)
		}
	}
}

func TestAShareThatIsNotBelowPanicIsNone(t *testing.T) {
	t.Parallel()
	def := director(store.Random)
	def.Panic = 0.5
	members, h := many(4)
	for i, want := range []bool{false, false, true, true} {
		h[i].sick = true
		if got := new(balancer.State).View(def, members, h, nil, 0).Panic(); got != want {
			t.Errorf("%d of 4 sick: Panic is %v, want %v", i+1, got, want)
		}
	}
}

// Members that sicken after the view was made: panic does not wait for the next.
func TestPanicComesBeforeNone(t *testing.T) {
	t.Parallel()
	for _, kind := range types {
		def := director(kind)
		def.Panic = 0.1
		members, h := many(3)
		view := new(balancer.State).View(def, members, h, nil, 0)
		for i := range h {
			h[i].sick = true
		}
		h[1].missing = true
		for key := range uint32(20) {
			if at := view.Pick(&balancer.Query{Key: key << 27}, h); at != 0 && at != 2 {
				t.Errorf("%s: picked %d, want 0 or 2, which are sick but there", kind, at)
			}
		}
	}
}

func TestShareIsByWeight(t *testing.T) {
	t.Parallel()
	for _, kind := range types {
		members, h := weighing(1, 2, 0, 5)
		view := new(balancer.State).View(director(kind), members, h, nil, 0)
		want := []float64{0.125, 0.25, 0, 0.625}
		if kind == store.Fallback {
			want = []float64{1, 0, 0, 0}
		}
		if got := view.Shares(); !slices.Equal(got, want) {
			t.Errorf("%s: the shares are %v, want %v", kind, got, want)
		}
	}
}

// All requests are for the one that a fallback has come to.
func TestShareOfAFallback(t *testing.T) {
	t.Parallel()
	for _, sticky := range []bool{false, true} {
		def := director(store.Fallback)
		def.Sticky = sticky
		members, h := weighing(1, 0, 2, 1)
		state := new(balancer.State)
		for i, sick := range [][]int{{}, {0}, {}, {2}, {0, 2}, {0, 2, 3}} {
			for at := range h {
				h[at].sick = slices.Contains(sick, at)
			}
			view := state.View(def, members, h, nil, 0)
			got, want := view.Shares(), make([]float64, len(members))
			if at := view.Pick(&balancer.Query{}, h); at >= 0 {
				want[at] = 1
			}
			if !slices.Equal(got, want) {
				t.Errorf("sticky %t, step %d: the shares are %v, want %v", sticky, i, got, want)
			}
		}
	}
}

// flipping is members whose health changes all the time, but for the first.
type flipping struct{ bits *atomic.Uint64 }

func (f flipping) Available(i int) bool      { return i == 0 || f.bits.Load()>>i&1 != 0 }
func (f flipping) Present(int) bool          { return true }
func (f flipping) Active(int) int            { return int(f.bits.Load() & 7) }
func (f flipping) Latency(int) time.Duration { return time.Duration(f.bits.Load() & 15) }

// Requests pick, report and spend the budget while views are made and health
// changes; run with -race. The first member is always available, so one is found.
func TestPickAndReportWhileViewsAreMade(t *testing.T) {
	t.Parallel()
	for _, kind := range types {
		def := director(kind)
		def.Sticky = kind == store.Fallback
		def.SlowStart, def.Rampup = 10, 10
		def.Outlier = &store.Outlier{Consecutive: 2, Ejection: 5, MaxEjection: 20, MaxShare: 0.5}
		var state balancer.State
		members, _ := many(20)
		for i := range members {
			members[i].Weight, members[i].Rampup = float64(1+i%3), 10
			members[i].Seat = new(balancer.Seat)
		}
		m := flipping{new(atomic.Uint64)}
		var latest atomic.Pointer[balancer.View]
		latest.Store(state.View(def, members, m, nil, 0))
		var wg sync.WaitGroup
		for g := range 4 {
			wg.Go(func() {
				var l balancer.Latency
				for i := range 2000 {
					now := time.Duration(i)
					at := latest.Load().Pick(&balancer.Query{Key: uint32(i) << 20, Now: now}, m)
					if at < 0 {
						t.Errorf("%s: found none", kind)
						return
					}
					state.Report(def, len(members), members[at].Seat, (i+g)%3 == 0, now)
					state.Budget().Request(now)
					state.Budget().Take(0.2, now)
					l.Observe(now, now)
				}
			})
		}
		for i := range 300 {
			m.bits.Add(0x9E3779B97F4A7C15)
			latest.Store(state.View(def, members[:1+i%20:20], m, latest.Load(), time.Duration(i)))
		}
		wg.Wait()
	}
}

// Of members in turn, one that fails each time is the first choice of its share of requests
// and no more: retries take nobody's turn, and are spread evenly over the others in turn.
func TestRetriesTakeNobodysTurn(t *testing.T) {
	t.Parallel()
	for _, kind := range []store.DirectorType{store.RoundRobin, store.LeastConnections} {
		for _, n := range []int{2, 4} {
			members, healthy := many(n)
			view := seeded(1).View(director(kind), members, healthy, nil, 0)
			first, second := make([]int, n), make([]int, n)
			const requests = 4000
			for range requests {
				at := view.Pick(&balancer.Query{}, healthy)
				first[at]++
				if at == 0 {
					tried := slices.Clone(healthy)
					tried[0].sick = true
					second[view.Pick(&balancer.Query{Retry: 1}, tried)]++
				}
			}
			for at, got := range first {
				if got != requests/n {
					t.Errorf("%s of %d: first choices are %v, want %d of %d", kind, n, first, requests/n, at)
				}
			}
			shares := make([]float64, n-1)
			for i := range shares {
				shares[i] = 1
			}
			if n > 2 && kind == store.RoundRobin {
				fit(t, fmt.Sprintf("%s of %d: retries", kind, n), second[1:], shares...)
			}
		}
	}
}
