package loop

import (
	"encoding/binary"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The system calls themselves. sysRead and sysWrite are small enough to be inlined: after a
// call of the kernel each return is to where the processor does not expect it. Memory that
// they are given is kept alive by its conversion to uintptr being in the call's own
// expression.

type event = unix.EpollEvent

const (
	ctlAdd = unix.EPOLL_CTL_ADD
	ctlDel = unix.EPOLL_CTL_DEL
	ctlMod = unix.EPOLL_CTL_MOD

	msgMore = unix.MSG_MORE
)

// sysNew returns an epoll and an eventfd in it, whose events have slot and
// generation 0. It is edge-triggered, so that nobody has to read it.
func sysNew() (epoll, wake int, err error) {
	epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return -1, -1, os.NewSyscallError("epoll_create1", err)
	}
	wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(epoll)
		return -1, -1, os.NewSyscallError("eventfd", err)
	}
	err = unix.EpollCtl(epoll, ctlAdd, wake, &event{Events: unix.EPOLLIN | unix.EPOLLET})
	if err != nil {
		unix.Close(epoll)
		unix.Close(wake)
		return -1, -1, os.NewSyscallError("epoll_ctl", err)
	}
	return epoll, wake, nil
}

// sysWait tells the scheduler of a call that may take long.
func sysWait(epoll int, events *[batch]event, ms int) (n int, errno syscall.Errno) {
	var r uintptr
	if ms == 0 {
		r, _, errno = syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(events)), batch, 0, 0, 0)
	} else {
		r, _, errno = syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(events)), batch, uintptr(ms), 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(r), 0
}

// sysYield tells the scheduler, too: it may take long.
func sysYield() { syscall.Syscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// sysDuplicate returns a file of the same epoll that Go's poller takes.
func sysDuplicate(epoll int) (*os.File, error) {
	fd, err := unix.FcntlInt(uintptr(epoll), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "epoll"), nil
}

func sysControl(epoll, op, fd int, e *event) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(e)), 0, 0)
	return errno
}

func sysWake(fd int) {
	one := uint64(1)
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&one)), unsafe.Sizeof(one))
}

// sysClose does not try again: Linux has closed the descriptor whatever it says.
func sysClose(fd int) { syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func sysRead(fd int, b []byte) (r uintptr, errno syscall.Errno) {
	r, _, errno = syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	return r, errno
}

func sysPeek(fd int) (int, syscall.Errno) {
	var b byte
	r, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	return count(r, errno)
}

func sysWrite(fd int, b []byte, flags uintptr) (r uintptr, errno syscall.Errno) {
	r, _, errno = syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL|flags, 0, 0)
	return r, errno
}

func sysWritev(fd int, a, b, c []byte, flags uintptr) (int, syscall.Errno) {
	var iov [3]unix.Iovec
	n := 0
	for _, b := range [...][]byte{a, b, c} {
		if len(b) > 0 {
			iov[n].Base = unsafe.SliceData(b)
			iov[n].SetLen(len(b))
			n++
		}
	}
	var m unix.Msghdr
	m.Iov = &iov[0]
	m.SetIovlen(n)
	r, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&m)), unix.MSG_NOSIGNAL|flags)
	return count(r, errno)
}

func sysShutdown(fd int) syscall.Errno {
	_, _, errno := syscall.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
	return errno
}

// sysSplice does not say that more will follow (SPLICE_F_MORE): the end of what a slow
// sender has sent so far would wait for it, for 200 ms.
func sysSplice(from, to, n int) (int, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return count(r, errno)
}

// sysPipe returns a pipe that holds size bytes, or as much as it may.
func sysPipe(size int) (r, w int, errno syscall.Errno) {
	var fds [2]int32
	_, _, errno = syscall.RawSyscall(unix.SYS_PIPE2, uintptr(unsafe.Pointer(&fds)), unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errno != 0 {
		return -1, -1, errno
	}
	syscall.RawSyscall(unix.SYS_FCNTL, uintptr(fds[0]), unix.F_SETPIPE_SZ, uintptr(size))
	return int(fds[0]), int(fds[1]), 0
}

func sysPaced(fd int) bool {
	var name [16]byte // TCP_CA_NAME_MAX
	size := uint32(len(name))
	_, _, errno := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0 && string(name[:3]) == "bbr"
}

// sysLinger has a close discard what was not sent, and reset the connection.
func sysLinger(fd int) {
	v := unix.Linger{Onoff: 1}
	syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_LINGER, uintptr(unsafe.Pointer(&v)), unsafe.Sizeof(v), 0)
}

func sysAccept(fd int, z *zone) (conn int, from netip.AddrPort, errno syscall.Errno) {
	var a unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(a))
	r, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, netip.AddrPort{}, errno
	}
	return int(r), addrPort(&a, z), 0
}

func sysDeferAccept(fd int, on bool) syscall.Errno {
	var seconds int32
	if on {
		seconds = 1
	}
	_, _, errno := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, uintptr(unsafe.Pointer(&seconds)), unsafe.Sizeof(seconds), 0)
	return errno
}

func sysSockname(fd int, z *zone) netip.AddrPort {
	var a unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(a))
	_, _, errno := syscall.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(fd), uintptr(unsafe.Pointer(&a)), uintptr(unsafe.Pointer(&size)))
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addrPort(&a, z)
}

func addrPort(a *unix.RawSockaddrAny, z *zone) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swapped(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		addr := netip.AddrFrom16(in.Addr).Unmap()
		if in.Scope_id != 0 {
			addr = addr.WithZone(z.of(in.Scope_id))
		}
		return netip.AddrPortFrom(addr, swapped(in.Port))
	}
	return netip.AddrPort{}
}

// swapped turns a port from the network's order.
func swapped(port uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], port)
	return binary.BigEndian.Uint16(b[:])
}
