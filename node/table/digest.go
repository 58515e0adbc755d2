package table

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
)

// Digest is a sum over the keys in effect: each key adds 128 bits of a hash of
// (key, create revision, revision in effect). A sum can be updated per change,
// in any order, which is what makes it cost nothing at 100,000 keys.
type Digest [2]uint64

func digestOf(key string, create, mod int64) Digest {
	b := make([]byte, 0, 128)
	b = append(b, key...)
	b = append(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(create))
	b = binary.BigEndian.AppendUint64(b, uint64(mod))
	h := sha256.Sum256(b)
	return Digest{binary.BigEndian.Uint64(h[:]), binary.BigEndian.Uint64(h[8:])}
}

func (d Digest) add(o Digest) Digest { return Digest{d[0] + o[0], d[1] + o[1]} }
func (d Digest) sub(o Digest) Digest { return Digest{d[0] - o[0], d[1] - o[1]} }

// String is the digest as 32 hexadecimal digits.
func (d Digest) String() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], d[0])
	binary.BigEndian.PutUint64(b[8:], d[1])
	return hex.EncodeToString(b[:])
}

// MarshalJSON writes the digest as a string.
func (d Digest) MarshalJSON() ([]byte, error) { return json.Marshal(d.String()) }
