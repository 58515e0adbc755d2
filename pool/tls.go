package pool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"roster/store"
)

// lazyTLS is a TLS configuration made at the first dial: it takes more memory
// than all the rest of a pool, and parsing certificates takes time.
type lazyTLS struct {
	once   sync.Once
	config *tls.Config
	err    error
}

func (l *lazyTLS) get(def *store.Backend, cert *store.Certificate) (*tls.Config, error) {
	l.once.Do(func() { l.config, l.err = tlsConfig(def, cert) })
	if l.err != nil {
		return nil, &Error{Kind: TLS, Stage: Handshake, Addr: serverName(def), Err: l.err}
	}
	return l.config, nil
}

func tlsConfig(def *store.Backend, cert *store.Certificate) (*tls.Config, error) {
	t := def.TLS
	c := &tls.Config{
		ServerName:         serverName(def),
		InsecureSkipVerify: t.InsecureSkipVerify,
		MinVersion:         tls.VersionTLS12,
		// A write for each of many small records costs more than it wins.
		DynamicRecordSizingDisabled: true,
		NextProtos:                  t.ALPN,
		// One server name, so one TLS session; two lose none while one is replaced.
		ClientSessionCache: tls.NewLRUClientSessionCache(2),
	}
	if c.NextProtos == nil && def.Protocol == store.HTTP2 {
		c.NextProtos = []string{"h2"}
	}
	if t.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM([]byte(t.CA)) {
			return nil, errors.New("tls.ca holds no certificate")
		}
	}
	if t.Certificate != "" && cert != nil {
		pair, err := tls.X509KeyPair([]byte(cert.Cert), []byte(cert.Key))
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// serverName is the name for SNI and verification: as configured, else the host
// ("localhost" for a socket, which has none). Not host_header, because that is
// not part of what pools are shared by.
func serverName(def *store.Backend) string {
	switch {
	case def.TLS.ServerName != "":
		return def.TLS.ServerName
	case def.Path != "":
		return "localhost"
	}
	return def.Host
}

// handshake puts TLS over c. The prologue goes out with the first bytes of it.
func (c *Conn) handshake(ctx context.Context, addr string, prologue []byte, config *tls.Config) error {
	below := &under{Conn: c.Conn, prefix: prologue}
	if c.under == nil {
		c.under = below
		below.raw = c.raw
	}
	conn := tls.Client(below, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return handshakeError(addr, err)
	}
	c.Conn = conn
	return nil
}

// agreed is an error if the backend would not take protocol for what it is: to
// one that does not choose h2, HTTP/2 is noise (RFC 9113, section 3.2).
func (c *Conn) agreed(addr string, protocol store.Protocol) error {
	if got := c.Protocol(); protocol == store.HTTP2 && got != "h2" {
		err := errors.New("the backend does not offer h2")
		if got != "" {
			err = fmt.Errorf("the backend chose %s, want h2", got)
		}
		return &Error{Kind: TLS, Stage: Handshake, Addr: addr, Err: err}
	}
	return nil
}

// under is what a TLS connection writes to and reads from.
type under struct {
	net.Conn
	prefix []byte // goes out with the first write

	// For reads that do not wait:
	raw  syscall.RawConn // of the lowest of several; nil if there is none
	look bool
	step func(fd uintptr) bool
	b    []byte
	n    int
	err  error
	one  [1]byte
}

func (u *under) Write(b []byte) (int, error) {
	if len(u.prefix) == 0 {
		return u.Conn.Write(b)
	}
	prefix := u.prefix
	u.prefix = nil
	n, err := u.Conn.Write(append(clip(prefix), b...))
	return max(n-len(prefix), 0), err
}

func (u *under) Read(b []byte) (int, error) {
	if !u.look {
		return u.Conn.Read(b)
	}
	if u.step == nil {
		u.step = func(fd uintptr) bool {
			u.n, u.err = readNow(int(fd), u.b)
			return true
		}
	}
	u.b = b
	err := u.raw.Read(u.step)
	u.b = nil
	if err != nil {
		return 0, err
	}
	return u.n, u.err
}

// quiet is the error of a look that finds nothing. A tls.Conn stays usable after
// an error that is temporary.
type quiet struct{}

func (quiet) Error() string   { return "pool: nothing to read" }
func (quiet) Timeout() bool   { return true }
func (quiet) Temporary() bool { return true }

// fit tells if an idle connection may carry another request. Over TLS, what came
// unasked may be the protocol's own, as session tickets and key updates, so it is
// read: only then is it known, and also what was received with the last answer.
// The deadlines must be those of who looks.
func (c *Conn) fit() bool {
	u := c.under
	if u == nil || u.raw == nil {
		return alive(c.fd)
	}
	// What the last owner armed may be over. A key update may ask for one in return,
	// so that goes for writes, too.
	for w := range c.deadlines {
		if d := &c.deadlines[w]; d.armed != 0 && c.m.now() >= d.armed {
			c.set(way(w))
		}
	}
	u.look = true
	n, err := c.Conn.Read(u.one[:])
	u.look = false
	return n == 0 && err == quiet{}
}
