//go:build !linux

package proxy

import (
	"net"
	"syscall"
	"time"
)

// rawConn: elsewhere connections are read through package net, and a client that
// went is noticed when the answer is written.
func rawConn(net.Conn) syscall.RawConn { return nil }

func rawRead(uintptr, []byte) (n int, again bool, err error) { panic("no raw sockets") }

func hungUp(syscall.RawConn) bool { return false }
func failed(syscall.RawConn) bool { return false }

func setUserTimeout(syscall.RawConn, time.Duration) bool { return false }
