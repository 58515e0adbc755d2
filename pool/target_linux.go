package pool

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

const canConnect = true

// Connect makes a socket and begins to connect it to t. It does not wait: the connection
// is made, or not, when the socket may be written to, as Finish tells. After an error
// there is no socket. unix.EAGAIN means that the backlog of a Unix socket is full: Open
// waits for it.
func (t Target) Connect() (fd int, err error) {
	family, to := t.sockaddr()
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if family != unix.AF_UNIX {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = unix.Connect(fd, to)
	}
	// Interrupted, it goes on all the same.
	if err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Finish returns what came of Connect, once the socket may be written to.
func (t Target) Finish(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if code != 0 {
		return unix.Errno(code)
	}
	if t.path == "" && t.isSelf(fd) {
		return unix.ECONNREFUSED
	}
	return nil
}

// isSelf tells if the socket is connected to itself. If nobody listens on a port of this
// machine, the system may choose the same for the other end.
func (t Target) isSelf(fd int) bool {
	switch own, _ := unix.Getsockname(fd); own := own.(type) {
	case *unix.SockaddrInet4:
		return t.addr == netip.AddrPortFrom(netip.AddrFrom4(own.Addr), uint16(own.Port))
	case *unix.SockaddrInet6:
		return t.addr == netip.AddrPortFrom(netip.AddrFrom16(own.Addr), uint16(own.Port))
	}
	return false
}

func (t Target) sockaddr() (family int, to unix.Sockaddr) {
	switch ip := t.addr.Addr(); {
	case t.path != "":
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: t.path}
	case ip.Is4():
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(t.addr.Port()), Addr: ip.As4()}
	default:
		return unix.AF_INET6, &unix.SockaddrInet6{Port: int(t.addr.Port()), Addr: ip.As16()}
	}
}
