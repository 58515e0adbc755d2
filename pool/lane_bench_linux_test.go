package pool

import (
	"context"
	"sync/atomic"
	"testing"
	"time"
)

// What a request costs a loop here: without a lock that others hold, with one that
// everybody takes from everybody, and through Get and Put.
func BenchmarkIdlePut(b *testing.B) {
	b.Run("own", func(b *testing.B) {
		p := benchPool(b)
		ln := p.m.NewLane(closeLinks)
		b.Cleanup(ln.End)
		putNew(b, p, ln)
		b.ReportAllocs()
		for b.Loop() {
			if l := p.Idle(ln); l == nil || !l.Put(ln) {
				b.Fatal("none")
			}
		}
	})
	b.Run("stolen", func(b *testing.B) {
		p := benchPool(b)
		lanes := [2]*Lane{p.m.NewLane(closeLinks), p.m.NewLane(closeLinks)}
		b.Cleanup(lanes[0].End)
		b.Cleanup(lanes[1].End)
		putNew(b, p, lanes[0])
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			ln := lanes[^i&1]
			if l := p.Idle(ln); l == nil || !l.Stolen() || !l.Put(ln) {
				b.Fatal("none")
			}
		}
	})
	b.Run("parallel", func(b *testing.B) {
		p := benchPool(b)
		var next atomic.Int32
		lanes := make([]*Lane, 64)
		for i := range lanes {
			lanes[i] = p.m.NewLane(closeLinks)
			b.Cleanup(lanes[i].End)
		}
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			ln := lanes[next.Add(1)%int32(len(lanes))]
			putNew(b, p, ln)
			for pb.Next() {
				l := p.Idle(ln)
				if l == nil { // stolen by one who had none for a moment
					putNew(b, p, ln)
				} else if !l.Put(ln) {
					b.Error("not kept")
					return
				}
			}
		})
	})
}

func putNew(tb testing.TB, p *Pool, ln *Lane) {
	l, err := p.Open(context.Background(), Request{ConnectTimeout: 10 * time.Second})
	if err != nil || !l.Put(ln) {
		tb.Fatal("no Link", err)
	}
}

func BenchmarkLinkDial(b *testing.B) {
	for _, way := range []string{"Open", "Connect"} {
		b.Run("way="+way, func(b *testing.B) {
			p := benchPool(b)
			b.ReportAllocs()
			for b.Loop() {
				var l *Link
				if way == "Open" {
					l = open(b, p, Request{ConnectTimeout: 3500 * time.Millisecond})
				} else {
					l = connect(b, p, Request{})
				}
				l.Discard()
				reset(l)
			}
		})
	}
}
