package main

import (
	"encoding/json"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"roster/node/admin"
)

var update = flag.Bool("update", false, "rewrite testdata/*.golden")

// explainer is a node that gives one answer to /v1/explain and keeps what it was asked.
func explainer(t *testing.T, code int, answer string) (address string, asked *string) {
	t.Helper()
	asked = new(string)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		*asked = r.URL.String()
		w.WriteHeader(code)
		w.Write([]byte(answer))
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), asked
}

func TestExplainCommandAsksTheNode(t *testing.T) {
	t.Parallel()
	at, asked := explainer(t, 200, `{"revision": 7}`)
	got := try(t, map[string]string{"ROSTER_CLIENT": "6.6.6.6"}, "", "explain", "PUT", "http://x/a b?c&d",
		"-H", "A: b, c", "-H", "D: e", "--client", "192.0.2.1", "--admin", at, "-o", "json")
	if got.code != exitDone || !strings.Contains(got.out, `"revision": 7`) {
		t.Errorf("%+v", got)
	}
	if want := "/v1/explain?client=192.0.2.1&header=A%3A+b%2C+c&header=D%3A+e&method=PUT&url=http%3A%2F%2Fx%2Fa+b%3Fc%26d"; *asked != want {
		t.Errorf("asked for %s, want %s", *asked, want)
	}
	try(t, map[string]string{"ROSTER_CLIENT": "6.6.6.6", "ROSTER_HEADER": "A: b"}, "", "explain", "GET", "/", "--admin", at)
	if want := "/v1/explain?method=GET&url=%2F"; *asked != want {
		t.Errorf("asked for %s, want %s", *asked, want)
	}
}

func TestExplainCommandSaysAllThatIsWrong(t *testing.T) {
	t.Parallel()
	at, _ := explainer(t, 400, `{"errors": ["method is \"G T\", want one such as GET", "client is \"x\""]}`)
	got := try(t, nil, "", "explain", "G T", "/", "--client", "x", "--admin", at)
	if got.code != exitUsage || !strings.Contains(got.errors, "method is") || !strings.Contains(got.errors, "client is") || got.out != "" {
		t.Errorf("%+v", got)
	}
	at, _ = explainer(t, 401, `{"errors": ["a token is needed"]}`)
	if got := try(t, nil, "", "explain", "GET", "/", "--admin", at); got.code != exitFailed || !strings.Contains(got.errors, "a token is needed") {
		t.Errorf("%+v", got)
	}
	at, _ = explainer(t, 502, `<html>`)
	if got := try(t, nil, "", "explain", "GET", "/", "--admin", at); got.code != exitFailed || !strings.Contains(got.errors, "502 <html>") {
		t.Errorf("%+v", got)
	}
	if got := try(t, nil, "", "explain", "GET", "/", "--admin", "127.0.0.1:1"); got.code != exitFailed || !strings.Contains(got.errors, "does not answer") {
		t.Errorf("%+v", got)
	}
	for _, args := range [][]string{{"explain", "GET"}, {"explain", "GET", "/", "x"}, {"explain", "GET", "/", "-o", "yaml"}} {
		if got := try(t, nil, "", args...); got.code != exitUsage {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

// TestExplainForPeople: as it is printed, in testdata/explain.golden.
func TestExplainForPeople(t *testing.T) {
	t.Parallel()
	sent := admin.Explanation{
		Revision: 41,
		Request:  admin.ExplainRequest{Method: "GET", URL: "http://www.foo.com/java/%78", Host: "www.foo.com", Path: "/java/x", Client: "192.0.2.7"},
		Routes: []admin.ExplainRoute{
			{Name: "lan", Considered: true, Field: "client", Got: "192.0.2.7", Want: "172.16.0.0/12"},
			{Name: "mobile", Considered: true, Field: "when", Got: "false", Want: "req.header['user-agent'].matches('(?i)mobile') || req.cookie['mobile'] == 'yes'"},
			{Name: "canary", Considered: true, Field: "header.x-canary", Want: "1"},
			{Name: "odd", Considered: true, Field: "when", Error: "no such key: x"},
			{Name: "java", Considered: true, Taken: true, Matches: true},
			{Name: "www", Matches: true},
			{Name: "other", Field: "host", Got: "www.foo.com", Want: "a.test"},
		},
		LeftOut: 900,
		Route:   &admin.Definition{Name: "java", Revision: 12}, Target: "java",
		Choices: []admin.ExplainChoice{{Name: "java", Type: "round_robin", Why: "its turn",
			States: map[string]int{"available": 1, "ejected": 1, "sick": 1},
			Members: []admin.ExplainMember{
				{Name: "java-1", State: "available", Weight: 2, Share: 1, Chosen: true},
				{Name: "java-2", State: "ejected", Left: 12.4, Weight: 1},
				{Name: "java-10", State: "sick", Weight: 1},
			}}},
		Backend: &admin.Backend{Name: "java-1", Definition: json.RawMessage("{\n  \"host\": \"10.0.0.7\",\n  \"port\": 8080\n}"),
			Health: admin.Health{State: "healthy", Admin: "auto", Probe: &admin.Verdict{Good: 8, Window: 8, Threshold: 3}}},
		Sent: &admin.ExplainSent{Method: "GET", Target: "/%78", Host: "www.foo.com", Retries: 1,
			Fields:   []admin.ExplainField{{Name: "Accept", Value: "*/*"}, {Name: "X-Long", Value: strings.Repeat("long ", 50) + "\x1b[31m"}, {Name: "X-Odd", Value: "a\x1b[31mb"}},
			Timeouts: admin.ExplainTimeouts{Connect: "3.5s", FirstByte: "1m", BetweenBytes: "1m", Total: "0s"}},
	}
	many := admin.Explanation{
		Revision: 41,
		Request:  admin.ExplainRequest{Method: "GET", URL: "http://x/", Host: "x", Path: "/", Client: "127.0.0.1"},
		Target:   "default",
		Choices: []admin.ExplainChoice{{Name: "default", Type: "random", Why: "no member may be chosen",
			States: map[string]int{"sick": 5000}}},
		Answer: &admin.ExplainAnswer{Status: 503, Error: "no_backend", Fields: []admin.ExplainField{{Name: "Proxy-Status", Value: "roster; error=destination_unavailable"}},
			Body: "503 Service Unavailable: no healthy backend\n"},
	}
	for range 100 {
		many.Choices[0].Members = append(many.Choices[0].Members, admin.ExplainMember{Name: "b", State: "sick", Weight: 1})
	}
	own := admin.Explanation{
		Request: admin.ExplainRequest{Method: "GET", URL: "/gone", Host: "x", Path: "/gone", Client: "127.0.0.1"},
		Routes:  []admin.ExplainRoute{{Name: "gone", Considered: true, Taken: true, Matches: true}},
		Route:   &admin.Definition{Name: "gone"},
		Answer:  &admin.ExplainAnswer{Status: 410, Body: "bye"},
	}
	noBackend := &admin.ExplainAnswer{Status: 503, Error: "no_backend"}
	dangling := admin.Explanation{
		Request: admin.ExplainRequest{Method: "GET", URL: "http://x:8080/%61", Host: "x:8080", Path: "/a", Client: "127.0.0.1"},
		Routes:  []admin.ExplainRoute{{Name: "a", Considered: true, Taken: true, Matches: true}},
		Route:   &admin.Definition{Name: "a"}, Target: "ghost", Answer: noBackend,
	}
	empty := admin.Explanation{
		Request: admin.ExplainRequest{Method: "GET", URL: "http://x/", Host: "x", Path: "/", Client: "127.0.0.1"},
		Target:  "default", Choices: []admin.ExplainChoice{{Name: "default", Type: "random", Why: "no member may be chosen"}}, Answer: noBackend,
	}
	none := admin.Explanation{
		Request: empty.Request, Target: "default", Answer: noBackend,
		Backend: &admin.Backend{Name: "default", Definition: json.RawMessage(`{"none":true}`), Health: admin.Health{State: "sick", Admin: "auto"}},
	}
	odd := admin.Explanation{
		Request: admin.ExplainRequest{Method: "GET", URL: "http://x/..", Host: "x", Client: "127.0.0.1"},
		Answer:  &admin.ExplainAnswer{Status: 400, Error: "bad_request"},
	}
	var b strings.Builder
	for _, e := range []admin.Explanation{sent, many, own, dangling, empty, none, odd} {
		if err := writeExplanation(&b, &e); err != nil {
			t.Fatal(err)
		}
		b.WriteString("\n----\n\n")
	}
	for line := range strings.Lines(b.String()) {
		if len([]rune(line)) > 120 {
			t.Errorf("a line of %d: %s", len(line), line)
		}
	}
	const golden = "testdata/explain.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
