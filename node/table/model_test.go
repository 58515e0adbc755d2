package table

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/balancer"
	"roster/message"
	"roster/pool"
	"roster/store"
	"roster/watcher"
)

// keyspace is the model: what etcd holds, and what a table of it has to be.
type keyspace struct {
	revision int64
	items    map[store.Key]watcher.Item
}

// picture is all that a table is, in words: two tables with one picture serve
// every request alike.
type picture struct {
	Names    map[string]string
	Routes   []string
	Default  string
	Digest   string
	Rejected []string
	Dangling []string
	Counts   Counts
}

func pictureOf(t *Table) picture {
	p := picture{Names: map[string]string{}, Digest: t.Digest().String(), Counts: t.Counts()}
	name := func(ref Ref) string {
		if s := t.Slot(ref); s != nil {
			return s.Name
		}
		return "-"
	}
	for s := range t.Slots("", "") {
		var b strings.Builder
		if s.Backend != nil {
			fmt.Fprintf(&b, "backend %s %d/%d fault %v pool %v available %v;", store.Encode(s.Backend.Def), s.Backend.CreateRevision,
				s.Backend.ModRevision, s.Backend.Fault, s.Backend.Pool != nil, s.Available())
		}
		if s.Director != nil {
			fmt.Fprintf(&b, "director %d/%d", s.Director.CreateRevision, s.Director.ModRevision)
			for _, m := range s.Director.Members {
				fmt.Fprintf(&b, " %s*%g", name(m.Ref), m.Weight)
			}
			b.WriteString(viewOf(t, s))
		}
		if s.Override != nil {
			fmt.Fprintf(&b, " override %s", s.Override.Def.State)
		}
		p.Names[s.Name] = b.String()
	}
	for r := range t.Routes("", "") {
		p.Routes = append(p.Routes, fmt.Sprintf("%s -> %s %d", r.Name, name(r.Target), r.ModRevision))
	}
	p.Default = name(t.fallback)
	for r := range t.Rejected() {
		p.Rejected = append(p.Rejected, fmt.Sprintf("%s %d %v", r.Key, r.Revision, r.Err))
	}
	for key, missing := range t.Dangling() {
		p.Dangling = append(p.Dangling, fmt.Sprintf("%s -> %s", key, missing))
	}
	return p
}

// viewOf is what requests see of a director.
func viewOf(t *Table, s *Slot) string {
	d := s.Director
	v := d.view.Load()
	var b strings.Builder
	fmt.Fprintf(&b, "; ready %t available %t panic %t directors %v", v.ready, v.Available(), v.Panic(), v.directors)
	if v.sessions != nil {
		fmt.Fprintf(&b, " cookies %x", v.sessions.tags)
	}
	w := walk{t: t, d: d, now: t.views.now()}
	w.push(d.run.ref)
	for i := range d.Members {
		fmt.Fprintf(&b, " %.3g", v.Shares()[i])
	}
	if d.Def.Type == store.Hash || d.Def.Type == store.Shard {
		for key := range uint32(8) {
			fmt.Fprintf(&b, " %d", v.Pick(&balancer.Query{Key: key * 0x1fffffff}, &w))
		}
	}
	return b.String()
}

// reaches says the same as a director's health does, in the words of the contract and
// without any view: members that lead back or too deep are skipped.
func reaches(t *Table, ref Ref, trail []Ref) bool {
	s := t.Slot(ref)
	switch {
	case s == nil:
		return false
	case s.Backend != nil:
		return s.Available()
	case s.Director == nil || s.refused() || slices.Contains(trail, ref) || len(trail) == maxDepth:
		return false
	}
	trail = append(slices.Clip(trail), ref)
	def := s.Director.Def
	for i, m := range s.Director.Members {
		below := t.Slot(m.Ref)
		used := (def.Panic > 0 || def.Healthy == store.HealthyIgnore) && below != nil && below.Backend != nil && below.present()
		if s.Director.Members[i].Weight > 0 && (used || reaches(t, m.Ref, trail)) {
			return true
		}
	}
	return false
}

// checkPicks asks every name for backends: there is one whenever the table has one,
// whatever views say; it is this table's, and healthy unless a director on the way does
// not care.
func checkPicks(rt *rapid.T, t *Table, when string) {
	var a Ask
	for s := range t.Slots("", "") {
		ref, _ := t.names.Get([]byte(s.Name))
		if s.Backend != nil && s.Backend.Fault != nil {
			continue
		}
		for range 3 {
			a.Begin(&message.Request{Target: []byte("/x")}, noClient, t.views.now())
			b, err := t.Pick(ref, &a)
			if want := reaches(t, ref, nil); (err == nil) != want {
				rt.Fatalf("%s: %s gave %v, want a backend: %t\n%+v", when, s.Name, err, want, pictureOf(t).Names)
			}
			if err != nil {
				continue
			}
			if got := t.Lookup(b.Name); got.Backend != b {
				rt.Fatalf("%s: %s gave a backend %s that is not the table's", when, s.Name, b.Name)
			}
			careless := slices.ContainsFunc(a.steps[:a.depth], func(s step) bool { return s.d.Def.Panic > 0 || loose(s.d.Def) })
			if !t.Lookup(b.Name).Available() && !careless {
				rt.Fatalf("%s: %s gave %s, which is sick", when, s.Name, b.Name)
			}
			a.Done(Unknown, 0, t.views.now())
		}
	}
}

// decode makes an item of a definition as a user writes it.
func decode(t testing.TB, key store.Key, value string, create, mod int64) watcher.Item {
	t.Helper()
	def, warnings, err := store.Decode(key, []byte(value), store.Reject)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return watcher.Item{Key: key, CreateRevision: create, ModRevision: mod, Definition: def, Warnings: warnings}
}

var names = []string{"a", "b", "c", "default", "t/d", "t/e"}

func genValue(kind store.Kind) *rapid.Generator[string] {
	n := rapid.SampledFrom(names)
	return rapid.Custom(func(t *rapid.T) string {
		switch kind {
		case store.Backends:
			return rapid.SampledFrom([]string{
				`{"none":true}`, `{"host":"127.0.0.1"}`, `{"host":"127.0.0.1","comment":"same place"}`,
				`{"host":"127.0.0.2","port":81,"max_connections":3}`, `{"path":"@x"}`, `{"none":true,"labels":{"app":"x"}}`,
				`{"host":"127.0.0.4","labels":{"app":"x"}}`, `{"host":"127.0.0.4","labels":{"app":"x","tier":"1"}}`, `{"host":"127.0.0.5","labels":{"tier":"1"}}`,
				`{"host":"127.0.0.3","via":"` + n.Draw(t, "via") + `"}`, `{"host":"127.0.0.3","probe":"` + n.Draw(t, "probe") + `"}`,
			}).Draw(t, "backend")
		case store.Directors:
			kind := rapid.SampledFrom([]string{"round_robin", "fallback", "random", "hash", "shard", "least_connections", "p2c"}).Draw(t, "type")
			lowest := 0
			if kind == "shard" {
				lowest = 1
			}
			var fields []string
			for _, name := range rapid.SliceOfN(n, 0, 4).Draw(t, "members") {
				fields = append(fields, fmt.Sprintf(`{"name":%q,"weight":%d}`, name, rapid.IntRange(lowest, 2).Draw(t, "weight")))
			}
			fields = []string{fmt.Sprintf(`"type":%q,"backends":[%s]`, kind, strings.Join(fields, ","))}
			fields = append(fields, rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
				`"select":{"app":"x"}`, `"select":{"app":"x","tier":"1"}`, `"panic":0.5`, `"outlier":{}`, `"cookie":{}`,
			}), 0, 3, func(s string) string { return s[:5] }).Draw(t, "options")...)
			if kind == "shard" && rapid.Bool().Draw(t, "ignore") {
				fields = append(fields, `"healthy":"ignore"`)
			}
			return "{" + strings.Join(fields, ",") + "}"
		case store.Routes:
			host := rapid.SampledFrom([]string{`"host":"x.test",`, `"host":"*.x.test",`, `"host":["x.test","y.test"],`, ``}).Draw(t, "host")
			path := rapid.SampledFrom([]string{`"/*"`, `"/j/*"`, `"/j/k"`, `["/j","/k/*"]`}).Draw(t, "path")
			return fmt.Sprintf(`{"match":{%s"path":%s},"priority":%d,"backend":%q}`, host, path, rapid.IntRange(0, 1).Draw(t, "priority"), n.Draw(t, "target"))
		case store.HealthKind:
			return rapid.SampledFrom([]string{"sick", "healthy", "drain", "auto"}).Draw(t, "state")
		case store.Probes:
			return rapid.SampledFrom([]string{`{"url":"/a"}`, `{"url":"/b"}`}).Draw(t, "probe")
		case store.SecretKind:
			return strings.Repeat(rapid.SampledFrom([]string{"0", "1"}).Draw(t, "secret"), 32)
		}
		panic(kind)
	})
}

var kinds = []store.Kind{store.Backends, store.Directors, store.Routes, store.HealthKind, store.Probes, store.SecretKind}

// step draws one revision: a transaction of one to five keys.
func (k *keyspace) step(t *rapid.T, tb testing.TB) watcher.Change {
	k.revision++
	c := watcher.Change{Revision: k.revision}
	touched := map[store.Key]bool{}
	for range rapid.IntRange(1, 5).Draw(t, "keys") {
		key := store.Key{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Name: rapid.SampledFrom(names).Draw(t, "name")}
		if key.Kind == store.SecretKind {
			key.Name = ""
		}
		if touched[key] {
			continue
		}
		touched[key] = true
		old, there := k.items[key]
		switch what := rapid.IntRange(0, 5).Draw(t, "what"); {
		case there && what == 0:
			delete(k.items, key)
			c.Deletes = append(c.Deletes, key)
			continue
		case there && what == 1: // an invalid value: the old one stays in effect
			old.Rejected = &watcher.Rejection{Revision: k.revision, Err: fmt.Errorf("bad %d", k.revision)}
		case what == 1:
			old = watcher.Item{Key: key, Rejected: &watcher.Rejection{Revision: k.revision, Err: fmt.Errorf("bad %d", k.revision)}}
		default:
			create := k.revision
			if there && old.CreateRevision != 0 {
				create = old.CreateRevision
			}
			old = decode(tb, key, genValue(key.Kind).Draw(t, "value"), create, k.revision)
		}
		k.items[key] = old
		c.Puts = append(c.Puts, old)
	}
	return c
}

// restore gives every key new revisions and the value it had, as a new cluster
// with the same content does; the watcher hands out the same definitions.
func (k *keyspace) restore(t *rapid.T) watcher.Change {
	keys := slices.SortedFunc(maps.Keys(k.items), func(a, b store.Key) int { return cmp.Compare(a.String(), b.String()) })
	for _, i := range rapid.Permutation(indices(len(keys))).Draw(t, "order") {
		item := k.items[keys[i]]
		k.revision++
		if item.Definition != nil {
			item.CreateRevision, item.ModRevision = k.revision, k.revision
		}
		k.items[keys[i]] = item
	}
	return k.whole()
}

func indices(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// whole is what a list of the keyspace gives a fresh node.
func (k *keyspace) whole() watcher.Change {
	c := watcher.Change{Revision: k.revision, Listed: true, Touched: k.revision, Puts: slices.Collect(maps.Values(k.items))}
	slices.SortFunc(c.Puts, func(a, b watcher.Item) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	return c
}

// Whatever happened, in whichever transactions: the table is the one that a
// fresh node makes of what is there now, and nothing is kept for what is gone.
func TestTableIsAFunctionOfTheKeyspace(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		k := &keyspace{items: map[store.Key]watcher.Item{}}
		pools := pool.New(pool.Config{})
		a := NewApplier(pools)
		for range rapid.IntRange(1, 30).Draw(rt, "revisions") {
			before := a.Current()
			old := pictureOf(before)
			change := k.step
			if rapid.IntRange(0, 9).Draw(rt, "restored") == 0 {
				change = func(rt *rapid.T, _ testing.TB) watcher.Change { return k.restore(rt) }
			}
			got := a.Apply(change(rt, t))
			checkPicks(rt, before, "an older table")
			checkPicks(rt, got, "before the views are up to date")
			a.views.refresh()
			checkPicks(rt, got, "with new views")
			checkPicks(rt, before, "an older table, with new views")
			if diff := gocmp.Diff(old.withoutViews(), pictureOf(before).withoutViews()); diff != "" {
				rt.Fatalf("an older table changed:\n%s", diff)
			}
			if got.Revision() != k.revision || a.Current() != got {
				rt.Fatalf("revision is %d, want %d", got.Revision(), k.revision)
			}
			freshPools := pool.New(pool.Config{})
			freshApplier := NewApplier(freshPools)
			fresh := freshApplier.Apply(k.whole())
			if diff := gocmp.Diff(pictureOf(fresh), pictureOf(got)); diff != "" {
				rt.Fatalf("fresh (-) and incremental (+) differ:\n%s", diff)
			}
			if pools.Pools() != freshPools.Pools() {
				rt.Fatalf("%d pools, a fresh node has %d", pools.Pools(), freshPools.Pools())
			}
			live := 0
			for s := range got.Slots("", "") {
				live++
				if s.Backend == nil && s.Director == nil && s.Override == nil && !mentioned(got, s.Name) {
					rt.Fatalf("slot of %q is kept for nothing", s.Name)
				}
			}
			members, edges := 0, 0
			for s := range got.Slots("", "") {
				if s.Director != nil {
					members += len(s.Director.Members)
				}
				ref, _ := got.names.Get([]byte(s.Name))
				for range a.views.parents.of(ref) {
					edges++
				}
			}
			if members != edges || len(a.views.runs) != got.Counts().Directors {
				rt.Fatalf("%d edges for %d members, %d directors known of %d", edges, members, len(a.views.runs), got.Counts().Directors)
			}
			if diff := gocmp.Diff(groupsOf(freshApplier), groupsOf(a)); diff != "" {
				rt.Fatalf("labels of a fresh node (-) and here (+) differ:\n%s", diff)
			}
			if live+len(a.free)+1 != len(a.refs) {
				rt.Fatalf("%d slots live, %d free, of %d", live, len(a.free), len(a.refs)-1)
			}
		}
		var all watcher.Change
		all.Revision = k.revision + 1
		for key := range k.items {
			all.Deletes = append(all.Deletes, key)
		}
		end := a.Apply(all)
		if pools.Pools() != 0 || len(a.users) != 0 || len(a.groups) != 0 || len(a.sticky) != 0 || len(a.views.runs) != 0 || len(a.losers) != 0 || a.Leaving() != 0 || end.Digest() != (Digest{}) || end.Counts() != (Counts{}) {
			rt.Fatalf("after all is deleted: %d pools, users %v, losers %v, digest %v, counts %+v", pools.Pools(), a.users, a.losers, end.Digest(), end.Counts())
		}
	})
}

// withoutViews leaves out what changes with health.
func (p picture) withoutViews() picture {
	names := make(map[string]string)
	for name, text := range p.Names {
		names[name], _, _ = strings.Cut(text, "; ready")
	}
	p.Names = names
	return p
}

// groupsOf are the backends by their labels. Where directors are depends on what came
// first.
func groupsOf(a *Applier) map[string][]string {
	all := map[string][]string{}
	for key, g := range a.groups {
		for ref := range g.backends {
			all[key] = append(all[key], a.Current().Slot(ref).Name)
		}
		slices.Sort(all[key])
	}
	return all
}

func mentioned(t *Table, name string) bool {
	for s := range t.Slots("", "") {
		if s.Director != nil {
			for _, m := range s.Director.Members {
				if t.Slot(m.Ref).Name == name {
					return true
				}
			}
		}
	}
	for r := range t.Routes("", "") {
		if r.Def.Backend == name {
			return true
		}
	}
	// A director that lost its name to a backend mentions nothing.
	return false
}
