package pool

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// waiting starts a request that is expected to queue, and returns how it ended.
func waiting(ctx context.Context, l *Limit) <-chan error {
	result := make(chan error, 1)
	go func() { result <- l.Acquire(ctx) }()
	synctest.Wait()
	return result
}

func ended(t *testing.T, what string, result <-chan error, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-result:
		if !errors.Is(err, want) {
			t.Errorf("%s: Acquire = %v, want %v", what, err, want)
		}
	default:
		t.Errorf("%s: still waiting, want %v", what, want)
	}
}

func still(t *testing.T, what string, result <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-result:
		t.Errorf("%s: Acquire = %v, want it to wait", what, err)
	default:
	}
}

func TestLimitZeroValueHasNoLimit(t *testing.T) {
	t.Parallel()
	var l Limit
	for range 1000 {
		if err := l.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := l.Active(); got != 1000 {
		t.Errorf("Active = %d, want 1000", got)
	}
}

// Both wait_limit and wait_timeout above 0, or no queue.
func TestLimitWithoutQueueIsBusy(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name        string
		waitLimit   int
		waitTimeout time.Duration
	}{
		{"neither", 0, 0},
		{"only wait_limit", 5, 0},
		{"only wait_timeout", 0, time.Second},
	} {
		var l Limit
		l.Set(1, row.waitLimit, row.waitTimeout)
		if err := l.Acquire(t.Context()); err != nil {
			t.Fatalf("%s: first Acquire = %v", row.name, err)
		}
		if err := l.Acquire(t.Context()); err != ErrBusy {
			t.Errorf("%s: second Acquire = %v, want ErrBusy", row.name, err)
		}
	}
}

func TestLimitIsFirstComeFirstServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		l.Set(1, 2, time.Minute)
		l.Acquire(t.Context())
		a, b := waiting(t.Context(), &l), waiting(t.Context(), &l)
		if err := l.Acquire(t.Context()); err != ErrBusy {
			t.Errorf("with a full queue Acquire = %v, want ErrBusy", err)
		}
		l.Release()
		ended(t, "first", a, nil)
		still(t, "second", b)
		l.Release()
		ended(t, "second", b, nil)
	})
}

func TestLimitNewcomersNeverOvertake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		l.Set(1, 9, time.Minute)
		l.Acquire(t.Context())
		var got []int
		var mu sync.Mutex
		var all sync.WaitGroup
		enter := func(i int) {
			all.Go(func() {
				if err := l.Acquire(t.Context()); err != nil {
					t.Error(err)
				}
				mu.Lock()
				got = append(got, i)
				mu.Unlock()
				l.Release()
			})
			synctest.Wait()
		}
		for i := range 5 {
			enter(i)
		}
		l.Release()
		enter(5)
		all.Wait()
		for i := range got {
			if got[i] != i {
				t.Fatalf("order = %v", got)
			}
		}
	})
}

func TestLimitWaitTimesOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		l.Set(1, 1, time.Second)
		l.Acquire(t.Context())
		w := waiting(t.Context(), &l)
		time.Sleep(time.Second - 1)
		still(t, "before the timeout", w)
		time.Sleep(time.Nanosecond)
		ended(t, "at the timeout", w, ErrWaitTimeout)
		if l.Queued() != 0 || l.Active() != 1 {
			t.Errorf("Queued, Active = %d, %d, want 0, 1", l.Queued(), l.Active())
		}
	})
}

func TestLimitCancelledWaiterLeavesNoTrace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		l.Set(1, 3, time.Minute)
		l.Acquire(t.Context())
		ctx, cancel := context.WithCancel(t.Context())
		a, b := waiting(ctx, &l), waiting(t.Context(), &l)
		cancel()
		ended(t, "cancelled", a, context.Canceled)
		l.Release()
		ended(t, "next", b, nil)
		l.Release()
		if l.Queued() != 0 || l.Active() != 0 {
			t.Errorf("Queued, Active = %d, %d, want 0, 0", l.Queued(), l.Active())
		}
	})
}

func TestLimitFailWakesAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		l.Set(1, 3, time.Minute)
		l.Acquire(t.Context())
		a, b := waiting(t.Context(), &l), waiting(t.Context(), &l)
		l.Fail()
		ended(t, "first", a, ErrSick)
		ended(t, "second", b, ErrSick)
		if l.Active() != 1 {
			t.Errorf("Active = %d, want 1: requests in progress go on", l.Active())
		}
	})
}

// Requests of an older definition count against the new limit.
func TestLimitSetCountsOlderRequests(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var l Limit
		for range 3 {
			l.Acquire(t.Context())
		}
		l.Set(2, 5, time.Minute)
		a, b := waiting(t.Context(), &l), waiting(t.Context(), &l)
		l.Release()
		still(t, "two of two in progress", a)
		l.Release()
		ended(t, "one of two", a, nil)
		l.Set(3, 5, time.Minute)
		ended(t, "raised limit admits", b, nil)
		c := waiting(t.Context(), &l)
		l.Set(0, 0, 0)
		ended(t, "no limit admits all", c, nil)
		if l.Active() != 4 {
			t.Errorf("Active = %d, want 4", l.Active())
		}
	})
}

func TestLimitReleaseWithoutAcquirePanics(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	new(Limit).Release()
}

// step is one thing that happens to a Limit; its meaning depends on what.
type step struct {
	what    string
	a, b, c int
}

func (s step) String() string { return fmt.Sprintf("%s(%d,%d,%d)", s.what, s.a, s.b, s.c) }

// The model of a Limit: who holds, who waits until when, how the others ended.
type limitModel struct {
	max, waitLimit int
	waitTimeout    time.Duration
	now            time.Duration
	failed         bool
	holding        []int
	queue          []int
	until          map[int]time.Duration
	outcome        []string
}

func (m *limitModel) admit() {
	for len(m.queue) > 0 && (m.max <= 0 || len(m.holding) < m.max) {
		i := m.queue[0]
		m.queue = m.queue[1:]
		m.holding = append(m.holding, i)
		m.outcome[i] = "ok"
	}
}

func (m *limitModel) leave(k int, why string) {
	m.outcome[m.queue[k]] = why
	m.queue = append(m.queue[:k:k], m.queue[k+1:]...)
}

func (m *limitModel) do(s step) {
	switch s.what {
	case "set":
		m.max, m.waitLimit, m.waitTimeout, m.failed = s.a, s.b, time.Duration(s.c)*time.Second, false
		m.admit()
	case "acquire":
		i := len(m.outcome)
		switch {
		case m.max <= 0 || len(m.queue) == 0 && len(m.holding) < m.max:
			m.outcome = append(m.outcome, "ok")
			m.holding = append(m.holding, i)
		case m.failed:
			m.outcome = append(m.outcome, "sick")
		case m.waitTimeout > 0 && len(m.queue) < m.waitLimit:
			m.outcome = append(m.outcome, "waits")
			m.queue = append(m.queue, i)
			m.until[i] = m.now + m.waitTimeout
		default:
			m.outcome = append(m.outcome, "busy")
		}
	case "release":
		if len(m.holding) > 0 {
			m.holding = m.holding[1:]
			m.admit()
		}
	case "cancel":
		if len(m.queue) > 0 {
			m.leave(s.a%len(m.queue), "cancelled")
		}
	case "fail":
		m.failed = true
		for len(m.queue) > 0 {
			m.leave(0, "sick")
		}
	case "wait":
		m.now += time.Duration(s.a) * time.Second
		for k := 0; k < len(m.queue); {
			if m.until[m.queue[k]] <= m.now {
				m.leave(k, "timed out")
			} else {
				k++
			}
		}
	}
}

// enqueue is Acquire as a loop does it, which waits for other things, too.
func enqueue(ctx context.Context, l *Limit) error {
	var w Waiter
	woken := make(chan error, 2)
	held, timeout, err := l.Enqueue(&w, func(err error) { woken <- err })
	if held || err != nil {
		if held && err != nil || timeout != 0 || len(woken) != 0 {
			panic(fmt.Sprint("Enqueue = ", held, timeout, err, ", woken ", len(woken)))
		}
		return err
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	left := error(nil)
	select {
	case err = <-woken:
		if l.Leave(&w) {
			panic("woken, and still in the queue")
		}
		return err
	case <-timer.C:
		left = ErrWaitTimeout
	case <-ctx.Done():
		left = ctx.Err()
	}
	if l.Leave(&w) {
		return left
	}
	err = <-woken
	if err == nil && left != ErrWaitTimeout {
		l.Release()
		return left
	}
	return err
}

// runLimit does the same to a Limit and to the model, and returns the first
// difference.
func runLimit(t *testing.T, steps []step) (difference string) {
	synctest.Test(t, func(t *testing.T) {
		var (
			l       Limit
			m       = limitModel{until: map[int]time.Duration{}}
			mu      sync.Mutex
			outcome []string
			cancels []context.CancelFunc
		)
		for n, s := range steps {
			switch s.what {
			case "set":
				l.Set(s.a, s.b, time.Duration(s.c)*time.Second)
			case "acquire":
				i := len(cancels)
				ctx, cancel := context.WithCancel(t.Context())
				cancels = append(cancels, cancel)
				outcome = append(outcome, "waits")
				acquire := l.Acquire
				if s.a%2 == 0 {
					acquire = func(ctx context.Context) error { return enqueue(ctx, &l) }
				}
				go func() {
					err := acquire(ctx)
					mu.Lock()
					defer mu.Unlock()
					switch err {
					case nil:
						outcome[i] = "ok"
					case ErrBusy:
						outcome[i] = "busy"
					case ErrWaitTimeout:
						outcome[i] = "timed out"
					case ErrSick:
						outcome[i] = "sick"
					default:
						outcome[i] = "cancelled"
					}
				}()
			case "release":
				if len(m.holding) > 0 {
					l.Release()
				}
			case "cancel":
				if len(m.queue) > 0 {
					cancels[m.queue[s.a%len(m.queue)]]()
				}
			case "fail":
				l.Fail()
			case "wait":
				time.Sleep(time.Duration(s.a) * time.Second)
			}
			m.do(s)
			synctest.Wait()
			mu.Lock()
			got, want := fmt.Sprint(outcome, l.Active(), l.Queued()), fmt.Sprint(m.outcome, len(m.holding), len(m.queue))
			mu.Unlock()
			if got != want && difference == "" {
				difference = fmt.Sprintf("after %v:\n got %s\nwant %s", steps[:n+1], got, want)
			}
		}
		for _, cancel := range cancels {
			cancel()
		}
	})
	return difference
}

func TestLimitBehavesLikeItsModel(t *testing.T) {
	t.Parallel()
	genStep := rapid.Custom(func(t *rapid.T) step {
		s := step{what: rapid.SampledFrom([]string{"acquire", "acquire", "acquire", "release", "release", "set", "cancel", "fail", "wait"}).Draw(t, "what")}
		s.a = rapid.IntRange(0, 3).Draw(t, "a")
		s.b = rapid.IntRange(0, 3).Draw(t, "b")
		s.c = rapid.IntRange(0, 3).Draw(t, "c")
		return s
	})
	rapid.Check(t, func(rt *rapid.T) {
		if d := runLimit(t, rapid.SliceOfN(genStep, 1, 40).Draw(rt, "steps")); d != "" {
			rt.Fatal(d)
		}
	})
}

// No slot is lost, none is given twice, whoever comes, goes, waits and changes
// the limit at the same time.
func TestLimitLosesNoSlot(t *testing.T) {
	t.Parallel()
	var (
		l         Limit
		held, max atomic.Int64
		all       sync.WaitGroup
		stop      = make(chan struct{})
	)
	const limit = 3
	l.Set(limit, 4, time.Millisecond)
	for i := range 8 {
		all.Go(func() {
			for j := range 2000 {
				ctx, cancel := context.WithCancel(context.Background())
				if (i+j)%5 == 0 {
					go cancel()
				}
				acquire := l.Acquire
				if j%2 == 0 {
					acquire = func(ctx context.Context) error { return enqueue(ctx, &l) }
				}
				if acquire(ctx) == nil {
					if n := held.Add(1); n > max.Load() {
						max.Store(n)
					}
					runtime.Gosched()
					held.Add(-1)
					l.Release()
				}
				cancel()
			}
		})
	}
	var changer sync.WaitGroup
	changer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			l.Set(1+i%limit, 4, time.Millisecond)
			if i%7 == 0 {
				l.Fail()
			}
			runtime.Gosched() // or one core is this goroutine's for 10 ms each time
		}
	})
	all.Wait()
	close(stop)
	changer.Wait()
	if l.Active() != 0 || l.Queued() != 0 {
		t.Errorf("at the end Active, Queued = %d, %d, want 0, 0", l.Active(), l.Queued())
	}
	if max.Load() > limit {
		t.Errorf("%d held at once, want at most %d", max.Load(), limit)
	}
	l.Set(limit, 0, 0)
	for range limit {
		if err := l.Acquire(t.Context()); err != nil {
			t.Errorf("a slot was lost: %v", err)
		}
	}
}

// The switch between a limit and none miscounts nobody.
func TestLimitSwitchedOnAndOffUnderLoad(t *testing.T) {
	t.Parallel()
	var (
		l   Limit
		all sync.WaitGroup
	)
	for range 4 {
		all.Go(func() {
			for range 5000 {
				if l.Acquire(context.Background()) == nil {
					l.Release()
				}
			}
		})
	}
	for i := range 2000 {
		l.Set(i%2, 10, time.Second)
	}
	l.Set(0, 0, 0)
	all.Wait()
	if l.Active() != 0 || l.Queued() != 0 {
		t.Errorf("at the end Active, Queued = %d, %d, want 0, 0", l.Active(), l.Queued())
	}
}

func BenchmarkLimit(b *testing.B) {
	for _, max := range []int{0, 1000} {
		b.Run(fmt.Sprintf("max=%d", max), func(b *testing.B) {
			var l Limit
			l.Set(max, 10, time.Second)
			b.ReportAllocs()
			for b.Loop() {
				if l.Acquire(context.Background()) != nil {
					b.Fatal("busy")
				}
				l.Release()
			}
		})
		b.Run(fmt.Sprintf("parallel/max=%d", max), func(b *testing.B) {
			var l Limit
			l.Set(max, 10, time.Second)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if l.Acquire(context.Background()) != nil {
						b.Error("busy")
					}
					l.Release()
				}
			})
		})
	}
}
