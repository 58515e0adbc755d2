//go:build linux

package loop

import (
	"errors"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A recorder notes what its source is told.
type recorder struct {
	Source
	l      *Loop
	events Events
	again  int
	then   func(Events) // after that
	panics bool
}

func (r *recorder) Ready(e Events) {
	r.events |= e
	if e == 0 {
		r.again++
	}
	if r.then != nil {
		r.then(e)
	}
	if r.panics {
		r.panics = e != 0 // once each
		if e != 0 {
			panic("event")
		}
		panic("again")
	}
}

// pair returns two connected sockets, the second of which is closed with the test.
func pair(t testing.TB) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func send(t testing.TB, fd int, s string) {
	t.Helper()
	if n, err := unix.Write(fd, []byte(s)); err != nil || n != len(s) {
		t.Fatalf("write: %d, %v", n, err)
	}
}

// add adds a recorder's source. It is for the loop's thread.
func add(t testing.TB, l *Loop, r *recorder, fd int) {
	if err := l.Add(&r.Source, fd, r, Edge); err != nil {
		t.Error(err)
	}
}

// A hand-driven loop makes a turn when the test says so, on the test's goroutine.
func byHand(t testing.TB, c Config) *Loop {
	t.Helper()
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.end)
	return l
}

// turn fetches events without waiting, and delivers all.
func turn(l *Loop) {
	l.Post(func() {}) // something to do
	l.wait()
	l.deliver()
	l.deliverAgain()
	l.collect()
	l.expire()
}

func TestEvents(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	a, b := pair(t)
	r := &recorder{l: l}
	add(t, l, r, a)
	step := func(what string, want Events) {
		t.Helper()
		r.events = 0
		turn(l)
		if r.events != want {
			t.Errorf("%s: told %#x, want %#x", what, r.events, want)
		}
	}
	step("added", Out)
	step("nothing new", 0)
	send(t, b, "x")
	step("bytes", In|Out)
	step("told once", 0)
	if err := unix.Shutdown(b, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	step("half closed", In|Out|Hup&^Gone)
	l.Shutdown(r.FD())
	turn(l)
	if r.events&Gone == 0 {
		t.Errorf("closed both ways: told %#x, want Gone among it", r.events)
	}
	l.Close(&r.Source)
	if r.FD() != -1 || r.Pending() {
		t.Errorf("a closed source has descriptor %d, pending %v", r.FD(), r.Pending())
	}
}

// An event that was fetched for a descriptor is not told to the next one with its
// number, nor to the same Source with another descriptor.
func TestEventsOfClosedDescriptor(t *testing.T) {
	t.Parallel()
	for _, reuse := range []bool{false, true} {
		l := byHand(t, Config{})
		var rs [2]*recorder
		next := &recorder{l: l}
		calls := 0
		for i := range rs {
			a, b := pair(t)
			send(t, b, "x")
			rs[i] = &recorder{l: l}
			add(t, l, rs[i], a)
		}
		for i := range rs {
			rs[i].then = func(Events) {
				if calls++; calls > 1 {
					return
				}
				other := rs[1-i]
				if !other.Pending() {
					t.Error("an event that was not delivered yet is not pending")
				}
				slot := other.slot
				c, _ := pair(t)
				fd := other.FD()
				if reuse {
					l.Close(&other.Source)
					next = other
				} else if got := l.Release(&other.Source); got != fd {
					t.Errorf("released %d, want %d", got, fd)
				} else {
					unix.Close(fd)
				}
				if err := unix.Dup3(c, fd, unix.O_CLOEXEC); err != nil {
					t.Fatal(err)
				}
				unix.Close(c)
				next.then = nil
				add(t, l, next, fd)
				if next.slot != slot {
					t.Errorf("the new descriptor has slot %d, want the old one's, %d", next.slot, slot)
				}
			}
		}
		turn(l)
		if calls != 1 {
			t.Errorf("%d handlers were called, want 1", calls)
		}
		if next.events != 0 || next.again > 0 {
			t.Errorf("the new descriptor was told %#x, and called %d times without an event", next.events, next.again)
		}
		turn(l)
		if next.events != Out {
			t.Errorf("the new descriptor was told %#x, want Out", next.events)
		}
		for _, r := range append(rs[:], next) {
			l.Close(&r.Source)
		}
	}
}

// A descriptor that is closed here, and open elsewhere still, goes on having
// events. They are not for the next Source in its slot.
func TestEventsOfDescriptorOpenElsewhere(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	a, b := pair(t)
	elsewhere := dup(t, a)
	defer unix.Close(elsewhere)
	old, next := &recorder{l: l}, &recorder{l: l}
	add(t, l, old, a)
	slot := old.slot
	l.Close(&old.Source)
	c, _ := pair(t)
	add(t, l, next, c)
	if next.slot != slot {
		t.Fatalf("the new source has slot %d, want the old one's, %d", next.slot, slot)
	}
	turn(l)
	send(t, b, "x")
	turn(l)
	if next.events != Out || old.events != 0 {
		t.Errorf("the new source was told %#x, want Out, the old one %#x", next.events, old.events)
	}
	l.Close(&next.Source)
}

func TestCloseOnce(t *testing.T) {
	t.Parallel()
	var closed []int
	l := byHand(t, Config{Faults: func(op Op, fd, n int) (int, syscall.Errno) {
		if op == OpClose {
			closed = append(closed, fd)
		}
		return n, 0
	}})
	a, _ := pair(t)
	var r recorder
	l.Close(&r.Source)
	l.Reset(&r.Source)
	l.Forget(&r.Source)
	if fd := l.Release(&r.Source); fd != -1 {
		t.Errorf("Release of nothing returned %d, want -1", fd)
	}
	add(t, l, &r, a)
	l.Again(&r.Source)
	l.Close(&r.Source)
	l.Close(&r.Source)
	l.Reset(&r.Source)
	l.Again(&r.Source)
	if !slices.Equal(closed, []int{a}) {
		t.Errorf("closed %v, want %v", closed, []int{a})
	}
	turn(l)
	if r.again != 0 {
		t.Error("a closed source was called")
	}
}

func TestReset(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	fd, address := listen(t)
	defer unix.Close(fd)
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	accepted, _, err := l.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	var r recorder
	add(t, l, &r, accepted)
	l.Reset(&r.Source)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the other side got %v, want ECONNRESET", err)
	}
}

// A thousand sockets that are ready are all told in a few turns, beside one that
// always wants more.
func TestFairness(t *testing.T) {
	t.Parallel()
	const sockets = 1000
	l := byHand(t, Config{})
	greedy := &recorder{l: l}
	a, _ := pair(t)
	add(t, l, greedy, a)
	greedy.then = func(Events) {
		l.Again(&greedy.Source)
		l.Again(&greedy.Source)
	}
	var rs []*recorder
	for range sockets {
		fd, peer := pair(t)
		r := &recorder{l: l}
		add(t, l, r, fd)
		send(t, peer, "x")
		rs = append(rs, r)
	}
	const turns = (sockets+1)/batch + 1
	for range turns {
		turn(l)
	}
	for _, r := range rs {
		if r.events&In == 0 {
			t.Fatalf("a ready socket was not told in %d turns", turns)
		}
		l.Close(&r.Source)
	}
	if greedy.again != turns-1 { // the first told it of an event
		t.Errorf("Again was honoured %d times in %d turns, want %d", greedy.again, turns, turns-1)
	}
	l.Close(&greedy.Source)
}

// A connection that another loop takes brings its unread bytes, and the loop it
// was taken from tells it nothing more.
func TestSteal(t *testing.T) {
	t.Parallel()
	from, to := byHand(t, Config{}), byHand(t, Config{})
	a, b := pair(t)
	old, taken := &recorder{l: from}, &recorder{l: to}
	add(t, from, old, a)
	turn(from)
	send(t, b, "x")
	if err := Steal(from, a); err != nil {
		t.Fatal(err)
	}
	old.events = 0
	add(t, to, taken, a)
	turn(from)
	turn(to)
	if old.events != 0 || taken.events != In|Out {
		t.Errorf("the old loop told %#x, the new one %#x", old.events, taken.events)
	}
	from.Forget(&old.Source)
	if old.FD() != -1 {
		t.Error("a forgotten source has a descriptor")
	}
	if err := Steal(from, a); err != syscall.ENOENT {
		t.Errorf("stolen twice: %v, want ENOENT", err)
	}
	to.Close(&taken.Source)
}

func TestListenerPauses(t *testing.T) {
	t.Parallel()
	for _, interest := range []Interest{Level, Exclusive} {
		l := byHand(t, Config{})
		fd, address := listen(t)
		r := &recorder{l: l}
		if err := l.Add(&r.Source, fd, r, interest); err != nil {
			t.Fatal(err)
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		step := func(what string, want Events) {
			t.Helper()
			r.events = 0
			turn(l)
			if r.events != want {
				t.Errorf("%s: told %#x, want %#x", what, r.events, want)
			}
		}
		step("ready", In)
		step("still ready", In)
		if err := l.Pause(&r.Source); err != nil {
			t.Fatal(err)
		}
		step("paused", 0)
		if err := l.Resume(&r.Source); err != nil {
			t.Fatal(err)
		}
		step("resumed", In)
		conn, _, err := l.Accept(fd)
		if err != nil {
			t.Fatal(err)
		}
		step("accepted", 0)
		unix.Close(conn)
		c.Close()
		l.Close(&r.Source)
	}
}

// A listener that is paused is not told what was fetched before that.
func TestPauseWithPendingEvent(t *testing.T) {
	t.Parallel()
	l := byHand(t, Config{})
	var rs [2]*recorder
	calls := 0
	for i := range rs {
		a, b := pair(t)
		send(t, b, "x")
		rs[i] = &recorder{l: l, then: func(Events) {
			calls++
			if err := l.Pause(&rs[1-i].Source); err != nil {
				t.Error(err)
			}
		}}
		if err := l.Add(&rs[i].Source, a, rs[i], Level); err != nil {
			t.Fatal(err)
		}
	}
	turn(l)
	if calls != 1 {
		t.Errorf("%d handlers were called, want 1", calls)
	}
	for _, r := range rs {
		l.Close(&r.Source)
	}
}

func TestAddFails(t *testing.T) {
	t.Parallel()
	refuse := true
	l := byHand(t, Config{Faults: func(op Op, fd, n int) (int, syscall.Errno) {
		if op == OpAdd && refuse {
			return n, syscall.ENOSPC
		}
		return n, 0
	}})
	a, b := pair(t)
	defer unix.Close(a)
	r := &recorder{l: l}
	if err := l.Add(&r.Source, a, r, Edge); err != syscall.ENOSPC {
		t.Errorf("got %v, want ENOSPC", err)
	}
	refuse = false
	if err := l.Add(&r.Source, -1, r, Edge); err != syscall.EBADF {
		t.Errorf("got %v, want EBADF", err)
	}
	if r.FD() != -1 {
		t.Error("a descriptor that was refused is in the source")
	}
	send(t, b, "x")
	turn(l)
	if r.events != 0 {
		t.Error("a descriptor that was refused is watched")
	}
}

// A turn allocates nothing.
func TestNoAllocation(t *testing.T) {
	l := byHand(t, Config{Panic: func(_, v any, _ []byte) { panic(v) }})
	a, b := pair(t)
	r := &recorder{l: l}
	add(t, l, r, a)
	var timer Timer
	buf := make([]byte, 16)
	r.then = func(Events) {
		l.Arm(&timer, l.Now()+1, nil)
		l.Disarm(&timer)
		l.Again(&r.Source)
		l.Peek(a)
		for {
			if _, err := l.Read(a, buf); err == ErrAgain {
				break
			} else if err != nil {
				panic(err)
			}
		}
		l.Writev(a, buf, nil, buf)
	}
	allocs := testing.AllocsPerRun(1000, func() {
		l.Write(b, buf)
		l.wait()
		l.deliver()
		l.deliverAgain()
		l.collect()
		l.expire()
		for {
			if _, err := l.Read(b, buf); err == ErrAgain || err == io.EOF {
				break
			}
		}
	})
	if allocs != 0 {
		t.Errorf("a turn allocates %v times", allocs)
	}
	l.Unlink(&timer)
	l.Close(&r.Source)
}
