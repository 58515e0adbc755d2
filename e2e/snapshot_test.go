package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// A node with --snapshot starts without etcd and serves what it did, with what its guard
// held and what an invalid value did not replace; and goes on with etcd once that is back.
func TestANodeStartsWithoutEtcdFromItsSnapshot(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "snapshot")
	etcd, node, port := startGuard(t, "--guard", "50%", "--snapshot", file, "--snapshot-after", "1s")
	var ops []clientv3.Op
	for i := range 15 {
		ops = append(ops, clientv3.OpDelete(backendsPrefix+web(i)))
	}
	removed := etcd.Txn(append(ops, clientv3.OpPut(backendsPrefix+web(19), `{"prot": 1}`))...)
	before := node.WaitRevision(removed)
	if before.Held == nil || before.Held.Backends != 15 || len(before.Rejected) != 1 || before.Snapshot == nil || before.Snapshot.InUse {
		t.Fatalf("status = %+v", before)
	}

	// It is killed, and etcd too; both with all that was written.
	harness.Until(t, "the snapshot of it", func() (bool, any) {
		s := node.Status().Snapshot
		return s.Revision == removed, s
	})
	node.Kill()
	etcd.Kill()
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v, want a file of mode 0600", info, err)
	}
	node.Restart()
	st := node.Status()
	if !st.Ready || st.Snapshot == nil || !st.Snapshot.InUse || st.Snapshot.Revision != removed || st.Snapshot.AgeMS == nil || st.Etcd.Connected ||
		st.Revision != before.Revision || st.Digest != before.Digest || st.Held == nil || st.Held.Backends != 15 || st.Held.Revision != removed || len(st.Rejected) != 1 {
		t.Fatalf("status = %+v, want what it was: %+v", st, before)
	}
	if n := node.Metric("roster_snapshot_in_use"); n != 1 {
		t.Errorf("the metric says %v, want 1", n)
	}
	if log := node.Log(); !strings.Contains(log, "serving what the snapshot has") {
		t.Errorf("the log does not say it:\n%s", log)
	}
	var all []string
	for i := range 20 {
		all = append(all, web(i))
	}
	answersAll(t, node, all...)

	// Etcd is back, with nothing new: nothing changes but where it is from. What is
	// written then is served, and what was held is released as ever.
	etcd.Start()
	st = node.WaitStatus("etcd", func(st harness.Status) bool { return st.Etcd.Connected && !st.Snapshot.InUse })
	if st.Digest != before.Digest || st.Held == nil || st.Held.Backends != 15 {
		t.Errorf("status = %+v, want what it was: %+v", st, before)
	}
	node.WaitRevision(etcd.Put(backendsPrefix+web(0), echoBackend(port, "again")))
	if r := harness.CLI(t, "--etcd", etcd.Endpoints(), "ack", fmt.Sprint(etcd.Revision())); r.Code != 0 {
		t.Fatal(r)
	}
	node.WaitStatus("release", func(st harness.Status) bool { return st.Held == nil && st.Counts["backends"] == 6 })
	answersAll(t, node, "again", web(15), web(16), web(17), web(18), web(19))

	// Changed while the node was away, it is what etcd says that is served, once it can be
	// asked: the one that is gone is not served for a moment where etcd answers.
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	etcd.Delete(backendsPrefix + web(15))
	node.Restart()
	if st := node.Status(); st.Snapshot.InUse || st.Counts["backends"] != 5 || strings.Contains(node.Log(), "serving what the snapshot has") {
		t.Errorf("status = %+v, want etcd's five, and the snapshot not read:\n%s", st, node.Log())
	}
}

// TLS goes on without etcd: a snapshot has the certificates of etcd, for listeners and to show
// to backends; those of files come from the files, as they are now.
func TestANodeServesTLSFromItsSnapshot(t *testing.T) {
	t.Parallel()
	ca, etcd, dir := certstest.NewCA(t), harness.StartEtcd(t), t.TempDir()
	origin := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Origin", "web")
		w.Header().Set("X-Client", r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	origin.TLS = &tls.Config{Certificates: []tls.Certificate{ca.Issue(t, "origin.test").TLS(t)}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Pool()}
	origin.StartTLS()
	t.Cleanup(origin.Close)

	cert, key := ca.Issue(t, "file.test").Write(t, dir, "file")
	address, file := harness.FreeAddress(t), filepath.Join(dir, "snapshot")
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), Args: []string{
		"--listen", "tls://" + address, "--tls-cert", cert, "--tls-key", key, "--snapshot", file, "--snapshot-after", "500ms"}})
	www, mine := ca.Issue(t, "www.test"), ca.IssueUser(t, "mine")
	backend, err := json.Marshal(map[string]any{"host": origin.Listener.Addr().String(), "tls": map[string]string{"ca": ca.PEM, "server_name": "origin.test", "certificate": "mine"}})
	if err != nil {
		t.Fatal(err)
	}
	revision := etcd.Txn(
		clientv3.OpPut("/roster/certificates/www", definition(t, www)),
		clientv3.OpPut("/roster/certificates/mine", definition(t, mine, "mine.test")), // it has no name of its own
		clientv3.OpPut(webKey, string(backend)))
	node.WaitRevision(revision)
	harness.Until(t, "the snapshot of it", func() (bool, any) {
		s := node.Status().Snapshot
		return s.Revision == revision, s
	})
	node.Kill()
	etcd.Kill()
	renewed := ca.Issue(t, "file.test")
	renewed.Write(t, dir, "file")
	node.Restart()
	if st := node.Status(); !st.Snapshot.InUse || st.Etcd.Connected || len(st.Rejected) != 0 || len(st.Dangling) != 0 {
		t.Fatalf("status = %+v, want what the snapshot has", st)
	}
	for host, want := range map[string]*big.Int{"www.test": www.Serial, "file.test": renewed.Serial} {
		for _, http2 := range []bool{false, true} {
			resp, err := visit(address, host, &tls.Config{RootCAs: ca.Pool()}, http2)
			if err != nil {
				t.Errorf("%s: %v", host, err)
				continue
			}
			if got := resp.TLS.PeerCertificates[0].SerialNumber; got.Cmp(want) != 0 {
				t.Errorf("%s: certificate %v, want %v", host, got, want)
			}
			if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Client") != "mine" {
				t.Errorf("%s: status %d, and the backend was shown %q, want the certificate mine", host, resp.StatusCode, resp.Header.Get("X-Client"))
			}
		}
	}

	// What etcd says once it is back holds for them, too.
	etcd.Start()
	next := ca.Issue(t, "www.test")
	node.WaitRevision(etcd.Put("/roster/certificates/www", definition(t, next)))
	waitShown(t, address, "www.test", next.Serial)
}

// A snapshot that cannot be used is said, and the node is as one without it.
func TestASnapshotThatCannotBeUsedIsSaid(t *testing.T) {
	t.Parallel()
	etcd, port := harness.StartEtcd(t), echo(t)
	revision := etcd.Put(backendsPrefix+"web", echoBackend(port, "web"))
	file := filepath.Join(t.TempDir(), "snapshot")
	node := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "n", Args: []string{"--snapshot", file, "--snapshot-after", "500ms"}})
	node.WaitRevision(revision)
	node.Terminate()
	etcd.Stop()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, want string
		spoil      func() error
	}{
		{"cut short", "its checksum is wrong: it is damaged, or cut short", func() error { return os.WriteFile(file, data[:len(data)-9], 0o600) }},
		{"that others may write", "others than its owner may write it", func() error { os.WriteFile(file, data, 0o600); return os.Chmod(file, 0o666) }},
		{"that is another file", "it is no snapshot of roster", func() error { return os.WriteFile(file, []byte("[Unit]\n"), 0o600) }},
	} {
		if err := tt.spoil(); err != nil {
			t.Fatal(err)
		}
		node.Start()
		harness.Until(t, "what is wrong with a file "+tt.name, func() (bool, any) {
			return strings.Contains(node.Log(), "the snapshot cannot be used") && strings.Contains(node.Log(), tt.want), node.Log()
		})
		if st := node.Status(); st.Ready || st.Snapshot.InUse || st.Revision != 0 {
			t.Errorf("%s: status = %+v, want a node that waits", tt.name, st)
		}
		if tt.name == "that is another file" {
			break
		}
		node.Terminate()
	}
	etcd.Start()
	node.WaitReady()
	answersAll(t, node, "web")
	node.Terminate()
	if data, _ := os.ReadFile(file); string(data) != "[Unit]\n" {
		t.Errorf("the file of somebody else is written over: %q", data)
	}
}

func TestASnapshotIsForNodesOfAFleet(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"the node runs an etcd of its own", []string{"--snapshot", filepath.Join(t.TempDir(), "s")}},
		{"there is no folder", []string{"--etcd", "127.0.0.1:1", "--snapshot", "/nowhere/s"}},
		{"which is no file", []string{"--etcd", "127.0.0.1:1", "--snapshot", t.TempDir()}},
		{"--snapshot-after is 0s", []string{"--etcd", "127.0.0.1:1", "--snapshot-after", "0s"}},
	} {
		if r := harness.CLI(t, append([]string{"node"}, tt.args...)...); r.Code != 2 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%v: %v, want exit code 2 and %q", tt.args, r, tt.want)
		}
	}
}
