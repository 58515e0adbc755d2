package balancer

import (
	"math"
	"sync/atomic"
	"time"
)

// latencyTau is the time constant of Latency, Finagle's default for its peak EWMA:
// after that long without a request, about a third of a value is left.
const latencyTau = 10 * time.Second

// Latency is an exponentially decaying average of how long a backend takes, after
// Finagle's peak EWMA: a value above it is taken at once, one below it draws it
// down with a time constant of ten seconds, and so does silence, so that a backend
// that was slow is tried again. The zero value knows nothing yet. Any goroutine may
// use it at any time; there is no lock.
type Latency struct {
	// Nanoseconds as a float32 in the lower half, when they were noted in
	// milliseconds modulo 2^32 in the upper: one word, so that both change at once.
	word atomic.Uint64
}

// Observe adds a request that took d and ended now. A d that is not above 0 counts
// as a nanosecond: 0 is for what is not known.
func (l *Latency) Observe(d, now time.Duration) {
	sample := float64(max(d, 1))
	for {
		old := l.word.Load()
		value := sample
		// The old one decayed is what silence has left of it; it is the average that
		// samples below it draw down.
		if kept := left(old, now); old != 0 && note(old)*kept > sample {
			value = sample + (note(old)-sample)*kept
		}
		if l.word.CompareAndSwap(old, uint64(millis(now))<<32|uint64(math.Float32bits(float32(value)))) {
			return
		}
	}
}

// Value is the average now; 0 = not known, or so long ago that it says nothing.
func (l *Latency) Value(now time.Duration) time.Duration {
	word := l.word.Load()
	return time.Duration(note(word) * left(word, now))
}

// note is what was noted, in nanoseconds.
func note(word uint64) float64 { return float64(math.Float32frombits(uint32(word))) }

func millis(now time.Duration) uint32 { return uint32(now / time.Millisecond) }

// left is the part that the time since word was noted leaves of it.
func left(word uint64, now time.Duration) float64 {
	age := millis(now) - uint32(word>>32)
	// A moment before it is another goroutine's reading of the clock, not 49 days.
	if age == 0 || age > math.MaxUint32-60_000 {
		return 1
	}
	return math.Exp(-float64(age) / float64(latencyTau/time.Millisecond))
}
