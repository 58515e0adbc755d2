package balancer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// owned is a point with its owner's name and position.
type owned struct {
	point uint32
	name  string
	at    int32
}

// flat are all points in order.
func (r *ring) flat() (all []owned) {
	for b, bucket := range r.buckets {
		for _, p := range bucket {
			if int(p.at()>>r.shift) != b {
				panic("a point is in another's bucket")
			}
			at := r.at[p.owner()]
			all = append(all, owned{p.at(), r.members[at].Name, at})
		}
	}
	return all
}

// However a ring came about, it is the ring of its members.
func TestARingByMergesIsTheRingMadeAfresh(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		member := rapid.Custom(func(t *rapid.T) Member {
			i := rapid.IntRange(0, 9).Draw(t, "i")
			return Member{Ref: uint32(i), Name: fmt.Sprint("m", i), Weight: rapid.SampledFrom([]float64{1, 1, 1, 0, 0.001, 1.5, 3}).Draw(t, "weight")}
		})
		view := &View{}
		for range rapid.IntRange(1, 8).Draw(t, "changes") {
			var next []Member
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				next = rapid.SliceOfN(member, 0, 12).Draw(t, "members")
			case 1:
				next = slices.Insert(slices.Clone(view.members), rapid.IntRange(0, len(view.members)).Draw(t, "at"), member.Draw(t, "joins"))
			case 2:
				next = slices.Clone(view.members)
				if len(next) > 0 {
					at := rapid.IntRange(0, len(next)-1).Draw(t, "leaves")
					next = slices.Delete(next, at, at+1)
				}
			}
			replicas := rapid.SampledFrom([]int{30, 30, 30, 7}).Draw(t, "replicas")
			merged, fresh := renew(view, replicas, next), renew(nil, replicas, next)
			if !slices.Equal(merged.flat(), fresh.flat()) || merged.size != len(fresh.flat()) || !slices.Equal(merged.counts, fresh.counts) || merged.replicas != fresh.replicas {
				t.Fatalf("members %v, then %v:\nmerged %v\nfresh  %v", view.members, next, *merged, *fresh)
			}
			for number, at := range merged.at {
				if at >= 0 && merged.owners[at] != int32(number) || at < 0 != slices.Contains(merged.free, int32(number)) {
					t.Fatalf("number %d is said to be at %d: %v, free %v", number, at, merged.owners, merged.free)
				}
			}
			view = &View{members: next, ring: merged}
		}
	})
}

// Equal points are in the order of their members' names, whoever came first:
// Varnish leaves it open, two nodes must not.
func TestEqualPointsAreInTheOrderOfNames(t *testing.T) {
	t.Parallel()
	// Of a few hundred members with a hundred points each, some are bound to share a
	// point: 30,000 squared is a fifth of 2^32.
	var members []Member
	for i := range 300 {
		members = append(members, Member{Name: fmt.Sprint("m", i), Weight: 1})
	}
	backwards := slices.Clone(members)
	slices.Reverse(backwards)
	even := slices.DeleteFunc(slices.Clone(members), func(m Member) bool { return m.Name[len(m.Name)-1]%2 == 0 })
	a := renew(nil, 100, members)
	b := renew(nil, 100, backwards)
	c := renew(&View{members: even, ring: renew(nil, 100, even)}, 100, members)
	equal := 0
	inOrder, back, merged := a.flat(), b.flat(), c.flat()
	for i, p := range inOrder {
		if i > 0 && p.point == inOrder[i-1].point && p.name != inOrder[i-1].name {
			equal++
		}
		if q := back[i]; p.point != q.point || p.name != q.name || p != merged[i] {
			t.Fatalf("point %d is %v, %v backwards, %v merged", i, p, q, merged[i])
		}
	}
	if equal == 0 {
		t.Error("no two points are equal: the test shows nothing")
	}
}

func TestAChangeOfHealthKeepsTheRing(t *testing.T) {
	t.Parallel()
	members := []Member{{Name: "a", Weight: 1}, {Name: "b", Weight: 1}}
	old := &View{members: members, ring: renew(nil, 67, members)}
	if renew(old, 67, members) != old.ring || renew(old, 67, slices.Clone(members)) != old.ring {
		t.Error("the ring was made anew for the same members")
	}
	if renew(old, 66, members) == old.ring {
		t.Error("the ring was kept though replicas changed")
	}
}

func TestLookupIsTheFirstPointNotBelowTheKey(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		bound := rapid.SampledFrom([]uint32{50, 1 << 16, 1<<32 - 1}).Draw(t, "bound")
		points := rapid.SliceOfN(rapid.Uint32Range(0, bound), 1, 300).Draw(t, "points")
		slices.Sort(points)
		shift := rapid.SampledFrom([]int{32, 31, 26, 12}).Draw(t, "shift")
		r := &ring{shift: shift, size: len(points), buckets: make([][]point, 1<<(32-shift))}
		for _, p := range points {
			r.buckets[p>>shift] = append(r.buckets[p>>shift], point(p)<<32)
		}
		for range 20 {
			key := rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0, 60), rapid.SampledFrom(points)).Draw(t, "key")
			want := len(points) - 1
			for i, p := range points {
				if p >= key {
					want = i
					break
				}
			}
			if b, i := r.lookup(key); r.buckets[b][i].at() != points[want] {
				t.Fatalf("lookup(%d) in %v is %d, want %d", key, points, r.buckets[b][i].at(), points[want])
			}
		}
	})
}
