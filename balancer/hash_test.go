package balancer_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"roster/balancer"
	"roster/store"
)

func TestHashIsTheLastFourBytesOfSHA256(t *testing.T) {
	t.Parallel()
	// SHA-256 of "abc" and of nothing, as FIPS 180-4's examples have them, end in
	// f20015ad and 7852b855.
	for s, want := range map[string]uint32{"abc": 0xad1500f2, "": 0x55b85278} {
		if got := balancer.Hash([]byte(s)); got != want {
			t.Errorf("Hash(%q) is %08x, want %08x", s, got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := strings.Repeat(rapid.StringN(0, 40, 200).Draw(t, "s"), rapid.IntRange(0, 30).Draw(t, "times"))
		want := plainHash(s)
		if got := balancer.Hash([]byte(s)); got != want {
			t.Fatalf("Hash of %d bytes is %08x, want %08x", len(s), got, want)
		}
	})
}

func TestHashDoesNotAllocate(t *testing.T) {
	for _, n := range []int{0, 100, 10_000} {
		s := make([]byte, n)
		if n := testing.AllocsPerRun(100, func() { balancer.Hash(s) }); n != 0 {
			t.Errorf("the hash of %d bytes allocates %v times", len(s), n)
		}
	}
}

// The hash director's arithmetic, as vmod_directors.c has it: r times the weight of
// the healthy, and the first whose running sum is above.
func TestHashDirectorIsVarnishs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 9).Draw(t, "members")
		members, h := many(n)
		for i := range members {
			members[i].Weight = rapid.SampledFrom([]float64{1, 1, 2, 0, 0.1, 0.7, 1000}).Draw(t, "weight")
			h[i].sick = rapid.IntRange(0, 3).Draw(t, "sick") == 0
		}
		view := new(balancer.State).View(director(store.Hash), members, h, nil, 0)
		for range 30 {
			// Keys at the bounds of shares, too.
			key := rapid.OneOf(rapid.Uint32(), rapid.SampledFrom([]uint32{0, 1 << 30, 1 << 31, 3 << 30, 1<<31 - 1, 1<<32 - 1})).Draw(t, "key")
			total := 0.0
			for i := range members {
				if !h[i].sick {
					total += members[i].Weight
				}
			}
			want, sum := -1, 0.0
			for i := range members {
				if !h[i].sick && want < 0 {
					if sum += members[i].Weight; float64(key)/4294967296*total < sum {
						want = i
					}
				}
			}
			if got := view.Pick(&balancer.Query{Key: key}, h); got != want {
				t.Fatalf("key %x goes to %d, want %d", key, got, want)
			}
		}
	})
}
