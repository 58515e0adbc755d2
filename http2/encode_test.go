package http2

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"roster/message"
)

func decoded(t *testing.T, block []byte) string {
	t.Helper()
	list, err := hpack.NewDecoder(0, nil).DecodeFull(block)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range list {
		fmt.Fprintf(&b, "%s=%s\n", f.Name, f.Value)
	}
	return b.String()
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	for status := 100; status < 1000; status++ {
		got := decoded(t, appendResponse(nil, &message.Response{Status: status, Bodiless: true}))
		if want := fmt.Sprintf(":status=%d\n", status); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// Every well-known name comes out as it went in, in small letters.
func TestWellKnownNames(t *testing.T) {
	t.Parallel()
	for id := message.Other + 1; ; id++ {
		name := id.String()
		if name == "" && id != message.XForwardedOther {
			break
		}
		if name == "" || hop[id] {
			continue
		}
		f := message.New(id, []byte("v"))
		if got, want := decoded(t, appendField(nil, &f)), strings.ToLower(name)+"=v\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestAppendField(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, value, want string }{
		{"X-Y", " a b\t", "x-y=a b\n"},
		{"x", "", "x=\n"},
		{"x", strings.Repeat("y", 126), "x=" + strings.Repeat("y", 126) + "\n"},
		{"x", strings.Repeat("y", 127), "x=" + strings.Repeat("y", 127) + "\n"},
		{"x", strings.Repeat("y", 70_000), "x=" + strings.Repeat("y", 70_000) + "\n"},
		{"x", "a\tb", "x=a\tb\n"},
		{"x", "a\x00", ""},
		{"x", "a\r\nb: c", ""},
		{"x\r", "a", ""},
		{"", "a", ""},
		{":path", "/", ""},
		{"a b", "c", ""},
	} {
		f := field(test.name, test.value)
		if got := decoded(t, appendField(nil, &f)); got != test.want {
			t.Errorf("%q: %.40q became %.40q, want %.40q", test.name, test.value, got, test.want)
		}
	}
}

func TestAppendRequest(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		r      *message.Request
		scheme string
		want   string
	}{
		{request("GET", "/", 0), "http", ":method=GET :scheme=http :path=/ :authority=a.test"},
		{request("POST", "/x", 0), "https", ":method=POST :scheme=https :path=/x :authority=a.test content-length=0"},
		{request("DELETE", "", message.Unknown), "https", ":method=DELETE :scheme=https :path=/ :authority=a.test"},
		{request("GET", "/", 0, field("Content-Length", "9")), "https", ":method=GET :scheme=https :path=/ :authority=a.test content-length=0"},
		{request("CONNECT", "a.test", 0), "https", ":method=CONNECT :authority=a.test"},
		{request("GET", "/a b\r\n\xff#", 0), "https", ":method=GET :scheme=https :path=/a%20b%0D%0A%FF# :authority=a.test"},
		{request("G\nT", "/", 0), "https", ":method=G%0AT :scheme=https :path=/ :authority=a.test"},
	} {
		got := strings.TrimSpace(strings.ReplaceAll(decoded(t, appendRequest(nil, test.r, test.scheme)), "\n", " "))
		if got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
}

// Nobody further on is to keep these in a table.
func TestSecretsAreNeverIndexed(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie"} {
		f := field(name, "secret")
		list, err := hpack.NewDecoder(0, nil).DecodeFull(appendField(nil, &f))
		if err != nil || len(list) != 1 || !list[0].Sensitive {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
}
