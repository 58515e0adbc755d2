package loop

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// due takes all timers that are due at now.
func allDue(w *wheel, now time.Duration) map[*Timer]bool {
	due := map[*Timer]bool{}
	for t := w.due(now); t != nil; t = w.due(now) {
		due[t] = true
	}
	return due
}

// Against a map of times: each timer fires once, at the first look at or after its
// tick, whatever was done to it before, and the wheel wants to be looked at in time.
func TestTimersFireInTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var w wheel
		timers := make([]Timer, 20)
		model := map[*Timer]time.Duration{}
		now := time.Duration(rapid.Int64Range(1, int64(100*time.Hour)).Draw(t, "start"))
		allDue(&w, now)
		ahead := func(name string) time.Duration {
			if rapid.Bool().Draw(t, name+" near a slot's end") {
				return rapid.SampledFrom([]time.Duration{0, 1, 2, 3, 63, 64, 65, 4095, 4096, 4097}).Draw(t, name+" ticks") * Resolution
			}
			bound := rapid.SampledFrom([]time.Duration{Resolution, time.Second, time.Minute, time.Hour, 100 * time.Hour}).Draw(t, name+" bound")
			return time.Duration(rapid.Int64Range(-int64(Resolution), int64(bound)).Draw(t, name))
		}
		some := rapid.IntRange(0, len(timers)-1)
		t.Repeat(map[string]func(*rapid.T){
			"arm": func(r *rapid.T) {
				tm := &timers[some.Draw(r, "timer")]
				tm.at = max(now+ahead("at"), 1)
				w.arm(tm)
				// What is due already waits for the next tick.
				model[tm] = max(time.Duration(tickOf(tm.at)), now/Resolution+1) * Resolution
			},
			"disarm": func(r *rapid.T) {
				tm := &timers[some.Draw(r, "timer")]
				tm.at = 0
				delete(model, tm)
			},
			"unlink": func(r *rapid.T) {
				tm := &timers[some.Draw(r, "timer")]
				w.remove(tm)
				*tm = Timer{}
				delete(model, tm)
			},
			"wait": func(r *rapid.T) {
				next, ok := w.next()
				for tm, at := range model {
					if !ok || next > at {
						r.Fatalf("the wheel wants to be looked at at %v (%v), but timer %v is due at %v", next, ok, tm.at, at)
					}
				}
				if ok && next <= now {
					r.Fatalf("at %v the wheel wants to be looked at at %v", now, next)
				}
				if ok && rapid.Bool().Draw(r, "to the next") {
					now = next
				} else {
					now += max(0, ahead("pause"))
				}
				due := allDue(&w, now)
				for tm, at := range model {
					if due[tm] != (at <= now) {
						r.Fatalf("at %v, timer of %v: fired %v", now, at, due[tm])
					}
					if due[tm] {
						delete(model, tm)
						delete(due, tm)
					}
				}
				if len(due) > 0 {
					r.Fatalf("%d timers fired that are not armed", len(due))
				}
			},
		})
	})
}

// wakes counts how often a loop that has nothing else to do looks at its timers
// until they are gone.
func wakes(w *wheel) (n int, last time.Duration) {
	for {
		next, ok := w.next()
		if !ok {
			return n, last
		}
		n++
		last = next
		allDue(w, next)
	}
}

func TestFewWakesForTimers(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{Resolution, time.Second, time.Minute, time.Hour, 1000 * time.Hour} {
		var w wheel
		start := 12345 * time.Second
		allDue(&w, start)
		w.insert(&Timer{at: start + ahead}, tickOf(start+ahead))
		n, last := wakes(&w)
		if n > levels || last < start+ahead || last >= start+ahead+Resolution {
			t.Errorf("a timer %v ahead takes %d wakes, the last %v ahead", ahead, n, last-start)
		}
	}
	// Connections that are all used and put off again look like this to the wheel.
	var w wheel
	random := rand.New(rand.NewPCG(1, 1))
	for range 10_000 {
		t := &Timer{at: time.Minute + time.Duration(random.Int64N(int64(time.Second)))}
		w.arm(t)
		t.at += time.Hour
	}
	if next, ok := w.next(); !ok || next < 30*time.Second {
		t.Errorf("10,000 timers a minute ahead want to be looked at at %v", next)
	}
}

// A timer that is put off many times is not moved, and is looked at when it was
// to be due first.
func TestPutOff(t *testing.T) {
	t.Parallel()
	var w wheel
	tm := Timer{at: time.Second}
	w.arm(&tm)
	place := tm.place
	for i := range 1000 {
		tm.at = time.Second + time.Duration(i)*time.Millisecond
		w.arm(&tm)
	}
	if tm.place != place {
		t.Error("a timer that was put off was moved")
	}
	if due := allDue(&w, time.Second); len(due) > 0 {
		t.Error("a timer that was put off fired at its first time")
	}
	if due := allDue(&w, tm.at); len(due) > 0 {
		t.Error("a timer fired before its tick")
	}
	if due := allDue(&w, tm.at+Resolution); len(due) != 1 {
		t.Error("a timer that was put off did not fire")
	}
}
