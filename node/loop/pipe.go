package loop

import (
	"io"
	"syscall"
)

const (
	// pipeSize is what a pipe may hold: four times what it does by default, so
	// that a body is moved with fewer calls.
	pipeSize = 256 << 10
	// pipesKept bounds the descriptors that a loop keeps for bodies to come.
	pipesKept = 64
)

// A Pipe is what a body goes through from socket to socket within the kernel.
type Pipe struct {
	r, w int
	held int
	next *Pipe
}

// Held returns how many bytes are in the pipe.
func (p *Pipe) Held() int { return p.held }

// pipes are those that are empty and not in use.
type pipes struct {
	first *Pipe
	count int
}

// Pipe returns an empty pipe, for one connection until PutPipe.
func (l *Loop) Pipe() (*Pipe, error) {
	if p := l.pipes.first; p != nil {
		l.pipes.first, p.next = p.next, nil
		l.pipes.count--
		return p, nil
	}
	_, errno := l.fault(OpPipe, -1, 0)
	p := new(Pipe)
	if errno == 0 {
		p.r, p.w, errno = sysPipe(pipeSize)
	}
	if errno != 0 {
		return nil, errno
	}
	return p, nil
}

// Paced tells if what is sent to a socket is spread over time by its congestion control,
// as BBR does, and else leaves as soon as it may.
func (l *Loop) Paced(fd int) bool { return sysPaced(fd) }

// PutPipe ends the use of p. What is in it is lost.
func (l *Loop) PutPipe(p *Pipe) {
	if p.held > 0 || l.pipes.count >= pipesKept {
		p.close()
		return
	}
	p.next, l.pipes.first = l.pipes.first, p
	l.pipes.count++
}

// Fill moves at most n bytes from a socket into p. ErrAgain of an empty pipe says
// that there are none yet; of one that is not it may also be full. io.EOF says
// that there will be none.
func (l *Loop) Fill(p *Pipe, from, n int) (moved int, err error) {
	moved, errno := l.splice(OpFill, from, from, p.w, n)
	if errno != 0 {
		return 0, errno
	}
	if moved == 0 && n > 0 {
		return 0, io.EOF
	}
	p.held += moved
	return moved, nil
}

// Drain moves what is in p to a socket, or some of it. ErrAgain says that there is
// no room.
func (l *Loop) Drain(p *Pipe, to int) (moved int, err error) {
	if p.held == 0 {
		return 0, nil
	}
	moved, errno := l.splice(OpDrain, to, p.r, to, p.held)
	if errno != 0 {
		return 0, errno
	}
	p.held -= moved
	return moved, nil
}

func (l *Loop) splice(op Op, socket, from, to, n int) (moved int, errno syscall.Errno) {
	for {
		limit, errno := l.fault(op, socket, n)
		if errno == 0 {
			moved, errno = sysSplice(from, to, limit)
		}
		if errno != syscall.EINTR {
			l.moved = l.moved || moved > 0
			return moved, errno
		}
	}
}

func (p *Pipe) close() {
	sysClose(p.r)
	sysClose(p.w)
}

func (ps *pipes) close() {
	for p := ps.first; p != nil; p = p.next {
		p.close()
	}
	*ps = pipes{}
}
