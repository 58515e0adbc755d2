package exchange

import (
	"crypto/rand"
	"encoding/binary"
	"net/netip"
	"sync/atomic"
)

// Peer is who sends the requests of one connection. It belongs to the
// connection and is used by one exchange at a time.
type Peer struct {
	addr    netip.Addr
	trusted bool
	secure  bool   // https, not http
	text    []byte // addr as X-Forwarded-For has it; empty for a peer without address
	node    []byte // "for=...", as Forwarded has it
	id      uint64 // of the connection; the low bits count its requests
}

// Peer describes a connection: the address that the requests come from (that of
// a PROXY header, if there was one; not valid for a socket without) and whether
// they come over TLS.
func (p *Policy) Peer(addr netip.Addr, tls bool) Peer {
	addr = addr.Unmap().WithZone("")
	peer := Peer{addr: addr, secure: tls, id: p.ids.connection.Add(1) << requestBits}
	switch {
	case !addr.IsValid():
		peer.node = []byte("for=unknown")
	case addr.Is4(): // one piece of memory for both, and no more than they need
		peer.node = []byte("for=" + addr.String())
		peer.text = peer.node[len("for="):]
	default:
		peer.node = []byte(`for="[` + addr.String() + `]"`)
		end := len(peer.node) - len(`]"`)
		peer.text = peer.node[len(`for="[`):end:end]
	}
	peer.trusted = addr.IsValid() && p.trusts(addr)
	return peer
}

// Trusted says whether the peer is a trusted proxy.
func (p *Peer) Trusted() bool { return p.trusted }

// Fork returns a peer of the same connection for exchanges beside those of p: a
// stream of HTTP/2 has its own.
func (p *Peer) Fork(policy *Policy) Peer {
	fork := *p
	fork.id = policy.ids.connection.Add(1) << requestBits
	return fork
}

func (p *Peer) proto() []byte {
	if p.secure {
		return https
	}
	return http
}

var (
	http  = []byte("http")
	https = []byte("https")
)

// requestBits is how many bits of a request's number count the requests of a
// connection: one that has more starts to use its neighbours' numbers after
// 16 million requests, which were used long ago or never will be.
const requestBits = 24

// ids makes request ids: 32 hexadecimal digits, 16 random ones of this process
// and 16 of the request's number under a permutation with a secret key. So they
// are unique, cost no system call and no shared cache line, and one does not
// tell the next to whoever does not set out to break the permutation: names for
// logs, not secrets.
type ids struct {
	process    [16]byte
	key        [2]uint64
	connection *atomic.Uint64
}

func newIDs() ids {
	var seed [24]byte
	rand.Read(seed[:])
	g := ids{connection: new(atomic.Uint64)}
	appendHex(g.process[:0], binary.LittleEndian.Uint64(seed[0:]))
	g.key = [2]uint64{binary.LittleEndian.Uint64(seed[8:]), binary.LittleEndian.Uint64(seed[16:])}
	return g
}

// append writes the id of the peer's next request.
func (g *ids) append(dst []byte, peer *Peer) []byte {
	peer.id++
	x := peer.id ^ g.key[0]
	// The finaliser of splitmix64: a bijection, every bit of it depending on all.
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	x = (x ^ x>>31) + g.key[1]
	return appendHex(append(dst, g.process[:]...), x)
}

func appendHex(dst []byte, x uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, "0123456789abcdef"[x>>shift&15])
	}
	return dst
}

// maxRequestID is the longest X-Request-Id kept from a trusted peer, in bytes.
const maxRequestID = 128

// validID says whether a trusted peer's request id may go into logs and fields.
func validID(b []byte) bool {
	if len(b) == 0 || len(b) > maxRequestID {
		return false
	}
	for _, c := range b {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return true
}
