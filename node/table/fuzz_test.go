package table

import (
	"bytes"
	"strings"
	"testing"

	"roster/message"
	"roster/store"
)

// Of the cookies of a name the values are those that a plain split finds, and only those
// that a member's tag makes lead to a member.
func FuzzCookies(f *testing.F) {
	f.Add([]byte("a=b; s=1; c=d"), []byte("s=2"))
	f.Add([]byte(" s = 1 ;; s=;s;=s; s=a=b"), []byte(""))
	f.Add([]byte("s=AAAAAAAAAAAAAAAAAAAAAA; s=AAAAAAAAAAAAAAAAAAAAAB"), []byte("xs=1;\ts=2\t"))
	all := &sessions{secret: new(store.Secret), tags: []tag{{}}, at: map[tag]int32{{}: 0}}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := &message.Request{Fields: []message.Field{
			{ID: message.Cookie, Name: []byte("Cookie"), Value: first},
			{ID: message.Host, Name: []byte("Host"), Value: []byte("s=no")},
			{ID: message.Cookie, Name: []byte("Cookie"), Value: second},
		}}
		var want []string
		for _, field := range []string{string(first), string(second)} {
			for _, pair := range strings.Split(field, ";") {
				if k, v, ok := strings.Cut(pair, "="); ok && strings.Trim(k, " \t") == "s" {
					want = append(want, strings.Trim(v, " \t"))
				}
			}
		}
		var got []string
		cookies(r, "s", func(v []byte) bool {
			got = append(got, string(v))
			if at := all.find(v); (at == 0) != bytes.Equal(v, []byte("AAAAAAAAAAAAAAAAAAAAAA")) {
				t.Errorf("%q leads to %d", v, at)
			}
			return true
		})
		if strings.Join(got, "\x00") != strings.Join(want, "\x00") {
			t.Errorf("values %q, want %q", got, want)
		}
	})
}
