package plan_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/plan"
	"roster/store"
	"roster/store/storetest"
)

func entries(t *testing.T, file string) []manifest.Entry {
	t.Helper()
	all, err := manifest.Parse("f", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func open(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(store.Config{Endpoints: []string{storetest.Etcd(t).Endpoint()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMake(t *testing.T) {
	t.Parallel()
	s := open(t)
	put := func(key, value string) int64 {
		t.Helper()
		k, _ := store.ParseKey(key)
		rev, err := s.Put(t.Context(), k, []byte(value), store.AnyRevision)
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	put("backends/same", `{ "port": 80, "host": "h" }`) // spelt differently
	put("backends/other", `{"host":"h"}`)
	put("directors/taken", `{"type":"random","backends":["same"]}`)
	rev := put("backends/broken", `{`)

	p, err := plan.Make(t.Context(), s, entries(t, `
backends: {same: {host: h}, other: {host: i}, broken: {host: h}, new: {host: h}}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, step := range p.Steps {
		got = append(got, string(step.Action)+" "+step.Entry.Key.String())
	}
	want := []string{"keep backends/same", "change backends/other", "change backends/broken", "create backends/new"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if p.Revision != rev || len(p.Ops()) != 3 || p.Count(plan.Change) != 2 {
		t.Errorf("revision %d, want %d; ops %v", p.Revision, rev, p.Ops())
	}
	if rev, err := s.Apply(t.Context(), p.Ops()); err != nil || rev != p.Revision+1 {
		t.Errorf("applied at %d, %v", rev, err)
	}

	_, err = plan.Make(t.Context(), s, entries(t, "backends: {taken: {host: h}}\ndirectors: {new: {type: random, backends: [same]}}"))
	if !errors.Is(err, store.ErrConflict) || len(manifest.Each(err)) != 2 || !strings.Contains(err.Error(), "backends/taken: directors/taken has that name") {
		t.Errorf("names that are taken: %v", err)
	}
}

func TestMakeOfManyIsAsOfFew(t *testing.T) {
	t.Parallel()
	s := open(t)
	file := "backends:\n"
	for i := range 100 {
		file += fmt.Sprintf("  b%d: {host: h, port: %d}\n", i, i+1)
	}
	p, err := plan.Make(t.Context(), s, entries(t, file))
	if err != nil || p.Count(plan.Create) != 100 {
		t.Fatalf("%d to create, %v", p.Count(plan.Create), err)
	}
	if _, err := s.Apply(t.Context(), p.Ops()); err != nil {
		t.Fatal(err)
	}
	p, err = plan.Make(t.Context(), s, entries(t, strings.Replace(file, "port: 50}", "port: 5000}", 1)+"directors: {b1x: {type: random, backends: [b1]}}\n"))
	if err != nil || p.Count(plan.Keep) != 99 || p.Count(plan.Change) != 1 || p.Count(plan.Create) != 1 {
		t.Errorf("%d kept, %d changed, %d created, %v", p.Count(plan.Keep), p.Count(plan.Change), p.Count(plan.Create), err)
	}
	if _, err := plan.Make(t.Context(), s, entries(t, file+"directors: {c: {type: random, backends: [b1]}}\nroutes: {r: {backend: b1}}\n")); err != nil {
		t.Error(err)
	}
}

// team is an etcd with a user who may do anything with backends below team-a/ and
// nothing else, as a store opened by that user, and by root.
func team(t *testing.T) (user, root *store.Store) {
	t.Helper()
	m := storetest.Etcd(t)
	c, ctx := m.Client(), t.Context()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.RoleAdd(ctx, "team-a"))
	from := "/roster/backends/team-a/"
	must(c.RoleGrantPermission(ctx, "team-a", from, clientv3.GetPrefixRangeEnd(from), clientv3.PermissionType(clientv3.PermReadWrite)))
	for name, role := range map[string]string{"root": "root", "web": "team-a"} {
		must(c.UserAdd(ctx, name, "secret"))
		must(c.UserGrantRole(ctx, name, role))
	}
	must(c.AuthEnable(ctx))
	open := func(user string) *store.Store {
		return storetest.Open(t, store.Config{Endpoints: []string{m.Endpoint()}, User: user, Password: "secret"})
	}
	return open("web"), open("root")
}

func TestMakeNeedsNoRightsBeyondTheSet(t *testing.T) {
	t.Parallel()
	user, root := team(t)
	if _, err := root.Put(t.Context(), store.Key{Kind: store.Backends, Name: "team-a/b0"}, []byte(`{"host":"h","port":1}`), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{1, 100} { // read one by one, and by kind
		file := "backends:\n"
		for i := range n {
			file += fmt.Sprintf("  team-a/b%d: {host: h, port: %d}\n", i, i+1)
		}
		p, err := plan.Make(t.Context(), user, entries(t, file))
		if err != nil || p.Count(plan.Keep) != 1 || p.Count(plan.Create) != n-1 || p.Revision == 0 {
			t.Errorf("%d: %d kept, %d created at revision %d, %v", n, p.Count(plan.Keep), p.Count(plan.Create), p.Revision, err)
		}
	}
	if _, err := plan.Make(t.Context(), user, entries(t, "backends: {team-b/w: {host: h}}")); !errors.Is(err, store.ErrDenied) {
		t.Errorf("another team's backend: %v", err)
	}
	if _, err := root.Put(t.Context(), store.Key{Kind: store.Directors, Name: "team-a/d"}, []byte(`{"type":"random","backends":["team-a/b0"]}`), store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	if _, err := plan.Make(t.Context(), user, entries(t, "backends: {team-a/d: {host: h}}")); err != nil {
		t.Errorf("a name taken by what cannot be read: %v", err)
	}
	if _, err := plan.Make(t.Context(), root, entries(t, "backends: {team-a/d: {host: h}}")); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a name taken by what can be read: %v", err)
	}
}
