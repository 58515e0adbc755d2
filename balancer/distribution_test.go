package balancer_test

import (
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roster/balancer"
	"roster/store"
)

// weighted are the types whose shares are their weights, given enough keys.
var weighted = []store.DirectorType{store.RoundRobin, store.Random, store.Hash, store.LeastConnections, store.P2C}

func TestSharesFollowWeights(t *testing.T) {
	t.Parallel()
	for _, kind := range weighted {
		for _, weights := range [][]float64{
			{1, 1, 1, 1}, {1, 2, 3}, {0.5, 0, 10, 2.25}, {3}, {1, 1, 1, 1, 1, 1, 1, 93}, {1e6, 1e6, 1},
		} {
			members, health := weighing(weights...)
			view := seeded(1).View(director(kind), members, health, nil, 0)
			fit(t, string(kind), counts(t, view, health, len(members), 10_000, 0), weights...)
		}
	}
}

func TestAMemberListedTwiceHasTwiceTheShare(t *testing.T) {
	t.Parallel()
	for _, kind := range weighted {
		members, health := weighing(1, 1, 1)
		members[2].Ref, members[2].Name = members[0].Ref, members[0].Name
		got := counts(t, seeded(2).View(director(kind), members, health, nil, 0), health, 3, 10_000, 0)
		fit(t, string(kind), []int{got[0] + got[2], got[1]}, 2, 1)
	}
}

func TestSharesFollowAChangeOfWeights(t *testing.T) {
	t.Parallel()
	for _, kind := range weighted {
		state, def := seeded(3), director(kind)
		var view *balancer.View
		for _, weights := range [][]float64{{1, 1, 1}, {1, 4, 1}, {0, 1, 1}, {1, 1, 1}} {
			members, health := weighing(weights...)
			view = state.View(def, members, health, view, 0)
			fit(t, string(kind), counts(t, view, health, 3, 10_000, 0), weights...)
		}
	}
}

func TestTheShareOfASickMemberGoesToTheOthersByWeight(t *testing.T) {
	t.Parallel()
	for _, kind := range weighted {
		state, def := seeded(4), director(kind)
		members, health := weighing(1, 2, 3, 4)
		view := state.View(def, members, health, nil, 0)
		health[1].sick = true
		if kind == store.Random {
			fit(t, string(kind)+" before a new view is made", counts(t, view, health, 4, 10_000, 0), 1, 0, 3, 4)
		}
		view = state.View(def, members, health, view, 0)
		fit(t, string(kind), counts(t, view, health, 4, 10_000, 0), 1, 0, 3, 4)
	}
}

func TestAllSickGivesNone(t *testing.T) {
	t.Parallel()
	for _, kind := range types {
		state, def := seeded(5), director(kind)
		members, health := weighing(1, 2)
		view := state.View(def, members, health, nil, 0)
		health[0].sick, health[1].sick = true, true
		for what, v := range map[string]*balancer.View{"old": view, "new": state.View(def, members, health, view, 0)} {
			if at := v.Pick(&balancer.Query{}, health); at != -1 {
				t.Errorf("%s, %s view: picked %d of members that are all sick", kind, what, at)
			}
			if v.Available() != (what == "old") {
				t.Errorf("%s, %s view: Available is %v", kind, what, v.Available())
			}
		}
		if at := state.View(def, nil, health, nil, 0).Pick(&balancer.Query{}, health); at != -1 {
			t.Errorf("%s: picked %d of no members", kind, at)
		}
	}
}

func TestRoundRobinTakesExactTurns(t *testing.T) {
	t.Parallel()
	state, def := new(balancer.State), director(store.RoundRobin)
	members, health := many(4)
	var got []int
	var view *balancer.View
	for i := range 20 {
		if i%5 == 0 {
			health[2].sick = i == 5 // in the second five, and well again after them
			view = state.View(def, members, health, view, 0)
		}
		got = append(got, view.Pick(&balancer.Query{}, health))
	}
	want := []int{0, 1, 2, 3, 0, 1, 3, 0, 1, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("turns are %v, want %v", got, want)
		}
	}
}

func TestRoundRobinIsEvenAmongConcurrentCallers(t *testing.T) {
	t.Parallel()
	const callers, each = 8, 1000
	members, health := many(4)
	view := new(balancer.State).View(director(store.RoundRobin), members, health, nil, 0)
	var got [4]atomic.Int64
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range each {
				got[view.Pick(&balancer.Query{}, health)].Add(1)
			}
		})
	}
	wg.Wait()
	for i := range got {
		if n := got[i].Load(); n != callers*each/4 {
			t.Errorf("member %d was picked %d times, want %d", i, n, callers*each/4)
		}
	}
}

// However long, a run of unequal turns gives each member its share to within a few.
func TestRoundRobinIsEvenAmongUnequalWeights(t *testing.T) {
	t.Parallel()
	weights := []float64{1, 2, 3, 0.25, 7}
	members, health := weighing(weights...)
	view := new(balancer.State).View(director(store.RoundRobin), members, health, nil, 0)
	got := make([]int, len(weights))
	for n := 1; n <= 20_000; n++ {
		got[view.Pick(&balancer.Query{}, health)]++
		for i, w := range weights {
			if want := float64(n) * w / 13.25; math.Abs(float64(got[i])-want) > 4 {
				t.Fatalf("after %d turns member %d had %d, want %.1f", n, i, got[i], want)
			}
		}
	}
}

func TestSlowStartGrowsFromATenthToTheWhole(t *testing.T) {
	t.Parallel()
	const ramp = 10 * time.Second
	for _, kind := range []store.DirectorType{store.RoundRobin, store.Random, store.LeastConnections, store.P2C} {
		state, def := seeded(6), director(kind)
		def.SlowStart = ramp
		members, health := weighing(1, 2, 1)
		for i := range members {
			members[i].Seat = new(balancer.Seat)
		}
		health[2].sick = true
		view := state.View(def, members, health, nil, time.Hour) // the first: settled
		fit(t, string(kind)+" before", counts(t, view, health, 3, 8_000, time.Hour), 1, 2, 0)
		if view.Next() != 0 {
			t.Errorf("%s: a view with nobody ramping wants to be renewed at %v", kind, view.Next())
		}
		health[2].sick = false
		begin := 2 * time.Hour
		for _, step := range []struct {
			age   time.Duration
			share float64
		}{{0, 0.1}, {ramp / 4, 0.325}, {ramp / 2, 0.55}, {3 * ramp / 4, 0.775}, {ramp, 1}, {time.Hour, 1}} {
			now := begin + step.age
			view = state.View(def, members, health, view, now)
			fit(t, string(kind)+" at "+step.age.String(), counts(t, view, health, 3, 8_000, now), 1, 2, step.share)
			want := time.Duration(0)
			if step.age < ramp {
				want = now + ramp/50
			}
			if view.Next() != want {
				t.Errorf("%s: at %v the next view is due at %v, want %v", kind, step.age, view.Next(), want)
			}
		}
	}
}

// A member that joins ramps, and keeps its place in the ramp when others change.
func TestSlowStartSurvivesAChangeOfMembers(t *testing.T) {
	t.Parallel()
	state, def := seeded(7), director(store.Random)
	def.SlowStart = 10 * time.Second
	seats := map[string]*balancer.Seat{}
	seat := func(members []balancer.Member) []balancer.Member {
		for i, m := range members {
			if seats[m.Name] == nil {
				seats[m.Name] = new(balancer.Seat)
			}
			members[i].Seat = seats[m.Name]
		}
		return members
	}
	two, health2 := many(2)
	three, health3 := many(3)
	view := state.View(def, seat(two), health2, nil, 0)
	view = state.View(def, seat(three), health3, view, time.Minute)
	four := append([]balancer.Member{{Ref: 9, Name: "new", Weight: 1}}, three...)
	now := time.Minute + 5*time.Second
	view = state.View(def, seat(four), make(health, 4), view, now)
	fit(t, "half way", counts(t, view, make(health, 4), 4, 10_000, now), 0.1, 1, 1, 0.55)
}

// noisy is two idle members whose latency is by chance.
type noisy struct {
	health
	rand *rand.Rand
}

func (n noisy) Latency(int) time.Duration { return time.Duration(1 + n.rand.IntN(1000)) }

func TestP2CSharesFollowWeightsThoughLatencyVaries(t *testing.T) {
	t.Parallel()
	for _, weights := range [][]float64{{1, 3}, {1, 1}, {1, 2, 3}} {
		members, health := weighing(weights...)
		m := noisy{health, rand.New(rand.NewPCG(8, 8))}
		view := seeded(8).View(director(store.P2C), members, m, nil, 0)
		fit(t, "p2c", counts(t, view, m, len(members), 10_000, 0), weights...)
	}
}

func TestP2CTakesTheOneThatShouldAnswerFirst(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		a, b    state
		weights []float64
		want    int
	}{
		{"fewer requests", state{active: 3, latency: 10}, state{active: 1, latency: 10}, []float64{1, 1}, 1},
		{"lower latency", state{active: 1, latency: 10}, state{active: 1, latency: 30}, []float64{1, 1}, 0},
		{"both: 4x10 before 2x30", state{active: 3, latency: 10}, state{active: 1, latency: 30}, []float64{1, 1}, 0},
		{"both: 4x10 after 2x15", state{active: 3, latency: 10}, state{active: 1, latency: 15}, []float64{1, 1}, 1},
		{"not known and idle", state{active: 0, latency: 10}, state{}, []float64{1, 1}, 1},
		{"not known and busy", state{active: 1, latency: 10}, state{active: 2}, []float64{1, 1}, 0},
		{"neither known", state{active: 1}, state{active: 2}, []float64{1, 1}, 0},
	} {
		members, health := weighing(c.weights...)
		health[0], health[1] = c.a, c.b
		view := seeded(9).View(director(store.P2C), members, health, nil, 0)
		for range 50 {
			if got := view.Pick(&balancer.Query{}, health); got != c.want {
				t.Fatalf("%s: picked %d, want %d", c.name, got, c.want)
			}
		}
	}
}

func TestLeastConnectionsTakesTheFewestForItsWeight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		active  []int
		weights []float64
		want    []float64 // shares of what is picked
	}{
		{"fewest", []int{3, 1, 2}, []float64{1, 1, 1}, []float64{0, 1, 0}},
		{"ties in turn", []int{3, 1, 1}, []float64{1, 1, 1}, []float64{0, 2, 1}}, // after the first comes the second
		{"idle at once", []int{3, 0, 1}, []float64{1, 1, 1}, []float64{0, 1, 0}},
		{"by weight", []int{2, 5}, []float64{1, 4}, []float64{0, 1}},
		{"by weight, too many", []int{2, 12}, []float64{1, 4}, []float64{1, 0}},
	} {
		members, health := weighing(c.weights...)
		for i, n := range c.active {
			health[i].active = n
		}
		view := seeded(10).View(director(store.LeastConnections), members, health, nil, 0)
		fit(t, c.name, counts(t, view, health, len(members), 3_000, 0), c.want...)
	}
}

// With 10,000 busy members a pick looks at 256, so that it takes no longer.
func TestLeastConnectionsLooksAtBoundedlyMany(t *testing.T) {
	t.Parallel()
	members, health := many(10_000)
	for i := range health {
		health[i].active = 5
	}
	view := new(balancer.State).View(director(store.LeastConnections), members, health, nil, 0)
	m := &asked{Members: health}
	view.Pick(&balancer.Query{}, m)
	if m.active != 256 {
		t.Errorf("looked at %d members, want 256", m.active)
	}
}

// asked counts questions.
type asked struct {
	balancer.Members
	active, available int
}

func (a *asked) Active(i int) int     { a.active++; return a.Members.Active(i) }
func (a *asked) Available(i int) bool { a.available++; return a.Members.Available(i) }
