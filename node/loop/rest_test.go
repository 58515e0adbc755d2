//go:build linux

package loop

import (
	"bytes"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An alarm says when it is due.
type alarm struct {
	Timer
	rang chan struct{}
}

func (a *alarm) Expired(*Timer) { close(a.rang) }

// hears fails unless l, which echoes what comes from c, hears of bytes, posts and timers.
func hears(t *testing.T, l *Loop, c net.Conn) {
	t.Helper()
	echoes(t, c, "hello")
	alarm := &alarm{rang: make(chan struct{})}
	do(t, l, func() { l.Arm(&alarm.Timer, l.Now()+Resolution, alarm) })
	<-alarm.rang
}

// waitsInGo says whether a loop's goroutine, and there is only one, is in Go's poller.
func waitsInGo() bool {
	stacks := make([]byte, 1<<20)
	for _, g := range bytes.Split(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		if bytes.Contains(g, []byte("(*Loop).Run")) {
			return bytes.Contains(g, []byte("[IO wait")) && bytes.Contains(g, []byte("(*rest).wait"))
		}
	}
	return false
}

// descriptors is how many the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

// A loop with little to do waits in Go's poller, and with much to do in epoll_wait; it hears
// of everything in both, and leaves no descriptor behind.
func TestRest(t *testing.T) { // not parallel: see waitsInGo
	var l *Loop
	t.Cleanup(func() { // after those of start
		if l.rest.epoll != nil {
			t.Error("a loop that has ended rests")
		}
	})
	l = start(t, Config{})
	rest := func() { do(t, l, func() { l.rest.since, l.rest.work, l.rest.calm = l.now-2*restPeriod, 0, 0 }) }
	work := func() { do(t, l, func() { l.rest.since, l.rest.work = l.now+time.Hour, restEnds }) } // a period without end
	work()
	c := echoing(t, l)
	hears(t, l, c)
	open := descriptors(t)
	for range 5 {
		rest()
		hears(t, l, c)
		for began := time.Now(); !waitsInGo(); runtime.Gosched() {
			if time.Since(began) > time.Minute {
				t.Fatal("a loop that has little to do does not rest")
			}
		}
		hears(t, l, c)
		if n := descriptors(t); n != open+1 {
			t.Fatalf("%d descriptors while it rests, %d before", n, open)
		}
		work()
		hears(t, l, c)
		for range 10 {
			if waitAsleep(l); waitsInGo() {
				t.Fatal("it rests though there is much to do")
			}
		}
		if n := descriptors(t); n != open {
			t.Fatalf("%d descriptors after its rest, %d before", n, open)
		}
	}
	rest()
	hears(t, l, c)
}

// With many sources it takes longer until a loop rests, which costs more then.
func TestRestOfMany(t *testing.T) {
	t.Parallel()
	l := start(t, Config{})
	do(t, l, func() {
		for range 2 * restSources {
			fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
			if err != nil {
				t.Error(err)
				return
			}
			s := new(Source)
			if err := l.Add(s, fd, nil, Level); err != nil {
				t.Error(err)
				return
			}
			defer l.Close(s)
		}
		for i, period := range []struct {
			length time.Duration
			work   int
			rests  bool
		}{
			{restPeriod, 0, false}, {restPeriod, 0, false}, {restPeriod, restEnds, false},
			{restPeriod, 0, false}, {restPeriod, 0, false}, {restPeriod, 0, true},
			{restPeriod, restBegins, true}, {restPeriod / 2, restEnds, false}, // much in a moment
			{10 * restPeriod, 0, false}, {restPeriod, 0, false}, {restPeriod, 0, false}, {restPeriod, 0, true},
		} {
			l.rest.since, l.rest.work = l.now-period.length, period.work
			if l.worked(0); (l.rest.epoll != nil) != period.rests {
				t.Errorf("it rests after period %d: %t, want %t", i+1, !period.rests, period.rests)
			}
		}
	})
}

// Posts, from other threads and while it begins and ends to rest all the time, are all heard.
func TestRestUnderPosts(t *testing.T) {
	t.Parallel()
	l := start(t, Config{})
	const posters, posts = 4, 2000
	var heard atomic.Int32
	done := make(chan struct{})
	for range posters {
		go func() {
			for i := range posts {
				l.Post(func() {
					switch i % 4 {
					case 0:
						l.rest.since, l.rest.work = l.now-2*restPeriod, 0
					case 2:
						l.rest.work = restEnds
					}
					if heard.Add(1) == posters*posts {
						close(done)
					}
				})
				if i%16 == 0 {
					waitAsleep(l)
				}
			}
		}()
	}
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%d posts of %d were heard in a minute", heard.Load(), posters*posts)
	}
}
