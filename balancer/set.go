package balancer

// set is a set of positions.
type set []uint64

func (s set) add(i int)      { s[uint(i)/64] |= 1 << (uint(i) % 64) }
func (s set) has(i int) bool { return s[uint(i)/64]>>(uint(i)%64)&1 != 0 }
