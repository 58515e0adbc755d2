package message

import (
	"strings"
	"testing"
)

func TestSlotsArePerfect(t *testing.T) {
	seen := map[uint8]string{}
	for _, name := range names {
		if name == "" {
			continue
		}
		s := slot([]byte(name))
		if other := seen[s]; other != "" {
			t.Errorf("%s and %s share slot %d", name, other, s)
		}
		seen[s] = name
	}
}

func TestLookupKnowsEveryName(t *testing.T) {
	t.Parallel()
	for id, name := range names {
		if name == "" {
			continue
		}
		for _, spelt := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if got := Lookup([]byte(spelt)); got != ID(id) {
				t.Errorf("Lookup(%q) = %d (%s), want %d", spelt, got, got, id)
			}
			if got := Lookup([]byte(spelt + "x")); got != Other && got != XForwardedOther {
				t.Errorf("Lookup(%q) = %s, want Other", spelt+"x", got)
			}
		}
	}
}

func TestLookup(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]ID{
		"":                   Other,
		"x":                  Other,
		"hos":                Other,
		"h\x0fst":            Other,
		"X-Forwarded":        Other,
		"X-Forwarded-":       Other,
		"X-FORWARDED-Prefix": XForwardedOther,
		"x-forwarded-for":    XForwardedFor,
		"x\rforwarded-for":   Other,
		"content\rlength":    Other,
		"Content_Length":     Other,
	} {
		if got := Lookup([]byte(name)); got != want {
			t.Errorf("Lookup(%q) = %d, want %d", name, got, want)
		}
	}
}

func TestEqualFoldIsExact(t *testing.T) {
	t.Parallel()
	const lower = "az09-az09-a"
	for at := range len(lower) {
		for c := range 256 {
			b := []byte(lower)
			b[at] = byte(c)
			want := b[at] == lower[at] || 'A' <= b[at] && b[at] <= 'Z' && b[at]|0x20 == lower[at]
			if got := EqualFold(b, lower); got != want {
				t.Errorf("EqualFold(%q, %q) = %v, want %v", b, lower, got, want)
			}
		}
	}
}

func TestNextToken(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"":                     "",
		" , ,\t":               "",
		"close":                "close",
		"close, keep-alive":    "close|keep-alive",
		",a ,,\tb c\t, d":      "a|b c|d",
		"Upgrade,HTTP2-Set,\t": "Upgrade|HTTP2-Set",
	} {
		var got []string
		for token, rest := NextToken([]byte(list)); len(token) > 0; token, rest = NextToken(rest) {
			got = append(got, string(token))
		}
		if s := strings.Join(got, "|"); s != want {
			t.Errorf("tokens of %q = %q, want %q", list, s, want)
		}
	}
	if !HasToken([]byte("a, Close"), "close") || HasToken([]byte("a, closed"), "close") {
		t.Error("HasToken is wrong about close")
	}
}

func TestGetTellsEmptyFromAbsent(t *testing.T) {
	t.Parallel()
	r := Request{Fields: []Field{New(Host, nil), New(Via, []byte("1.1 a")), New(Via, []byte("1.1 b"))}}
	if got := r.Get(Host); got == nil || len(got) != 0 {
		t.Errorf("Get(Host) = %#v, want empty", got)
	}
	if got := string(r.Get(Via)); got != "1.1 a" {
		t.Errorf("Get(Via) = %q, want the first", got)
	}
	if got := r.Get(Cookie); got != nil {
		t.Errorf("Get(Cookie) = %q, want nil", got)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	name := []byte("Content-Length")
	if n := testing.AllocsPerRun(100, func() { Lookup(name) }); n != 0 {
		t.Errorf("Lookup allocates %v times", n)
	}
}

func BenchmarkLookup(b *testing.B) {
	for _, name := range []string{"Host", "Transfer-Encoding", "X-Forwarded-For", "Sec-Fetch-Mode"} {
		b.Run("name="+name, func(b *testing.B) {
			n := []byte(name)
			b.ReportAllocs()
			for b.Loop() {
				Lookup(n)
			}
		})
	}
}

func TestResetKeepsRoomForFields(t *testing.T) {
	t.Parallel()
	r := Request{Method: []byte("GET"), Length: 3, Fields: make([]Field, 2, 8)}
	r.Reset()
	if r.Method != nil || r.Length != 0 || len(r.Fields) != 0 || cap(r.Fields) != 8 {
		t.Errorf("request after Reset: %+v", r)
	}
	s := Response{Status: 200, Bodiless: true, Fields: make([]Field, 2, 8)}
	s.Reset()
	if s.Status != 0 || s.Bodiless || len(s.Fields) != 0 || cap(s.Fields) != 8 {
		t.Errorf("response after Reset: %+v", s)
	}
}
