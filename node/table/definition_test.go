package table

import (
	"strings"
	"testing"

	"roster/store"
)

func TestDefinitionsAreFoundByKeyAndListedByName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put("backends/a", `{"host":"127.0.0.1"}`, "probes/p", `{}`, "routes/r", `{"backend":"a"}`)
	tab := f.put("backends/team/b", `{"host":"127.0.0.2"}`, "directors/d", `{"type":"round_robin","backends":["a"]}`,
		"probes/team/p", `{}`, "routes/team/r", `{"backend":"missing"}`, "health/nobody", "sick", "health/team/b", "drain")
	for key, want := range map[string]int64{
		"backends/a": 1, "probes/p": 1, "routes/r": 1, "backends/team/b": 2, "directors/d": 2, "probes/team/p": 2, "health/nobody": 2, "health/team/b": 2,
		"backends/d": 0, "directors/a": 0, "backends/missing": 0, "backends/nobody": 0, "health/a": 0, "routes/a": 0, "probes/a": 0, "certificates/a": 0,
	} {
		k, _ := store.ParseKey(key)
		d := tab.Definition(k)
		switch {
		case want == 0 && d != nil:
			t.Errorf("%s is %+v, want nothing", key, d)
		case want != 0 && (d == nil || d.Key != k || d.ModRevision != want || d.CreateRevision != want || d.Def.Kind() != k.Kind):
			t.Errorf("%s is %+v, want it at revision %d", key, d, want)
		}
	}
	for _, row := range []struct {
		kind         store.Kind
		under, after string
		want         string
	}{
		{store.Backends, "", "", "a team/b"}, {store.Backends, "", "a", "team/b"}, {store.Backends, "team/", "", "team/b"}, {store.Backends, "team/", "team/b", ""},
		{store.Directors, "", "", "d"}, {store.Probes, "", "", "p team/p"}, {store.Probes, "", "p", "team/p"}, {store.Routes, "", "", "r team/r"},
		{store.Routes, "team/", "", "team/r"}, {store.HealthKind, "", "", "nobody team/b"}, {store.Certificates, "", "", ""},
	} {
		var names []string
		for d := range tab.Definitions(row.kind, row.under, row.after) {
			names = append(names, d.Key.Name)
		}
		if got := strings.Join(names, " "); got != row.want {
			t.Errorf("%s under %q after %q: %s, want %s", row.kind, row.under, row.after, got, row.want)
		}
	}
}

func TestAvailableIsWhetherARequestFindsABackend(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", `{"host":"127.0.0.1"}`, "backends/b", `{"host":"127.0.0.2"}`, "backends/none", `{"none":true}`, "health/b", "sick",
		"directors/both", `{"type":"round_robin","backends":["a","b"]}`, "directors/sick", `{"type":"round_robin","backends":["b","none","missing"]}`,
		"directors/self", `{"type":"round_robin","backends":["self"]}`, "directors/told", `{"type":"round_robin","backends":["a"]}`, "health/told", "drain")
	for name, want := range map[string]bool{
		"a": true, "b": false, "none": false, "both": true, "sick": false, "self": false, "told": false, "missing": false, "nowhere": false,
	} {
		if got := tab.Available(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
