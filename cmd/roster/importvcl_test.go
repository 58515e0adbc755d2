package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/manifest"
	"roster/store/storetest"
)

const siteNotes = `testdata/vcl/rules.vcl:2:5: note: set req.backend_hint = www.backend() is not imported (sub vcl_recv); a route with backend=www sends requests there
3 backends, 1 probes, 1 directors and 1 routes imported, 1 statements not imported
`

func TestImportVCLWritesWhatApplyReads(t *testing.T) {
	t.Parallel()
	got := try(t, nil, "", "import-vcl", "testdata/vcl/site.vcl")
	want := `backends:
  web1:
    host: "10.0.0.1"
    port: 8080
    host_header: "10.0.0.1"
    probe: health
  web2:
    host: "10.0.0.2"
    probe:
      interval: "1s"
  spare:
    path: /run/spare.sock
    host_header: "0.0.0.0"
probes:
  health:
    url: /health
    window: 3
    threshold: 2
directors:
  www:
    type: random
    backends:
      -
        name: web1
        weight: 2
      - web2
routes:
  default:
    priority: -1000
    backend: web1
`
	if diff := cmp.Diff(want, got.out); got.code != exitDone || diff != "" {
		t.Errorf("code %d, -want +got:\n%s", got.code, diff)
	}
	first := "testdata/vcl/site.vcl:5:9: note: the first backend is VCL's default: the route default, last of all, sends to web1 what no other route matches\n"
	if diff := cmp.Diff(first+siteNotes, got.errors); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	asJSON := try(t, nil, "", "import-vcl", "testdata/vcl/site.vcl", "-o", "json")
	for name, text := range map[string]string{"a.yaml": got.out, "a.json": asJSON.out} {
		entries, err := manifest.Parse(name, []byte(text))
		if err != nil || len(entries) != 6 {
			t.Errorf("%s: %d definitions, %v", name, len(entries), err)
		}
	}
	data, err := os.ReadFile("testdata/vcl/site.vcl")
	if err != nil {
		t.Fatal(err)
	}
	piped := try(t, nil, string(data), "import-vcl", "-")
	if piped.out != got.out || !strings.HasPrefix(piped.errors, "stdin:5:9: note: ") {
		t.Errorf("from stdin: %+v", piped)
	}
}

func TestImportVCLReportsAllErrors(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"import-vcl testdata/vcl/bad.vcl", "import-vcl testdata/vcl/bad.vcl --apply --etcd 127.0.0.1:1"} {
		got := try(t, nil, "", strings.Fields(args)...)
		var at []string
		for line := range strings.Lines(got.errors) {
			at = append(at, strings.Join(strings.SplitN(line, ":", 5)[:4], ":"))
		}
		want := []string{"roster: testdata/vcl/bad.vcl:2:37", "roster: testdata/vcl/bad.vcl:2:60", "roster: testdata/vcl/bad.vcl:3:24", "roster: testdata/vcl/bad.vcl:3:58"}
		if got.code != exitInvalid || got.out != "" || !cmp.Equal(at, want) {
			t.Errorf("%s: %+v", args, got)
		}
	}
	if got := try(t, nil, "", "import-vcl", "testdata/vcl/none.vcl"); got.code != exitFailed {
		t.Errorf("a file that is not there: %+v", got)
	}
	for args, want := range map[string]string{
		"import-vcl": "roster: roster import-vcl takes a VCL file, or - for stdin",
		"import-vcl testdata/vcl/site.vcl -o vcl":          `roster: --output is "vcl", want yaml, json`,
		"import-vcl testdata/vcl/site.vcl -o json --apply": "roster: -o is of the definitions",
		"export routes --format vcl":                       "roster: VCL is written of backends and probes, not of routes",
		"export --format xml":                              `roster: --format is "xml", want yaml, json, vcl`,
	} {
		if got := try(t, nil, "", strings.Fields(args)...); got.code != exitUsage || !strings.HasPrefix(got.errors, want) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}

func TestImportVCLAppliesAndExportGivesItBack(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint(), "ROSTER_APPLY": "true"}
	do := func(stdin string, args ...string) result {
		t.Helper()
		got := try(t, env, stdin, args...)
		if got.code != exitDone {
			t.Fatalf("roster %s: %+v", strings.Join(args, " "), got)
		}
		return got
	}
	if got := do("", "import-vcl", "testdata/vcl/site.vcl"); !strings.HasPrefix(got.out, "backends:\n") {
		t.Errorf("the environment turned --apply on: %s", got.out)
	}
	do("", "put", "probe", "default", "url=/")
	dry := do("", "import-vcl", "testdata/vcl/site.vcl", "--dry-run")
	if !strings.HasSuffix(dry.out, "6 to create, 0 to change, 0 unchanged; nothing was written\n") {
		t.Errorf("dry run: %s", dry.out)
	}
	got := do("", "import-vcl", "testdata/vcl/site.vcl", "--apply")
	if !strings.HasSuffix(got.out, "created routes/default\n6 created, 0 changed, 0 unchanged, at revision 3\n") || !strings.HasSuffix(got.errors, siteNotes) ||
		!strings.HasPrefix(got.errors, "note: etcd has a probe default: it probes the 1 backends that have no probe in the VCL") {
		t.Errorf("%+v", got)
	}
	if got := do("", "import-vcl", "testdata/vcl/site.vcl", "--apply"); !strings.HasSuffix(got.out, "0 created, 0 changed, 6 unchanged, at revision 3\n") {
		t.Errorf("again: %+v", got)
	}

	// A file of VCL that is exported is imported as what it was.
	file := filepath.Join(t.TempDir(), "site.vcl")
	vcl := do("", "export", "--format", "vcl")
	if err := os.WriteFile(file, []byte(vcl.out), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := do("", "import-vcl", file, "--dry-run"); got.out != "0 to create, 0 to change, 6 unchanged; nothing was written\n" {
		t.Errorf("%s\nof\n%s", got.out, vcl.out)
	}

	// And one of YAML, or JSON, is all there is.
	for _, format := range []string{"yaml", "json"} {
		exported := do("", "export", "--format", format)
		if got := do(exported.out, "apply", "-f", "-", "--dry-run"); got.out != "0 to create, 0 to change, 7 unchanged; nothing was written\n" {
			t.Errorf("%s: %s", format, got.out)
		}
	}
}

// The commands in docs/VARNISH.md are what roster takes, and its notes what it says.
func TestVarnishPageHasCommandsAndNotes(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/VARNISH.md")
	if err != nil {
		t.Fatal(err)
	}
	puts := regexp.MustCompile(`(?m)^roster (put .*)$`).FindAllSubmatch(page, -1)
	if len(puts) < 4 {
		t.Errorf("%d commands that put, want 4", len(puts))
	}
	for _, put := range puts {
		if got := try(t, nil, "", append(strings.Fields(strings.ReplaceAll(string(put[1]), "'", "")), "--dry-run")...); got.code != exitDone {
			t.Errorf("roster %s: %+v", put[1], got)
		}
	}
	etcd := storetest.Etcd(t)
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint()}
	imports := regexp.MustCompile(`(?m)^roster ((?:import-vcl|export)[^>\n]*)`).FindAllSubmatch(page, -1)
	if len(imports) < 4 {
		t.Errorf("%d commands that import and export, want 4", len(imports))
	}
	for _, command := range imports {
		line := strings.ReplaceAll(string(command[1]), "/etc/varnish/default.vcl", "testdata/vcl/site.vcl")
		if got := try(t, env, "", strings.Fields(line)...); got.code != exitDone {
			t.Errorf("roster %s: %+v", line, got)
		}
	}
	said := try(t, nil, "", "import-vcl", "testdata/vcl/site.vcl").errors
	for line := range strings.Lines(said) {
		if _, note, ok := strings.Cut(line, " note: "); ok {
			line = note
		}
		if !strings.Contains(string(page), strings.TrimSpace(line)) {
			t.Errorf("the page has not %q", line)
		}
	}
}
