package route

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"roster/store"
)

// indexOf makes an index of n routes of a kind: each with a host of its own, or
// all of one host and told apart by path or by a header.
func indexOf(b testing.TB, kind string, n int) Index {
	var ix Index
	e := ix.Edit()
	for i := range n {
		e.Add(New(fmt.Sprintf("r%06d", i), decoded(b, valueOf(kind, i)), 1, 1, 1))
	}
	return e.Commit()
}

func valueOf(kind string, i int) string {
	switch kind {
	case "host":
		return fmt.Sprintf(`{"match":{"host":"h%06d.test","path":"/j/*"},"backend":"a"}`, i)
	case "path":
		return fmt.Sprintf(`{"match":{"host":"one.test","path":"/shop/%06d/*"},"backend":"a"}`, i)
	case "header":
		return fmt.Sprintf(`{"match":{"host":"one.test","header":{"x-tenant":"%06d"}},"backend":"a"}`, i)
	}
	panic(kind)
}

// BenchmarkMatch asks for one route after the other in no order, so that what a
// route is made of is not in the processor's caches by itself.
func BenchmarkMatch(b *testing.B) {
	for _, row := range []struct {
		kind string
		n    int
	}{{"host", 0}, {"host", 1}, {"host", 10}, {"host", 1_000}, {"host", 10_000}, {"host", 100_000}, {"path", 10_000}, {"header", 100}, {"header", 10_000}} {
		b.Run(fmt.Sprintf("by=%s/routes=%d", row.kind, row.n), func(b *testing.B) {
			ix := indexOf(b, row.kind, row.n)
			// The request is at hand, as it is in a proxy; which route it takes changes.
			which := make([]int, 1<<13)
			for i := range which {
				which[i] = rand.IntN(max(row.n, 1))
			}
			authority, target, tenant := []byte("one.test"), []byte("/j/index?q=1"), []byte("000000")
			digits := tenant
			switch row.kind {
			case "host":
				authority = []byte("h000000.test:80")
				digits = authority[1:7]
			case "path":
				target = []byte("/shop/000000/cart")
				digits = target[6:12]
			}
			r := request("GET", "", "", "user-agent", "x", "accept", "*/*", "x-tenant", "")
			r.Target, r.Authority, r.Fields[2].Value = target, authority, tenant
			q := ask(r)
			i := 0
			runtime.GC() // not while it is measured
			b.ReportAllocs()
			for b.Loop() {
				n := which[i%len(which)]
				for k := range digits {
					digits[len(digits)-1-k] = byte('0' + n%10)
					n /= 10
				}
				if r, err := ix.Match(q); err != nil || r == nil && row.n > 0 {
					b.Fatal(r, err)
				}
				i++
			}
		})
	}
	b.Run("by=host/routes=1000/priorities=2", func(b *testing.B) {
		e := indexOf(b, "host", 1000).Edit()
		e.Add(New("first", decoded(b, `{"match":{"path":"/admin/*"},"priority":1,"backend":"a"}`), 1, 1, 1))
		ix := e.Commit()
		q := ask(request("GET", "/j/index?q=1", "h000500.test:80"))
		b.ReportAllocs()
		for b.Loop() {
			ix.Match(q)
		}
	})
	b.Run("by=when/routes=1", func(b *testing.B) {
		var ix Index
		e := ix.Edit()
		e.Add(New("mobile", decoded(b, `{"when":"req.header['user-agent'].matches('(?i)mobile')","backend":"a"}`), 1, 1, 1))
		ix = e.Commit()
		q := ask(request("GET", "/", "one.test", "user-agent", "Mozilla/5.0 (iPhone; CPU) Mobile/15E148"))
		b.ReportAllocs()
		for b.Loop() {
			if r, _ := ix.Match(q); r == nil {
				b.Fatal("no route")
			}
		}
	})
}

func BenchmarkBegin(b *testing.B) {
	for name, target := range map[string]string{"normal": "/shop/cart/index.html?q=1", "encoded": "/shop/%7Ea/./x"} {
		b.Run("path="+name, func(b *testing.B) {
			r := request("GET", target, "Www.Shop.Test:8080")
			q := new(Query)
			b.ReportAllocs()
			for b.Loop() {
				q.Begin(r, someClient, nil)
			}
		})
	}
}

// BenchmarkEdit changes one route of many.
func BenchmarkEdit(b *testing.B) {
	for _, row := range []struct {
		kind string
		n    int
	}{{"host", 10}, {"host", 10_000}, {"host", 100_000}, {"path", 10_000}, {"header", 10_000}} {
		b.Run(fmt.Sprintf("by=%s/routes=%d", row.kind, row.n), func(b *testing.B) {
			ix := indexOf(b, row.kind, row.n)
			i := 0
			runtime.GC()
			b.ReportAllocs()
			for b.Loop() {
				k := i * 7919 % row.n
				old := ix.Get(fmt.Sprintf("r%06d", k))
				e := ix.Edit()
				e.Add(New(old.Name, old.Def, 1, int64(i), 1))
				ix = e.Commit()
				i++
			}
		})
	}
}

// BenchmarkLoad puts routes that are decoded already, in one edit.
func BenchmarkLoad(b *testing.B) {
	for _, kind := range []string{"host", "path", "header"} {
		const n = 100_000
		b.Run(fmt.Sprintf("by=%s/routes=%d", kind, n), func(b *testing.B) {
			defs := make([]*store.Route, n)
			names := make([]string, n)
			for i := range defs {
				defs[i], names[i] = decoded(b, valueOf(kind, i)), fmt.Sprintf("r%06d", i)
			}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			var ix Index
			for b.Loop() {
				var empty Index
				e := empty.Edit()
				for i, def := range defs {
					e.Add(New(names[i], def, 1, 1, 1))
				}
				ix = e.Commit()
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "resident-B/route")
			runtime.KeepAlive(ix)
			runtime.KeepAlive(defs)
		})
	}
}
