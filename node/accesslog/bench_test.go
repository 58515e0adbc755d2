package accesslog

import (
	"os"
	"testing"
)

// What a request pays. The buffer is emptied as Run does it, without the writes.
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
				l.mu.Lock()
				l.buf = l.buf[:0]
				l.mu.Unlock()
			}
		}
		b.Run("format="+string(format), func(b *testing.B) {
			e := example()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				record(i, e)
			}
		})
		b.Run("parallel/format="+string(format), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				e := example()
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
