package exchange

import (
	"bytes"
	"strings"
	"unsafe"

	"roster/message"
	"roster/store"
)

// What exchange says by itself: shared, never changed.
var (
	contentType = message.ContentType
	retryAfter  = message.RetryAfter
	proxyStatus = message.ProxyStatus
	xRequestID  = message.XRequestID

	plainText   = []byte("text/plain; charset=utf-8")
	messageHTTP = []byte("message/http")
	one         = []byte("1")
	trailers    = []byte("trailers")
)

// hop says whether a field is for the next recipient only (RFC 9110 7.6.1), or
// part of the framing, which is made anew for each connection.
func hop(id message.ID) bool {
	switch id {
	case message.Connection, message.KeepAlive, message.ProxyConnection, message.TE,
		message.TransferEncoding, message.Upgrade, message.HTTP2Settings, message.ContentLength:
		return true
	}
	return false
}

// nominated are the names that Connection fields list. They stand for fields
// that end here; but well-known fields that are meant for everybody stay
// whatever Connection says, or a client could take Host or Via out of a request
// behind the back of those who rely on them.
type nominated [][]byte

// maxNominated bounds the work for a head made to cost some.
const maxNominated = 32

// add notes the names in the value of a Connection field. It is false if there
// are too many.
func (n *nominated) add(value []byte) bool {
	for {
		var token []byte
		if token, value = message.NextToken(value); len(token) == 0 {
			return true
		}
		if message.Lookup(token) != message.Other || message.EqualFold(token, "close") {
			continue
		}
		if len(*n) == maxNominated {
			return false
		}
		*n = append(*n, token)
	}
}

// has says whether a field is named, whose ID is Other.
func (n nominated) has(name []byte) bool {
	for _, token := range n {
		if len(token) == len(name) && bytes.EqualFold(token, name) {
			return true
		}
	}
	return false
}

// poses says whether a name is one that says who the client is, but for "_" in the
// place of "-": applications that turn both into one name (CGI, WSGI) would take it
// for what this proxy says.
func poses(name []byte) bool {
	if bytes.IndexByte(name, '_') < 0 {
		return false
	}
	var dashed [32]byte
	n := copy(dashed[:], name)
	for i, c := range dashed[:n] {
		if c == '_' {
			dashed[i] = '-'
		}
	}
	switch message.Lookup(dashed[:n]) {
	case message.XForwardedFor, message.XForwardedHost, message.XForwardedPort, message.XForwardedProto,
		message.XForwardedOther, message.XRequestID:
		return true
	}
	return false
}

// passes counts the proxies of the name in the value of a Via field: each element
// is received-protocol RWS received-by [ RWS comment ] (RFC 9110 7.6.3). own says
// that the comment of one is this process's. A comment with commas in it cannot
// hide a proxy, only be taken for one.
func passes(via, pseudo, comment []byte) (n int, own bool) {
	for {
		var element []byte
		if element, via = message.NextToken(via); len(element) == 0 {
			return n, own
		}
		at := bytes.IndexAny(element, " \t")
		if at < 0 {
			continue
		}
		by := bytes.TrimLeft(element[at:], " \t")
		var rest []byte
		if end := bytes.IndexAny(by, " \t("); end >= 0 {
			by, rest = by[:end], bytes.TrimLeft(by[end:], " \t")
		}
		if bytes.EqualFold(by, pseudo) {
			n++
			own = own || bytes.Equal(rest, comment)
		}
	}
}

// text returns a string's bytes, which must not be changed.
func text(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// edit makes a route's changes to a head, in the order of store.HeaderEdits.
func (x *Exchange) edit(fields []message.Field, e *store.HeaderEdits) []message.Field {
	for _, name := range e.Remove {
		fields = without(fields, name)
	}
	for _, h := range e.Set {
		fields = add(without(fields, h.Name), h)
	}
	for _, h := range e.Add {
		fields = add(fields, h)
	}
	return fields
}

// without drops the fields of a name, in place.
func without(fields []message.Field, name string) []message.Field {
	kept := fields[:0]
	for _, f := range fields {
		if len(f.Name) != len(name) || !strings.EqualFold(unsafe.String(unsafe.SliceData(f.Name), len(f.Name)), name) {
			kept = append(kept, f)
		}
	}
	return kept
}

// add appends a field. What says where a message ends, or how far it goes, is
// not a route's to say.
func add(fields []message.Field, h store.HeaderField) []message.Field {
	name := text(h.Name)
	id := message.Lookup(name)
	if hop(id) || id == message.Host {
		return fields
	}
	return append(fields, message.Field{Name: name, Value: text(h.Value), ID: id})
}
