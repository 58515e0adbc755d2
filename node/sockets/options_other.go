//go:build !linux

package sockets

import (
	"errors"
	"net"
)

func listenConfig(bool) net.ListenConfig { return net.ListenConfig{} }

func share(net.Listener) error { return errors.ErrUnsupported }

func prepare(int, net.Addr) error { return nil }
