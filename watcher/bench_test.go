package watcher

import (
	"fmt"
	"runtime"
	"testing"

	"roster/store"
)

func backends(n int) []entry {
	entries := make([]entry, n)
	for i := range entries {
		entries[i] = entry{
			key: fmt.Sprintf("backends/team-a/web-%06d", i), create: int64(i + 2), mod: int64(i + 2),
			value: fmt.Appendf(nil, `{"host":"10.%d.%d.%d","port":8080,"labels":{"app":"web"}}`, i>>16&255, i>>8&255, i&255),
		}
	}
	return entries
}

func filled(n int) *state {
	s := newState(store.Reject, false)
	l := s.list(1, int64(n+1))
	for _, e := range backends(n) {
		l.add(e)
	}
	s.replace(l)
	return s
}

// BenchmarkApply is one revision that puts one backend: decode included, etcd not.
func BenchmarkApply(b *testing.B) {
	for _, n := range []int{10, 1000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			s := filled(n)
			e := backends(n)[n/2]
			b.ReportAllocs()
			revision := int64(n + 1)
			for b.Loop() {
				revision++
				e.mod = revision
				if _, ok := s.apply(revision, []entry{e}); !ok {
					b.Fatal("no change")
				}
			}
		})
	}
}

// BenchmarkList takes in a whole list: the first, and one that changes nothing.
func BenchmarkList(b *testing.B) {
	const n = 100_000
	entries := backends(n)
	for _, first := range []bool{true, false} {
		b.Run(fmt.Sprintf("backends=%d/first=%t", n, first), func(b *testing.B) {
			s := filled(n)
			b.ReportAllocs()
			for b.Loop() {
				if first {
					s = newState(store.Reject, false)
				}
				l := s.list(1, n+1)
				for _, e := range entries {
					l.add(e)
				}
				s.replace(l)
			}
		})
	}
}

// perKey is what the watcher itself keeps of each of n keys, in bytes: the name
// included, the definition, which the table has too, not.
func perKey(n int) float64 {
	s := newState(store.Reject, false)
	s.keys = nil
	entries := backends(n)
	shared, err := s.decode(store.Key{Kind: store.Backends, Name: "a"}, entries[0])
	if err != nil {
		panic(err)
	}
	before := heap()
	l := s.list(1, int64(n))
	for _, e := range entries {
		key, _ := store.ParseKey(string([]byte(e.key)))
		v := shared
		v.create, v.mod = e.create, e.mod
		l.keys[key] = accepted(v)
		l.marks.add(e)
	}
	s.replace(l)
	l = nil
	used := heap() - before
	runtime.KeepAlive(s)
	runtime.KeepAlive(entries)
	return float64(used) / float64(n)
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkMemory reports perKey.
func BenchmarkMemory(b *testing.B) {
	for b.Loop() {
		b.ReportMetric(perKey(100_000), "B/key")
	}
}

func TestMemoryPerKeyIsBounded(t *testing.T) {
	if got := perKey(100_000); got > 350 {
		t.Errorf("%.0f bytes a key, want at most 350", got)
	}
}
