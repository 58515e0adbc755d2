package balancer

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
)

// Hash is the key of a string, given in parts: the last 4 bytes of its SHA-256, as
// a little-endian number. It is Varnish's VRT_HashStrands32, which makes keys of
// strings for hash and shard, and shard's points.
func Hash(parts ...[]byte) uint32 {
	var short [hashShort]byte
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n <= len(short) {
		n = 0
		for _, p := range parts {
			n += copy(short[n:], p)
		}
		return fold(sha256.Sum256(short[:n]))
	}
	b := long.Get().(*[]byte)
	defer long.Put(b)
	*b = (*b)[:0]
	for _, p := range parts {
		*b = append(*b, p...)
	}
	return fold(sha256.Sum256(*b))
}

// HashString is Hash of a string.
func HashString(s string) uint32 {
	var short [hashShort]byte
	if len(s) <= len(short) {
		return fold(sha256.Sum256(short[:copy(short[:], s)]))
	}
	b := long.Get().(*[]byte)
	defer long.Put(b)
	*b = append((*b)[:0], s...)
	return fold(sha256.Sum256(*b))
}

// Strings up to hashShort bytes are put together on the stack, longer ones in a
// buffer from long.
const hashShort = 512

var long = sync.Pool{New: func() any { return new([]byte) }}

func fold(sum [sha256.Size]byte) uint32 { return binary.LittleEndian.Uint32(sum[sha256.Size-4:]) }
