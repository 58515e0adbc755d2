package table

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roster/balancer"
	"roster/message"
	"roster/store"
)

// ref is a name's slot.
func ref(t testing.TB, tab *Table, name string) Ref {
	t.Helper()
	r, ok := tab.names.Get([]byte(name))
	if !ok {
		t.Fatalf("the table does not know %s", name)
	}
	return r
}

// request asks for a backend of a name as a request with some fields does.
func request(t testing.TB, tab *Table, a *Ask, name string, fields ...string) string {
	t.Helper()
	r := &message.Request{Method: []byte("GET"), Target: []byte("/x")}
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		r.Fields = append(r.Fields, message.Field{ID: message.Lookup([]byte(n)), Name: []byte(n), Value: []byte(v)})
	}
	a.Begin(r, noClient, tab.views.now())
	return again(t, tab, a, name)
}

func again(t testing.TB, tab *Table, a *Ask, name string) string {
	t.Helper()
	b, err := tab.Pick(ref(t, tab, name), a)
	if err != nil {
		return err.Error()
	}
	return b.Name
}

// run keeps a fixture's views up to date until the test ends.
func (f *fixture) run() {
	go f.Run(f.t.(*testing.T).Context())
}

func TestSelectMakesABackendAMemberByOnePut(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	members := func(tab *Table, director string) string {
		var names []string
		for _, m := range tab.Lookup(director).Director.Members {
			names = append(names, m.Name)
		}
		return strings.Join(names, " ")
	}
	web := func(n int) string { return fmt.Sprintf(`{"host":"127.0.0.%d","labels":{"app":"web","zone":"1"}}`, n) }
	f.put("backends/web-2", web(2), "backends/team-a/web-1", web(3), "backends/listed", web(4), "backends/other", host(5), "backends/db", `{"host":"127.0.0.6","labels":{"app":"db"}}`)
	tab := f.put("directors/all", `{"type":"round_robin","backends":["other","listed"],"select":{"app":"web"}}`,
		"directors/team-a/www", `{"type":"round_robin","select":{"app":"web","zone":"1"}}`)
	check := func(tab *Table, all, team string) {
		t.Helper()
		if got := members(tab, "all"); got != all {
			t.Errorf("all has the members %q, want %q", got, all)
		}
		if got := members(tab, "team-a/www"); got != team {
			t.Errorf("team-a/www has the members %q, want %q", got, team)
		}
	}
	check(tab, "other listed team-a/web-1 web-2", "team-a/web-1")
	check(f.put("backends/web-1", web(1)), "other listed team-a/web-1 web-1 web-2", "team-a/web-1")
	check(f.put("backends/team-a/x/web", web(7), "backends/web-2", host(2)), "other listed team-a/web-1 team-a/x/web web-1", "team-a/web-1 team-a/x/web")
	check(f.put("backends/web-1", `{"none":true,"labels":{"app":"web"}}`), "other listed team-a/web-1 team-a/x/web", "team-a/web-1 team-a/x/web")
	check(f.put("backends/team-a/web-1", "", "backends/listed", ""), "other listed team-a/x/web", "team-a/x/web")
	check(f.put("directors/all", `{"type":"round_robin","select":{"app":"db"}}`, "backends/db-2", `{"host":"127.0.0.8","labels":{"app":"db"}}`), "db db-2", "team-a/x/web")
}

// Where weights, nesting and choice by key come together: three levels, each of another
// type, and every backend reached that may be.
func TestDirectorsNestThreeDeep(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.put("backends/a", host(1), "backends/b", host(2), "backends/c", host(3), "backends/d", host(4))
	tab := f.put(
		"directors/top", `{"type":"fallback","backends":["near","far"]}`,
		"directors/near", `{"type":"random","backends":[{"name":"left","weight":3},"d"]}`,
		"directors/left", `{"type":"hash","by":"client.ip","backends":["a","b"]}`,
		"directors/far", `{"type":"round_robin","backends":["c"]}`)
	count := func(tab *Table) map[string]int {
		got := map[string]int{}
		var a Ask
		for range 400 {
			got[request(t, tab, &a, "top")]++
		}
		return got
	}
	got := count(tab)
	if len(got) != 2 || got["d"] < 60 || got["d"] > 140 { // a fourth of 400, give or take 4.6 sigma
		t.Errorf("requests went to %v, want a fourth to d, and the others to one of a and b", got)
	}
	if got := count(f.put("health/a", "sick", "health/b", "sick")); got["d"] != 400 {
		t.Errorf("with left sick, requests went to %v, want d", got)
	}
	if got := count(f.put("health/near", "sick")); got["c"] != 400 {
		t.Errorf("with near sick by its operator, requests went to %v, want c", got)
	}
	if got := count(f.put("health/far", "drain")); got["no healthy backend"] != 400 {
		t.Errorf("with far drained, requests went to %v, want nowhere", got)
	}
}

// 262,145 names looked at were once the end of a search.
func TestALargeDirectorFindsItsHealthyMember(t *testing.T) {
	t.Parallel()
	const n, sick = 300_000, 262_145
	f := newFixture(t)
	var members strings.Builder
	pairs := []string{}
	for i := range n {
		if i > 0 {
			members.WriteByte(',')
		}
		fmt.Fprintf(&members, `"m%d"`, i)
	}
	pairs = append(pairs, "directors/d", `{"type":"fallback","backends":[`+members.String()+`]}`)
	pairs = append(pairs, fmt.Sprintf("backends/m%d", sick), host(1))
	tab := f.put(pairs...)
	var a Ask
	want := fmt.Sprintf("m%d", sick)
	if got := request(t, tab, &a, "d"); got != want {
		t.Errorf("by its view the director gave %s, want %s", got, want)
	}
	f.put(fmt.Sprintf("backends/m%d", sick), "")
	f.revision++
	tab = f.Apply(f.change(fmt.Sprintf("backends/m%d", n-1), host(2))) // and no new view yet
	if got, want := request(t, tab, &a, "d"), fmt.Sprintf("m%d", n-1); got != want {
		t.Errorf("without a new view the director gave %s, want %s", got, want)
	}
}

func TestARetryAvoidsWhatWasTried(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"round_robin", "fallback", "random", "hash", "shard", "least_connections", "p2c"} {
		f := newFixture(t)
		tab := f.put("backends/a", host(1), "backends/b", host(2), "backends/c", host(3),
			"directors/d", `{"type":"`+kind+`","backends":["a","inner"]}`, "directors/inner", `{"type":"`+kind+`","backends":["b","c"]}`)
		for range 20 {
			var a Ask
			got := []string{request(t, tab, &a, "d")}
			for range 2 {
				a.Done(Bad, 0, 0)
				got = append(got, again(t, tab, &a, "d"))
			}
			if slices.Sort(got); strings.Join(got, " ") != "a b c" {
				t.Fatalf("%s: three tries went to %v, want each backend once", kind, got)
			}
			a.Done(Bad, 0, 0)
			if got := again(t, tab, &a, "d"); got == "no healthy backend" {
				t.Fatalf("%s: a fourth try found nobody, want one of those tried", kind)
			}
		}
	}
}

func TestOutlierEjectsAndTimeBringsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t)
		f.run()
		tab := f.put("backends/a", host(1), "backends/b", host(2),
			"directors/d", `{"type":"fallback","backends":["a","b"],"outlier":{"consecutive":3,"ejection":"10s","max_share":0.5}}`,
			"directors/top", `{"type":"fallback","backends":["d"]}`)
		var a Ask
		fail := func(name string, n int) {
			for range n {
				if got := request(t, tab, &a, "top"); got != name {
					t.Fatalf("a request went to %s, want %s", got, name)
				}
				a.Done(Bad, 0, f.views.now())
			}
		}
		fail("a", 3)
		if got := request(t, tab, &a, "top"); got != "b" { // at once, without a new view
			t.Errorf("after three failures in a row a request went to %s, want b", got)
		}
		if got := f.Stats().Ejections; got != 1 {
			t.Errorf("%d ejections, want 1", got)
		}
		time.Sleep(10*time.Second + 100*time.Millisecond)
		synctest.Wait()
		fail("a", 1)
		a.End()
	})
}

func TestRetriesComeFromTheOutermostDirectorsBudget(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2),
		"directors/d", `{"type":"round_robin","backends":["inner"],"retry_budget":0.5}`, "directors/inner", `{"type":"round_robin","backends":["a","b"],"retry_budget":0}`,
		"routes/d", `{"match":{"path":"/d"},"backend":"d","retries":1}`, "routes/a", `{"match":{"path":"/a"},"backend":"a","retries":1}`,
		"routes/none", `{"match":{"path":"/none"},"backend":"inner","retries":1}`)
	taken := func(path string, requests int) (n int) {
		var a Ask
		for range requests {
			a.Begin(&message.Request{Method: []byte("GET"), Target: []byte(path)}, noClient, time.Second)
			_, ref, err := tab.Match(&a)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tab.Pick(ref, &a); err != nil {
				t.Fatal(err)
			}
			a.Done(Bad, 0, time.Second)
			if a.Take(time.Second) {
				n++
			}
		}
		return n
	}
	for path, share := range map[string]float64{"/d": 0.5, "/a": backendRetries, "/none": 0} {
		n := taken(path, 1000)
		if low, high := int(share*1000), int(share*1000)+20; n < low || n > high || share == 0 && n != 0 { // and the few that are always free
			t.Errorf("%s: %d of 1000 may be tried again, want %d to %d", path, n, low, high)
		}
	}
}

// TestRetryBudgetIsThatOfTheMoment: not of the time when requests began that took long to
// fail. Each would see the budget of then.
func TestRetryBudgetIsThatOfTheMoment(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2), "directors/d", `{"type":"round_robin","backends":["a","b"]}`,
		"routes/d", `{"backend":"d","retries":1}`)
	asks := make([]Ask, 1000)
	for i := range asks {
		a := &asks[i]
		a.Begin(&message.Request{Method: []byte("GET"), Target: []byte("/")}, noClient, time.Second)
		_, ref, err := tab.Match(a)
		if err == nil {
			_, err = tab.Pick(ref, a)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	taken := 0
	for i := range asks {
		if asks[i].Take(time.Minute) {
			taken++
		}
	}
	if taken < 1 || taken > 20 { // without a request in the last seconds, the few that are always free
		t.Errorf("%d of 1000 may be tried again", taken)
	}
}

func TestCookieKeepsAClientOnItsMember(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	const director = `{"type":"round_robin","backends":["a","b","inner"],"cookie":{"name":"s","ttl":"1h"}}`
	tab := f.put("backends/a", host(1), "backends/b", host(2), "backends/c", host(3), "directors/d", director, "directors/inner", `{"type":"random","backends":["c"]}`)
	var a Ask
	request(t, tab, &a, "d")
	if _, _, ok := a.Cookie(); ok || !tab.NeedsSecret() {
		t.Errorf("a cookie is set although there is no secret to sign it with (needs one: %t)", tab.NeedsSecret())
	}
	tab = f.put("secret", strings.Repeat("k", 32))
	values := map[string]string{}
	for range 3 {
		name := request(t, tab, &a, "d")
		c, value, ok := a.Cookie()
		if !ok || c.Name != "s" || c.TTL != time.Hour || len(value) != tagText {
			t.Fatalf("cookie %+v = %q, %t, want s for an hour", c, value, ok)
		}
		values[name] = string(value)
	}
	if len(values) != 3 {
		t.Fatalf("cookies of %v, want of three members", values)
	}
	stays := func(tab *Table, name string) {
		t.Helper()
		for range 4 {
			if got := request(t, tab, &a, "d", "Cookie: x=1; s=bad; s="+values[name]+"; y=2"); got != name {
				t.Fatalf("with its cookie a request went to %s, want %s", got, name)
			}
			if _, _, set := a.Cookie(); set {
				t.Fatal("the right cookie is set again")
			}
		}
	}
	for name := range values {
		stays(tab, name)
	}
	stays(f.put("health/b", "drain"), "b")
	stays(f.put("health/inner", "drain"), "c")
	other := newFixture(t) // another node, and other members first
	stays(other.put("backends/z", host(9), "backends/b", host(2), "directors/d", `{"type":"random","backends":["z","b"],"cookie":{"name":"s"}}`, "secret", strings.Repeat("k", 32)), "b")

	lost := f.Stats().LostSessions
	tab = f.put("health/b", "sick")
	if got := request(t, tab, &a, "d", "Cookie: s="+values["b"]); got == "b" {
		t.Error("a cookie led to a sick member")
	}
	if _, value, ok := a.Cookie(); !ok || string(value) != values["a"] {
		t.Errorf("the cookie of a sick member is followed by %q, %t, want that of a", value, ok)
	}
	if got := f.Stats().LostSessions - lost; got != 1 {
		t.Errorf("%d sessions were lost, want 1", got)
	}
	if got := request(t, f.put("health/b", "", "secret", strings.Repeat("l", 32)), &a, "d", "Cookie: s="+values["b"]); a.cookie == nil {
		t.Errorf("a cookie of another secret was taken for one, for %s", got)
	}
}

func TestALoadedDirectorIsOneByItsRequests(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2), "directors/d", `{"type":"least_connections","backends":["inner","b"]}`,
		"directors/inner", `{"type":"round_robin","backends":["a"]}`)
	asks := make([]Ask, 8)
	got := map[string]int{}
	for i := range asks {
		name := request(t, tab, &asks[i], "d")
		got[name]++
		if name == "b" {
			if err := tab.Lookup("b").Backend.Runtime.Acquire(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got["a"] != 4 || got["b"] != 4 {
		t.Errorf("eight requests that stay went to %v, want four to each", got)
	}
	for i := range asks {
		asks[i].End()
	}
	if n := tab.Lookup("inner").Director.run.active.Load(); n != 0 {
		t.Errorf("%d requests are left at the director, want none", n)
	}
}

func TestLatencyIsOfThoseAskedByIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "directors/d", `{"type":"p2c","backends":["inner"]}`, "directors/inner", `{"type":"p2c","backends":["a"]}`,
		"directors/turns", `{"type":"round_robin","backends":["a"]}`)
	value := func() (backend, director time.Duration) {
		now := 10 * time.Second
		return tab.Lookup("a").Backend.Runtime.latency.Value(now), tab.Lookup("inner").Director.run.latency.Value(now)
	}
	var a Ask
	request(t, tab, &a, "turns")
	if a.Timed() {
		t.Error("round_robin wants to know how long a request takes")
	}
	a.Done(Good, time.Second, 10*time.Second)
	if b, d := value(); b != 0 || d != 0 {
		t.Errorf("latencies are %v and %v, want none", b, d)
	}
	for _, step := range []struct {
		o               Outcome
		d               time.Duration
		lower, approves bool
	}{
		{Good, time.Second, false, true}, {Bad, time.Millisecond, false, true}, {Unknown, time.Minute, false, true},
	} {
		request(t, tab, &a, "d")
		if !a.Timed() {
			t.Error("p2c does not want to know how long a request takes")
		}
		a.Done(step.o, step.d, 10*time.Second)
		b, d := value()
		if b.Round(time.Millisecond) != time.Second || d.Round(time.Millisecond) != time.Second {
			t.Errorf("after a request that was %v in %v: %v and %v, want a second", step.o, step.d, b, d)
		}
	}
}

func TestExplainPickSaysWhatEachMemberIs(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/sick", host(2), "backends/drained", host(3), "backends/none", `{"none":true}`,
		"backends/fault", `{"host":"127.0.0.1","via":"gone"}`, "backends/unused", host(4),
		"health/sick", "sick", "health/drained", "drain",
		"directors/d", `{"type":"round_robin","backends":["sick","drained","none","fault","missing","d","e",{"name":"unused","weight":0},{"name":"in","weight":3}]}`,
		"directors/e", `{"type":"random","backends":["sick"]}`, "directors/in", `{"type":"hash","backends":["a","d"]}`)
	var a Ask
	a.Begin(&message.Request{Target: []byte("/x")}, noClient, 1)
	for range 2 {
		choices, b, err := tab.ExplainPick(ref(t, tab, "d"), &a)
		if err != nil || b.Name != "a" || len(choices) != 2 {
			t.Fatalf("%d choices, %v, %v, want two and a", len(choices), b, err)
		}
		var got []string
		for _, c := range choices {
			for _, m := range c.Members {
				s := fmt.Sprintf("%s.%s %s %g", c.Director, m.Name, m.State, m.Share)
				if m.Chosen {
					s += " chosen"
				}
				got = append(got, s)
			}
		}
		want := []string{"d.sick sick 0", "d.drained draining 0", "d.none none 0", "d.fault at fault 0", "d.missing missing 0", "d.d cycle 0", "d.e sick 0",
			"d.unused weight 0 0", "d.in available 1 chosen", "in.a available 1 chosen", "in.d cycle 0"}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if choices[0].Type != store.RoundRobin || choices[0].Why != "its turn" || !strings.Contains(choices[1].Why, "of url") {
			t.Errorf("why: %q, %q", choices[0].Why, choices[1].Why)
		}
	}
	tab = f.put("directors/top", `{"type":"fallback","backends":["mid","e"]}`, "directors/mid", `{"type":"random","backends":["top","e","gone"]}`)
	choices, _, err := tab.ExplainPick(ref(t, tab, "top"), &a)
	var why []string
	for _, c := range choices {
		for _, m := range c.Members {
			why = append(why, fmt.Sprintf("%s.%s %s", c.Director, m.Name, m.State))
		}
	}
	if got := strings.Join(why, ", "); err == nil || got != "top.mid sick, top.e sick, mid.top cycle, mid.e sick, mid.gone missing, e.sick sick" {
		t.Errorf("of directors without anybody: %s, %v", got, err)
	}
	if choices, b, err := tab.ExplainPick(ref(t, tab, "e"), &a); err == nil || b != nil || len(choices) != 1 || choices[0].Why == "" {
		t.Errorf("of a sick director: %+v, %v, %v", choices, b, err)
	}
}

// An ejection is health, and does not count in a panic: with all ejected, requests still go
// to all of them.
func TestAllEjectedInPanicAreUsed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2),
		"directors/d", `{"type":"round_robin","backends":["a","b"],"panic":0.5,"outlier":{"consecutive":1,"max_share":1}}`,
		"directors/top", `{"type":"round_robin","backends":["d"]}`)
	var a Ask
	for range 4 {
		for _, name := range []string{"d", "top"} {
			a.Begin(&message.Request{Target: []byte("/x")}, noClient, tab.views.now())
			if _, err := tab.Pick(ref(t, tab, name), &a); err != nil {
				t.Fatalf("with members that fail each request, %s: %v", name, err)
			}
			a.Done(Bad, 0, tab.views.now())
		}
	}
	for _, m := range tab.Lookup("d").Director.Members {
		if !m.Seat.Ejected(tab.views.now()) {
			t.Errorf("%s is not ejected", m.Name)
		}
	}
}

// Explaining is not asking: the turn stays whose it is.
// Below a director that is too deep for who asks there are members who would be
// available to others; nobody has a share all the same, at any depth.
func TestExplainPickOfNobodyHasNoShares(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "directors/d9", `{"type":"random","backends":["a"]}`)
	for i := 8; i > 0; i-- {
		tab = f.put(fmt.Sprintf("directors/d%d", i), fmt.Sprintf(`{"type":"fallback","backends":["d%d"]}`, i+1))
	}
	var a Ask
	a.Begin(&message.Request{Target: []byte("/x")}, noClient, tab.views.now())
	choices, _, err := tab.ExplainPick(ref(t, tab, "d1"), &a)
	if err == nil || len(choices) != 8 {
		t.Fatalf("%d choices, error %v, want 8 directors that have nobody", len(choices), err)
	}
	for _, c := range choices {
		if m := c.Members[0]; m.Share != 0 || m.Chosen {
			t.Errorf("%s gives %+v, want no share", c.Director, m)
		}
	}
}

func TestExplainPickMovesNothing(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2), "directors/d", `{"type":"round_robin","backends":["a","b"],"outlier":{}}`)
	var a, e Ask
	for range 6 {
		e.Begin(&message.Request{Target: []byte("/x")}, noClient, tab.views.now())
		_, b, err := tab.ExplainPick(ref(t, tab, "d"), &e)
		if err != nil {
			t.Fatal(err)
		}
		if got := request(t, tab, &a, "d"); got != b.Name {
			t.Errorf("the request went to %s, explained was %s", got, b.Name)
		}
	}
}

// Who comes back to a member that drains is let in, though nobody else is.
func TestACookieReachesADrainingMemberWhenThereIsNobodyElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "secret", strings.Repeat("k", 32), "directors/d", `{"type":"round_robin","backends":["a"],"cookie":{"name":"s"}}`)
	var a Ask
	request(t, tab, &a, "d")
	_, value, ok := a.Cookie()
	if !ok {
		t.Fatal("no cookie")
	}
	cookie := "Cookie: s=" + string(value)
	for _, change := range [][]string{{"health/a", "drain"}, {"health/a", "", "health/d", "drain"}, {"health/a", "drain"}} {
		tab = f.put(change...)
		if got := request(t, tab, &a, "d", cookie); got != "a" {
			t.Errorf("after %v a request with the cookie of a went to %s", change, got)
		}
		if got := request(t, tab, &a, "d"); got != balancer.ErrNoBackend.Error() {
			t.Errorf("after %v a request without a cookie went to %s, want nobody", change, got)
		}
	}
	tab = f.put("health/a", "", "health/d", "sick")
	if got := request(t, tab, &a, "d", cookie); got != balancer.ErrNoBackend.Error() {
		t.Errorf("with d sick by its operator a request went to %s, want nobody", got)
	}
}

// An ejection leaves out who fails as long as there is somebody else: who fails some
// requests is better than nobody.
func TestAnEjectedMemberIsUsedWhenThereIsNobodyElse(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2),
		"directors/d", `{"type":"fallback","backends":["a","b"],"outlier":{"consecutive":1}}`,
		"directors/top", `{"type":"fallback","backends":["d"]}`)
	var a Ask
	request(t, tab, &a, "top")
	a.Done(Bad, 0, f.views.now())
	if got := request(t, tab, &a, "top"); got != "b" {
		t.Fatalf("with a ejected a request went to %s, want b", got)
	}
	tab = f.put("health/b", "sick")
	for _, name := range []string{"top", "d"} {
		if got := request(t, tab, &a, name); got != "a" {
			t.Errorf("with a ejected and b sick, a request to %s went to %s, want a", name, got)
		}
		if !tab.Available(name) {
			t.Errorf("%s is said not to be available", name)
		}
	}
	if got := request(t, f.put("health/a", "sick"), &a, "top"); got != balancer.ErrNoBackend.Error() {
		t.Errorf("with both sick a request went to %s", got)
	}
}

// Retries do not make lost sessions, nor count one twice.
func TestALostSessionIsCountedOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("backends/a", host(1), "backends/b", host(2), "backends/c", host(3), "secret", strings.Repeat("k", 32),
		"directors/d", `{"type":"round_robin","backends":["a","b","c"],"cookie":{"name":"s"}}`)
	var a Ask
	request(t, tab, &a, "d", "Cookie: s=forged")
	for range 2 {
		a.Done(Bad, 0, 0)
		again(t, tab, &a, "d")
	}
	if got := f.Stats().LostSessions; got != 1 {
		t.Errorf("%d sessions were lost, want 1", got)
	}
}

func TestAnEmptyCookieIsAKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tab := f.put("directors/c", `{"type":"hash","by":"cookie:u","backends":["a"]}`, "directors/h", `{"type":"hash","by":"header:x-u","backends":["a"]}`)
	for name, field := range map[string]string{"c": "Cookie", "h": "X-U"} {
		var a Ask
		key := func(value string) uint32 {
			r := &message.Request{Target: []byte("/x"), Fields: []message.Field{{ID: message.Lookup([]byte(field)), Name: []byte(field), Value: []byte(value)}}}
			a.Begin(r, netip.MustParseAddr("192.0.2.1"), 1)
			return a.key(tab.Lookup(name).Director.Def)
		}
		empty := map[string]string{"c": "u=", "h": ""}[name]
		if got, want := key(empty), balancer.Hash(nil); got != want {
			t.Errorf("%s: an empty value has the key %08x, want that of nothing, %08x", name, got, want)
		}
	}
}

// However many members there are, explain says each one's share.
func TestExplainPickKnowsAllShares(t *testing.T) {
	t.Parallel()
	const n = 5000
	f := newFixture(t)
	var pairs []string
	for i := range n {
		pairs = append(pairs, fmt.Sprintf("backends/m%04d", i), `{"host":"127.0.0.1","labels":{"app":"web"}}`)
	}
	tab := f.put(append(pairs, "directors/d", `{"type":"random","select":{"app":"web"}}`)...)
	var a Ask
	a.Begin(&message.Request{Target: []byte("/x")}, noClient, 1)
	choices, _, err := tab.ExplainPick(ref(t, tab, "d"), &a)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range choices[0].Members {
		if m.Share != 1.0/n {
			t.Fatalf("%s has a share of %g, want %g", m.Name, m.Share, 1.0/n)
		}
	}
}
