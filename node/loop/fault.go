package loop

import "syscall"

// An Op is a kind of system call.
type Op uint8

const (
	OpRead Op = iota
	OpPeek
	OpWrite // Write and Writev
	OpAccept
	OpShutdown
	OpClose // whose errno is of no consequence
	OpWait  // epoll_wait, with the descriptor -1: its errno has it not wait
	OpAdd
	OpPipe  // with the descriptor -1
	OpFill  // the socket's descriptor
	OpDrain // the socket's descriptor
)

// Faults is asked before a system call that is about n bytes of fd (n is 0 for
// those that are about none). The call is made with at most limit bytes, or, if
// errno is not 0, not at all and fails with it; EINTR has it tried again, as the
// system's own does. What a read leaves in the socket for being cut is told of again in the
// next turn, as what had come behind it would be.
type Faults func(op Op, fd, n int) (limit int, errno syscall.Errno)

func (l *Loop) fault(op Op, fd, n int) (limit int, errno syscall.Errno) {
	limit = n
	if l.config.Faults != nil {
		limit, errno = l.injected(op, fd, n)
	}
	return
}

// injected is apart, so that fault is inlined.
//
//go:noinline
func (l *Loop) injected(op Op, fd, n int) (limit int, errno syscall.Errno) {
	return l.config.Faults(op, fd, n)
}

// retell has an event come for a connection as if what is in its socket had come now.
func (l *Loop) retell(fd int) {
	for slot, s := range l.slots {
		if s != nil && int(s.fd) == fd && s.interest == Edge {
			l.control(ctlMod, s, int32(slot))
		}
	}
}
