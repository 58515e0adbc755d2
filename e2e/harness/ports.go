package harness

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// ports that were given out, so that parallel tests never get the same one.
var ports struct {
	mu    sync.Mutex
	given map[int]bool
}

// FreePort is a TCP port of 127.0.0.1 that nothing listens on and that this process
// gives to nobody else. It lies below the range that Linux takes the ports of
// outgoing connections from (32768 and up), so none of those can occupy it before
// it is used, or while a node that is to come back is down.
func FreePort(t testing.TB) int {
	t.Helper()
	ports.mu.Lock()
	defer ports.mu.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if ports.given[port] {
			continue
		}
		l, err := net.Listen("tcp", Loopback(port))
		if err != nil {
			continue
		}
		l.Close()
		ports.given[port] = true
		return port
	}
	t.Fatal("no free port found between 20000 and 32000")
	return 0
}

// Loopback is the address of a port on 127.0.0.1.
func Loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// listen listens at an address. One that FreePort has just tried may be in use for a
// moment more: by a child that was started meanwhile, until it has closed what it
// inherited.
func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	var l net.Listener
	state, ok := poll(WaitLimit, func() (bool, any) {
		var err error
		l, err = net.Listen(network, address)
		return !errors.Is(err, syscall.EADDRINUSE), err
	})
	if l == nil || !ok {
		t.Fatalf("listen: %s", describe(state))
	}
	return l
}

// FreeAddress is Loopback of a FreePort.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return Loopback(FreePort(t))
}
