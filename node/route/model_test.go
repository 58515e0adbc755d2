package route

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"roster/message"
	"roster/store"
)

// decoded makes a definition of a value as a user writes it.
func decoded(t testing.TB, value string) *store.Route {
	t.Helper()
	def, _, err := store.Decode(store.Key{Kind: store.Routes, Name: "r"}, []byte(value), store.Reject)
	if err != nil {
		t.Fatalf("%s: %v", value, err)
	}
	return def.(*store.Route)
}

// request is what tests ask with.
func request(method, target, authority string, fields ...string) *message.Request {
	r := &message.Request{Method: []byte(method), Target: []byte(target), Authority: []byte(authority), Major: 1, Minor: 1}
	for i := 0; i+1 < len(fields); i += 2 {
		r.Fields = append(r.Fields, message.Field{Name: []byte(fields[i]), Value: []byte(fields[i+1]), ID: message.Lookup([]byte(fields[i]))})
	}
	return r
}

var someClient = netip.MustParseAddr("192.0.2.1")

// ask is a Query about a request.
func ask(r *message.Request) *Query {
	q := new(Query)
	q.Begin(r, someClient, nil)
	return q
}

// plainMatch finds the route by the contract's words alone, among all of them.
func plainMatch(routes []*Route, r *message.Request, client netip.Addr) (*Route, bool) {
	raw, query, _ := strings.Cut(string(r.Target), "?")
	normalized, err := Normalize(nil, []byte(raw))
	if err != nil {
		return nil, false
	}
	path := string(normalized)
	host, _, _ := strings.Cut(strings.ToLower(string(r.Authority)), ":")
	host = strings.TrimSuffix(host, ".")
	params, err := url.ParseQuery(query)
	if err != nil {
		panic(err)
	}
	type candidate struct {
		*Route
		host, path int
		failed     bool
	}
	var all []candidate
	for _, route := range routes {
		m := &route.Def.Match
		best := candidate{Route: route, host: -1, path: -1}
		for _, p := range orAny(m.Path) {
			prefix, below := strings.CutSuffix(p, "*")
			switch {
			case p == "":
				best.path = max(best.path, 0)
			case p == path:
				best.path = max(best.path, 2*len(p)+1)
			case below && strings.HasPrefix(path, prefix):
				best.path = max(best.path, 2*len(prefix))
			}
		}
		for _, w := range orAny(m.Host) {
			switch {
			case w == "":
				best.host = max(best.host, 0)
			case w == host:
				best.host = 1000
			case strings.HasPrefix(w, "*") && len(host) >= len(w) && strings.HasSuffix(host, w[1:]):
				best.host = max(best.host, len(w))
			}
		}
		holds := best.host >= 0 && best.path >= 0 &&
			(len(m.Method) == 0 || slices.Contains(m.Method, string(r.Method))) &&
			(len(m.Client) == 0 || slices.ContainsFunc(m.Client, func(p netip.Prefix) bool { return p.Contains(client) })) &&
			(len(m.PathRegex) == 0 || slices.ContainsFunc(m.PathRegex, func(x string) bool { return regexp.MustCompile(x).MatchString(path) }))
		for name, want := range m.Header {
			any := false
			for _, f := range r.Fields {
				any = any || strings.EqualFold(string(f.Name), name) && (slices.Contains(want, "*") || slices.Contains(want, string(f.Value)))
			}
			holds = holds && any
		}
		for name, want := range m.Query {
			any := false
			for _, v := range params[name] {
				any = any || slices.Contains(want, "*") || slices.Contains(want, v)
			}
			holds = holds && any
		}
		switch route.Def.When {
		case "":
		case whenGet:
			holds = holds && string(r.Method) == "GET"
		case whenFails:
			best.failed = true
			holds = holds && route.Def.OnError != store.SkipRoute
		}
		if holds {
			all = append(all, best)
		}
	}
	if len(all) == 0 {
		return nil, false
	}
	first := slices.MinFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.Def.Priority, a.Def.Priority), cmp.Compare(b.host, a.host), cmp.Compare(b.path, a.path), cmp.Compare(a.Name, b.Name))
	})
	return first.Route, first.failed
}

const (
	whenGet   = `req.method == 'GET'`
	whenFails = `int(req.method) == 0`
)

var (
	someHosts = []string{"x.test", "*.x.test", "*.a.x.test", "a.x.test", "y.test", "*.test"}
	somePaths = []string{"/", "/*", "/j", "/j/", "/j/*", "/j/k", "/j/k/*", "/jk", "/j/kl/*", "/j%2Fk", "/k/*"}
)

func genRoute() *rapid.Generator[*store.Route] {
	some := func(t *rapid.T, label string, of []string) []string {
		return rapid.SliceOfN(rapid.SampledFrom(of), 0, 3).Draw(t, label)
	}
	return rapid.Custom(func(t *rapid.T) *store.Route {
		r := &store.Route{
			Priority: rapid.SampledFrom([]int{0, 0, 0, 0, 1, -2}).Draw(t, "priority"),
			OnError:  rapid.SampledFrom([]store.OnError{store.FailRequest, store.SkipRoute}).Draw(t, "on_error"),
			When:     rapid.SampledFrom([]string{"", "", "", whenGet, whenFails}).Draw(t, "when"),
			Match:    store.Match{Host: some(t, "host", someHosts), Path: some(t, "path", somePaths)},
		}
		if r.When != "" {
			r.Condition = compiled[r.When]
		}
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0:
			r.Match.Method = []string{"GET", "PUT"}
		case 1:
			r.Match.Header = map[string][]string{"x-a": {"1", "2"}}
		case 2:
			r.Match.Header = map[string][]string{"x-a": {"*"}, "x-b": {"1"}}
		case 3:
			r.Match.Query = map[string][]string{"q ": {"a b"}}
		case 4:
			r.Match.PathRegex = []string{"^/j", "k$"}
		case 5:
			r.Match.Client = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/30")}
		}
		return r
	})
}

func genRequest() *rapid.Generator[*message.Request] {
	return rapid.Custom(func(t *rapid.T) *message.Request {
		host := rapid.SampledFrom([]string{"x.test", "X.test:80", "a.x.test", "b.A.x.test.", "y.test", "other", "", "test", ".x.test"}).Draw(t, "host")
		path := rapid.SampledFrom([]string{"/", "/j", "/j/", "/j/k", "//j/./k", "/%6a/k", "/j/k/l", "/j/kl/m", "/z/../j/k", "/j%2fk", "/jk", "/k/", "*", "/..", "/%00"}).Draw(t, "path")
		query := rapid.SampledFrom([]string{"", "?", "?q+=a%20b", "?q%20=x&q%20=a+b", "?q=a"}).Draw(t, "query")
		return request(rapid.SampledFrom([]string{"GET", "POST", "PUT"}).Draw(t, "method"), path+query, host,
			rapid.SampledFrom([]string{"x-a", "X-A", "X-Ab"}).Draw(t, "name"), rapid.SampledFrom([]string{"1", "3", ""}).Draw(t, "value"), "X-B", "1")
	})
}

// Match is what a plain look at every route gives, after any edits; and an
// Index stays what it was, whatever is made of it.
func TestMatchIsAPlainScan(t *testing.T) {
	t.Parallel()
	type version struct {
		ix     Index
		routes map[string]*Route
	}
	rapid.Check(t, func(t *rapid.T) {
		names := []string{"a", "b", "c", "d", "e", "f", "g/h", "g/i", "j"}
		current := version{routes: map[string]*Route{}}
		versions := []version{current}
		for range rapid.IntRange(1, 8).Draw(t, "commits") {
			e := current.ix.Edit()
			next := version{routes: maps.Clone(current.routes)}
			for range rapid.IntRange(1, 12).Draw(t, "edits") {
				name := rapid.SampledFrom(names).Draw(t, "route")
				old := next.routes[name]
				switch {
				case old != nil && rapid.Bool().Draw(t, "remove"):
					e.Remove(old)
					delete(next.routes, name)
				default:
					next.routes[name] = New(name, genRoute().Draw(t, "definition"), 1, 1, 7)
					e.Add(next.routes[name])
				}
			}
			e.Remove(New("a", &store.Route{}, 1, 1, 7)) // is not there, though its name may be
			next.ix = e.Commit()
			current = next
			versions = append(versions, current)
		}
		for range 4 {
			r := genRequest().Draw(t, "request")
			for i, v := range versions {
				routes := slices.SortedFunc(maps.Values(v.routes), func(a, b *Route) int { return cmp.Compare(a.Name, b.Name) })
				if got := slices.Collect(v.ix.All("", "")); !slices.Equal(got, routes) || v.ix.Len() != len(routes) {
					t.Fatalf("version %d of %d has %d routes, want %d", i, len(versions), len(got), len(routes))
				}
				want, failed := plainMatch(routes, r, someClient)
				q := ask(r)
				got, err := v.ix.Match(q)
				var condition *ConditionError
				switch {
				case got != want:
					t.Fatalf("version %d: %s %s%s goes by %s, want %s", i, r.Method, r.Authority, r.Target, nameOf(got), nameOf(want))
				case failed && !errors.As(err, &condition), !failed && err != nil && !errors.Is(err, ErrPath):
					t.Fatalf("version %d: the error is %v; failed %v", i, err, failed)
				}
				checkExplained(t, &v.ix, q, got)
			}
		}
		e := current.ix.Edit()
		for _, r := range current.routes {
			e.Remove(r)
		}
		if end := e.Commit(); end != (Index{}) {
			t.Fatalf("after all is removed there is %+v", end)
		}
	})
}

// checkExplained wants Explain to say what Match does, and to speak of every
// route.
func checkExplained(t *rapid.T, ix *Index, q *Query, want *Route) {
	if q.err != nil {
		return
	}
	verdicts := ix.Explain(q, 1000)
	if len(verdicts) != ix.Len() {
		t.Fatalf("%d verdicts on %d routes", len(verdicts), ix.Len())
	}
	var taken *Route
	for _, v := range verdicts {
		if (v.Field == "") != v.Matches {
			t.Fatalf("verdict %+v", v)
		}
		if v.Taken() {
			if taken != nil {
				t.Fatalf("%s and %s are taken", taken.Name, v.Route.Name)
			}
			taken = v.Route
		} else if taken == nil && v.Considered && v.Matches {
			t.Fatalf("%s matches and is not taken", v.Route.Name)
		}
	}
	if taken != want {
		t.Fatalf("Explain takes %s, Match %s", nameOf(taken), nameOf(want))
	}
}

func nameOf(r *Route) string {
	if r == nil {
		return "none"
	}
	return r.Name
}

// A tree is a sorted list, whatever was put in and taken out, at any size and
// in one edit or several; older ones stay.
func TestTreeIsASortedList(t *testing.T) {
	t.Parallel()
	at := func(n int) place[int] { return func(m int) int { return cmp.Compare(m, n) } }
	rapid.Check(t, func(t *rapid.T) {
		var tr tree[int]
		want := map[int]bool{}
		edit := edits.Add(1)
		type version struct {
			tree tree[int]
			want []int
		}
		var versions []version
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			from, n := rapid.IntRange(0, 2000).Draw(t, "from"), rapid.IntRange(1, 300).Draw(t, "n")
			step := rapid.SampledFrom([]int{1, 3, 7}).Draw(t, "step")
			remove := rapid.Bool().Draw(t, "remove")
			for i := range n {
				if k := from + i*step; remove {
					tr = tr.remove(at(k), edit)
					delete(want, k)
				} else {
					tr = tr.set(k, at(k), edit)
					want[k] = true
				}
			}
			if rapid.Bool().Draw(t, "commit") {
				edit = edits.Add(1)
				versions = append(versions, version{tr, slices.Sorted(maps.Keys(want))})
			}
		}
		versions = append(versions, version{tr, slices.Sorted(maps.Keys(want))})
		for _, v := range versions {
			if got := slices.Collect(v.tree.from(0)); !slices.Equal(got, v.want) {
				t.Fatalf("tree has %d items, want %d", len(got), len(v.want))
			}
			for i, k := range v.want {
				if n := v.tree.rank(at(k)); n != i {
					t.Fatalf("rank of %d is %d, want %d", k, n, i)
				}
				if _, ok := v.tree.get(at(k)); !ok {
					t.Fatalf("%d is not found", k)
				}
			}
			checkPages(t, v.tree.root)
		}
	})
}

func checkPages(t *rapid.T, p *page[int]) (depth int) {
	if p == nil {
		return 0
	}
	if len(p.items) == 0 || len(p.items) > pageSize {
		t.Fatalf("a page of %d", len(p.items))
	}
	if p.kids == nil {
		if p.size != len(p.items) {
			t.Fatalf("a leaf of %d says %d", len(p.items), p.size)
		}
		return 1
	}
	size := 0
	for i, k := range p.kids {
		if d := checkPages(t, k); depth != 0 && d != depth {
			t.Fatal("leaves are not equally deep")
		} else {
			depth = d
		}
		if p.items[i] != k.items[0] {
			t.Fatalf("kid %d begins with %d, and %d is said", i, k.items[0], p.items[i])
		}
		size += k.size
	}
	if size != p.size || len(p.kids) != len(p.items) {
		t.Fatalf("a page of %d says %d", size, p.size)
	}
	return depth + 1
}

// Thousands of everything: hosts, paths of one host, and routes that no index
// tells apart; put in one edit, changed in single ones.
func TestMatchAtSize(t *testing.T) {
	t.Parallel()
	const n = 2_000
	var ix Index
	e := ix.Edit()
	add := func(e *Edit, kind string, i int) {
		def := &store.Route{OnError: store.FailRequest}
		switch kind {
		case "host":
			def.Match.Host = []string{fmt.Sprintf("h%d.test", i)}
		case "wild":
			def.Match.Host = []string{fmt.Sprintf("*.w%d.test", i)}
		case "path":
			def.Match.Host, def.Match.Path = []string{"one.test"}, []string{fmt.Sprintf("/p/%d/*", i)}
		case "header":
			def.Match.Host, def.Match.Header = []string{"one.test"}, map[string][]string{"x-n": {fmt.Sprint(i)}}
		}
		e.Add(New(fmt.Sprintf("%s/%d", kind, i), def, 1, 1, uint32(i)))
	}
	kinds := []string{"host", "wild", "path", "header"}
	for i := range n {
		for _, kind := range kinds {
			add(e, kind, i)
		}
	}
	first := e.Commit()
	ix = first
	for i := 0; i < n; i += 2 { // every other one goes, one by one
		for _, kind := range kinds {
			e := ix.Edit()
			e.Remove(ix.Get(fmt.Sprintf("%s/%d", kind, i)))
			ix = e.Commit()
		}
	}
	for i := range n {
		for _, kind := range kinds {
			var r *message.Request
			switch kind {
			case "host":
				r = request("GET", "/", fmt.Sprintf("h%d.test", i))
			case "wild":
				r = request("GET", "/", fmt.Sprintf("x.y.w%d.test", i))
			case "path":
				r = request("GET", fmt.Sprintf("/p/%d/x", i), "one.test")
			case "header":
				if i%100 > 1 {
					continue
				}
				r = request("GET", "/", "one.test", "x-n", fmt.Sprint(i))
			}
			name := fmt.Sprintf("%s/%d", kind, i)
			if got, _ := first.Match(ask(r)); nameOf(got) != name {
				t.Fatalf("%s goes by %s", name, nameOf(got))
			}
			if i%2 == 0 {
				name = "none"
			}
			if got, _ := ix.Match(ask(r)); nameOf(got) != name {
				t.Fatalf("%s/%d goes by %s, want %s", kind, i, nameOf(got), name)
			}
		}
	}
}
