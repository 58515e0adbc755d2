package route

import (
	"bytes"
	"errors"
)

// ErrPath says that a request's path may not be routed: it holds a NUL, a
// broken percent-encoding, or climbs above the root. The answer is 400.
var ErrPath = errors.New("invalid path")

// Normalize appends the path that routes match to dst: RFC 3986 6.2.2 with
// unreserved octets decoded, dot segments removed and empty segments merged;
// the encodings that stay are in upper case, an encoded slash among them. An octet that
// no path may hold, such as "|", is encoded: backends take both for the same.
// What is normal already is returned as it is, without a copy.
func Normalize(dst, path []byte) ([]byte, error) {
	if normal(path) {
		return path, nil
	}
	return normalize(dst, path)
}

// normalize is Normalize of what is perhaps not normal: the result is in dst's
// memory.
func normalize(dst, path []byte) ([]byte, error) {
	if len(path) == 0 || path[0] != '/' {
		return nil, ErrPath
	}
	start := len(dst)
	for i := 0; i < len(path); {
		c := path[i]
		switch {
		case c == 0:
			return nil, ErrPath
		case c == '%':
			if i+2 >= len(path) || digit(path[i+1]) < 0 || digit(path[i+2]) < 0 {
				return nil, ErrPath
			}
			o := byte(digit(path[i+1])<<4 | digit(path[i+2]))
			i += 3
			switch {
			case o == 0:
				return nil, ErrPath
			case unreserved(o):
				dst = append(dst, o)
			default:
				dst = append(dst, '%', upper[o>>4], upper[o&15])
			}
		case !inPath[c]:
			dst = append(dst, '%', upper[c>>4], upper[c&15])
			i++
		default:
			dst = append(dst, c)
			i++
		}
	}
	return removeDots(dst, start)
}

// removeDots merges empty segments and resolves "." and ".." in dst[start:],
// which is an absolute path, in place.
func removeDots(dst []byte, start int) ([]byte, error) {
	p := dst[start:]
	out := 0 // p[:out] is done and ends without a slash
	for i := 0; i < len(p); {
		// p[i] is a slash: take it and the segment after it.
		for i+1 < len(p) && p[i+1] == '/' {
			i++
		}
		end := len(p)
		if n := bytes.IndexByte(p[i+1:], '/'); n >= 0 {
			end = i + 1 + n
		}
		seg := p[i+1 : end]
		last := end == len(p)
		switch {
		case len(seg) == 1 && seg[0] == '.':
			if last {
				p[out] = '/'
				out++
			}
		case len(seg) == 2 && seg[0] == '.' && seg[1] == '.':
			if out == 0 {
				return nil, ErrPath
			}
			out = bytes.LastIndexByte(p[:out], '/')
			if last {
				p[out] = '/'
				out++
			}
		default:
			out += copy(p[out:], p[i:end])
		}
		i = end
	}
	return p[:out], nil
}

// normal says whether an absolute path needs no work. It may say no to a path
// that needs none.
func normal(p []byte) bool {
	if len(p) == 0 || p[0] != '/' {
		return len(p) == 1 && p[0] == '*'
	}
	for i, c := range p {
		switch {
		case c == '/' || c == '.':
			if i > 0 && p[i-1] == '/' {
				return false
			}
		case !inPath[c]:
			return false
		}
	}
	return true
}

// inPath has the octets that stand for themselves in a path: pchar of RFC 3986 3.3, and
// the slash.
var inPath = func() (in [256]bool) {
	for c := range 256 {
		in[c] = unreserved(byte(c))
	}
	for _, c := range []byte("!$&'()*+,;=:@/") {
		in[c] = true
	}
	return in
}()

const upper = "0123456789ABCDEF"

func digit(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}
