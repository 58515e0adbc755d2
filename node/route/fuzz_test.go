package route

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"roster/store"
)

// What is normal stays as it is and has no dots, empty segments or other spelling
// of an unreserved octet left; and every other spelling of it comes out the same.
func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e", "/a//./b/..", "/%252e", "*", "/%2f%2F//", "/..%2f", "/a%2", "/~%7e%00", "/\xff%fF"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, path []byte) {
		given := bytes.Clone(path)
		got, err := Normalize(nil, path)
		if !bytes.Equal(given, path) {
			t.Fatalf("%q was changed to %q", given, path)
		}
		if err != nil || string(got) == "*" {
			return
		}
		again, err := Normalize(nil, got)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%q is %q, and that is %q, %v", path, got, again, err)
		}
		if got[0] != '/' || bytes.Contains(got, []byte("//")) || bytes.IndexByte(got, 0) >= 0 {
			t.Fatalf("%q is %q", path, got)
		}
		for i := 0; i+2 < len(got); i++ {
			if got[i] == '%' && unreserved(byte(digit(got[i+1])<<4|digit(got[i+2]))) {
				t.Fatalf("%q is %q, with an octet that needs no encoding", path, got)
			}
		}
		if bytes.Count(bytes.ToUpper(got), []byte("%2F")) > bytes.Count(bytes.ToUpper(path), []byte("%2F")) {
			t.Fatalf("%q is %q", path, got)
		}
		for seg := range strings.SplitSeq(string(got), "/") {
			if seg == "." || seg == ".." {
				t.Fatalf("%q is %q", path, got)
			}
		}
		var spelt []byte // every unreserved octet encoded, dots and empty segments put in
		for i, c := range got {
			switch {
			case c == '/':
				spelt = append(spelt, "/.//x/%2e./"[:]...)
			case unreserved(c) && (i < 2 || got[i-1] != '%' && got[i-2] != '%'):
				spelt = fmt.Appendf(spelt, "%%%02x", c)
			default:
				spelt = append(spelt, c)
			}
		}
		if other, err := Normalize(nil, spelt); err != nil || !bytes.Equal(other, got) {
			t.Fatalf("%q is %q, spelt as %q it is %q, %v", path, got, spelt, other, err)
		}
	})
}

// FuzzMatch: what an index finds is what a plain look at each route finds, for
// any path, host and two routes' patterns among others.
func FuzzMatch(f *testing.F) {
	f.Add("/j/k", "a.x.test:80", "/j/*", "*.x.test", "/j/k", "a.x.test")
	f.Add("/j//%6b/..", "X.TEST.", "/j/", "x.test", "/*", "")
	f.Add("/jk", "x.test:80", "/j", "[::1]", "/jkl", "*.test")
	f.Add("*", "", "/", "", "/x/y/*", "y")
	f.Add("/a/b/c/d", "b.a.b.a", "/a/b/*", "*.a.b.a", "/a/b/c/*", "*.b.a")
	f.Fuzz(func(t *testing.T, target, host, path1, host1, path2, host2 string) {
		if strings.ContainsAny(target, "?") || strings.ContainsAny(host, "[") {
			return // the plain look reads neither queries nor literals as we do
		}
		var ix Index
		e := ix.Edit()
		var all []*Route
		add := func(name, path, host string) {
			m := map[string]string{}
			if path != "" {
				m["path"] = path
			}
			if host != "" {
				m["host"] = host
			}
			fields := make([]string, 0, 2)
			for k, v := range m {
				fields = append(fields, fmt.Sprintf("%q:%s", k, quoteJSON(v)))
			}
			def, _, err := store.Decode(store.Key{Kind: store.Routes, Name: name}, []byte(`{"backend":"a","match":{`+strings.Join(fields, ",")+`}}`), store.Reject)
			if err != nil {
				return
			}
			r := New(name, def.(*store.Route), 1, 1, 1)
			all = append(all, r)
			e.Add(r)
		}
		add("a", path1, host1)
		add("b", path2, host2)
		add("c", path1, host2)
		add("d", path2, host1)
		for i, p := range somePaths {
			add(fmt.Sprintf("e%d", i), p, someHosts[i%len(someHosts)])
		}
		ix = e.Commit()
		if strings.Count(host, ":") > 1 {
			return // no authority
		}
		r := request("GET", target, host)
		want, _ := plainMatch(all, r, netip.Addr{})
		got, err := ix.Match(ask(r))
		if got != want || err != nil && err != ErrPath {
			t.Fatalf("%q at %q goes by %s, %v, want %s", target, host, nameOf(got), err, nameOf(want))
		}
		e = ix.Edit()
		for i := range all {
			e.Remove(all[i])
			if slices.Contains(slices.Collect(e.ix.All("", "")), all[i]) {
				t.Fatalf("%s is still there", all[i].Name)
			}
		}
		if e.Commit() != (Index{}) {
			t.Fatal("something is left")
		}
	})
}

func quoteJSON(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(s) {
		if c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			fmt.Fprintf(&b, `\u%04x`, c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}
