package table

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roster/balancer"
	"roster/message"
	"roster/pool"
	"roster/store"
	"roster/watcher"
)

// What probes say is in views soon, and in the meantime no request is sent to who is
// sick, nor refused while there is somebody.
func TestViewsFollowHealth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run()
		tab := f.put("backends/a", host(1), "backends/b", host(2), "directors/low", `{"type":"random","backends":["a"]}`,
			"directors/d", `{"type":"fallback","backends":["low","b"]}`)
		var a Ask
		f.revision++
		tab = f.Apply(f.change("health/a", "sick"))
		if got := request(t, tab, &a, "d"); got != "b" {
			t.Errorf("at once: a request went to %s, want b", got)
		}
		time.Sleep(2 * minPause)
		synctest.Wait()
		if v := tab.Lookup("d").Director.view.Load(); v.Share(0) != 0 || v.Share(1) != 1 {
			t.Errorf("the view above has %g for low and %g for b, want none and all", v.Share(0), v.Share(1))
		}
		f.revision++
		tab = f.Apply(f.change("health/a", "", "health/b", "sick"))
		if got := request(t, tab, &a, "d"); got != "a" {
			t.Errorf("at once: a request went to %s, want a", got)
		}
		time.Sleep(2 * minPause)
		synctest.Wait()
		if v := tab.Lookup("d").Director.view.Load(); v.Share(0) != 1 || tab.Lookup("low").Director.run.stale.Load() {
			t.Errorf("the view above has %g for low, want all", v.Share(0))
		}
	})
}

// A member's share grows while nothing changes but the time.
func TestSlowStartGoesOnByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run()
		const director = `{"type":"random","slow_start":"10s","backends":["a","b"]}`
		tab := f.put("backends/a", host(1), "directors/d", director)
		tab = f.put("backends/b", host(2))
		var last float64
		for i := range 12 {
			share := tab.Lookup("d").Director.view.Load().Share(1)
			switch {
			case i == 0 && share > 0.15, i > 0 && i < 10 && share <= last, i > 10 && share != 0.5:
				t.Errorf("after %d seconds b has a share of %g, the second before %g", i, share, last)
			}
			last = share
			time.Sleep(time.Second)
			synctest.Wait()
		}
		f.put("directors/d", strings.Replace(director, `"a"`, `"a","c"`, 1)) // what is remembered is by name
		if share := f.Current().Lookup("d").Director.view.Load().Share(2); share != 0.5 {
			t.Errorf("after a change of the members b has a share of %g, want a half", share)
		}
	})
}

// Changes come by the thousand, and the directors are looked at a few times.
func TestViewsAreMadeForManyChangesAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run()
		f.put("backends/a", host(1), "backends/b", host(2), "directors/d", `{"type":"random","backends":["a","b"]}`)
		time.Sleep(time.Second)
		synctest.Wait()
		d := f.Current().Lookup("d").Director
		views, last := 0, d.view.Load()
		const changes = 1000
		for i := range changes {
			f.revision++
			f.Apply(f.change("health/a", []string{"sick", ""}[i%2]))
			time.Sleep(minPause / 100)
			synctest.Wait()
			if v := d.view.Load(); v != last {
				views, last = views+1, v
			}
		}
		if views < changes/200 || views > changes/100+1 {
			t.Errorf("%d views for %d changes in a hundred times %v, want at most one each", views, changes, minPause)
		}
	})
}

// A transaction moves a director from some members to others; who asks by the table
// before gets the members before, whatever has been looked at since, and by the table
// after those after.
func TestNoRequestSeesHalfATransaction(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { f.Run(ctx) })
	team := func(n int) (pairs []string) {
		members := make([]string, 4)
		for i := range members {
			name := fmt.Sprintf("g%d-%d", n, i)
			members[i] = fmt.Sprintf("%q", name)
			pairs = append(pairs, "backends/"+name, fmt.Sprintf(`{"host":"127.0.0.1","comment":"%d","labels":{"g":"%d"}}`, n, n), "backends/"+fmt.Sprintf("g%d-%d", n-1, i), "")
		}
		if n == 0 {
			pairs = pairs[:0]
			for i := range members {
				pairs = append(pairs, fmt.Sprintf("backends/g0-%d", i), `{"host":"127.0.0.1","labels":{"g":"0"}}`)
			}
		}
		types := []string{"round_robin", "shard", "random", "p2c", "hash", "least_connections", "fallback"}
		kind := types[n%len(types)]
		return append(pairs, "directors/in", fmt.Sprintf(`{"type":%q,"backends":[%s]}`, kind, strings.Join(members, ",")),
			"directors/sel", fmt.Sprintf(`{"type":%q,"select":{"g":"%d"},"outlier":{"consecutive":1}}`, kind, n),
			"directors/top", `{"type":"round_robin","backends":["in","sel"]}`)
	}
	f.Apply(f.change(team(0)...))
	var done atomic.Bool
	for range 4 {
		wg.Go(func() {
			var a Ask
			r := &message.Request{Target: []byte("/x")}
			for i := 0; !done.Load(); i++ {
				tab := f.Current()
				ref, _ := tab.names.Get([]byte("top"))
				want := ""
				for try := range 3 {
					a.Begin(r, noClient, tab.views.now())
					b, err := tab.Pick(ref, &a)
					if err != nil {
						t.Errorf("revision %d: %v", tab.Revision(), err)
						return
					}
					group, _, _ := strings.Cut(b.Name, "-")
					if want == "" {
						want = group
					}
					if group != want || tab.Lookup(b.Name).Backend != b {
						t.Errorf("revision %d: try %d went to %s, want one of %s", tab.Revision(), try, b.Name, want)
						return
					}
					a.Done(Outcome(1+i%2), time.Millisecond, tab.views.now())
				}
			}
		})
	}
	for n := 1; n < 200 && !t.Failed(); n++ {
		f.revision++
		f.Apply(f.change(team(n)...))
	}
	done.Store(true)
	cancel()
	wg.Wait()
}

// One put of a labelled backend among 100,000 is the business of those directors that
// select it, and of no other.
func TestOnePutTouchesOnlyTheDirectorsThatSelectIt(t *testing.T) {
	t.Parallel()
	const teams, each = 1000, 100
	c := watcher.Change{Revision: 1, Listed: true}
	for team := range teams {
		for i := range each {
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("team-%c%c/web-%d", 'a'+team/26%26, 'a'+team%26, i)}
			if team >= 676 {
				key.Name = "more/" + key.Name
			}
			c.Puts = append(c.Puts, decode(t, key, `{"host":"127.0.0.1","labels":{"app":"web"}}`, 1, 1))
		}
	}
	director := `{"type":"round_robin","select":{"app":"web"}}`
	var directors []string
	for team := range 676 {
		directors = append(directors, fmt.Sprintf("team-%c%c/www", 'a'+team/26, 'a'+team%26))
	}
	for _, name := range directors {
		c.Puts = append(c.Puts, decode(t, store.Key{Kind: store.Directors, Name: name}, director, 1, 1))
	}
	a := NewApplier(pool.New(pool.Config{}))
	before := a.Apply(c)
	if n := before.Counts().Backends; n != teams*each {
		t.Fatalf("%d backends", n)
	}
	after := a.Apply(watcher.Change{Revision: 2, Puts: []watcher.Item{
		decode(t, store.Key{Kind: store.Backends, Name: "team-bc/new"}, `{"host":"127.0.0.1","labels":{"app":"web"}}`, 2, 2)}})
	for _, name := range directors {
		was, is := before.Lookup(name).Director, after.Lookup(name).Director
		switch {
		case name == "team-bc/www":
			if len(is.Members) != each+1 || len(was.Members) != each {
				t.Errorf("%s had %d members and has %d, want %d and one more", name, len(was.Members), len(is.Members), each)
			}
		case was != is || is.run.stale.Load():
			t.Errorf("%s was touched, which does not select the backend", name)
		}
	}
}

// Requests into a cycle find who can be found, and end where nobody can.
func TestTrafficThroughACycle(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "directors/x", `{"type":"random","backends":["y","z"]}`, "directors/y", `{"type":"hash","backends":["z","x"]}`,
		"directors/z", `{"type":"p2c","backends":["x","y","a"]}`)
	var a Ask
	for _, name := range []string{"x", "y", "z"} {
		for range 100 {
			if got := request(t, tab, &a, name); got != "a" {
				t.Fatalf("by %s a request went to %s, want a", name, got)
			}
		}
	}
	f.revision++
	sick := f.Apply(f.change("health/a", "sick"))
	for range 2 {
		for _, name := range []string{"x", "y", "z"} {
			if _, err := pick(sick, ref(t, sick, name)); !errors.Is(err, balancer.ErrNoBackend) {
				t.Errorf("by %s with nobody there: %v", name, err)
			}
			if sick.Available(name) {
				t.Errorf("%s is said to be available", name)
			}
		}
		f.views.refresh()
	}
}
