package tracing

import (
	"fmt"
	"strings"
	"testing"
)

func TestState(t *testing.T) {
	t.Parallel()
	members := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("k%d=v", i))
		}
		return strings.Join(all, ",")
	}
	long := func(key string, n int) string { return key + "=" + strings.Repeat("x", n-len(key)-1) }
	for _, row := range []struct {
		name  string
		lines []string
		want  string
	}{
		{"none", nil, ""},
		{"empty", []string{""}, ""},
		{"one member", []string{"rojo=00f067aa0ba902b7"}, "rojo=00f067aa0ba902b7"},
		{"as it came, spaces included", []string{"congo=t61rcWkgMzE ,\trojo=a b"}, "congo=t61rcWkgMzE ,\trojo=a b"},
		{"keys with tenants and digits", []string{"0tenant@sys=1,a_-*/=2"}, "0tenant@sys=1,a_-*/=2"},
		{"empty members", []string{"a=1,, ,b=2"}, "a=1,, ,b=2"},
		{"two fields are one list", []string{"a=1", "b=2, c=3"}, "a=1,b=2,c=3"},
		{"an empty field besides", []string{"a=1", ""}, "a=1"},
		{"32 members", []string{members(32)}, members(32)},
		{"the longest key and value", []string{strings.Repeat("k", 256) + "=1", "v=" + strings.Repeat("x", 253)}, strings.Repeat("k", 256) + "=1"},

		{"33 members", []string{members(33)}, ""},
		{"33 members in two fields", []string{members(20), strings.ReplaceAll(members(13), "k", "l")}, ""},
		{"a key twice", []string{"a=1,b=2,a=3"}, ""},
		{"a key twice, in two fields", []string{"a=1", "a=1"}, ""},
		{"a key that begins another", []string{"ab=1,a=2"}, "ab=1,a=2"},
		{"no value", []string{"a=1,b="}, ""},
		{"no key", []string{"=1"}, ""},
		{"no member", []string{"a=1,b"}, ""},
		{"two equals signs", []string{"a=1=2"}, ""},
		{"capitals in a key", []string{"A=1"}, ""},
		{"a key that begins with a sign", []string{"_a=1"}, ""},
		{"a key too long", []string{strings.Repeat("k", 257) + "=1"}, ""},
		{"a value too long", []string{"a=" + strings.Repeat("x", 257)}, ""},
		{"no ASCII", []string{"a=\xc3\xa9"}, ""},
		{"control characters", []string{"a=\x01"}, ""},

		{"512 bytes", []string{long("a", 256) + "," + long("b", 255)}, long("a", 256) + "," + long("b", 255)},
		{"513 bytes lose a long member, though it is not the last", []string{"a=1," + long("b", 250) + "," + long("c", 255) + ",d=4"}, "a=1," + long("b", 250) + ",d=4"},
		{"long members go from the end", []string{long("a", 250) + "," + long("b", 250) + ",c=3," + long("d", 250)}, long("a", 250) + "," + long("b", 250) + ",c=3"},
		{"then others", []string{long("a", 128) + "," + long("b", 128) + "," + long("c", 128) + "," + long("d", 128)}, long("a", 128) + "," + long("b", 128) + "," + long("c", 128)},
		{"513 bytes in two fields", []string{long("a", 256), long("b", 256)}, long("a", 256)},
	} {
		var lines []string
		for _, line := range row.lines {
			lines = append(lines, "tracestate", line)
		}
		if got := string(state(head(lines...))); got != row.want {
			t.Errorf("%s: %q becomes %q, want %q", row.name, row.lines, got, row.want)
		}
	}
}
