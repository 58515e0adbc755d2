package loop

import (
	"fmt"
	"syscall"
)

// Events are what a descriptor is ready for, as epoll says it. Zero is the call
// that Again asked for.
type Events uint32

const (
	In   Events = 0x1           // something to read, or to accept
	Mark Events = 0x2           // urgent data (EPOLLPRI): a read stops before it and is short, whatever follows
	Out  Events = 0x4           // room to write, or a connection made
	Err  Events = 0x8           // a fault, which the next call or Failure tells
	Hup  Events = 0x2000 | Gone // the other side sends no more (EPOLLRDHUP or EPOLLHUP)
	Gone Events = 0x10          // nothing can be sent either (EPOLLHUP)
)

// An Interest is what a Source is to be told of.
type Interest uint32

const (
	// Edge is for connections: all events, each told once.
	Edge Interest = Interest(In|Mark|Out|0x2000) | 1<<31
	// Level is for listeners: told as long as there is something to accept.
	Level Interest = Interest(In)
	// Exclusive is for a listener that several loops watch: Level, but as a rule
	// only one of them is woken, besides those that rest for want of work.
	Exclusive Interest = Interest(In) | 1<<28
)

// A Handler is told when its Source is ready.
type Handler interface{ Ready(Events) }

// A Source is a descriptor in a loop. The zero value has none. It lies in its
// owner's struct, and must not be copied or its memory reused while it has one.
type Source struct {
	handler    Handler
	next, prev *Source // in a queue
	fd         int32
	slot       int32 // 0: no descriptor
	generation int32
	interest   Interest
	pending    Events
}

// FD returns the descriptor, -1 if there is none.
func (s *Source) FD() int {
	if s.slot == 0 {
		return -1
	}
	return int(s.fd)
}

// Pending tells if an event has come in this turn that will be delivered later in
// it.
func (s *Source) Pending() bool { return s.pending != 0 }

// Add puts fd, which must not block, into the loop. What it is ready for already
// is told in the next turn. On an error (ENOSPC, ENOMEM) it is the caller's still.
func (l *Loop) Add(s *Source, fd int, h Handler, interest Interest) error {
	if s.slot != 0 {
		panic(fmt.Sprintf("loop: descriptor %d is added to a source that has %d", fd, s.fd))
	}
	if _, err := l.fault(OpAdd, fd, 0); err != 0 {
		return err
	}
	slot := int32(len(l.slots))
	if n := len(l.free); n > 0 {
		slot = l.free[n-1]
	}
	l.generation++
	s.handler, s.fd, s.generation, s.interest = h, int32(fd), l.generation, interest
	if err := l.control(ctlAdd, s, slot); err != 0 {
		*s = Source{}
		return err
	}
	s.slot = slot
	if n := len(l.free); n > 0 {
		l.free = l.free[:n-1]
		l.slots[slot] = s
	} else {
		l.slots = append(l.slots, s)
	}
	return nil
}

// Pause takes a listener out of epoll until Resume. Others that wait for the same
// socket are woken instead.
func (l *Loop) Pause(s *Source) error {
	s.pending = 0
	return orNil(l.control(ctlDel, s, s.slot))
}

// Resume undoes Pause. What the descriptor is ready for is told in the next turn.
func (l *Loop) Resume(s *Source) error { return orNil(l.control(ctlAdd, s, s.slot)) }

// Again has the handler called with no events in the next turn, after all that are
// ready then. Asking twice has it called once.
func (l *Loop) Again(s *Source) {
	if s.next == nil && s.slot != 0 {
		l.again.push(s)
	}
}

// Release takes the descriptor out of the loop and returns it, -1 if there is
// none: it is the caller's now.
func (l *Loop) Release(s *Source) (fd int) {
	if s.slot == 0 {
		return -1
	}
	l.control(ctlDel, s, s.slot)
	return l.drop(s)
}

// Forget is Release for a descriptor that Steal took out of this loop. It is not
// the caller's.
func (l *Loop) Forget(s *Source) {
	if s.slot != 0 {
		l.drop(s)
	}
}

// Close closes the descriptor, if there is one.
func (l *Loop) Close(s *Source) {
	if s.slot != 0 {
		l.CloseFD(l.drop(s))
	}
}

// Reset is Close with an RST for the other side, and without what it was not sent
// yet.
func (l *Loop) Reset(s *Source) {
	if s.slot != 0 {
		fd := l.drop(s)
		sysLinger(fd)
		l.CloseFD(fd)
	}
}

// Steal takes fd out of the epoll of another loop, from any goroutine. An event
// may be on its way to its Source there, whose owner must Forget it on its own
// thread.
func Steal(from *Loop, fd int) error {
	from.guests.Add(1)
	defer from.guests.Add(-1)
	if from.mail.Load() == &closed {
		return nil // its epoll is closed, or about to be
	}
	return orNil(sysControl(from.fd, ctlDel, fd, nil))
}

func (l *Loop) drop(s *Source) (fd int) {
	fd = int(s.fd)
	l.slots[s.slot] = nil
	l.free = append(l.free, s.slot)
	if s.next != nil {
		unlink(s)
	}
	*s = Source{}
	return fd
}

func (l *Loop) control(op int, s *Source, slot int32) syscall.Errno {
	e := event{Events: uint32(s.interest), Fd: slot, Pad: s.generation}
	return sysControl(l.fd, op, int(s.fd), &e)
}

// source returns whom an event is for, nil if its descriptor was taken out.
func (l *Loop) source(e *event) *Source {
	if s := l.slots[e.Fd]; s != nil && s.generation == e.Pad {
		return s
	}
	return nil
}

// A queue is a ring of Sources, from which each can leave at any time.
type queue struct{ ring Source }

func (q *queue) init()       { q.ring.next, q.ring.prev = &q.ring, &q.ring }
func (q *queue) empty() bool { return q.ring.next == &q.ring }

func (q *queue) push(s *Source) {
	s.next, s.prev = &q.ring, q.ring.prev
	s.prev.next, q.ring.prev = s, s
}

func (q *queue) pop() *Source {
	s := q.ring.next
	if s == &q.ring {
		return nil
	}
	unlink(s)
	return s
}

// take moves all that is in from to the end of q.
func (q *queue) take(from *queue) {
	if from.empty() {
		return
	}
	first, last := from.ring.next, from.ring.prev
	first.prev, last.next = q.ring.prev, &q.ring
	first.prev.next, q.ring.prev = first, last
	from.init()
}

func unlink(s *Source) {
	s.prev.next, s.next.prev = s.next, s.prev
	s.next, s.prev = nil, nil
}
