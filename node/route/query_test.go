package route

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"roster/message"
)

// of makes an index of names and values.
func of(t testing.TB, pairs ...string) Index {
	t.Helper()
	var ix Index
	e := ix.Edit()
	for i := 0; i < len(pairs); i += 2 {
		e.Add(New(pairs[i], decoded(t, pairs[i+1]), int64(i), int64(i), uint32(i)))
	}
	return e.Commit()
}

func TestWhatRoutesAskFor(t *testing.T) {
	t.Parallel()
	ix := of(t,
		"query", `{"match":{"query":{"q":"a b","r":"*"}},"backend":"a"}`,
		"header", `{"match":{"header":{"X-Canary":["1","yes"]}},"backend":"a"}`,
		"method", `{"match":{"method":["PUT","POST"]},"backend":"a"}`,
		"regex", `{"match":{"path_regex":"^/[0-9]+$"},"backend":"a"}`,
		"client", `{"match":{"client":"10.0.0.0/8"},"backend":"a"}`,
		"when", `{"match":{"path":"/when"},"when":"req.header['x-a'] == '1'","backend":"a"}`,
		"fails", `{"match":{"path":"/fails"},"when":"int(req.method) == 0","backend":"a"}`,
		"skipped", `{"match":{"path":"/skipped"},"when":"int(req.method) == 0","on_error":"skip","backend":"a"}`,
		"v6", `{"match":{"host":"[2001:db8::1]"},"backend":"a"}`,
		"host", `{"match":{"host":["www.foo.com","*.foo.com"],"path":"/only/*"},"backend":"a"}`)
	for _, row := range []struct {
		name, method, host, target, header, client, want string
		fails                                            bool
		skipped                                          int
	}{
		{name: "nothing holds", target: "/", want: "none"},
		{name: "query", target: "/?r=&q=a%20b", want: "query"},
		{name: "query, plus", target: "/?q=a+b&r", want: "query"},
		{name: "query, any of several", target: "/?q=x&q=a+b&r", want: "query"},
		{name: "query, one missing", target: "/?q=a+b", want: "none"},
		{name: "query, a broken encoding is itself", target: "/?q=a%2xb&r", want: "none"},
		{name: "header, any case and one of the values", target: "/", header: "x-CANARY: yes", want: "header"},
		{name: "header, other value", target: "/", header: "X-Canary: no", want: "none"},
		{name: "method", method: "POST", target: "/", want: "method"},
		{name: "path_regex", target: "/42", want: "regex"},
		{name: "path_regex sees the normal path", target: "/x/../4%32", want: "regex"},
		{name: "path_regex does not see the query", target: "/x?/42", want: "none"},
		{name: "client", target: "/", client: "10.1.2.3", want: "client"},
		{name: "client over an IPv6 socket", target: "/", client: "::ffff:10.1.2.3", want: "client"},
		{name: "when holds", target: "/when", header: "X-A: 1", want: "when"},
		{name: "when does not", target: "/when", want: "none"},
		{name: "a condition that fails is not as none", target: "/fails", want: "fails", fails: true},
		{name: "unless it says skip", target: "/skipped", want: "none", skipped: 1},
		{name: "an IPv6 address in another form", host: "[2001:0DB8:0::0001]:8080", target: "/", want: "v6"},
		{name: "host, case and port", host: "WWW.Foo.COM.:443", target: "/only/x", want: "host"},
		{name: "subdomain at any depth", host: "a.b.foo.com", target: "/only/", want: "host"},
		{name: "the domain itself is no subdomain", host: "foo.com", target: "/only/x", want: "none"},
		{name: "nor is a longer label", host: "xfoo.com", target: "/only/x", want: "none"},
		{name: "a prefix is below the directory", host: "a.foo.com", target: "/only", want: "none"},
		{name: "OPTIONS *", method: "OPTIONS", target: "*", want: "none"},
	} {
		method, client := "GET", someClient
		if row.method != "" {
			method = row.method
		}
		if row.client != "" {
			client = netip.MustParseAddr(row.client)
		}
		r := request(method, row.target, row.host)
		if name, value, ok := strings.Cut(row.header, ": "); ok {
			r.Fields = append(r.Fields, message.Field{Name: []byte(name), Value: []byte(value)})
		}
		var q Query
		q.Begin(r, client, nil)
		got, err := ix.Match(&q)
		var condition *ConditionError
		if nameOf(got) != row.want || errors.As(err, &condition) != row.fails || (err != nil) != row.fails || q.Skipped != row.skipped {
			t.Errorf("%s: %s, %v, %d skipped, want %s", row.name, nameOf(got), err, q.Skipped, row.want)
		}
		if row.fails && condition.Route != got {
			t.Errorf("%s: the error is of %s", row.name, nameOf(condition.Route))
		}
	}
}

func TestPathsThatAreRefused(t *testing.T) {
	t.Parallel()
	ix := of(t, "all", `{"backend":"a"}`)
	for _, target := range []string{"/..", "/a/../../b", "/%2e%2e/x", "/x%00", "/x%zz", "", "a.test:443", "http://a/"} {
		q := ask(request("GET", target, "a.test"))
		if r, err := ix.Match(q); r != nil || err != ErrPath {
			t.Errorf("%q goes by %s, %v, want %v", target, nameOf(r), err, ErrPath)
		}
		if q.Path() != nil || ix.Explain(q, 10) != nil {
			t.Errorf("%q has the path %q", target, q.Path())
		}
		if _, err := new(Index).Match(q); err != ErrPath {
			t.Errorf("%q without routes: %v, want %v", target, err, ErrPath)
		}
	}
}

// No spelling of a protected path slips past its route.
func TestNoSpellingSlipsPastARule(t *testing.T) {
	t.Parallel()
	ix := of(t, "open", `{"match":{"path":"/*"},"backend":"a"}`, "admin", `{"match":{"path":["/admin","/admin/*"]},"respond":{"status":403}}`)
	for _, target := range []string{
		"/admin", "/admin/", "/admin/x", "//admin", "///admin//x", "/./admin", "/a/../admin", "/%61dmin", "/%61%64%6d%69%6e/x", "/%61dmin?x", "/x/%2e%2e/admin",
		"/x/.%2E/admin/y", "/admin/./../admin", "/admin/.", "/a/b/../..//admin/x",
	} {
		if r, err := ix.Match(ask(request("GET", target, "a"))); nameOf(r) != "admin" {
			t.Errorf("%s goes by %s, %v", target, nameOf(r), err)
		}
	}
	pipe := of(t, "open", `{"match":{"path":"/*"},"backend":"a"}`, "closed", `{"match":{"path":"/a%7Cb"},"respond":{"status":403}}`)
	for _, target := range []string{"/a%7Cb", "/a%7cb", "/a|b", "/x/../a|b"} {
		if r, _ := pipe.Match(ask(request("GET", target, "a"))); nameOf(r) != "closed" {
			t.Errorf("%s goes by %s", target, nameOf(r))
		}
	}
	for _, target := range []string{"/admin%2Fx", "/admin%2fx", "/Admin", "/x%2F..%2Fadmin"} { // an encoded slash is no slash
		if r, _ := ix.Match(ask(request("GET", target, "a"))); nameOf(r) != "open" {
			t.Errorf("%s goes by %s, want open", target, nameOf(r))
		}
	}
}

// A route with several hosts and paths that are the request's is passed over once.
func TestSkippedRoutesAreCountedOnce(t *testing.T) {
	t.Parallel()
	for _, priority := range []string{"0", "1"} { // with one level of priorities, and with two
		ix := of(t, "last", `{"backend":"a"}`,
			"skipped", `{"match":{"host":["a.test","*.test"],"path":["/x","/*"]},"priority":`+priority+`,"when":"int(req.method) == 0","on_error":"skip","backend":"a"}`)
		q := ask(request("GET", "/x", "a.test"))
		for range 2 {
			q.Begin(request("GET", "/x", "a.test"), someClient, nil)
			if r, err := ix.Match(q); nameOf(r) != "last" || err != nil || q.Skipped != 1 {
				t.Errorf("by %s, %v; %d skipped, want 1", nameOf(r), err, q.Skipped)
			}
		}
	}
}

// A rule about the header Host holds however the client names the host: in a pseudo field
// of HTTP/2, or in an absolute target beside a field that says something else.
func TestHeaderHostIsTheRequests(t *testing.T) {
	t.Parallel()
	ix := of(t, "open", `{"backend":"a"}`, "adm", `{"match":{"header":{"host":"adm.test"}},"priority":1,"respond":{"status":403}}`,
		"cel", `{"when":"req.header.host == 'cel.test'","priority":1,"respond":{"status":403}}`)
	for host, want := range map[string]string{"adm.test": "adm", "cel.test": "cel", "other.test": "open"} {
		for _, r := range []*message.Request{request("GET", "/", host), request("GET", "/", host, "Host", "decoy"), request("GET", "/", host, "Host", host)} {
			q := ask(r)
			if got, err := ix.Match(q); nameOf(got) != want || err != nil {
				t.Errorf("%s, %d fields: by %s, %v, want %s", host, len(r.Fields), nameOf(got), err, want)
			}
			for _, v := range ix.Explain(q, 9) {
				if v.Field == "header.host" && v.Got != host {
					t.Errorf("%s, %d fields: explained with %q", host, len(r.Fields), v.Got)
				}
			}
		}
	}
}

// The order of the contract, a step at a time: each route would match, and those
// before it are taken away.
func TestOrderOfMatching(t *testing.T) {
	t.Parallel()
	routes := []string{
		"z-priority", `{"priority":1,"backend":"a"}`,
		"y-exact-host-exact-path", `{"match":{"host":"a.b.test","path":"/x/y"},"backend":"a"}`,
		"x-exact-host-long-prefix", `{"match":{"host":"a.b.test","path":"/x/*"},"backend":"a"}`,
		"w-exact-host-short-prefix", `{"match":{"host":"a.b.test","path":"/*"},"backend":"a"}`,
		"v-exact-host", `{"match":{"host":"a.b.test"},"backend":"a"}`,
		"u-long-wildcard", `{"match":{"host":"*.b.test"},"backend":"a"}`,
		"t-short-wildcard-path", `{"match":{"host":"*.test","path":"/x/y"},"backend":"a"}`,
		"s-short-wildcard", `{"match":{"host":"*.test"},"backend":"a"}`,
		"r-path", `{"match":{"path":"/x/y"},"backend":"a"}`,
		"a-any", `{"backend":"a"}`,
		"b-any", `{"backend":"a"}`,
		"0-low", `{"match":{"host":"a.b.test","path":"/x/y"},"priority":-1,"backend":"a"}`,
	}
	for i := range routes { // a name begins with a letter
		routes[i] = strings.Replace(routes[i], "0-low", "aa-low", 1)
	}
	ix := of(t, routes...)
	for i := 0; i < len(routes); i += 2 {
		r, err := ix.Match(ask(request("GET", "/x/y", "a.b.test")))
		if nameOf(r) != routes[i] || err != nil {
			t.Fatalf("%s is taken, %v, want %s", nameOf(r), err, routes[i])
		}
		e := ix.Edit()
		e.Remove(r)
		ix = e.Commit()
	}
	if ix.Len() != 0 {
		t.Errorf("%d routes are left", ix.Len())
	}
}

func TestAllIsByNameAndFrom(t *testing.T) {
	t.Parallel()
	ix := of(t, "b", `{"backend":"a"}`, "a", `{"backend":"a"}`, "t/b", `{"backend":"a"}`, "t/a", `{"backend":"a"}`, "u", `{"backend":"a"}`)
	for _, row := range []struct{ under, after, want string }{
		{"", "", "a b t/a t/b u"}, {"", "b", "t/a t/b u"}, {"t/", "", "t/a t/b"}, {"t/", "t/a", "t/b"}, {"t/", "a", "t/a t/b"}, {"t/", "u", ""}, {"", "bb", "t/a t/b u"}, {"x", "", ""},
	} {
		var got []string
		for r := range ix.All(row.under, row.after) {
			got = append(got, r.Name)
		}
		if s := strings.Join(got, " "); s != row.want {
			t.Errorf("under %q after %q: %s, want %s", row.under, row.after, s, row.want)
		}
	}
}

// Neither a match nor what comes before it allocates, once a Query has been used.
func TestMatchDoesNotAllocate(t *testing.T) {
	ix := of(t,
		"a", `{"match":{"host":["x.test","*.y.test"],"path":["/j/*","/*","/k"]},"priority":1,"backend":"a"}`,
		"b", `{"match":{"host":"*.y.test","header":{"x-a":["1"]},"query":{"q r":"a b"},"method":"GET","client":"192.0.2.0/24","path_regex":"^/j/"},"priority":2,"backend":"a"}`)
	r := request("GET", "/a/%2e%2e/j/x?q+r=a%20b", "Sub.Y.Test:8080", "X-A", "1")
	var q Query
	if n := testing.AllocsPerRun(100, func() {
		q.Begin(r, someClient, nil)
		if found, err := ix.Match(&q); nameOf(found) != "b" || err != nil {
			t.Fatal(nameOf(found), err)
		}
		if string(q.Path()) != "/j/x" {
			t.Fatalf("path %s", q.Path())
		}
		q.End()
	}); n != 0 {
		t.Errorf("%v allocations a request, want none", n)
	}
}

func TestQueryKeepsLittleMemory(t *testing.T) {
	t.Parallel()
	var q Query
	q.Begin(request("GET", "/"+strings.Repeat("%41", 5000), "a"), someClient, nil)
	if len(q.Path()) != 5001 {
		t.Fatalf("a path of %d bytes", len(q.Path()))
	}
	q.End()
	for range 100 { // one after the other, without End
		q.Begin(request("GET", "/%41", "WWW.Foo.Test"), someClient, nil)
		if string(q.Path()) != "/A" || string(q.Host()) != "www.foo.test" {
			t.Fatalf("%s at %s", q.Path(), q.Host())
		}
	}
	if len(q.scratch) > 100 {
		t.Errorf("%d bytes are used", len(q.scratch))
	}
	q.End()
	if cap(q.scratch) > maxScratch || q.Path() != nil {
		t.Errorf("%d bytes are kept", cap(q.scratch))
	}
}

// A host of 30,000 labels is no host of a definition, and costs no more than one
// that may be.
func TestLongHostsAreLookedAtFromTheEnd(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a.", 126) + "test" // 256 bytes
	ix := of(t, "wild", `{"match":{"host":"*.test"},"backend":"a"}`)
	for _, host := range []string{long, strings.Repeat("a.", 30_000) + "test"} {
		if r, _ := ix.Match(ask(request("GET", "/", host))); nameOf(r) != "wild" {
			t.Errorf("a host of %d bytes goes by %s", len(host), nameOf(r))
		}
	}
	w := walk{ix: &ix, host: []byte(strings.Repeat("a.", 30_000) + "x")}
	if h := w.next(); h != nil || w.at < 59_700 {
		t.Errorf("found %v; the walk began before %d", h, w.at)
	}
}

func TestAnEditGoesOnAfterItsCommit(t *testing.T) {
	t.Parallel()
	var ix Index
	e := ix.Edit()
	for i := range 100 {
		e.Add(New(fmt.Sprintf("a%02d", i), decoded(t, `{"match":{"host":"a.test","path":"/x"},"backend":"a"}`), 1, 1, 1))
	}
	first := e.Commit()
	e.Add(New("a00", decoded(t, `{"match":{"path":"/y"},"backend":"a"}`), 2, 2, 2))
	e.Remove(first.Get("a01"))
	second := e.Commit()
	if first.Len() != 100 || first.Get("a00").ModRevision != 1 || second.Len() != 99 || second.Get("a00").ModRevision != 2 || second.Get("a01") != nil {
		t.Errorf("first has %d, second %d", first.Len(), second.Len())
	}
	if r, _ := first.Match(ask(request("GET", "/x", "a.test"))); nameOf(r) != "a00" {
		t.Errorf("first: %s", nameOf(r))
	}
	if r, _ := second.Match(ask(request("GET", "/x", "a.test"))); nameOf(r) != "a02" {
		t.Errorf("second: %s", nameOf(r))
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	ix := of(t,
		"admin", `{"match":{"host":"*.foo.com","path":"/admin/*"},"respond":{"status":403}}`,
		"canary", `{"match":{"host":"www.foo.com","header":{"x-canary":["1","yes"]}},"backend":"a"}`,
		"office", `{"match":{"host":"www.foo.com","client":"10.0.0.0/8","method":["GET","HEAD"]},"backend":"a"}`,
		"mobile", `{"match":{"host":"www.foo.com"},"when":"req.header['user-agent'].matches('(?i)mobile')","backend":"a"}`,
		"odd", `{"match":{"host":"www.foo.com"},"when":"int(req.header['x-n']) > 1","on_error":"skip","backend":"a"}`,
		"query", `{"match":{"host":"www.foo.com","query":{"page":"2"}},"backend":"a"}`,
		"regex", `{"match":{"host":"www.foo.com","path_regex":"[.]php$"},"backend":"a"}`,
		"rest", `{"backend":"a"}`,
		"rest2", `{"backend":"a"}`,
		"shop", `{"match":{"host":["shop.test","a","b","c","d","e"]},"backend":"a"}`)
	q := ask(request("GET", "/x?page=1&page=3", "WWW.foo.com", "X-Canary", "no", "user-agent", "curl", "x-n", "one"))
	var got []string
	for _, v := range ix.Explain(q, 100) {
		got = append(got, fmt.Sprintf("%s %v %v %v %q %q %q %v", v.Route.Name, v.Considered, v.Matches, v.Taken(), v.Field, v.Got, v.Want, v.Err))
	}
	want := []string{
		`canary true false false "header.x-canary" "no" "1 or yes" <nil>`,
		`mobile true false false "when" "false" "req.header['user-agent'].matches('(?i)mobile')" <nil>`,
		`odd true false false "when" "type conversion error from 'string' to 'int'" "int(req.header['x-n']) > 1" type conversion error from 'string' to 'int'`,
		`office true false false "client" "192.0.2.1" "10.0.0.0/8" <nil>`,
		`query true false false "query.page" "1, 3" "2" <nil>`,
		`regex true false false "path_regex" "/x" "[.]php$" <nil>`,
		`rest true true true "" "" "" <nil>`,
		`admin false false false "path" "/x" "/admin/*" <nil>`,
		`rest2 false true false "" "" "" <nil>`,
		`shop false false false "host" "www.foo.com" "shop.test or a or b or c or d or 1 more" <nil>`,
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if few := ix.Explain(q, 2); len(few) != 2 || !few[1].Taken() {
		t.Errorf("the last two are %+v", few)
	}
	if none := ix.Explain(q, 0); none != nil {
		t.Errorf("none are %+v", none)
	}
	fails := of(t, "fails", `{"when":"int(req.method) == 0","backend":"a"}`, "rest", `{"backend":"a"}`)
	if v := fails.Explain(q, 9)[0]; !v.Taken() || v.Err == nil || v.Matches {
		t.Errorf("a condition that fails: %+v", v)
	}
}
