package store_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/store"
)

// pair is a certificate and its key.
type pair struct{ cert, key string }

func newPair(names ...string) pair {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "roster test"}, DNSNames: names,
		NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		panic(err)
	}
	return pair{
		cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})),
		key:  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
	}
}

var (
	fooPair = sync.OnceValue(func() pair { return newPair("Foo.com", "*.foo.com") })
	barPair = sync.OnceValue(func() pair { return newPair("bar.com") })
)

// body is what a key looks like inside: its first line.
func body(key string) string { return strings.Split(key, "\n")[1] }

// object writes JSON from names and values in turn.
func object(fields ...any) string {
	var b strings.Builder
	b.WriteByte('{')
	for i := 0; i < len(fields); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		v, err := json.Marshal(fields[i+1])
		if err != nil {
			panic(err)
		}
		fmt.Fprintf(&b, "%q:%s", fields[i], v)
	}
	b.WriteByte('}')
	return b.String()
}

func TestCertificate(t *testing.T) {
	t.Parallel()
	foo := fooPair()
	def := mustDecode(t, store.Certificates, object("cert", "issued by us\n"+foo.cert+"\nend", "key", foo.key)).(*store.Certificate)
	if def.Cert != foo.cert || def.Key != foo.key || !slices.Equal(def.Hosts, []string{"foo.com", "*.foo.com"}) {
		t.Errorf("cert %q\nkey same: %v\nhosts %q", def.Cert, def.Key == foo.key, def.Hosts)
	}
	if got, want := string(store.Encode(def)), object("cert", foo.cert, "key", foo.key); got != want {
		t.Errorf("Encode: got %s\nwant %s", got, want)
	}
	def = mustDecode(t, store.Certificates, object("cert", foo.cert, "key", foo.key, "hosts", []string{"X.example"})).(*store.Certificate)
	if !slices.Equal(def.Hosts, []string{"x.example"}) {
		t.Errorf("hosts %q", def.Hosts)
	}
	def = mustDecode(t, store.Certificates, object("cert", foo.cert, "key", foo.key, "hosts", []string{})).(*store.Certificate)
	if len(def.Hosts) != 0 || !strings.Contains(string(store.Encode(def)), `"hosts":[]`) {
		t.Errorf("no hosts: %q, %s", def.Hosts, store.Redact(def))
	}
}

func TestCertificateErrors(t *testing.T) {
	t.Parallel()
	foo, bar := fooPair(), barPair()
	block := func(kind string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: []byte("x")}))
	}
	for _, row := range []struct {
		value string
		want  []string
	}{
		{`{}`, []string{"cert: is missing, want a certificate in PEM", "key: is missing, want a private key in PEM"}},
		{object("cert", "x", "key", "y"), []string{`cert: holds no certificate, want PEM ("-----BEGIN CERTIFICATE-----")`, "key: is not a private key in PEM"}},
		{object("cert", foo.cert, "key", bar.key), []string{"key: does not belong to cert or is not usable: private key does not match public key"}},
		{object("cert", foo.cert, "key", block("PRIVATE KEY")), []string{"key: does not belong to cert or is not usable: failed to parse private key"}},
		{object("cert", foo.cert, "key", block("ENCRYPTED PRIVATE KEY")), []string{"key: is an encrypted private key, want one without a password"}},
		{object("cert", foo.cert, "key", foo.cert), []string{"key: is not a private key in PEM"}},
		{object("cert", foo.cert, "key", "(redacted)"), []string{"key: is what is shown in place of a key, want the key itself"}},
		{object("cert", foo.cert+foo.key, "key", foo.key), []string{"cert: has a private key in it, want certificates only"}},
		{object("cert", block("CERTIFICATE"), "key", foo.key), []string{"cert: has a certificate that cannot be read, the first: x509: malformed certificate"}},
		{object("cert", 1, "key", 5551234), []string{"cert: is a number, want a certificate in PEM", "key: is a number, want a private key in PEM"}},
		{object("cert", foo.cert, "key", foo.key, "hosts", "foo.com"), []string{`hosts: is a string, want a list: a list of hosts such as "foo.com" or "*.foo.com"`}},
		{object("cert", foo.cert, "key", foo.key, "hosts", []string{"a b"}, "kye", foo.key), []string{
			`hosts[0]: "a b" has ' ' in it, want an address or a domain name`, `kye: is not a field of a certificate; did you mean "key"?`,
		}},
	} {
		_, _, err := decode(store.Certificates, row.value)
		if got := faults(t, err); !slices.Equal(got, row.want) {
			t.Errorf("errors\n got %q\nwant %q", got, row.want)
		}
	}
}

func TestCertificateIsNeverShownWithItsKey(t *testing.T) {
	t.Parallel()
	foo := fooPair()
	def := mustDecode(t, store.Certificates, object("cert", foo.cert, "key", foo.key)).(*store.Certificate)
	marshalled, err := json.Marshal(map[string]any{"pointer": def, "value": *def})
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("put", "pointer", def, "value", *def)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("put", "pointer", def, "value", *def)
	for name, shown := range map[string]string{
		"%v": fmt.Sprintf("%v %v", def, *def), "%+v": fmt.Sprintf("%+v %+v", def, *def), "%#v": fmt.Sprintf("%#v %#v", def, *def),
		"%s": fmt.Sprintf("%s %s", def, *def), "%q": fmt.Sprintf("%q", *def), "%x": fmt.Sprintf("%x", *def), "list": fmt.Sprint([]any{def, *def}),
		"json": string(marshalled), "slog": log.String(), "Redact": string(store.Redact(def)),
	} {
		if strings.Contains(shown, body(foo.key)) || strings.Contains(shown, "BEGIN PRIVATE") {
			t.Errorf("%s shows the key: %s", name, shown)
		}
		if !strings.Contains(shown, "(redacted)") || !strings.Contains(shown, "CERTIFICATE") {
			t.Errorf("%s shows too little: %s", name, shown)
		}
	}
}

// However malformed a certificate's value is, neither its errors nor what is
// shown of it have the key.
func TestMalformedCertificateIsShownWithoutItsKey(t *testing.T) {
	t.Parallel()
	foo := fooPair()
	quoted := object("key", foo.key)[len(`{"key":`):]
	quoted = quoted[:len(quoted)-1]
	line := body(foo.key)
	for name, value := range map[string]string{
		"as it should be":    object("cert", foo.cert, "key", foo.key),
		"wrong field":        object("cert", foo.cert, "kye", foo.key),
		"in cert":            object("cert", foo.key, "key", foo.cert),
		"behind cert":        object("cert", foo.cert+foo.key, "key", foo.key),
		"broken in cert":     object("cert", strings.Replace(foo.key, "-----END", "----END", 1)+foo.cert, "key", foo.key),
		"in hosts":           object("cert", foo.cert, "hosts", foo.key),
		"in a list of hosts": object("cert", foo.cert, "hosts", []string{foo.key, line}),
		"in a list":          object("key", []string{foo.key}),
		"in an object":       object("key", map[string]string{"pem": foo.key}),
		"twice":              object("key", foo.key, "key", foo.key),
		"as a name":          object(foo.key, 1, line, 2),
		"cut":                object("key", foo.key)[:150],
		"unquoted":           `{"key": ` + foo.key + `}`,
		"raw newlines":       `{"key": "` + foo.key + `"}`,
		"not an object":      quoted,
		"PEM alone":          foo.key,
		"more behind":        object("key", foo.key) + foo.key,
		"escaped":            strings.ReplaceAll(object("key", foo.key), "PRIVATE", `PRIV\u0041TE`),
		"invalid UTF-8":      object("cert", foo.cert, "key", foo.key)[:len(foo.cert)] + "\xff",
	} {
		key := store.Key{Kind: store.Certificates, Name: "foo"}
		_, _, err := store.Decode(key, []byte(value), store.Reject)
		shown := string(store.RedactValue(key, []byte(value)))
		for _, s := range []string{fmt.Sprint(err), shown} {
			if strings.Contains(s, line[:16]) {
				t.Errorf("%s: the key is shown: %s", name, s)
			}
		}
		if !json.Valid([]byte(shown)) || !strings.Contains(shown, "(redacted)") {
			t.Errorf("%s: shown as %s", name, shown)
		}
	}
	key := store.Key{Kind: store.Certificates, Name: "foo"}
	if got, want := string(store.RedactValue(key, []byte(object("cert", foo.cert, "key", foo.key, "hosts", []string{"a.b"}, "x", 1)))),
		object("cert", foo.cert, "key", "(redacted)", "hosts", []string{"a.b"}, "(unknown field)", "(redacted)"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, _, err := store.Decode(key, []byte(object(line, 1)), store.Reject); !strings.Contains(err.Error(), fmt.Sprintf(`["(a name of %d bytes)"]: is not a field of a certificate`, len(line))) {
		t.Errorf("a key as a field's name: %v", err)
	}
	// Keys that got into values of other kinds are not shown either.
	for _, kind := range []store.Kind{store.Backends, store.Routes, store.HealthKind} {
		value := object("host", "a", "tls", map[string]string{"ca": foo.key}, foo.key, 1)
		_, _, err := decode(kind, value)
		shown := string(store.RedactValue(store.Key{Kind: kind, Name: "foo"}, []byte(value)))
		for _, s := range []string{fmt.Sprint(err), shown} {
			if strings.Contains(s, line[:16]) {
				t.Errorf("%s: the key is shown: %s", kind, s)
			}
		}
	}
	if got := string(store.RedactValue(store.Key{Kind: store.Backends, Name: "a"}, []byte(`{"host":`))); got != `{"host":` {
		t.Errorf("a backend's value is shown as %s", got)
	}
}

// The authorities that backends trust are kept once, however many there are.
func TestCA(t *testing.T) {
	t.Parallel()
	foo, bar := fooPair(), barPair()
	value := object("host", "a", "tls", map[string]any{"ca": foo.cert + bar.cert})
	b := mustDecode(t, store.Backends, value).(*store.Backend)
	if b.TLS.CA != foo.cert+bar.cert {
		t.Errorf("ca %q", b.TLS.CA)
	}
	if _, _, err := decode(store.Backends, object("host", "a", "tls", map[string]any{"ca": foo.cert + foo.key})); err == nil {
		t.Error("a key among authorities was accepted")
	}
}
