package table

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/pool"
	"roster/prober"
	"roster/store"
	"roster/watcher"
)

// probed is an applier whose backends have probers that nobody runs.
func probed() (*Applier, *prober.Manager) {
	pools := pool.New(pool.Config{})
	m := prober.New(prober.Config{Pools: pools})
	a := NewApplier(pools)
	a.Probe(m, nil)
	return a, m
}

// probersOf are the checks of a manager, and how many backends each is for.
func probersOf(m *prober.Manager) map[prober.Key]int {
	all := map[prober.Key]int{}
	for _, s := range m.List() {
		all[s.Check.Key()] = s.Users
	}
	return all
}

// definitionsOf is a plain list of what is in effect.
type definitionsOf map[store.Key]watcher.Item

func get[T store.Definition](d definitionsOf, kind store.Kind, name string) (def T, ok bool) {
	item, ok := d[store.Key{Kind: kind, Name: name}]
	if !ok {
		return def, false
	}
	return item.Definition.(T), true
}

// wanted is the model: the probers that the contract's words ask for.
func (d definitionsOf) wanted() map[prober.Key]int {
	all := map[prober.Key]int{}
	for key, item := range d {
		if key.Kind != store.Backends {
			continue
		}
		b := item.Definition.(*store.Backend)
		if other, ok := d[store.Key{Kind: store.Directors, Name: key.Name}]; ok && other.CreateRevision < item.CreateRevision {
			continue // an older director has the name
		}
		if c := d.checkOf(b); c != nil {
			all[c.Key()]++
		}
	}
	return all
}

// checkOf is the check of a backend, nil if there is none or it cannot be made.
func (d definitionsOf) checkOf(b *store.Backend) *prober.Check {
	p := b.Probe.Inline
	if p == nil {
		name := b.Probe.Name
		if name == "" {
			name = "default"
		}
		p, _ = get[*store.Probe](d, store.Probes, name)
	}
	if p == nil || b.None || b.Probe.None {
		return nil
	}
	var deps pool.Deps
	if b.Via != "" {
		via, ok := get[*store.Backend](d, store.Backends, b.Via)
		if director, loses := d[store.Key{Kind: store.Directors, Name: b.Via}]; loses && director.CreateRevision < d[store.Key{Kind: store.Backends, Name: b.Via}].CreateRevision {
			ok = false
		}
		if !ok || via.None || via.Via != "" {
			return nil
		}
		deps.Via = via
	}
	for of, dep := range map[*store.Backend]**store.Certificate{b: &deps.Certificate, deps.Via: &deps.ViaCertificate} {
		if of == nil || of.TLS == nil || of.TLS.Certificate == "" {
			continue
		}
		c, ok := get[*store.Certificate](d, store.Certificates, of.TLS.Certificate)
		if !ok {
			return nil
		}
		*dep = c
	}
	return prober.CheckOf(b, p, deps)
}

func genProbed(kind store.Kind) *rapid.Generator[string] {
	n := rapid.SampledFrom(names)
	return rapid.Custom(func(t *rapid.T) string {
		if kind == store.Probes {
			return fmt.Sprintf(`{"url":"/%d","window":%d,"threshold":1}`, rapid.IntRange(0, 1).Draw(t, "url"), rapid.IntRange(1, 2).Draw(t, "window"))
		}
		if kind != store.Backends {
			return genValue(kind).Draw(t, "value")
		}
		place := rapid.SampledFrom([]string{
			`"none":true`, `"host":"127.0.0.1"`, `"host":"127.0.0.1","comment":"same place"`, `"path":"@x"`,
			`"host":"127.0.0.2","max_connections":3`, `"host":"127.0.0.2","via":"` + n.Draw(t, "via") + `"`,
			`"host":"127.0.0.2","tls":{"certificate":"` + n.Draw(t, "certificate") + `"}`,
		}).Draw(t, "place")
		probe := rapid.SampledFrom([]string{
			``, `,"probe":"none"`, `,"probe":{"url":"/0"}`, `,"probe":{"url":"/0","initial":0}`, `,"probe":{"type":"tcp","port":99}`,
			`,"probe":"` + n.Draw(t, "probe") + `"`,
		}).Draw(t, "probe of it")
		if strings.Contains(place, "none") || strings.Contains(place, "path") && strings.Contains(probe, "port") {
			probe = ""
		}
		return "{" + place + probe + "}"
	})
}

// Any sequence of definitions and overrides leaves exactly the probers that the
// definitions name, each with as many users as there are backends with its check: as
// a plain look at the definitions has them, and as a fresh node does.
func TestProbersAreThoseThatTheDefinitionsName(t *testing.T) {
	t.Parallel()
	certificates := []*store.Certificate{{Cert: "one", Key: "k"}, {Cert: "two", Key: "k"}}
	all := append(slices.Clone(kinds[:5]), store.Certificates)
	rapid.Check(t, func(rt *rapid.T) {
		a, m := probed()
		d := definitionsOf{}
		for revision := range rapid.Int64Range(1, 30).Draw(rt, "revisions") {
			c := watcher.Change{Revision: revision + 1}
			touched := map[store.Key]bool{}
			for range rapid.IntRange(1, 5).Draw(rt, "keys") {
				key := store.Key{Kind: rapid.SampledFrom(all).Draw(rt, "kind"), Name: rapid.SampledFrom(names).Draw(rt, "name")}
				if touched[key] {
					continue
				}
				touched[key] = true
				old, there := d[key]
				if there && rapid.IntRange(0, 2).Draw(rt, "what") == 0 {
					delete(d, key)
					c.Deletes = append(c.Deletes, key)
					continue
				}
				create := c.Revision
				if there {
					create = old.CreateRevision
				}
				item := watcher.Item{Key: key, CreateRevision: create, ModRevision: c.Revision}
				if key.Kind == store.Certificates {
					item.Definition = rapid.SampledFrom(certificates).Draw(rt, "certificate")
				} else {
					item = decode(t, key, genProbed(key.Kind).Draw(rt, "value"), create, c.Revision)
				}
				d[key] = item
				c.Puts = append(c.Puts, item)
			}
			got := a.Apply(c)
			if diff := gocmp.Diff(d.wanted(), probersOf(m)); diff != "" {
				rt.Fatalf("wanted (-) and probed (+) differ:\n%s", diff)
			}
			fresh, fm := probed()
			whole := watcher.Change{Revision: c.Revision, Listed: true, Touched: c.Revision, Puts: slices.Collect(maps.Values(d))}
			slices.SortFunc(whole.Puts, func(a, b watcher.Item) int { return strings.Compare(a.Key.String(), b.Key.String()) })
			fresh.Apply(whole)
			if diff := gocmp.Diff(probersOf(fm), probersOf(m)); diff != "" {
				rt.Fatalf("fresh (-) and incremental (+) differ:\n%s", diff)
			}
			for s := range got.Slots("", "") {
				if s.Backend == nil {
					continue
				}
				of := fresh.Current().Lookup(s.Name).Backend
				if (s.Backend.Probe == nil) != (of.Probe == nil) || (s.Backend.Fault == nil) != (of.Fault == nil) {
					rt.Fatalf("%s has probe %v and fault %v, in a fresh table %v and %v", s.Name, s.Backend.Probe, s.Backend.Fault, of.Probe, of.Fault)
				}
				if s.Backend.Probe != nil && s.Backend.Probe.Snapshot().Judge != of.Probe.Snapshot().Judge {
					rt.Fatalf("%s is judged by %v, in a fresh table by %v", s.Name, s.Backend.Probe.Snapshot().Judge, of.Probe.Snapshot().Judge)
				}
			}
		}
		last := watcher.Change{Revision: 1000}
		for key := range d {
			last.Deletes = append(last.Deletes, key)
		}
		a.Apply(last)
		if s := m.Stats(); s.Probers != 0 || s.Refs != 0 || len(a.users) != 0 {
			rt.Fatalf("after all is deleted: %d probers, %d references, users %v", s.Probers, s.Refs, a.users)
		}
	})
}

// What is carried from definition to definition, and what is not.
func TestVerdictsOfBackendsThatHaveNoAnswerYet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		before []string // the table before; none: the backend is new
		change []string
		want   bool
	}{
		{"new with a probe", nil, []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, false},
		{"new, and initial says healthy", nil, []string{"backends/a", `{"host":"127.0.0.1","probe":{"initial":3}}`}, true},
		{"new without a probe", nil, []string{"backends/a", host(1)}, true},
		{"new with a probe that is missing", nil, []string{"backends/a", `{"host":"127.0.0.1","probe":"p"}`}, true},
		{"new, by the default probe", nil, []string{"backends/a", host(1), "probes/default", `{}`}, false},
		{"new, and wants none", nil, []string{"backends/a", `{"host":"127.0.0.1","probe":"none"}`, "probes/default", `{}`}, true},
		{"it gets a probe", []string{"backends/a", host(1)}, []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, true},
		{"a default probe comes", []string{"backends/a", host(1)}, []string{"probes/default", `{}`}, true},
		{"its probe comes", []string{"backends/a", `{"host":"127.0.0.1","probe":"p"}`}, []string{"probes/p", `{}`}, true},
		{"it was none", []string{"backends/a", `{"none":true}`}, []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, false},
		{"its via comes", []string{"backends/a", `{"host":"127.0.0.1","via":"v","probe":{}}`}, []string{"backends/v", host(2)}, false},
		{"sick, and another url", []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, []string{"backends/a", `{"host":"127.0.0.1","probe":{"url":"/x","initial":3}}`}, false},
		{"healthy, and another url", []string{"backends/a", `{"host":"127.0.0.1","probe":{"initial":3}}`}, []string{"backends/a", `{"host":"127.0.0.1","probe":{"url":"/x"}}`}, true},
		{"healthy, and another address", []string{"backends/a", `{"host":"127.0.0.1","probe":{"initial":3}}`}, []string{"backends/a", `{"host":"127.0.0.2","probe":{}}`}, true},
		{"sick, and its probe goes", []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, []string{"backends/a", host(1)}, true},
		{"sick, but an operator says healthy", []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, []string{"health/a", "healthy"}, true},
		{"healthy, but an operator says sick", []string{"backends/a", host(1)}, []string{"health/a", "sick"}, false},
		{"healthy, but drained", []string{"backends/a", host(1)}, []string{"health/a", "drain"}, false},
		{"auto is no word", []string{"backends/a", `{"host":"127.0.0.1","probe":{}}`}, []string{"health/a", "auto"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, _ := probed()
			f := &fixture{t: t, Applier: a, created: map[string]int64{}}
			if test.before != nil {
				f.put(test.before...)
			}
			tab := f.put(test.change...)
			slot := tab.Lookup("a")
			if got := slot.Available(); got != test.want {
				t.Errorf("available is %v, want %v", got, test.want)
			}
			if _, err := pick(tab, 1); (err == nil) != test.want {
				t.Errorf("a request got %v, want one: %v", err, test.want)
			}
		})
	}
}

// A definition that leaves check and judge as they are keeps the reference, one that
// changes the verdict is told of, and HealthSince is the time of the last change.
func TestHealthSinceAndWhatIsTold(t *testing.T) {
	t.Parallel()
	a, m := probed()
	var told []string
	a.Probe(m, func(t prober.Transition) { told = append(told, fmt.Sprint(t.Name, " ", t.Healthy)) })
	f := &fixture{t: t, Applier: a, created: map[string]int64{}}
	slot := func(pairs ...string) *Slot { return f.put(pairs...).Lookup("a") }

	first := slot("backends/a", `{"host":"127.0.0.1","probe":{}}`)
	same := slot("backends/a", `{"host":"127.0.0.1","probe":{},"max_connections":3}`)
	if same.Backend.Probe != first.Backend.Probe {
		t.Error("another field made another reference")
	}
	other := slot("backends/a", `{"host":"127.0.0.1","probe":{"url":"/x"}}`)
	if !other.HealthSince().Equal(first.HealthSince()) {
		t.Errorf("carried over a changed check: since %v, want %v", other.HealthSince(), first.HealthSince())
	}
	if len(told) != 0 {
		t.Errorf("told of %v, though nothing changed", told)
	}
	unprobed := slot("backends/a", host(1))
	if !unprobed.HealthSince().After(first.HealthSince()) || fmt.Sprint(told) != "[a true]" {
		t.Errorf("without its probe it is healthy since %v, told %v", unprobed.HealthSince(), told)
	}
	again := slot("backends/a", `{"host":"127.0.0.1","probe":{"url":"/y"}}`)
	if !again.Available() || !again.HealthSince().Equal(unprobed.HealthSince()) || len(told) != 1 {
		t.Errorf("a probe for a live backend: since %v, want %v; told %v", again.HealthSince(), unprobed.HealthSince(), told)
	}
	judged := slot("probes/default", `{"url":"/y"}`, "backends/a", host(1))
	if judged.Backend.Probe != again.Backend.Probe || m.Stats().Probers != 1 {
		t.Error("the same check by another way made another reference")
	}
	by := slot("health/a", "sick")
	if !by.HealthSince().After(judged.HealthSince()) {
		t.Errorf("by the operator's word since %v, want later than %v", by.HealthSince(), judged.HealthSince())
	}
}

// A verdict that a probe changed is told once, also if the backend's check changes
// before that is told.
func TestTransitionIsToldThoughTheCheckChanges(t *testing.T) {
	t.Parallel()
	for _, late := range []bool{false, true} {
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) }))
		defer origin.Close()
		pools := pool.New(pool.Config{})
		m := prober.New(prober.Config{Pools: pools})
		a := NewApplier(pools)
		var told []string
		a.Probe(m, func(t prober.Transition) { told = append(told, fmt.Sprint(t.Name, " ", t.Healthy, " ", t.Stage)) })
		pending := make(chan prober.Transition, 1)
		a.onTransition = func(t prober.Transition) { pending <- t }
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })

		f := &fixture{t: t, Applier: a, created: map[string]int64{}}
		host, port, _ := strings.Cut(strings.TrimPrefix(origin.URL, "http://"), ":")
		value := func(url string) string {
			return fmt.Sprintf(`{"host":%q,"port":%s,"probe":{"url":%q,"interval":"1h","window":3,"initial":3}}`, host, port, url)
		}
		f.put("backends/a", value("/1"))
		sick := <-pending
		if !late {
			a.transition(sick)
		}
		f.put("backends/a", value("/2"))
		if late {
			a.transition(sick)
		}
		if got, want := fmt.Sprint(told), "[a false status]"; got != want {
			t.Errorf("late %v: told %s, want %s", late, got, want)
		}
		cancel()
		running.Wait()
	}
}

// A check that moves from one backend to another within a revision is probed on.
func TestAChecksProberOutlivesItsBackendIfAnotherHasIt(t *testing.T) {
	t.Parallel()
	a, m := probed()
	f := &fixture{t: t, Applier: a, created: map[string]int64{}}
	f.put("backends/a", `{"host":"127.0.0.1","probe":{}}`, "backends/b", `{"host":"127.0.0.2","probe":{}}`)
	checks := func() string { return fmt.Sprint(m.List()[0].Check, m.List()[1].Check) }
	before := checks() // in the order in which probers were made
	f.put("backends/a", `{"host":"127.0.0.2","probe":{}}`, "backends/b", `{"host":"127.0.0.1","probe":{}}`)
	if got := checks(); got != before || m.Stats().Probers != 2 {
		t.Errorf("after an exchange the probers are %s, want still %s", got, before)
	}
	f.put("backends/a", "", "backends/c", `{"host":"127.0.0.2","probe":{}}`)
	if got := checks(); got != before || m.Stats().Probers != 2 {
		t.Errorf("after one got another name the probers are %s, want still %s", got, before)
	}
}

// The queue of a backend that is sick no more because its probe is gone is open.
func TestDeletedProbeOpensTheQueue(t *testing.T) {
	t.Parallel()
	a, _ := probed()
	f := &fixture{t: t, Applier: a, created: map[string]int64{}}
	b := f.put("backends/a", `{"host":"127.0.0.1","max_connections":1,"wait_limit":1,"wait_timeout":"1h","probe":"p"}`, "probes/p", `{}`).Lookup("a").Backend
	if err := b.Runtime.Acquire(t.Context()); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Runtime.Acquire(over); !errors.Is(err, pool.ErrSick) {
		t.Errorf("before its first answer who would have to wait got %v, want %v", err, pool.ErrSick)
	}
	f.put("probes/p", "")
	if err := b.Runtime.Acquire(over); !errors.Is(err, context.Canceled) {
		t.Errorf("without the probe who waited got %v, want %v", err, context.Canceled)
	}
}

// Verdicts change on the prober's goroutine, definitions and overrides on the
// applier's. In whichever order: the queue of a backend is shut when it is sick, and
// open when it is not.
func TestQueueIsShutIfAndOnlyIfTheBackendIsSick(t *testing.T) {
	t.Parallel()
	var good atomic.Bool
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !good.Load() {
			w.WriteHeader(500)
		}
	}))
	defer origin.Close()
	pools := pool.New(pool.Config{})
	m := prober.New(prober.Config{Pools: pools})
	a := NewApplier(pools)
	var transitions atomic.Int64
	a.Probe(m, func(prober.Transition) { transitions.Add(1) })
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	defer running.Wait()
	defer cancel()

	f := &fixture{t: t, Applier: a, created: map[string]int64{}}
	host, port, _ := strings.Cut(strings.TrimPrefix(origin.URL, "http://"), ":")
	value := func(i int) string {
		return fmt.Sprintf(`{"host":%q,"port":%s,"max_connections":1,"wait_limit":%d,"wait_timeout":"1h","probe":{"url":"/%d","interval":"1ms","window":1,"threshold":1}}`,
			host, port, 1+i%2, i/8%2)
	}
	b, _ := pick(f.put("backends/a", value(0), "health/a", "healthy"), 1)
	if err := b.Runtime.Acquire(t.Context()); err != nil { // so that others have to wait
		t.Fatal(err)
	}
	defer b.Runtime.Release()
	over, cancelled := context.WithCancel(t.Context())
	cancelled()
	overrides := []string{"", "sick", "drain", "healthy", "auto"}
	rounds := 300
	if testing.Short() {
		rounds = 50
	}
	for i := range rounds {
		good.Store(i%3 > 0)
		override := overrides[i%len(overrides)]
		f.put("backends/a", value(i), "health/a", override)
		want := good.Load()
		switch override {
		case "sick":
			want = false
		case "drain", "healthy":
			want = true
		}
		deadline := time.Now().Add(30 * time.Second)
		for {
			open := errors.Is(b.Runtime.Acquire(over), context.Canceled)
			if open == want && f.Current().Lookup("a").Backend.Probe.Healthy() == good.Load() {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("round %d: override %q, origin good %v, the queue is open: %v", i, override, good.Load(), open)
			}
		}
	}
	if transitions.Load() < int64(rounds)/3 {
		t.Errorf("%d transitions in %d rounds", transitions.Load(), rounds)
	}
}

// A backend that is sick from its first answer on is told of, once; one that is
// healthy is, too.
func TestFirstAnswersAreToldOf(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{200: "[a true]", 500: "[a false]"} {
		origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		defer origin.Close()
		pools := pool.New(pool.Config{})
		m := prober.New(prober.Config{Pools: pools})
		a := NewApplier(pools)
		told := make(chan string, 9)
		a.Probe(m, func(t prober.Transition) { told <- fmt.Sprint("[", t.Name, " ", t.Healthy, "]") })
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { m.Run(ctx) })
		f := &fixture{t: t, Applier: a, created: map[string]int64{}}
		host, port, _ := strings.Cut(strings.TrimPrefix(origin.URL, "http://"), ":")
		f.put("backends/a", fmt.Sprintf(`{"host":%q,"port":%s,"probe":{"interval":"20ms"}}`, host, port))
		if got := <-told; got != want {
			t.Errorf("status %d: told %s, want %s", status, got, want)
		}
		for range 2 { // more of the same is no news
			before := a.Current().Lookup("a").Backend.Probe.Snapshot().Probes
			for a.Current().Lookup("a").Backend.Probe.Snapshot().Probes == before {
				time.Sleep(time.Millisecond)
			}
		}
		cancel()
		running.Wait()
		if len(told) > 0 {
			t.Errorf("status %d: told %s, too", status, <-told)
		}
	}
}

// Whoever waits for the first answers is served by them, though nobody was told yet.
func TestAGoodAnswerIsInPicksBeforeAnybodyIsTold(t *testing.T) {
	t.Parallel()
	origin := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer origin.Close()
	address := strings.TrimPrefix(origin.URL, "http://")
	a, m := probed()
	tab := a.Apply(watcher.Change{Revision: 1, Puts: []watcher.Item{
		decode(t, store.Key{Kind: store.Backends, Name: "b"}, `{"host":"`+address+`","probe":{"threshold":1,"initial":0}}`, 1, 1),
		decode(t, store.Key{Kind: store.Directors, Name: "low"}, `{"type":"round_robin","backends":["b"]}`, 1, 1),
		decode(t, store.Key{Kind: store.Directors, Name: "d"}, `{"type":"random","backends":["low"]}`, 1, 1),
	}})
	a.health.Lock() // who is told of a verdict has to wait
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { m.Run(ctx) })
	defer running.Wait()
	defer cancel()
	defer a.health.Unlock()
	if err := m.Answered(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"low", "d"} {
		var ask Ask
		if got := request(t, tab, &ask, name); got != "b" {
			t.Errorf("a request to %s went to %q, want b", name, got)
		}
	}
}
