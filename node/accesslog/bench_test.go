package accesslog

import (
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
)

// What a request pays. The buffers are emptied as Run does it, without the writes.
func BenchmarkRecord(b *testing.B) {
	for _, format := range []Format{JSON, Combined} {
		l, err := New(Config{Format: format, File: os.DevNull})
		if err != nil {
			b.Fatal(err)
		}
		defer l.out.close()
		record := func(i int, e *Entry) {
			l.Record(e)
			if i%100 == 0 {
				s := &l.shards[l.choose(e)]
				s.mu.Lock()
				s.buf = s.buf[:0]
				s.mu.Unlock()
			}
		}
		b.Run("format="+string(format), func(b *testing.B) {
			e := example()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				record(i, e)
			}
		})
		var ports atomic.Uint32
		b.Run("parallel/format="+string(format), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				e := example()
				e.Peer = netip.AddrPortFrom(e.Peer.Addr(), uint16(40000+2*ports.Add(1)))
				for i := 0; pb.Next(); i++ {
					record(i, e)
				}
			})
		})
		if n := l.Dropped(); n > 0 {
			b.Errorf("%s: %d lines dropped", format, n)
		}
	}
}
