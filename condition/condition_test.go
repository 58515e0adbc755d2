package condition_test

import (
	"errors"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"

	"roster/condition"
	"roster/message"
)

// only is a Health that knows one name.
type only string

func (o only) Healthy(name string) bool { return name == string(o) }

// input is a request with some of everything.
func input() *condition.Input {
	return &condition.Input{
		Request: &message.Request{
			Method: []byte("GET"), Target: []byte("/A/../shop?q=a+b&q=%63&e&%71=d"), Major: 1, Minor: 1,
			Fields: []message.Field{
				message.New(message.Host, []byte("Shop.Example:8080")),
				message.New(message.UserAgent, []byte("Mozilla/5.0 (iPhone; CPU) Mobile/15E148")),
				{Name: []byte("X_Odd"), Value: []byte("1")},
				{Name: []byte("X-List"), Value: []byte("a, b")},
				{Name: []byte("x-list"), Value: []byte("c")},
				{Name: []byte("X-Empty")},
				message.New(message.Cookie, []byte("session=s3; plain;a=1")),
				message.New(message.Cookie, []byte("a=2")),
			},
		},
		Host: []byte("shop.example"), Path: []byte("/shop"), Query: []byte("q=a+b&q=%63&e&%71=d"),
		Client: netip.MustParseAddr("192.0.2.7"), Health: only("java"),
	}
}

func TestEval(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`req.method == 'GET'`, `req.host == 'shop.example'`, `req.path == '/shop'`, `req.url == '/A/../shop?q=a+b&q=%63&e&%71=d'`, `req.proto == 'HTTP/1.1'`,
		`req.header['host'] == 'Shop.Example:8080'`, `req.header['user-agent'].matches('(?i)mobile')`, `req.header.x_odd == '1'`,
		// Several values are joined, whatever the case of their names.
		`req.header['x-list'] == 'a, b, c'`, `'b' in req.header['x-list'].split(', ')`, `req.cookie.a == '1, 2'`, `req.query.q == 'a b, c, d'`,
		// What is absent is "", and that is no error.
		`req.header['x-none'] == ''`, `req.header['x-' + req.method] == ''`, `req.header.none == ''`, `req.cookie.plain == ''`, `req.query['no' + 'ne'] == ''`,
		`'x-empty' in req.header && req.header['x-empty'] == ''`, `!('x-none' in req.header)`, `has(req.query.e) && req.query.e == '' && !has(req.query.f)`, `!has(req.cookie.plain)`,
		`has(req.header.host) && has(req.method)`,
		// Maps can be gone through.
		`req.header.exists(h, h.startsWith('x-') && req.header[h] == 'a, b, c')`, `size(req.cookie) == 2`, `req.query.size() == 2`, `req.header.all(h, h == h.lowerAscii())`,
		`req.query.map(n, req.query[n]) == ['a b, c, d', '']`,
		`client.ip == '192.0.2.7'`, `backend.healthy('java')`, `!backend.healthy('ja' + 'v')`,
		`' A '.trim().lowerAscii() == 'a'`, `int(req.header['x_odd']) + 1 == 2`,
	} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if holds, err := c.Eval(input()); err != nil || !holds {
			t.Errorf("%s is %v, %v, want true", text, holds, err)
		}
	}
}

func TestEvalOfLittle(t *testing.T) {
	t.Parallel()
	in := &condition.Input{Request: &message.Request{Major: 2}}
	for _, text := range []string{
		`req.proto == 'HTTP/2.0'`, `client.ip == ''`, `!backend.healthy('java')`, `req.header.size() == 0 && req.cookie.size() == 0 && req.query.size() == 0`,
	} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := c.Eval(in); err != nil || !holds {
			t.Errorf("%s is %v, %v, want true", text, holds, err)
		}
	}
	if _, err := (*condition.Condition)(nil).Eval(in); err == nil {
		t.Error("no condition at all can be computed")
	}
}

// All faults of an expression are told at once, each with its place and what
// would be right.
func TestCompileErrors(t *testing.T) {
	t.Parallel()
	const fields = "req.method, req.host, req.path, req.query, req.url, req.proto, req.header or req.cookie"
	for text, want := range map[string]string{
		`req.foo == 'a' || bar`:         "column 4: req has no field foo, want " + fields + "; column 19: bar is not known, want " + fields + ", client.ip, backend.healthy(name) or a function of CEL",
		"req.path == '/' &&\n client.a": "line 2, column 8: client has no field a, want client.ip",
		`req.method`:                    "column 1: the condition is of type string, want bool",
		`1 + 'a' == 2 && req.host == 3`: "column 3: + does not go with (int, string); column 26: == does not go with (string, int)",
		`a ==`:                          "column 5: not CEL: mismatched input the end",
		`req.header['User-Agent']=='x'`: `column 12: header names are in lower case, want "user-agent" for "User-Agent"`,
		`has(req.header.Host)`:          `column 4: header names are in lower case, want "host" for "Host"`,
		`'A' in req.header`:             `column 1: header names are in lower case, want "a" for "A"`,
		`req.header == {}`:              "column 4: req.header is a map, want one of its values, req.header['name']",
		`[req.query].size() == 1`:       "column 5: req.query is a map, want one of its values, req.query['name']",
		`req == req && dyn(client)==1`: "column 1: req is no value by itself, want " + fields + "; column 8: req is no value by itself, want " + fields +
			"; column 19: client is no value by itself, want client.ip",
		`type(backend) == string`:                    "column 6: backend is no value by itself, want backend.healthy(name)",
		`req.path.matches('(')`:                      "column 18: \"(\" is no regular expression (RE2): error parsing regexp: missing closing ): `(`",
		`req.path.matches(req.url)`:                  "column 21: matches takes its regular expression as a literal string, which is compiled once",
		"'" + strings.Repeat("a", 5_000) + "' == ''": "column 1: the condition is 5008 bytes long, want at most 4096",
		"'\xff' == ''":                               "column 1: the condition holds invalid UTF-8",
		`dyn(req.path)`:                              "column 1: the condition is of type dyn, want bool",
		`backend.healthy(1)`:                         "column 16: backend.healthy takes a name, a string",
		`req.path =~ "x"`:                            "column 10: not CEL: token recognition error at: '=~'; a regular expression is text.matches('...'); column 13: not CEL: extraneous input '\"x\"' expecting <EOF>",
		`req.path ~ "x"`:                             "column 10: not CEL: token recognition error at: '~'; a regular expression is text.matches('...'); column 12: not CEL: extraneous input '\"x\"' expecting <EOF>",
	} {
		_, err := condition.Compile(text)
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.80s:\n got %s\nwant %s", text, got, want)
		}
		var all condition.Errors
		if err != nil && !errors.As(err, &all) {
			t.Errorf("%.80s: error of type %T", text, err)
		}
	}
	big := make([]string, 12)
	for i := range big {
		big[i] = `req.path.matches('` + strings.Repeat("[a-z]{1000}", 2) + `')`
	}
	if _, err := condition.Compile(strings.Join(big, " || ")); err == nil || !strings.Contains(err.Error(), "instructions, want at most 20000") {
		t.Errorf("too many instructions: %v", err)
	}
	deep := strings.Repeat("(", 300) + "true" + strings.Repeat(")", 300)
	if _, err := condition.Compile(deep); err == nil {
		t.Error("300 parentheses are compiled")
	}
}

// A computation that costs too much ends, soon, with ErrCost.
func TestCostLimit(t *testing.T) {
	t.Parallel()
	in := input()
	for range 100 {
		in.Request.Fields = append(in.Request.Fields, message.Field{Name: []byte("x-" + strings.Repeat("n", len(in.Request.Fields))), Value: []byte(strings.Repeat("a", 600))})
	}
	for _, text := range []string{
		`req.header.all(a, req.header.all(b, req.header.all(c, req.header.all(d, a + b + c + d != ''))))`,
		`req.header.map(a, req.header.map(b, req.header.map(c, a + b + c))).size() == 1`,
		`req.header.all(a, req.header.all(b, req.header[a].matches('(a|aa|aaa|aaaa)*$') && req.header[b] != 'x'))`,
		`req.header.all(a, req.header.all(b, req.header[a].split('').size() != req.header[b].lowerAscii().size() || true))`,
	} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Eval(in); !errors.Is(err, condition.ErrCost) {
			t.Errorf("%s: %v, want %v", text, err, condition.ErrCost)
		}
	}
}

// What is read of the request's maps, and what regular expressions do, counts as well:
// a client that sends 6,000 cookies, or a query of 4,000 parts, could otherwise have
// seconds of a processor for one request.
func TestCostLimitCountsWhatIsRead(t *testing.T) {
	t.Parallel()
	in := input()
	in.Query = []byte(strings.Repeat("%61&", 4_000))
	in.Request.Target = append([]byte("/?"), in.Query...)
	in.Request.Fields = append(in.Request.Fields, message.New(message.Cookie, []byte(strings.Repeat("c%=;", 6_000))))
	for _, text := range []string{
		`req.header.all(a, req.header.all(b, req.query['x'] == ''))`,
		`req.header.all(a, req.cookie.size() > 0)`,
		`req.header.all(a, !(a in req.cookie))`,
		`req.header.all(a, req.header.exists(b, has(req.query.none)) || true)`,
		`req.url.matches('([%a]?){900}x')`, `req.url.matches('([%a]?){900}x') || true`, `matches(req.url, '([%a]?){900}x')`,
		`req.header.all(a, !req.url.matches('([%a]?){90}x'))`,
	} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := c.Eval(in); !errors.Is(err, condition.ErrCost) {
			t.Errorf("%s: %v, %v, want %v", text, holds, err, condition.ErrCost)
		}
		// The next computation begins anew.
		c, err = condition.Compile(`req.query.a == '' || req.query.a != ''`)
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := c.Eval(in); !holds || err != nil {
			t.Errorf("after %s: %v, %v", text, holds, err)
		}
	}
	// What people write is far from it.
	for _, text := range []string{
		`req.header['user-agent'].matches('(?i)(android|bb\\d+|meego).+mobile|iphone|ipad|[a-z]{50}')`,
		`req.header.exists(h, h.startsWith('x-') && req.header[h] == 'none') || true`,
		`req.cookie.a != req.query.q && 'x' in req.header || true`,
	} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := c.Eval(input()); !holds || err != nil {
			t.Errorf("%s: %v, %v", text, holds, err)
		}
	}
}

// A name in a map that is no string is an error of the computation, not of this program.
func TestNamesAreStrings(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`req.header[dyn(1)] == ''`, `dyn(1) in req.cookie`} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Eval(input()); err == nil || strings.Contains(err.Error(), "internal") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// The host among the headers is the one that requests are routed by, wherever the client
// wrote it: HTTP/2 has no field for it, and with an absolute target the field is not obeyed.
func TestHeaderHostIsTheRequests(t *testing.T) {
	t.Parallel()
	for _, r := range []*message.Request{
		{Major: 2, Authority: []byte("adm.test:80")},
		{Major: 1, Authority: []byte("adm.test:80"), Fields: []message.Field{message.New(message.Host, []byte("other"))}},
		{Major: 1, Authority: []byte("adm.test:80"), Fields: []message.Field{message.New(message.Host, []byte("adm.test:80"))}},
	} {
		for _, text := range []string{`req.header.host == 'adm.test:80'`, `'host' in req.header`, `req.header.exists(h, h == 'host')`, `req.header.size() == 1`} {
			c, err := condition.Compile(text)
			if err != nil {
				t.Fatal(err)
			}
			if holds, err := c.Eval(&condition.Input{Request: r}); !holds || err != nil {
				t.Errorf("HTTP/%d, %d fields: %s is %v, %v", r.Major, len(r.Fields), text, holds, err)
			}
		}
	}
}

func TestEvalErrors(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`[1][int(req.header.x_odd)] == 1`, `int(req.method) == 1`, `1 / (req.cookie.size() - 2) == 1`} {
		c, err := condition.Compile(text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Eval(input()); err == nil || errors.Is(err, condition.ErrCost) {
			t.Errorf("%s: %v, want an error of its own", text, err)
		}
	}
}

// Equal expressions are one Condition as long as it is in use, and nothing is
// kept of one that is not.
func TestEqualExpressionsAreOneCondition(t *testing.T) {
	t.Parallel()
	const text = `req.path == '/only-here'`
	a, err := condition.Compile(text)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := condition.Compile(text); a != b || !a.Equal(b) || a.String() != text {
		t.Errorf("%p and %p, want one", a, b)
	}
	if b, _ := condition.Compile(`true`); a.Equal(b) || a.Equal(nil) {
		t.Error("different conditions are equal")
	}
	runtime.KeepAlive(a)
}

// TestConditionsAreCompiledAtOnce: definitions are decoded by many goroutines. The race
// detector sees what the library shares among them.
func TestConditionsAreCompiledAtOnce(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	for i := range 32 {
		all.Go(func() {
			text := `["a", "b"].exists(x, x == req.path)`
			if i%2 > 0 {
				text = `nobody.knows == "` + strings.Repeat("x", i) + `"`
			}
			if _, err := condition.Compile(text); (err != nil) != (i%2 > 0) {
				t.Errorf("%s: %v", text, err)
			}
		})
	}
	all.Wait()
}
