package sockets

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listening sockets have TCP's keep-alive and TCP_NODELAY set, and accepted ones inherit
// them: package net sets keep-alive on each of those it accepts, with four system calls. The times are its own.
const idle, interval, count = 15, 15, 9 // seconds, and how often

type option struct{ level, name, value int }

var inheritable = []option{
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, idle},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, interval},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, count},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
}

// shareable lets an address have several sockets.
var shareable = option{unix.SOL_SOCKET, unix.SO_REUSEPORT, 1}

func setOptions(fd int, options ...option) error {
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			return err
		}
	}
	return nil
}

// listenConfig is for sockets that share their address with others, or not.
func listenConfig(shared bool) net.ListenConfig {
	c := net.ListenConfig{KeepAlive: -1, Control: func(network, _ string, raw syscall.RawConn) error {
		if network == "unix" {
			return nil
		}
		options := inheritable
		if shared {
			options = append(options[:len(options):len(options)], shareable)
		}
		return control(raw, options...)
	}}
	c.SetMultipathTCP(false) // which package net would ask for: each connection would cost more
	return c
}

// share lets further sockets have the address of one that listens. It does so after it
// was made sure that nobody else had the address: among sockets which only are bound to
// it the kernel sees no conflict.
func share(ln net.Listener) error {
	raw, err := ln.(syscall.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return control(raw, shareable)
}

func control(raw syscall.RawConn, options ...option) error {
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = setOptions(int(fd), options...) }); err != nil {
		return err
	}
	return failed
}

// prepare gives an inherited socket the options of those that are opened here.
func prepare(fd int, addr net.Addr) error {
	if _, ok := addr.(*net.TCPAddr); !ok {
		return nil
	}
	// A process before may have left it so: see crowd in node/proxy.
	atOnce := option{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 0}
	return setOptions(fd, append(inheritable[:len(inheritable):len(inheritable)], atOnce)...)
}
