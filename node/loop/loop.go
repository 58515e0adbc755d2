package loop

import (
	"fmt"
	"math"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"
)

// Config is what a Loop may be given. The zero value works.
type Config struct {
	// Start is the zero of Now. Loops that exchange times need the same one.
	// Zero means the time of New.
	Start time.Time

	// Panic is called on the loop's thread when a Handler, an Expirer or a posted
	// function panics, with whose it was (nil: a posted function) and the stack.
	// The loop goes on with the next. Nil lets the process crash.
	Panic func(who, value any, stack []byte)

	// Faults is asked before each system call for tests to make it fail. See
	// Faults.
	Faults Faults
}

// batch is how many events one epoll_wait may return. HAProxy's and nginx's
// defaults are 200 and 512.
const batch = 256

// A Loop is one goroutine's epoll, timers and mailbox. It is made by New.
type Loop struct {
	config Config
	fd     int // of the epoll
	wake   int // an eventfd in it
	now    time.Duration
	rested time.Duration // when the scheduler was last given its turn

	slots      []*Source // by number, the first is for wake
	free       []int32   // slots
	generation int32     // of the last Add

	// What is under way, so that a turn goes on where a panic has cut it.
	events  [batch]event
	fetched int
	next    int      // the event to deliver next
	again   queue    // for the next turn
	repeat  queue    // of this turn
	posted  *post    // of this turn
	handler Handler  // called last
	expirer Expirer  // called last
	doing   activity // which of them is meant

	wheel  wheel
	pipes  pipes
	moved  bool // something went through a pipe in this turn
	zone   zone
	rest   rest
	ended  bool
	broken syscall.Errno // of epoll_wait

	_       [64]byte // what follows is written by other threads
	mail    atomic.Pointer[post]
	asleep  atomic.Bool // waits for events, or is on the way to
	stopped atomic.Bool
	guests  atomic.Int32 // other threads that may use fd or wake now
}

// An activity is what the loop calls: whom to blame for a panic.
type activity uint8

const (
	handling activity = iota
	taking
	expiring
)

// New returns a Loop that waits for Run, which must be called for its descriptors
// to be closed.
func New(c Config) (*Loop, error) {
	if c.Start.IsZero() {
		c.Start = time.Now()
	}
	l := &Loop{config: c, slots: make([]*Source, 1, batch)}
	l.again.init()
	l.repeat.init()
	var err error
	if l.fd, l.wake, err = sysNew(); err != nil {
		return nil, fmt.Errorf("loop: %w", err)
	}
	l.rest.since = l.Tick()
	return l, nil
}

// Run serves until Stop and returns when everything that Post has accepted was run. Call
// it once.
func (l *Loop) Run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.end()
	for l.turns() {
	}
	if l.broken != 0 {
		panic(fmt.Sprintf("loop: epoll_wait: %v", l.broken))
	}
}

// Stop makes Run return after the turn it is in.
func (l *Loop) Stop() {
	l.guests.Add(1)
	defer l.guests.Add(-1)
	l.stopped.Store(true)
	l.rouse()
}

// Now is when this turn began, since Config.Start. It is never zero.
func (l *Loop) Now() time.Duration { return l.now }

// Tick reads the clock, for handlers that take long, and returns the new Now.
func (l *Loop) Tick() time.Duration {
	l.now = max(time.Since(l.config.Start), l.now, 1)
	return l.now
}

// turns makes turns until the loop has ended, which is false, or something
// panicked. Then the next call goes on with what comes after that. So it takes one
// defer, and not one for each event.
func (l *Loop) turns() (again bool) {
	if l.config.Panic != nil {
		defer func() {
			if v := recover(); v != nil {
				again = true
				l.config.Panic(l.who(), v, debug.Stack())
			}
		}()
	}
	for {
		l.deliver()
		l.deliverAgain()
		l.collect()
		l.expire()
		if l.ended {
			return false
		}
		l.yield()
		l.wait()
	}
}

// slice is how long a loop runs without a turn of Go's scheduler. After 10 ms its
// monitor thread takes the processor away, in the middle of a wait above all, and then
// looks after it every 20 us for a while.
const slice = 6 * time.Millisecond

func (l *Loop) yield() {
	if l.now-l.rested >= slice {
		l.rested = l.now
		runtime.Gosched()
	}
}

func (l *Loop) who() any {
	switch l.doing {
	case handling:
		return l.handler
	case expiring:
		return l.expirer
	}
	return nil
}

// deliver hands out the events that were fetched.
func (l *Loop) deliver() {
	l.doing = handling
	for l.next < l.fetched {
		s := l.source(&l.events[l.next])
		l.next++
		if s == nil || s.pending == 0 {
			continue
		}
		e := s.pending
		s.pending = 0
		l.handler = s.handler
		s.handler.Ready(e)
	}
}

// deliverAgain gives their turn to those that asked for it in an earlier one.
func (l *Loop) deliverAgain() {
	l.doing = handling
	for s := l.repeat.pop(); s != nil; s = l.repeat.pop() {
		l.handler = s.handler
		s.handler.Ready(0)
	}
}

// expire calls the timers that are due.
func (l *Loop) expire() {
	l.doing = expiring
	for t := l.wheel.due(l.now); t != nil; t = l.wheel.due(l.now) {
		l.expirer = t.expirer
		t.expirer.Expired(t)
	}
}

// wait fetches events, and waits for some if there is nothing else to do.
func (l *Loop) wait() {
	if l.stopped.Load() {
		l.ended = true
		l.posted = l.takeLast()
		return
	}
	ms := 0
	if l.again.empty() && l.mail.Load() == nil {
		ms = l.pause()
	}
	if _, interrupted := l.fault(OpWait, -1, 0); interrupted != 0 {
		ms = 0
	}
	if ms != 0 {
		l.asleep.Store(true)
		if l.mail.Load() != nil || l.stopped.Load() {
			ms = 0
		}
	}
	before := l.now
	n, errno := l.fetch(ms)
	l.asleep.Store(false)
	if l.Tick()-before >= slice && ms != 0 {
		l.rested = l.now // others had their turn
	}
	l.worked(n)
	l.next, l.fetched = 0, n
	l.repeat.take(&l.again)
	if errno != 0 && errno != syscall.EINTR {
		l.ended, l.broken = true, errno
		l.takeLast()
	}
	for i := range l.events[:n] {
		if s := l.source(&l.events[i]); s != nil {
			s.pending |= Events(l.events[i].Events)
		}
	}
}

// fetch waits for events, for at most ms. Where bodies were moved through pipes, others have
// the processor first if they want it: who sends those bodies and who receives them does more
// in one go then, and the loop needs not sleep and be woken for each piece. (The CPU time of
// a body of 1 MiB was 1.3 times as much without, where all shared two cores.)
func (l *Loop) fetch(ms int) (n int, errno syscall.Errno) {
	moved := l.moved
	l.moved = false
	if ms != 0 && moved {
		if n, errno = sysWait(l.fd, &l.events, 0); n > 0 || errno != 0 {
			return n, errno
		}
		sysYield()
		if n, errno = sysWait(l.fd, &l.events, 0); n > 0 || errno != 0 {
			return n, errno
		}
	}
	if ms != 0 && l.rest.epoll != nil {
		return l.rest.wait(ms)
	}
	return sysWait(l.fd, &l.events, ms)
}

// pause returns for how many milliseconds to wait for events, negative without
// end.
func (l *Loop) pause() int {
	next, ok := l.wheel.next()
	if !ok {
		return -1
	}
	d := next - l.now
	if d <= 0 {
		return 0
	}
	return int(min((d+time.Millisecond-1)/time.Millisecond, math.MaxInt32))
}

// end closes what is the loop's own.
func (l *Loop) end() {
	l.takeLast()
	for l.guests.Load() > 0 {
		runtime.Gosched()
	}
	l.pipes.close()
	l.rest.end()
	sysClose(l.wake)
	sysClose(l.fd)
}
