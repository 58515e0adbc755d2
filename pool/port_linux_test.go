package pool

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// One local port serves connections to any number of backends. Here the system
// has one port only to choose from: it would not do if dialling bound it.
func TestLocalPortsAreSharedByDestinations(t *testing.T) {
	t.Parallel()
	var origins []netip.AddrPort
	for range 3 {
		origins = append(origins, netip.MustParseAddrPort(listen(t, "tcp", "127.0.0.1:0").Addr().String()))
	}
	for range 10 { // others may take the port meanwhile
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := ln.Addr().(*net.TCPAddr).Port
		ln.Close()
		d := dialer
		d.Control = func(_, _ string, raw syscall.RawConn) (failed error) {
			err := raw.Control(func(fd uintptr) {
				failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port)
			})
			return errors.Join(err, failed)
		}
		connected := 0
		for _, o := range origins {
			conn, err := dialTCP(t.Context(), &d, o)
			if errors.Is(err, unix.ENOPROTOOPT) {
				lack(t, "Linux before 6.3: %v", err)
			}
			if err != nil {
				t.Log(err)
				continue
			}
			defer conn.Close()
			if got := conn.LocalAddr().(*net.TCPAddr).Port; got != port {
				t.Fatalf("local port %d, want %d", got, port)
			}
			connected++
		}
		switch connected {
		case 0:
			continue
		case len(origins):
			return
		}
		t.Fatalf("%d of %d origins reached from one local port", connected, len(origins))
	}
	t.Fatal("no port was free")
}
