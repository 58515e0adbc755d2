package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	grpccredentials "google.golang.org/grpc/credentials"
)

// credentials is TLS with files that are read again for each connection.
type credentials struct {
	ca, cert, key string

	failed atomic.Pointer[string] // what was said of the last handshake that failed
}

func (c *credentials) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, fmt.Errorf("etcd CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA: no certificate in %s, want some in PEM", c.ca)
		}
	}
	switch {
	case c.cert == "" && c.key != "":
		return nil, fmt.Errorf("the key of a client certificate for etcd without the certificate: --etcd-key %s needs an --etcd-cert", c.key)
	case c.cert != "" && c.key == "":
		return nil, fmt.Errorf("a client certificate for etcd without its key: --etcd-cert %s needs an --etcd-key", c.cert)
	case c.cert != "":
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		var file *fs.PathError // which names it
		switch {
		case errors.As(err, &file):
			return nil, fmt.Errorf("client certificate for etcd: %w", err)
		case err != nil:
			return nil, fmt.Errorf("client certificate for etcd: %w (certificate %s, key %s)", err, c.cert, c.key)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (c *credentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	cfg, err := c.load()
	if err != nil {
		return nil, nil, c.fail(err)
	}
	h := handshake{files: c, member: authority}
	if remote := conn.RemoteAddr().String(); remote != authority {
		h.member += " (" + remote + ")"
	}
	if len(cfg.Certificates) > 0 {
		h.own = cfg.Certificates[0].Leaf
	}
	tlsConn, info, err := grpccredentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, h.explain(err)
	}
	return alerted{tlsConn, h}, info, nil
}

// handshake is what there is to say of one that fails.
type handshake struct {
	files  *credentials
	member string            // of etcd
	own    *x509.Certificate // nil: none
}

// explain says of an error of TLS whose certificate it is about, why, and what may mend it:
// the member's, which we refuse, or ours, which the member does.
func (h handshake) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("TLS with %s: %w", h.member, err)
	}
	return h.files.fail(h.refusal(err))
}

func (h handshake) refusal(err error) error {
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		whose, with := "", "the CAs of the system"
		if certs := verification.UnverifiedCertificates; len(certs) > 0 {
			whose = " " + name(certs[0])
		}
		if h.files.ca != "" {
			with = "the CA file " + h.files.ca
		}
		return fmt.Errorf("the server certificate%s of etcd at %s is refused: %w (verified with %s)%s", whose, h.member, verification.Err, with, remedy(verification.Err))
	}
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		return fmt.Errorf("TLS with %s: %w; if that etcd speaks no TLS, leave out --etcd-ca, --etcd-cert, --etcd-key and https://", h.member, err)
	}
	// Up to TLS 1.2, one who is not shown a certificate may only say that it goes no further.
	if h.own == nil && (strings.Contains(alert.Error(), "certificate") || strings.Contains(alert.Error(), "handshake failure")) {
		return fmt.Errorf("etcd at %s wants a client certificate, and none is given: %w; --etcd-cert and --etcd-key name one", h.member, alert)
	}
	if h.own == nil || !strings.Contains(alert.Error(), "certificate") {
		return fmt.Errorf("TLS with %s: %w", h.member, alert)
	}
	validity, what := "", "it has to be of a CA that etcd trusts (etcd's --trusted-ca-file)"
	switch now := time.Now(); {
	case now.After(h.own.NotAfter):
		validity, what = ", it ended at "+h.own.NotAfter.UTC().Format(time.RFC3339), "put a new one in that file"
	case now.Before(h.own.NotBefore):
		validity, what = ", it begins at "+h.own.NotBefore.UTC().Format(time.RFC3339), "is the clock right?"
	}
	return fmt.Errorf("etcd at %s refuses the client certificate %s of %s%s: %w; %s", h.member, name(h.own), h.files.cert, validity, alert, what)
}

// remedy is what may mend that a server's certificate is refused.
func remedy(err error) string {
	var (
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		host    x509.HostnameError
	)
	switch {
	case errors.As(err, &unknown):
		return "; --etcd-ca has to name a file with the CA that issued it"
	case errors.As(err, &host):
		return "; --etcd has to have a name that the certificate is for"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "; etcd needs a new one, if the clock is right"
	}
	return ""
}

// fail notes what is said of a handshake, as gRPC keeps of an error only what it says.
func (c *credentials) fail(err error) error {
	text := err.Error()
	c.failed.Store(&text)
	return err
}

// name says which certificate one is.
func name(c *x509.Certificate) string {
	return fmt.Sprintf("%q (issued by %q)", c.Subject.CommonName, c.Issuer.CommonName)
}

// alerted tells why a server closed the connection. With TLS 1.3 a client's
// certificate is judged when the client has begun to write already; a "broken
// pipe" then comes before the server's own words.
type alerted struct {
	net.Conn
	handshake
}

func (c alerted) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if isAlert(err) {
		err = c.explain(err)
	}
	return n, err
}

func (c alerted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		c.SetReadDeadline(time.Now().Add(time.Second)) // they are here, or were sent before the end
		if _, rerr := c.Conn.Read(make([]byte, 1)); isAlert(rerr) {
			err = c.explain(rerr)
		}
	}
	return n, err
}

func isAlert(err error) bool {
	var alert *net.OpError
	return errors.As(err, &alert) && alert.Op == "remote error"
}

func (c *credentials) ServerHandshake(net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	return nil, nil, errors.New("not a server")
}

func (c *credentials) Info() grpccredentials.ProtocolInfo {
	return grpccredentials.NewTLS(nil).Info()
}
func (c *credentials) Clone() grpccredentials.TransportCredentials { return c } // it has no state
func (c *credentials) OverrideServerName(string) error             { return nil }
