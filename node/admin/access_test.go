package admin

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roster/node/certs/certstest"
)

const (
	token1 = "0123456789abcdef-one"
	token2 = "0123456789abcdef-two"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// guarded is an API that asks for the tokens of a file.
func guarded(t *testing.T, n *node, file string) http.Handler {
	t.Helper()
	s := newServer(n)
	var err error
	if s.tokens, err = newTokens(file, nil); err != nil {
		t.Fatal(err)
	}
	return s.Handler()
}

func TestATokenIsNeededWhereThereAreTokens(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "tokens"), "# of eva\n"+token1+"\n\n  "+token2+"\r\n")
	h := guarded(t, newNode(), file)
	for _, row := range []struct {
		path, authorization string
		want                int
		challenge           string
	}{
		{"/v1/status", "", 401, `Bearer realm="roster"`},
		{"/v1/status", "Bearer " + token1, 200, ""},
		{"/v1/status", "bearer " + token2, 200, ""},
		{"/v1/status", "Bearer " + token1[1:], 401, `Bearer realm="roster", error="invalid_token"`},
		{"/v1/status", "Bearer " + token1 + token2, 401, `Bearer realm="roster", error="invalid_token"`},
		{"/v1/status", "Bearer # of eva", 401, `Bearer realm="roster", error="invalid_token"`},
		{"/v1/status", "Bearer ", 401, `Bearer realm="roster"`},
		{"/v1/status", "Basic " + token1, 401, `Bearer realm="roster"`},
		{"/v1/status", token1, 401, `Bearer realm="roster"`},
		{"/metrics", "", 401, `Bearer realm="roster"`}, {"/openapi.json", "", 401, `Bearer realm="roster"`}, {"/nowhere", "", 401, `Bearer realm="roster"`},
		{"/debug/pprof/", "", 401, `Bearer realm="roster"`}, {"/v1/events", "", 401, `Bearer realm="roster"`},
		{"/healthz", "", 200, ""}, {"/readyz", "", 200, ""}, {"/healthz/", "", 401, `Bearer realm="roster"`},
	} {
		w := ask(h, "GET", row.path, "Authorization", row.authorization, "Host", "admin.example:6082")
		if w.Code != row.want || w.Header().Get("WWW-Authenticate") != row.challenge {
			t.Errorf("GET %s with %q: %d %q, want %d %q", row.path, row.authorization, w.Code, w.Header().Get("WWW-Authenticate"), row.want, row.challenge)
		}
	}
	for _, method := range []string{"PUT", "DELETE"} {
		if w := ask(h, method, "/v1/backends/a"); w.Code != 401 {
			t.Errorf("%s: %d, want 401", method, w.Code)
		}
	}
}

// A token that is taken out of the file is refused at once, and one that is added is
// taken; a file that is gone, or is just being written, changes nothing.
func TestTokensAreReadAgain(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "tokens"), token1)
	h := guarded(t, newNode(), file)
	expect := func(when string, one, two int) {
		t.Helper()
		for token, want := range map[string]int{token1: one, token2: two} {
			if got := ask(h, "GET", "/v1/status", "Authorization", "Bearer "+token).Code; got != want {
				t.Errorf("%s, %s: %d, want %d", when, token, got, want)
			}
		}
	}
	expect("at first", 200, 401)
	write(t, file, token1+"\n"+token2)
	expect("with a second one", 200, 200)
	write(t, file, token2)
	expect("without the first", 401, 200)
	for _, bad := range []string{"", "# none", "short", token1 + " " + token2} {
		write(t, file, bad)
		expect(fmt.Sprintf("with %q", bad), 401, 200)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	expect("without the file", 401, 200)
	write(t, file, token1)
	expect("with the first alone", 200, 401)
}

func TestAccessSaysAllThatIsMissing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "admin.test").Write(t, dir, "admin")
	good, short := write(t, filepath.Join(dir, "good"), token1), write(t, filepath.Join(dir, "short"), token1+"\n\ntooshort\n")
	for _, row := range []struct {
		access   Access
		loopback bool
		want     []string // of each error; none: it is fine
	}{
		{Access{}, true, nil},
		{Access{TokenFile: good}, true, nil},
		{Access{Cert: cert, Key: key}, true, nil},
		{Access{TokenFile: good, Cert: cert, Key: key}, false, nil},
		{Access{}, false, []string{"admin-token-file, admin-tls-cert and admin-tls-key"}},
		{Access{TokenFile: good}, false, []string{"admin-tls-cert and admin-tls-key are missing"}},
		{Access{Cert: cert, Key: key}, false, []string{"admin-token-file is missing"}},
		{Access{Cert: cert}, true, []string{"admin-tls-key is missing"}},
		{Access{Key: key}, true, []string{"admin-tls-cert is missing"}},
		{Access{TokenFile: short, Cert: key, Key: cert}, false, []string{"line 3: a token of 8 characters, want at least 16", "admin-tls-cert: "}},
		{Access{TokenFile: filepath.Join(dir, "none")}, true, []string{"no such file"}},
	} {
		err := row.access.Validate("10.0.0.1:6082", row.loopback)
		var got []error
		if err != nil {
			got = apart(err)
		}
		for i := range max(len(got), len(row.want)) {
			if i >= len(got) || i >= len(row.want) || !strings.Contains(got[i].Error(), row.want[i]) {
				t.Errorf("%+v, loopback %v: %q, want %q", row.access, row.loopback, got, row.want)
				break
			}
		}
		if err != nil && strings.Contains(err.Error(), "tooshort") {
			t.Errorf("the error quotes a token: %v", err)
		}
	}
}

// With TLS it speaks HTTP/2 and 1.1, and to nobody without.
func TestTLSAndTokens(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "admin.test").Write(t, dir, "admin")
	s := newServer(newNode())
	s.Access = Access{TokenFile: write(t, filepath.Join(dir, "tokens"), token1), Cert: cert, Key: key}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, ln) }()
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.Pool(), ServerName: "admin.test"}, ForceAttemptHTTP2: protocol == "HTTP/2.0"}
		for token, want := range map[string]int{"": 401, token1: 200, token2: 401} {
			r := httptest.NewRequest("GET", "https://"+ln.Addr().String()+"/v1/status", nil)
			r.RequestURI = ""
			if token != "" {
				r.Header.Set("Authorization", "Bearer "+token)
			}
			resp, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want || resp.Proto != protocol {
				t.Errorf("with %q: %s %d, want %s %d", token, resp.Proto, resp.StatusCode, protocol, want)
			}
		}
		transport.CloseIdleConnections()
	}
	resp, err := http.Get("http://" + ln.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 {
		t.Errorf("without TLS: %d %s, want 400", resp.StatusCode, body)
	}
	resp.Body.Close()
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// pipes is a listener whose connections are in memory.
type pipes chan net.Conn

func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }
func (p pipes) Close() error   { return nil }

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

// Whoever has no token, and announces a body that never comes, is not waited for, whatever
// is asked for.
func TestABodyThatDoesNotComeHoldsNoConnection(t *testing.T) {
	t.Parallel()
	for _, head := range []string{
		"PUT /v1/backends/web-1 HTTP/1.1\r\nContent-Length: 100", "POST / HTTP/1.1\r\nTransfer-Encoding: chunked",
		"GET /healthz HTTP/1.1\r\nContent-Length: 100",
	} {
		synctest.Test(t, func(t *testing.T) {
			s := newServer(newNode())
			s.Access.TokenFile = write(t, filepath.Join(t.TempDir(), "tokens"), token1)
			ctx, cancel := context.WithCancel(t.Context())
			ln, ended := make(pipes), make(chan error)
			go func() { ended <- s.Serve(ctx, ln) }()
			conn, theirs := net.Pipe()
			ln <- theirs
			if _, err := conn.Write([]byte(head + "\r\nHost: admin.example\r\n\r\n")); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			conn.SetReadDeadline(began.Add(time.Hour))
			answer, err := io.ReadAll(conn)
			if took := time.Since(began); err != nil || took > bodyTimeout || !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
				t.Errorf("%.20s: the connection was there for %v, %v: %q", head, took, err, answer)
			}
			cancel()
			close(ln)
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}

// Who has a token is sent events for as long as the file has it.
func TestATokenThatIsTakenOutEndsItsEvents(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "tokens"), token1+"\n"+token2)
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, newNode(), file)
		ended := make(chan time.Duration, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			began := time.Now()
			r := httptest.NewRequest("GET", "/v1/events", nil).WithContext(ctx)
			r.Header.Set("Authorization", "Bearer "+token1)
			h.ServeHTTP(httptest.NewRecorder(), r)
			ended <- time.Since(began)
		}()
		time.Sleep(time.Hour)
		select {
		case took := <-ended:
			t.Fatalf("they ended after %v, while the token was good", took)
		default:
		}
		write(t, file, token2)
		time.Sleep(heartbeat + time.Second)
		select {
		case <-ended:
		default:
			t.Error("events are sent to who has no token any more")
		}
		cancel()
		synctest.Wait()
	})
}

func TestNamesThatNoHostWouldEverBeAreRefused(t *testing.T) {
	t.Parallel()
	for host, want := range map[string]string{
		"admin.test": "", "10.0.0.1": "", "fd00::1": "", "admin.test:6082": "without a port", "https://admin.test": "a name", "": "a name", "*.test": "a name", "[::1]:6082": "without a port", "admin test": "a name",
	} {
		err := Access{Hosts: []string{host}}.Validate("127.0.0.1:6082", true)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), "admin-host is \""+host+"\"") || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", host, err, want)
		}
	}
}

// A name of an attacker's that leads to this machine, and whatever a browser can send from
// a page there, reads and writes nothing: TestWritesOfWebPagesAreRefused has the writes.
func TestDNSRebindingReadsNothing(t *testing.T) {
	t.Parallel()
	n := newNode()
	apply(t, n, map[string]string{"backends/hush": `{"host":"10.9.8.7"}`})
	h := serve(n)
	for _, host := range []string{"rebind.evil.test", "rebind.evil.test:6082", "127.0.0.1.evil.test:6082", "0.0.0.0:6082", "[::]:6082", "localhost.:6082x"} {
		for _, path := range []string{"/v1/backends", "/v1/backends/hush", "/v1/status", "/metrics", "/v1/events", "/debug/pprof/cmdline", "/openapi.json", "/"} {
			if w := ask(h, "GET", path, "Host", host, "Sec-Fetch-Site", "same-origin"); w.Code != 421 || strings.Contains(w.Body.String(), "10.9.8.7") {
				t.Errorf("GET %s of %s: %d %s, want 421", path, host, w.Code, w.Body)
			}
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add([]byte(token1 + "\n# " + token2 + "\n\n" + token2))
	f.Add([]byte("short"))
	f.Add([]byte("\x00\xff 0123456789abcdef"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		sums, err := parseTokens(raw)
		if (err == nil) != (len(sums) > 0) {
			t.Errorf("%d tokens, error %v", len(sums), err)
		}
		if err != nil && len(raw) > 200 && strings.Contains(err.Error(), string(raw)) {
			t.Errorf("the error quotes the file: %v", err)
		}
		lines := 0
		for line := range strings.Lines(string(raw)) {
			if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
				lines++
			}
		}
		if err == nil && len(sums) != lines {
			t.Errorf("%d tokens in %d lines", len(sums), lines)
		}
	})
}
