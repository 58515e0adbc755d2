package loop

import (
	"net"
	"strconv"
)

// A zone is the name of the network interface that a link-local address was last
// seen with, as package net has it.
type zone struct {
	index uint32
	name  string
}

func (z *zone) of(index uint32) string {
	if z.index != index {
		*z = zone{index, strconv.FormatUint(uint64(index), 10)}
		if i, err := net.InterfaceByIndex(int(index)); err == nil {
			z.name = i.Name
		}
	}
	return z.name
}
