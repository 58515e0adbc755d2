//go:build unix

package backlog

import (
	"os"

	"golang.org/x/sys/unix"
)

// duplicate returns a file by another descriptor, whose number is none of the standard
// streams'.
func duplicate(f *os.File) (*owned, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	if failed := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3) }); failed != nil {
		err = failed
	}
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return &owned{os.NewFile(uintptr(fd), f.Name())}, nil
}
