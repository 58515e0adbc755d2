package store

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
)

// Certificate is for listeners, by SNI, and for TLS to backends, by name.
// However it is printed or logged, its key is not.
type Certificate struct {
	Cert  string   // chain in PEM, its own certificate first; only certificates
	Key   string   // in PEM; never to be shown
	Hosts []string // served by SNI, lower case; "*.foo.com" is one label below. By default those in the certificate
}

// Kind is Certificates.
func (*Certificate) Kind() Kind { return Certificates }

// String is the certificate without its key.
func (c Certificate) String() string { return string(Redact(&c)) }

// Format writes the certificate without its key, whatever the verb.
func (c Certificate) Format(f fmt.State, _ rune) { io.WriteString(f, c.String()) }

// LogValue is the certificate without its key.
func (c Certificate) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalJSON is the certificate without its key; Encode has it.
func (c Certificate) MarshalJSON() ([]byte, error) { return Redact(&c), nil }

var certificateFields = newSchema("a certificate",
	field[Certificate]{name: "cert", read: readCert,
		write: func(e *encoder, c *Certificate) {
			e.field("cert")
			e.text(c.Cert)
		}, shape: someText},
	field[Certificate]{name: "key", read: readKey,
		write: func(e *encoder, c *Certificate) {
			e.field("key")
			if e.redact {
				e.text(redacted)
			} else {
				e.text(c.Key)
			}
		}, shape: secretShape},
	field[Certificate]{name: "hosts",
		read: func(d *decoder, c *Certificate) {
			const want = `a list of hosts such as "foo.com" or "*.foo.com"`
			c.Hosts = []string{}
			if d.peek() == '[' && d.emptyList() {
				return
			}
			if list, ok := d.texts(false, maxList, want, secretHost); ok {
				c.Hosts = list
			}
		},
		write: func(e *encoder, c *Certificate) {
			if !slices.Equal(c.Hosts, c.defaultHosts()) {
				e.field("hosts")
				e.texts(c.Hosts)
			}
		}, shape: func() *shape { return listOrNone(someText(), maxList) }},
)

// maxKey bounds a private key, in bytes of PEM: many times what the largest RSA
// keys in use take (16,384 bits: 13,000).
const maxKey = 64 << 10

func readCertificate(d *decoder, c *Certificate) {
	g, ok := certificateFields.read(d, c)
	if !ok {
		return
	}
	if !g.has("cert") {
		d.failAt("cert", "is missing, want a certificate in PEM")
	}
	if !g.has("key") {
		d.failAt("key", "is missing, want a private key in PEM")
	}
	if c.Cert != "" && c.Key != "" {
		if _, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key)); err != nil {
			// The error may be about either; it quotes neither.
			d.failAt("key", "does not belong to cert or is not usable: %s", strings.TrimPrefix(err.Error(), "tls: "))
		}
	}
	if !g.has("hosts") {
		c.Hosts = c.defaultHosts()
	}
}

// secretHost is matchHost for a value with a key in it, which may have got into
// the wrong field: what is long is not repeated.
func secretHost(s string) (string, error) {
	host, err := matchHost(s)
	if err != nil && len(s) > 40 {
		return "", errors.New("is not a host")
	}
	return host, err
}

func readCert(d *decoder, c *Certificate) {
	b, ok := d.text("a certificate in PEM")
	if !ok {
		return
	}
	clean, err := parseCertificates(string(b))
	if d.right(err) {
		c.Cert = clean
	}
}

func readKey(d *decoder, c *Certificate) {
	b, ok := d.text("a private key in PEM")
	if !ok {
		return
	}
	if string(b) == redacted {
		d.fail("is what is shown in place of a key, want the key itself")
		return
	}
	if len(b) > maxKey {
		d.fail("is %d bytes long, want at most %d", len(b), maxKey)
		return
	}
	for rest := b; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			d.fail("is not a private key in PEM")
			return
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			d.fail("is an encrypted private key, want one without a password")
			return
		}
		if block.Type == "PRIVATE KEY" || strings.HasSuffix(block.Type, " PRIVATE KEY") {
			block.Headers = nil
			c.Key = string(pem.EncodeToMemory(block))
			return
		}
	}
}

// parseCertificates reads the certificates in PEM text and returns them alone,
// without what is around them. Keys among them are an error.
func parseCertificates(s string) (clean string, err error) {
	var out bytes.Buffer
	n := 0
	for rest := []byte(s); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return "", errors.New("has a private key in it, want certificates only")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("has a certificate that cannot be read, the %s: %v", ordinal(n+1), err)
		}
		n++
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}); err != nil {
			return "", err
		}
	}
	if n == 0 {
		return "", errors.New(`holds no certificate, want PEM ("-----BEGIN CERTIFICATE-----")`)
	}
	return out.String(), nil
}

func ordinal(n int) string {
	switch n {
	case 1:
		return "first"
	case 2:
		return "second"
	case 3:
		return "third"
	}
	return fmt.Sprintf("%dth", n)
}

// defaultHosts are the names that the certificate has.
func (c *Certificate) defaultHosts() []string {
	block, _ := pem.Decode([]byte(c.Cert))
	if block == nil {
		return nil
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	var hosts []string
	for _, name := range cert.DNSNames {
		if host, err := matchHost(name); err == nil && !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	return hosts
}
