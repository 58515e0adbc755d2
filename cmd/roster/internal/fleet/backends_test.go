package fleet_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/fleet"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// golden compares text with a file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s, -want +got:\n%s", path, diff)
	}
}

// probed are backends as a node has them, one in each state there is.
const probed = `[
	{"name": "team-a/web-1", "health": {"state": "healthy", "admin": "auto", "since": "2026-11-21T09:00:00.5Z", "probe": {
		"good": 8, "window": 8, "threshold": 3, "state": "healthy", "probes": 12, "average_seconds": 0.001234, "text": "HTTP/1.1 200 OK",
		"rows": [{"name": "4", "bits": "0000000000000fff"}, {"name": "6", "bits": "0000000000000000"}, {"name": "U", "bits": "0000000000000000"},
			{"name": "x", "bits": "0000000000000000"}, {"name": "X", "bits": "0000000000000fff"},
			{"name": "r", "bits": "0000000000000000"}, {"name": "R", "bits": "0000000000000fff"}, {"name": "H", "bits": "0000000000003fff"}]}}},
	{"name": "web-2", "health": {"state": "sick", "admin": "auto", "since": "2026-11-21T09:10:00Z", "probe": {
		"good": 0, "window": 64, "threshold": 64, "state": "sick", "probes": 99, "stage": "status", "text": "HTTP/1.1 500 \u001b[31mNo, want 200",
		"rows": [{"name": "6", "bits": "ffffffffffffffff"}, {"name": "X", "bits": "ffffffffffffffff"}, {"name": "R", "bits": "ffffffffffffffff"}, {"name": "H", "bits": "0000000000000000"}]}}},
	{"name": "web-3", "health": {"state": "sick", "admin": "drain", "reason": "new disks", "since": "2026-11-21T09:11:00Z", "probe": {
		"good": 3, "window": 8, "threshold": 3, "state": "healthy", "probes": 1, "rows": [{"name": "U", "bits": "0000000000000001"}, {"name": "H", "bits": "0000000000000007"}]}}},
	{"name": "web-4", "health": {"state": "sick", "admin": "auto", "reason": "dangling: backends/gate", "since": "2026-11-21T09:12:00Z", "probe": null}},
	{"name": "web-5", "health": {"state": "healthy", "admin": "healthy", "since": "2026-11-21T09:13:00Z", "probe": null}},
	{"name": "web-6", "health": {"state": "sick", "admin": "auto", "since": "2026-11-21T09:14:00Z", "probe": {
		"good": 2, "window": 8, "threshold": 3, "state": "sick", "probes": 0, "rows": [{"name": "H", "bits": "0000000000000003"}]}}},
	{"name": "web-7", "health": {"state": "sick", "admin": "auto", "since": "2026-11-21T09:15:00Z", "probe": {
		"good": 0, "window": 1, "threshold": 1, "state": "sick", "probes": 0, "carried": true, "rows": [{"name": "H", "bits": "0000000000000000"}]}}},
	{"name": "web-8", "health": {"state": "sick", "admin": "auto", "since": "2026-11-21T09:16:00Z", "probe": {
		"good": 2, "window": 8, "threshold": 3, "state": "sick", "probes": 2, "text": "HTTP/1.1 200 OK", "rows": [{"name": "H", "bits": "0000000000000003"}]}}}
]`

func TestListIsVarnishs(t *testing.T) {
	t.Parallel()
	var all []fleet.Backend
	if err := json.Unmarshal([]byte(probed), &all); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := fleet.WriteList(&out, all); err != nil {
		t.Fatal(err)
	}
	golden(t, "list", out.String())
}

func TestStatusNamesTheSickAndWhy(t *testing.T) {
	t.Parallel()
	items := strings.Trim(strings.TrimSpace(probed), "[]")
	a := node(t, fine, items)
	better := strings.NewReplacer(`"good": 0, "window": 64`, `"good": 64, "window": 64`, `"state": "sick", "admin": "auto", "since": "2026-11-21T09:10:00Z"`, `"state": "healthy", "admin": "auto", "since": "2026-11-21T09:20:00Z"`)
	b := node(t, strings.Replace(fine, `"a"`, `"b"`, 1), better.Replace(items))
	for name, admins := range map[string][]string{"status-one": {a}, "status-two": {a, b}} {
		var f fleet.Fleet
		f.Ask(t.Context(), admins, time.Minute, true)
		var out strings.Builder
		if err := f.Write(&out); err != nil {
			t.Fatal(err)
		}
		_, health, _ := strings.Cut(out.String(), "\nhealthy: ")
		golden(t, name, "healthy: "+health)
		if name == "status-one" {
			out.Reset()
			if err := f.WriteLists(&out); err != nil {
				t.Fatal(err)
			}
			list, err := os.ReadFile("testdata/list.golden")
			if err != nil {
				t.Fatal(err)
			}
			if got := out.String(); got != "\nnode a\n"+string(list) {
				t.Errorf("with histories:\n%s", got)
			}
		}
	}
}

func TestStatusSaysWhyNoneIsSick(t *testing.T) {
	t.Parallel()
	var f fleet.Fleet
	f.Ask(t.Context(), []string{node(t, fine, `{"name": "nobody", "definition": {"none": true}, "health": {"state": "sick", "admin": "auto", "since": "2026-11-21T09:10:00Z", "probe": null}}`)}, time.Minute, false)
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	if want := "sick on a: nobody since Sat, 21 Nov 2026 09:10:00 GMT: it is none, which always fails\n"; !strings.Contains(out.String(), want) {
		t.Errorf("status is\n%s\nwant in it %s", out.String(), want)
	}
}

func TestStatusIsBounded(t *testing.T) {
	t.Parallel()
	var items []string
	for i := range 70 {
		items = append(items, backend(fmt.Sprintf("b%02d", i), "sick", 0))
	}
	var f fleet.Fleet
	f.Ask(t.Context(), []string{node(t, fine, strings.Join(items, ","))}, time.Minute, false)
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"healthy: 0 backends, sick: 70\n", "sick on a: b19", "and 50 more: roster status -o json", "\nb49 ", "and 20 more: roster status -o json"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "sick on a: b20") || strings.Contains(out.String(), "\nb50 ") {
		t.Errorf("too many:\n%s", out.String())
	}
}
