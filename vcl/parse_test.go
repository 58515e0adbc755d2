package vcl_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"

	"roster/store"
	"roster/vcl"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// files are the VCL files of testdata.
func files(t *testing.T) []string {
	t.Helper()
	all, err := filepath.Glob("testdata/*.vcl")
	if err != nil || len(all) < 15 {
		t.Fatalf("%d files, %v", len(all), err)
	}
	return all
}

func parse(t *testing.T, file string) (*vcl.Result, error) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return vcl.Parse(file, string(data), vcl.FromDisk)
}

// Each file gives the definitions, the notes and the errors that stand beside it.
func TestFiles(t *testing.T) {
	t.Parallel()
	for _, file := range files(t) {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			result, err := parse(t, file)
			var b strings.Builder
			if err != nil {
				for _, err := range err.(*multierror.Error).Errors {
					fmt.Fprintln(&b, "error:", err)
				}
			} else {
				for _, d := range result.Definitions {
					fmt.Fprintf(&b, "%s: %s %s\n", d.Position, d.Key, store.Encode(d.Definition))
				}
				for _, n := range result.Notes {
					word := "note"
					if n.Skipped {
						word = "skipped"
					}
					fmt.Fprintf(&b, "%s: %s: %s\n", n.Position, word, n.Text)
				}
			}
			if failed := strings.HasPrefix(filepath.Base(file), "error-"); failed != (err != nil) {
				t.Errorf("an error is wanted: %v, and it is\n%v", failed, err)
			}
			golden := strings.TrimSuffix(file, ".vcl") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("-want +got (go test ./vcl -run TestFiles -update rewrites it):\n%s", diff)
			}
		})
	}
}

// Between them the files that are read use every attribute of backends and probes.
func TestFilesUseEveryAttribute(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	for _, file := range files(t) {
		if strings.Contains(file, "error-") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	for _, attribute := range []string{
		"host", "port", "path", "host_header", "connect_timeout", "first_byte_timeout", "between_bytes_timeout",
		"max_connections", "proxy_header", "preamble", "probe", "via", "authority", "wait_limit", "wait_timeout",
		"url", "request", "expected_response", "timeout", "interval", "initial", "window", "threshold", "expect_close",
	} {
		if !bytes.Contains(all.Bytes(), []byte("."+attribute+" =")) {
			t.Errorf("no file has .%s", attribute)
		}
	}
}

// What is written of a file's backends and probes is read as they were.
func TestWrittenFilesAreReadAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, file := range files(t) {
		result, err := parse(t, file)
		if err != nil {
			continue
		}
		var b bytes.Buffer
		if _, err := vcl.Write(&b, result.Definitions); err != nil {
			t.Fatal(err)
		}
		again, err := vcl.Parse("written.vcl", b.String(), nil)
		if strings.Contains(b.String(), "is not among") {
			continue // it refers to what the file does not declare
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", file, err, &b)
			continue
		}
		got := definitions(again)
		for _, d := range result.Definitions {
			if k := d.Key; k.Kind == store.Backends || k.Kind == store.Probes {
				if diff := cmp.Diff(d.Definition, got[k]); diff != "" {
					t.Errorf("%s: %s, -was +is:\n%s\n%s", file, k, diff, &b)
				}
			}
		}
	}
}

func definitions(r *vcl.Result) map[store.Key]store.Definition {
	all := map[store.Key]store.Definition{}
	for _, d := range r.Definitions {
		all[d.Key] = d.Definition
	}
	return all
}

func TestWrite(t *testing.T) {
	t.Parallel()
	var all []vcl.Definition
	for _, d := range [][3]string{
		{"backends", "oldest", `{"host": "10.0.0.1", "port": 8080, "probe": "none", "labels": {"app": "web"}, "comment": "first\nof */ all", "pool": "p", "reuse": false, "tunnel_timeout": "2h", "idle_timeout": "1s", "override_host": true}`},
		{"backends", "tls", `{"host": "10.0.0.1", "tls": {}}`},
		{"backends", "h2c", `{"host": "10.0.0.1", "protocol": "h2c"}`},
		{"backends", "team-a/web", `{"host": "10.0.0.1"}`},
		{"backends", "vcl_x", `{"host": "10.0.0.1"}`},
		{"backends", "far", `{"host": "example.com", "via": "oldest", "probe": "grpc"}`},
		{"backends", "lost", `{"host": "example.com", "via": "tls"}`},
		{"backends", "exact", `{"host": "10.0.0.9", "first_byte_timeout": "1.5us", "connect_timeout": "1234.5us", "wait_timeout": "90061.25s", "probe": {"port": 81}, "authority": "a.example"}`},
		{"backends", "nobody", `{"none": true, "labels": {"a": "b"}}`},
		{"backends", "p", `{"host": "10.0.0.9"}`},
		{"backends", "sock", `{"path": "/run/a\"}\"\"\"b"}`},
		{"probes", "p", `{"request": ["GET / HTTP/1.1", "A: \"}", "B: \"\"\"", ""]}`},
		{"probes", "odd", `{"request": ["GET / HTTP/1.1", "A: \"} \"\"\""]}`},
		{"probes", "grpc", `{"type": "grpc"}`},
		{"probes", "default", `{"url": "/\"x", "window": 9, "initial": 3}`},
		{"routes", "r", `{"backend": "oldest"}`},
	} {
		k := store.Key{Kind: store.Kind(d[0]), Name: d[1]}
		def, _, err := store.Decode(k, []byte(d[2]), store.Reject)
		if err != nil {
			t.Fatal(k, err)
		}
		all = append(all, vcl.Definition{Key: k, Definition: def})
	}
	var b bytes.Buffer
	left, err := vcl.Write(&b, all)
	if err != nil || left != strings.Count(b.String(), " is left out: ")-1 { // one is of a probe within a backend
		t.Errorf("%d are left out, %v", left, err)
	}
	const golden = "testdata/write.golden"
	if *update {
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := vcl.Parse("write.golden", b.String(), nil); err != nil {
		t.Errorf("what is written is not VCL: %v", err)
	}
}

// Without a way to read files an include is a note, and names may be elsewhere.
func TestIncludesThatAreNotFollowed(t *testing.T) {
	t.Parallel()
	r, err := vcl.Parse("a.vcl", `vcl 4.1; include "b.vcl"; backend a { .host = "h"; .probe = p; } sub vcl_init { new x = directors.random(); x.add_backend(b, 1); y.add(a); call c; }`, nil)
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	for _, n := range r.Notes {
		notes = append(notes, n.String())
	}
	want := []string{
		`a.vcl:1:10: include "b.vcl" is not followed`,
		`a.vcl:1:35: the first backend is VCL's default: the route default, last of all, sends to a what no other route matches`,
		`a.vcl:1:61: p is not declared here, perhaps in a file that is not followed: define it too`,
		`a.vcl:1:123: b is not declared here, perhaps in a file that is not followed: define it too`,
		`a.vcl:1:130: y.add(a) is not imported (sub vcl_init)`,
		`a.vcl:1:140: call c is not imported (sub vcl_init)`,
	}
	if diff := cmp.Diff(want, notes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Includes cannot make a small file a large one.
func TestIncludesAreLimited(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		include vcl.Include
		want    string
	}{
		"deep": {func(from []string, _ string, _ bool) ([]vcl.File, error) {
			return []vcl.File{{Name: fmt.Sprint("f", len(from)), Text: `include "x";`}}, nil
		}, `f16:1:1: include "x" is nested deeper than 16`},
		"many": {func(from []string, _ string, _ bool) ([]vcl.File, error) {
			return []vcl.File{{Name: fmt.Sprint("f", len(from)), Text: strings.Repeat(`include "x";`, 10)}}, nil
		}, `all files together are more than 1000`},
		"itself": {func([]string, string, bool) ([]vcl.File, error) {
			return []vcl.File{{Name: "a.vcl"}}, nil
		}, `a.vcl:1:10: include "a.vcl" includes itself`},
		"large": {func([]string, string, bool) ([]vcl.File, error) {
			return []vcl.File{{Name: "b.vcl", Text: strings.Repeat(" ", 17<<20)}}, nil
		}, `more than 16 MiB`},
		"unreadable": {func([]string, string, bool) ([]vcl.File, error) {
			return nil, errors.New("no luck")
		}, `a.vcl:1:10: include "x": no luck`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := vcl.Parse("a.vcl", `vcl 4.1; include "x";`, test.include)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %.200v, want %s", err, test.want)
			}
		})
	}
}

// Subs that call others twice would double the work with each.
func TestCallsAreLimited(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("vcl 4.1; sub vcl_init { call s0; }")
	for i := range 40 {
		fmt.Fprintf(&b, "sub s%d { call s%d; call s%d; }", i, i+1, i+1)
	}
	b.WriteString("sub s40 { return; }")
	_, err := vcl.Parse("a.vcl", b.String(), nil)
	if err == nil || !strings.Contains(err.Error(), "is called by vcl_init too often") {
		t.Errorf("got %v", err)
	}
}

func TestErrorsAreCounted(t *testing.T) {
	t.Parallel()
	_, err := vcl.Parse("a.vcl", "vcl 4.1;"+strings.Repeat("x;", 1000), nil)
	errs := err.(*multierror.Error).Errors
	if got := errs[len(errs)-1].Error(); len(errs) != 101 || got != "a.vcl:1:209: and 900 more errors from here on" {
		t.Errorf("%d errors, the last %s", len(errs), got)
	}
}

func TestCounts(t *testing.T) {
	t.Parallel()
	r, err := parse(t, "testdata/shop.vcl")
	if err != nil {
		t.Fatal(err)
	}
	got := []int{r.Count(store.Backends), r.Count(store.Probes), r.Count(store.Directors), r.Count(store.Routes), r.Skipped()}
	if want := []int{3, 1, 2, 1, 13}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
