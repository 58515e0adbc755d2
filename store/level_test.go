package store

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// Of a schema with fields and values of later levels, what a value needs is told with its
// path; a field counts although it says what is the default, and a wrong value does not.
func TestNeedsAreThoseOfTheSchema(t *testing.T) {
	t.Parallel()
	type inner struct{ A, B string }
	type outer struct {
		Mode  string
		Inner *inner
		Count int
	}
	below := newSchema("inner",
		text("a", func(i *inner) *string { return &i.A }, "", nil),
		text("b", func(i *inner) *string { return &i.B }, "is", nil).since(3))
	s := newSchema("outer",
		choice("mode", func(o *outer) *string { return &o.Mode }, "old", "old", "new", "newer").valueSince(2, "new").valueSince(3, "newer"),
		object("inner", func(o *outer) **inner { return &o.Inner }, below, nil),
		integer("count", func(o *outer) *int { return &o.Count }, 0, 0, 9).since(2))
	for value, want := range map[string]string{
		`{}`:                              "",
		`{"mode": "old", "inner": {}}`:    "",
		`{"mode": "new"}`:                 `mode: is the value "new" of definition level 2`,
		`{ "mode" : "n\u0065wer" }`:       `mode: is the value "newer" of definition level 3`,
		`{"inner": {"a": "", "b": ""}}`:   "inner.b: is a field of definition level 3",
		`{"inner": {"b": "is"}}`:          "inner.b: is a field of definition level 3",
		`{"count": 0, "mode": "newer"}`:   `count: is a field of definition level 2; mode: is the value "newer" of definition level 3`,
		`{"mode": ["new"], "unknown": 1}`: "",
	} {
		d := &decoder{data: []byte(value)}
		s.read(d, new(outer))
		var got []string
		for _, n := range d.needs {
			got = append(got, n.String())
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s needs %q, want %q", value, got, want)
		}
	}
}

// Level is what the schema needs: a field or value above it would be refused by everybody.
func TestAllOfTheSchemaIsOfThisLevelOrLower(t *testing.T) {
	t.Parallel()
	for kind, level := range kindLevels {
		if level > Level || !slices.Contains(Kinds(), kind) {
			t.Errorf("%s came with level %d, and the release has %d", kind, level, Level)
		}
	}
	for kind, value := range map[Kind]string{
		Backends: `{"host": "a", "probe": {"url": "/"}, "tls": {}, "protocol": "h2", "labels": {"a": "b"}}`, Probes: `{"type": "grpc"}`,
		Directors: `{"type": "p2c", "backends": ["a"]}`, Routes: `{"backend": "a", "match": {"host": "a"}}`, HealthKind: "drain",
	} {
		if got := Needs(Key{kind, "a"}, []byte(value)); got != nil {
			t.Errorf("%s %s needs %v, want nothing above level 1", kind, value, got)
		}
	}
}

// A kind may come with a level as a whole.
func TestAKindMayNeedALevel(t *testing.T) {
	kindLevels[Probes] = 2
	defer delete(kindLevels, Probes)
	if got := fmt.Sprint(Needs(Key{Probes, "a"}, []byte("{}"))); got != "[is a kind of definition level 2]" {
		t.Errorf("a probe needs %s", got)
	}
}
