package balancer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

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
			if !slices.Equal(merged.points, fresh.points) || !slices.Equal(merged.owners, fresh.owners) ||
				!slices.Equal(merged.names, fresh.names) || !slices.Equal(merged.counts, fresh.counts) || merged.replicas != fresh.replicas {
				t.Fatalf("members %v, then %v:\nmerged %v\nfresh  %v", view.members, next, *merged, *fresh)
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
	for i, p := range a.points {
		if i > 0 && p == a.points[i-1] && a.owners[i] != a.owners[i-1] {
			equal++
		}
		if name := a.names[a.owners[i]]; p != b.points[i] || p != c.points[i] || name != b.names[b.owners[i]] || name != c.names[c.owners[i]] {
			t.Fatalf("point %d is %x of %s, %x of %s backwards, %x of %s merged", i,
				p, name, b.points[i], b.names[b.owners[i]], c.points[i], c.names[c.owners[i]])
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
		r := &ring{points: points}
		for range 20 {
			key := rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0, 60), rapid.SampledFrom(points)).Draw(t, "key")
			want := len(points) - 1
			for i, p := range points {
				if p >= key {
					want = i
					break
				}
			}
			if got := r.lookup(key); got != want {
				t.Fatalf("lookup(%d) in %v is %d, want %d", key, points, got, want)
			}
		}
	})
}
