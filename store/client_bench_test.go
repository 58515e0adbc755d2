package store_test

import (
	"fmt"
	"testing"

	"roster/store"
	"roster/store/storetest"
)

func BenchmarkList(b *testing.B) {
	const keys = 100_000
	m := storetest.Etcd(b)
	s := m.Store()
	for done := 0; done < keys; {
		var ops []store.Op
		for range min(store.MaxTxnKeys, keys-done) {
			ops = append(ops, store.Op{Key: backend(fmt.Sprintf("b%06d", done)), Value: []byte(`{"host": "10.0.0.7", "port": 8080, "probe": "light"}`), IfRevision: store.AnyRevision})
			done++
		}
		if _, err := s.Apply(b.Context(), ops); err != nil {
			b.Fatal(err)
		}
	}
	for _, page := range []int{100, 1000, 5000, 20000} {
		b.Run(fmt.Sprintf("keys=%d/page=%d", keys, page), func(b *testing.B) {
			s := storetest.Open(b, store.Config{Endpoints: []string{m.Endpoint()}, PageSize: page})
			b.ReportAllocs()
			for b.Loop() {
				if entries, _, err := s.List(b.Context(), store.Backends, "", 0); err != nil || len(entries) != keys {
					b.Fatal(len(entries), err)
				}
			}
		})
	}
}
