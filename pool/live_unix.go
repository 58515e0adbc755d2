//go:build unix

package pool

import (
	"io"

	"golang.org/x/sys/unix"
)

// readNow reads what is there of a socket, which does not block. Nothing is quiet{}.
func readNow(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, quiet{}
		case err != nil:
			return 0, err
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// duplicate returns another descriptor of the same socket.
func duplicate(fd uintptr) (int, error) { return unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }

// closedOrMore looks at an idle socket as alive does, and tells an end or an
// error from bytes.
func closedOrMore(fd int) (closed, more bool) {
	if fd < 0 {
		return false, false
	}
	var b [1]byte
	n, err := peek(fd, b[:])
	switch {
	case err == unix.EAGAIN, err == unix.EINTR:
		return false, false
	case err != nil, n == 0:
		return true, false
	}
	return false, true
}

// alive looks at an idle socket without waiting: nothing to read means alive. An
// end, an error, or bytes nobody asked for mean that it must not carry another
// request. fd is -1 if there is no socket (a pipe in tests).
//
// The caller owns the connection, or holds the lock under which it is idle, so
// the descriptor cannot be closed meanwhile.
func alive(fd int) bool {
	closed, more := closedOrMore(fd)
	return !closed && !more
}
