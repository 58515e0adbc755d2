package admin

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"roster/exchange"
)

// explained asks for an explanation; params are names and values.
func explained(t *testing.T, n *node, params ...string) Explanation {
	t.Helper()
	s := newServer(n)
	s.Start = n.Start()
	s.Policy = exchange.New(exchange.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	w := ask(s.Handler(), "GET", "/v1/explain?"+query(params...))
	if w.Code != 200 {
		t.Fatalf("%v: %d %s", params, w.Code, w.Body)
	}
	var e Explanation
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	return e
}

func query(params ...string) string {
	q := url.Values{}
	for i := 0; i < len(params); i += 2 {
		q.Add(params[i], params[i+1])
	}
	return q.Encode()
}

func explainNode(t *testing.T) *node {
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a": `{"host": "192.0.2.1"}`, "backends/b": `{"host": "192.0.2.2", "connect_timeout": "1s"}`,
		"backends/c": `{"host": "192.0.2.3"}`, "backends/none": `{"none": true}`,
		"health/c":      "sick",
		"directors/www": `{"type": "fallback", "backends": ["c", "missing", {"name": "a", "weight": 2}, "b", "www"]}`,
		"directors/top": `{"type": "round_robin", "backends": ["www"]}`,
		"directors/ill": `{"type": "random", "backends": ["c"]}`,
		"routes/java": `{"match": {"host": "*.foo.com", "path": "/java/*"}, "backend": "top", "strip_prefix": "/java", "rewrite_host": "j.test",
			"retries": 2, "timeout": "9s", "request_headers": {"set": {"X-A": "1"}}}`,
		"routes/mobile": `{"match": {"host": "*.foo.com", "path": "/java/*"}, "when": "req.header['user-agent'].contains('Mobile')", "priority": 5, "backend": "b"}`,
		"routes/lan":    `{"match": {"client": "172.16.0.0/12"}, "backend": "b", "priority": 9}`,
		"routes/canary": `{"match": {"host": "www.foo.com", "header": {"x-canary": "1"}}, "backend": "b"}`,
		"routes/gone":   `{"match": {"path": "/gone"}, "respond": {"status": 410, "body": "bye", "headers": {"X-Why": "old"}}}`,
		"routes/ill":    `{"match": {"path": "/ill"}, "backend": "ill"}`,
		"routes/none":   `{"match": {"path": "/none"}, "backend": "none"}`,
		"routes/broken": `{"match": {"path": "/broken"}, "when": "int(req.method) == 0", "backend": "a"}`,
	})
	return n
}

func TestExplain(t *testing.T) {
	t.Parallel()
	n := explainNode(t)
	e := explained(t, n, "url", "http://www.foo.com/java/%78?y=1", "header", "User-Agent: curl", "header", "X-Canary: 2")
	if e.Revision != 7 || e.Request.Host != "www.foo.com" || e.Request.Path != "/java/x" || e.Request.Client != "127.0.0.1" {
		t.Errorf("request %+v at %d", e.Request, e.Revision)
	}
	routes := map[string]ExplainRoute{}
	var considered []string
	for _, r := range e.Routes {
		routes[r.Name] = r
		if r.Considered {
			considered = append(considered, r.Name)
		}
	}
	if want := []string{"lan", "mobile", "canary", "java"}; !slices.Equal(considered, want) {
		t.Errorf("considered %v, want %v", considered, want)
	}
	for name, want := range map[string]string{
		"lan": "client", "mobile": "when", "canary": "header.x-canary", "java": "", "gone": "path", "broken": "path",
	} {
		if got := routes[name]; got.Field != want || got.Taken != (name == "java") {
			t.Errorf("route %s: %+v, want the field %q", name, got, want)
		}
	}
	if got := routes["canary"]; got.Got != "2" || !strings.Contains(got.Want, "1") {
		t.Errorf("canary: %+v", got)
	}
	if e.Route == nil || e.Route.Name != "java" || e.Target != "top" || e.LeftOut != 0 {
		t.Errorf("route %+v to %q", e.Route, e.Target)
	}
	if len(e.Choices) != 2 || e.Choices[0].Name != "top" || e.Choices[1].Name != "www" {
		t.Fatalf("directors: %+v", e.Choices)
	}
	states := ""
	for _, m := range e.Choices[1].Members {
		states += fmt.Sprint(m.Name, "=", m.State)
		if m.Chosen {
			states += "!"
		}
		states += " "
	}
	if want := "c=sick missing=missing a=available! b=available www=cycle "; states != want {
		t.Errorf("members %q, want %q", states, want)
	}
	if got := e.Choices[1].States; got["available"] != 2 || got["sick"] != 1 {
		t.Errorf("states %v", got)
	}
	if e.Backend == nil || e.Backend.Name != "a" || e.Backend.Health.State != "healthy" {
		t.Errorf("backend %+v", e.Backend)
	}
	s := e.Sent
	if s == nil || s.Method != "GET" || s.Target != "/%78?y=1" || s.Host != "j.test" || s.Retries != 2 ||
		s.Timeouts.Total != "9s" || s.Timeouts.Connect != "3.5s" {
		t.Fatalf("sent %+v", s)
	}
	fields := fmt.Sprint(s.Fields)
	for _, want := range []string{"{X-A 1}", "{User-Agent curl}", "{X-Forwarded-For 127.0.0.1}", "{X-Forwarded-Host www.foo.com}", "{X-Forwarded-Proto http}"} {
		if !strings.Contains(fields, want) {
			t.Errorf("sent %s, want %s", fields, want)
		}
	}
	if e.Answer != nil {
		t.Errorf("answer %+v", e.Answer)
	}
}

func TestExplainWhatIsAnsweredHere(t *testing.T) {
	t.Parallel()
	n := explainNode(t)
	for _, test := range []struct {
		url    string
		status int
		error  string
		body   string
	}{
		{"http://x/gone", 410, "", "bye"},
		{"http://x/ill", 503, "no_backend", "no healthy backend"},
		{"http://x/none", 503, "no_backend", "no healthy backend"},
		{"http://x/broken", 500, "internal", "condition"},
		{"http://x/..", 400, "bad_request", "path"},
	} {
		e := explained(t, n, "url", test.url)
		if e.Answer == nil || e.Sent != nil {
			t.Errorf("%s: answer %+v, sent %+v", test.url, e.Answer, e.Sent)
			continue
		}
		if e.Answer.Status != test.status || e.Answer.Error != test.error || !strings.Contains(e.Answer.Body, test.body) {
			t.Errorf("%s: %+v", test.url, e.Answer)
		}
	}
	e := explained(t, n, "url", "http://x/broken")
	if i := slices.IndexFunc(e.Routes, func(r ExplainRoute) bool { return r.Name == "broken" }); i < 0 || e.Routes[i].Error == "" || !e.Routes[i].Taken {
		t.Errorf("routes %+v", e.Routes)
	}
	if e := explained(t, n, "url", "http://x/none"); e.Backend == nil || e.Backend.Name != "none" || e.Backend.Health.State != "sick" {
		t.Errorf("backend %+v", e.Backend)
	}
	if e := explained(t, n, "url", "http://x/"); e.Route != nil || e.Target != "a" || e.Sent == nil {
		t.Errorf("the default rule: route %+v, target %q", e.Route, e.Target)
	}
}

// TestExplainKnowsTheClient: rules see who is in front of trusted proxies.
func TestExplainKnowsTheClient(t *testing.T) {
	t.Parallel()
	n := explainNode(t)
	for _, test := range []struct{ client, header, want, target string }{
		{"10.0.0.1", "X-Forwarded-For: 172.16.0.9", "172.16.0.9", "b"},
		{"192.0.2.9", "X-Forwarded-For: 172.16.0.9", "192.0.2.9", "a"},
		{"172.16.0.1", "X-Any: 1", "172.16.0.1", "b"},
		{"2001:db8::1", "X-Any: 1", "2001:db8::1", "a"},
	} {
		e := explained(t, n, "url", "/", "header", "Host: x", "client", test.client, "header", test.header)
		if e.Request.Client != test.want || e.Target != test.target {
			t.Errorf("%+v: client %s to %s", test, e.Request.Client, e.Target)
		}
	}
	e := explained(t, n, "url", "https://x/", "method", "POST")
	if e.Sent == nil || e.Sent.Method != "POST" || !slices.Contains(e.Sent.Fields, ExplainField{"X-Forwarded-Proto", "https"}) {
		t.Errorf("sent %+v", e.Sent)
	}
}

// TestExplainMovesNothing: no cursor, no count.
func TestExplainMovesNothing(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{
		"backends/a": `{"host": "192.0.2.1"}`, "backends/b": `{"host": "192.0.2.2"}`,
		"directors/default": `{"type": "round_robin", "backends": ["a", "b"], "cookie": {}, "outlier": {}}`,
	})
	first := explained(t, n, "url", "http://x/").Backend.Name
	for range 5 {
		if got := explained(t, n, "url", "http://x/").Backend.Name; got != first {
			t.Fatalf("backend %s after %s", got, first)
		}
	}
	if total := n.Table().Lookup(first).Backend.Runtime.Requests.Load(); total != 0 {
		t.Errorf("%d requests counted", total)
	}
}

// TestExplainShowsFewOfManyMembers: the chosen one among them, and how many are how.
func TestExplainShowsFewOfManyMembers(t *testing.T) {
	t.Parallel()
	n := newNode()
	values, names := map[string]string{}, []string{}
	for i := range 300 {
		name := fmt.Sprintf("b%03d", i)
		values["backends/"+name] = `{"host": "192.0.2.1"}`
		if i < 250 {
			values["health/"+name] = "drain"
		}
		names = append(names, `"`+name+`"`)
	}
	values["directors/default"] = `{"type": "fallback", "backends": [` + strings.Join(names, ", ") + `]}`
	apply(t, n, values)
	e := explained(t, n, "url", "http://x/")
	c := e.Choices[0]
	if e.Backend.Name != "b250" || len(c.Members) != 101 || !c.Members[100].Chosen || c.States["draining"] != 250 || c.States["available"] != 50 {
		t.Errorf("backend %s of %d members shown, %v", e.Backend.Name, len(c.Members), c.States)
	}
}

// TestExplainSaysAllThatIsWrong: in one answer.
func TestExplainSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	h := serve(explainNode(t))
	for _, test := range []struct {
		params []string
		want   []string
	}{
		{nil, []string{"url is"}},
		{[]string{"url", "ftp://x/"}, []string{`url is "ftp://x/", want http://HOST/PATH`}},
		{[]string{"url", "/x"}, []string{"one with a host"}},
		{[]string{"url", "http://u@x/"}, []string{"no user"}},
		{[]string{"url", "http://x/a b"}, []string{"no white space"}},
		{[]string{"url", "http://x/", "url", "http://y/"}, []string{"url is given 2 times"}},
		{[]string{"url", "http://x/", "header", "Host: a", "header", "host: b"}, []string{"Host is given 2 times"}},
		{[]string{"url", "http://x/", "header", "A: b\r\nC: d"}, []string{"no control character"}},
		{[]string{"url", "http://x y/"}, []string{"no white space"}},
		{[]string{"url", "http://x/", "header", "Content-Length: x"}, []string{"would answer this request 400"}},
		{[]string{"url", "http://x/", "header", "Host: a/b"}, []string{"would answer this request 400"}},
		{[]string{"url", "http://", "method", "G T", "client", "localhost", "header", "nothing", "header", ": x"},
			[]string{"url is", "method is", "client is", `header is "nothing"`, `header is ": x"`}},
		{[]string{"url", "http://x/", "verb", "GET"}, []string{`parameter "verb" is not known`}},
	} {
		w := ask(h, "GET", "/v1/explain?"+query(test.params...))
		var f Fault
		if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || w.Code != 400 {
			t.Errorf("%q: %d %s", test.params, w.Code, w.Body)
			continue
		}
		if len(f.Errors) != len(test.want) {
			t.Errorf("%q: %d errors, want %d: %q", test.params, len(f.Errors), len(test.want), f.Errors)
		}
		for _, want := range test.want {
			if !slices.ContainsFunc(f.Errors, func(e string) bool { return strings.Contains(e, want) }) {
				t.Errorf("%q: no %q in %q", test.params, want, f.Errors)
			}
		}
	}
}

// FuzzExplain: no parameters make a request that is not one, whole and alone.
func FuzzExplain(f *testing.F) {
	f.Add("GET", "http://www.foo.com/java/x?y#z", "X-Canary: 1", "10.0.0.1")
	f.Add("PUT", "/x", "Host: a\r\nX: y", "::1")
	f.Add("", "https://[::1]:8080", "A:", "")
	f.Add("OPTIONS", "*", "Host: x", "1.1.1.1")
	n := newNode()
	f.Fuzz(func(t *testing.T, method, target, header, client string) {
		s := newServer(n)
		s.Start = n.Start()
		w := ask(s.Handler(), "GET", "/v1/explain?"+query("method", method, "url", target, "header", header, "client", client))
		switch w.Code {
		case 200:
			var e Explanation
			if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || (e.Sent == nil) == (e.Answer == nil) {
				t.Errorf("%v: %s", err, w.Body)
			}
		case 400:
			var f Fault
			if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil || len(f.Errors) == 0 {
				t.Errorf("%v: %s", err, w.Body)
			}
		default:
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	})
}

func TestExplainTellsOfAHeldBackend(t *testing.T) {
	t.Parallel()
	n := explainNode(t)
	s := newServer(n)
	removed := time.Unix(1e9, 0)
	s.HeldSince = func(name string) (time.Time, bool) { return removed, name == "b" }
	for client, held := range map[string]bool{"172.16.0.1": true, "192.0.2.7": false} { // to b and to a
		w := ask(s.Handler(), "GET", "/v1/explain?"+query("url", "/java/x", "client", client, "header", "Host: www.foo.com"))
		var e Explanation
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		if e.Backend == nil || (e.Backend.Removed != nil) != held {
			t.Errorf("from %s: backend %+v, want it marked: %t", client, e.Backend, held)
		}
	}
}
