package storetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
)

// reserve returns a loopback address with a port that is free now and that no
// other test takes, in this process or another, until t ends: a stopped member
// must find its own free again. The ports are below those that Linux hands out
// by itself (32768 and up).
func reserve(t testing.TB) string {
	t.Helper()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if runtime.GOOS == "linux" { // an abstract socket is a lock the kernel ends with the process
			lock, err := net.Listen("unix", fmt.Sprintf("@roster-storetest-%d", port))
			if err != nil {
				continue
			}
			t.Cleanup(func() { lock.Close() })
		}
		address := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", address)
		if err != nil {
			continue
		}
		l.Close()
		return address
	}
	t.Fatal("storetest: no free port")
	return ""
}
