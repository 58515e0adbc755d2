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
		f.put("backends/a", host(1), "backends/b", host(2), "directors/low", `{"type":"random","backends":["a"]}`,
			"directors/d", `{"type":"fallback","backends":["low","b"]}`)
		var a Ask
		f.revision++
		tab := f.Apply(f.change("health/a", "sick"))
		if got := request(t, tab, &a, "d"); got != "b" {
			t.Errorf("at once: a request went to %s, want b", got)
		}
		time.Sleep(2 * minPause)
		synctest.Wait()
		if v := tab.Lookup("d").Director.view.Load(); v.Shares()[0] != 0 || v.Shares()[1] != 1 {
			t.Errorf("the view above has %g for low and %g for b, want none and all", v.Shares()[0], v.Shares()[1])
		}
		f.revision++
		tab = f.Apply(f.change("health/a", "", "health/b", "sick"))
		if got := request(t, tab, &a, "d"); got != "a" {
			t.Errorf("at once: a request went to %s, want a", got)
		}
		time.Sleep(2 * minPause)
		synctest.Wait()
		if v := tab.Lookup("d").Director.view.Load(); v.Shares()[0] != 1 || tab.Lookup("low").Director.run.stale.Load() {
			t.Errorf("the view above has %g for low, want all", v.Shares()[0])
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
		f.put("backends/a", host(1), "directors/d", director)
		tab := f.put("backends/b", host(2))
		var last float64
		for i := range 12 {
			share := tab.Lookup("d").Director.view.Load().Shares()[1]
			switch {
			case i == 0 && share > 0.15, i > 0 && i < 10 && share <= last, i > 10 && share != 0.5:
				t.Errorf("after %d seconds b has a share of %g, the second before %g", i, share, last)
			}
			last = share
			time.Sleep(time.Second)
			synctest.Wait()
		}
		f.put("directors/d", strings.Replace(director, `"a"`, `"a","c"`, 1)) // what is remembered is by name
		if share := f.Current().Lookup("d").Director.view.Load().Shares()[2]; share != 0.5 {
			t.Errorf("after a change of the members b has a share of %g, want a half", share)
		}
	})
}

// A put of the director itself starts a ramp, and nothing else has anybody look at it
// again: the new member's share grows all the same, also while another director's next
// step is far off.
func TestSlowStartOfAMemberAddedToARunningDirector(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run()
		f.put("backends/a", host(1), "backends/b", host(2),
			"directors/d", `{"type":"round_robin","slow_start":"10s","backends":["a"]}`,
			"directors/slow", `{"type":"round_robin","slow_start":"1000s","backends":["a"]}`)
		share := func(director string) float64 {
			return f.Current().Lookup(director).Director.view.Load().Shares()[1]
		}
		for _, others := range []bool{false, true} {
			time.Sleep(time.Minute) // whatever was to be looked at has been
			if others {
				f.put("directors/slow", `{"type":"round_robin","slow_start":"1000s","backends":["a","b"]}`)
				f.put("directors/d", `{"type":"round_robin","slow_start":"10s","backends":["a"]}`)
				time.Sleep(time.Second) // the next step of slow is 19 s away
			}
			f.put("directors/d", `{"type":"round_robin","slow_start":"10s","backends":["a","b"]}`)
			if got := share("d"); got > 0.1 {
				t.Errorf("b begins with a share of %g, want a tenth of a whole one at most", got)
			}
			time.Sleep(5 * time.Second)
			if got := share("d"); got < 0.33 || got > 0.37 { // 0.55 of 1.55
				t.Errorf("after 5 of 10 seconds b has a share of %g, want 0.35", got)
			}
			time.Sleep(6 * time.Second)
			if got := share("d"); got != 0.5 {
				t.Errorf("after 11 of 10 seconds b has a share of %g, want a half", got)
			}
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
	web := decode(t, store.Key{Kind: store.Backends, Name: "web"}, `{"host":"127.0.0.1","labels":{"app":"web"}}`, 1, 1)
	for team := range teams {
		for i := range each {
			key := store.Key{Kind: store.Backends, Name: fmt.Sprintf("team-%c%c/web-%d", 'a'+team/26%26, 'a'+team%26, i)}
			if team >= 676 {
				key.Name = "more/" + key.Name
			}
			web.Key = key
			c.Puts = append(c.Puts, web)
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

// Changes that come as fast as views are made keep the refresher neither from its pause
// nor from what the time asks for.
func TestARefreshEndsThoughChangesGoOn(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// Many members, so that there is time for a change while the view is made.
	tab := f.put("backends/a", host(1), "directors/d", `{"type":"random","backends":["a"`+strings.Repeat(`,"b"`, 20_000)+`]}`)
	a, d := ref(t, tab, "a"), tab.Lookup("d").Director
	last := d.view.Load()
	f.views.mark(a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.views.refresh()
	}()
	const many = 100
	views := 0
	for ended := false; !ended && views < many; {
		select {
		case <-done:
			ended = true
		default:
			f.views.mark(a)
			if v := d.view.Load(); v != last {
				views, last = views+1, v
			}
		}
	}
	<-done
	if views >= many {
		t.Errorf("one refresh made %d views of a director, and had not ended", views)
	}
}

// A request may ask long after its table was replaced: what newer tables say of members
// is not for it.
func TestAnOlderTableFindsItsOwnMembers(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	older := f.put("backends/a", host(1), "directors/low", `{"type":"random","backends":["a"]}`, "directors/d", `{"type":"hash","backends":["low"]}`)
	for _, change := range [][]string{{"health/a", "sick"}, {"backends/a", ""}} {
		newer := f.put(change...)
		var a Ask
		for _, name := range []string{"low", "d"} {
			if got := request(t, older, &a, name); got != "a" {
				t.Errorf("after %v, %s of the table before gave %s, want a", change, name, got)
			}
			if !older.Available(name) {
				t.Errorf("after %v, %s of the table before is not available", change, name)
			}
			if got := request(t, newer, &a, name); got != balancer.ErrNoBackend.Error() {
				t.Errorf("after %v, %s gave %s, want nobody", change, name, got)
			}
		}
	}
}

// Seven levels of ten directors, each of all of the next level: ten million ways, all
// ending at sick backends. There is a healthy one behind them.
func TestATangleOfSickDirectorsHidesNobody(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	pairs := []string{"backends/sick", host(1), "backends/well", host(2), "health/sick", "sick"}
	level := func(n int) string {
		names := make([]string, 10)
		for i := range names {
			names[i] = fmt.Sprintf(`"l%d-%d"`, n, i)
			if n == 7 {
				names[i] = `"sick"`
			}
		}
		return strings.Join(names, ",")
	}
	for n := range 7 {
		for i := range 10 {
			pairs = append(pairs, fmt.Sprintf("directors/l%d-%d", n, i), `{"type":"fallback","backends":[`+level(n+1)+`]}`)
		}
	}
	tab := f.put(append(pairs, "directors/hidden", `{"type":"random","backends":["well"]}`,
		"directors/top", `{"type":"fallback","backends":[`+level(0)+`,"hidden"]}`)...)
	var a Ask
	check := func(tab *Table, when string) {
		t.Helper()
		if got := request(t, tab, &a, "top"); got != "well" {
			t.Errorf("%s: a request went to %s, want well", when, got)
		}
		if a.walk.asked > 10_000 {
			t.Errorf("%s: %d names were looked at for one request", when, a.walk.asked)
		}
	}
	check(tab, "by views")
	f.put("health/well", "sick")
	f.revision++
	check(f.Apply(f.change("health/well", "")), "before views are made")
}

// Requests with cookies, retries and failures, changes of definitions, health and secret,
// and views made meanwhile; run with -race. A healthy backend is there all the time.
func TestAllAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put("backends/rock", host(1), "backends/a", host(2), "backends/b", host(3), "secret", strings.Repeat("k", 32),
		"directors/low", `{"type":"p2c","backends":["rock","a"],"slow_start":"1s","outlier":{"consecutive":1,"ejection":"1ms","max_share":1},"cookie":{}}`,
		"directors/top", `{"type":"shard","rampup":"1s","backends":["low","b"],"outlier":{"consecutive":2,"ejection":"1ms"},"cookie":{"name":"t"}}`)
	ctx, cancel := context.WithCancel(t.Context())
	var refresher, clients sync.WaitGroup
	refresher.Go(func() { f.Run(ctx) })
	var done atomic.Bool
	for c := range 4 {
		clients.Go(func() {
			var a Ask
			fields := []message.Field{{ID: message.Cookie, Name: []byte("Cookie")}}
			for i := 0; !done.Load(); i++ {
				tab := f.Current()
				top, _ := tab.names.Get([]byte("top"))
				r := &message.Request{Target: fmt.Appendf(nil, "/%d-%d", c, i), Fields: fields}
				a.Begin(r, noClient, tab.views.now())
				for try := range 3 {
					b, err := tab.Pick(top, &a)
					if err != nil || tab.Lookup(b.Name).Backend != b {
						t.Errorf("try %d at revision %d: %v, %v", try, tab.Revision(), b, err)
						return
					}
					if k, value, ok := a.Cookie(); ok {
						fields[0].Value = fmt.Appendf(nil, "%s=%s", k.Name, value)
					}
					a.Done(Outcome(i%3), time.Duration(i%5)*time.Millisecond, tab.views.now())
					a.Take(tab.views.now())
				}
				if i%50 == 0 {
					var e Ask
					e.Begin(r, noClient, tab.views.now())
					tab.ExplainPick(top, &e)
					tab.Available("top")
				}
				a.End()
			}
		})
	}
	for n := range 300 {
		f.revision++
		switch n % 6 {
		case 0:
			f.Apply(f.change("health/a", "sick", "health/b", "drain"))
		case 1:
			f.Apply(f.change("secret", strings.Repeat(fmt.Sprint(n%10), 32)))
		case 2:
			f.Apply(f.change("health/a", "", "backends/b", ""))
		case 3:
			f.Apply(f.change("backends/b", host(4), "backends/c", host(5), "health/b", ""))
		case 4:
			f.Apply(f.change("secret", "", "backends/c", ""))
		case 5:
			f.Apply(f.change("directors/low", fmt.Sprintf(`{"type":"random","backends":["a","rock","c"],"outlier":{"consecutive":%d,"ejection":"1ms","max_share":1},"cookie":{}}`, 1+n%2)))
		}
	}
	done.Store(true)
	clients.Wait()
	cancel()
	refresher.Wait()
}
