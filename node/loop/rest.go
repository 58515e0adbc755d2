package loop

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// A rest is how a loop with little to do waits: in Go's poller, as other goroutines do. A
// wait in epoll_wait is cheaper where it is short. But it keeps a processor of Go's, whose
// monitor thread looks after that every 20 us at first, and takes it away after 10 ms: that
// cost 1 ms of CPU a request where one came each 50 ms.
//
// Go's poller has the loop's epoll only while the loop rests: else each event of a busy loop
// would wake it too. Meanwhile Exclusive sources are not exclusive: an event of one is told
// to all loops that rest.
type rest struct {
	epoll *os.File // a duplicate, nil: the loop does not rest
	raw   syscall.RawConn
	fetch func(fd uintptr) (done bool)
	n     int           // what fetch has got
	errno syscall.Errno // what it has failed with

	since time.Duration // begin of this period
	work  int           // turns and events in it
	calm  int           // periods before it with little to do, one after the other
}

// A loop rests after a period with at most restBegins turns and events a second, and no
// longer once there were more than restEnds in a period. To tell Go's poller of the epoll,
// the kernel looks at each source, for 0.1 to 0.6 us: so that this is rare, each
// restSources of them take a period more, and with more than restMost it does not rest.
const (
	restPeriod  = time.Second
	restBegins  = 500
	restEnds    = 1000
	restSources = 1000
	restMost    = 20 * restSources
)

// worked counts a turn with n events.
func (l *Loop) worked(n int) {
	r := &l.rest
	r.work += 1 + n
	if r.work > restEnds {
		r.end()
		r.calm = -1 // this period does not count, however long it is
	}
	period := l.now - r.since
	if period < restPeriod {
		return
	}
	r.calm++
	if float64(r.work) > restBegins*period.Seconds() {
		r.calm = 0
	}
	r.since, r.work = l.now, 0
	if n := len(l.slots) - len(l.free); r.calm > n/restSources && n <= restMost && r.epoll == nil {
		l.beginRest()
	}
}

// beginRest changes nothing if there are no descriptors left: the loop goes on without.
func (l *Loop) beginRest() {
	f, err := sysDuplicate(l.fd)
	if err != nil {
		return
	}
	raw, err := f.SyscallConn()
	if err != nil || f.SetReadDeadline(time.Time{}) != nil { // Go's poller did not take it
		f.Close()
		return
	}
	r := &l.rest
	r.epoll, r.raw = f, raw
	if r.fetch == nil {
		r.fetch = func(uintptr) bool {
			r.n, r.errno = sysWait(l.fd, &l.events, 0)
			return r.n > 0 || r.errno != 0
		}
	}
}

func (r *rest) end() {
	if r.epoll != nil {
		r.epoll.Close()
		r.epoll, r.raw = nil, nil
	}
}

// wait does what sysWait does. Its goroutine needs no thread of its own meanwhile: to have
// one would make two more wake up.
func (r *rest) wait(ms int) (n int, errno syscall.Errno) {
	var deadline time.Time
	if ms > 0 {
		deadline = time.Now().Add(time.Duration(ms) * time.Millisecond)
	}
	r.n, r.errno = 0, 0
	r.epoll.SetReadDeadline(deadline)
	runtime.UnlockOSThread()
	r.raw.Read(r.fetch) // its only error is the deadline's
	runtime.LockOSThread()
	return r.n, r.errno
}
