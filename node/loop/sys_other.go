//go:build !linux

package loop

import (
	"errors"
	"net/netip"
	"os"
	"syscall"
)

// An event has the fields of Linux's that are used.
type event struct {
	Events  uint32
	Fd, Pad int32
}

const ctlAdd, ctlDel, ctlMod, msgMore = 0, 0, 0, 0

// There is no Loop but on Linux, so nothing of this is reached but sysNew.

func sysNew() (epoll, wake int, err error) { return -1, -1, errors.New("only on Linux") }

func sysWait(int, *[batch]event, int) (int, syscall.Errno)                 { return 0, syscall.ENOSYS }
func sysYield()                                                            {}
func sysDuplicate(int) (*os.File, error)                                   { return nil, errors.ErrUnsupported }
func sysControl(epoll, op, fd int, e *event) syscall.Errno                 { return syscall.ENOSYS }
func sysWake(int)                                                          {}
func sysClose(int)                                                         {}
func sysRead(int, []byte) (uintptr, syscall.Errno)                         { return 0, syscall.ENOSYS }
func sysPeek(int) (int, syscall.Errno)                                     { return 0, syscall.ENOSYS }
func sysWrite(int, []byte, uintptr) (uintptr, syscall.Errno)               { return 0, syscall.ENOSYS }
func sysWritev(fd int, a, b, c []byte, flags uintptr) (int, syscall.Errno) { return 0, syscall.ENOSYS }
func sysShutdown(int) syscall.Errno                                        { return syscall.ENOSYS }
func sysSplice(from, to, n int) (int, syscall.Errno)                       { return 0, syscall.ENOSYS }
func sysDeferAccept(int, bool) syscall.Errno                               { return syscall.ENOSYS }
func sysPaced(int) bool                                                    { return false }
func sysPipe(int) (r, w int, errno syscall.Errno)                          { return -1, -1, syscall.ENOSYS }
func sysLinger(int)                                                        {}
func sysSockname(int, *zone) netip.AddrPort                                { return netip.AddrPort{} }
func sysAccept(int, *zone) (int, netip.AddrPort, syscall.Errno) {
	return -1, netip.AddrPort{}, syscall.ENOSYS
}
