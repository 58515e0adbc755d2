package prober

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"roster/pool"
	"roster/store"
)

// Key is the identity of a Check: equal for checks that send the same bytes to
// the same place at the same pace and want the same answer, and for no others; on all nodes,
// and in all releases.
type Key [sha256.Size]byte

// Check is what a backend's probe does on the wire: all of it, and nothing of how
// it is judged. It does not change.
type Check struct {
	key   Key
	def   *store.Backend // where to connect
	deps  pool.Deps
	probe *store.Probe
	way   way
}

// way is how a probe is carried out.
type way uint8

const (
	byHTTP1 way = iota
	byHTTP2
	byGRPC
	byTCP
)

// CheckOf returns the check that probe makes of the backend def. The definitions
// must not change any more. What def refers to and deps lacks is reported when
// the check is acquired.
func CheckOf(def *store.Backend, probe *store.Probe, deps pool.Deps) *Check {
	c := &Check{def: def, deps: deps, probe: probe}
	switch {
	case probe.Type == store.TCPProbe:
		c.way = byTCP
	case probe.Type == store.GRPCProbe:
		c.way = byGRPC
	case def.Protocol == store.H2C || def.Protocol == store.HTTP2:
		c.way = byHTTP2
	}
	c.def = destination(def, probe, c.way)
	c.key = c.identity()
	return c
}

// destination is the definition to connect by. A probe with a port of its own
// needs one with that port, and gRPC one that speaks HTTP/2.
func destination(def *store.Backend, probe *store.Probe, w way) *store.Backend {
	port := def.Port
	if probe.Port != 0 && def.Path == "" {
		port = probe.Port
	}
	protocol, upgrade := def.Protocol, false
	if w == byGRPC && protocol != store.H2C && protocol != store.HTTP2 {
		protocol, upgrade = store.H2C, true
		if def.TLS != nil {
			protocol = store.HTTP2
		}
	}
	if port == def.Port && !upgrade {
		return def
	}
	d := *def
	d.Port, d.Protocol = port, protocol
	if upgrade && def.TLS != nil {
		tls := *def.TLS
		tls.ALPN = nil // h2, by the protocol
		d.TLS = &tls
	}
	return &d
}

// Key returns the check's identity.
func (c *Check) Key() Key { return c.key }

// Address is where the probe goes: host and port, or the socket's path.
func (c *Check) Address() string {
	if c.def.Path != "" {
		return c.def.Path
	}
	return net.JoinHostPort(c.def.Host, strconv.Itoa(int(c.def.Port)))
}

// Timeout bounds a probe as a whole: connect, send, receive.
func (c *Check) Timeout() time.Duration { return c.probe.Timeout }

// Interval is the time from the end of one probe to the start of the next.
func (c *Check) Interval() time.Duration { return c.probe.Interval }

// String describes the check in a few words.
func (c *Check) String() string {
	switch c.way {
	case byHTTP2:
		return fmt.Sprintf("GET %s over %s at %s", c.url(), c.def.Protocol, c.Address())
	case byGRPC:
		return fmt.Sprintf("grpc health of %q at %s", c.probe.Service, c.Address())
	case byTCP:
		return "connect to " + c.Address()
	}
	if len(c.probe.Request) > 0 {
		return fmt.Sprintf("%s at %s", c.probe.Request[0], c.Address())
	}
	return fmt.Sprintf("GET %s at %s", c.url(), c.Address())
}

func (c *Check) url() string {
	if c.probe.URL == "" {
		return "/"
	}
	return c.probe.URL
}

// appendRequest adds the bytes of an HTTP/1.1 probe's request: those of
// Varnish's, or the lines that were given.
func (c *Check) appendRequest(b []byte) []byte {
	if len(c.probe.Request) > 0 {
		for _, line := range c.probe.Request {
			b = append(b, line...)
			b = append(b, "\r\n"...)
		}
		return append(b, "\r\n"...)
	}
	b = append(b, "GET "...)
	b = append(b, c.url()...)
	b = append(b, " HTTP/1.1\r\n"...)
	if c.def.HostHeader != "" {
		b = append(b, "Host: "...)
		b = append(b, c.def.HostHeader...)
		b = append(b, "\r\n"...)
	}
	return append(b, "Connection: close\r\n\r\n"...)
}

// identity hashes what makes the check what it is, each part with its name and
// length, so that no two lists of parts give the same bytes.
func (c *Check) identity() Key {
	var room [512]byte
	b := room[:0]
	def, p := c.def, c.probe

	b = appendPart(b, 'y', string(p.Type))
	b = appendPlace(b, def, c.deps.Certificate)
	b = appendPart(b, 'h', string(def.Protocol))
	b = appendNumber(b, 'x', int64(def.ProxyHeader))
	if def.Via != "" {
		if c.deps.Via != nil {
			b = appendPart(b, 'v', string(appendPlace(nil, c.deps.Via, c.deps.ViaCertificate)))
		} else {
			b = appendPart(b, 'd', def.Via)
		}
		b = appendPart(b, 'a', def.Authority)
	}
	b = appendNumber(b, 'o', int64(p.Timeout))
	b = appendNumber(b, 'n', int64(p.Interval))

	switch c.way {
	case byHTTP1:
		b = appendPart(b, 'r', string(c.appendRequest(nil)))
		b = appendNumber(b, 'e', int64(p.ExpectedResponse))
		if p.ExpectClose {
			b = appendPart(b, 'c', "")
		}
	case byHTTP2:
		b = appendPart(b, 'g', c.url())
		b = appendPart(b, 'H', def.HostHeader)
		b = appendNumber(b, 'e', int64(p.ExpectedResponse))
	case byGRPC:
		b = appendPart(b, 'q', p.Service)
		b = appendPart(b, 'H', def.HostHeader)
	}
	return sha256.Sum256(b)
}

// appendPlace adds what concerns the way to one address.
func appendPlace(b []byte, def *store.Backend, cert *store.Certificate) []byte {
	if def.Path != "" {
		b = appendPart(b, 'u', def.Path)
	} else {
		b = appendPart(b, 'i', strings.ToLower(def.Host))
		b = appendNumber(b, 'p', int64(def.Port))
	}
	b = appendPart(b, 'b', string(def.Preamble))
	t := def.TLS
	if t == nil {
		return b
	}
	name := t.ServerName
	if name == "" && def.Path == "" {
		name = def.Host // as the pool has it; a path's is always "localhost"
	}
	b = appendPart(b, 't', name)
	if t.InsecureSkipVerify {
		b = appendPart(b, 's', "")
	}
	b = appendPart(b, 'C', t.CA)
	for _, proto := range t.ALPN {
		b = appendPart(b, 'l', proto)
	}
	if t.Certificate != "" {
		if cert != nil {
			b = appendPart(b, 'k', cert.Cert)
			b = appendPart(b, 'K', cert.Key)
		} else {
			b = appendPart(b, 'D', t.Certificate)
		}
	}
	return b
}

func appendPart(b []byte, kind byte, value string) []byte {
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

func appendNumber(b []byte, kind byte, n int64) []byte {
	return binary.AppendVarint(append(b, kind), n)
}
