//go:build unix

package accesslog

import (
	"os"

	"golang.org/x/sys/unix"
)

// stdout is the standard output by another descriptor: when nobody reads a pipe any
// more, writing to it is an error, where writing to descriptor 1 would end the
// process (package os/signal, SIGPIPE).
func stdout() (*os.File, error) {
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, os.NewSyscallError("standard output", err)
	}
	return os.NewFile(uintptr(fd), "standard output"), nil
}
