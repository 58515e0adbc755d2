package proxy

import (
	"errors"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"roster/node/loop"
)

// watched is a socket that loops accept from. The last to leave closes it.
type watched struct {
	Socket
	fd   int
	ears atomic.Int32
}

func (s *watched) leave() {
	if s.ears.Add(-1) == 0 {
		s.Close()
	}
}

// ear is where a worker listens.
type ear struct {
	w      *worker
	l      *listener
	socket *watched
	source loop.Source
	timer  loop.Timer
	pause  time.Duration // after an error, the next one
	rounds int           // while draining: looks at the queue
	came   bool          // somebody since the last look
	full   bool          // waits for one of the listener's connections to end
	crowd  crowd
}

// listen begins to accept from a socket, which shared says other loops do as well.
func (w *worker) listen(l *listener, s *watched, shared bool) error {
	e := &ear{w: w, l: l, socket: s}
	// A process that had the socket before may have been killed in a crowd.
	e.crowd.never = w.loop.DeferAccept(s.fd, false) != nil || shared
	interest := loop.Level
	if shared {
		interest = loop.Exclusive
	}
	if err := w.loop.Add(&e.source, s.fd, e, interest); err != nil {
		s.leave()
		l.parts.Done()
		return err
	}
	w.ears = append(w.ears, e)
	switch {
	case l.isAborted():
		e.close()
	case w.p.isDrained():
		e.drain()
	}
	return nil
}

// acceptBatch is how many connections are accepted before others have their turn.
const acceptBatch = 64

// Ready is called when there are connections to accept.
func (e *ear) Ready(loop.Events) {
	for range acceptBatch {
		if !e.l.takeSlot() {
			e.awaitSlot()
			return
		}
		fd, remote, err := e.w.loop.Accept(e.source.FD())
		if err != nil {
			e.l.freeSlot()
			e.failed(err)
			return
		}
		e.pause, e.came = 0, true
		e.count()
		e.w.open(e.l, fd, remote)
	}
}

// awaitSlot waits for one of the listener's connections to end.
func (e *ear) awaitSlot() {
	e.full = true
	e.l.noteFull()
	e.w.loop.Pause(&e.source)
	e.l.waiting.Add(1)
	if len(e.l.slots) < cap(e.l.slots) { // before waiting could be seen
		e.l.wakeEars()
	}
}

// resume accepts again.
func (e *ear) resume() {
	e.full = false
	if e.source.FD() >= 0 {
		e.w.loop.Resume(&e.source)
	}
}

func (e *ear) failed(err error) {
	if err == loop.ErrAgain {
		return
	}
	switch {
	case errors.Is(err, syscall.ECONNABORTED), errors.Is(err, syscall.EPROTO), errors.Is(err, syscall.ENETDOWN), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return // of one connection, accept(2)
	}
	// No descriptors, mostly: the queue keeps the clients until some end.
	e.pause = min(max(2*e.pause, 5*time.Millisecond), time.Second)
	e.w.p.config.Logger.Error("accept", "listener", e.l.name, "error", err, "pause", e.pause)
	e.w.loop.Pause(&e.source)
	e.w.loop.Arm(&e.timer, e.w.loop.Now()+e.pause, e)
}

// drain ends the ear once the queue was empty for queueTime, after queueRounds in any
// case.
func (e *ear) drain() {
	e.rounds = 1
	e.came = false
	if e.crowd.here {
		e.keep(false)
	}
	e.resume()
	e.Ready(loop.In)
	if e.source.FD() >= 0 {
		e.w.loop.Arm(&e.timer, e.w.loop.Now()+queueTime, e)
	}
}

// Expired ends a pause, or a look at the queue or the crowd.
func (e *ear) Expired(t *loop.Timer) {
	if t == &e.crowd.timer {
		e.keep(e.crowd.came >= crowdSize)
		return
	}
	if e.rounds == 0 {
		e.resume()
		return
	}
	if e.full { // whoever is in the queue gets a turn
		e.came = true
	} else {
		e.Ready(loop.In)
		e.rounds++
	}
	if (!e.came || e.rounds > queueRounds) && e.w.loop.Now() >= e.crowd.until {
		e.close()
		return
	}
	e.came = false
	e.w.loop.Arm(&e.timer, e.w.loop.Now()+queueTime, e)
}

// close ends the ear.
func (e *ear) close() {
	if e.source.FD() < 0 {
		return
	}
	if e.crowd.here {
		e.keep(false) // another process may have the socket, too
	}
	e.w.loop.Release(&e.source)
	e.w.loop.Unlink(&e.timer)
	e.socket.leave()
	e.w.ears = slices.DeleteFunc(e.w.ears, func(other *ear) bool { return other == e })
	e.l.parts.Done()
}

// crowd is what an ear knows of a crowd: many connections that come at a time. Meanwhile
// the system keeps each until its first bytes are here (TCP_DEFER_ACCEPT), so that the loop
// wakes once for both, and not to find that nothing is asked yet. Without a crowd a
// connection is accepted as it is made: also one that is silent counts, and has its times.
type crowd struct {
	here  bool // connections are kept
	never bool // the socket is other ears' too, or is no TCP
	came  int  // connections since
	since time.Duration
	until time.Duration // connections that were kept may be silent still
	timer loop.Timer
}

const (
	crowdSize = 100 // within crowdTime
	crowdTime = 100 * time.Millisecond
	// keptTime is how long a silent connection may be kept: the system asks its client for
	// a sign after a second, by a timer that may be late by some 80 ms.
	keptTime = 1250 * time.Millisecond
)

// count notes a connection that has come.
func (e *ear) count() {
	c := &e.crowd
	if now := e.w.loop.Now(); !c.here && now-c.since > crowdTime {
		c.came, c.since = 0, now
	}
	if c.came++; c.came == crowdSize && !c.here && !c.never && e.rounds == 0 {
		e.keep(true)
	}
}

// keep has connections kept until their first bytes are here, until the next look at the
// crowd, or no longer.
func (e *ear) keep(on bool) {
	c := &e.crowd
	now := e.w.loop.Now()
	if e.w.loop.DeferAccept(e.source.FD(), on) != nil {
		c.here, c.never = false, true
		return
	}
	c.here, c.came, c.since = on, 0, now
	if on {
		e.w.loop.Arm(&c.timer, now+crowdTime, e)
	} else {
		e.w.loop.Unlink(&c.timer)
		c.until = now + keptTime
	}
}
