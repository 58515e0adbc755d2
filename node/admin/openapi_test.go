package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"roster/node/certs/certstest"
	"roster/prober"
	"roster/store"
	"roster/watcher"
)

// description is /openapi.json as JSON has it, and a compiler of the schemas in it.
type description struct {
	t        *testing.T
	root     map[string]any
	compiler *jsonschema.Compiler
}

func described(t *testing.T, n *node) description {
	t.Helper()
	w := ask(serve(n), "GET", "/openapi.json")
	if w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	doc, err := jsonschema.UnmarshalJSON(w.Body)
	if err != nil {
		t.Fatal(err)
	}
	d := description{t, doc.(map[string]any), jsonschema.NewCompiler()}
	if err := d.compiler.AddResource("openapi.json", doc); err != nil {
		t.Fatal(err)
	}
	return d
}

// operations yields each path and method that is described.
func (d description) operations(f func(path, method string, op map[string]any)) {
	for path, item := range d.root["paths"].(map[string]any) {
		for method, op := range item.(map[string]any) {
			f(path, strings.ToUpper(method), op.(map[string]any))
		}
	}
}

// escape is a part of a JSON pointer in a fragment.
func escape(s string) string {
	return url.PathEscape(strings.NewReplacer("~", "~0", "/", "~1").Replace(s))
}

// check says what the description has against an answer.
func (d description) check(path, method string, w *httptest.ResponseRecorder) error {
	pointer := "openapi.json#/paths/" + escape(path) + "/" + strings.ToLower(method) + "/responses/" + fmt.Sprint(w.Code) + "/content/"
	media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	schema, err := d.compiler.Compile(pointer + escape(media) + "/schema")
	if err != nil {
		return fmt.Errorf("%s %s: %d of type %q is not described: %w", method, path, w.Code, media, err)
	}
	if media != "application/json" {
		return nil
	}
	is, err := jsonschema.UnmarshalJSON(bytes.NewReader(w.Body.Bytes()))
	if err != nil {
		return err
	}
	if err := schema.Validate(is); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", method, path, err, w.Body)
	}
	return nil
}

// full is a node that has something of everything.
func full(t *testing.T) *node {
	t.Helper()
	n := newNode()
	pair := certstest.NewCA(t).Issue(t, "www.test")
	certificate, err := json.Marshal(map[string]string{"cert": pair.Cert, "key": pair.Key})
	if err != nil {
		t.Fatal(err)
	}
	apply(t, n, map[string]string{
		"backends/name": `{"host":"127.0.0.1","probe":"name"}`, "backends/plain": `{"host":"127.0.0.1","tls":{}}`, "backends/none": `{"none":true}`,
		"backends/bad": `{}`, "probes/name": `{}`, "directors/d": `{"type":"round_robin","backends":["name","missing"]}`,
		"directors/x": `{"type":"round_robin","backends":["x"]}`, "routes/name": `{"backend":"name"}`, "certificates/name": string(certificate),
		"health/name": `{"state":"drain","reason":"disk"}`, "health/nobody": "sick",
	})
	return n
}

// Every route is described, every described one answers, and as it is described.
func TestOpenAPIIsWhatIsServed(t *testing.T) {
	t.Parallel()
	n := full(t)
	server := newServer(n)
	h, st, _ := writable(t)
	d := described(t, n)
	all := map[string]bool{}
	for _, r := range server.routes() {
		all[r.method+" "+r.path] = true
	}
	ids := map[string]bool{}
	d.operations(func(path, method string, op map[string]any) {
		if !all[method+" "+path] {
			t.Errorf("%s %s is described and not served", method, path)
		}
		delete(all, method+" "+path)
		id, _ := op["operationId"].(string)
		if id == "" || ids[id] || op["summary"] == "" {
			t.Errorf("%s %s: id %q, summary %q", method, path, id, op["summary"])
		}
		ids[id] = true
		var names []string
		parameters, _ := op["parameters"].([]any)
		for _, p := range parameters {
			if p := p.(map[string]any); p["in"] == "path" {
				names = append(names, "{"+p["name"].(string)+"}")
			} else if p["description"] == "" {
				t.Errorf("%s %s: parameter %s is not described", method, path, p["name"])
			}
		}
		for part := range strings.SplitSeq(path, "/") {
			if strings.HasPrefix(part, "{") && !slices.Contains(names, part) {
				t.Errorf("%s %s: parameters %q", method, path, names)
			}
		}
		target := strings.NewReplacer("directors/{name}", "directors/d", "{name}", "name", "{profile}", "heap",
			"/v1/explain", "/v1/explain?url=http://x/&client=127.0.0.1").Replace(path)
		switch {
		case path == "/v1/events", path == "/metrics", path == "/debug/pprof/profile", path == "/debug/pprof/trace":
			return // without an end, of another room, or with a wait; their paths are served: TestWhatAPathDoesNotTakeIsSaid
		case method == "GET":
			for status, target := range map[int]string{200: target, 404: strings.Replace(path, "{name}", "nowhere", 1), 400: target + "?nonsense"} {
				if status == 404 && !strings.HasSuffix(path, "{name}") || status == 400 && !strings.HasPrefix(path, "/v1/") {
					continue
				}
				w := ask(server.Handler(), method, target)
				if w.Code != status {
					t.Errorf("%s %s: %d, want %d", method, target, w.Code, status)
				}
				if strings.HasPrefix(path, "/debug/") {
					continue // types of their own
				}
				if err := d.check(path, method, w); err != nil {
					t.Error(err)
				}
			}
		default:
			kind := store.Kind(strings.Split(path, "/")[2])
			value := map[store.Kind]string{
				store.Backends: `{"host":"a"}`, store.Probes: `{}`, store.Directors: `{"type":"random"}`, store.Routes: `{"backend":"a"}`, store.HealthKind: `"sick"`,
			}[kind]
			target := strings.Replace(path, "{name}", "of-"+string(kind), 1)
			if method == "DELETE" {
				key := store.Key{Kind: kind, Name: "gone"}
				if _, err := st.Put(t.Context(), key, []byte("x"), store.AnyRevision); err != nil {
					t.Fatal(err)
				}
				target = strings.Replace(path, "{name}", "gone", 1)
			}
			for _, header := range [][]string{nil, {"If-Match", "1"}, {"If-Match", "x"}, {"Origin", "http://evil.test"}, {"Host", "evil.test"}, {"Content-Type", "x/y"}} {
				for _, body := range []string{value, `{"x":1}`} {
					w := send(h, method, target, body, header...)
					if w.Code == 409 && header == nil {
						t.Errorf("%s %s: %s", method, target, w.Body)
					}
					if err := d.check(path, method, w); err != nil {
						t.Error(err)
					}
				}
			}
		}
	})
	for r := range all {
		t.Errorf("%s is served and not described", r)
	}
}

// The schemas in it are schemas, and those of definitions are the ones that editors get.
func TestOpenAPIHasTheSchemasOfDefinitions(t *testing.T) {
	t.Parallel()
	d := described(t, full(t))
	if d.root["openapi"] != "3.1.0" {
		t.Errorf("openapi is %v", d.root["openapi"])
	}
	for name := range d.root["components"].(map[string]any)["schemas"].(map[string]any) {
		if _, err := d.compiler.Compile("openapi.json#/components/schemas/" + escape(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, kind := range store.Kinds() {
		schema, err := d.compiler.Compile("openapi.json#/paths/" + escape("/v1/"+string(kind)+"/{name}") + "/put/requestBody/content/application~1json/schema")
		if err != nil {
			t.Errorf("body of %s: %v", kind, err)
			continue
		}
		if schema.Validate(map[string]any{"nonsense": true}) == nil {
			t.Errorf("body of %s: nonsense is taken", kind)
		}
	}
}

// The names of the data of events are those that clients read.
func TestEventsAreJSON(t *testing.T) {
	t.Parallel()
	var e Events
	s := e.subscribe("")
	e.Health(prober.Transition{Name: "a", At: time.Unix(0, 0)})
	e.Override("a", &store.Health{State: store.Sick, Reason: "-----BEGIN PRIVATE KEY-----", By: "eva"})
	e.Override("a", nil)
	n := newNode()
	e.Applied(watcher.Change{Revision: 1}, n.Table())
	for _, b := range e.take(s) {
		_, data, _ := strings.Cut(strings.TrimSpace(string(b)), "\ndata: ")
		if !json.Valid([]byte(data)) || strings.Contains(data, "PRIVATE KEY") {
			t.Errorf("%s", b)
		}
	}
}
