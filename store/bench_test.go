package store_test

import (
	"fmt"
	"runtime"
	"testing"

	"roster/store"
)

var decodeRows = []struct {
	name, value string
	kind        store.Kind
}{
	{"backend", `{"host": "10.0.0.7", "port": 8080, "probe": "light"}`, store.Backends},
	{"backend_labels", `{"host": "web-1.example.com", "port": 8080, "labels": {"app": "web", "zone": "a"}, "max_connections": 100, "connect_timeout": "1s", "comment": "rack 12"}`, store.Backends},
	{"route", `{"match": {"host": "*.foo.com", "path": "/java/*"}, "backend": "java"}`, store.Routes},
	{"director", `{"type": "round_robin", "backends": ["web-1", {"name": "web-2", "weight": 2}], "select": {"app": "web"}}`, store.Directors},
}

func BenchmarkDecode(b *testing.B) {
	for _, row := range decodeRows {
		b.Run("kind="+row.name, func(b *testing.B) {
			value := []byte(row.value)
			key := store.Key{Kind: row.kind, Name: "team-a/web-1"}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := store.Decode(key, value, store.Reject); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, row := range decodeRows {
		b.Run("kind="+row.name, func(b *testing.B) {
			def, _, err := store.Decode(store.Key{Kind: row.kind, Name: "a"}, []byte(row.value), store.Reject)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				store.Encode(def)
			}
		})
	}
}

// BenchmarkResident says how much memory 100,000 backends take, each with an
// address and a probe of its own.
func BenchmarkResident(b *testing.B) {
	const n = 100_000
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		defs := make([]store.Definition, n)
		before := heap()
		for i := range defs {
			value := fmt.Appendf(nil, `{"host": "10.%d.%d.%d", "port": 8080, "probe": "light"}`, i>>16, i>>8&255, i&255)
			def, _, err := store.Decode(store.Key{Kind: store.Backends, Name: "b"}, value, store.Reject)
			if err != nil {
				b.Fatal(err)
			}
			defs[i] = def
		}
		b.ReportMetric(float64(heap()-before)/n, "B/backend")
		runtime.KeepAlive(defs)
	}
}
