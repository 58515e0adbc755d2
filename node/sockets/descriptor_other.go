//go:build !unix

package sockets

import (
	"errors"
	"net"
)

func duplicate(net.Listener) (int, error)  { return -1, errors.ErrUnsupported }
func duplicateFD(int) (int, error)         { return -1, errors.ErrUnsupported }
func closeFD(int) error                    { return nil }
func listenerOf(int) (net.Listener, error) { return nil, errors.ErrUnsupported }
