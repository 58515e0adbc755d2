package loop

import (
	"io"
	"net/netip"
	"syscall"
)

// ErrAgain says that a call would have had to wait: an event will tell when it is
// worth trying again.
var ErrAgain error = syscall.EAGAIN

// The calls below make one system call each, again if a signal interrupts it. A
// failed one returns ErrAgain, io.EOF or a syscall.Errno, none of which allocates.

// Read receives what is there into b, which must not be empty. ErrAgain says that
// there is nothing yet, io.EOF that the other side sends no more. If b is not filled,
// nothing was left that is not told of by another event; but for the end of the stream
// (Hup), and for what is behind a Mark, where each read stops, or behind descriptors that
// came by a Unix socket, which keep waiting nobody but who sent them.
func (l *Loop) Read(fd int, b []byte) (n int, err error) {
	for {
		limit, errno := l.fault(OpRead, fd, len(b))
		if errno == 0 {
			n, errno = count(sysRead(fd, b[:limit]))
		}
		switch {
		case errno == syscall.EINTR:
			continue
		case errno != 0:
			return 0, errno
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		case n == limit && limit < len(b):
			l.retell(fd)
		}
		return n, nil
	}
}

// Peek tells what Read would return, without taking anything: nil if there are
// bytes, ErrAgain, io.EOF, or what is wrong with the connection.
func (l *Loop) Peek(fd int) error {
	for {
		_, errno := l.fault(OpPeek, fd, 1)
		n := 0
		if errno == 0 {
			n, errno = sysPeek(fd)
		}
		switch {
		case errno == syscall.EINTR:
			continue
		case errno != 0:
			return errno
		case n == 0:
			return io.EOF
		}
		return nil
	}
}

// Write is Writev of one piece.
func (l *Loop) Write(fd int, b []byte) (n int, err error) {
	return l.writev(fd, b, nil, nil, 0)
}

// Writev sends a, b and c, each of which may be empty, or their beginning. ErrAgain says
// that there is no room.
func (l *Loop) Writev(fd int, a, b, c []byte) (n int, err error) {
	return l.writev(fd, a, b, c, 0)
}

// WritevLast is Writev for the last bytes of a connection: those that do not fill a
// segment leave with the end of the stream, which takes no segment of its own then: by
// Shutdown, which has to follow at once. (Close loses them if there is something unread.)
func (l *Loop) WritevLast(fd int, a, b []byte) (n int, err error) {
	return l.writev(fd, a, b, nil, msgMore)
}

func (l *Loop) writev(fd int, a, b, c []byte, flags uintptr) (n int, err error) {
	for {
		total := len(a) + len(b) + len(c)
		limit, errno := l.fault(OpWrite, fd, total)
		if errno == 0 {
			if limit < total {
				a, b, c = cut(limit, a, b, c)
			}
			switch { // sendto(2) is cheaper than sendmsg(2), and one piece is usual
			case len(b)+len(c) == 0:
				n, errno = count(sysWrite(fd, a, flags))
			case len(a)+len(c) == 0:
				n, errno = count(sysWrite(fd, b, flags))
			default:
				n, errno = sysWritev(fd, a, b, c, flags)
			}
		}
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return 0, errno
		}
		return n, nil
	}
}

func count(r uintptr, errno syscall.Errno) (int, syscall.Errno) {
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

func cut(n int, a, b, c []byte) (_, _, _ []byte) {
	a = a[:min(n, len(a))]
	b = b[:min(n-len(a), len(b))]
	return a, b, c[:min(n-len(a)-len(b), len(c))]
}

// Shutdown says to the other side that nothing more will be sent.
func (l *Loop) Shutdown(fd int) error {
	_, errno := l.fault(OpShutdown, fd, 0)
	if errno == 0 {
		errno = sysShutdown(fd)
	}
	return orNil(errno)
}

// Accept takes a connection from a listener, and tells where it is from: the zero
// AddrPort for a Unix socket. The descriptor does not block, and is closed in child
// processes. ECONNABORTED is about that one connection, and EMFILE and ENFILE
// leave it in the listener.
func (l *Loop) Accept(fd int) (conn int, from netip.AddrPort, err error) {
	for {
		_, errno := l.fault(OpAccept, fd, 0)
		if errno == 0 {
			conn, from, errno = sysAccept(fd, &l.zone)
		}
		if errno == syscall.EINTR {
			continue
		}
		if errno != 0 {
			return -1, netip.AddrPort{}, errno
		}
		return conn, from, nil
	}
}

// DeferAccept has a listener keep a connection until its first bytes are here, for about a
// second at most; off, it no longer does. It is an error if that is no TCP.
func (l *Loop) DeferAccept(fd int, on bool) error { return orNil(sysDeferAccept(fd, on)) }

// CloseFD closes a descriptor that is in no loop.
func (l *Loop) CloseFD(fd int) {
	l.fault(OpClose, fd, 0)
	sysClose(fd)
}

// Sockname returns the socket's own address: zero for a Unix socket, or if it has
// none any more.
func (l *Loop) Sockname(fd int) netip.AddrPort { return sysSockname(fd, &l.zone) }

func orNil(errno syscall.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}
