package show_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/show"
	"roster/store"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// values are definitions of every kind, some of them invalid.
var values = []string{
	`backends/web-1 {"host":"10.0.0.7","port":8080,"labels":{"app":"web","version":"2"}}`,
	`backends/team-a/web-2 {"host":"::1","tls":{},"probe":"none"}`,
	`backends/sock {"path":"/run/web.sock","probe":{"url":"/x"}}`,
	`backends/none {"none":true}`,
	`backends/bad {"host":"h","prt":80,"port":0}`,
	`backends/worse {`,
	`probes/light {"url":"/health","interval":"1m","threshold":2,"window":3}`,
	`probes/raw {"request":["GET / HTTP/1.1","Host: x"]}`,
	`probes/grpc {"type":"grpc","service":"web"}`,
	`directors/default {"type":"round_robin","backends":["web-1",{"name":"team-a/web-2","weight":0.5}],"select":{"app":"web"}}`,
	`directors/long {"type":"random","backends":["aaaaaaaaaaaaaaaaaaaa","bbbbbbbbbbbbbbbbbbbbbb","cccccccccccccccccccc","dddddddddddddddddd"]}`,
	`routes/java {"match":{"host":["*.foo.com","foo.com"],"path":"/java/*"},"backend":"java","priority":10}`,
	`routes/teapot {"respond":{"status":418}}`,
	`health/web-1 sick`,
	`health/web-2 {"state":"drain","reason":"disk \u001b[31m is\nfull","by":"ann"}`,
}

func list(t *testing.T, kind store.Kind) []store.Entry {
	t.Helper()
	var all []store.Entry
	for i, v := range values {
		name, value, _ := strings.Cut(v, " ")
		key, ok := store.ParseKey(name)
		if !ok {
			t.Fatal(name)
		}
		if key.Kind == kind {
			all = append(all, store.Entry{Key: key, ModRevision: int64(i + 10), Value: []byte(value)})
		}
	}
	return all
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v (go test -update writes it)", err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s, -want +got:\n%s", file, diff)
	}
}

func TestTables(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	for _, kind := range store.Kinds() {
		if err := show.Table(&out, kind, list(t, kind), 0); err != nil {
			t.Fatal(err)
		}
		out.WriteString("\n")
	}
	golden(t, "tables", out.Bytes())
}

func TestJSON(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := show.JSON(&out, show.List{Revision: 99, Items: show.Items(append(list(t, store.Backends), list(t, store.HealthKind)...))}); err != nil {
		t.Fatal(err)
	}
	golden(t, "json", out.Bytes())
}

func TestYAMLIsReadBack(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var n int
	var all []store.Entry
	for _, kind := range store.Kinds() {
		for _, e := range list(t, kind) {
			if _, _, err := store.Decode(e.Key, e.Value, store.Reject); err == nil {
				all = append(all, e)
				n++
			}
		}
	}
	if err := show.YAML(&out, all); err != nil {
		t.Fatal(err)
	}
	golden(t, "yaml", out.Bytes())
	back, err := manifest.Parse("f", out.Bytes())
	if err != nil || len(back) != n {
		t.Errorf("%d definitions read back, want %d: %v", len(back), n, err)
	}
}

func TestTablesFitTheirWidth(t *testing.T) {
	t.Parallel()
	for _, kind := range store.Kinds() {
		for columns := 40; columns <= 120; columns++ {
			var out bytes.Buffer
			if err := show.Table(&out, kind, list(t, kind), columns); err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out.String()) {
				if n := len([]rune(strings.TrimRight(line, " \n"))); n > columns {
					t.Fatalf("%s in %d columns has a line of %d: %s", kind, columns, n, line)
				}
				if fields := strings.Fields(line); len(fields) < 2 {
					t.Fatalf("%s in %d columns says nothing: %s", kind, columns, line)
				}
			}
		}
	}
	var out bytes.Buffer
	if err := show.Table(&out, store.Backends, list(t, store.Backends), 60); err != nil {
		t.Fatal(err)
	}
	golden(t, "narrow", out.Bytes())
}

func TestCertificateKeysAreNeverShown(t *testing.T) {
	t.Parallel()
	const secret = "c2VjcmV0"
	key := store.Key{Kind: store.Certificates, Name: "www"}
	for _, value := range []string{
		`{"cert":"x","key":"-----BEGIN PRIVATE KEY-----\n` + secret + `\n-----END PRIVATE KEY-----\n"}`,
		`{"cert":"-----BEGIN PRIVATE KEY-----\n` + secret + `\n-----END PRIVATE KEY-----\n","key":["` + secret + `"]}`,
		`{"kee":"` + secret + `"}`,
		`-----BEGIN PRIVATE KEY-----` + secret,
	} {
		e := store.Entry{Key: key, ModRevision: 1, Value: []byte(value)}
		var out bytes.Buffer
		for _, err := range []error{
			show.Table(&out, key.Kind, []store.Entry{e}, 0),
			show.JSON(&out, show.Of(e)),
			show.YAML(&out, []store.Entry{e}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		if strings.Contains(out.String(), secret) {
			t.Errorf("the key of %s is shown:\n%s", value, out.String())
		}
	}
}
