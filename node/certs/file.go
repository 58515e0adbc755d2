package certs

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// file is a file as it was read last. It belongs to Run.
type file struct {
	path string
	info os.FileInfo // nil: to be read in any case
	data []byte
	err  error // of the last read
}

// unsettled is how new a file may be for a change of it not to show in its
// times: two writes within one tick of the file system's clock have the same.
const unsettled = 2 * time.Second

// poll reads the file if it may have changed, and says whether its content, or
// why it cannot be read, did.
func (f *file) poll() bool {
	info, err := os.Stat(f.path)
	if err == nil && f.info != nil && os.SameFile(info, f.info) && info.Size() == f.info.Size() && info.ModTime().Equal(f.info.ModTime()) {
		return false
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile(f.path)
	}
	f.info = nil
	if err != nil {
		changed := f.err == nil || f.err.Error() != err.Error()
		f.err = err
		return changed
	}
	if time.Since(info.ModTime()) > unsettled {
		f.info = info
	}
	changed := f.err != nil || !bytes.Equal(data, f.data)
	f.data, f.err = data, nil
	return changed
}

// fault is what is wrong with files that have changed. It is told at the look
// after the one that found it: a certificate and its key are two files, and
// between the writes of the two they do not match.
type fault struct {
	err  error
	told bool
}

// pairFile is a certificate in files.
type pairFile struct {
	cert, key file
	rank      int
	fault     fault
}

// poll says whether one of the two has changed.
func (f *pairFile) poll() bool {
	cert, key := f.cert.poll(), f.key.poll()
	return cert || key
}

// load makes an entry of what the files held when last read.
func (f *pairFile) load() (*entry, error) {
	if f.cert.err != nil {
		return nil, fmt.Errorf("certificate: %w", f.cert.err)
	}
	if f.key.err != nil {
		return nil, fmt.Errorf("key: %w", f.key.err)
	}
	pair, err := tls.X509KeyPair(f.cert.data, f.key.data)
	if err == nil {
		err = whole(f.cert.data, len(pair.Certificate))
	}
	if err == nil {
		return newEntry(f.cert.path, f.rank, &pair), nil
	}
	if encrypted(f.key.data) {
		return nil, fmt.Errorf("key %s has a password, want one without", f.key.path)
	}
	return nil, fmt.Errorf("certificate %s with key %s: %s", f.cert.path, f.key.path, strings.TrimPrefix(err.Error(), "tls: "))
}

// clientCA is the file of the CAs of clients.
type clientCA struct {
	file   file
	fault  fault
	config atomic.Pointer[tls.Config] // what their handshakes go by
}

// load puts what the file held when last read into effect.
func (ca *clientCA) load(base *tls.Config) error {
	if ca.file.err != nil {
		return fmt.Errorf("client CA: %w", ca.file.err)
	}
	pool, err := parsePool(ca.file.data)
	if err != nil {
		return fmt.Errorf("client CA %s: %w", ca.file.path, err)
	}
	c := base.Clone()
	c.GetConfigForClient = nil
	c.ClientAuth = tls.RequireAndVerifyClientCert
	c.ClientCAs = pool
	ca.config.Store(c)
	return nil
}
