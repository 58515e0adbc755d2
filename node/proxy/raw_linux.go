package proxy

import (
	"io"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawConn returns the socket of a connection that may be read past package net,
// nil if there is none.
func rawConn(conn net.Conn) syscall.RawConn {
	switch c := conn.(type) {
	case *net.TCPConn:
		if raw, err := c.SyscallConn(); err == nil {
			return raw
		}
	case *net.UnixConn:
		if raw, err := c.SyscallConn(); err == nil {
			return raw
		}
	}
	return nil
}

// rawRead receives what is there. again says that nothing is yet.
func rawRead(fd uintptr, b []byte) (n int, again bool, err error) {
	for {
		r, _, errno := unix.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			if r == 0 {
				return 0, false, io.EOF
			}
			return int(r), false, nil
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return 0, true, nil
		}
		return 0, false, errno
	}
}

// hungUp tells if the other side has closed its end, or all of it, whatever is
// still unread before that.
func hungUp(raw syscall.RawConn) bool {
	return is(raw, unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR)
}

// failed tells if nothing can be sent any more.
func failed(raw syscall.RawConn) bool { return is(raw, unix.POLLHUP|unix.POLLERR) }

func is(raw syscall.RawConn, events int16) bool {
	if raw == nil {
		return false
	}
	var are int16
	err := raw.Control(func(fd uintptr) {
		fds := [1]unix.PollFd{{Fd: int32(fd), Events: events}}
		if n, err := unix.Poll(fds[:], 0); err == nil && n > 0 {
			are = fds[0].Revents
		}
	})
	return err == nil && are&events != 0
}

// setUserTimeout bounds how long the other side may leave bytes unacknowledged,
// or its window shut.
func setUserTimeout(raw syscall.RawConn, d time.Duration) bool {
	var failed error
	err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(max(d.Milliseconds(), 1)))
	})
	return err == nil && failed == nil
}
