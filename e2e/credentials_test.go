package e2e_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// startTLSEtcd starts an etcd that shows a certificate and wants clients to have one of a CA.
// It returns its port.
func startTLSEtcd(t *testing.T, ca *certstest.CA, shows certstest.Pair, args ...string) (port string) {
	t.Helper()
	address, peer, dir := harness.FreeAddress(t), harness.FreeAddress(t), t.TempDir()
	_, port, _ = net.SplitHostPort(address)
	cert, key := shows.Write(t, dir, "server")
	own, ownKey := ca.IssueUser(t, "own").Write(t, dir, "own")
	trusted := filepath.Join(dir, "ca.pem")
	certstest.WriteFile(t, trusted, ca.PEM)
	harness.StartProcess(t, "etcd", harness.EtcdBinary(t), append([]string{
		"--name=tls", "--data-dir=" + filepath.Join(dir, "data"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=https://" + address, "--advertise-client-urls=https://localhost:" + port,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer, "--initial-cluster=tls=http://" + peer,
		"--client-cert-auth", "--trusted-ca-file=" + trusted, "--cert-file=" + cert, "--key-file=" + key,
	}, args...), nil)
	harness.Until(t, "etcd to answer", func() (bool, any) {
		r := harness.Run(t, "", nil, harness.Etcdctl(t), "--endpoints=https://"+address, "--insecure-skip-tls-verify", "--cert="+own, "--key="+ownKey, "endpoint", "health")
		return r.Code == 0, r
	})
	return port
}

// Whatever is wrong with the certificates, files, users and passwords that stand between us
// and etcd: commands and nodes say which it is, of which file, and what to do.
func TestWrongCredentialsForEtcdAreNamed(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	ours, theirs := s.ca, certstest.NewCA(t)
	past := time.Now().Add(-time.Hour)
	_, port, _ := net.SplitHostPort(s.address)
	expired := startTLSEtcd(t, ours, ours.IssueUntil(t, past, "localhost"))
	misnamed := startTLSEtcd(t, ours, ours.Issue(t, "etcd.test"))
	old := startTLSEtcd(t, ours, ours.Issue(t, "localhost"), "--tls-max-version=TLS1.2")
	plain := harness.StartEtcd(t).Endpoints()

	write := func(name, text string) string {
		certstest.WriteFile(t, s.file(name), text)
		return s.file(name)
	}
	theirCA, noPEM, missing := write("theirs.pem", theirs.PEM), write("none.pem", "?"), s.file("missing")
	stranger, _ := theirs.IssueUser(t, "stranger").Write(t, s.dir, "stranger")
	ended, _ := ours.IssueUntil(t, past).Write(t, s.dir, "ended")
	wrong, empty := write("wrong.password", "wrong\n"), write("empty.password", "\n")
	at := func(port string) string { return "localhost:" + port + " (127.0.0.1:" + port + ")" }
	with := func(ca, cert, key string, more ...string) []string {
		return append([]string{"--etcd-ca", ca, "--etcd-cert", cert, "--etcd-key", key}, more...)
	}
	ca, cert, key := s.file("ca.pem"), s.file("ops.pem"), s.file("ops.key")
	as := func(name string, more ...string) []string {
		return with(ca, s.file(name+".pem"), s.file(name+".key"), more...)
	}
	const shown = `the server certificate "test" (issued by "CA of a test") of etcd at `
	const refused = " refuses the client certificate "

	for _, c := range []struct {
		name  string
		etcd  string
		flags []string
		code  int
		says  []string
	}{
		{"a CA that did not sign etcd's certificate", "localhost:" + port, with(theirCA, cert, key), 5,
			[]string{shown + at(port) + " is refused", "signed by unknown authority", "verified with the CA file " + theirCA, "--etcd-ca has to name a file with the CA that issued it"}},
		{"no CA", "localhost:" + port, []string{"--etcd-cert", cert, "--etcd-key", key}, 5,
			[]string{shown + at(port) + " is refused", "signed by unknown authority", "verified with the CAs of the system", "--etcd-ca has to name"}},
		{"an expired server certificate", "localhost:" + expired, as("ops"), 5,
			[]string{shown + at(expired) + " is refused", "expired", "is after", "etcd needs a new one"}},
		{"a server certificate for another name", "localhost:" + misnamed, as("ops"), 5,
			[]string{shown + at(misnamed) + " is refused", "valid for etcd.test, not localhost", "--etcd has to have a name that the certificate is for"}},
		{"an address that is not in the server certificate", "127.0.0.1:" + port, as("ops"), 5,
			[]string{shown + "127.0.0.1:" + port + " is refused", "cannot validate certificate for 127.0.0.1", "--etcd has to have a name that the certificate is for"}},
		{"a client certificate of an unknown CA", "localhost:" + port, as("stranger"), 5,
			[]string{"etcd at " + at(port) + refused + `"stranger" (issued by "CA of a test") of ` + stranger, "unknown certificate authority", "it has to be of a CA that etcd trusts"}},
		{"a client certificate of an unknown CA, TLS 1.2", "localhost:" + old, as("stranger"), 5,
			[]string{"etcd at " + at(old) + refused + `"stranger"`, stranger, "unknown certificate authority", "it has to be of a CA that etcd trusts"}},
		{"an expired client certificate", "localhost:" + port, as("ended"), 5,
			[]string{"etcd at " + at(port) + refused + `"test"`, ended + ", it ended at " + past.UTC().Format("2006-01-02T15:04:"), "expired certificate", "put a new one in that file"}},
		{"an expired client certificate, TLS 1.2", "localhost:" + old, as("ended"), 5,
			[]string{"etcd at " + at(old) + refused + `"test"`, ended + ", it ended at ", "expired certificate", "put a new one in that file"}},
		{"no client certificate", "localhost:" + port, []string{"--etcd-ca", ca}, 5,
			[]string{"etcd at " + at(port) + " wants a client certificate, and none is given", "certificate required", "--etcd-cert and --etcd-key name one"}},
		{"no client certificate, TLS 1.2", "localhost:" + old, []string{"--etcd-ca", ca}, 5,
			[]string{"etcd at " + at(old) + " wants a client certificate, and none is given", "handshake failure", "--etcd-cert and --etcd-key name one"}},
		{"http where TLS is spoken", "localhost:" + port, nil, 5,
			[]string{"the connection to http://localhost:" + port + " ends at once: ", "if that etcd wants TLS, --etcd-ca or https:// turn it on"}},
		{"TLS where http is spoken", plain, as("ops"), 5,
			[]string{"TLS with " + plain + ": EOF", "if that etcd speaks no TLS, leave out --etcd-ca"}},
		{"a wrong password", "localhost:" + port, as("nobody", "--etcd-user", "ann", "--etcd-password-file", wrong), 1,
			[]string{"authentication failed, invalid user ID or password (user ann, the password of " + wrong + ")"}},
		{"a wrong user", "localhost:" + port, as("nobody", "--etcd-user", "bob", "--etcd-password-file", wrong), 1,
			[]string{"authentication failed, invalid user ID or password (user bob, the password of " + wrong + ")"}},
		{"a certificate of no user", "localhost:" + port, as("nobody"), 1,
			[]string{"permission denied (user nobody, by the client certificate " + s.file("nobody.pem") + ")"}},

		// What is wrong by itself.
		{"a key of another certificate", "localhost:" + port, with(ca, cert, s.file("ann.key")), 2,
			[]string{"client certificate for etcd: ", "private key does not match public key", "certificate " + cert + ", key " + s.file("ann.key")}},
		{"a key in place of the certificate", "localhost:" + port, with(ca, key, cert), 2,
			[]string{"client certificate for etcd: ", "PEM inputs may have been switched", "certificate " + key + ", key " + cert}},
		{"no PEM in the CA", "localhost:" + port, with(noPEM, cert, key), 2, []string{"etcd CA: no certificate in " + noPEM + ", want some in PEM"}},
		{"a key in place of the CA", "localhost:" + port, with(key, cert, key), 2, []string{"etcd CA: no certificate in " + key + ", want some in PEM"}},
		{"no PEM in the certificate", "localhost:" + port, with(ca, noPEM, key), 2, []string{"client certificate for etcd: ", "PEM data in certificate input", "certificate " + noPEM}},
		{"no PEM in the key", "localhost:" + port, with(ca, cert, noPEM), 2, []string{"client certificate for etcd: ", "PEM data in key input", "key " + noPEM}},
		{"no file of the CA", "localhost:" + port, with(missing, cert, key), 2, []string{"etcd CA: open " + missing + ": "}},
		{"no file of the certificate", "localhost:" + port, with(ca, missing, key), 2, []string{"client certificate for etcd: open " + missing + ": "}},
		{"no file of the key", "localhost:" + port, with(ca, cert, missing), 2, []string{"client certificate for etcd: open " + missing + ": "}},
		{"a certificate without a key", "localhost:" + port, []string{"--etcd-ca", ca, "--etcd-cert", cert}, 2, []string{"--etcd-cert " + cert + " needs an --etcd-key"}},
		{"a key without a certificate", "localhost:" + port, []string{"--etcd-ca", ca, "--etcd-key", key}, 2, []string{"--etcd-key " + key + " needs an --etcd-cert"}},
		{"http:// with files for TLS", "http://localhost:" + port, as("ops"), 2, []string{`endpoint "http://localhost:` + port + `": it is not https, but files for TLS are given`}},
		{"no password in the file", "localhost:" + port, as("nobody", "--etcd-user", "ann", "--etcd-password-file", empty), 2, []string{"etcd password: file " + empty + " is empty"}},
		{"no file of the password", "localhost:" + port, as("nobody", "--etcd-user", "ann", "--etcd-password-file", missing), 2, []string{"etcd password: open " + missing + ": "}},
		{"a user without a password", "localhost:" + port, as("nobody", "--etcd-user", "ann"), 2, []string{"etcd user ann without a password"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			node := harness.NewNode(t, harness.NodeConfig{Etcd: c.etcd, ID: "n", Args: c.flags})
			node.Start()
			for _, command := range [][]string{{"get", "backends"}, {"put", "backend", "team-a/web", "host=10.0.0.7"}} {
				r := harness.CLI(t, append(append(command, "--etcd", c.etcd), c.flags...)...)
				if missing := without(r.Stderr, c.says); r.Code != c.code || r.Stdout != "" || missing != "" {
					t.Errorf("%s: %v\nwant code %d and %q", command[0], r, c.code, missing)
				}
				if strings.Contains(r.Stderr, "is etcd running") {
					t.Errorf("it asks whether etcd is running, which is not what is wrong: %s", r.Stderr)
				}
			}
			if c.code == 2 { // it is of no use to wait
				if code, missing := node.Wait(), without(node.Log(), c.says); code != 2 || missing != "" {
					t.Errorf("a node ends with code %d, want 2 and %q:\n%s", code, missing, node.Log())
				}
				return
			}
			// A node waits until that is mended, and says so.
			status := node.WaitStatus("what is wrong", func(st harness.Status) bool { return without(st.Etcd.Error, c.says) == "" })
			if status.Etcd.Connected || status.Ready {
				t.Errorf("status %+v", status)
			}
			harness.Until(t, "the log to say it", func() (bool, any) {
				return without(strings.ReplaceAll(node.Log(), `\"`, `"`), c.says) == "", node.Log()
			})
		})
	}
}

// without is the first of some parts that a text does not have; empty: it has all.
func without(text string, parts []string) string {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return part
		}
	}
	return ""
}

// A node whose CA file goes wrong while it runs serves on, says what it refuses once it has to
// connect again, and goes on when the file is mended: it is not started again.
func TestACertificateThatIsRefusedWhileANodeRuns(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	trusted := s.file("trusted.pem")
	certstest.WriteFile(t, trusted, s.ca.PEM)
	node := harness.StartNode(t, harness.NodeConfig{Etcd: s.address, ID: "n1", Args: []string{
		"--etcd-ca", trusted, "--etcd-cert", s.file("node.pem"), "--etcd-key", s.file("node.key")}})
	web := harness.StartOrigin(t, "web")
	s.roster("ops", 0, "", "put", "backend", "web", web.Definition(), "--wait")

	certstest.WriteFile(t, trusted, certstest.NewCA(t).PEM)
	s.restart()
	status := node.WaitStatus("the refusal", func(st harness.Status) bool {
		return strings.Contains(st.Etcd.Error, "the server certificate") && strings.Contains(st.Etcd.Error, "verified with the CA file "+trusted)
	})
	if status.Etcd.Connected || !status.Ready {
		t.Errorf("status %+v", status)
	}
	if a := node.Get("/"); a.Origin != "web" {
		t.Errorf("without etcd it answers %v", a)
	}
	certstest.WriteFile(t, trusted, s.ca.PEM)
	node.WaitStatus("etcd", func(st harness.Status) bool { return st.Etcd.Connected })
	s.put()
}
