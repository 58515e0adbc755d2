package condition_test

import (
	"fmt"
	"testing"

	"roster/condition"
)

func BenchmarkEval(b *testing.B) {
	for name, text := range map[string]string{
		"method":  `req.method == 'GET'`,
		"header":  `req.header['x_odd'] == '1'`,
		"mobile":  `req.header['user-agent'].matches('(?i)mobile')`,
		"healthy": `backend.healthy('java')`,
		"cookie":  `req.cookie.a == '1'`,
		"three":   `req.method == 'GET' && req.path.startsWith('/shop') && req.header['x_odd'] == '1'`,
		"exists":  `req.header.exists(h, h == 'x-empty')`,
	} {
		b.Run("expression="+name, func(b *testing.B) {
			c, err := condition.Compile(text)
			if err != nil {
				b.Fatal(err)
			}
			in := input()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Eval(in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("expression=limit", func(b *testing.B) {
		c, err := condition.Compile(`req.header.all(a, req.header.all(b, req.header.all(c, req.header.all(d, req.header.all(e, req.header.all(f, a != '' || b + c + d + e + f != ''))))))`)
		if err != nil {
			b.Fatal(err)
		}
		in := input()
		for b.Loop() {
			c.Eval(in)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	var keep []*condition.Condition
	n := 0
	b.Run("text=new", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c, err := condition.Compile(fmt.Sprintf(`req.header['user-agent'].matches('(?i)mobile') && req.path == '/%d'`, n))
			if err != nil {
				b.Fatal(err)
			}
			keep = append(keep, c)
			n++
		}
	})
	b.Run("text=known", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := condition.Compile(keep[0].String()); err != nil {
				b.Fatal(err)
			}
		}
	})
}
