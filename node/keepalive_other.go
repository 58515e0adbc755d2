//go:build !linux

package node

import "net"

var listenConfig net.ListenConfig
