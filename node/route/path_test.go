package route

import (
	"bytes"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]string{
		"/":             "/",
		"*":             "*",
		"/a/b":          "/a/b",
		"/a//b///":      "/a/b/",
		"//":            "/",
		"/a/./b/.":      "/a/b/",
		"/a/../b":       "/b",
		"/a/b/..":       "/a/",
		"/a/..":         "/",
		"/a/%2e%2E/b":   "/b",
		"/%61%7e%2d":    "/a~-",
		"/a%2fb":        "/a%2Fb",
		"/a%2f..%2fb":   "/a%2F..%2Fb",
		"/a%25%32%65":   "/a%252e",
		"/...":          "/...",
		"/.hidden/x":    "/.hidden/x",
		"/a/.%2e/.b":    "/.b",
		"/\xff":         "/\xff",
		"/..":           "",
		"/a/../..":      "",
		"/%2e%2e/x":     "",
		"/x%00":         "",
		"/x\x00":        "",
		"/x%":           "",
		"/x%2":          "",
		"/x%zz":         "",
		"":              "",
		"a/b":           "",
		"/a/b/../../..": "",
	} {
		got, err := Normalize(nil, []byte(path))
		if (want == "") != (err != nil) || string(got) != want {
			t.Errorf("Normalize(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
}

// What is normal stays as it is, has no dots or empty segments left, and no
// other spelling of an unreserved octet.
func FuzzNormalize(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e", "/a//./b/..", "/%252e", "*", "/%2f%2F//", "/..%2f"} {
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
		for seg := range strings.SplitSeq(string(got), "/") {
			if seg == "." || seg == ".." {
				t.Fatalf("%q is %q", path, got)
			}
		}
	})
}
