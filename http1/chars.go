package http1

import (
	"encoding/binary"
	"math/bits"
)

// Classes of bytes.
const (
	isToken   = 1 << iota // tchar, RFC 9110 section 5.6.2
	isRegName             // unreserved and sub-delims, RFC 3986 section 3.2.2
	isDigit
	isHex
)

var class = func() (c [256]uint8) {
	set := func(bits uint8, chars string) {
		for i := range len(chars) {
			c[chars[i]] |= bits
		}
	}
	const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	const digits = "0123456789"
	set(isToken, "!#$%&'*+-.^_`|~"+digits+letters)
	set(isRegName, "-._~!$&'()*+,;="+digits+letters)
	set(isDigit, digits)
	set(isHex, digits+"ABCDEFabcdef")
	return c
}()

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// Eight bytes at a time: below(w, n) has the high bit of each byte less than n
// (at most 0x80) set, and zero that of each zero byte; above the lowest such
// byte other bits may be set by its borrow, so only the lowest is to be believed.
func below(w, n uint64) uint64 { return (w - n*ones) &^ w & highs }
func zero(w uint64) uint64     { return (w - ones) &^ w & highs }

// control returns the index of the first control character other than tab in b
// from i on, or len(b).
func control(b []byte, i int) int {
	for {
		for len(b)-i >= 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			if m := below(w, 0x20) | zero(w^0x7f*ones); m != 0 {
				i += bits.TrailingZeros64(m) >> 3
				goto found
			}
			i += 8
		}
		for ; i < len(b); i++ {
			if c := b[i]; c < 0x20 || c == 0x7f {
				goto found
			}
		}
		return i
	found:
		if b[i] != '\t' {
			return i
		}
		i++
	}
}

// targetEnd returns the index of the first byte in b from i on that is not
// visible ASCII, or is '#'; or len(b).
func targetEnd(b []byte, i int) int {
	for len(b)-i >= 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		if m := below(w, 0x21) | zero(w^0x7f*ones) | zero(w^'#'*ones) | w&highs; m != 0 {
			return i + bits.TrailingZeros64(m)>>3
		}
		i += 8
	}
	for ; i < len(b); i++ {
		if c := b[i]; c < 0x21 || c >= 0x7f || c == '#' {
			break
		}
	}
	return i
}
