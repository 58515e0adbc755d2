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
// system's own does.
type Faults func(op Op, fd, n int) (limit int, errno syscall.Errno)

func (l *Loop) fault(op Op, fd, n int) (limit int, errno syscall.Errno) {
	if l.config.Faults == nil {
		return n, 0
	}
	return l.config.Faults(op, fd, n)
}
