//go:build unix && !linux

package pool

import "golang.org/x/sys/unix"

func peek(fd int, b []byte) (int, error) {
	n, _, err := unix.Recvfrom(fd, b, unix.MSG_PEEK|unix.MSG_DONTWAIT)
	return n, err
}
