package embedded_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store"
	"roster/store/embedded"
	"roster/store/storetest"
)

func TestAddressesAreAllThatAreListenedOn(t *testing.T) {
	t.Parallel()
	s := start(t, embedded.Config{})
	all := s.Addresses()
	if len(all) != 2 || "http://"+all[0].String() != s.Endpoint() {
		t.Fatalf("got %v, want %s and the peers'", all, s.Endpoint())
	}
	for _, a := range all {
		if !a.Addr().IsLoopback() {
			t.Errorf("%v is not on loopback", a)
		}
		c, err := net.Dial("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

// certificate writes a certificate that is its own authority, for localhost,
// and its key, and returns the files.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "both"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", pkcs8)
}

func TestAllAddressesAreServedToClientsWithACertificate(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	s := start(t, embedded.Config{Listen: ":0", CertFile: cert, KeyFile: key, ClientCAFile: cert})
	if a := s.Addresses(); !a[0].Addr().IsUnspecified() || !a[1].Addr().IsLoopback() {
		t.Errorf("addresses are %v, want all for clients and loopback for peers", a)
	}
	with := storetest.Open(t, store.Config{Endpoints: []string{s.Endpoint()}, CA: cert, Cert: cert, KeyFile: key})
	if _, err := with.Put(t.Context(), web1, []byte("x"), 0); err != nil {
		t.Error(err)
	}
	without := storetest.Open(t, store.Config{Endpoints: []string{s.Endpoint()}, CA: cert, RequestTimeout: time.Second})
	if _, err := without.Put(t.Context(), web1, []byte("y"), store.AnyRevision); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}

	// The gateway would write with the server's certificate, whoever asks.
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool}}}
	defer client.CloseIdleConnections()
	resp, err := client.Post(s.Endpoint()+"/v3/kv/put", "application/json", strings.NewReader(`{"key": "L3g=", "value": "MQ=="}`))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("there is a gateway: %s", resp.Status)
	}

	// A watch that nobody ends.
	if r := <-with.Client().Watch(context.Background(), "/", clientv3.WithPrefix(), clientv3.WithCreatedNotify()); r.Err() != nil {
		t.Error(r.Err())
	}
	begun := time.Now()
	s.Close()
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("Close took %v", took)
	}
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, err = embedded.Start(t.Context(), embedded.Config{Dir: t.TempDir(), Listen: "localhost:" + port})
	if err == nil || !strings.Contains(err.Error(), "localhost:"+port+" is in use") {
		t.Errorf("got %v", err)
	}
}
