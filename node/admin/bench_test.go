package admin

import (
	"fmt"
	"testing"

	"roster/store"
	"roster/watcher"
)

// What a page of the dashboard costs a node each second, by how many backends there are
// and what is looked for.
func BenchmarkSearchBackends(b *testing.B) {
	for _, size := range []int{10_000, 100_000} {
		n := newNode()
		c := watcher.Change{Revision: 7}
		for i := range size {
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("team-%d/web-%06d", i%10, i)}
			def, _, err := store.Decode(key, fmt.Appendf(nil, `{"host":"10.0.0.%d","labels":{"app":"web","rack":"r%d"},"probe":{"interval":"1h","port":%d}}`, i%250+1, i%40, i%50+1), store.Reject)
			if err != nil {
				b.Fatal(err)
			}
			c.Puts = append(c.Puts, watcher.Item{Key: key, CreateRevision: 7, ModRevision: 7, Definition: def})
		}
		n.Apply(c)
		h := serve(n)
		for _, query := range []string{"limit=25", "limit=25&q=rack%3Dr7", "limit=25&q=web-009999"} {
			b.Run(fmt.Sprintf("%d/%s", size, query), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if w := ask(h, "GET", "/v1/search/backends?"+query); w.Code != 200 {
						b.Fatal(w.Code, w.Body)
					}
				}
			})
		}
	}
}
