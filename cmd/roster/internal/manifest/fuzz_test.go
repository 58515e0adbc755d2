package manifest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/manifest"
)

// FuzzParse: no file crashes the parser, every error says which file, and what was
// read is the same when it is written and read again.
func FuzzParse(f *testing.F) {
	f.Add("backends:\n  a: {host: h, port: 80}\n")
	f.Add("{\"backends\": {\"a\": {\"host\": \"h\"}}}")
	f.Add("backends:\n  a: &a {host: h}\n  b: {<<: *a, labels: {x: \"1\"}}\n---\nhealth: {a: sick}\n")
	f.Add("directors:\n  d: {type: random, backends: [a, {name: b, weight: .5}]}\n")
	f.Add("routes:\n  r:\n    match: {host: \"*.foo.com\"}\n    respond:\n      status: 200\n      body: |\n        hello\n")
	f.Fuzz(func(t *testing.T, data string) {
		entries, err := manifest.Parse("f", []byte(data))
		if err != nil {
			if len(entries) != 0 {
				t.Fatalf("entries beside an error: %v", err)
			}
			return
		}
		file := manifest.Write(entries)
		if len(entries) == 0 {
			return
		}
		back, err := manifest.Parse("f", file)
		if err != nil {
			t.Fatalf("%v\nof %q\nwritten as %q", err, data, file)
		}
		if len(back) != len(entries) {
			t.Fatalf("%d entries, read back %d\n%s", len(entries), len(back), file)
		}
		want := map[string]any{}
		for _, e := range entries {
			want[e.Key.String()] = e.Definition
		}
		for _, e := range back {
			if diff := cmp.Diff(want[e.Key.String()], e.Definition); diff != "" {
				t.Fatalf("%s of %q, -read +read back:\n%s\n%s", e.Key, data, diff, file)
			}
		}
	})
}
