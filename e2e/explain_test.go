package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// explanation is what is looked at of roster explain -o json.
type explanation struct {
	Request struct{ Client, Path string }
	Routes  []struct {
		Name, Field, Got, Want, Error string
		Considered, Taken             bool
	}
	Route     *struct{ Name string }
	Target    string
	Directors []struct {
		Name, Why string
		Members   []struct {
			Name, State string
			Chosen      bool
		}
	}
	Backend *struct{ Name string }
	Sent    *struct {
		Target, Host string
		Fields       []struct{ Name, Value string }
	}
	Answer *struct {
		Status int
		Error  string
	}
}

// TestExplainSaysWhatThenHappens: the route, the director's choice and what is sent are
// those of the request that comes next, and explaining sends nothing.
func TestExplainSaysWhatThenHappens(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--trusted-proxies", "127.0.0.2/32"}})
	back, other := mirror(t), harness.StartOrigin(t, "other")
	putAll(t, node, map[string]string{
		"backends/mirror":   `{"host": "` + back.Address() + `"}`,
		"backends/other":    other.Definition(),
		"backends/sick":     other.Definition(),
		"health/sick":       "sick",
		"directors/java":    `{"type": "fallback", "backends": ["sick", "gone", "mirror", "other"]}`,
		"directors/default": `{"type": "round_robin", "backends": ["other", "sick"]}`,
		"routes/java":       `{"match": {"host": "*.foo.test", "path": "/java/*"}, "backend": "java", "strip_prefix": "/java", "request_headers": {"set": {"X-Set": "1"}}}`,
		"routes/mobile":     `{"match": {"host": "*.foo.test"}, "when": "req.header['user-agent'].matches('(?i)mobile')", "priority": 1, "backend": "other"}`,
		"routes/broken":     `{"match": {"host": "broken.test"}, "when": "int(req.method) == 0", "backend": "other"}`,
		"routes/lan":        `{"match": {"host": "lan.test", "client": "192.0.2.0/24"}, "respond": {"status": 202}}`,
	})
	cli := func(args ...string) harness.Result {
		return harness.CLI(t, append([]string{"explain", "--admin", node.AdminAddress()}, args...)...)
	}
	explain := func(args ...string) (e explanation) {
		t.Helper()
		r := cli(append(args, "-o", "json")...)
		if err := json.Unmarshal([]byte(r.Stdout), &e); err != nil || r.Code != 0 {
			t.Fatalf("explain %q: %v\n%v", args, err, r)
		}
		return e
	}

	e := explain("GET", "http://www.foo.test/java/%78?q", "-H", "User-Agent: curl")
	if e.Route == nil || e.Route.Name != "java" || e.Target != "java" || e.Request.Path != "/java/x" || e.Backend == nil || e.Backend.Name != "mirror" {
		t.Fatalf("%+v", e)
	}
	var told []string
	for _, r := range e.Routes {
		told = append(told, fmt.Sprintf("%s %v %v %s", r.Name, r.Considered, r.Taken, r.Field))
	}
	if got, want := strings.Join(told, ", "), "mobile true false when, java true true , broken false false host, lan false false host"; got != want {
		t.Errorf("routes %s, want %s", got, want)
	}
	var members []string
	for _, m := range e.Directors[0].Members {
		members = append(members, fmt.Sprintf("%s %s %v", m.Name, m.State, m.Chosen))
	}
	if got, want := strings.Join(members, ", "), "sick sick false, gone missing false, mirror available true, other available false"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}
	if back.Opened() != 0 || other.Requests() != 0 {
		t.Error("something was sent")
	}

	// The request itself, but for what is its own.
	a := from(t, node, "127.0.0.1", "GET /java/%78?q HTTP/1.1", "Host: www.foo.test", "User-Agent: curl")
	sent := []string{"GET " + e.Sent.Target + " HTTP/1.1", "Host: " + e.Sent.Host}
	for _, f := range e.Sent.Fields {
		if f.Name != "X-Request-Id" {
			sent = append(sent, f.Name+": "+f.Value)
		}
	}
	hasLines(t, "what was sent", a.Body, sent, nil)
	if got := strings.Count(a.Body, "\n"); got != len(sent)+1 {
		t.Errorf("%d lines were sent, %d explained:\n%s\n%q", got, len(sent)+1, a.Body, sent)
	}

	if e := explain("GET", "/", "-H", "Host: www.foo.test", "-H", "User-Agent: Mobile 1"); e.Route == nil || e.Route.Name != "mobile" || e.Backend.Name != "other" {
		t.Errorf("mobile: %+v", e)
	}
	if e := explain("GET", "http://nowhere.test/"); e.Route != nil || e.Target != "default" || e.Backend.Name != "other" {
		t.Errorf("the default rule: %+v", e)
	}
	if e := explain("GET", "http://broken.test/"); e.Answer == nil || e.Answer.Status != 500 || e.Answer.Error != "internal" {
		t.Errorf("a condition that fails: %+v", e)
	} else if r := e.Routes[0]; r.Name != "broken" || r.Error == "" {
		t.Errorf("a condition that fails: %+v", r)
	}
	lan := []string{"GET", "http://lan.test/", "-H", "X-Forwarded-For: 192.0.2.9"}
	if e := explain(append(lan, "--client", "127.0.0.2")...); e.Request.Client != "192.0.2.9" || e.Answer == nil || e.Answer.Status != 202 {
		t.Errorf("behind a trusted proxy: %+v", e)
	}
	if e := explain(lan...); e.Request.Client != "127.0.0.1" || e.Route != nil {
		t.Errorf("not behind one: %+v", e)
	}
	if got := node.Metric("roster_route_condition_errors_total"); got != 0 {
		t.Errorf("%v condition errors were counted", got)
	}

	r := cli("GET", "http://www.foo.test/java/x")
	for _, want := range []string{"* route java", "taken", "- route mobile", "director java, fallback:", "sick", "* mirror", "backend mirror is healthy", "GET /x"} {
		if !strings.Contains(r.Stdout, want) {
			t.Errorf("no %q in\n%s", want, r.Stdout)
		}
	}
	for line := range strings.Lines(r.Stdout) {
		if len(line) > 120 {
			t.Errorf("a line of %d: %s", len(line), line)
		}
	}
	r = cli("G T", "ftp://x", "-H", "nothing", "--client", "x")
	for _, want := range []string{"method is", "url is", "header is", "client is"} {
		if !strings.Contains(r.Stderr, want) || r.Code != 2 {
			t.Errorf("no %q in %v", want, r)
		}
	}
	if a := node.AdminGet("/v1/explain?url=http://x/&verb=GET"); a.Status != 400 {
		t.Errorf("%v", a)
	}
}
