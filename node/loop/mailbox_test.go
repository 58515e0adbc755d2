//go:build linux

package loop

import (
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPostsRunInOrder(t *testing.T) {
	t.Parallel()
	const posters, each = 8, 2000
	l := start(t, Config{})
	var got [posters][]int
	var g sync.WaitGroup
	for p := range posters {
		g.Go(func() {
			for i := range each {
				if !l.Post(func() { got[p] = append(got[p], i) }) {
					t.Error("Post is refused while the loop runs")
				}
			}
		})
	}
	g.Wait()
	do(t, l, func() {})
	for p := range got {
		if len(got[p]) != each {
			t.Fatalf("of poster %d, %d of %d ran", p, len(got[p]), each)
		}
		for i, v := range got[p] {
			if v != i {
				t.Fatalf("poster %d's number %d came at place %d", p, v, i)
			}
		}
	}
}

// What Post returned true for runs, and nothing else, whenever Stop comes.
func TestPostAndStop(t *testing.T) {
	t.Parallel()
	for range 50 {
		l, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		ran := 0
		var accepted [4]int
		var g sync.WaitGroup
		for p := range accepted {
			g.Go(func() {
				for l.Post(func() { ran++ }) {
					accepted[p]++
					if accepted[p] == 100 && p == 0 {
						l.Stop()
					}
					runtime.Gosched()
				}
			})
		}
		l.Run()
		g.Wait()
		want := 0
		for _, n := range accepted {
			want += n
		}
		if ran != want {
			t.Fatalf("%d posts were accepted, %d ran", want, ran)
		}
		l.Stop() // of no consequence
		if err := Steal(l, 0); err != nil {
			t.Error(err)
		}
	}
}

// waitAsleep returns when the loop waits for events without end.
func waitAsleep(l *Loop) {
	for !l.asleep.Load() {
		runtime.Gosched()
	}
}

// A batch of posts takes one write, and none while the loop is awake.
func TestPostsWakeOnce(t *testing.T) {
	t.Parallel()
	l := start(t, Config{})
	waitAsleep(l)
	entered, leave := make(chan struct{}), make(chan struct{})
	l.Post(func() { close(entered); <-leave })
	<-entered
	for range 100 {
		l.Post(func() { l.Post(func() {}) })
	}
	close(leave)
	do(t, l, func() {})
	// The loop never reads it, so it is the sum of all writes: for the first, and
	// for do if it came late.
	var b [8]byte
	if _, err := unix.Read(l.wake, b[:]); err != nil {
		t.Fatal(err)
	}
	if n := binary.NativeEndian.Uint64(b[:]); n > 2 {
		t.Errorf("102 posts in 2 batches woke the loop %d times", n)
	}
}

// A post that comes when the loop has found the mailbox empty and is about to wait
// is not left there.
func TestPostBeforeWait(t *testing.T) {
	t.Parallel()
	var l *Loop
	posted := false
	l, err := New(Config{Faults: func(op Op, _, n int) (int, syscall.Errno) {
		if op == OpWait && !posted {
			posted = true
			l.Post(func() { l.Stop() })
		}
		return n, 0
	}})
	if err != nil {
		t.Fatal(err)
	}
	l.Run()
}

// A loop that has nothing to do makes no turn, and does not hold up the garbage
// collector: that would have to interrupt it.
func TestIdle(t *testing.T) {
	t.Parallel()
	var waits atomic.Int32
	l := start(t, Config{Faults: func(op Op, _, n int) (int, syscall.Errno) {
		if op == OpWait {
			waits.Add(1)
		}
		return n, 0
	}})
	do(t, l, func() {})
	waitAsleep(l)
	before := waits.Load()
	for range 20 {
		runtime.GC()
	}
	if n := waits.Load() - before; n > 0 {
		t.Errorf("an idle loop made %d turns while the collector ran 20 times", n)
	}
}

func TestPanics(t *testing.T) {
	t.Parallel()
	type report struct {
		who, value any
		stack      bool
	}
	var reports []report
	l := start(t, Config{Panic: func(who, value any, stack []byte) {
		reports = append(reports, report{who, value, len(stack) > 0})
	}})
	bad, good := &recorder{l: l, panics: true}, &recorder{l: l}
	timer := &stopwatch{fired: make(chan struct{})}
	a, b := pair(t)
	c, d := pair(t)
	send(t, b, "x")
	send(t, d, "y")
	do(t, l, func() {
		add(t, l, bad, a)
		add(t, l, good, c)
		l.Post(func() { panic("post") })
		l.Arm(&timer.Timer, l.Now(), timer)
		l.Again(&bad.Source)
	})
	<-timer.fired
	do(t, l, func() {
		if good.events&In == 0 {
			t.Error("a panic in one handler kept an event from another")
		}
		want := []report{{bad, "event", true}, {bad, "again", true}, {nil, "post", true}, {timer, "timer", true}}
		if len(reports) != len(want) {
			t.Fatalf("reported %v, want %v", reports, want)
		}
		for _, w := range want {
			found := false
			for _, r := range reports {
				found = found || r == w
			}
			if !found {
				t.Errorf("reported %v, want %v among them", reports, w)
			}
		}
		l.Close(&bad.Source)
		l.Close(&good.Source)
	})
}

// A stopwatch panics when it is due.
type stopwatch struct {
	Timer
	fired chan struct{}
}

func (s *stopwatch) Expired(*Timer) {
	close(s.fired)
	panic("timer")
}
