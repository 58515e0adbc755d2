package pool

import (
	"net"
	"os"
	"syscall"
	"testing"
)

// "Cannot assign requested address" is for want of ports, or for want of an address.
func TestNoWayToTheAddressIsNoWantOfPorts(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		udp  error
		want bool
	}{
		{nil, false},
		{os.NewSyscallError("connect", syscall.EADDRNOTAVAIL), true},
		{os.NewSyscallError("socket", syscall.EMFILE), false},
		{os.NewSyscallError("connect", syscall.ENETUNREACH), false},
	} {
		var asked string
		got := noWay("[::1]:80", func(network, address string) (net.Conn, error) {
			asked = network + " " + address
			c, _ := net.Pipe()
			return c, row.udp
		})
		if got != row.want || asked != "udp [::1]:80" {
			t.Errorf("UDP says %v: %v, asked for %s", row.udp, got, asked)
		}
	}
}

// A machine without any way to an address is not the one at fault: the backend cannot be
// used from here. One without ports or descriptors is.
func TestNoWayIsUnroutable(t *testing.T) {
	t.Parallel()
	for errno, want := range map[syscall.Errno]Kind{
		syscall.EAFNOSUPPORT:    Unroutable,
		syscall.EPROTONOSUPPORT: Unroutable,
		syscall.EADDRNOTAVAIL:   Local, // there is a way to 127.0.0.1
		syscall.EMFILE:          Local,
	} {
		if got := connectError("127.0.0.1:80", os.NewSyscallError("connect", errno)).Kind; got != want {
			t.Errorf("%v: %v, want %v", errno, got, want)
		}
	}
}
