package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/node/admin/dashboard"
	"roster/node/presence"
	"roster/store"
)

// A page has the browser refuse whatever is not of its own files.
func TestPagesHaveAStrictPolicy(t *testing.T) {
	t.Parallel()
	h := serve(newNode())
	for _, f := range dashboard.Files() {
		w := ask(h, "GET", f.Path)
		if w.Code != 200 || w.Body.Len() == 0 || !strings.HasPrefix(w.Header().Get("Content-Type"), f.Media) {
			t.Errorf("%s: %d, %d bytes of %q", f.Path, w.Code, w.Body.Len(), w.Header().Get("Content-Type"))
		}
		policy := w.Header().Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'", "require-trusted-types-for 'script'"} {
			if !slices.Contains(strings.Split(policy, "; "), want) {
				t.Errorf("%s: the policy lacks %s: %s", f.Path, want, policy)
			}
		}
		for _, never := range []string{"unsafe", "http:", "https:", "data:", "*"} {
			if strings.Contains(policy, never) {
				t.Errorf("%s: the policy has %s: %s", f.Path, never, policy)
			}
		}
		for _, header := range []string{"X-Frame-Options", "X-Content-Type-Options", "Referrer-Policy", "Cache-Control"} {
			if w.Header().Get(header) == "" {
				t.Errorf("%s: no %s", f.Path, header)
			}
		}
	}
}

// The files fetch nothing from elsewhere and make no markup of strings.
func TestPagesAreWhole(t *testing.T) {
	t.Parallel()
	h := serve(newNode())
	for _, f := range dashboard.Files() {
		body := ask(h, "GET", f.Path).Body.String()
		for _, never := range []string{"//cdn", "https://", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick=", "javascript:"} {
			if strings.Contains(body, never) {
				t.Errorf("%s has %s", f.Name, never)
			}
		}
		for url := range strings.SplitSeq(body, "http://") {
			if body != url && !strings.HasPrefix(url, "www.w3.org/2000/svg") && !strings.HasPrefix(body, url) {
				t.Errorf("%s has http://%.40s", f.Name, url)
			}
		}
	}
}

// A link on another site may lead to the page, and to nothing else.
func TestOnlyThePageIsReachedByALink(t *testing.T) {
	t.Parallel()
	h := serve(newNode())
	link := []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}
	for _, row := range []struct {
		path   string
		header []string
		want   int
	}{
		{"/", link, 200}, {"/v1/status", link, 403}, {"/dashboard/app.js", link, 403},
		{"/", append(slices.Clone(link), "Sec-Fetch-Dest", "iframe"), 403},
		{"/", append(slices.Clone(link), "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "image"), 403},
		{"/", append(slices.Clone(link), "Host", "evil.test"), 421},
	} {
		if got := ask(h, "GET", row.path, row.header...).Code; got != row.want {
			t.Errorf("%s %q: %d, want %d", row.path, row.header, got, row.want)
		}
	}
}

// searched is what a search answers.
func searched[T any](t *testing.T, n *node, path string) (found T) {
	t.Helper()
	w := ask(serve(n), "GET", path)
	if err := json.Unmarshal(w.Body.Bytes(), &found); err != nil || w.Code != 200 {
		t.Fatalf("%s: %d %v: %s", path, w.Code, err, w.Body)
	}
	return found
}

func namesOf(all []Backend) (names []string) {
	for _, b := range all {
		names = append(names, b.Name)
	}
	return names
}

func TestSearchFindsBackendsTheSickFirst(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a":        `{"host":"10.0.0.1","labels":{"app":"Web","zone":"x"}}`,
		"backends/b":        `{"host":"10.0.0.2","probe":{"initial":0}}`,
		"backends/team/c":   `{"path":"/run/c.sock"}`,
		"backends/team/d":   `{"host":"d.example","port":8080,"labels":{"app":"web"}}`,
		"backends/team/e":   `{"host":"10.0.0.3"}`,
		"backends/none":     `{"none":true}`,
		"health/team/d":     "drain",
		"health/team/e":     "healthy",
		"directors/inner":   `{"type":"random","backends":["b","missing","outer"]}`,
		"directors/outer":   `{"type":"fallback","backends":["inner","team/d","b"]}`,
		"directors/nothing": `{"type":"random","backends":["missing"]}`,
	})
	for query, want := range map[string]string{
		"":                             "b none team/d a team/c team/e",
		"limit=2":                      "b none",
		"limit=2&offset=1":             "none team/d",
		"limit=2&offset=5":             "team/e",
		"offset=9":                     "",
		"state=sick":                   "b none",
		"state=draining":               "team/d",
		"state=healthy&offset=1":       "team/c team/e",
		"state=overridden":             "team/d team/e",
		"q=app%3Dweb":                  "team/d a",
		"q=WEB+zone%3Dx":               "a",
		"q=zone%3D":                    "a",
		"q=10.0.0":                     "b a team/e",
		"q=c.sock":                     "team/c",
		"q=:8080":                      "team/d",
		"q=TEAM/+example":              "team/d",
		"q=nowhere":                    "",
		"director=outer":               "b team/d",
		"director=inner&state=sick":    "b",
		"director=nothing":             "",
		"q=team&state=healthy&limit=1": "team/c",
	} {
		found := searched[FoundBackends](t, n, "/v1/search/backends?"+query)
		if got := strings.Join(namesOf(found.Items), " "); got != want {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	found := searched[FoundBackends](t, n, "/v1/search/backends?limit=1&state=healthy")
	if want := (States{All: 6, Sick: 2, Draining: 1, Healthy: 3, Overridden: 2}); found.Counts != want || found.Total != 3 || found.Revision != 7 {
		t.Errorf("%+v, want %+v of all, and 3", found, want)
	}
	if rows := searched[FoundBackends](t, n, "/v1/search/backends?q=10.0.0.2").Items[0].Health.Probe.Rows; len(rows) == 0 {
		t.Error("no history")
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "offset=-1", "state=ill", "director=a", "director=nowhere", "words=a"} {
		if w := ask(serve(n), "GET", "/v1/search/backends?"+query); w.Code != 400 {
			t.Errorf("%s: %d, want 400", query, w.Code)
		}
	}
}

func TestSearchFindsDirectorsTheSickFirst(t *testing.T) {
	t.Parallel()
	n := newNode()
	values := map[string]string{
		"backends/ill":   `{"host":"10.0.0.2","probe":{"initial":0}}`,
		"directors/a":    `{"type":"random","select":{"app":"web"}}`,
		"directors/b":    `{"type":"fallback","backends":["w00","ill",{"name":"gone","weight":2}]}`,
		"directors/c":    `{"type":"random","backends":["ill"]}`,
		"directors/d":    `{"type":"random","backends":["w00"]}`,
		"health/d":       `{"state":"sick","reason":"-----BEGIN PRIVATE KEY-----"}`,
		"directors/team": `{"type":"random","backends":["a"]}`,
	}
	for i := range 30 {
		values[fmt.Sprintf("backends/w%02d", i)] = `{"host":"10.0.0.1","labels":{"app":"web"}}`
	}
	apply(t, n, values)
	found := searched[FoundDirectors](t, n, "/v1/search/directors")
	var names []string
	for _, d := range found.Items {
		names = append(names, d.Name)
	}
	if got := strings.Join(names, " "); got != "c d b a team" || found.Total != 5 {
		t.Fatalf("%s of %d, want c d b a team of 5", got, found.Total)
	}
	if d := found.Items[1]; d.Health.Admin != "sick" || d.Health.State != "sick" || strings.Contains(d.Health.Reason, "PRIVATE") {
		t.Errorf("%+v", d)
	}
	b := found.Items[2]
	if diff := cmp.Diff([]Member{{"ill", "backends", 1, "sick"}, {"gone", "", 2, "sick"}, {"w00", "backends", 1, "healthy"}}, b.Members); diff != "" || b.Total != 3 || b.Available != 1 {
		t.Errorf("%+v\n%s", b, diff)
	}
	if a := found.Items[3]; a.Total != 30 || a.Available != 30 || len(a.Members) != shownMembers {
		t.Errorf("%d of %d, %d shown", a.Available, a.Total, len(a.Members))
	}
	if one := searched[FoundDirectors](t, n, "/v1/search/directors?q=TEA"); len(one.Items) != 1 || one.Items[0].Members[0].Kind != store.Directors {
		t.Errorf("%+v", one)
	}
	if part := searched[FoundDirectors](t, n, "/v1/search/directors?offset=2&limit=2"); len(part.Items) != 2 || part.Items[0].Name != "b" || part.Items[1].Name != "a" {
		t.Errorf("%+v", part)
	}
}

// Whatever the groups are, a part of them is that part of them all.
func TestCutIsAPartOfTheWhole(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		groups := rapid.SliceOfN(rapid.SliceOfN(rapid.Int(), 0, 5), 0, 4).Draw(t, "groups")
		s := span{rapid.IntRange(0, 25).Draw(t, "offset"), rapid.IntRange(1, 25).Draw(t, "limit")}
		all := slices.Concat(groups...)
		want := all[min(s.offset, len(all)):min(s.offset+s.limit, len(all))]
		if got := cut(s, groups...); !slices.Equal(got, want) || got == nil {
			t.Fatalf("%+v of %v: %v, want %v", s, groups, got, want)
		}
	})
}

// fleet is a source of members that says one thing after the other.
type fleet struct {
	looks [][]store.MemberEvent
	err   error
}

func (f *fleet) Members(context.Context) ([]store.MemberEvent, int64, error) {
	now := f.looks[0]
	if len(f.looks) > 1 {
		f.looks = f.looks[1:]
	}
	return now, 42, f.err
}

// member makes the events of one; the digest is empty for one whose presence has ended.
func member(node, digest string, revision int64, change ...func(*store.Presence)) (all []store.MemberEvent) {
	id := store.Instance{Node: node, ID: "i"}
	all = append(all, store.MemberEvent{Member: id, Presence: &store.Presence{ID: node, Version: "1"}})
	if digest != "" {
		p := &store.Presence{ID: node, Version: "1", Revision: revision, Digest: digest, Ready: true}
		for _, f := range change {
			f(p)
		}
		all = append(all, store.MemberEvent{Member: id, Live: true, Presence: p})
	}
	return all
}

func askFleet(t *testing.T, f *fleet) Fleet {
	t.Helper()
	s := newServer(newNode())
	s.Members = f
	w := ask(s.Handler(), "GET", "/v1/fleet")
	var out Fleet
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %v: %s", w.Code, err, w.Body)
	}
	return out
}

func TestFleetIsTheWorstFirst(t *testing.T) {
	t.Parallel()
	got := askFleet(t, &fleet{looks: [][]store.MemberEvent{slices.Concat(
		member("ready-2", "d", 9), member("ready-1", "d", 9), member("gone", "", 0),
		member("starting", "c", 7, func(p *store.Presence) { p.Ready = false }),
		member("ending", "d", 9, func(p *store.Presence) { p.Draining = true }),
		member("listed", "x", 3, func(p *store.Presence) { p.Listed = 9 }),
	)}})
	var list []string
	for _, m := range got.Items {
		list = append(list, fmt.Sprintf("%s %s %d", m.Node, m.State, m.Lag))
	}
	want := "gone unknown 0, starting starting 2, ending draining 0, listed ready 0, ready-1 ready 0, ready-2 ready 0"
	if joined := strings.Join(list, ", "); joined != want || got.Revision != 42 || len(got.Differences) != 0 {
		t.Errorf("%s at %d, %v, want %s", joined, got.Revision, got.Differences, want)
	}
	if got.Items[0].Presence == nil || got.Items[0].Presence.Version != "1" {
		t.Errorf("of an unknown node nothing is known: %+v", got.Items[0])
	}
}

// Nodes that differ at one revision are named, if they still do when they had the time to
// write what they have applied.
func TestFleetDiffersOnlyWhenItStays(t *testing.T) {
	t.Parallel()
	apart := slices.Concat(member("a", "1", 9), member("b", "2", 9), member("c", "1", 9))
	for name, row := range map[string]struct {
		looks [][]store.MemberEvent
		want  []presence.Difference
		waits time.Duration
	}{
		"alike":    {[][]store.MemberEvent{slices.Concat(member("a", "1", 9), member("b", "1", 9), member("c", "2", 8))}, []presence.Difference{}, 0},
		"they do":  {[][]store.MemberEvent{apart}, []presence.Difference{{Revision: 9, Digests: map[string][]string{"1": {"a", "c"}, "2": {"b"}}}}, presence.Settle},
		"in a bit": {[][]store.MemberEvent{apart, slices.Concat(member("a", "1", 9), member("b", "1", 9), member("c", "1", 9))}, []presence.Difference{}, presence.Settle},
		"moved on": {[][]store.MemberEvent{apart, slices.Concat(member("a", "3", 10), member("b", "2", 9), member("c", "4", 10))}, []presence.Difference{}, presence.Settle},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			got := askFleet(t, &fleet{looks: row.looks})
			if diff := cmp.Diff(row.want, got.Differences); diff != "" || time.Since(began) != row.waits {
				t.Errorf("%s: after %v\n%s", name, time.Since(began), diff)
			}
		})
	}
}

func TestFleetWithoutEtcdIsNotKnown(t *testing.T) {
	t.Parallel()
	s := newServer(newNode())
	s.Members = &fleet{looks: [][]store.MemberEvent{nil}, err: errors.New("no leader")}
	w := ask(s.Handler(), "GET", "/v1/fleet")
	if w.Code != 503 || !strings.Contains(w.Body.String(), "no leader") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := described(t, newNode()).check("/v1/fleet", "GET", w); err != nil {
		t.Error(err)
	}
}

// What the node's own answers are made of is as it is described.
func TestFleetAndTrafficAreAsDescribed(t *testing.T) {
	t.Parallel()
	n := newNode()
	s := newServer(n)
	s.Members = &fleet{looks: [][]store.MemberEvent{slices.Concat(member("gone", "", 0), member("a", "1", 9, func(p *store.Presence) {
		p.Listen, p.Rejected, p.Leaving = []string{"127.0.0.1:80"}, []string{"backends/x"}, []store.Leaving{{Name: "y"}}
	}))}}
	s.Traffic = func() Traffic {
		return Traffic{Requests: map[string]uint64{"2xx": 1}, Failures: map[string]uint64{"x": 1}, Latency: Latency{1, []LatencyBucket{{0.5, 1}}}}
	}
	d := described(t, n)
	for _, path := range []string{"/v1/fleet", "/v1/traffic"} {
		w := ask(s.Handler(), "GET", path)
		if err := d.check(path, "GET", w); err != nil || w.Code != 200 {
			t.Errorf("%d %v", w.Code, err)
		}
	}
	if got := slices.Sorted(maps.Keys(searched[map[string]any](t, n, "/v1/traffic"))); !slices.Contains(got, "latency") {
		t.Errorf("without a source: %q", got)
	}
}
