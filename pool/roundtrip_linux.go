package pool

import (
	"io"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A roundTrip is the state of one RoundTrip, kept from one to the next.
type roundTrip struct {
	step    func(fd uintptr) bool
	iov     [3]unix.Iovec
	parts   int
	total   int // bytes to send
	written int
	buf     []byte
	n       int
	sent    bool
	reused  bool // and not looked at yet
	err     error
}

// RoundTrip sends head and body, either of which may be empty, after the
// prologue, and reads the first bytes of the answer into buf. It is for requests
// that are sent as a whole. ArmRead and ArmWrite apply. The error of a failed
// write is returned only if there is no answer.
//
// If Get left it unchecked, and the backend closed the connection or sent
// something unasked, the error is ErrStale, and nothing was sent: the caller
// discards it and gets another, whatever the request is.
//
// It takes three system calls where Get's look, a write and a read take four, as
// package net reads once before the answer can be there. Here the runtime is told to
// watch for the answer first, then comes the look, then the request: what came
// before is seen by the look, and what comes later wakes the reader.
func (c *Conn) RoundTrip(head, body, buf []byte) (int, error) {
	if c.raw == nil || c.Conn != c.socket {
		if c.unchecked && !c.fit() {
			return 0, ErrStale
		}
		c.unchecked = false
		return c.writeAndRead(head, body, buf)
	}
	rt := c.trip
	if rt == nil {
		rt = new(roundTrip)
		rt.step = rt.do
		c.trip = rt
	}
	prologue := c.TakePrologue()
	rt.reused, c.unchecked = c.unchecked, false
	rt.parts, rt.total = 0, 0
	rt.add(prologue)
	rt.add(head)
	rt.add(body)
	rt.buf, rt.n, rt.written, rt.sent, rt.err = buf, 0, 0, false, nil
	err := c.raw.Read(rt.step)
	for err != nil && c.early(reading, err) {
		err = c.raw.Read(rt.step)
	}
	n, written, failed := rt.n, rt.written, rt.err
	rt.buf, rt.iov, rt.err = nil, [3]unix.Iovec{}, nil // the buffers are the caller's
	switch {
	case err != nil:
		return 0, err
	case failed != nil:
		return 0, failed
	case n > 0:
		return n, nil
	}
	// The socket's buffer took a part only. Now it is no longer cheap anyway.
	rest := skip(net.Buffers{prologue, head, body}, written)
	if _, err := c.WriteBuffers(&rest); err != nil {
		if isTimeout(err) {
			return 0, err
		}
		if n, _ := c.Read(buf); n > 0 {
			return n, nil
		}
		return 0, err
	}
	return c.Read(buf)
}

func (rt *roundTrip) add(b []byte) {
	if len(b) == 0 {
		return
	}
	rt.iov[rt.parts].Base = &b[0]
	rt.iov[rt.parts].SetLen(len(b))
	rt.parts++
	rt.total += len(b)
}

// do is called when the socket may be used: first to send, then whenever there
// may be something to read. It returns true when done.
func (rt *roundTrip) do(fd uintptr) bool {
	if !rt.sent {
		var b [1]byte
		_, err := peek(int(fd), b[:])
		quiet := err == unix.EAGAIN
		if !quiet && rt.reused {
			rt.err = ErrStale
			return true
		}
		n, errno := retry(unix.SYS_WRITEV, fd, unsafe.Pointer(&rt.iov[0]), rt.parts)
		switch {
		case errno == unix.EAGAIN:
			return true
		case errno != 0:
			// An answer that came before the connection broke is still there.
			if n, e := retry(unix.SYS_READ, fd, unsafe.Pointer(&rt.buf[0]), len(rt.buf)); e == 0 && n > 0 {
				rt.n = n
			} else {
				rt.err = errno
			}
			return true
		}
		rt.written = n
		rt.sent = n == rt.total
		if quiet || !rt.sent {
			return !rt.sent
		}
		// A backend that answers before it is asked: nothing may wake us again.
	}
	n, errno := retry(unix.SYS_READ, fd, unsafe.Pointer(&rt.buf[0]), len(rt.buf))
	switch {
	case errno == unix.EAGAIN:
		return false
	case errno != 0:
		rt.err = errno
	case n == 0:
		rt.err = io.EOF
	}
	rt.n = n
	return true
}

// retry makes a system call that does not block, again if a signal interrupts it.
func retry(trap, fd uintptr, p unsafe.Pointer, n int) (int, unix.Errno) {
	for {
		r, _, errno := unix.RawSyscall(trap, fd, uintptr(p), uintptr(n))
		switch errno {
		case 0:
			return int(r), 0
		case unix.EINTR:
			continue
		}
		return 0, errno
	}
}

// skip drops the first n bytes.
func skip(bufs net.Buffers, n int) net.Buffers {
	for len(bufs) > 0 && n >= len(bufs[0]) {
		n -= len(bufs[0])
		bufs = bufs[1:]
	}
	if len(bufs) > 0 {
		bufs[0] = bufs[0][n:]
	}
	return bufs
}
