// Package inbound reads the PROXY protocol header that a load balancer in front
// sends at the start of a connection: who the client is, and where it connected to.
//
//	c.SetReadDeadline(time.Now().Add(headTimeout))
//	src, dst, rest, err := inbound.ReadHeader(c)
//
// Both versions of haproxy's proxy-protocol.txt are read; parsing is
// github.com/pires/go-proxyproto's. Only listeners whose peers must send a header
// may call it: the protocol forbids guessing, as any client could claim to be
// somebody else.
//
// The result depends on the bytes alone, not on how they arrive, and no read
// follows the one that brought the header's last byte. A sender that is not a proxy
// is told apart at its first wrong byte.
//
// # What it does not do
//
// TLVs are skipped, a checksum among them included. Addresses of Unix sockets and
// of datagrams count as unknown.
package inbound
