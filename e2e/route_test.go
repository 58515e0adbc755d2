package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// putAll puts definitions in one transaction and waits until the node serves them.
func putAll(t *testing.T, node *harness.Node, definitions map[string]string) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: strings.Split(node.Endpoints(), ",")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), harness.WaitLimit)
	defer cancel()
	var ops []clientv3.Op
	for key, value := range definitions {
		ops = append(ops, clientv3.OpPut("/roster/"+key, value))
	}
	resp, err := client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		t.Fatal(err)
	}
	if s := node.WaitRevision(resp.Header.Revision); len(s.Rejected) > 0 {
		t.Fatalf("rejected: %+v", s.Rejected)
	}
}

// from sends a request on a connection of its own that comes from an address of this
// machine, and returns the answer.
func from(t *testing.T, node *harness.Node, address string, head ...string) harness.Message {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}, Timeout: harness.WaitLimit}
	conn, err := dialer.Dial("tcp", node.Address())
	if err != nil {
		t.Fatal(err)
	}
	w := harness.NewWire(t, conn)
	defer w.Close()
	w.Send(strings.Join(append(head, "", ""), "\r\n"))
	return w.Response()
}

// mirror is a backend that answers with the head of the request as it came.
func mirror(t *testing.T) *harness.Socket {
	s := harness.Listen(t)
	s.Each(func(w *harness.Wire) {
		for {
			r, err := w.ReadRequest()
			if err != nil {
				return
			}
			lines := []string{r.Line}
			for _, f := range r.Fields {
				lines = append(lines, f.Name+": "+f.Value)
			}
			body := strings.Join(lines, "\n") + "\n"
			if _, err := fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-Backend: mirror\r\nSet-Cookie: app=1\r\n\r\n%s", len(body), body); err != nil {
				return
			}
		}
	})
	return s
}

// hasLines checks lines: each of want is one of them, and none has a part of not in it.
func hasLines(t *testing.T, what, lines string, want, not []string) {
	t.Helper()
	for _, line := range want {
		if !strings.Contains("\n"+lines, "\n"+line+"\n") {
			t.Errorf("%s: no line %q in\n%s", what, line, lines)
		}
	}
	for _, part := range not {
		if strings.Contains(lines, part) {
			t.Errorf("%s: %q in\n%s", what, part, lines)
		}
	}
}

// TestRouteFieldsOnTheWire: what each field of a route does to a request and its answer.
func TestRouteFieldsOnTheWire(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--trusted-proxies", "127.0.0.2/32"}})
	back := mirror(t)
	dead := harness.FreeAddress(t)
	putAll(t, node, map[string]string{
		"backends/mirror": `{"host": "` + back.Address() + `"}`,
		"backends/dead":   `{"host": "` + dead + `"}`,
		"directors/two":   `{"type": "fallback", "backends": ["dead", "mirror"]}`,
		"routes/plain":    `{"match": {"host": "plain.test"}, "backend": "mirror"}`,
		"routes/own": `{"match": {"host": "own.test"}, "respond": {"status": 418, "headers": {"Content-Type": "text/tea", "X-Cup": ["1", "2"]}, "body": "short and stout"},
			"response_headers": {"add": {"X-Late": "1"}}}`,
		"routes/headers": `{"match": {"host": "headers.test"}, "backend": "mirror",
			"request_headers": {"remove": ["X-Gone"], "set": {"X-Set": "new"}, "add": {"X-Add": ["a", "b"]}},
			"response_headers": {"remove": ["X-Backend", "set-cookie"], "set": {"X-Set": "s"}, "add": {"X-Add": "t"}}}`,
		"routes/strip":   `{"match": {"host": "strip.test", "path": ["/api", "/api/*"]}, "backend": "mirror", "strip_prefix": "/api"}`,
		"routes/rewrite": `{"match": {"host": "rewrite.test"}, "backend": "mirror", "rewrite_host": "inner.test:81"}`,
		"routes/retry":   `{"match": {"host": "retry.test"}, "backend": "two", "retries": 1}`,
		"routes/no":      `{"match": {"host": "no.test"}, "backend": "dead"}`,
		"routes/lan":     `{"match": {"host": "lan.test", "client": "192.0.2.0/24"}, "respond": {"body": "lan"}}`,
		"routes/wan":     `{"match": {"host": "lan.test"}, "respond": {"body": "wan"}}`,
		"routes/broken":  `{"match": {"host": "broken.test"}, "when": "int(req.method) == 0", "backend": "mirror"}`,
		"routes/odd":     `{"match": {"host": "odd.test"}, "when": "int(req.method) == 0", "on_error": "skip", "respond": {"body": "never"}}`,
		"routes/even":    `{"match": {"host": "odd.test"}, "respond": {"body": "even"}, "priority": -1}`,
	})
	get := func(target, host string, more ...string) []string {
		return append([]string{"GET " + target + " HTTP/1.1", "Host: " + host}, more...)
	}

	own := from(t, node, "127.0.0.1", get("/", "own.test")...)
	if own.Status() != 418 || own.Body != "short and stout" || own.Get("X-Cup") != "1, 2" || own.Get("Content-Type") != "text/tea" || own.Get("X-Late") != "1" {
		t.Errorf("respond: %v", own)
	}
	if back.Opened() != 0 {
		t.Error("a backend was asked for an answer that is the route's")
	}

	a := from(t, node, "127.0.0.1", get("/", "headers.test", "X-Gone: 1", "x-gone: 2", "X-Set: old", "X-Set: older", "X-Add: client")...)
	hasLines(t, "request_headers", a.Body, []string{"X-Set: new", "X-Add: client", "X-Add: a", "X-Add: b"}, []string{"X-Gone", "x-gone", "old"})
	if a.Get("X-Backend") != "" || a.Get("Set-Cookie") != "" || a.Get("X-Set") != "s" || a.Get("X-Add") != "t" {
		t.Errorf("response_headers: %v", a.Fields)
	}

	for target, want := range map[string]string{
		"/api/x%2Fy?q=/api": "/x%2Fy?q=/api", "/api": "/", "/api?q": "/?q", "//api//x": "/x", "/%61pi/x": "/x", "/api/": "/",
	} {
		a := from(t, node, "127.0.0.1", get(target, "strip.test")...)
		hasLines(t, "strip_prefix of "+target, a.Body, []string{"GET " + want + " HTTP/1.1"}, nil)
	}

	a = from(t, node, "127.0.0.1", get("/", "rewrite.test:8080")...)
	hasLines(t, "rewrite_host", a.Body, []string{"Host: inner.test:81", "X-Forwarded-Host: rewrite.test:8080"}, nil)

	if a := from(t, node, "127.0.0.1", get("/", "no.test")...); a.Status() != 502 || !strings.Contains(a.Get("Proxy-Status"), "connection_refused") {
		t.Errorf("without retries: %v", a)
	}
	before := node.Metric("roster_request_retries_total")
	if a := from(t, node, "127.0.0.1", get("/", "retry.test")...); a.Status() != 200 {
		t.Errorf("retries: %v", a)
	}
	if got := node.Metric("roster_request_retries_total") - before; got != 1 {
		t.Errorf("%v retries were counted, want 1", got)
	}

	// Who the client is, and who may say so.
	told := []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: outer.test", "Forwarded: for=6.6.6.6", "X-Request-Id: theirs"}
	a = from(t, node, "127.0.0.1", get("/", "plain.test", told...)...)
	hasLines(t, "of a stranger", a.Body, []string{"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: plain.test",
		"Forwarded: for=127.0.0.1;host=plain.test;proto=http"}, []string{"6.6.6.6", "outer.test", "theirs", "https"})
	a = from(t, node, "127.0.0.2", get("/", "plain.test", told...)...)
	hasLines(t, "of a trusted proxy", a.Body, []string{"X-Forwarded-For: 6.6.6.6, 192.0.2.7, 127.0.0.2", "X-Forwarded-Proto: https", "X-Forwarded-Host: outer.test",
		"Forwarded: for=6.6.6.6, for=127.0.0.2;host=plain.test;proto=http", "X-Request-Id: theirs"}, nil)
	if a := from(t, node, "127.0.0.2", get("/", "lan.test", told[0])...); a.Body != "lan" {
		t.Errorf("client behind a trusted proxy: %v", a)
	}
	if a := from(t, node, "127.0.0.1", get("/", "lan.test", told[0])...); a.Body != "wan" {
		t.Errorf("client that claims to be another: %v", a)
	}

	// Conditions that cannot be computed.
	if a := from(t, node, "127.0.0.1", get("/", "broken.test")...); a.Status() != 500 || !strings.Contains(a.Body, "condition") || strings.Contains(a.Body, "int") {
		t.Errorf("a condition that fails: %v", a)
	}
	if a := from(t, node, "127.0.0.1", get("/", "odd.test")...); a.Body != "even" {
		t.Errorf("on_error skip: %v", a)
	}
	if got := node.Metric("roster_route_condition_errors_total"); got != 1 {
		t.Errorf("%v condition errors were counted, want 1", got)
	}
}

// TestRouteTimeouts: each in place of the backend's, and the one for the whole request.
func TestRouteTimeouts(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	slow := harness.Listen(t)
	slow.Each(func(w *harness.Wire) {
		r, err := w.ReadRequest()
		if err != nil {
			return
		}
		if strings.HasPrefix(r.Target(), "/begun") {
			io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegun")
		}
		w.ReadRequest() // until the node gives up
	})
	target := `"backend": "slow"`
	putAll(t, node, map[string]string{
		"backends/slow":  `{"host": "` + slow.Address() + `"}`,
		"routes/first":   `{"match": {"host": "first.test"}, ` + target + `, "first_byte_timeout": "50ms"}`,
		"routes/between": `{"match": {"host": "between.test"}, ` + target + `, "between_bytes_timeout": "50ms"}`,
		"routes/whole":   `{"match": {"host": "whole.test"}, ` + target + `, "timeout": "50ms", "retries": 3}`,
	})
	for host, kind := range map[string]string{"first.test": "first_byte_timeout", "whole.test": "late"} {
		a := from(t, node, "127.0.0.1", "GET /silent HTTP/1.1", "Host: "+host)
		if a.Status() != 504 || !strings.Contains(a.Get("Proxy-Status"), "http_response_timeout") {
			t.Errorf("%s: %v", host, a)
		}
		harness.Until(t, "a failure "+kind, func() (bool, any) { // it is counted once it is answered
			got := node.Metric(`roster_request_failures_total{kind="` + kind + `"`)
			return got == 1, got
		})
	}
	for _, host := range []string{"between.test", "whole.test"} {
		w := harness.Dial(t, "tcp", node.Address())
		w.Send("GET /begun HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		if got, _ := w.End(); !strings.Contains(got, "200 OK") || !strings.HasSuffix(got, "\r\n\r\nbegun") {
			t.Errorf("%s: %q", host, got)
		}
	}
}

// TestRetriesDoNotStorm: of a fleet whose backends fail every request, each may be tried
// three times more. What reaches the backends is a fifth more than there are requests, and
// what clients and the log are told is what failed.
func TestRetriesDoNotStorm(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--access-log", "json", "--access-log-file", path}})
	var reached atomic.Int64
	definitions := map[string]string{
		"directors/default": `{"type": "round_robin", "backends": ["bad-0", "bad-1", "bad-2", "bad-3"]}`,
		"routes/all":        `{"match": {"host": "director.test"}, "backend": "default", "retries": 3}`,
		"routes/one":        `{"match": {"host": "backend.test"}, "backend": "bad-0", "retries": 3}`,
	}
	for i := range 4 {
		bad := harness.Listen(t)
		bad.Each(func(w *harness.Wire) {
			if _, err := w.ReadRequest(); err == nil {
				reached.Add(1)
			}
		})
		definitions[fmt.Sprintf("backends/bad-%d", i)] = `{"host": "` + bad.Address() + `"}`
	}
	putAll(t, node, definitions)
	const clients, each = 64, 20
	for _, host := range []string{"director.test", "backend.test"} {
		before, refused := reached.Load(), node.Metric("roster_request_retries_refused_total")
		began := time.Now()
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				client := &http.Client{Transport: &http.Transport{}, Timeout: harness.WaitLimit}
				defer client.CloseIdleConnections()
				for range each {
					req, _ := http.NewRequest("GET", node.URL()+"/", nil)
					req.Host = host
					resp, err := client.Do(req)
					if err != nil {
						t.Error(err)
						return
					}
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if resp.StatusCode != 502 || !strings.Contains(resp.Header.Get("Proxy-Status"), "connection_terminated") {
						t.Errorf("answer %d %s", resp.StatusCode, resp.Header.Get("Proxy-Status"))
					}
				}
			})
		}
		all.Wait()
		// The budget is a fifth of the requests of the last ten seconds, and ten more.
		windows := 2 + int64(time.Since(began)/(10*time.Second))
		requests, got := int64(clients*each), reached.Load()-before
		if most := requests + requests/5 + 10*windows; got > most || got < requests+requests/20 {
			t.Errorf("%s: %d requests made %d at the backends, want at most %d, and some that were tried again", host, requests, got, most)
		}
		t.Logf("%s: %d requests were %d at the backends", host, requests, got)
		if got := node.Metric("roster_request_retries_refused_total") - refused; got < float64(requests)/2 {
			t.Errorf("%s: %v refused retries were counted", host, got)
		}
	}
	harness.Until(t, "the access log", func() (bool, any) {
		raw, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
		if len(lines) < 2*clients*each {
			return false, len(lines)
		}
		for _, line := range lines {
			var entry struct {
				Error string `json:"error"`
			}
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Error != "closed" {
				t.Fatalf("access log: %v in %s", err, line)
			}
		}
		return true, nil
	})
}

// TestRetriesOfWhatMayBeRepeated: to a backend that a route names directly, too; but a
// POST that may have been looked at is not sent twice.
func TestRetriesOfWhatMayBeRepeated(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	var asked atomic.Int64
	moody := harness.Listen(t)
	moody.Each(func(w *harness.Wire) {
		if _, err := w.ReadRequest(); err == nil && asked.Add(1)%2 == 0 {
			io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
		}
	})
	putAll(t, node, map[string]string{
		"backends/moody": `{"host": "` + moody.Address() + `"}`,
		"routes/all":     `{"backend": "moody", "retries": 1}`,
	})
	if a := from(t, node, "127.0.0.1", "GET / HTTP/1.1", "Host: x"); a.Status() != 200 || asked.Load() != 2 {
		t.Errorf("GET: %v after %d requests", a, asked.Load())
	}
	if a := from(t, node, "127.0.0.1", "POST / HTTP/1.1", "Host: x", "Content-Length: 0"); a.Status() != 502 || asked.Load() != 3 {
		t.Errorf("POST: %v after %d requests", a, asked.Load())
	}
}

// TestSessionCookies: a client that brings back the cookie comes back to its member, over
// HTTP/1 and HTTP/2, while that drains, too; and to another when it is sick.
func TestSessionCookies(t *testing.T) {
	t.Parallel()
	node, address, _ := tlsNode(t)
	definitions := map[string]string{
		"directors/default": `{"type": "round_robin", "backends": ["m-0", "m-1", "m-2"], "cookie": {"ttl": "1h"}}`,
		"certificates/x":    definition(t, certstest.NewCA(t).Issue(t, "x.test")),
	}
	for i := range 3 {
		name := fmt.Sprintf("m-%d", i)
		definitions["backends/"+name] = harness.StartOrigin(t, name).Definition()
	}
	putAll(t, node, definitions)
	harness.Until(t, "the secret of cookies", func() (bool, any) {
		a := node.Get("/")
		return a.Header.Get("Set-Cookie") != "", a.Header
	})
	begun := node.Get("/")
	set := begun.Header.Values("Set-Cookie")
	if len(set) != 1 || !strings.HasPrefix(set[0], "roster=") || !strings.HasSuffix(set[0], "; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax") {
		t.Fatalf("Set-Cookie: %q", set)
	}
	pair, _, _ := strings.Cut(set[0], ";")
	member := begun.Origin

	for name, lines := range map[string][]string{
		"alone":              {"Cookie: " + pair},
		"among others":       {"Cookie: a=1; " + pair + "; b=2"},
		"in a second field":  {"Cookie: a=1", "Cookie: " + pair},
		"without spaces":     {"Cookie: a=1;" + pair + ";b=2"},
		"in quotes":          {"Cookie: " + strings.Replace(pair, "=", `="`, 1) + `"`},
		"beside a stale one": {"Cookie: roster=stale; " + pair},
	} {
		for range 4 { // by turns another one would come
			a := from(t, node, "127.0.0.1", append([]string{"GET / HTTP/1.1", "Host: x"}, lines...)...)
			if a.Get("X-Origin") != member || a.Get("Set-Cookie") != "" {
				t.Errorf("%s: answered by %s, want %s; Set-Cookie %q", name, a.Get("X-Origin"), member, a.Get("Set-Cookie"))
			}
		}
	}
	if a := from(t, node, "127.0.0.1", "GET / HTTP/1.1", "Host: x", "Cookie: roster=stale"); a.Get("Set-Cookie") == "" {
		t.Error("a stale cookie is not replaced")
	}

	two := visitor(address, &tls.Config{InsecureSkipVerify: true}, true)
	defer two.CloseIdleConnections()
	resp, err := ask(two, "x.test")
	if err != nil {
		t.Fatal(err)
	}
	if c := resp.Header.Get("Set-Cookie"); resp.ProtoMajor != 2 || !strings.HasSuffix(c, "; HttpOnly; SameSite=Lax; Secure") {
		t.Errorf("over TLS by %s: Set-Cookie %q", resp.Proto, c)
	}
	for range 4 {
		req, _ := http.NewRequest("GET", "https://x.test/", nil)
		req.Header.Set("Cookie", "a=1; "+pair+"; b=2") // net/http splits it
		resp, err := two.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.Header.Get("X-Origin") != member || resp.Header.Get("Set-Cookie") != "" {
			t.Errorf("over HTTP/2: answered by %s, want %s; Set-Cookie %q", resp.Header.Get("X-Origin"), member, resp.Header.Get("Set-Cookie"))
		}
	}

	node.WaitRevision(node.Put("/roster/health/"+member, "drain"))
	back := func() harness.Message {
		return from(t, node, "127.0.0.1", "GET / HTTP/1.1", "Host: x", "Cookie: "+pair)
	}
	if a := back(); a.Get("X-Origin") != member || a.Get("Set-Cookie") != "" {
		t.Errorf("while it drains: %v", a)
	}
	for range 6 {
		if a := node.Get("/"); a.Origin == member {
			t.Error("a client without a cookie came to a member that drains")
		}
	}
	node.WaitRevision(node.Put("/roster/health/"+member, "sick"))
	a := back()
	if a.Status() != 200 || a.Get("X-Origin") == member || !strings.HasPrefix(a.Get("Set-Cookie"), "roster=") || strings.HasPrefix(a.Get("Set-Cookie"), pair+";") {
		t.Errorf("while it is sick: %v", a)
	}
	if got := node.Metric("roster_director_sessions_lost_total"); got < 2 {
		t.Errorf("%v lost sessions, want the stale cookie's and the sick member's", got)
	}
}
