package store_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"roster/store"
	"roster/store/embedded"
	"roster/store/storetest"
)

// authority is a certificate authority whose files are in a directory.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	CA   string // file
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, dir: t.TempDir()}
	a.CA, _ = a.issue("ca", nil)
	return a
}

// issue writes NAME.pem and NAME-key.pem. Without names it is the authority's
// own certificate.
func (a *authority) issue(name string, hosts []string) (cert, key string) {
	a.t.Helper()
	return a.issueUntil(name, hosts, time.Now().Add(time.Hour))
}

func (a *authority) issueUntil(name string, hosts []string, end time.Time) (cert, key string) {
	a.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage |= x509.KeyUsageCertSign
		template.ExtKeyUsage = nil
		parent, signer = template, private
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &private.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		a.key = private
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		a.t.Fatal(err)
	}
	write := func(file, kind string, der []byte) string {
		path := filepath.Join(a.dir, file)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			a.t.Fatal(err)
		}
		return path
	}
	return write(name+".pem", "CERTIFICATE", der), write(name+"-key.pem", "PRIVATE KEY", keyDER)
}

func copyFile(t *testing.T, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ours.issue("server", []string{"127.0.0.1"})
	clientCert, clientKey := ours.issue("client", nil)
	strangerCert, strangerKey := theirs.issue("stranger", nil)
	oldCert, oldKey := ours.issueUntil("old", nil, time.Now().Add(-time.Minute))
	server, err := embedded.Start(t.Context(), embedded.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", CertFile: serverCert, KeyFile: serverKey, ClientCAFile: ours.CA, Tune: storetest.Fast,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	address := strings.TrimPrefix(server.Endpoint(), "https://")
	_, port, _ := net.SplitHostPort(address)

	for _, test := range []struct {
		name string
		cfg  store.Config
		want string // of the error; "" is none
	}{
		{"all as it should be", store.Config{Endpoints: []string{address}, CA: ours.CA, Cert: clientCert, KeyFile: clientKey}, ""},
		{"wrong CA", store.Config{Endpoints: []string{address}, CA: theirs.CA, Cert: clientCert, KeyFile: clientKey},
			`the server certificate "server" (issued by "ca") of etcd at ` + address + " is refused: x509: certificate signed by unknown authority"},
		{"wrong CA, whose file is named", store.Config{Endpoints: []string{address}, CA: theirs.CA, Cert: clientCert, KeyFile: clientKey}, "(verified with the CA file " + theirs.CA + ")"},
		{"system's CAs", store.Config{Endpoints: []string{"https://" + address}}, "(verified with the CAs of the system)"},
		{"wrong name", store.Config{Endpoints: []string{"localhost:" + port}, CA: ours.CA, Cert: clientCert, KeyFile: clientKey},
			`the server certificate "server" (issued by "ca") of etcd at localhost:` + port + " (" + address + ") is refused: x509: certificate is not valid for any names, but wanted to match localhost"},
		{"no client certificate", store.Config{Endpoints: []string{address}, CA: ours.CA},
			"etcd at " + address + " wants a client certificate, and none is given: remote error: tls: certificate required"},
		{"a stranger's certificate", store.Config{Endpoints: []string{address}, CA: ours.CA, Cert: strangerCert, KeyFile: strangerKey},
			"etcd at " + address + ` refuses the client certificate "stranger" (issued by "ca") of ` + strangerCert + ": remote error: tls: unknown certificate authority"},
		{"an expired certificate", store.Config{Endpoints: []string{address}, CA: ours.CA, Cert: oldCert, KeyFile: oldKey},
			"etcd at " + address + ` refuses the client certificate "old" (issued by "ca") of ` + oldCert + ", it ended at "},
		{"an expired certificate, in etcd's words", store.Config{Endpoints: []string{address}, CA: ours.CA, Cert: oldCert, KeyFile: oldKey}, "remote error: tls: expired certificate"},
		{"no TLS", store.Config{Endpoints: []string{address}}, "etcd does not answer: "},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.cfg.RequestTimeout = 5 * time.Second
			if test.want != "" {
				test.cfg.RequestTimeout = time.Second
			}
			s := storetest.Open(t, test.cfg)
			_, err := s.Put(t.Context(), web1, []byte("x"), store.AnyRevision)
			switch {
			case test.want == "" && err != nil:
				t.Error(err)
			case test.want != "" && (!errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) || !strings.Contains(err.Error(), test.want)):
				t.Errorf("%v, want ErrUnavailable: %s", err, test.want)
			}
		})
	}
}

func TestTLSFilesAreReadAgainForEachConnection(t *testing.T) {
	t.Parallel()
	ours, theirs := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ours.issue("server", []string{"127.0.0.1"})
	server, err := embedded.Start(t.Context(), embedded.Config{
		Dir: t.TempDir(), Listen: "127.0.0.1:0", CertFile: serverCert, KeyFile: serverKey, ClientCAFile: ours.CA, Tune: storetest.Fast,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()

	// A client that starts with all the wrong files.
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	strangerCert, strangerKey := theirs.issue("stranger", nil)
	copyFile(t, ca, theirs.CA)
	copyFile(t, cert, strangerCert)
	copyFile(t, key, strangerKey)
	s := storetest.Open(t, store.Config{Endpoints: []string{server.Endpoint()}, CA: ca, Cert: cert, KeyFile: key, RequestTimeout: 500 * time.Millisecond})
	if _, _, err := s.Get(t.Context(), web1, 0); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("with the wrong files: %v", err)
	}
	clientCert, clientKey := ours.issue("client", nil)
	copyFile(t, ca, ours.CA)
	copyFile(t, cert, clientCert)
	copyFile(t, key, clientKey)
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, _, err := s.Get(t.Context(), web1, 0)
		if errors.Is(err, store.ErrNotFound) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("with the right files: %v", err)
		}
	}
}

// enableAuth makes root, and a user team-a who may write under backends/team-a.
func enableAuth(t *testing.T, c *clientv3.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	must := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.UserAdd(ctx, "root", "secret"))
	must(c.UserGrantRole(ctx, "root", "root"))
	must(c.RoleAdd(ctx, "team-a"))
	must(c.RoleGrantPermission(ctx, "team-a", "/roster/backends/team-a/", "/roster/backends/team-a0", clientv3.PermissionType(clientv3.PermReadWrite)))
	must(c.UserAdd(ctx, "team-a", "a's secret"))
	must(c.UserGrantRole(ctx, "team-a", "team-a"))
	must(c.AuthEnable(ctx))
}

func TestUserAndPassword(t *testing.T) {
	t.Parallel()
	m := storetest.Etcd(t, func(ec *embed.Config) { ec.BcryptCost = 4 })
	password := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(password, []byte("a's secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := []string{m.Endpoint()}
	own := store.Key{Kind: store.Backends, Name: "team-a/web-1"}
	a := storetest.Open(t, store.Config{Endpoints: at, User: "team-a", PasswordFile: password})
	put(t, a, web1, "x") // with authentication off a user does no harm
	enableAuth(t, m.Client())

	first := put(t, a, own, "1")
	if _, err := a.Put(t.Context(), own, []byte("2"), first); err != nil {
		t.Errorf("compare and swap of an own key: %v", err)
	}
	expect := func(what string, err error, want string) {
		t.Helper()
		if !errors.Is(err, store.ErrDenied) || errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want ErrDenied: %s", what, err, want)
		}
	}
	_, err := a.Put(t.Context(), web1, []byte("x"), store.AnyRevision)
	expect("another team's key", err, "store: put backends/web-1: etcd denies it: etcdserver: permission denied")
	_, _, err = a.List(t.Context(), "", "", 0)
	expect("list of all", err, "permission denied")
	_, _, err = storetest.Open(t, store.Config{Endpoints: at, User: "team-a", Password: "wrong"}).Get(t.Context(), own, 0)
	expect("wrong password", err, "authentication failed, invalid user ID or password")
	_, _, err = storetest.Open(t, store.Config{Endpoints: at}).Get(t.Context(), own, 0)
	expect("no user", err, "it wants a user and a password")
	_, err = storetest.Open(t, store.Config{Endpoints: at}).Put(t.Context(), own, nil, store.AnyRevision)
	expect("no user, put", err, "it wants a user and a password")

	// Etcd forgets its tokens; the password is good for a new one.
	m.Restart()
	for range 3 {
		put(t, a, own, "3")
	}
	watch := a.Client().Watch(t.Context(), a.Prefix()+own.String(), clientv3.WithRev(first))
	if r := <-watch; r.Err() != nil || len(r.Events) == 0 {
		t.Errorf("watch: %v, %d events", r.Err(), len(r.Events))
	}
}
