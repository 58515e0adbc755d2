package balancer

import (
	"crypto/sha256"
	"encoding/binary"
)

// Hash is the key of a string: the last 4 bytes of its SHA-256, as a little-endian
// number. It is Varnish's VRT_HashStrands32, which makes keys of strings for hash
// and shard, and shard's points.
func Hash(s []byte) uint32 {
	sum := sha256.Sum256(s)
	return binary.LittleEndian.Uint32(sum[sha256.Size-4:])
}
