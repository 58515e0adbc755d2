package guard

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roster/store"
	"roster/watcher"
)

func backend(name string) store.Key  { return store.Key{Kind: store.Backends, Name: name} }
func director(name string) store.Key { return store.Key{Kind: store.Directors, Name: name} }

// keyspace is what etcd has: the items as a watcher gives them.
type keyspace map[store.Key]watcher.Item

// sum is what changes come to.
func (k keyspace) add(c watcher.Change) {
	for _, key := range c.Deletes {
		delete(k, key)
	}
	for _, item := range c.Puts {
		k[item.Key] = item
	}
}

// write is one transaction: to each key its definition, nil for a deletion.
type write map[store.Key]store.Definition

// invalid stands for a value that is not valid.
var invalid = &store.Route{}

// rig is a guard with etcd before it and a table behind it.
type rig struct {
	etcd, table keyspace
	revision    int64
	ack         int64
	now         time.Time
	*Guard
}

func newRig(percent int) *rig {
	return &rig{etcd: keyspace{}, table: keyspace{}, now: time.Unix(1e9, 0), Guard: New(percent)}
}

// change is what a watcher makes of a transaction.
func (r *rig) change(w write) watcher.Change {
	r.revision++
	c := watcher.Change{Revision: r.revision, Touched: r.revision, Ack: r.ack}
	for _, key := range slices.SortedFunc(maps.Keys(w), compare) {
		was, had := r.etcd[key]
		switch def := w[key]; {
		case def == nil && had:
			c.Deletes = append(c.Deletes, key)
		case def == nil:
		case def == store.Definition(invalid):
			item := watcher.Item{Key: key, Rejected: &watcher.Rejection{Revision: r.revision, Err: errors.New("it is not valid")}}
			if had {
				item.CreateRevision, item.ModRevision, item.Definition = was.CreateRevision, was.ModRevision, was.Definition
			}
			c.Puts = append(c.Puts, item)
		default:
			item := watcher.Item{Key: key, CreateRevision: r.revision, ModRevision: r.revision, Definition: def}
			if had && was.Definition != nil {
				item.CreateRevision = was.CreateRevision
			}
			c.Puts = append(c.Puts, item)
		}
	}
	r.etcd.add(c)
	return c
}

// do applies a change, and returns what became of it.
func (r *rig) do(c watcher.Change) Outcome {
	out := r.Apply(c, r.now)
	if !out.None {
		r.table.add(out.Change)
	}
	return out
}

func (r *rig) write(w write) Outcome { return r.do(r.change(w)) }

// acknowledge puts the key "ack".
func (r *rig) acknowledge(revision int64) Outcome {
	r.revision++
	r.ack = revision
	return r.do(watcher.Change{Revision: r.revision, Touched: r.revision, Ack: r.ack})
}

// list is a list of all that etcd has, against what the watcher had before.
func (r *rig) list(before keyspace) watcher.Change {
	c := watcher.Change{Revision: r.revision, Touched: r.revision, Listed: true, Ack: r.ack}
	for key := range before {
		if _, ok := r.etcd[key]; !ok {
			c.Deletes = append(c.Deletes, key)
		}
	}
	for key, item := range r.etcd {
		if was, ok := before[key]; !ok || was.Definition != item.Definition || was.Rejected != item.Rejected || was.CreateRevision != item.CreateRevision {
			c.Puts = append(c.Puts, item)
		}
	}
	slices.SortFunc(c.Deletes, compare)
	slices.SortFunc(c.Puts, func(a, b watcher.Item) int { return compare(a.Key, b.Key) })
	return c
}

func same(a, b watcher.Item) bool {
	return a.Key == b.Key && a.CreateRevision == b.CreateRevision && a.ModRevision == b.ModRevision && a.Definition == b.Definition && a.Rejected == b.Rejected
}

func (r *rig) plain() error {
	for key, item := range r.table {
		if !same(item, r.etcd[key]) {
			return fmt.Errorf("the table has %+v, and etcd %+v", item, r.etcd[key])
		}
	}
	if len(r.table) != len(r.etcd) {
		return fmt.Errorf("the table has %d keys, and etcd %d", len(r.table), len(r.etcd))
	}
	return nil
}

// some is a transaction on backends from number lo to below hi; def nil deletes them.
func some(lo, hi int, def func() store.Definition) write {
	w := write{}
	for i := lo; i < hi; i++ {
		if def == nil {
			w[backend(fmt.Sprintf("web-%03d", i))] = nil
		} else {
			w[backend(fmt.Sprintf("web-%03d", i))] = def()
		}
	}
	return w
}

func valid() store.Definition { return &store.Backend{} }

func with(n int) *rig {
	r := newRig(50)
	r.change(some(0, n, valid))
	r.do(r.list(keyspace{}))
	return r
}

func TestRemovalsBelowTheShareAreHeld(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		steps   func(r *rig)
		backend int // how many there are in the end
		held    int
	}{
		{"down to the share", func(r *rig) { r.write(some(0, 10, nil)) }, 10, 0},
		{"below it", func(r *rig) { r.write(some(0, 11, nil)) }, 20, 11},
		{"in several revisions: from the one that goes below", func(r *rig) {
			for i := range 20 {
				r.write(some(i, i+1, nil))
			}
		}, 10, 10},
		{"others put in the same revision", func(r *rig) {
			w := some(0, 20, nil)
			maps.Copy(w, some(20, 30, valid))
			r.write(w)
		}, 10, 0},
		{"slowly", func(r *rig) {
			for i := range 20 {
				r.now = r.now.Add(Window)
				r.write(some(i, i+1, nil))
			}
		}, 0, 0},
		{"what is held counts as served, for as long as it is", func(r *rig) {
			r.write(some(0, 11, nil))
			r.now = r.now.Add(3 * Window)
			r.write(some(11, 12, nil))
		}, 20, 12},
		{"those that come back under other names do not raise the bar", func(r *rig) {
			r.write(some(0, 15, nil))
			r.write(some(20, 35, valid)) // 20 again
			r.now = r.now.Add(3 * Window)
			r.write(some(20, 30, nil)) // half of them
		}, 25, 15},
		{"names that come and go while some are held do not pile up", func(r *rig) {
			r.write(some(0, 15, nil))
			for i := 20; i < 1000; i += 5 {
				r.write(some(i, i+5, valid))
				r.now = r.now.Add(Window / 2)
				r.write(some(i, i+5, nil))
			}
		}, 25, 20},
		{"all of those that there were at most", func(r *rig) {
			r.write(some(20, 100, valid))
			r.write(some(0, 100, nil))
		}, 100, 100},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := with(20)
			tt.steps(r)
			if n := r.Held().Count; n != tt.held || len(r.table) != tt.backend {
				t.Errorf("%d backends and %d held, want %d and %d", len(r.table), n, tt.backend, tt.held)
			}
		})
	}
	t.Run("of fewer than ten", func(t *testing.T) {
		t.Parallel()
		r := with(Least - 1)
		r.write(some(0, Least, nil))
		if len(r.table) != 0 {
			t.Errorf("%d backends, want none: nothing is guarded", len(r.table))
		}
	})
}

func TestAllElseOfARevisionApplies(t *testing.T) {
	t.Parallel()
	r := with(20)
	r.write(write{director("gone"): &store.Director{}, director("all"): &store.Director{}, backend("web-019"): &store.Backend{}})
	w := some(0, 19, nil)
	changed := &store.Director{}
	w[director("gone")], w[director("all")] = nil, changed
	out := r.write(w)
	if out.Held != 19 || r.table[director("all")].Definition != store.Definition(changed) {
		t.Errorf("%d held and all is %+v, want 19, and the director changed", out.Held, r.table[director("all")])
	}
	if _, ok := r.table[director("gone")]; ok {
		t.Error("a deleted director is there")
	}
	if out.Change.Revision != r.revision {
		t.Errorf("revision %d, want that of the change, %d", out.Change.Revision, r.revision)
	}
}

func TestAnAcknowledgementReleases(t *testing.T) {
	t.Parallel()
	r := with(20)
	r.write(some(0, 11, nil))
	first := r.Held()
	r.write(some(11, 12, nil))
	both := r.Held()
	if first.Revision == both.Revision || both.Count != 12 || len(both.Names) != 12 || both.Names[0] != "web-000" || !both.Since.Equal(r.now) {
		t.Errorf("held %+v and then %+v", first, both)
	}
	if out := r.acknowledge(first.Revision - 1); !out.None || out.Released != 0 {
		t.Errorf("%+v of an acknowledgement of an older revision, want nothing", out)
	}
	served := both.Revision // the newest that touched a definition
	if out := r.acknowledge(first.Revision); out.Released != 11 || r.Held().Count != 1 || out.Change.Touched != served || !out.Change.Listed {
		t.Errorf("%+v, want 11 released, and the table at the revision of before", out)
	}
	r.acknowledge(both.Revision)
	if err := r.plain(); err != nil || r.Held().Count != 0 {
		t.Errorf("after the acknowledgement: %v, held %+v", err, r.Held())
	}
	// What was acknowledged is no fall any more.
	if out := r.write(some(12, 13, nil)); out.Held != 0 {
		t.Errorf("%d held after the acknowledgement, want 0", out.Held)
	}
}

func TestAPutOfTheNameReturnsIt(t *testing.T) {
	t.Parallel()
	r := with(20)
	r.write(some(0, 20, nil))
	back := &store.Backend{}
	r.write(write{backend("web-003"): back, director("web-004"): &store.Director{}, backend("web-005"): invalid})
	if got := r.table[backend("web-003")]; got.Definition != store.Definition(back) {
		t.Errorf("item = %+v, want the new definition", got)
	}
	if _, ok := r.table[backend("web-004")]; ok {
		t.Error("a backend is held whose name a director has")
	}
	if got := r.table[backend("web-005")]; got.Definition == nil || got.Rejected == nil {
		t.Errorf("item = %+v, want the held definition, and the rejection", got)
	}
	if n := r.Held().Count; n != 18 {
		t.Errorf("%d held, want 18", n)
	}
	for name, want := range map[string]bool{"web-003": false, "web-004": false, "web-005": true} {
		if _, held := r.Since(name); held != want {
			t.Errorf("%s is held: %t, want %t", name, held, want)
		}
	}
	r.acknowledge(r.revision)
	if err := r.plain(); err != nil {
		t.Error(err)
	}
}

// An empty list that the watcher held, and believes because it is acknowledged, is not
// held once more.
func TestAnAcknowledgedListIsNotHeld(t *testing.T) {
	t.Parallel()
	for _, acknowledged := range []bool{true, false} {
		r := with(20)
		before := maps.Clone(r.etcd)
		r.etcd, r.revision, r.ack = keyspace{}, 7, 5
		c := r.list(before)
		if acknowledged {
			c.Ack = 7
		}
		if out := r.do(c); (out.Held == 0) != acknowledged {
			t.Errorf("acknowledged %t: %d held", acknowledged, out.Held)
		}
	}
}

func TestAnotherHistoryNeedsNoRevisionOfTheOldOne(t *testing.T) {
	t.Parallel()
	r := with(20)
	r.revision = 1000
	r.write(some(0, 15, nil))
	before := maps.Clone(r.etcd)
	r.revision = 50
	r.do(r.list(before))
	if h := r.Held(); h.Revision != 50 || h.Count != 15 {
		t.Errorf("held = %+v, want 15, to be released at revision 50", h)
	}
}

// Nor does what was acknowledged in another history release it, though its revision is higher.
func TestAnAcknowledgementOfAnotherClusterIsNotMeant(t *testing.T) {
	t.Parallel()
	r := with(20)
	r.revision = 100
	r.write(some(0, 15, nil))
	before := maps.Clone(r.etcd)
	r.revision, r.ack = 5000, 3000
	c := r.list(before)
	c.Cluster = 2
	r.do(c)
	if h := r.Held(); h.Revision != 5000 || h.Count != 15 {
		t.Errorf("held = %+v, want 15, to be released at revision 5000", h)
	}
}

// A list is made once, until what is held has changed.
func TestHeldIsNotMadeForEachChange(t *testing.T) {
	t.Parallel()
	r := with(20)
	r.write(some(0, 20, nil))
	names := func() *string { return &r.Held().Names[0] }
	was := names()
	r.write(some(30, 31, valid))
	if names() != was {
		t.Error("it was made anew for a change that it has nothing to do with")
	}
	r.write(some(5, 6, valid))
	if h := r.Held(); h.Count != 19 || names() == was {
		t.Errorf("held = %+v after a return", h)
	}
}

func TestNoGuardChangesNothing(t *testing.T) {
	t.Parallel()
	var g *Guard
	c := watcher.Change{Revision: 7, Deletes: []store.Key{backend("a")}}
	if out := g.Apply(c, time.Now()); out.None || len(out.Change.Deletes) != 1 || out.Held != 0 {
		t.Errorf("outcome = %+v, want the change", out)
	}
	if out := g.Apply(watcher.Change{Revision: 8, Ack: 7}, time.Now()); !out.None {
		t.Errorf("outcome = %+v of an acknowledgement, want none", out)
	}
	if _, held := g.Since("a"); held || g.Held().Count != 0 {
		t.Error("it holds something")
	}
}

// TestTheTableIsTheKeyspaceAndWhatIsHeld: after any run of transactions, lists, restores,
// acknowledgements and pauses, the table has what etcd has, and each held backend as it
// was last in effect; what is held is what the rule says; and an acknowledgement of all
// of it leaves the plain table.
func TestTheTableIsTheKeyspaceAndWhatIsHeld(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		percent := rapid.SampledFrom([]int{1, 30, 50, 90, 100}).Draw(t, "percent")
		r := newRig(percent)
		last := keyspace{}         // each backend as it was last in effect
		held := map[string]int64{} // by the rule
		type count struct {
			at time.Time
			n  int
		}
		var past []count // every count, none forgotten
		most := 0        // of the counts when the first was held, and of those later on
		lives := func() (n int) {
			for key, item := range r.etcd {
				if key.Kind == store.Backends && item.Definition != nil {
					n++
				}
			}
			return n
		}
		step := func(c watcher.Change, before keyspace) {
			gone := []string{}
			for key, was := range before {
				if key.Kind != store.Backends || was.Definition == nil {
					continue
				}
				last[key] = was
				if r.etcd[key].Definition == nil {
					gone = append(gone, key.Name)
				}
			}
			put := map[string]bool{}
			for _, item := range c.Puts {
				if item.Definition != nil && (item.Key.Kind == store.Backends || item.Rejected == nil) {
					put[item.Key.Name] = true
				}
			}
			var reference int
			for i, s := range past {
				if i == 0 || !s.at.After(r.now.Add(-Window)) {
					reference = s.n
				}
			}
			few := reference >= Least && float64(lives()) < float64(percent)/100*float64(reference)
			for name := range held {
				if put[name] {
					delete(held, name)
				} else {
					held[name] = min(held[name], c.Revision)
				}
			}
			reset := false
			slices.Sort(gone)
			for _, name := range gone {
				switch {
				case put[name]:
				case c.Revision <= c.Ack:
					reset = true
				case few:
					for i, s := range past { // of five minutes, and what there was when they began
						if i == len(past)-1 || past[i+1].at.After(r.now.Add(-Window)) {
							most = max(most, s.n)
						}
					}
					if len(held) < most {
						held[name] = c.Revision
					}
				}
			}
			for name, revision := range held {
				if revision <= c.Ack {
					delete(held, name)
					reset = true
				}
			}
			if reset {
				past = nil
			}
			if len(held) == 0 {
				most = 0
			}
			past = append(past, count{r.now, max(lives(), min(lives()+len(held), most))})
			r.do(c)

			for name := range held {
				if _, is := r.Since(name); !is {
					t.Fatalf("%s is not held", name)
				}
			}
			if h := r.Held(); h.Count != len(held) || len(held) > 0 && h.Revision != slices.Max(slices.Collect(maps.Values(held))) {
				t.Fatalf("held = %+v, want %v", h, held)
			}
			want := maps.Clone(r.etcd)
			for name := range held {
				item := last[backend(name)]
				item.Rejected = r.etcd[backend(name)].Rejected
				want[backend(name)] = item
			}
			for key, item := range want {
				if !same(item, r.table[key]) {
					t.Fatalf("the table has %+v, want %+v", r.table[key], item)
				}
			}
			if len(r.table) != len(want) {
				t.Fatalf("the table has %d keys, want %d", len(r.table), len(want))
			}
		}
		r.change(some(0, rapid.IntRange(0, 30).Draw(t, "at first"), valid))
		step(r.list(keyspace{}), keyspace{})
		saved, savedAt := maps.Clone(r.etcd), r.revision
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			r.now = r.now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 1, 100, 299, 300, 301}).Draw(t, "seconds")) * time.Second)
			before := maps.Clone(r.etcd)
			draw := func() write {
				lo := rapid.IntRange(0, 29).Draw(t, "from")
				w := some(lo, rapid.IntRange(lo, 30).Draw(t, "to"), rapid.SampledFrom([]func() store.Definition{nil, nil, nil, valid, valid, func() store.Definition { return invalid }}).Draw(t, "as"))
				if rapid.Bool().Draw(t, "with a director") {
					w[director(fmt.Sprintf("web-%03d", lo))] = rapid.SampledFrom([]store.Definition{nil, &store.Director{}, invalid}).Draw(t, "director")
				}
				return w
			}
			switch rapid.SampledFrom([]string{"write", "write", "write", "write", "list", "ack", "restore"}).Draw(t, "what") {
			case "write":
				step(r.change(draw()), before)
			case "list":
				r.change(draw())
				r.change(draw())
				step(r.list(before), before)
			case "ack":
				if revision := rapid.Int64Range(0, r.revision+3).Draw(t, "ack"); revision > r.ack {
					r.revision++
					r.ack = revision
					step(watcher.Change{Revision: r.revision, Touched: r.revision, Ack: r.ack}, before)
				}
			case "restore":
				r.etcd, r.revision, r.ack = maps.Clone(saved), savedAt, min(r.ack, savedAt)
				step(r.list(before), before)
			}
		}
		r.acknowledge(max(r.ack, r.revision))
		if err := r.plain(); err != nil {
			t.Fatalf("after the acknowledgement of all: %v", err)
		}
	})
}
