package e2e_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// visit sends a GET for https://host/ to a listener, on a connection of its own, and
// returns the answer with its body read.
func visit(address, host string, c *tls.Config, http2 bool) (*http.Response, error) {
	client := visitor(address, c, http2)
	defer client.CloseIdleConnections()
	return ask(client, host)
}

// visitor connects to address whatever the URL says. For no host at all, it says none
// in the TLS handshake.
func visitor(address string, c *tls.Config, http2 bool) *http.Client {
	transport := &http.Transport{
		TLSClientConfig:   c,
		ForceAttemptHTTP2: http2,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		},
	}
	return &http.Client{Transport: transport, Timeout: harness.WaitLimit}
}

func ask(client *http.Client, host string) (*http.Response, error) {
	resp, err := client.Get("https://" + host + "/")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp, err
}

// shown is the serial number of the certificate that a client gets who asks for that
// host and believes anything; 0 for the alert unrecognized_name.
func shown(t *testing.T, address, host string) int64 {
	t.Helper()
	resp, err := visit(address, host, &tls.Config{InsecureSkipVerify: true}, false)
	if err != nil && strings.Contains(err.Error(), "unrecognized name") {
		return 0
	}
	if err != nil {
		t.Fatalf("%s: %v", host, err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Origin") != "web" {
		t.Errorf("%s: status %d of %q", host, resp.StatusCode, resp.Header.Get("X-Origin"))
	}
	return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
}

func waitShown(t *testing.T, address, host string, want *big.Int) {
	t.Helper()
	harness.Until(t, fmt.Sprintf("certificate %v for %s", want, host), func() (bool, any) {
		got := shown(t, address, host)
		return got == want.Int64(), got
	})
}

// tlsNode is a node with a listener with TLS and one origin, "web".
func tlsNode(t *testing.T, args ...string) (node *harness.Node, address string, web *harness.Origin) {
	t.Helper()
	address = harness.FreeAddress(t)
	node = harness.StartNode(t, harness.NodeConfig{Args: append([]string{"--listen", "tls://" + address}, args...)})
	web = harness.StartOrigin(t, "web")
	node.WaitRevision(node.Put(webKey, web.Definition()))
	return node, address, web
}

// definition is a certificate as a key's value.
func definition(t *testing.T, p certstest.Pair, hosts ...string) string {
	t.Helper()
	value := map[string]any{"cert": p.Cert, "key": p.Key}
	if len(hosts) > 0 {
		value["hosts"] = hosts
	}
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTLSVersionsAndALPN(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "www.test").Write(t, t.TempDir(), "www")
	node, address, web := tlsNode(t, "--tls-cert", cert, "--tls-key", key)
	for _, test := range []struct {
		name     string
		min, max uint16
		http2    bool
		version  uint16
		proto    string
	}{
		{name: "TLS 1.3, HTTP/2", http2: true, version: tls.VersionTLS13, proto: "HTTP/2.0"},
		{name: "TLS 1.3, HTTP/1.1", version: tls.VersionTLS13, proto: "HTTP/1.1"},
		{name: "TLS 1.2, HTTP/2", max: tls.VersionTLS12, http2: true, version: tls.VersionTLS12, proto: "HTTP/2.0"},
		{name: "TLS 1.2, HTTP/1.1", max: tls.VersionTLS12, version: tls.VersionTLS12, proto: "HTTP/1.1"},
	} {
		resp, err := visit(address, "www.test", &tls.Config{RootCAs: ca.Pool(), MinVersion: test.min, MaxVersion: test.max}, test.http2)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if resp.StatusCode != http.StatusOK || resp.TLS.Version != test.version || resp.Proto != test.proto {
			t.Errorf("%s: status %d, %s, %s", test.name, resp.StatusCode, tls.VersionName(resp.TLS.Version), resp.Proto)
		}
		if got := web.Last().Header.Get("X-Forwarded-Proto"); got != "https" {
			t.Errorf("%s: X-Forwarded-Proto %q, want https", test.name, got)
		}
	}
	if _, err := visit(address, "www.test", &tls.Config{RootCAs: ca.Pool(), MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, false); err == nil {
		t.Error("TLS 1.1 was spoken")
	}
	if ok, failed := node.Metric(`roster_tls_handshakes_total{result="ok"`), node.Metric(`roster_tls_handshakes_total{result="failed"`); ok != 4 || failed != 1 {
		t.Errorf("metrics: %v handshakes succeeded, %v failed, want 4 and 1", ok, failed)
	}
	if n := node.Metric("roster_client_connections_http2_total"); n != 2 {
		t.Errorf("metrics: %v connections with HTTP/2, want 2", n)
	}
}

func TestTLSSessionsAreResumed(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "www.test").Write(t, t.TempDir(), "www")
	_, address, _ := tlsNode(t, "--tls-cert", cert, "--tls-key", key)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := &tls.Config{RootCAs: ca.Pool(), MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(1)}
		for i := range 2 {
			resp, err := visit(address, "www.test", c, false)
			if err != nil || resp.TLS.DidResume != (i == 1) {
				t.Errorf("%s, connection %d: %+v, %v", tls.VersionName(version), i, resp, err)
			}
		}
	}
}

// Which certificate a client gets, of two files and two definitions.
func TestTLSServerNames(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	first, second := ca.Issue(t, "first.test"), ca.Issue(t, "second.test", "*.second.test")
	cert1, key1 := first.Write(t, dir, "1")
	cert2, key2 := second.Write(t, dir, "2")
	node, address, _ := tlsNode(t, "--tls-cert", cert1, "--tls-key", key1, "--tls-cert", cert2, "--tls-key", key2)
	exact, wild := ca.Issue(t, "a.third.test"), ca.Issue(t)
	node.Put("/roster/certificates/exact", definition(t, exact))
	node.WaitRevision(node.Put("/roster/certificates/wild", definition(t, wild, "*.third.test", "x.second.test")))
	for host, want := range map[string]*big.Int{
		"first.test":     first.Serial,
		"second.test":    second.Serial,
		"a.second.test":  second.Serial,
		"x.second.test":  wild.Serial,
		"a.third.test":   exact.Serial,
		"A.Third.TEST":   exact.Serial,
		"b.third.test":   wild.Serial,
		"a.b.third.test": first.Serial,
		"unknown.test":   first.Serial,
		"127.0.0.1":      first.Serial, // no server name
	} {
		if got := shown(t, address, host); got != want.Int64() {
			t.Errorf("%s got certificate %d, want %v", host, got, want)
		}
	}
	if got := strings.Count(node.AdminGet("/metrics").Body, "\nroster_certificate_expiry_timestamp_seconds{"); got != 4 {
		t.Errorf("metrics: the ends of %d certificates, want 4", got)
	}
	for _, p := range []certstest.Pair{exact, wild} {
		secret := strings.Split(p.Key, "\n")[1]
		for _, path := range []string{"/v1/status", "/metrics", "/v1/backends"} {
			if strings.Contains(node.AdminGet(path).Body, secret) {
				t.Errorf("%s shows a key", path)
			}
		}
		if strings.Contains(node.Log(), secret) {
			t.Error("the log shows a key")
		}
	}
}

func TestTLSFilesAreLoadedWhenTheyChange(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	one, two, three := ca.Issue(t, "www.test"), ca.Issue(t, "www.test"), ca.Issue(t, "www.test")
	cert, key := one.Write(t, dir, "www")
	node, address, _ := tlsNode(t, "--tls-cert", cert, "--tls-key", key)
	waitShown(t, address, "www.test", one.Serial)
	two.Write(t, dir, "www")
	waitShown(t, address, "www.test", two.Serial)

	certstest.WriteFile(t, cert, "-----BEGIN CERTIFICATE-----\nnonsense\n")
	harness.Until(t, "the fault to be counted", func() (bool, any) {
		n := node.Metric("roster_certificate_reload_failures_total")
		return n == 1, n
	})
	if got := shown(t, address, "www.test"); got != two.Serial.Int64() {
		t.Errorf("with a bad file: certificate %d, want %v", got, two.Serial)
	}
	if n := node.Metric("roster_certificate_files_stale"); n != 1 {
		t.Errorf("metrics: %v stale files, want 1", n)
	}
	if n := strings.Count(node.Log(), "cannot be used"); n != 1 {
		t.Errorf("the log says %d times that the file cannot be used, want once", n)
	}
	three.Write(t, dir, "www")
	waitShown(t, address, "www.test", three.Serial)
}

// While a definition comes, changes and goes, no request on a connection that is open
// fails, and new connections see it at once, on every node.
func TestTLSDefinitionsChangeWithoutADroppedConnection(t *testing.T) {
	t.Parallel()
	ca, etcd, web := certstest.NewCA(t), harness.StartEtcd(t), harness.StartOrigin(t, "web")
	const number = 6
	var nodes [2]*harness.Node
	var addresses [2]string
	for i := range nodes {
		addresses[i] = harness.FreeAddress(t)
		nodes[i] = harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{"--listen", "tls://" + addresses[i]}})
		harness.Until(t, "the log to say that there are no certificates", func() (bool, any) {
			return strings.Contains(nodes[i].Log(), "no certificates yet"), nodes[i].Log()
		})
	}
	applied := func(revision int64, want *big.Int) {
		t.Helper()
		for i, node := range nodes {
			node.WaitRevision(revision)
			if got := shown(t, addresses[i], "www.test"); got != want.Int64() {
				t.Errorf("certificate %d, want %v", got, want)
			}
		}
	}
	applied(etcd.Put(webKey, web.Definition()), new(big.Int))
	const key = "/roster/certificates/www"
	put := func(p certstest.Pair) {
		t.Helper()
		applied(etcd.Put(key, definition(t, p)), p.Serial)
	}
	put(ca.Issue(t, "www.test", "other.test"))

	var requests, handshakes atomic.Int64
	var clients sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer clients.Wait()
	defer cancel()
	for i := range number {
		clients.Go(func() {
			c := &tls.Config{RootCAs: ca.Pool(), VerifyConnection: func(tls.ConnectionState) error { handshakes.Add(1); return nil }}
			client := visitor(addresses[i%2], c, i < number/2)
			defer client.CloseIdleConnections()
			for ctx.Err() == nil {
				if resp, err := ask(client, "www.test"); err != nil || resp.StatusCode != http.StatusOK {
					t.Errorf("a request: %+v, %v", resp, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	more := func() {
		t.Helper()
		before := requests.Load()
		harness.Until(t, "requests", func() (bool, any) {
			n := requests.Load() - before
			return n >= 10*number, n
		})
	}
	more()
	for range 10 {
		put(ca.Issue(t, "www.test"))
	}
	more()
	last := ca.Issue(t, "www.test")
	put(last)
	applied(etcd.Put(key, `{"cert": "x"}`), last.Serial) // invalid, and changes nothing
	etcd.Ctl("del", key)
	for _, address := range addresses {
		waitShown(t, address, "www.test", new(big.Int))
	}
	more()
	put(ca.Issue(t, "www.test"))
	more()
	cancel()
	clients.Wait()
	if n := handshakes.Load(); n != number {
		t.Errorf("%d handshakes of %d clients: connections were dropped", n, number)
	}
	t.Logf("%d requests on %d connections", requests.Load(), handshakes.Load())
}

func TestTLSClientCA(t *testing.T) {
	t.Parallel()
	ca, other, dir := certstest.NewCA(t), certstest.NewCA(t), t.TempDir()
	cert, key := ca.Issue(t, "www.test").Write(t, dir, "www")
	authority := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, authority, ca.PEM)
	_, address, web := tlsNode(t, "--tls-cert", cert, "--tls-key", key, "--tls-client-ca", authority)
	try := func(signer *certstest.CA) error {
		c := &tls.Config{RootCAs: ca.Pool()}
		if signer != nil {
			pair := signer.Issue(t).TLS(t)
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		resp, err := visit(address, "www.test", c, true)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("status %d", resp.StatusCode)
		}
		return err
	}
	for name, signer := range map[string]*certstest.CA{"no certificate": nil, "a certificate of another CA": other} {
		if err := try(signer); err == nil {
			t.Errorf("%s: served", name)
		}
	}
	if n := web.Requests(); n != 0 {
		t.Errorf("%d requests of refused clients reached the origin", n)
	}
	if err := try(ca); err != nil {
		t.Errorf("a good certificate: %v", err)
	}
	certstest.WriteFile(t, authority, other.PEM)
	harness.Until(t, "the new CA", func() (bool, any) { return try(other) == nil, "refused" })
	if err := try(ca); err == nil {
		t.Error("a certificate of the CA before: served")
	}
}

// A node has listeners of each kind at once.
func TestListenersOfAllKindsSideBySide(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	cert, key := ca.Issue(t, "www.test").Write(t, dir, "www")
	second, socket := harness.FreeAddress(t), filepath.Join(dir, "s")
	node, address, web := tlsNode(t, "--tls-cert", cert, "--tls-key", key, "--listen", "tls://"+second, "--listen", "unix://"+socket)
	for _, a := range []string{address, second} {
		if resp, err := visit(a, "www.test", &tls.Config{RootCAs: ca.Pool()}, true); err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("tls://%s: %+v, %v", a, resp, err)
		}
	}
	if got := node.Get("/"); got.Origin != "web" {
		t.Errorf("plain: %v", got)
	}
	if got := web.Last().Header.Get("X-Forwarded-Proto"); got != "http" {
		t.Errorf("plain: X-Forwarded-Proto %q, want http", got)
	}
	w := harness.Dial(t, "unix", socket)
	w.Send("GET / HTTP/1.1\r\nHost: www.test\r\n\r\n")
	if m := w.Response(); m.Status() != 200 {
		t.Errorf("unix: %v", m)
	}
	// HTTP where TLS is expected, and the reverse, is served to nobody.
	before := web.Requests()
	if resp, err := visit(node.Address(), "www.test", &tls.Config{RootCAs: ca.Pool()}, false); err == nil {
		t.Errorf("TLS at the plain listener: %+v", resp)
	}
	plain := harness.Dial(t, "tcp", address)
	plain.Send("GET / HTTP/1.1\r\nHost: www.test\r\n\r\n")
	if _, err := plain.End(); err != nil {
		t.Logf("HTTP at a listener with TLS ends in %v", err)
	}
	if n := web.Requests(); n != before {
		t.Errorf("%d requests reached the origin", n-before)
	}
}
