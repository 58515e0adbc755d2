package table

import (
	"bytes"
	"encoding/base64"

	"roster/message"
	"roster/store"
)

// tag is what a cookie says, and no more: which member of which director it means, to
// those who know the fleet's secret.
type tag [16]byte

// tagForm is how a tag is written in a cookie.
var tagForm = base64.RawURLEncoding.Strict()

// tagText is how long a tag is in it.
const tagText = 22

func tagOf(secret *store.Secret, director, member string) tag {
	b := make([]byte, 0, 128)
	b = append(b, director...)
	b = append(b, 0)
	b = append(b, member...)
	mac := secret.Sign(b)
	return tag(mac[:len(tag{})])
}

// sessions are the cookies of a director's members. They belong to one Director and one
// secret and never change.
type sessions struct {
	of     *Director
	secret *store.Secret
	tags   []tag         // by position
	at     map[tag]int32 // of a member listed twice, the first
}

// sessions returns those of a director. To sign is most of their cost, so tags of the
// members that the name's director had before are taken from there. The caller holds
// views.making.
func (t *Table) sessions(d *Director) *sessions {
	if d.Def.Cookie == nil || t.secret == nil {
		d.run.sessions = nil
		return nil
	}
	secret := t.secret.Def.(*store.Secret)
	old := d.run.sessions
	switch {
	case old == nil || old.secret != secret:
		old = &sessions{of: new(Director)}
	case old.of == d:
		return old
	}
	s := &sessions{of: d, secret: secret, tags: make([]tag, len(d.Members)), at: make(map[tag]int32, len(d.Members))}
	d.run.sessions = s
	// Members are in nearly the same places, but for some that came or went before them.
	was, k := old.of.Members, 0
	for i := range d.Members {
		m := &d.Members[i]
		const near = 8
		for j := k; j < min(k+near, len(was)); j++ {
			if was[j].Name == m.Name {
				k = j
				break
			}
		}
		var x tag
		if k < len(was) && was[k].Name == m.Name {
			x = old.tags[k]
			k++
		} else {
			x = tagOf(secret, d.Name, m.Name)
		}
		s.tags[i] = x
		if _, twice := s.at[x]; !twice && m.Weight > 0 {
			s.at[x] = int32(i)
		}
	}
	return s
}

// find returns the position that a cookie's value means, -1 for none.
func (s *sessions) find(value []byte) int {
	var x tag
	if n := len(value); n == tagText+2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1] // as RFC 6265 4.1.1 lets a client write it
	}
	if len(value) != tagText {
		return -1
	}
	if n, err := tagForm.Decode(x[:], value); err != nil || n != len(x) {
		return -1
	}
	at, ok := s.at[x]
	if !ok {
		return -1
	}
	return int(at)
}

// cookies yields the values of the request's cookies of a name, in order (RFC 6265
// 5.4; several fields count as one, as of RFC 9113 8.2.3).
func cookies(r *message.Request, name string, yield func(value []byte) bool) {
	for i := range r.Fields {
		f := &r.Fields[i]
		if f.ID != message.Cookie {
			continue
		}
		for rest := f.Value; len(rest) > 0; {
			var pair []byte
			pair, rest, _ = bytes.Cut(rest, semicolon)
			k, value, ok := bytes.Cut(pair, equals)
			if ok && string(bytes.Trim(k, " \t")) == name && !yield(bytes.Trim(value, " \t")) {
				return
			}
		}
	}
}

var semicolon, equals = []byte{';'}, []byte{'='}
