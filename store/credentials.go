package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	grpccredentials "google.golang.org/grpc/credentials"
)

// credentials is TLS with files that are read again for each connection.
type credentials struct{ ca, cert, key string }

func (c *credentials) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, fmt.Errorf("etcd CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA: no certificate in %s", c.ca)
		}
	}
	switch {
	case c.cert == "" && c.key != "":
		return nil, errors.New("the key of a client certificate for etcd without the certificate")
	case c.cert != "" && c.key == "":
		return nil, errors.New("a client certificate for etcd without its key")
	case c.cert != "":
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate for etcd: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (c *credentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	cfg, err := c.load()
	if err != nil {
		return nil, nil, err
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

// explain says of an error of TLS whose certificate it is about, and why: the member's,
// which we refuse, or ours, which the member does.
func (h handshake) explain(err error) error {
	var verification *tls.CertificateVerificationError
	if errors.As(err, &verification) {
		whose, with := "", "the CAs of the system"
		if certs := verification.UnverifiedCertificates; len(certs) > 0 {
			whose = " " + name(certs[0])
		}
		if h.files.ca != "" {
			with = "the CA file " + h.files.ca
		}
		return fmt.Errorf("the server certificate%s of etcd at %s is refused: %w (verified with %s)", whose, h.member, verification.Err, with)
	}
	var alert *net.OpError
	if !errors.As(err, &alert) || alert.Op != "remote error" || !strings.Contains(alert.Error(), "certificate") {
		return fmt.Errorf("TLS with %s: %w", h.member, err)
	}
	if h.own == nil {
		return fmt.Errorf("etcd at %s wants a client certificate, and none is given: %w", h.member, alert)
	}
	validity := ""
	switch now := time.Now(); {
	case now.After(h.own.NotAfter):
		validity = ", it ended at " + h.own.NotAfter.UTC().Format(time.RFC3339)
	case now.Before(h.own.NotBefore):
		validity = ", it begins at " + h.own.NotBefore.UTC().Format(time.RFC3339)
	}
	return fmt.Errorf("etcd at %s refuses the client certificate %s of %s%s: %w", h.member, name(h.own), h.files.cert, validity, alert)
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
