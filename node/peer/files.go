package peer

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/go-multierror"

	"roster/node/certs"
)

// Files are those of mutual TLS, in PEM; all are required, and loaded again when they change.
type Files struct {
	// Cert and Key are the node's certificate, for both ends of a connection, with those that
	// lead to its CA, and its key.
	Cert, Key string
	// CA has the certificates by one of which a peer's has to be signed. Whoever has one of
	// it may read what a Server tells; names in certificates are not looked at.
	CA string
}

// Validate reads the files and reports all that is wrong. A certificate that has expired is
// not: it can be replaced later, and a node starts without its peers.
func (f Files) Validate() error {
	var errs *multierror.Error
	for _, file := range []struct{ flag, path string }{{"cert", f.Cert}, {"key", f.Key}, {"ca", f.CA}} {
		if file.path == "" {
			errs = multierror.Append(errs, fmt.Errorf("peer-tls-%s is missing: peer-listen is mutual TLS only", file.flag))
		}
	}
	if errs != nil {
		return errs
	}
	c, err := Open(f, nil)
	if err != nil {
		return fmt.Errorf("peer-tls: %w", err)
	}
	cert, pool, err := c.now()
	if err != nil {
		return fmt.Errorf("peer-tls: %w", err)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		err := verify(cert.Leaf, intermediates(cert), pool, usage)
		if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			continue
		}
		if err != nil {
			errs = multierror.Append(errs, fmt.Errorf("peer-tls-cert %s does not go with peer-tls-ca %s, want it signed by that, for both ends (extendedKeyUsage serverAuth,clientAuth): %w", f.Cert, f.CA, err))
			break
		}
	}
	return errs.ErrorOrNil()
}

// Credentials are what Files hold.
type Credentials struct{ set *certs.Set }

// Open reads the files. logger gets reloads; nil discards.
func Open(f Files, logger *slog.Logger) (*Credentials, error) {
	set, err := certs.New(certs.Config{Files: []certs.Pair{{Cert: f.Cert, Key: f.Key}}, ClientCA: f.CA, Logger: logger})
	if err != nil {
		return nil, err
	}
	return &Credentials{set}, nil
}

// Run loads the files again when they change, until ctx ends. It returns nil.
func (c *Credentials) Run(ctx context.Context) error { return c.set.Run(ctx) }

// now is the certificate, and the CA's, as last loaded.
func (c *Credentials) now() (*tls.Certificate, *x509.CertPool, error) {
	config, err := c.set.TLS().GetConfigForClient(nil)
	if err != nil {
		return nil, nil, err
	}
	cert, err := config.GetCertificate(&tls.ClientHelloInfo{})
	return cert, config.ClientCAs, err
}

// client is the configuration of a connection to a peer.
func (c *Credentials) client() (*tls.Config, error) {
	cert, pool, err := c.now()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{*cert},
		// The name is not verified, all else is: nodes come and go by address.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range s.PeerCertificates[1:] {
				between.AddCert(c)
			}
			if err := verify(s.PeerCertificates[0], between, pool, x509.ExtKeyUsageServerAuth); err != nil {
				return fmt.Errorf("its certificate (%s) is not of --peer-tls-ca: %w", s.PeerCertificates[0].Subject, err)
			}
			return nil
		},
	}, nil
}

func verify(leaf *x509.Certificate, between, roots *x509.CertPool, usage x509.ExtKeyUsage) error {
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func intermediates(cert *tls.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, der := range cert.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil {
			pool.AddCert(c)
		}
	}
	return pool
}
