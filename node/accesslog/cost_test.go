//go:build !race

package accesslog

import (
	"testing"
	"time"
)

// The race detector makes pools forget, so this is without it.
func TestRecordAllocatesNothing(t *testing.T) {
	var s sink
	for _, format := range []Format{JSON, Combined} {
		l, _ := newLog(t, Config{Format: format}, &s)
		e := example()
		if n := testing.AllocsPerRun(100, func() {
			e.Time = e.Time.Add(time.Second)
			l.Record(e)
		}); n != 0 {
			t.Errorf("%s: %v allocations", format, n)
		}
		if l.Dropped() > 0 {
			t.Error("dropped lines")
		}
	}
}
