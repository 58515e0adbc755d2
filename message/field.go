package message

import "encoding/binary"

// ID is a well-known field name, so that a name is compared once, when it is
// read. The zero ID is Other.
type ID uint8

// The names somebody branches on. XForwardedOther stands for every X-Forwarded-*
// field without an ID of its own.
const (
	Other ID = iota
	Accept
	AcceptEncoding
	Authorization
	CacheControl
	Connection
	ContentEncoding
	ContentLength
	ContentRange
	ContentType
	Cookie
	Date
	Expect
	Forwarded
	HTTP2Settings
	Host
	KeepAlive
	Location
	MaxForwards
	ProxyAuthenticate
	ProxyAuthenticationInfo
	ProxyAuthorization
	ProxyConnection
	ProxyStatus
	Range
	Referer
	RetryAfter
	Server
	SetCookie
	TE
	Traceparent
	Tracestate
	Trailer
	TransferEncoding
	Upgrade
	UserAgent
	Via
	WWWAuthenticate
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedProto
	XForwardedOther
	XMinRevision
	XRequestID
	XRosterRevision

	ids // count
)

// names are as they are written, in the usual spelling.
var names = [ids]string{
	Accept:                  "Accept",
	AcceptEncoding:          "Accept-Encoding",
	Authorization:           "Authorization",
	CacheControl:            "Cache-Control",
	Connection:              "Connection",
	ContentEncoding:         "Content-Encoding",
	ContentLength:           "Content-Length",
	ContentRange:            "Content-Range",
	ContentType:             "Content-Type",
	Cookie:                  "Cookie",
	Date:                    "Date",
	Expect:                  "Expect",
	Forwarded:               "Forwarded",
	HTTP2Settings:           "HTTP2-Settings",
	Host:                    "Host",
	KeepAlive:               "Keep-Alive",
	Location:                "Location",
	MaxForwards:             "Max-Forwards",
	ProxyAuthenticate:       "Proxy-Authenticate",
	ProxyAuthenticationInfo: "Proxy-Authentication-Info",
	ProxyAuthorization:      "Proxy-Authorization",
	ProxyConnection:         "Proxy-Connection",
	ProxyStatus:             "Proxy-Status",
	Range:                   "Range",
	Referer:                 "Referer",
	RetryAfter:              "Retry-After",
	Server:                  "Server",
	SetCookie:               "Set-Cookie",
	TE:                      "TE",
	Traceparent:             "traceparent",
	Tracestate:              "tracestate",
	Trailer:                 "Trailer",
	TransferEncoding:        "Transfer-Encoding",
	Upgrade:                 "Upgrade",
	UserAgent:               "User-Agent",
	Via:                     "Via",
	WWWAuthenticate:         "WWW-Authenticate",
	XForwardedFor:           "X-Forwarded-For",
	XForwardedHost:          "X-Forwarded-Host",
	XForwardedPort:          "X-Forwarded-Port",
	XForwardedProto:         "X-Forwarded-Proto",
	XMinRevision:            "X-Min-Revision",
	XRequestID:              "X-Request-Id",
	XRosterRevision:         "X-Roster-Revision",
}

const forwardedPrefix = "x-forwarded-"

// String returns the name in its usual spelling, "" for Other and
// XForwardedOther.
func (id ID) String() string {
	if id < ids {
		return names[id]
	}
	return ""
}

// nameBytes are names for New: shared, never to be changed.
var nameBytes = func() (b [ids][]byte) {
	for id, name := range names {
		b[id] = []byte(name)
	}
	return b
}()

// A Field is one line of a head. Name is as it was read, in any case.
type Field struct {
	Name, Value []byte
	ID          ID
}

// New returns a field of a well-known name. Its Name is shared and must not be
// changed; id must have a name, so it is neither Other nor XForwardedOther.
func New(id ID, value []byte) Field {
	return Field{Name: nameBytes[id], Value: value, ID: id}
}

// Get returns the value of the first field of id, nil if there is none. An empty
// value is not nil.
func Get(fields []Field, id ID) []byte {
	for i := range fields {
		if fields[i].ID == id {
			if fields[i].Value == nil {
				return []byte{}
			}
			return fields[i].Value
		}
	}
	return nil
}

// slots is a perfect hash of the names: at most one per slot, which a test holds.
// lowerNames are the names in small letters.
var slots, lowerNames = func() (s [256]ID, l [ids]string) {
	for id := Other + 1; id < ids; id++ {
		if name := names[id]; name != "" {
			s[slot([]byte(name))] = id
			l[id] = string(Lower([]byte(name)))
		}
	}
	return s, l
}()

// slot hashes the length and three letters, in any case. name is not empty.
func slot(name []byte) uint8 {
	n := uint32(len(name))
	h := n*slotA + uint32(name[0]|0x20)*slotB + uint32(name[n-1]|0x20)*slotC + uint32(name[n*3/4]|0x20)*slotD
	return uint8(h >> 8)
}

// Found by search: see TestSlotsArePerfect.
const slotA, slotB, slotC, slotD = 1407, 58341, 48023, 4533

// Lookup returns the ID of a name in any case. It does not allocate.
func Lookup(name []byte) ID {
	if len(name) == 0 {
		return Other
	}
	if id := slots[slot(name)]; id != Other && EqualFold(name, lowerNames[id]) {
		return id
	}
	if len(name) > len(forwardedPrefix) && EqualFold(name[:len(forwardedPrefix)], forwardedPrefix) {
		return XForwardedOther
	}
	return Other
}

const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// EqualFold reports whether b is lower but for the case of ASCII letters. lower
// consists of lower-case letters, digits and '-'.
func EqualFold(b []byte, lower string) bool {
	if len(b) != len(lower) {
		return false
	}
	// With bit 5 set, upper case is lower case, and the only other bytes that
	// become a letter, a digit or '-' are control characters: those lose.
	for len(b) >= 8 && len(lower) >= 8 {
		w := binary.LittleEndian.Uint64(b)
		l := uint64(lower[0]) | uint64(lower[1])<<8 | uint64(lower[2])<<16 | uint64(lower[3])<<24 |
			uint64(lower[4])<<32 | uint64(lower[5])<<40 | uint64(lower[6])<<48 | uint64(lower[7])<<56
		if w|0x20*ones != l || (w-0x20*ones)&^w&highs != 0 {
			return false
		}
		b, lower = b[8:], lower[8:]
	}
	for i := range b {
		if c := b[i]; c|0x20 != lower[i] || c < 0x20 {
			return false
		}
	}
	return true
}

// Lower turns ASCII capitals in b into small letters, in place, and returns b.
func Lower(b []byte) []byte {
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return b
}

// NextToken cuts the first element off a comma-separated list and trims it.
// Empty elements are skipped, so an empty token means the list has ended.
// Quoted strings are not known: use it for lists of tokens.
func NextToken(list []byte) (token, rest []byte) {
	for len(list) > 0 {
		end := 0
		for end < len(list) && list[end] != ',' {
			end++
		}
		token, rest = trim(list[:end]), nil
		if end < len(list) {
			rest = list[end+1:]
		}
		if len(token) > 0 {
			return token, rest
		}
		list = rest
	}
	return nil, nil
}

// HasToken reports whether a comma-separated list has the token, in any case.
// lower is as EqualFold wants it.
func HasToken(list []byte, lower string) bool {
	for {
		var token []byte
		if token, list = NextToken(list); len(token) == 0 {
			return false
		}
		if EqualFold(token, lower) {
			return true
		}
	}
}

// trim removes optional whitespace (RFC 9110 section 5.6.3).
func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}
