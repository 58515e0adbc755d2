package certs

import (
	"crypto/tls"
	"fmt"
	"testing"

	"roster/node/certs/certstest"
	"roster/store"
)

// A change costs what it changes, however many definitions there are.
func BenchmarkApplyOne(b *testing.B) {
	ca := certstest.NewCA(b)
	p := ca.Issue(b, "x.test")
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("definitions=%d", n), func(b *testing.B) {
			s, err := New(Config{})
			if err != nil {
				b.Fatal(err)
			}
			all := make(map[string]*store.Certificate, n)
			for i := range n {
				all[fmt.Sprint("c", i)] = define(p, fmt.Sprint("host-", i, ".test"))
			}
			s.Apply(all)
			one := map[string]*store.Certificate{"c7": define(p, "host-7.test")}
			b.ReportAllocs()
			for b.Loop() {
				s.Apply(one)
			}
		})
	}
}

// What the choice adds to a handshake.
func BenchmarkChoose(b *testing.B) {
	ca := certstest.NewCA(b)
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	s.Apply(map[string]*store.Certificate{"a": define(ca.Issue(b), "a.test"), "b": define(ca.Issue(b), "*.b.test")})
	for _, name := range []string{"a.test", "x.b.test"} {
		b.Run("name="+name, func(b *testing.B) {
			hello := &tls.ClientHelloInfo{ServerName: name}
			b.ReportAllocs()
			for b.Loop() {
				if c, err := s.certificate(hello); c == nil || err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
