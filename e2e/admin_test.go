package e2e_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// adminAnswer is what an admin API answered.
type adminAnswer struct {
	status int
	header http.Header
	body   string
}

func (a adminAnswer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// errors are those of a refusal.
func (a adminAnswer) errors(t *testing.T) (all []string) {
	t.Helper()
	var fault struct{ Errors []string }
	if err := json.Unmarshal([]byte(a.body), &fault); err != nil {
		t.Fatalf("%v: %v", err, a)
	}
	return fault.Errors
}

// revision is the one that a write made.
func (a adminAnswer) revision(t *testing.T) (rev int64) {
	t.Helper()
	if _, err := fmt.Sscan(a.header.Get("X-Roster-Revision"), &rev); err != nil {
		t.Fatalf("%v: %v %v", err, a, a.header)
	}
	return rev
}

var adminClient = &http.Client{Timeout: harness.WaitLimit, Transport: &http.Transport{DisableKeepAlives: true}}

// adminDo sends a request to an admin API, of JSON if there is a body.
func adminDo(t testing.TB, c *http.Client, method, url, body string, header ...string) adminAnswer {
	t.Helper()
	a, err := adminTry(c, method, url, body, header...)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// adminTry is adminDo for any goroutine.
func adminTry(c *http.Client, method, url, body string, header ...string) (adminAnswer, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return adminAnswer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return adminAnswer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return adminAnswer{resp.StatusCode, resp.Header, string(b)}, err
}

// What is written by way of one node is served by another; what is deleted is not.
func TestDefinitionsAreWrittenByTheAdminAPI(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	one := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "one"})
	two := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "two"})
	origin := harness.StartOrigin(t, "o")
	put := adminDo(t, adminClient, "PUT", one.AdminURL()+"/v1/backends/team-a/web-1", origin.Definition())
	if put.status != http.StatusCreated {
		t.Fatalf("PUT: %v", put)
	}
	two.WaitRevision(put.revision(t))
	if got := two.Get("/"); got.Origin != "o" {
		t.Errorf("the other node answers %v", got)
	}
	get := adminDo(t, adminClient, "GET", two.AdminURL()+"/v1/backends/team-a/web-1", "")
	if get.header.Get("ETag") != put.header.Get("ETag") {
		t.Errorf("ETag is %s, want %s", get.header.Get("ETag"), put.header.Get("ETag"))
	}
	drain := adminDo(t, adminClient, "PUT", two.AdminURL()+"/v1/health/team-a/web-1", "drain", "Content-Type", "text/plain")
	one.WaitRevision(drain.revision(t))
	if got := one.Get("/"); got.Status != http.StatusServiceUnavailable {
		t.Errorf("drained: %v", got)
	}
	auto := adminDo(t, adminClient, "DELETE", one.AdminURL()+"/v1/health/team-a/web-1", "")
	two.WaitRevision(auto.revision(t))
	if got := two.Get("/"); got.Origin != "o" {
		t.Errorf("without the override: %v", got)
	}
	gone := adminDo(t, adminClient, "DELETE", one.AdminURL()+"/v1/backends/team-a/web-1", "", "If-Match", get.header.Get("ETag"))
	if gone.status != http.StatusOK {
		t.Fatalf("DELETE: %v", gone)
	}
	two.WaitRevision(gone.revision(t))
	if got := two.AdminGet("/v1/backends/team-a/web-1"); got.Status != http.StatusNotFound {
		t.Errorf("deleted: %v", got)
	}
	etcd.Stop()
	if a := adminDo(t, adminClient, "PUT", one.AdminURL()+"/v1/backends/a", origin.Definition()); a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
		t.Errorf("without etcd: %v", a)
	}
}

// Seven mistakes are one answer with seven errors, with the field's path and what was
// probably meant, and the command line says the same.
func TestSevenMistakesInOneAnswer(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	const value = `{"host": "example..com", "prot": 8080, "connect_timout": "1s", "first_byte_timeout": "3 seconds",
		"max_connections": -5, "tls": {"alpn": "h2"}, "probe": {"window": 4, "treshold": 2}}`
	want := []string{
		`host: "example..com" is not a domain name: a part of it is empty or ends with "-"`,
		`prot: is not a field of a backend; did you mean "port"?`,
		`connect_timout: is not a field of a backend; did you mean "connect_timeout"?`,
		`first_byte_timeout: "3 seconds" has an unknown unit, want a number and a unit (ms, s, m, h, d, w) such as "1.4s"`,
		`max_connections: is -5, want 0 or more (at most 1000000000)`,
		`tls.alpn: is the string "h2", want a list: a protocol's name`,
		`probe.treshold: is not a field of a probe; did you mean "threshold"?`,
	}
	a := adminDo(t, adminClient, "PUT", node.AdminURL()+"/v1/backends/web-1", value)
	if diff := cmp.Diff(want, a.errors(t)); a.status != http.StatusUnprocessableEntity || diff != "" {
		t.Errorf("the API: %d, -want +got:\n%s", a.status, diff)
	}
	var fields struct {
		Fields []struct{ Path, Message string }
	}
	if err := json.Unmarshal([]byte(a.body), &fields); err != nil || len(fields.Fields) != len(want) || fields.Fields[6].Path != "probe.treshold" {
		t.Errorf("fields: %+v, error %v", fields, err)
	}
	r := harness.CLI(t, "put", "--etcd", node.Endpoints(), "backend", "web-1", value)
	var lines []string
	for line := range strings.Lines(r.Stderr) {
		lines = append(lines, strings.TrimPrefix(strings.TrimSpace(line), "roster: backends/web-1: "))
	}
	if diff := cmp.Diff(want, lines); r.Code != 3 || diff != "" {
		t.Errorf("the command line: exit code %d, -want +got:\n%s", r.Code, diff)
	}
	if got := harness.Ctl(t, node.Endpoints(), "get", "--prefix", "/roster/backends/"); got != "" {
		t.Errorf("etcd holds %s", got)
	}
}

// Of two writers at two nodes that have seen the same revision exactly one wins, each
// time, and the other is told what is there now.
func TestOfTwoWritersWithIfMatchExactlyOneWins(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t)
	var urls []string
	for _, id := range []string{"one", "two"} {
		node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: id})
		urls = append(urls, node.AdminURL()+"/v1/backends/web-1")
	}
	rev := adminDo(t, adminClient, "PUT", urls[0], `{"host": "127.0.0.1"}`, "If-None-Match", "*").revision(t)
	for round := range 10 {
		answers := make(chan adminAnswer)
		for i, url := range urls {
			go func() {
				a, err := adminTry(adminClient, "PUT", url, fmt.Sprintf(`{"host": "127.0.0.1", "comment": "%d of %d"}`, i, round), "If-Match", fmt.Sprintf("%q", fmt.Sprint(rev)))
				if err != nil {
					a.body = err.Error()
				}
				answers <- a
			}()
		}
		got := []adminAnswer{<-answers, <-answers}
		slices.SortFunc(got, func(a, b adminAnswer) int { return a.status - b.status })
		if got[0].status != http.StatusOK || got[1].status != http.StatusConflict {
			t.Fatalf("round %d: %v", round, got)
		}
		if rev = got[0].revision(t); got[1].revision(t) != rev {
			t.Errorf("round %d: the loser is told of revision %d, want %d", round, got[1].revision(t), rev)
		}
	}
}

// A node whose role in etcd only reads says so, and serves.
func TestANodeThatMayOnlyReadSaysSo(t *testing.T) {
	t.Parallel()
	etcd := harness.StartEtcd(t, "--bcrypt-cost=4")
	origin := harness.StartOrigin(t, "o")
	etcd.Put("/roster/backends/web-1", origin.Definition())
	for _, line := range []string{
		"user add root:secret", "user grant-role root root", "role add node",
		"role grant-permission node --prefix=true read /roster", "role grant-permission node --prefix=true readwrite /roster-",
		"user add node:secret", "user grant-role node node", "auth enable",
	} {
		etcd.Ctl(strings.Fields(line)...)
	}
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--etcd-user", "node", "--etcd-password-file", password}})
	for _, method := range []string{"PUT", "DELETE"} {
		a := adminDo(t, adminClient, method, node.AdminURL()+"/v1/backends/web-1", origin.Definition())
		if errs := a.errors(t); a.status != http.StatusForbidden || !strings.Contains(errs[0], "etcd does not let this node change backends/web-1") {
			t.Errorf("%s: %v", method, a)
		}
	}
	if got := node.Get("/"); got.Origin != "o" {
		t.Errorf("it serves %v", got)
	}
}

// What a page of another site can make a browser send, on the node as it is built.
func TestAWebPageCannotUseTheAdminAPI(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	rev := node.Put("/roster/backends/web-1", `{"host": "127.0.0.1"}`)
	node.WaitRevision(rev)
	for what, request := range map[string]struct {
		method string
		header []string
		want   int
	}{
		"a rebound name that reads":        {"GET", []string{"Host", "rebound.evil.test:6082"}, 421},
		"a rebound name that writes":       {"PUT", []string{"Host", "rebound.evil.test:6082", "Origin", "http://rebound.evil.test:6082"}, 421},
		"a page that writes":               {"PUT", []string{"Origin", "http://evil.test"}, 403},
		"a page that deletes":              {"DELETE", []string{"Origin", "http://evil.test"}, 403},
		"a simple POST":                    {"POST", []string{"Origin", "http://evil.test", "Content-Type", "text/plain"}, 403},
		"a simple POST of an old browser":  {"POST", []string{"Content-Type", "text/plain"}, 405},
		"a page that reads, as fetch says": {"GET", []string{"Sec-Fetch-Site", "cross-site"}, 403},
	} {
		if a := adminDo(t, adminClient, request.method, node.AdminURL()+"/v1/backends/web-1", `{"host": "10.6.6.6"}`, request.header...); a.status != request.want || strings.Contains(a.body, `"127.0.0.1"`) {
			t.Errorf("%s: %v, want %d", what, a, request.want)
		}
	}
	if got := node.AdminGet("/v1/backends/web-1"); got.Header.Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(rev)) {
		t.Errorf("it was changed: %v", got)
	}
}

// Other than on loopback there is no admin API without a token and TLS; with them there
// is, and both may be changed while the node runs.
func TestOffLoopbackTheAdminAPINeedsATokenAndTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "node.test", "localhost").Write(t, dir, "admin")
	const first, second = "0123456789abcdef-first", "0123456789abcdef-second"
	tokens := file("tokens", first+"\n")
	_, port, _ := strings.Cut(harness.FreeAddress(t), ":")
	for _, row := range []struct {
		args []string
		want string
	}{
		{nil, "admin-token-file, admin-tls-cert and admin-tls-key"},
		{[]string{"--admin-token-file", tokens}, "admin-tls-cert and admin-tls-key are missing"},
		{[]string{"--admin-tls-cert", cert, "--admin-tls-key", key}, "admin-token-file is missing"},
		{[]string{"--admin-token-file", file("short", "secret\n"), "--admin-tls-cert", cert, "--admin-tls-key", key}, "want at least 16"},
	} {
		r := harness.CLI(t, append([]string{"node", "--listen", harness.FreeAddress(t), "--etcd", "127.0.0.1:1", "--admin", ":" + port}, row.args...)...)
		if r.Code != 2 || !strings.Contains(r.Stderr, row.want) {
			t.Errorf("with %q: %v, want exit code 2 and %s", row.args, r, row.want)
		}
	}

	node := harness.NewNode(t, harness.NodeConfig{Args: []string{
		"--admin", ":" + port, "--admin-token-file", tokens, "--admin-tls-cert", cert, "--admin-tls-key", key,
	}})
	node.Start()
	client := &http.Client{Timeout: harness.WaitLimit, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "node.test"},
	}}
	root := "https://127.0.0.1:" + port
	harness.Until(t, "readiness without a token", func() (bool, any) {
		resp, err := client.Get(root + "/readyz")
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
	with := func(token string) int {
		t.Helper()
		return adminDo(t, client, "PUT", root+"/v1/backends/web-1", `{"host": "127.0.0.1"}`, "Authorization", "Bearer "+token).status
	}
	if a := adminDo(t, client, "GET", root+"/v1/status", ""); a.status != http.StatusUnauthorized || !strings.HasPrefix(a.header.Get("WWW-Authenticate"), "Bearer ") {
		t.Errorf("without a token: %v", a)
	}
	if one, two := with(first), with(second); one != http.StatusCreated || two != http.StatusUnauthorized {
		t.Errorf("with the first token %d, with the second %d", one, two)
	}
	file("tokens", second+"\n")
	if one, two := with(first), with(second); one != http.StatusUnauthorized || two != http.StatusOK {
		t.Errorf("after the change: with the first token %d, with the second %d", one, two)
	}
	roots := file("ca", ca.PEM)
	for _, command := range []string{"get backend web-1 -v -o json", "healthcheck", "status --etcd " + node.Endpoints()} {
		args := append(strings.Fields(command), "--admin", "https://localhost:"+port, "--admin-token-file", tokens, "--admin-ca", roots)
		if r := harness.CLI(t, args...); r.Code != 0 {
			t.Errorf("roster %s: %v", command, r)
		}
	}
	if r := harness.CLI(t, "status", "--etcd", node.Endpoints()); !strings.Contains(r.Stdout, "  https://") {
		t.Errorf("presence does not say that the admin API has TLS: %v", r)
	}
	if strings.Contains(node.Log(), first) || strings.Contains(node.Log(), second) {
		t.Error("a token is in the log")
	}

	next := ca.Issue(t, "node.test")
	next.Write(t, dir, "admin")
	harness.Until(t, "the new certificate", func() (bool, any) {
		conn, err := tls.Dial("tcp", "127.0.0.1:"+port, &tls.Config{RootCAs: ca.Pool(), ServerName: "node.test"})
		if err != nil {
			return false, err
		}
		defer conn.Close()
		serial := conn.ConnectionState().PeerCertificates[0].SerialNumber
		return serial.Cmp(next.Serial) == 0, serial
	})
}

// A client that was cut off comes back and misses nothing.
func TestEventsOfTheAdminAPIResume(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	// listen reads events until one of a kind, and returns its id.
	listen := func(last string, until func(kind, data string) bool) (id string) {
		t.Helper()
		req, err := http.NewRequest("GET", node.AdminURL()+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		if last != "" {
			req.Header.Set("Last-Event-ID", last)
		}
		resp, err := adminClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		kind := ""
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				id, kind = value, ""
			case "event":
				kind = value
			case "":
				if kind == "" && until("", "") {
					return id
				}
			case "data":
				if until(kind, value) {
					return id
				}
			}
		}
		t.Fatal("the events ended")
		return ""
	}
	id := listen("", func(kind, _ string) bool { return kind == "" }) // the first position
	var revs []int64
	for i := range 3 {
		revs = append(revs, node.Put(fmt.Sprintf("/roster/backends/b%d", i), `{"host": "127.0.0.1"}`))
	}
	node.WaitRevision(revs[2])
	for _, rev := range revs {
		id = listen(id, func(kind, data string) bool {
			var e struct{ Revision int64 }
			if kind == "" || kind != "applied" {
				return false
			}
			if err := json.Unmarshal([]byte(data), &e); err != nil || e.Revision != rev {
				t.Fatalf("applied %s, want revision %d", data, rev)
			}
			return true
		})
	}
	node.Terminate()
	node.Restart()
	listen(id, func(kind, data string) bool {
		if kind == "" {
			return false
		}
		if kind != "lost" {
			t.Errorf("after a restart the first event is %s %s, want lost", kind, data)
		}
		return true
	})
}
