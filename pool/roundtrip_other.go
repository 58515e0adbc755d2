//go:build !linux

package pool

type roundTrip struct{}

// RoundTrip sends head and body, after the prologue, and reads the first bytes
// of the answer into buf. The error of a failed write is returned only if there
// is no answer. ArmRead and ArmWrite apply.
//
// If Get left it unchecked, and the backend closed the connection or sent
// something unasked, the error is ErrStale, and nothing was sent.
func (c *Conn) RoundTrip(head, body, buf []byte) (int, error) {
	if c.unchecked && !c.fit() {
		return 0, ErrStale
	}
	c.unchecked = false
	return c.writeAndRead(head, body, buf)
}
