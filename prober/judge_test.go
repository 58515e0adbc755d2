package prober

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// varnish is a backend's health as Varnish computes it: a register that initial
// good probes are pushed into at the start, then one bit a probe.
type varnish struct {
	register                   uint64
	window, threshold, initial int
}

func newVarnish(window, threshold, initial int) *varnish {
	v := &varnish{window: window, threshold: threshold, initial: initial}
	for range initial {
		v.push(true)
	}
	return v
}

func (v *varnish) push(good bool) {
	v.register <<= 1
	if good {
		v.register |= 1
	}
}

func (v *varnish) good() (n int) {
	for i := range v.window {
		if v.register>>i&1 != 0 {
			n++
		}
	}
	return n
}

// observe is a history after one more probe, good or not.
func observe(h *History, good bool) *History {
	var o outcome
	if good {
		o.good("")
	}
	return h.next(&o, time.Time{})
}

// A backend that has been there from the first probe on is judged as in Varnish,
// at every edge of window, threshold and initial.
func TestJudgeIsVarnish(t *testing.T) {
	t.Parallel()
	patterns := map[string]func(i int) bool{
		"all good":         func(int) bool { return true },
		"all bad":          func(int) bool { return false },
		"good, then bad":   func(i int) bool { return i < 64 },
		"bad, then good":   func(i int) bool { return i >= 64 },
		"in turns":         func(i int) bool { return i%2 == 0 },
		"one good in nine": func(i int) bool { return i%9 == 0 },
	}
	edges := []int{0, 1, 2, 3, 7, 8, 9, 31, 32, 62, 63, 64}
	for _, window := range edges[1:] {
		for _, threshold := range edges[1:] {
			for _, initial := range edges {
				if threshold > window || initial > threshold {
					continue
				}
				j := Judge{uint8(window), uint8(threshold), uint8(initial)}
				for name, pattern := range patterns {
					v, h := newVarnish(window, threshold, initial), &noHistory
					for i := range 140 {
						if got, want := j.Good(h.Happy, h.Probes), v.good(); got != want {
							t.Fatalf("%+v, %s, after %d probes: %d good, want %d", j, name, i, got, want)
						}
						if got, want := j.Healthy(h.Happy, h.Probes), v.good() >= threshold; got != want {
							t.Fatalf("%+v, %s, after %d probes: healthy %v, want %v", j, name, i, got, want)
						}
						if got := j.Happy(h.Happy, h.Probes); got != v.register {
							t.Fatalf("%+v, %s, after %d probes: shown %x, want %x", j, name, i, got, v.register)
						}
						v.push(pattern(i))
						h = observe(h, pattern(i))
					}
				}
			}
		}
	}
}

func TestJudgeIsVarnishForAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.IntRange(1, 64).Draw(t, "window")
		threshold := rapid.IntRange(1, window).Draw(t, "threshold")
		initial := rapid.IntRange(0, threshold).Draw(t, "initial")
		j := Judge{uint8(window), uint8(threshold), uint8(initial)}
		v, h := newVarnish(window, threshold, initial), &noHistory
		for _, good := range rapid.SliceOfN(rapid.Bool(), 0, 150).Draw(t, "probes") {
			v.push(good)
			h = observe(h, good)
			if got, want := j.Good(h.Happy, h.Probes), v.good(); got != want {
				t.Fatalf("%+v: %d good in %b, want %d", j, got, h.Happy, want)
			}
		}
	})
}

// The average is Varnish's: good probes only, the first as it is, then by halves,
// thirds and quarters.
func TestAverageIsVarnish(t *testing.T) {
	t.Parallel()
	h := &noHistory
	avg, rate := 0.0, 0.0
	for i, probe := range []struct {
		last time.Duration
		good bool
	}{
		{100 * time.Millisecond, true}, {300 * time.Millisecond, true}, {0, false}, {50 * time.Millisecond, false},
		{200 * time.Millisecond, true}, {time.Second, true}, {time.Millisecond, true}, {time.Millisecond, true},
	} {
		o := outcome{answered: probe.last}
		if probe.good {
			o.good("")
			rate = min(rate+1, 4)
			avg += (probe.last.Seconds() - avg) / rate
		}
		h = h.next(&o, time.Time{})
		if got, want := fmt.Sprintf("%.6f", h.Average.Seconds()), fmt.Sprintf("%.6f", avg); got != want {
			t.Errorf("after probe %d the average is %s, want %s", i+1, got, want)
		}
		if h.Last != probe.last {
			t.Errorf("after probe %d the last is %v, want %v", i+1, h.Last, probe.last)
		}
	}
}
