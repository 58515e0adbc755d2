// Package certstest makes certificates for tests.
//
//	ca := certstest.NewCA(t)
//	pair := ca.Issue(t, "foo.test", "*.foo.test")
//	cert, key := pair.Write(t, t.TempDir(), "foo")
package certstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// CA signs certificates. Its methods may be called from any goroutine.
type CA struct {
	PEM  string
	cert *x509.Certificate
	key  crypto.Signer
}

// Pair is a certificate with its key.
type Pair struct {
	Cert, Key string   // in PEM
	Serial    *big.Int // no two of a process are the same
}

var serial atomic.Int64

// NewCA makes a CA.
func NewCA(t testing.TB) *CA {
	t.Helper()
	ca := new(CA)
	ca.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: "CA of a test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, ca.key.Public(), ca.key)
	if err == nil {
		ca.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	ca.PEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return ca
}

// Pool is the CA alone, to verify with.
func (ca *CA) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(ca.cert)
	return p
}

// Issue makes an ECDSA certificate for servers and clients, good for a day.
func (ca *CA) Issue(t testing.TB, hosts ...string) Pair {
	t.Helper()
	return ca.sign(t, newKey(t), time.Now().Add(24*time.Hour), hosts)
}

// IssueRSA makes one with an RSA key.
func (ca *CA) IssueRSA(t testing.TB, hosts ...string) Pair {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return ca.sign(t, key, time.Now().Add(24*time.Hour), hosts)
}

// IssueUntil makes one that ends at some time, which may be past.
func (ca *CA) IssueUntil(t testing.TB, end time.Time, hosts ...string) Pair {
	t.Helper()
	return ca.sign(t, newKey(t), end, hosts)
}

// IssueUser makes one whose common name is a user's, as etcd reads it.
func (ca *CA) IssueUser(t testing.TB, name string) Pair {
	t.Helper()
	return ca.signAs(t, newKey(t), time.Now().Add(24*time.Hour), name, nil)
}

func (ca *CA) sign(t testing.TB, key crypto.Signer, end time.Time, hosts []string) Pair {
	t.Helper()
	return ca.signAs(t, key, end, "test", hosts)
}

func (ca *CA) signAs(t testing.TB, key crypto.Signer, end time.Time, commonName string, hosts []string) Pair {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: commonName}, DNSNames: hosts,
		NotBefore: end.Add(-48 * time.Hour), NotAfter: end,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{
		Cert:   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:    string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		Serial: template.SerialNumber,
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TLS is the pair as crypto/tls has it.
func (p Pair) TLS(t testing.TB) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair([]byte(p.Cert), []byte(p.Key))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Write writes dir/name.pem and dir/name.key, each replaced at once as what
// renews certificates does, and returns their paths.
func (p Pair) Write(t testing.TB, dir, name string) (cert, key string) {
	t.Helper()
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	WriteFile(t, key, p.Key)
	WriteFile(t, cert, p.Cert)
	return cert, key
}

// WriteFile replaces a file at once.
func WriteFile(t testing.TB, path, content string) {
	t.Helper()
	err := os.WriteFile(path+".new", []byte(content), 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Fatal(err)
	}
}
