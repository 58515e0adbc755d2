package node

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listening sockets have TCP's keep-alive set, and accepted ones inherit it: package
// net sets it on each of them, with four system calls. The times are its own.
var listenConfig = net.ListenConfig{KeepAlive: -1, Control: keepAlive}

func keepAlive(network, _ string, raw syscall.RawConn) error {
	if network == "unix" {
		return nil
	}
	const idle, interval, count = 15, 15, 9 // seconds, and how often
	var failed error
	err := raw.Control(func(fd uintptr) {
		for _, o := range [...]struct{ level, name, value int }{
			{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
			{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
			{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval},
			{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count},
		} {
			if err := unix.SetsockoptInt(int(fd), o.level, o.name, o.value); err != nil && failed == nil {
				failed = err
			}
		}
	})
	if err != nil {
		return err
	}
	return failed
}
