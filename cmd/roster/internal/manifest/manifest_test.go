package manifest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/manifest"
	"roster/store"
)

func TestParse(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		data string
		want []string // "key value @line"
	}{
		"flow and block": {
			data: "# two\nbackends:\n  web-1: {host: 10.0.0.7, port: 8080} # one\n  team-a/web-2:\n    # below\n    host: 10.0.0.8\n",
			want: []string{`backends/web-1 {"host":"10.0.0.7","port":8080} @3`, `backends/team-a/web-2 {"host":"10.0.0.8"} @4`},
		},
		"singular kinds": {
			data: "backend: {a: {none: true}}\nprobe: {p: {}}\n",
			want: []string{`backends/a {"none":true} @1`, `probes/p {} @2`},
		},
		"several documents": {
			data: "---\nbackends: {a: {none: true}}\n---\n---\nbackends: {b: {none: true}}\n",
			want: []string{`backends/a {"none":true} @2`, `backends/b {"none":true} @5`},
		},
		"health as text and as an object": {
			data: "health:\n  a: drain\n  b: {state: sick, reason: disk}\n",
			want: []string{`health/a drain @2`, `health/b {"state":"sick","reason":"disk"} @3`},
		},
		"anchors and merge keys": {
			data: "backends:\n  a: &base {host: h, port: 80, labels: {x: web}}\n  b:\n    <<: *base\n    port: 81\n  c:\n    port: 82\n    <<: *base\n",
			want: []string{
				`backends/a {"host":"h","port":80,"labels":{"x":"web"}} @2`,
				`backends/b {"port":81,"host":"h","labels":{"x":"web"}} @3`,
				`backends/c {"port":82,"host":"h","labels":{"x":"web"}} @6`,
			},
		},
		"words that YAML 1.1 takes for true and false": {
			data: "backends:\n  n: {none: yes, labels: {on: off, y: \"no\", 1: No, true: n}, comment: on}\n  y: {host: off, reuse: Off, comment: 2026-11-21}\n",
			want: []string{
				`backends/n {"none":true,"labels":{"on":"off","y":"no","1":"No","true":"n"},"comment":"on"} @2`,
				`backends/y {"host":"off","reuse":false,"comment":"2026-11-21"} @3`,
			},
		},
		"a list of merged maps": {
			data: "backends:\n  a: {<<: [&x {host: h, port: 1}, {port: 2, comment: c}]}\n  b: *x\n",
			want: []string{`backends/a {"host":"h","port":1,"comment":"c"} @2`, `backends/b {"host":"h","port":1} @3`},
		},
		"a heading with nothing below": {data: "backends:\ndirectors:\n"},
		"JSON": {
			data: "{\"backends\": {\n\t\"a\": {\"host\": \"h\", \"comment\": \"\\ud83d\\ude00 \\/\"}}}\n{\"probes\": {\"p\": {}}}",
			want: []string{"backends/a {\"host\":\"h\",\"comment\":\"\U0001f600 /\"} @2", `probes/p {} @3`},
		},
		"YAML that begins like JSON": {
			data: "{backends: {a: {host: h}}}",
			want: []string{`backends/a {"host":"h"} @1`},
		},
		"a byte order mark": {
			data: "\xef\xbb\xbfbackends: {a: {host: h}}",
			want: []string{`backends/a {"host":"h"} @1`},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			entries, err := manifest.Parse("f", []byte(test.data))
			if err != nil {
				t.Fatalf("Parse(%q): %v", test.data, err)
			}
			var got []string
			for _, e := range entries {
				got = append(got, fmt.Sprintf("%s %s @%d", e.Key, e.Value, e.Line))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("Parse(%q), -want +got:\n%s", test.data, diff)
			}
		})
	}
}

func TestAllErrorsAreReportedWithTheirPlaces(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		file, data string
		want       []string // beginnings of the errors
	}{
		"of fields": {
			data: "backends:\n  a:\n    host: h\n    prt: 80\n    labels: {app: web, version: 2}\n  b: {host: h, port: 99999}\n",
			want: []string{
				`f:4:5: backends/a: prt: is not a field of a backend; did you mean "port"?`,
				"f:5:24: backends/a: labels.version: is 2, want a string",
				"f:6:16: backends/b: port: ",
			},
		},
		"of fields in JSON": {
			data: `{"backends": {
  "a": {
    "host": "h", "prt": 80,
    "labels": {"version": 2,
      "a b.c": 1}
  }},
 "directors": {
  "d": {"type": "random", "backends": [
    "a",
    {"name": "b", "weight": -1}]}}}`,
			want: []string{
				`f:3:18: backends/a: prt: is not a field of a backend; did you mean "port"?`,
				"f:4:16: backends/a: labels.version: is 2, want a string",
				`f:5:7: backends/a: labels["a b.c"]: is 1, want a string`,
				"f:10:19: directors/d: backends[1].weight: is -1",
			},
		},
		"of names and kinds": {
			data: "backend:\n  \"1\": {host: h}\nbackdns: {}\nroutes: x\nfoo: {}\n",
			want: []string{
				`f:2:3: backends/1: name "1" has`,
				`f:3:1: "backdns" is not a kind of definition, did you mean backends?`,
				`f:4:1: routes is "x", want a map of names to definitions`,
				`f:5:1: "foo" is not a kind of definition, want one of backends, probes,`,
			},
		},
		"of definitions that are there twice": {
			data: "backends:\n  a: {host: h}\n  a: {host: i}\ndirectors:\n  a: {type: random, backends: [b]}\n",
			want: []string{
				"f:3:3: backends/a: is defined twice, before in f:2",
				"f:5:3: directors/a: f:2 has backends/a: backends and directors share one namespace",
			},
		},
		"of definitions that are there twice, in JSON": {
			data: "{\"backends\": {\n\"a\": {\"host\": \"h\"},\n\"a\": {\"host\": \"h\"}}}",
			want: []string{"f:3:1: backends/a: is defined twice, before in f:2"},
		},
		"of a field that is there twice": {
			data: "backends:\n  a:\n    host: h\n    host: i\n",
			want: []string{"f:4:5: backends/a: host: is given twice"},
		},
		"YAML syntax":                       {data: "a: b\nbackends:\n\t- x", want: []string{"f:3: not YAML: "}},
		"JSON syntax":                       {file: "f.json", data: "{\"backends\": {\n\"a\": }}", want: []string{"f.json:2:5: not JSON: "}},
		"JSON that is cut":                  {file: "f.json", data: "{\"backends\": {\"a\": {\"host\": \"h\",\n", want: []string{"f.json:2:1: not JSON: the file ends in the middle of a value"}},
		"JSON that is cut, of unknown name": {data: "{\"backends\": {\"a\": {\"host\": \"h\",\n", want: []string{"f:1: not YAML: "}},
		"an empty file":                     {data: "# nothing\n", want: []string{"f: is empty, want a map of kinds"}},
		"a list":                            {data: "- a\n", want: []string{"f:1:1: is a list, want a map of kinds"}},
		"an anchor in itself":               {data: "a: &a [*a]", want: []string{"f:1:8: the anchor a holds itself"}},
		"an infinite number":                {data: "backends: {a: {host: h, port: .inf}}", want: []string{"f:1:31: +Inf is no number that JSON can hold"}},
		"aliases that multiply": {
			data: "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
				"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
			want: []string{"f:1:20: more than 1048576 values, aliases counted"},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := test.file
			if file == "" {
				file = "f"
			}
			_, err := manifest.Parse(file, []byte(test.data))
			if err == nil {
				t.Fatalf("Parse(%q) has no error", test.data)
			}
			got := manifest.Each(err)
			for i, err := range got {
				if i >= len(test.want) || !strings.HasPrefix(err.Error(), test.want[i]) {
					t.Errorf("error %d of Parse(%q): %v", i, test.data, err)
				}
			}
			if len(got) != len(test.want) {
				t.Errorf("Parse(%q): %d errors, want %q", test.data, len(got), test.want)
			}
		})
	}
}

func TestFilesAreOneSet(t *testing.T) {
	t.Parallel()
	stdin := strings.NewReader("backends: {a: {host: h, port: 0}, b: {host: h}}")
	_, err := manifest.Load([]string{"-", "testdata/none.yaml", "testdata/b.yaml"}, stdin)
	want := []string{
		"stdin:1:25: backends/a: port: ",
		"open testdata/none.yaml: ",
		"testdata/b.yaml:2:3: backends/b: is defined twice, before in stdin:1",
	}
	got := manifest.Each(err)
	if len(got) != len(want) {
		t.Fatalf("got %v, want %q", got, want)
	}
	for i := range want {
		if !strings.HasPrefix(got[i].Error(), want[i]) {
			t.Errorf("got %v, want %s", got[i], want[i])
		}
	}
}

func TestParseOne(t *testing.T) {
	t.Parallel()
	key := store.Key{Kind: store.Backends, Name: "a"}
	e, err := manifest.ParseOne("f", []byte("host: h\nport: 80\n"), key)
	if got := string(e.Value); err != nil || got != `{"host":"h","port":80}` {
		t.Errorf("got %s, %v", got, err)
	}
	for data, want := range map[string]string{
		"":                             "f: backends/a: holds 0 values, want one definition",
		"host: h\nport: x y\n":         "f:2:1: backends/a: port: ",
		"---\nhost: h\n---\nhost: i\n": "f: backends/a: holds 2 values, want one definition",
	} {
		if _, err := manifest.ParseOne("f", []byte(data), key); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseOne(%q): %v, want %s", data, err, want)
		}
	}
}

func TestWriteIsReadBack(t *testing.T) {
	t.Parallel()
	values := map[string]string{
		"backends/a":   `{"host":"10.0.0.7","port":8080,"labels":{"version":"2","on":"yes","empty":"","n":"null","multi":"a: b\n# c\n","tail":"a\nb","sp":" x ","c":"a: b # c"}}`,
		"directors/d":  `{"type":"round_robin","backends":["a",{"name":"b","weight":0.5}],"select":{"app":"web"}}`,
		"health/a":     `drain`,
		"health/b":     `{"state":"sick","reason":"disk"}`,
		"backends/b":   `{"host":"h","comment":"\u2028 \t \u0007 \"quoted\" 'single' \\"}`,
		"backends/t/x": `{"none":true}`,
	}
	var entries []manifest.Entry
	for k, v := range values {
		key, _ := store.ParseKey(k)
		entries = append(entries, manifest.Entry{Key: key, Value: []byte(v)})
	}
	file := manifest.Write(entries)
	back, err := manifest.Parse("f", file)
	if err != nil {
		t.Fatalf("%v\n%s", err, file)
	}
	for _, e := range back {
		want, _, err := store.Decode(e.Key, []byte(values[e.Key.String()]), store.Reject)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, e.Definition); diff != "" {
			t.Errorf("%s, -written +read:\n%s\n%s", e.Key, diff, file)
		}
	}
	if len(back) != len(values) {
		t.Errorf("%d definitions read back, want %d\n%s", len(back), len(values), file)
	}
}
