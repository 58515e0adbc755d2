package balancer_test

import (
	"math"
	"sync"
	"testing"
	"time"

	"roster/balancer"
)

func near(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if math.Abs(float64(got-want)) > 0.001*float64(want)+1 {
		t.Errorf("%s is %v, want %v", what, got, want)
	}
}

func TestLatencyIsPeakSensitiveAndDecays(t *testing.T) {
	t.Parallel()
	var l balancer.Latency
	near(t, "what is not known", l.Value(time.Hour), 0)
	l.Observe(100*time.Millisecond, 0)
	near(t, "the first", l.Value(0), 100*time.Millisecond)
	l.Observe(time.Second, time.Millisecond)
	near(t, "a higher one, at once", l.Value(time.Millisecond), time.Second)
	l.Observe(100*time.Millisecond, time.Millisecond)
	near(t, "a lower one at the same moment", l.Value(time.Millisecond), time.Second)

	// Ten seconds later a lower one counts for 1 - 1/e.
	now := 10*time.Second + time.Millisecond
	l.Observe(100*time.Millisecond, now)
	want := 100*time.Millisecond + time.Duration(math.Round(900e6/math.E))
	near(t, "a lower one after ten seconds", l.Value(now), want)
	// Silence draws it down, too.
	near(t, "after ten seconds of silence", l.Value(now+10*time.Second), time.Duration(float64(want)/math.E))
	near(t, "a moment before it was noted", l.Value(now-time.Second), want)
	near(t, "after an hour", l.Value(now+time.Hour), 0)
	near(t, "after 40 days", l.Value(now+40*24*time.Hour), 0)
	l.Observe(-time.Second, now+time.Hour)
	near(t, "after one that took no time", l.Value(now+time.Hour), 1)
}

func TestLatencyConvergesToWhatIsObserved(t *testing.T) {
	t.Parallel()
	var l balancer.Latency
	l.Observe(time.Second, 0)
	now := time.Duration(0)
	for range 40_000 { // 200 seconds of requests every 5 ms
		now += 5 * time.Millisecond
		l.Observe(20*time.Millisecond, now)
	}
	near(t, "the average", l.Value(now), 20*time.Millisecond)
}

func TestLatencyIsForAnyGoroutine(t *testing.T) {
	t.Parallel()
	var l balancer.Latency
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 2000 {
				l.Observe(time.Duration(g+1)*time.Millisecond, time.Duration(i)*time.Millisecond)
				if v := l.Value(time.Duration(i) * time.Millisecond); v <= 0 || v > 4*time.Millisecond+time.Microsecond {
					t.Errorf("the average is %v, want above 0 and at most 4ms", v)
					return
				}
			}
		})
	}
	wg.Wait()
}
