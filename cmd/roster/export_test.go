package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/store/storetest"
)

// keyPair is a certificate of example.com and its key, in PEM.
func keyPair(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
}

// The key of a certificate is in no export, and each says that it is left out. What nodes
// reject is left out, too, and what is under a lease is said to be.
func TestExportNeverHasKeysOfCertificates(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{etcd.Endpoint()}, Context: ctx})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lease, err := client.Grant(ctx, 600)
	if err != nil {
		t.Fatal(err)
	}
	cert, secret := keyPair(t)
	certificate, err := json.Marshal(map[string]string{"cert": cert, "key": secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range [][2]string{
		{"certificates/www", string(certificate)},
		{"certificates/broken", strings.TrimSuffix(string(certificate), "}")},
		{"backends/zebra", `{"host": "10.0.0.1", "labels": {"app": "web"}}`},
		{"backends/apple", `{"host": "10.0.0.2"}`},
		{"backends/bad", `{"host": "10.0.0.3", "prot": 1}`},
		{"health/apple", "drain"},
	} {
		if _, err := client.Put(ctx, "/roster/"+kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := client.Put(ctx, "/roster/backends/guest", `{"none": true}`, clientv3.WithLease(lease.ID)); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint()}
	line := strings.Split(secret, "\n")[1]
	const notes = `backends/bad is left out, nodes reject it: prot: is not a field of a backend; did you mean "port"?
backends/guest is under a lease and ends with it; applied from here, it stays
certificates/broken is left out: the key of a certificate is never exported
certificates/www is left out: the key of a certificate is never exported
`
	prefixed := func(prefix, lines string) string {
		return prefix + strings.ReplaceAll(strings.TrimSuffix(lines, "\n"), "\n", "\n"+prefix) + "\n"
	}
	for _, test := range []struct{ args, out, errors string }{
		{"export", prefixed("# ", notes) + "backends:\n  apple:\n    host: \"10.0.0.2\"\n  guest:\n    none: true\n  zebra:\n    host: \"10.0.0.1\"\n    labels:\n      app: web\nhealth:\n  apple: drain\n", prefixed("note: ", notes)},
		{"export backends z/", "", ""},
		{"export backend apple", "backends:\n  apple:\n    host: \"10.0.0.2\"\n", ""},
		{"export certificates", prefixed("# ", strings.Join(strings.SplitAfter(notes, "\n")[2:], "")), prefixed("note: ", strings.Join(strings.SplitAfter(notes, "\n")[2:], ""))},
		{"export certificate www --format json", "{}\n", "note: certificates/www is left out: the key of a certificate is never exported\n"},
		{"export health --format json", "{\n  \"health\": {\n    \"apple\": \"drain\"\n  }\n}\n", ""},
		{"export backends --format vcl", `# backends/bad is left out, nodes reject it: prot: is not a field of a backend; did you mean "port"?
vcl 4.1;

backend zebra {
    .host = "10.0.0.1";
    # not in VCL: labels {"app":"web"}
}

backend apple {
    .host = "10.0.0.2";
}

backend guest none;
`, "note: backends/bad is left out, nodes reject it: prot: is not a field of a backend; did you mean \"port\"?\n"},
	} {
		got := try(t, env, "", strings.Fields(test.args)...)
		if got.code != exitDone || got.out != test.out || got.errors != test.errors {
			t.Errorf("%s\ngot  %+v\nwant %+v", test.args, got, test)
		}
		if strings.Contains(got.out+got.errors, line) || strings.Contains(got.out+got.errors, "PRIVATE") {
			t.Errorf("%s has the key", test.args)
		}
	}
	if got := try(t, env, "", "export", "backend", "web-9"); got.code != exitFailed || got.errors != "roster: there is no backend web-9; roster get backends lists what there is\n" {
		t.Errorf("%+v", got)
	}
}
