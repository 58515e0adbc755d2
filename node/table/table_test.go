package table

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"roster/balancer"
	"roster/message"
	"roster/node/route"
	"roster/pool"
	"roster/store"
	"roster/watcher"
)

var noClient = netip.MustParseAddr("192.0.2.1")

// fixture applies definitions one revision at a time: "backends/a" -> JSON; an
// empty value deletes.
type fixture struct {
	*Applier
	t        testing.TB
	pools    *pool.Manager
	revision int64
	created  map[string]int64
}

func newFixture(t testing.TB) *fixture {
	pools := pool.New(pool.Config{})
	return &fixture{Applier: NewApplier(pools), t: t, pools: pools, created: map[string]int64{}}
}

func (f *fixture) put(pairs ...string) *Table {
	f.t.Helper()
	f.revision++
	t := f.Apply(f.change(pairs...))
	f.views.refresh()
	return t
}

// change is what put applies.
func (f *fixture) change(pairs ...string) watcher.Change {
	f.t.Helper()
	c := watcher.Change{Revision: f.revision}
	for i := 0; i < len(pairs); i += 2 {
		key, _ := store.ParseKey(pairs[i])
		if pairs[i+1] == "" {
			delete(f.created, pairs[i])
			c.Deletes = append(c.Deletes, key)
			continue
		}
		if f.created[pairs[i]] == 0 {
			f.created[pairs[i]] = f.revision
		}
		c.Puts = append(c.Puts, decode(f.t, key, pairs[i+1], f.created[pairs[i]], f.revision))
	}
	return c
}

// pick chooses for a request of which nothing is known.
func pick(t *Table, ref Ref) (*Backend, error) {
	var a Ask
	a.Begin(&message.Request{}, noClient, 0)
	return t.Pick(ref, &a)
}

// find finds the route of a request.
func find(t *Table, r *message.Request, client netip.Addr) (*route.Route, Ref, error) {
	var a Ask
	a.Begin(r, client, 0)
	return t.Match(&a)
}

// picks says where n requests without a route's help go.
func picks(t *Table, n int) string {
	var all []string
	for range n {
		b, err := pick(t, t.fallback)
		if err != nil {
			all = append(all, err.Error())
			continue
		}
		all = append(all, b.Name)
	}
	return strings.Join(all, " ")
}

func host(n int) string { return fmt.Sprintf(`{"host":"127.0.0.%d"}`, n) }

func TestDefaultRuleIsDefaultElseTheOldestBackend(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	want := func(tab *Table, want string) {
		t.Helper()
		if got := picks(tab, 1); got != want {
			t.Errorf("a request goes to %q, want %q", got, want)
		}
	}
	want(f.Current(), "no healthy backend")
	want(f.put("backends/z", host(1)), "z")
	want(f.put("backends/a", host(2)), "z") // older wins, not the name
	want(f.put("backends/z", host(3)), "z") // changed, not created
	want(f.put("backends/z", ""), "a")
	want(f.put("backends/z", host(3)), "a")
	want(f.put("backends/default", host(4)), "default")
	want(f.put("backends/default", `{"none":true}`), "no healthy backend")
	want(f.put("backends/default", ""), "a")
	want(f.put("backends/a", "", "backends/c", host(1), "backends/b", host(2)), "z")
	want(f.put("backends/z", ""), "b") // created at one revision: the lower name
}

func TestTheOlderOfTwoKindsKeepsTheName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put("backends/a", host(1))
	f.put("directors/x", `{"type":"round_robin","backends":["a"]}`)
	tab := f.put("backends/x", host(2))
	if s := tab.Lookup("x"); s.Director == nil || s.Backend != nil {
		t.Errorf("the newer backend took the director's name: %+v", s)
	}
	rejected := func(tab *Table) (keys []string) {
		for r := range tab.Rejected() {
			keys = append(keys, r.Key.String())
		}
		return keys
	}
	if got := rejected(tab); len(got) != 1 || got[0] != "backends/x" {
		t.Errorf("rejected are %v, want backends/x", got)
	}
	tab = f.put("directors/x", "")
	if s := tab.Lookup("x"); s.Backend == nil || s.Director != nil || len(rejected(tab)) != 0 {
		t.Errorf("the name is free, but the backend does not have it: %+v, rejected %v", s, rejected(tab))
	}
	tab = f.put("backends/y", host(1), "directors/y", `{"type":"round_robin","backends":["a"]}`)
	if s := tab.Lookup("y"); s.Backend == nil {
		t.Error("created at one revision, the tie did not go to the backend")
	}
}

func TestRoundRobinSkipsWhatCannotBeChosen(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	director := `{"type":"round_robin","backends":["a","gone","b","none",{"name":"zero","weight":0},"a"]}`
	tab := f.put("directors/default", director, "backends/a", host(1), "backends/b", host(2), "backends/none", `{"none":true}`, "backends/zero", host(3))
	if got, want := picks(tab, 6), "a b a a b a"; got != want {
		t.Errorf("picked %s, want %s", got, want)
	}
	tab = f.put("health/a", "sick")
	if got, want := picks(tab, 3), "b b b"; got != want {
		t.Errorf("with a sick, picked %s, want %s", got, want)
	}
	tab = f.put("health/a", "", "health/b", "drain")
	if got, want := picks(tab, 2), "a a"; got != want {
		t.Errorf("with b draining, picked %s, want %s", got, want)
	}
	tab = f.put("health/default", "sick")
	if got, want := picks(tab, 1), "no healthy backend"; got != want {
		t.Errorf("with the director sick, picked %s, want %s", got, want)
	}
}

func TestACycleOfDirectorsIsSkipped(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	of := func(members ...string) string {
		return `{"type":"round_robin","backends":["` + strings.Join(members, `","`) + `"]}`
	}
	tab := f.put("directors/default", of("x"), "directors/x", of("y"), "directors/y", of("x", "default"))
	if got := picks(tab, 1); got != "no healthy backend" {
		t.Errorf("a cycle without a backend gave %s", got)
	}
	tab = f.put("directors/y", of("x", "a", "default"), "backends/a", host(1))
	if got := picks(tab, 3); got != "a a a" {
		t.Errorf("beside a cycle, picked %s, want a each time", got)
	}
}

func TestDirectorsNestEightDeep(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]string{8: "a", 9: "no healthy backend"} {
		f := newFixture(t)
		pairs := []string{"backends/a", host(1)}
		for i := range depth {
			name, member := fmt.Sprintf("directors/d%d", i), fmt.Sprintf("d%d", i+1)
			if i == 0 {
				name = "directors/default"
			}
			if i == depth-1 {
				member = "a"
			}
			pairs = append(pairs, name, `{"type":"round_robin","backends":["`+member+`"]}`)
		}
		if got := picks(f.put(pairs...), 1); got != want {
			t.Errorf("%d directors deep: %s, want %s", depth, got, want)
		}
	}
}

func TestOtherFieldsKeepThePoolAndItsConnections(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put("backends/a", host(1))
	if f.put("backends/a", `{"host":"127.0.0.1","max_connections":7}`); f.pools.Pools() != 1 {
		t.Errorf("%d pools, want the one", f.pools.Pools())
	}
	if f.put("backends/b", host(1)); f.pools.Pools() != 1 {
		t.Errorf("%d pools for two backends at one address, want 1", f.pools.Pools())
	}
	if f.put("backends/a", "", "backends/b", host(2)); f.pools.Pools() != 1 {
		t.Errorf("%d pools, want that of the new address only", f.pools.Pools())
	}
}

func TestAMissingViaIsDanglingUntilItComes(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", `{"host":"127.0.0.1","via":"hop"}`)
	var d *DanglingError
	if _, err := pick(tab, tab.fallback); !errors.As(err, &d) || d.Key.String() != "backends/hop" {
		t.Errorf("picking gave %v, want that backends/hop is missing", err)
	}
	if b, err := pick(f.put("backends/hop", host(9)), 1); err != nil {
		t.Errorf("with the via there: %v, %v", b, err)
	}
	if _, err := pick(f.put("backends/hop", `{"host":"127.0.0.9","via":"a"}`), 1); err == nil {
		t.Error("a via with a via is used")
	}
}

func TestRequestsOfAnOlderDefinitionCountAgainstTheNewLimit(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	b, _ := pick(f.put("backends/a", host(1)), 1)
	if err := b.Runtime.Acquire(context.Background()); err != nil {
		t.Fatal(err)
	}
	b, _ = pick(f.put("backends/a", `{"host":"127.0.0.2","max_connections":1}`), 1)
	if err := b.Runtime.Acquire(context.Background()); !errors.Is(err, pool.ErrBusy) {
		t.Errorf("a second request got %v, want %v", err, pool.ErrBusy)
	}
	f.put("backends/a", "")
	if f.Leaving() != 1 {
		t.Errorf("%d backends are leaving, want the one with a request", f.Leaving())
	}
	again, _ := pick(f.put("backends/a", `{"host":"127.0.0.3","max_connections":1}`), 1)
	if err := again.Runtime.Acquire(context.Background()); !errors.Is(err, pool.ErrBusy) {
		t.Errorf("after delete and put a second request got %v, want %v", err, pool.ErrBusy)
	}
	b.Runtime.Release()
	if f.put("backends/a", ""); f.Leaving() != 0 {
		t.Errorf("%d backends are leaving, want none", f.Leaving())
	}
}

func TestDeletedOrSickBackendWakesItsQueue(t *testing.T) {
	t.Parallel()
	for _, how := range [][]string{{"backends/a", ""}, {"health/a", "sick"}} {
		f := newFixture(t)
		b, _ := pick(f.put("backends/a", `{"host":"127.0.0.1","max_connections":1,"wait_limit":1,"wait_timeout":"1h"}`), 1)
		if err := b.Runtime.Acquire(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() { got <- b.Runtime.Acquire(context.Background()) }()
		for b.Runtime.Queued() == 0 {
		}
		f.put(how...)
		if err := <-got; !errors.Is(err, pool.ErrSick) {
			t.Errorf("%v: the one who waited got %v, want %v", how, err, pool.ErrSick)
		}
	}
}

// Eight levels of ten directors each lead to ten million sick leaves.
func TestPickLooksAtABoundedNumberOfNames(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pairs := []string{"backends/leaf", `{"none":true}`, "backends/a", host(1)}
	for level := range 7 {
		var members []string
		for i := range 10 {
			member := fmt.Sprintf("l%d-%d", level+1, i)
			if level == 6 {
				member = "leaf"
			}
			members = append(members, fmt.Sprintf("%q", member))
		}
		for i := range 10 {
			pairs = append(pairs, fmt.Sprintf("directors/l%d-%d", level, i), `{"type":"round_robin","backends":[`+strings.Join(members, ",")+`]}`)
		}
	}
	tab := f.put(pairs...)
	ref, _ := tab.names.Get([]byte("l0-0"))
	for _, exact := range []bool{false, true} {
		w := walk{t: tab, exact: exact}
		if w.available(ref, tab.slots.at(ref)) || w.asked > maxAsked+200 {
			t.Errorf("looked at %d names (exact %t), want at most %d", w.asked, exact, maxAsked)
		}
	}
	if _, err := pick(tab, ref); !errors.Is(err, balancer.ErrNoBackend) {
		t.Errorf("picking gave %v", err)
	}
}

func TestMatchAndPickDoNotAllocate(t *testing.T) {
	f := newFixture(t)
	tab := f.put("directors/default", `{"type":"round_robin","backends":["a","b"]}`, "backends/a", host(1), "backends/b", host(2),
		"routes/one", `{"match":{"host":["x.test","*.y.test"],"path":"/j/*"},"backend":"default"}`)
	r := &message.Request{Method: []byte("GET"), Target: []byte("/a/%2e%2e/j/x?q=1"), Authority: []byte("Sub.Y.Test:8080")}
	var ask Ask
	if n := testing.AllocsPerRun(100, func() {
		ask.Begin(r, noClient, 0)
		r, ref, err := tab.Match(&ask)
		if r == nil || err != nil {
			t.Fatal(r, err)
		}
		if _, err := tab.Pick(ref, &ask); err != nil {
			t.Fatal(err)
		}
		ask.Done(Good, 0, 0)
	}); n != 0 {
		t.Errorf("%v allocations a request, want none", n)
	}
}

func TestDirectorsDoNotAllocate(t *testing.T) {
	for _, kind := range []string{"round_robin", "fallback", "random", "hash", "shard", "least_connections", "p2c"} {
		f := newFixture(t)
		tab := f.put("backends/a", host(1), "backends/b", host(2), "secret", strings.Repeat("k", 32),
			"directors/in", `{"type":"`+kind+`","backends":["a","b"],"outlier":{}}`,
			"directors/d", `{"type":"`+kind+`","backends":["in","a"],"cookie":{"name":"s"}}`)
		d := ref(t, tab, "d")
		r := &message.Request{Method: []byte("GET"), Target: []byte("/x"), Fields: []message.Field{{ID: message.Cookie, Name: []byte("Cookie"), Value: []byte("a=b; s=1234567890123456789012")}}}
		var ask Ask
		if n := testing.AllocsPerRun(100, func() {
			ask.Begin(r, noClient, tab.views.now())
			for range 2 {
				if _, err := tab.Pick(d, &ask); err != nil {
					t.Fatal(err)
				}
				if _, value, ok := ask.Cookie(); !ok || len(value) != tagText {
					t.Fatalf("cookie %q, %t", value, ok)
				}
				ask.Done(Good, 1, tab.views.now())
			}
			ask.End()
		}); n != 0 {
			t.Errorf("%s: %v allocations a request, want none", kind, n)
		}
	}
}

func TestPickReturnsNoBackendForADanglingName(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "routes/r", `{"backend":"missing"}`)
	_, ref, err := find(tab, &message.Request{Method: []byte("GET"), Target: []byte("/")}, noClient)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pick(tab, ref); !errors.Is(err, balancer.ErrNoBackend) {
		t.Errorf("a route to a missing name gave %v, want %v", err, balancer.ErrNoBackend)
	}
}
