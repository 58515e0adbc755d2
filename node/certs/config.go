package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Config says which files there are. The zero value has none.
type Config struct {
	// Files are certificates with their keys. The first is shown to clients
	// whose server name no certificate has.
	Files []Pair
	// ClientCA is a file with the CA certificates by one of which each client's
	// certificate has to be signed. Empty: clients are not asked for one.
	ClientCA string
	// Interval is how often files are looked at. Zero means 2s: it costs one
	// stat a file, and what renews certificates does not wait for less.
	Interval time.Duration
	// Logger gets reloads and faults. Nil discards.
	Logger *slog.Logger
}

// Pair is two files in PEM, which may be one and the same.
type Pair struct {
	Cert string // the certificate, then those that lead to its CA
	Key  string // its private key, without a password
}

// Validate reads the files and reports everything that is wrong.
func (c Config) Validate() error {
	_, err := load(c)
	return err
}

// load makes a Set of what the files hold.
func load(c Config) (*Set, error) {
	var errs *multierror.Error
	if c.Interval < 0 {
		errs = multierror.Append(errs, fmt.Errorf("interval of certificate files is %v, want 0 (the default) or more", c.Interval))
	}
	s := newSet(c)
	paths := make(map[string]bool)
	for _, f := range s.files {
		if paths[f.cert.path] {
			errs = multierror.Append(errs, fmt.Errorf("certificate %s is given twice", f.cert.path))
			continue
		}
		paths[f.cert.path] = true
		f.poll()
		e, err := f.load()
		if err != nil {
			errs = multierror.Append(errs, err)
			continue
		}
		s.current = append(s.current, e)
		s.add(e)
	}
	s.fallback = s.current[:min(1, len(s.current))]
	if s.ca != nil {
		s.ca.file.poll()
		if err := s.ca.load(s.tls); err != nil {
			errs = multierror.Append(errs, err)
		}
	}
	return s, errs.ErrorOrNil()
}

// encrypted says whether a key has a password, by RFC 7468 section 11 or as
// OpenSSL wrote them before.
func encrypted(key []byte) bool {
	for {
		var block *pem.Block
		if block, key = pem.Decode(key); block == nil {
			return false
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return true
		}
	}
}

// parsePool reads CA certificates in PEM; one that cannot be read is an error,
// since a client it stands for would be refused.
func parsePool(data []byte) (*x509.CertPool, error) {
	pool, all := x509.NewCertPool(), data
	n := 0
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate number %d cannot be read: %w", n, err)
		}
		pool.AddCert(cert)
	}
	if n == 0 {
		return nil, errors.New(`no certificate in it, want PEM ("-----BEGIN CERTIFICATE-----")`)
	}
	return pool, whole(all, n)
}

// whole is an error if more than n certificates begin in a file, n being those that were
// found: package pem passes over what is damaged, or cut off since it is being written.
func whole(data []byte, n int) error {
	if begin := bytes.Count(data, []byte("-----BEGIN CERTIFICATE-----")); begin > n {
		return fmt.Errorf("%d certificates begin in it and only %d are whole", begin, n)
	}
	return nil
}
