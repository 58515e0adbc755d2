package adminclient_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roster/cmd/roster/internal/adminclient"
	"roster/node/certs/certstest"
)

func TestURL(t *testing.T) {
	t.Parallel()
	type C = adminclient.Client
	for _, row := range []struct {
		client C
		admin  string
		want   string // begins with !: an error with that in it
	}{
		{C{}, "127.0.0.1:6082", "http://127.0.0.1:6082"},
		{C{}, ":6082", "http://127.0.0.1:6082"},
		{C{}, "0.0.0.0:6082", "http://127.0.0.1:6082"},
		{C{}, "[::]:6082", "http://127.0.0.1:6082"},
		{C{}, "[::1]:6082", "http://[::1]:6082"},
		{C{}, "localhost:6082", "http://localhost:6082"},
		{C{}, "10.0.0.1:6082", "http://10.0.0.1:6082"},
		{C{}, "https://node.test:6082/", "https://node.test:6082"},
		{C{}, "http://10.0.0.1:6082", "http://10.0.0.1:6082"},
		{C{TokenFile: "t"}, "127.0.0.1:6082", "http://127.0.0.1:6082"},
		{C{TokenFile: "t"}, "http://localhost:6082", "http://localhost:6082"},
		{C{TokenFile: "t"}, "10.0.0.1:6082", "https://10.0.0.1:6082"},
		{C{CA: "c"}, "node.test:6082", "https://node.test:6082"},
		{C{CA: "c"}, "127.0.0.1:6082", "https://127.0.0.1:6082"},
		{C{TokenFile: "t"}, "http://10.0.0.1:6082", "!not sent without TLS"},
		{C{TokenFile: "t"}, "http://localhost.evil.test:6082", "!not sent without TLS"},
		{C{}, "6082", "!want HOST:PORT"},
		{C{}, "ftp://a:1", "!want HOST:PORT"},
		{C{}, "http://a:1@b:2", "!want HOST:PORT"},
		{C{}, "https://node.test:6082/v1", "!want HOST:PORT"},
	} {
		u, err := row.client.URL(row.admin)
		want, fails := strings.CutPrefix(row.want, "!")
		switch {
		case fails && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%+v, %s: %v, error %v, want %s", row.client, row.admin, u, err, want)
		case !fails && (err != nil || u.String() != want):
			t.Errorf("%+v, %s: %v, error %v, want %s", row.client, row.admin, u, err, want)
		}
	}
}

func TestATokenIsSentOverTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca := certstest.NewCA(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, r.Method, r.URL, r.Header.Get("Authorization"))
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "localhost").TLS(t)}}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of clients that do not trust it
	server.StartTLS()
	defer server.Close()
	_, port, _ := strings.Cut(server.Listener.Addr().String(), ":")
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens, roots := write("tokens", "# mine\n\n0123456789abcdef-one\n0123456789abcdef-two\n"), write("ca", ca.PEM)
	code, body, err := adminclient.Client{TokenFile: tokens, CA: roots}.Get(t.Context(), "localhost:"+port, "/v1/backends?under=a")
	if err != nil || code != 200 || body != "GET /v1/backends?under=a Bearer 0123456789abcdef-one" {
		t.Errorf("%d %q, error %v", code, body, err)
	}
	for what, c := range map[string]adminclient.Client{
		"unknown authority": {TokenFile: tokens}, "no token in it": {TokenFile: write("none", "#\n"), CA: roots}, "white space": {TokenFile: write("two", "a b\n"), CA: roots},
		"no such file": {TokenFile: tokens, CA: filepath.Join(dir, "gone")}, "no certificate in it": {CA: write("noca", "x")},
		"admin-token-file: open": {TokenFile: filepath.Join(dir, "gone")},
	} {
		if _, _, err := c.Get(t.Context(), "https://localhost:"+port, "/"); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("error %v, want %s", err, what)
		}
	}
}
