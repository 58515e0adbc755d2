package pool

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// peek is recv(MSG_PEEK|MSG_DONTWAIT), entered without telling the scheduler: it
// never blocks and takes a fraction of a microsecond.
func peek(fd int, b []byte) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)),
		unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
