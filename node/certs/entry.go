package certs

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"sync"
	"time"

	"roster/store"
)

// entry is one certificate. It never changes.
type entry struct {
	name     string // of the definition, or the path of the file
	rank     int    // files have theirs, definitions come after all
	hosts    []string
	notAfter time.Time
	pair     func() (*tls.Certificate, error)
}

// newEntry is the entry of a file.
func newEntry(path string, rank int, pair *tls.Certificate) *entry {
	e := &entry{name: path, rank: rank, notAfter: pair.Leaf.NotAfter, pair: func() (*tls.Certificate, error) { return pair, nil }}
	for _, name := range pair.Leaf.DNSNames {
		e.hosts = append(e.hosts, normal(name))
	}
	return e
}

// newDefined is the entry of a definition. Its key is parsed with the first
// handshake: most nodes of a large fleet serve few of its hosts, and a parsed
// key takes more time and memory than all the rest.
func newDefined(name string, rank int, def *store.Certificate) *entry {
	e := &entry{name: name, rank: rank, hosts: def.Hosts}
	if block, _ := pem.Decode([]byte(def.Cert)); block != nil {
		if leaf, err := x509.ParseCertificate(block.Bytes); err == nil {
			e.notAfter = leaf.NotAfter
		}
	}
	e.pair = sync.OnceValues(func() (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair([]byte(def.Cert), []byte(def.Key))
		return &pair, err
	})
	return e
}

// byRank orders the certificates of one host.
func byRank(a, b *entry) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.name, b.name))
}

// normal is a server name as hosts are written.
func normal(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

// choose takes the first certificate that the client can use, else the first: the
// handshake then fails with a better alert than "unrecognized name". It is nil
// where there are none.
func choose(all []*entry, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	var first *tls.Certificate
	var errs error
	var nameless tls.ClientHelloInfo
	if len(all) > 1 {
		nameless = *hello
		nameless.ServerName = "" // hosts say what a certificate is for, not the names in it
	}
	for i, e := range all {
		pair, err := e.pair()
		if err != nil { // a definition that store has let through
			errs = errors.Join(errs, err)
			continue
		}
		if i == len(all)-1 && first == nil || nameless.SupportsCertificate(pair) == nil {
			return pair, nil
		}
		if first == nil {
			first = pair
		}
	}
	if first != nil {
		return first, nil
	}
	return nil, errs
}
