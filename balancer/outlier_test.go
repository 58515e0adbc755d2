package balancer_test

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roster/balancer"
	"roster/store"
)

// ejecting is a director that ejects after three failures for ten seconds, at most
// twenty-five, a quarter of its members.
func ejecting() *store.Director {
	return &store.Director{Type: store.RoundRobin, Outlier: &store.Outlier{
		Consecutive: 3, Ejection: 10 * time.Second, MaxEjection: 25 * time.Second, MaxShare: 0.25}}
}

// fail reports a member's failures until it is ejected, and says after how many.
func fail(s *balancer.State, def *store.Director, members int, seat *balancer.Seat, now time.Duration) int {
	for n := 1; n <= 10; n++ {
		if s.Report(def, members, seat, false, now) {
			return n
		}
	}
	return 0
}

func TestConsecutiveFailuresEject(t *testing.T) {
	t.Parallel()
	var state balancer.State
	var seat balancer.Seat
	def := ejecting()
	now := time.Second
	for range 20 { // two failures, and a request that went well
		for _, ok := range []bool{false, false, true} {
			if state.Report(def, 4, &seat, ok, now) || seat.Ejected(now) {
				t.Fatal("ejected though never three failed in a row")
			}
		}
	}
	if n := fail(&state, def, 4, &seat, now); n != 3 {
		t.Fatalf("ejected after %d failures, want 3", n)
	}
	if !seat.Ejected(now) || !seat.Ejected(11*time.Second-1) || seat.Ejected(11*time.Second) || seat.Until() != 11*time.Second {
		t.Errorf("the ejection lasts until %v, want 11s", seat.Until())
	}
	// The answers to what was under way count no more, good or bad.
	if n := fail(&state, def, 4, &seat, 5*time.Second); n != 0 {
		t.Errorf("ejected again after %d failures while it was", n)
	}
	// It comes back with a clean sheet.
	if n := fail(&state, def, 4, &seat, 11*time.Second); n != 3 {
		t.Errorf("ejected again after %d failures, want 3", n)
	}
}

func TestEjectionsGrowAndAreForgiven(t *testing.T) {
	t.Parallel()
	var state balancer.State
	var seat balancer.Seat
	def := ejecting()
	now := time.Duration(0)
	for i, c := range []struct{ pause, want time.Duration }{
		{0, 10 * time.Second},
		{0, 20 * time.Second},
		{0, 25 * time.Second}, // at most
		{9 * time.Second, 25 * time.Second},
		{20 * time.Second, 25 * time.Second}, // four times, two forgiven: the third
		{29 * time.Second, 20 * time.Second}, // three times, two forgiven
		{time.Hour, 10 * time.Second},
	} {
		now += c.pause
		if fail(&state, def, 4, &seat, now) == 0 {
			t.Fatalf("ejection %d: was not", i)
		}
		if got := seat.Until() - now; got != c.want {
			t.Errorf("ejection %d, %v after the last: for %v, want %v", i, c.pause, got, c.want)
		}
		now = seat.Until()
	}
}

func TestNoMoreThanMaxShareIsEjectedAtOnce(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		members int
		share   float64
		want    int
	}{{1, 1, 0}, {2, 0.1, 1}, {2, 0, 0}, {2, 1, 2}, {10, 0.25, 2}, {10, 0.1, 1}, {100, 0.1, 10}, {7, 0.5, 3}} {
		var state balancer.State
		def := ejecting()
		def.Outlier.MaxShare = c.share
		seats := make([]balancer.Seat, c.members)
		ejected := func(now time.Duration) (n int) {
			for i := range seats {
				if fail(&state, def, c.members, &seats[i], now); seats[i].Ejected(now) {
					n++
				}
			}
			return n
		}
		if got := ejected(0); got != c.want {
			t.Errorf("of %d members and a share of %v: %d ejected, want %d", c.members, c.share, got, c.want)
		}
		// When they are back, others may be.
		if got := ejected(time.Minute); got != c.want {
			t.Errorf("of %d members and a share of %v: %d ejected later, want %d", c.members, c.share, got, c.want)
		}
	}
}

func TestAViewWakesAtTheEndOfAnEjection(t *testing.T) {
	t.Parallel()
	var state balancer.State
	def := ejecting()
	def.SlowStart = 20 * time.Second
	members, h := many(4)
	for i := range members {
		members[i].Seat = new(balancer.Seat)
	}
	m := &ejectable{health: h, members: members}
	view := state.View(def, members, m, nil, 0)
	if fail(&state, def, 4, members[2].Seat, 0) == 0 {
		t.Fatal("was not ejected")
	}
	view = state.View(def, members, m, view, 0)
	fit(t, "ejected", counts(t, view, m, 4, 9_000, 0), 1, 1, 0, 1)
	if view.Next() != 10*time.Second {
		t.Errorf("the next view is due at %v, want 10s", view.Next())
	}
	m.now = view.Next()
	view = state.View(def, members, m, view, m.now)
	fit(t, "back: it ramps", counts(t, view, m, 4, 9_000, m.now), 1, 1, 0.1, 1)
	m.now = 30 * time.Second
	view = state.View(def, members, m, view, m.now)
	fit(t, "recovered", counts(t, view, m, 4, 9_000, m.now), 1, 1, 1, 1)
}

// ejectable is members that are available unless ejected.
type ejectable struct {
	health
	members []balancer.Member
	now     time.Duration
}

func (e *ejectable) Available(i int) bool {
	return e.health.Available(i) && !e.members[i].Seat.Ejected(e.now)
}

func TestWithoutOutlierNobodyIsEjected(t *testing.T) {
	t.Parallel()
	var state balancer.State
	var seat balancer.Seat
	if n := fail(&state, &store.Director{Type: store.Random}, 4, &seat, 0); n != 0 || seat.Ejected(0) {
		t.Error("ejected without an outlier")
	}
	if fail(&state, ejecting(), 4, nil, 0) != 0 || (*balancer.Seat)(nil).Ejected(0) {
		t.Error("ejected a member without a seat")
	}
}

// However many requests fail at once, no more are ejected than may be, and each
// once.
func TestConcurrentFailuresEjectNoMoreThanMaxShare(t *testing.T) {
	t.Parallel()
	for range 50 {
		var state balancer.State
		def := ejecting()
		seats := make([]balancer.Seat, 10)
		var ejections atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for i := range 200 {
					if state.Report(def, len(seats), &seats[i%len(seats)], false, time.Second) {
						ejections.Add(1)
					}
				}
			})
		}
		wg.Wait()
		n := 0
		for i := range seats {
			if seats[i].Ejected(time.Second) {
				n++
			}
		}
		if n != 2 || ejections.Load() != 2 {
			t.Fatalf("%d are ejected, by %d ejections, want 2", n, ejections.Load())
		}
	}
}

func TestRemembers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		def  store.Director
		want bool
	}{
		{store.Director{Type: store.RoundRobin}, false},
		{store.Director{Type: store.RoundRobin, SlowStart: 1}, true},
		{store.Director{Type: store.Shard, Rampup: 1}, true},
		{store.Director{Type: store.Shard, Members: []store.Member{{Name: "a"}, {Name: "b", Rampup: 1}}}, true},
		{store.Director{Type: store.Fallback, Outlier: &store.Outlier{}}, true},
		{store.Director{Type: store.Fallback, Panic: 0.5, Sticky: true}, false},
	} {
		if got := balancer.Remembers(&c.def); got != c.want {
			t.Errorf("Remembers(%+v) is %v", c.def, got)
		}
	}
}

// Who was ejected and has left takes nobody's place among the ejected.
func TestAMemberThatLeftIsNotAmongTheEjected(t *testing.T) {
	t.Parallel()
	def := director(store.Random)
	def.Outlier = &store.Outlier{Consecutive: 1, Ejection: time.Minute, MaxEjection: time.Hour, MaxShare: 0.5}
	members, h := many(2)
	for i := range members {
		members[i].Seat = new(balancer.Seat)
	}
	state := new(balancer.State)
	view := state.View(def, members, h, nil, 0)
	if !state.Report(def, 2, members[0].Seat, false, 1) {
		t.Fatal("the first to fail is not ejected")
	}
	if state.Report(def, 2, members[1].Seat, false, 1) {
		t.Fatal("half of the members were to be ejected, and all are")
	}
	next := slices.Clone(members)
	next[0] = balancer.Member{Ref: 9, Name: "new", Weight: 1, Seat: new(balancer.Seat)}
	state.View(def, next, h, view, 2)
	if !state.Report(def, 2, next[1].Seat, false, 3) {
		t.Error("a member is not ejected, because of one that has left")
	}
}

// Without outlier nobody is ejected any more.
func TestEjectionsEndWithTheDefinition(t *testing.T) {
	t.Parallel()
	def := director(store.Random)
	def.SlowStart = time.Second // so that seats stay
	def.Outlier = &store.Outlier{Consecutive: 1, Ejection: time.Minute, MaxEjection: time.Hour, MaxShare: 0.5}
	members, h := many(2)
	for i := range members {
		members[i].Seat = new(balancer.Seat)
	}
	state := new(balancer.State)
	view := state.View(def, members, h, nil, 0)
	if !state.Report(def, 2, members[0].Seat, false, 1) {
		t.Fatal("the first to fail is not ejected")
	}
	without := *def
	without.Outlier = nil
	state.View(&without, members, h, view, 2)
	if members[0].Seat.Ejected(2) {
		t.Error("a member is ejected by a director without outlier")
	}
}
