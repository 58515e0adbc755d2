package route

import "testing"

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
		"/\xff":         "/%FF",
		"/a|b":          "/a%7Cb",
		"/\"<>\\^`{}":   "/%22%3C%3E%5C%5E%60%7B%7D",
		"/!$&'()*+,;=:": "/!$&'()*+,;=:",
		"/@%21":         "/@%21",
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
