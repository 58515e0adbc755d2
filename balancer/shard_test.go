package balancer_test

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roster/balancer"
	"roster/store"
)

// A plain implementation of Varnish's shard director, as its code has it, to
// compare with: no merging, no sets, no shortcuts.

type plainPoint struct {
	at     uint32
	member int
}

// plainHash is the last four bytes of a SHA-256, the first of them the lowest.
func plainHash(s string) uint32 {
	sum := sha256.Sum256([]byte(s))
	return uint32(sum[28]) | uint32(sum[29])<<8 | uint32(sum[30])<<16 | uint32(sum[31])<<24
}

func plainRing(replicas int, members []balancer.Member) []plainPoint {
	var ring []plainPoint
	for i, m := range members {
		for j := range int(float64(replicas) * m.Weight) {
			ring = append(ring, plainPoint{plainHash(m.Name + strconv.Itoa(j)), i})
		}
	}
	slices.SortFunc(ring, func(a, b plainPoint) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(members[a.member].Name, members[b.member].Name))
	})
	return ring
}

func plainLookup(ring []plainPoint, key uint32) int {
	for i, p := range ring {
		if p.at >= key {
			return i
		}
	}
	return len(ring) - 1
}

// plainPick is the member that alternative alt of key is.
func plainPick(ring []plainPoint, members int, healthy []bool, key uint32, alt int, mode store.ShardHealthy) int {
	start := plainLookup(ring, key)
	var order []int
	for i := range ring {
		if m := ring[(start+i)%len(ring)].member; !slices.Contains(order, m) {
			order = append(order, m)
		}
	}
	if alt >= members {
		alt = members - 1
	}
	last := -1
	for _, m := range order {
		switch {
		case alt > 0 && mode == store.HealthyAll && !healthy[m]:
		case alt > 0:
			alt--
			if healthy[m] || mode == store.HealthyIgnore {
				last = m
			}
		case healthy[m] || mode == store.HealthyIgnore:
			return m
		}
	}
	return last
}

// What varnishtest expects of shard with 25 replicas and weights 1, 2 and 3
// (directors_c00006.vtc), and with weights 1 (directors_c00003.vtc).
func TestShardPointsAreVarnishs(t *testing.T) {
	t.Parallel()
	members, health := weighing(1, 2, 3)
	for i := range members {
		members[i].Name = fmt.Sprint("s", i+1)
	}
	def := director(store.Shard)
	def.Replicas = 25
	ring := plainRing(25, members)
	if len(ring) != 150 {
		t.Fatalf("the plain ring has %d points, want 150", len(ring))
	}
	view := new(balancer.State).View(def, members, health, nil, 0)
	for i, want := range map[int]plainPoint{
		0: {0x238d0ef, 2}, 1: {0x321c598, 2}, 2: {0x3b6b56a, 0}, 7: {0xe543430, 0}, 10: {0x1112f910, 1},
		16: {0x19cfe9f3, 1}, 41: {0x46a58f28, 2}, 45: {0x564ca84f, 0}, 75: {0x8ae34bde, 1}, 100: {0xad923ad3, 1},
		125: {0xd4c93105, 0}, 148: {0xf6530dd1, 0}, 149: {0xfc28e8d2, 2},
	} {
		if ring[i] != want {
			t.Errorf("point %d of the plain ring is %x of member %d, want %x of %d", i, ring[i].at, ring[i].member, want.at, want.member)
		}
	}
	for i, p := range ring {
		// At the point, and just above it, where the next one's range begins.
		next := ring[min(i+1, len(ring)-1)]
		for key, want := range map[uint32]int{p.at: p.member, p.at + 1: next.member} {
			if got := view.Pick(&balancer.Query{Key: key}, health); got != want {
				t.Errorf("key %x goes to %d, want %d", key, got, want)
			}
		}
	}

	for i := range members {
		members[i].Weight = 1
	}
	view = new(balancer.State).View(def, slices.Clone(members), health, nil, 0)
	for key, want := range map[uint32]string{1: "s1", 2147483647: "s2", 4294967295: "s3"} {
		if got := members[view.Pick(&balancer.Query{Key: key}, health)].Name; got != want {
			t.Errorf("key %d goes to %s, want %s", key, got, want)
		}
	}
}

func TestAKeyAboveTheLastPointTakesTheLastPoint(t *testing.T) {
	t.Parallel()
	for n := 2; n < 30; n++ {
		members, health := many(n)
		ring := plainRing(67, members)
		first, last := ring[0], ring[len(ring)-1]
		if first.member == last.member {
			continue // of no use: going round would give the same
		}
		view := new(balancer.State).View(director(store.Shard), members, health, nil, 0)
		if got := view.Pick(&balancer.Query{Key: last.at + 1}, health); got != last.member {
			t.Errorf("of %d members: key %x, above the last point, goes to %d, want %d", n, last.at+1, got, last.member)
		}
		// When that member is sick the walk goes round.
		health[last.member].sick = true
		if got := view.Pick(&balancer.Query{Key: last.at + 1}, health); got != first.member {
			t.Errorf("of %d members: key %x goes to %d when the last point's is sick, want the first point's, %d", n, last.at+1, got, first.member)
		}
	}
}

// For any members, health, key, alternative and healthy: what Varnish does.
func TestShardIsVarnishs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 7).Draw(t, "members")
		members, health := many(n)
		healthy := make([]bool, n)
		for i := range members {
			members[i].Weight = rapid.SampledFrom([]float64{1, 1, 1.5, 2}).Draw(t, "weight")
			healthy[i] = rapid.Bool().Draw(t, "healthy")
			health[i].sick = !healthy[i]
		}
		def := director(store.Shard)
		def.Replicas = rapid.IntRange(1, 12).Draw(t, "replicas")
		def.Healthy = rapid.SampledFrom([]store.ShardHealthy{store.HealthyChosen, store.HealthyAll, store.HealthyIgnore}).Draw(t, "mode")
		view := new(balancer.State).View(def, members, health, nil, 0)
		ring := plainRing(def.Replicas, members)
		for range 20 {
			q := &balancer.Query{Key: rapid.Uint32().Draw(t, "key"), Retry: rapid.IntRange(0, n+1).Draw(t, "alternative")}
			want := plainPick(ring, n, healthy, q.Key, q.Retry, def.Healthy)
			if got := view.Pick(q, health); got != want {
				t.Fatalf("key %x, alternative %d, healthy=%s of %v: picked %d, want %d", q.Key, q.Retry, def.Healthy, healthy, got, want)
			}
		}
	})
}

// A retry goes on from where the request was before: alternatives passed over are
// not counted again because they were tried.
func TestTheNthRetryIsAlternativeN(t *testing.T) {
	t.Parallel()
	for _, mode := range []store.ShardHealthy{store.HealthyChosen, store.HealthyAll, store.HealthyIgnore} {
		members, health := many(5)
		def := director(store.Shard)
		def.Healthy = mode
		view := new(balancer.State).View(def, members, health, nil, 0)
		ring := plainRing(67, members)
		for key := range uint32(200) {
			key *= 0x01010101
			request := slices.Clone(health)
			for retry := range 5 {
				got := view.Pick(&balancer.Query{Key: key, Retry: retry}, request)
				want := plainPick(ring, 5, []bool{true, true, true, true, true}, key, retry, mode)
				if got != want {
					t.Fatalf("healthy=%s: retry %d of key %x went to %d, want %d", mode, retry, key, got, want)
				}
				request[got].missing = true // tried
			}
			if got := view.Pick(&balancer.Query{Key: key, Retry: 5}, request); got != -1 {
				t.Fatalf("healthy=%s: picked %d though all were tried", mode, got)
			}
		}
	}
}

func TestOnlyTheKeysOfAMemberThatLeavesMove(t *testing.T) {
	t.Parallel()
	const n, keys = 20, 10_000
	for _, leaver := range []int{0, 7, n - 1} {
		state, def := new(balancer.State), director(store.Shard)
		members, health := many(n)
		all := state.View(def, members, health, nil, 0)
		rest := slices.Delete(slices.Clone(members), leaver, leaver+1)
		fewer := state.View(def, rest, health, all, 0)
		moved := 0
		for i := range keys {
			q := &balancer.Query{Key: plainHash(fmt.Sprint("/", i))}
			was, is := members[all.Pick(q, health)].Name, rest[fewer.Pick(q, health)].Name
			if was != is {
				moved++
				if was != members[leaver].Name {
					t.Fatalf("key %x moved from %s to %s though %s left", q.Key, was, is, members[leaver].Name)
				}
			}
		}
		if moved == 0 || moved > 2*keys/n {
			t.Errorf("%d of %d keys moved when one of %d members left", moved, keys, n)
		}
	}
}

// Nodes that came to the same members by any way agree, and so do restarts.
func TestShardsAgreeOnTenThousandKeys(t *testing.T) {
	t.Parallel()
	const n, keys = 50, 10_000
	def := director(store.Shard)
	members, health := many(n)
	fresh := new(balancer.State).View(def, members, health, nil, 0)
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		state := new(balancer.State)
		var now []balancer.Member
		var view *balancer.View
		for _, i := range random.Perm(n) { // they join one by one, anywhere
			now = slices.Insert(slices.Clone(now), random.IntN(len(now)+1), members[i])
			view = state.View(def, now, health, view, 0)
			if len(now)%7 == 0 { // one leaves, and comes back
				left := random.IntN(len(now))
				view = state.View(def, slices.Delete(slices.Clone(now), left, left+1), health, view, 0)
				view = state.View(def, now, health, view, 0)
			}
		}
		for i := range keys {
			q := &balancer.Query{Key: plainHash(fmt.Sprint("/", i))}
			if a, b := members[fresh.Pick(q, health)].Name, now[view.Pick(q, health)].Name; a != b {
				t.Fatalf("key %x goes to %s afresh and to %s by merges", q.Key, a, b)
			}
		}
	}
}

func TestShardSharesFollowPoints(t *testing.T) {
	t.Parallel()
	members, health := weighing(1, 2, 3, 1.5)
	shares := make([]float64, 4)
	below := uint32(0)
	ring := plainRing(67, members)
	for _, p := range ring {
		shares[p.member] += float64(p.at - below)
		below = p.at
	}
	shares[ring[len(ring)-1].member] += float64(^uint32(0) - below)
	view := new(balancer.State).View(director(store.Shard), members, health, nil, 0)
	fit(t, "shard", counts(t, view, health, 4, 50_000, 0), shares...)
}

func TestAMemberListedTwiceHasThePointsOfBothWeights(t *testing.T) {
	t.Parallel()
	twice, health := weighing(1, 1, 2)
	twice[2].Name, twice[2].Ref = twice[0].Name, twice[0].Ref
	once, _ := weighing(3, 1)
	def := director(store.Shard)
	a := new(balancer.State).View(def, twice, health, nil, 0)
	b := new(balancer.State).View(def, once, health, nil, 0)
	for i := range 10_000 {
		q := &balancer.Query{Key: plainHash(fmt.Sprint("/", i))}
		if a, b := a.Pick(q, health), b.Pick(q, health); a != b {
			t.Fatalf("key %x goes to %d, and to %d when the weights are added", q.Key, a, b)
		}
	}
}

func TestWarmupSendsItsShareToTheNextAlternative(t *testing.T) {
	t.Parallel()
	members, health := many(4)
	def := director(store.Shard)
	def.Warmup = 0.3
	view := seeded(11).View(def, members, health, nil, 0)
	key := uint32(12345)
	ring := plainRing(67, members)
	all := []bool{true, true, true, true}
	first, second := plainPick(ring, 4, all, key, 0, def.Healthy), plainPick(ring, 4, all, key, 1, def.Healthy)
	got := make([]int, 4)
	for range 20_000 {
		got[view.Pick(&balancer.Query{Key: key}, health)]++
	}
	shares := make([]float64, 4)
	shares[first], shares[second] = 0.7, 0.3
	fit(t, "warmup", got, shares...)

	// With nobody else, it is the member itself.
	for i := range health {
		health[i].sick = i != first
	}
	if got := view.Pick(&balancer.Query{Key: key}, health); got != first {
		t.Errorf("picked %d, want %d, the only healthy one", got, first)
	}
}

func TestRampupGivesAMemberItsAgesShare(t *testing.T) {
	t.Parallel()
	const ramp = 10 * time.Second
	members, health := many(4)
	def := director(store.Shard)
	for i := range members {
		members[i].Seat, members[i].Rampup = new(balancer.Seat), ramp
	}
	state := seeded(12)
	key := uint32(12345)
	ring := plainRing(67, members)
	all := []bool{true, true, true, true}
	first, second := plainPick(ring, 4, all, key, 0, def.Healthy), plainPick(ring, 4, all, key, 1, def.Healthy)
	pick := func(view *balancer.View, now time.Duration) []int {
		got := make([]int, 4)
		for range 10_000 {
			got[view.Pick(&balancer.Query{Key: key, Now: now}, health)]++
		}
		return got
	}
	shares := func(a, b float64) []float64 {
		s := make([]float64, 4)
		s[first], s[second] = a, b
		return s
	}
	health[first].sick = true
	view := state.View(def, members, health, nil, 0)
	fit(t, "sick", pick(view, 0), shares(0, 1)...)
	health[first].sick = false
	begin := time.Hour
	view = state.View(def, members, health, view, begin)
	for _, part := range []float64{0, 0.25, 0.5, 0.9, 1, 2} {
		now := begin + time.Duration(part*float64(ramp))
		fit(t, fmt.Sprint("at ", part), pick(view, now), shares(min(part, 1), max(1-part, 0))...)
	}
	// Not while the next one ramps, too.
	health[first].sick, health[second].sick = true, true
	view = state.View(def, members, health, view, 2*begin)
	health[first].sick, health[second].sick = false, false
	view = state.View(def, members, health, view, 2*begin)
	fit(t, "both ramping", pick(view, 2*begin), shares(1, 0)...)
}
