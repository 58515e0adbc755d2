package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listenBacklog returns an abstract socket whose backlog is as small as can be.
func listenBacklog(t *testing.T, address string) net.Listener {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), address)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: address}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.FileListener(f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A socket whose backlog is full is waited for, within the connect timeout.
func TestFullBacklogOfASocketIsWaitedFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	address := "@roster-pool-backlog-" + fmt.Sprint(os.Getpid())
	l := listenBacklog(t, address)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for {
		c, err := dialUnix(ctx, address)
		if err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("with a full backlog: %v", err)
			}
			break
		}
		if conns = append(conns, c); len(conns) > 100 {
			lack(t, "the backlog is never full")
		}
	}
	got := make(chan error, 1)
	go func() {
		c, err := dialUnix(t.Context(), address)
		if err == nil {
			c.Close()
		}
		got <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := <-got; err != nil {
		t.Errorf("after an accept: %v", err)
	}
}
