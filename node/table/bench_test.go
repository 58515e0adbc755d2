package table

import (
	"fmt"
	"runtime"
	"strings"
	"testing"

	"roster/message"
	"roster/pool"
	"roster/store"
	"roster/watcher"
)

// backends is a change that creates n backends at addresses of their own, and a
// director of all of them.
func backends(b testing.TB, n int) watcher.Change {
	c := watcher.Change{Revision: 1, Listed: true}
	var members strings.Builder
	for i := range n {
		name := fmt.Sprintf("web-%06d", i)
		c.Puts = append(c.Puts, decode(b, store.Key{Kind: store.Backends, Name: name}, address(i), 1, 1))
		if i > 0 {
			members.WriteByte(',')
		}
		fmt.Fprintf(&members, "%q", name)
	}
	c.Puts = append(c.Puts, decode(b, store.Key{Kind: store.Directors, Name: "default"},
		`{"type":"round_robin","backends":[`+members.String()+`]}`, 1, 1))
	return c
}

func address(i int) string {
	return fmt.Sprintf(`{"host":"10.%d.%d.%d","port":8080}`, i>>16, i>>8&255, i&255)
}

// One put of a backend that a director of all of them refers to.
func BenchmarkApplyOneChange(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			a := NewApplier(pool.New(pool.Config{}))
			a.Apply(backends(b, n))
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("web-%06d", n/2)}
			// Two values in turn, at one address: decoding is the watcher's part.
			items := [2]watcher.Item{
				decode(b, key, address(n/2), 1, 2),
				decode(b, key, strings.Replace(address(n/2), "}", `,"max_connections":9}`, 1), 1, 3),
			}
			runtime.GC()
			revision := int64(1)
			b.ReportAllocs()
			for b.Loop() {
				revision++
				item := items[revision%2]
				item.ModRevision = revision
				a.Apply(watcher.Change{Revision: revision, Puts: []watcher.Item{item}})
			}
		})
	}
}

// One put of a backend that is probed: other fields, so that its check stays; its
// address, so that it has another one.
func BenchmarkApplyOneProbed(b *testing.B) {
	const n = 10_000
	for _, what := range []struct{ name, other string }{
		{"check stays", strings.Replace(address(n/2), "}", `,"max_connections":9}`, 1)},
		{"check changes", `{"host":"10.9.9.9"}`},
	} {
		b.Run(what.name, func(b *testing.B) {
			a, _ := probed()
			a.Apply(backends(b, n))
			a.Apply(watcher.Change{Revision: 2, Puts: []watcher.Item{decode(b, store.Key{Kind: store.Probes, Name: "default"}, `{}`, 2, 2)}})
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("web-%06d", n/2)}
			items := [2]watcher.Item{decode(b, key, address(n/2), 1, 2), decode(b, key, what.other, 1, 3)}
			runtime.GC()
			revision := int64(2)
			b.ReportAllocs()
			for b.Loop() {
				revision++
				item := items[revision%2]
				item.ModRevision = revision
				a.Apply(watcher.Change{Revision: revision, Puts: []watcher.Item{item}})
			}
		})
	}
}

// The default probe changed in place, with backends at addresses of their own that all
// follow it.
func BenchmarkApplyDefaultProbe(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			a, _ := probed()
			a.Apply(backends(b, n))
			key := store.Key{Kind: store.Probes, Name: "default"}
			items := [2]watcher.Item{decode(b, key, `{"url":"/a"}`, 1, 2), decode(b, key, `{"url":"/b"}`, 1, 3)}
			runtime.GC()
			revision := int64(2)
			for b.Loop() {
				revision++
				item := items[revision%2]
				item.ModRevision = revision
				a.Apply(watcher.Change{Revision: revision, Puts: []watcher.Item{item}})
			}
		})
	}
}

// One member more, and one less, of a director that selects 10,000, and a change of one
// member's health as the refresher sees it.
func BenchmarkDirectorOneMember(b *testing.B) {
	const n = 10_000
	for _, kind := range []string{"round_robin", "fallback", "random", "hash", "shard", "least_connections", "p2c", "cookie"} {
		load := func(b *testing.B) *Applier {
			c := watcher.Change{Revision: 1, Listed: true}
			for i := range n {
				key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("web-%06d", i)}
				c.Puts = append(c.Puts, decode(b, key, strings.Replace(address(i), "}", `,"labels":{"app":"web"}}`, 1), 1, 1))
			}
			def := `{"type":"` + kind + `","select":{"app":"web"}}`
			if kind == "cookie" {
				def = `{"type":"round_robin","select":{"app":"web"},"cookie":{}}`
				c.Puts = append(c.Puts, decode(b, store.SecretKey, strings.Repeat("s", 32), 1, 1))
			}
			c.Puts = append(c.Puts, decode(b, store.Key{Kind: store.Directors, Name: "default"}, def, 1, 1))
			a := NewApplier(pool.New(pool.Config{}))
			a.Apply(c)
			runtime.GC()
			return a
		}
		b.Run("member/type="+kind, func(b *testing.B) {
			a := load(b)
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("web-%06d", n/2)}
			item := decode(b, key, `{"host":"10.9.9.9","labels":{"app":"web"}}`, 1, 1)
			revision := int64(1)
			b.ReportAllocs()
			for b.Loop() { // two changes
				revision += 2
				a.Apply(watcher.Change{Revision: revision - 1, Deletes: []store.Key{key}})
				item.CreateRevision, item.ModRevision = revision, revision
				a.Apply(watcher.Change{Revision: revision, Puts: []watcher.Item{item}})
			}
		})
		b.Run("health/type="+kind, func(b *testing.B) {
			a := load(b)
			ref, _ := a.Current().names.Get([]byte("default"))
			b.ReportAllocs()
			for b.Loop() {
				a.views.remake(ref)
			}
		})
	}
}

// One backend deleted and created again.
func BenchmarkApplyDeleteAndCreate(b *testing.B) {
	for _, n := range []int{10, 1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			a := NewApplier(pool.New(pool.Config{}))
			a.Apply(backends(b, n))
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("web-%06d", n/2)}
			item := decode(b, key, address(n/2), 1, 1)
			revision := int64(1)
			b.ReportAllocs()
			for b.Loop() {
				revision += 2
				a.Apply(watcher.Change{Revision: revision - 1, Deletes: []store.Key{key}})
				item.CreateRevision, item.ModRevision = revision, revision
				a.Apply(watcher.Change{Revision: revision, Puts: []watcher.Item{item}})
			}
		})
	}
}

// A whole table, and what it holds per backend: the table, its runtime objects
// and pools, the definition itself included.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1_000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			var before, after runtime.MemStats
			for b.Loop() {
				b.StopTimer()
				runtime.GC()
				runtime.ReadMemStats(&before)
				change := backends(b, n)
				b.StartTimer()
				a := NewApplier(pool.New(pool.Config{}))
				a.Apply(change)
				b.StopTimer()
				change = watcher.Change{}
				runtime.GC()
				runtime.ReadMemStats(&after)
				runtime.KeepAlive(a)
				b.StartTimer()
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "resident-B/backend")
		})
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{2, 100, 10_000} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			a := NewApplier(pool.New(pool.Config{}))
			t := a.Apply(backends(b, n))
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				var ask Ask
				r := &message.Request{}
				for pb.Next() {
					ask.Begin(r, noClient, 0)
					if _, err := t.Pick(t.fallback, &ask); err != nil {
						b.Fatal(err)
					}
					ask.Done(Good, 0, 0)
				}
			})
		})
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{0, 10, 1_000, 100_000} {
		b.Run(fmt.Sprintf("routes=%d", n), func(b *testing.B) {
			c := watcher.Change{Revision: 1}
			for i := range n {
				c.Puts = append(c.Puts, decode(b, store.Key{Kind: store.Routes, Name: fmt.Sprintf("r%06d", i)},
					fmt.Sprintf(`{"match":{"host":"h%06d.test","path":"/j/*"},"backend":"a"}`, i), 1, 1))
			}
			t := NewApplier(pool.New(pool.Config{})).Apply(c)
			r := &message.Request{Method: []byte("GET"), Target: []byte("/j/index?q=1"), Authority: []byte(fmt.Sprintf("h%06d.test:80", n/2))}
			var ask Ask
			b.ReportAllocs()
			for b.Loop() {
				ask.Begin(r, noClient, 0)
				if _, _, err := t.Match(&ask); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
