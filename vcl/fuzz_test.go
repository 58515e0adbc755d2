package vcl_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"

	"roster/store"
	"roster/vcl"
)

// FuzzParse: no file crashes the parser; all positions are within the file; what it makes
// is valid, and what is written of it is read as it was.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.vcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range seeds {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(data))
	}
	f.Fuzz(func(t *testing.T, data string) {
		within := func(p vcl.Position) {
			lines := strings.Split(data, "\n")
			if p.File != "f.vcl" || p.Line < 1 || p.Line > len(lines) || p.Column < 1 || p.Column > len(lines[p.Line-1])+1 {
				t.Fatalf("%v is not in the file", p)
			}
		}
		result, err := vcl.Parse("f.vcl", data, nil)
		if err != nil {
			if result != nil {
				t.Fatal("a result beside an error")
			}
			errs := err.(*multierror.Error).Errors
			if len(errs) == 0 || len(errs) > 101 {
				t.Fatalf("%d errors", len(errs))
			}
			for _, err := range errs {
				within(err.(*vcl.Error).Position)
				oneLine(t, err.Error())
			}
			return
		}
		for _, n := range result.Notes {
			within(n.Position)
			oneLine(t, n.Text)
		}
		for _, d := range result.Definitions {
			within(d.Position)
			def, _, err := store.Decode(d.Key, store.Encode(d.Definition), store.Reject)
			if err != nil {
				t.Fatalf("%s: %v", d.Key, err)
			}
			if diff := cmp.Diff(d.Definition, def); diff != "" {
				t.Fatalf("%s is not as roster apply reads it: %s", d.Key, diff)
			}
		}
		var b bytes.Buffer
		if _, err := vcl.Write(&b, result.Definitions); err != nil {
			t.Fatal(err)
		}
		again, err := vcl.Parse("w.vcl", b.String(), nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, &b)
		}
		if strings.Contains(b.String(), "\n    # ") || strings.Contains(b.String(), " is left out: ") {
			return // VCL has not all of it
		}
		got := definitions(again)
		for _, d := range result.Definitions {
			if k := d.Key; k.Kind == store.Backends || k.Kind == store.Probes {
				if diff := cmp.Diff(d.Definition, got[k]); diff != "" {
					t.Fatalf("%s, -was +is:\n%s\n%s", k, diff, &b)
				}
			}
		}
	})
}

// oneLine wants text that is one line on a terminal.
func oneLine(t *testing.T, s string) {
	t.Helper()
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			t.Fatalf("%q has a control character", s)
		}
	}
}
