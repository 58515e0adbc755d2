//go:build !linux

package pool

type roundTrip struct{}

// RoundTrip sends head and body, after the prologue, and reads the first bytes
// of the answer into buf. The error of a failed write is returned only if there
// is no answer. ArmRead and ArmWrite apply.
func (c *Conn) RoundTrip(head, body, buf []byte) (int, error) {
	return c.writeAndRead(head, body, buf)
}
