//go:build unix

package sockets

import (
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// duplicate is a descriptor of a listener's socket, closed on exec. (Its File would be
// set to block, for this process and for all others that have it.)
func duplicate(ln net.Listener) (fd int, err error) {
	raw, err := ln.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	if failed := raw.Control(func(old uintptr) { fd, err = duplicateFD(int(old)) }); failed != nil {
		return -1, failed
	}
	return fd, err
}

func duplicateFD(fd int) (int, error) {
	// Not below 3: those are of the standard streams, closed or not.
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	return fd, os.NewSyscallError("fcntl", err)
}

func closeFD(fd int) error { return os.NewSyscallError("close", unix.Close(fd)) }

// listenerOf makes a listener with a descriptor of its own.
func listenerOf(fd int) (net.Listener, error) {
	another, err := duplicateFD(fd)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(another), "")
	defer f.Close()
	return net.FileListener(f)
}
