//go:build unix

package pool

import (
	"golang.org/x/sys/unix"
)

// alive looks at an idle socket without waiting: nothing to read means alive. An
// end, an error, or bytes nobody asked for mean that it must not carry another
// request. fd is -1 if there is no socket (a pipe in tests).
//
// The caller owns the connection, or holds the lock under which it is idle, so
// the descriptor cannot be closed meanwhile.
func alive(fd int) bool {
	if fd < 0 {
		return true
	}
	var b [1]byte
	_, err := peek(fd, b[:])
	return err == unix.EAGAIN || err == unix.EINTR
}
