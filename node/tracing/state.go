package tracing

import (
	"bytes"

	"roster/message"
)

// Bounds of a tracestate (W3C Trace Context, 3.3): a list of more members is none, and of
// one that is longer, members are left out, first those that are long by themselves.
const (
	maxMembers = 32
	maxState   = 512
	longMember = 128
	maxKey     = 256
	maxValue   = 256
)

// state is the tracestate to send on: the client's as it came where it is one field of at
// most 512 bytes, which costs no memory. It is nil where there is none, or where a member is
// not valid or there twice: then none can be trusted to be whole.
func state(fields []message.Field) []byte {
	var members [maxMembers][]byte
	var whole []byte // the field's value if there is one field
	count, size, found := 0, 0, 0
	for i := range fields {
		if fields[i].ID != message.Tracestate {
			continue
		}
		found++
		whole = fields[i].Value
		for list := whole; ; {
			var m []byte
			if m, list = message.NextToken(list); len(m) == 0 {
				break
			}
			key := keyOf(m)
			if key == 0 || count == maxMembers {
				return nil
			}
			for _, other := range members[:count] {
				if bytes.HasPrefix(other, m[:key+1]) {
					return nil
				}
			}
			members[count] = m
			count++
			size += len(m) + 1 // and the comma
		}
	}
	size--
	switch {
	case count == 0:
		return nil
	case found == 1 && len(whole) <= maxState:
		return whole
	}
	return bytes.Join(shorten(members[:count], size), []byte{','})
}

// shorten leaves out members until the list, which is size bytes long, is short enough:
// from the end, first those that are long.
func shorten(members [][]byte, size int) [][]byte {
	for _, least := range []int{longMember + 1, 0} {
		for i := len(members) - 1; i >= 0 && size > maxState; i-- {
			if n := len(members[i]); n >= least {
				size -= n + 1
				members = append(members[:i], members[i+1:]...)
			}
		}
	}
	return members
}

// keyOf is the length of a member's key, 0 if the member is not valid. Keys are those of
// level 2 of the recommendation, which has all of level 1.
func keyOf(m []byte) int {
	key := bytes.IndexByte(m, '=')
	if key <= 0 || key > maxKey || len(m) == key+1 || len(m) > key+1+maxValue {
		return 0
	}
	for i, c := range m[:key] {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '-' || c == '*' || c == '/' || c == '@'):
		default:
			return 0
		}
	}
	for _, c := range m[key+1:] {
		if c < ' ' || c > '~' || c == '=' {
			return 0
		}
	}
	return key
}
