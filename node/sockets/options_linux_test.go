package sockets

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestListenersAreOfPlainTCP: not of Multipath TCP, which package net would open, and which
// has each connection cost more.
func TestListenersAreOfPlainTCP(t *testing.T) {
	t.Parallel()
	var set Set
	for _, s := range listen(t, &set, "tcp", "127.0.0.1:0", 2).Sockets {
		fd, err := s.FD()
		if err != nil {
			t.Fatal(err)
		}
		if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err != nil || protocol != unix.IPPROTO_TCP {
			t.Errorf("protocol %d, %v, want %d", protocol, err, unix.IPPROTO_TCP)
		}
	}
}

// TestAnInheritedSocketAcceptsAtOnce, though the process that had it was killed while it
// had connections kept until they say something.
func TestAnInheritedSocketAcceptsAtOnce(t *testing.T) {
	t.Parallel()
	var set Set
	s := listen(t, &set, "tcp", "127.0.0.1:0", 1).Sockets[0]
	fd, err := s.FD()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1); err != nil {
		t.Fatal(err)
	}
	if err := prepare(fd, s.Addr()); err != nil {
		t.Fatal(err)
	}
	if seconds, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT); err != nil || seconds != 0 {
		t.Errorf("connections are kept for %d s, %v", seconds, err)
	}
}
