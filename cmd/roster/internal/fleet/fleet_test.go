package fleet_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"roster/cmd/roster/internal/adminclient"
	"roster/cmd/roster/internal/fleet"
	"roster/store"
	"roster/store/storetest"
)

// node answers as a node's admin API does.
func node(t *testing.T, status string, pages ...string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/status", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, status) })
	mux.HandleFunc("/v1/backends", func(w http.ResponseWriter, r *http.Request) {
		page := 0
		fmt.Sscanf(r.URL.Query().Get("after"), "page-%d", &page)
		next := ""
		if page+1 < len(pages) {
			next = fmt.Sprintf(`,"next":"page-%d"`, page+1)
		}
		fmt.Fprintf(w, `{"revision":7,"items":[%s]%s}`, pages[page], next)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func backend(name, state string, total int) string {
	return fmt.Sprintf(`{"name":%q,"health":{"state":%q,"admin":"auto"},"requests":{"active":1,"queued":0,"total":%d},"connections":{"active":1,"idle":2}}`, name, state, total)
}

const fine = `{"node":"a","version":"v1","ready":true,"revision":7,"digest":"d1","etcd":{"connected":true,"fresh_ms":5},"rejected":[],"dangling":[]}`

func TestNodesThatAgreeAreNoFault(t *testing.T) {
	t.Parallel()
	a := node(t, fine, backend("web-1", "healthy", 3), backend("web-2", "sick", 0))
	b := node(t, strings.Replace(fine, `"a"`, `"b"`, 1), backend("web-1", "healthy", 4)+","+backend("web-2", "healthy", 1))
	var f fleet.Fleet
	f.Ask(t.Context(), []string{a, b}, time.Minute, false)
	if err := f.Fault(); err != nil {
		t.Errorf("Fault: %v", err)
	}
	f.Etcd.Revision = 9
	f.Etcd.Counts = map[store.Kind]int{store.Backends: 2}
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer(a, "ADDRESS", b, "ADDRESS").Replace(out.String())
	for _, want := range []string{
		"etcd at revision 9: 2 backends",
		"web-1    probe  0/0    healthy                  -            2       0       7         2            4",
		"web-2    probe  0/0    healthy on b; sick on a  -            2       0       1         2            4",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
}

func TestFaultsAreNamed(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	var f fleet.Fleet
	f.Ask(t.Context(), []string{
		node(t, fine, ""),
		node(t, strings.NewReplacer(`"a"`, `"b"`, "d1", "d2").Replace(fine), ""),
		node(t, strings.NewReplacer(`"a"`, `"c"`, `"revision":7`, `"revision":6`, "d1", "d0", `"ready":true`, `"ready":false`).Replace(fine), ""),
		gone.Listener.Addr().String(),
		node(t, "what"),
	}, time.Minute, false)
	err := f.Fault()
	if err == nil {
		t.Fatal("no fault")
	}
	for _, want := range []string{
		"nodes differ at revision 7: d1 (a) and d2 (b)",
		"node c is not ready",
		"the node at " + gone.Listener.Addr().String() + " does not answer",
		"GET /v1/status: invalid character",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "revision 6") {
		t.Errorf("a node at another revision is said to differ: %v", err)
	}
}

// A node that refuses is not said to be away, nor is one that was never asked; and who does
// not answer does not put the others' columns out of line.
func TestNodesThatWereNotAskedSayWhy(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"errors":["a token is needed"]}`)
	}))
	t.Cleanup(closed.Close)
	at := closed.Listener.Addr().String()

	var f fleet.Fleet
	f.Ask(t.Context(), []string{at, node(t, fine, "")}, time.Minute, false)
	if err, want := f.Fault(), "the node at "+at+" refuses: GET /v1/status: 401 a token is needed"; err == nil || !strings.HasSuffix(strings.TrimSpace(err.Error()), want) {
		t.Errorf("got %v, want %s", err, want)
	}
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if column := strings.Index(lines[0], "ETCD"); column < 0 || column != strings.Index(lines[2], "connected") {
		t.Errorf("ETCD is not above its column:\n%s", strings.Join(lines[:3], "\n"))
	}

	f = fleet.Fleet{}
	f.AskLocal(t.Context(), at, time.Minute, false)
	if want := "the node at " + at + " refuses: GET /v1/status: 401 a token is needed"; f.NotAsked != want || f.Fault() != nil {
		t.Errorf("got %q and %v, want %q", f.NotAsked, f.Fault(), want)
	}

	f = fleet.Fleet{Client: adminclient.Client{TokenFile: filepath.Join(t.TempDir(), "token")}}
	f.Ask(t.Context(), []string{at}, time.Minute, false)
	if err := f.Fault(); err == nil || !strings.Contains(err.Error(), "was not asked: admin-token-file: open ") {
		t.Errorf("without the token's file: %v", err)
	}
}

func TestWhatNodesRejectIsShown(t *testing.T) {
	t.Parallel()
	status := strings.Replace(fine, `"rejected":[],"dangling":[]`,
		`"rejected":[{"key":"backends/x","revision":5,"in_effect":3,"errors":["port: is 0","host: is missing"]},{"key":"backends/z","revision":6,"errors":["port: is 2"]}],"dangling":[{"key":"directors/d","missing":"web-9"}],"cycles":[{"key":"directors/d","member":"e"}],"warnings":[{"key":"probes/p","warnings":["is not run"]}],"ignored":2,"held_list":"empty"`, 1)
	var f fleet.Fleet
	f.Ask(t.Context(), []string{node(t, status, "")}, time.Minute, false)
	f.Etcd.Invalid = []fleet.Invalid{
		{Key: "backends/x", Revision: 5, Errors: []string{"port: is 0"}},
		{Key: "backends/y", Revision: 6, Errors: []string{"port: is 1"}},
	}
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"rejected by a: backends/x at revision 5 (revision 3 is served): port: is 0\n",
		"rejected by a: backends/x at revision 5 (revision 3 is served): host: is missing\n",
		"rejected by a: backends/z at revision 6 (not served): port: is 2\n",
		"cycle on a: directors/d has the member e, which leads back to it\n",
		"warning on a: probes/p: is not run\n",
		"ignored by a: 2 keys under the prefix",
		"dangling on a: directors/d refers to web-9, which is not defined\n",
		"held by a: empty\n",
		"invalid: backends/y at revision 6: port: is 1\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "invalid: backends/x") {
		t.Errorf("told twice:\n%s", out.String())
	}
}

func TestAskGivesUpInTime(t *testing.T) {
	t.Parallel()
	silent := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-silent }))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(silent) })
	var f fleet.Fleet
	f.Ask(t.Context(), []string{s.Listener.Addr().String()}, time.Millisecond, false)
	if f.Nodes[0].Error == "" {
		t.Error("a node that never answers has no error")
	}
}

func TestCountReadsEtcd(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s, err := store.Open(store.Config{Endpoints: []string{etcd.Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for key, value := range map[string]string{
		"backends/a": `{"host":"h"}`, "backends/b": `{"prt":1}`, "probes/p": `{}`,
	} {
		if _, err := etcd.Client().Put(t.Context(), "/roster/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	var f fleet.Fleet
	if err := f.Count(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[store.Kind]int{store.Backends: 2, store.Probes: 1}, f.Etcd.Counts); diff != "" {
		t.Errorf("counts, -want +got:\n%s", diff)
	}
	if len(f.Etcd.Invalid) != 1 || f.Etcd.Invalid[0].Key != "backends/b" || len(f.Etcd.Invalid[0].Errors) != 2 {
		t.Errorf("invalid: %+v, want backends/b with both its errors", f.Etcd.Invalid)
	}
	if b, err := json.Marshal(f); err != nil || !strings.Contains(string(b), `"nodes":[]`) {
		t.Errorf("as JSON: %s, %v", b, err)
	}
}

func TestGetOfAnAddressForAllMeansThisHost(t *testing.T) {
	t.Parallel()
	_, port, _ := strings.Cut(node(t, fine, ""), ":")
	for _, admin := range []string{":" + port, "0.0.0.0:" + port} {
		code, body, err := adminclient.Client{}.Get(context.Background(), admin, "/v1/status")
		if err != nil || code != http.StatusOK || body != fine {
			t.Errorf("%s: %d %s %v", admin, code, body, err)
		}
	}
}
