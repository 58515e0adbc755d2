package assign_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/assign"
	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

func key(t testing.TB, s string) store.Key {
	k, ok := store.ParseKey(s)
	if !ok {
		t.Fatalf("%q is no key", s)
	}
	return k
}

func TestValue(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ key, words, want string }{
		"numbers and strings":      {"backends/a", "host=10.0.0.7 port=8080", `{"host":"10.0.0.7","port":8080}`},
		"a port by name":           {"backends/a", "host=h port=http-alt", `{"host":"h","port":"http-alt"}`},
		"nested":                   {"backends/a", "host=h probe.url=/x probe.window=4", `{"host":"h","probe":{"url":"/x","window":4}}`},
		"a probe by name":          {"backends/a", "host=h probe=light", `{"host":"h","probe":"light"}`},
		"an empty object":          {"backends/a", "host=h tls={}", `{"host":"h","tls":{}}`},
		"true":                     {"backends/a", "none=true", `{"none":true}`},
		"a string like a number":   {"backends/a", "host=h comment=123 labels.version=2 labels.on=true", `{"host":"h","comment":"123","labels":{"version":"2","on":"true"}}`},
		"names with dots":          {"backends/a", "host=h labels.app.kubernetes.io/name=web", `{"host":"h","labels":{"app.kubernetes.io/name":"web"}}`},
		"durations":                {"backends/a", "host=h connect_timeout=1.4s idle_timeout=1d", `{"host":"h","connect_timeout":"1.4s","idle_timeout":"1d"}`},
		"nothing":                  {"backends/a", "host=h comment=", `{"host":"h","comment":""}`},
		"an equals sign":           {"backends/a", "host=h comment=a=b", `{"host":"h","comment":"a=b"}`},
		"a list split at commas":   {"directors/d", "type=random backends=a,b", `{"type":"random","backends":["a","b"]}`},
		"a list of one":            {"directors/d", "type=random backends=a", `{"type":"random","backends":["a"]}`},
		"a list of words":          {"directors/d", "type=random backends=a backends=b", `{"type":"random","backends":["a","b"]}`},
		"a list as JSON":           {"directors/d", `type=random backends=["a",{"name":"b","weight":2}]`, `{"type":"random","backends":["a",{"name":"b","weight":2}]}`},
		"one where many may be":    {"routes/r", "match.host=*.foo.com match.path=/a,/b backend=b", `{"match":{"host":"*.foo.com","path":"/a,/b"},"backend":"b"}`},
		"many where one may be":    {"routes/r", "match.host=a.com match.host=b.com backend=b", `{"match":{"host":["a.com","b.com"]},"backend":"b"}`},
		"a header":                 {"routes/r", "match.header.x-version=2 backend=b", `{"match":{"header":{"x-version":"2"}},"backend":"b"}`},
		"a health state with text": {"health/a", "state=sick reason=disk", `{"state":"sick","reason":"disk"}`},
		"an abstract socket":       {"backends/a", "path=@sock", `{"path":"@sock"}`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := assign.Value(key(t, test.key), strings.Fields(test.words))
			if err != nil {
				t.Fatalf("%s: %v", test.words, err)
			}
			if diff := cmp.Diff(test.want, string(got)); diff != "" {
				t.Errorf("%s, -want +got:\n%s", test.words, diff)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		key, words string
		want       []string // beginnings
	}{
		"all at once":        {"backends/a", "host=h prot=80 port=99999 connect_timeout=5 none=perhaps", []string{"prot: is not a field", "port: is 99999", "connect_timeout: is 5", "none: is the string \"perhaps\""}},
		"no equals sign":     {"backends/a", "web =x", []string{`"web" is not of the form`, `"=x" is not of the form`}},
		"whole and parts":    {"backends/a", "host=h probe=light probe.url=/x", []string{"probe is given as a whole and in parts: probe.url"}},
		"a file that is not": {"certificates/c", "cert=@testdata/none.pem key=x", []string{"cert: open testdata/none.pem"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := assign.Value(key(t, test.key), strings.Fields(test.words))
			if err == nil {
				t.Fatalf("%s: no error", test.words)
			}
			got := manifest.Each(err)
			for i, err := range got {
				if i >= len(test.want) || !strings.HasPrefix(err.Error(), test.want[i]) {
					t.Errorf("%s: error %d is %v", test.words, i, err)
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("%s: %d errors, want %q", test.words, len(got), test.want)
			}
		})
	}
}

func TestPEMFromAFile(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte("no PEM\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := assign.Value(key(t, "backends/a"), []string{"host=h", "tls.ca=@" + file})
	if err == nil || !strings.Contains(err.Error(), "tls.ca: ") || strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error about what the file holds", err)
	}
}

func Example() {
	key := store.Key{Kind: store.Backends, Name: "web-1"}
	value, err := assign.Value(key, []string{"host=10.0.0.7", "port=8080", "probe.url=/health", "labels.version=2"})
	fmt.Println(string(value), err)
	// Output:
	// {"host":"10.0.0.7","port":8080,"probe":{"url":"/health"},"labels":{"version":"2"}} <nil>
}

// FuzzValue: no words crash it, and what it makes is a definition.
func FuzzValue(f *testing.F) {
	f.Add("backends/a", "host=h port=80 labels.x=1")
	f.Add("directors/d", "type=random backends=a,b")
	f.Add("routes/r", "match.header.x.y=1 backend=b priority=-1")
	f.Fuzz(func(t *testing.T, name, words string) {
		k, ok := store.ParseKey(name)
		if !ok || strings.Contains(words, "@") {
			return
		}
		value, err := assign.Value(k, strings.Fields(words))
		if err != nil {
			return
		}
		if _, _, err := store.Decode(k, value, store.Reject); err != nil {
			t.Fatalf("%s of %q: %v", value, words, err)
		}
	})
}
