package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"roster/node/table"
	"roster/pool"
	"roster/prober"
	"roster/store"
	"roster/watcher"
)

// node is a Node with a table and no etcd.
type node struct {
	*table.Applier
	probers *prober.Manager
	ready   bool
}

func (n *node) Table() *table.Table    { return n.Current() }
func (n *node) Ready() bool            { return n.ready }
func (n *node) Probes() []prober.State { return n.probers.List() }
func (n *node) Status() Status {
	s := Status{Node: "n1", Ready: n.ready, Revision: n.Current().Revision(), Waiting: "no revision of etcd is applied yet"}
	s.Describe(n.Current())
	return s
}

// apply makes the node's table of definitions.
func apply(t *testing.T, n *node, values map[string]string) {
	t.Helper()
	c := watcher.Change{Revision: 7}
	for k, v := range values {
		key, _ := store.ParseKey(k)
		def, warnings, err := store.Decode(key, []byte(v), store.Warn)
		item := watcher.Item{Key: key, CreateRevision: 7, ModRevision: 7, Definition: def, Warnings: warnings}
		if err != nil {
			item = watcher.Item{Key: key, Rejected: &watcher.Rejection{Revision: 7, Err: err}}
		}
		c.Puts = append(c.Puts, item)
	}
	n.Apply(c)
}

func serve(n *node, hosts ...string) http.Handler {
	return newServer(n, hosts...).Handler()
}

func newServer(n *node, hosts ...string) *Server {
	return &Server{Node: n, Access: Access{Hosts: hosts}, Metrics: http.NotFoundHandler(), Events: new(Events)}
}

func newNode() *node {
	pools := pool.New(pool.Config{})
	n := &node{Applier: table.NewApplier(pools), probers: prober.New(prober.Config{Pools: pools}), ready: true}
	n.Probe(n.probers, nil)
	return n
}

func ask(h http.Handler, method, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:6082"
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			r.Host = header[i+1]
			continue
		}
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestOnlyLoopbackNamesAndAdminHostsAreAnswered(t *testing.T) {
	t.Parallel()
	h := serve(newNode(), "Admin.Test", "192.0.2.9", "2001:db8::9")
	for host, want := range map[string]int{
		"127.0.0.1:6082": 200, "127.9.9.9": 200, "localhost": 200, "LOCALHOST:1": 200, "[::1]:6082": 200, "::1": 200, "admin.test:6082": 200,
		"192.0.2.9:6082": 200, "[2001:db8::9]:80": 200, "192.0.2.8:6082": 421, ":6082": 421, "admin.test.": 421,
		"evil.test": 421, "10.0.0.1:6082": 421, "": 421, "localhost.evil.test": 421,
	} {
		if got := ask(h, "GET", "/v1/status", "Host", host).Code; got != want {
			t.Errorf("Host %q: %d, want %d", host, got, want)
		}
	}
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	h := serve(newNode())
	for site, want := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 200, "none": 200} {
		if got := ask(h, "GET", "/v1/status", "Sec-Fetch-Site", site).Code; got != want {
			t.Errorf("%s: %d, want %d", site, got, want)
		}
	}
}

func TestReadyzSaysWhyNot(t *testing.T) {
	t.Parallel()
	n := newNode()
	if w := ask(serve(n), "GET", "/readyz"); w.Code != 200 {
		t.Errorf("ready: %d", w.Code)
	}
	n.ready = false
	if w := ask(serve(n), "GET", "/readyz"); w.Code != 503 || !strings.Contains(w.Body.String(), "no revision") {
		t.Errorf("not ready: %d %s", w.Code, w.Body)
	}
}

func TestWhatAPathDoesNotTakeIsSaid(t *testing.T) {
	t.Parallel()
	h := serve(newNode())
	for _, row := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"POST", "/v1/status", 405, "GET, HEAD"}, {"PUT", "/v1/status", 405, "GET, HEAD"}, {"DELETE", "/metrics", 405, "GET, HEAD"},
		{"POST", "/v1/backends/a", 405, "GET, HEAD, PUT, DELETE"}, {"PATCH", "/v1/health/team-a/b", 405, "GET, HEAD, PUT, DELETE"},
		{"OPTIONS", "/v1/backends/a", 405, "GET, HEAD, PUT, DELETE"},
		{"GET", "/nowhere", 404, ""}, {"PUT", "/v1/nothing/a", 404, ""}, {"GET", "/v1/backend/a", 404, ""},
	} {
		w := ask(h, row.method, row.path)
		if w.Code != row.status || w.Header().Get("Allow") != row.allow {
			t.Errorf("%s %s: %d, Allow %q, want %d, %q", row.method, row.path, w.Code, w.Header().Get("Allow"), row.status, row.allow)
		}
	}
}

func TestHEADHasGETsHead(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{"backends/a": `{"host":"127.0.0.1"}`})
	for _, path := range []string{"/healthz", "/readyz", "/openapi.json", "/v1/status", "/v1/backends", "/v1/backends/a", "/v1/events", "/v1/backends/b"} {
		get, head := 200, ask(serve(n), "HEAD", path)
		if path == "/v1/backends/b" {
			get = 404
		}
		if head.Code != get {
			t.Errorf("HEAD %s: %d, want %d", path, head.Code, get)
		}
	}
	if etag := ask(serve(n), "HEAD", "/v1/backends/a").Header().Get("ETag"); etag != `"7"` {
		t.Errorf("ETag is %s", etag)
	}
}

func TestBackendsComeInPages(t *testing.T) {
	t.Parallel()
	n := newNode()
	values := map[string]string{"directors/team-a/d": `{"type":"round_robin","backends":["x"]}`}
	for i := range 5 {
		values[fmt.Sprintf("backends/team-a/b%d", i)] = `{"host":"127.0.0.1"}`
		values[fmt.Sprintf("backends/team-b/b%d", i)] = `{"host":"127.0.0.1"}`
	}
	apply(t, n, values)
	var names []string
	after := ""
	for pages := 1; ; pages++ {
		w := ask(serve(n), "GET", "/v1/backends?limit=2&under=team-a/&after="+after)
		var list List[Backend]
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || list.Revision != 7 || len(list.Items) > 2 {
			t.Fatalf("%v: %s", err, w.Body)
		}
		for _, b := range list.Items {
			names = append(names, b.Name)
		}
		if after = list.Next; after == "" {
			if pages != 3 {
				t.Errorf("%d pages, want 3", pages)
			}
			break
		}
	}
	if got, want := strings.Join(names, " "), "team-a/b0 team-a/b1 team-a/b2 team-a/b3 team-a/b4"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, kind := range store.Kinds() {
		for _, query := range []string{"limit=0", "limit=x", "limit=10001", "prefix=a"} {
			if w := ask(serve(n), "GET", "/v1/"+string(kind)+"?"+query); w.Code != 400 {
				t.Errorf("%s, %s: %d, want 400", kind, query, w.Code)
			}
		}
	}
	if w := ask(serve(n), "GET", "/v1/backends/team-b/b3?verbose"); w.Code != 400 {
		t.Errorf("a parameter that there is not: %d, want 400", w.Code)
	}
	if w := ask(serve(n), "GET", "/v1/backends/team-b/b3"); w.Code != 200 || !strings.Contains(w.Body.String(), `"name": "team-b/b3"`) {
		t.Errorf("one backend: %d %s", w.Code, w.Body)
	}
	if w := ask(serve(n), "GET", "/v1/backends/team-a/d"); w.Code != 404 {
		t.Errorf("a director asked for as a backend: %d, want 404", w.Code)
	}
}

func TestStatusNamesWhatIsWrong(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a":     `{"port":0,"probe":{"window":99}}`,
		"routes/r":       `{"backend":"missing"}`,
		"health/nothing": "sick",
		"directors/x":    `{"type":"round_robin","backends":["y"]}`,
		"directors/y":    `{"type":"round_robin","backends":["x"]}`,
		"directors/r":    `{"type":"random","backends":["y"],"future":1}`,
	})
	var s Status
	if err := json.Unmarshal(ask(serve(n), "GET", "/v1/status").Body.Bytes(), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Rejected) != 1 || s.Rejected[0].Key != "backends/a" || s.Rejected[0].Revision != 7 || len(s.Rejected[0].Errors) < 3 {
		t.Errorf("rejected: %+v", s.Rejected)
	}
	if got, want := fmt.Sprint(s.Dangling), "[{routes/r missing} {health/nothing nothing}]"; got != want && got != "[{health/nothing nothing} {routes/r missing}]" {
		t.Errorf("dangling: %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(s.Cycles), "[{directors/x y}]"; got != want && got != "[{directors/y x}]" {
		t.Errorf("cycles: %s, want %s", got, want)
	}
	if len(s.Warnings) != 1 || s.Warnings[0].Key != "directors/r" {
		t.Errorf("warnings: %+v", s.Warnings)
	}
	if s.Counts.Rejected != 1 || s.Counts.Dangling != 2 || s.Counts.Directors != 3 {
		t.Errorf("counts: %+v", s.Counts)
	}
}

func TestErrorsOfOneValueAreApart(t *testing.T) {
	t.Parallel()
	if got := messages(errors.New("one")); len(got) != 1 || got[0] != "one" {
		t.Errorf("%q", got)
	}
}
