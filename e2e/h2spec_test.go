package e2e_test

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// h2Body is what both servers answer, long enough for the cases about windows.
var h2Body = strings.Repeat("roster ", 100)

// TestHTTP2ConformsWhereNetHTTPDoes runs h2spec against the node's TLS listener, with an
// origin behind it, and against a server of package net/http that answers the same: no
// case may fail at the node only. All failures are in the log.
func TestHTTP2ConformsWhereNetHTTPDoes(t *testing.T) {
	t.Parallel()
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, h2Body)
	})
	bare := httptest.NewUnstartedServer(handler)
	bare.EnableHTTP2 = true
	bare.Config.ErrorLog = log.New(io.Discard, "", 0)
	bare.StartTLS()
	defer bare.Close()
	origin := httptest.NewServer(handler)
	defer origin.Close()

	node, secure := startSecure(t)
	node.WaitRevision(node.Put(webKey, fmt.Sprintf(`{"host":%q}`, origin.Listener.Addr())))

	passes := map[string]bool{}
	for _, c := range harness.H2spec(t, bare.Listener.Addr().String(), 2) {
		passes[c.ID] = c.Err == ""
		if c.Err != "" {
			t.Logf("net/http: %s %s: %s", c.ID, c.Desc, c.Err)
		}
	}
	all := harness.H2spec(t, secure, 2)
	failures := 0
	for _, c := range all {
		if c.Err == "" {
			continue
		}
		failures++
		t.Logf("the node: %s %s: %s", c.ID, c.Desc, c.Err)
		if !passes[c.ID] {
			continue
		}
		// On a busy machine an answer may be too late: once more, alone and with time.
		for _, again := range harness.H2spec(t, secure, 10, c.ID) {
			if again.Err != "" {
				t.Errorf("%s fails, and does not with net/http: %s: %s", c.ID, c.Desc, again.Err)
			}
		}
	}
	if len(all) < 100 || len(passes) != len(all) {
		t.Errorf("%d cases with the node and %d with net/http, want the same ones, and 100 or more", len(all), len(passes))
	}
	t.Logf("%d of %d cases fail", failures, len(all))
}

// issueFiles is issue in files of a folder.
func (i *issuer) issueFiles(dir string, hosts ...string) (cert, key string) {
	i.t.Helper()
	c, k := i.issue(x509.Certificate{}, hosts...)
	cert, key = filepath.Join(dir, hosts[0]+".pem"), filepath.Join(dir, hosts[0]+".key")
	for path, text := range map[string]string{cert: c, key: k} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			i.t.Fatal(err)
		}
	}
	return cert, key
}
