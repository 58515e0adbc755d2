package snapshot

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"roster/node/guard"
)

// filled is a writer that has n backends.
func filled(b *testing.B, n int) *Writer {
	w := New(Config{File: filepath.Join(b.TempDir(), "snapshot"), Prefix: "/roster/", Logger: slog.New(slog.DiscardHandler), Current: func() bool { return false }})
	c := put(int64(n + 1))
	for i := range n {
		c.Puts = append(c.Puts, item(fmt.Sprintf("team-a/web-%06d", i), int64(i+2), fmt.Sprintf(`{"host":"10.%d.%d.%d","port":8080,"labels":{"app":"web"}}`, i>>16&255, i>>8&255, i&255)))
	}
	w.Applied(c)
	w.take()
	return w
}

// BenchmarkWrite is a whole file, synced.
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			w := filled(b, n)
			b.ReportAllocs()
			for b.Loop() {
				w.write(guard.Keeping{})
			}
			st := w.Status()
			if st.Error != "" {
				b.Fatal(st.Error)
			}
			b.SetBytes(st.Bytes)
		})
	}
}

// BenchmarkApplied is what the one who applies changes pays, while a file is written all
// the time.
func BenchmarkApplied(b *testing.B) {
	for _, n := range []int{1000, 100_000} {
		b.Run(fmt.Sprintf("backends=%d", n), func(b *testing.B) {
			w := filled(b, n)
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				for ctx.Err() == nil {
					w.take()
					w.write(guard.Keeping{})
				}
			}()
			c := put(int64(n+2), item("team-a/web-000000", int64(n+2), "{}"))
			b.ReportAllocs()
			for b.Loop() {
				w.Applied(c)
			}
			cancel()
			<-done
		})
	}
}

// BenchmarkRead is a start: the file is read and checked, and nothing decoded.
func BenchmarkRead(b *testing.B) {
	const n = 100_000
	w := filled(b, n)
	w.write(guard.Keeping{})
	b.ReportAllocs()
	var p *Picture
	for b.Loop() {
		p, _, _ = Read(w.cfg.File, "/roster/")
	}
	if len(p.Items) != n {
		b.Fatal("not read")
	}
}
