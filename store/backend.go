package store

import (
	"bytes"
	"encoding/base64"
	"fmt"
	pathpkg "path"
	"slices"
	"strings"
	"time"
	"unique"
)

// Protocol is what is spoken to a backend.
type Protocol string

// The protocols. HTTP2 needs TLS, H2C is HTTP/2 without it.
const (
	HTTP1 Protocol = "http/1.1"
	H2C   Protocol = "h2c"
	HTTP2 Protocol = "h2"
)

// Backend is one address that serves. Exactly one of Host, Path and None is
// set. Durations of 0 are no limit.
type Backend struct {
	Host string // address or domain name as written, without brackets and port
	Port uint16 // 0 with Path or None
	Path string // Unix-domain socket, absolute, or @name for an abstract one
	None bool   // the backend that always fails

	HostHeader string // Host for requests and probes without one; "" with None

	// What is read for each request is together, in 64 bytes.

	OverrideHost bool // HostHeader replaces the client's Host
	NoReuse      bool
	Protocol     Protocol

	ConnectTimeout      time.Duration // all addresses tried together; 3.5s
	FirstByteTimeout    time.Duration // request sent to first byte of the answer; 60s
	BetweenBytesTimeout time.Duration // longest pause in an answer; 60s
	TunnelTimeout       time.Duration // longest silence of an upgraded connection; 1h

	ProxyHeader int // version of the PROXY protocol, 1 or 2; 0 = none

	IdleTimeout time.Duration // how long an unused connection is kept; 60s

	MaxConnections int // requests in progress; 0 = no limit
	WaitLimit      int // requests that may queue; 0 = none
	WaitTimeout    time.Duration

	Preamble  []byte // sent first on every new connection
	Via       string // name of the backend to connect to instead
	Authority string // of the authority TLV sent with Via, host only; "" = none
	Pool      string // part of the connection pool's identity
	TLS       *TLS   // nil = off

	Probe   ProbeRef
	Labels  Labels
	Comment string
}

// TLS is how a backend is spoken to over TLS.
type TLS struct {
	ServerName         string   // sent as SNI, if it is a name, and verified
	CA                 string   // PEM, the roots trusted; "" = the system's
	Certificate        string   // name of the certificate shown to the backend
	InsecureSkipVerify bool     //
	ALPN               []string // protocols offered; "h2" for HTTP2, else none
}

// ProbeRef is the probe of a backend: by name, inline, or none. The zero
// value is the probe named default, if there is one.
type ProbeRef struct {
	Name   string
	Inline *Probe
	None   bool
}

// Kind is Backends.
func (*Backend) Kind() Kind { return Backends }

// maxPreamble bounds a preamble, in bytes: far above what any protocol needs,
// and little enough to be sent in one write.
const maxPreamble = 64 << 10

var backendFields = newSchema("a backend",
	field[Backend]{name: "host", read: readHost, write: writeHost, shape: someText},
	field[Backend]{name: "port",
		read: func(d *decoder, b *Backend) {
			port, ok := d.port()
			if ok && b.Port != 0 {
				d.fail("is given in host already")
			} else if ok {
				b.Port = port
			}
		},
		write: func(e *encoder, b *Backend) {
			if b.Port != 0 && b.Port != b.schemePort() {
				e.field("port")
				e.integer(int(b.Port))
			}
		}, shape: portShape},
	text("path", func(b *Backend) *string { return &b.Path }, "", checkSocket).as(socketShape),
	flag("none", func(b *Backend) *bool { return &b.None }, false),
	field[Backend]{name: "host_header",
		read: func(d *decoder, b *Backend) { d.textInto(&b.HostHeader, checkHostField) },
		write: func(e *encoder, b *Backend) {
			if b.HostHeader != b.defaultHostHeader() {
				e.field("host_header")
				e.text(b.HostHeader)
			}
		}, shape: someText},
	flag("override_host", func(b *Backend) *bool { return &b.OverrideHost }, false),
	duration("connect_timeout", func(b *Backend) *time.Duration { return &b.ConnectTimeout }, 3500*time.Millisecond, 0),
	duration("first_byte_timeout", func(b *Backend) *time.Duration { return &b.FirstByteTimeout }, 60*time.Second, 0),
	duration("between_bytes_timeout", func(b *Backend) *time.Duration { return &b.BetweenBytesTimeout }, 60*time.Second, 0),
	duration("tunnel_timeout", func(b *Backend) *time.Duration { return &b.TunnelTimeout }, time.Hour, 0),
	duration("idle_timeout", func(b *Backend) *time.Duration { return &b.IdleTimeout }, 60*time.Second, 0),
	integer("max_connections", func(b *Backend) *int { return &b.MaxConnections }, 0, 0, maxCount),
	integer("wait_limit", func(b *Backend) *int { return &b.WaitLimit }, 0, 0, maxCount),
	duration("wait_timeout", func(b *Backend) *time.Duration { return &b.WaitTimeout }, 0, 0),
	integer("proxy_header", func(b *Backend) *int { return &b.ProxyHeader }, 0, 1, 2),
	field[Backend]{name: "preamble", read: readPreamble, write: writePreamble, shape: base64Shape},
	text("via", func(b *Backend) *string { return &b.Via }, "", ValidateName).as(nameShape),
	field[Backend]{name: "authority",
		read: func(d *decoder, b *Backend) {
			if d.textInto(&b.Authority, checkAuthority) {
				b.Authority = nameIn(b.Authority)
			}
		},
		write: func(e *encoder, b *Backend) {
			if b.Authority != b.defaultAuthority() {
				e.field("authority")
				e.text(b.Authority)
			}
		}, shape: textShape},
	text("pool", func(b *Backend) *string { return &b.Pool }, "", nil),
	field[Backend]{name: "reuse",
		read: func(d *decoder, b *Backend) {
			if reuse, ok := d.flag(); ok {
				b.NoReuse = !reuse
			}
		},
		write: func(e *encoder, b *Backend) {
			if b.NoReuse {
				e.field("reuse")
				e.flag(false)
			}
		}, shape: func() *shape { return flagShape().or(true, true) }},
	field[Backend]{name: "tls", read: readTLS, write: writeTLS, shape: tlsFields.shape},
	choice("protocol", func(b *Backend) *Protocol { return &b.Protocol }, HTTP1, HTTP1, H2C, HTTP2),
	field[Backend]{name: "probe", read: readProbeRef, write: writeProbeRef, shape: probeRefShape},
	labels("labels", func(b *Backend) *Labels { return &b.Labels }),
	text("comment", func(b *Backend) *string { return &b.Comment }, "", nil),
)

var tlsFields = newSchema("tls",
	text("server_name", func(t *TLS) *string { return &t.ServerName }, "", checkServerName).as(someText),
	field[TLS]{name: "ca",
		read: func(d *decoder, t *TLS) {
			b, ok := d.text("certificates in PEM")
			if !ok {
				return
			}
			clean, err := parseCertificates(string(b))
			if err != nil {
				d.fail("%v", err)
				return
			}
			t.CA = unique.Make(clean).Value() // most backends share one
		},
		write: func(e *encoder, t *TLS) {
			if t.CA != "" {
				e.field("ca")
				e.text(t.CA)
			}
		}, shape: someText},
	text("certificate", func(t *TLS) *string { return &t.Certificate }, "", ValidateName).as(nameShape),
	flag("insecure_skip_verify", func(t *TLS) *bool { return &t.InsecureSkipVerify }, false),
	texts("alpn", func(t *TLS) *[]string { return &t.ALPN }, 16, "a protocol's name", checkALPN),
)

// alpnHTTP2 is offered to h2 backends; all of them share it.
var alpnHTTP2 = []string{"h2"}

func readBackend(d *decoder, b *Backend) {
	g, ok := backendFields.read(d, b)
	if !ok {
		return
	}
	host, path := g.has("host"), g.has("path")
	switch {
	case b.None:
		g.only(d, "does not go with none, the backend that always fails", "none", "labels", "comment")
	case host && path:
		d.failAt("path", "does not go with host; only one of host, path and none may be given")
	case !host && !path:
		d.failAt("host", "is missing; one of host, path and none is required")
	case path:
		if g.has("port") {
			d.failAt("port", "does not go with path")
		}
		if g.has("via") {
			d.failAt("via", "does not go with path")
		}
	}
	switch {
	case g.bad("protocol"):
	case g.has("tls") && b.Protocol == H2C:
		d.failAt("protocol", `is "h2c", HTTP/2 without TLS; want "h2", or no tls`)
	case !g.has("tls") && b.Protocol == HTTP2:
		d.failAt("protocol", `is "h2", which needs tls; want "h2c" for HTTP/2 without TLS, or tls`)
	}
	if t := b.TLS; t != nil && t.ALPN != nil && !g.bad("protocol") && slices.Contains(t.ALPN, "h2") != (b.Protocol == HTTP2) {
		d.failAt("tls.alpn", `is %q with the protocol %q, want "h2" in it if and only if the protocol is "h2"`, t.ALPN, b.Protocol)
	}
	if d.errs != nil || b.None {
		return
	}
	if host && b.Port == 0 {
		b.Port = b.schemePort()
	}
	if !g.has("host_header") {
		b.HostHeader = b.defaultHostHeader()
		if len(b.HostHeader) > len(b.Host) && strings.HasPrefix(b.HostHeader, b.Host) {
			b.Host = b.HostHeader[:len(b.Host)] // one string for both
		}
	}
	if !g.has("authority") {
		b.Authority = b.defaultAuthority()
	}
	if t := b.TLS; t != nil {
		if t.ServerName == "" {
			t.ServerName = b.defaultServerName()
		}
		if t.ALPN == nil {
			t.ALPN = b.defaultALPN()
		}
	}
}

// schemePort is the port that needs no mention.
func (b *Backend) schemePort() uint16 {
	if b.TLS != nil {
		return 443
	}
	return 80
}

func (b *Backend) defaultHostHeader() string {
	switch {
	case b.None:
		return ""
	case b.Path != "":
		return "localhost"
	case b.Port == b.schemePort():
		return authority(b.Host, 0)
	}
	return authority(b.Host, b.Port)
}

func (b *Backend) defaultAuthority() string { return nameIn(b.HostHeader) }

// defaultServerName is the host if that is a name, else what the backend is
// called in the Host field.
func (b *Backend) defaultServerName() string {
	if b.Host != "" && !isAddress(b.Host) {
		return b.Host
	}
	host := cutPort(b.HostHeader)
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

func (b *Backend) defaultALPN() []string {
	if b.Protocol == HTTP2 {
		return alpnHTTP2
	}
	return nil // what speaks HTTP/1.1 only may not know ALPN
}

// cutPort takes the port, if any, from a value of the Host field.
func cutPort(s string) string {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		return s[:i]
	}
	return s
}

// nameIn is the name in a value of the Host field, "" for an address.
func nameIn(s string) string {
	if s = cutPort(s); strings.HasPrefix(s, "[") || isAddress(s) {
		return ""
	}
	return s
}

func readHost(d *decoder, b *Backend) {
	raw, ok := d.text("an address or a domain name")
	if !ok {
		return
	}
	host, port, err := splitHost(string(raw))
	if err != nil {
		d.fail("%v", err)
		return
	}
	if port != 0 && b.Port != 0 {
		d.fail("is %s, but the port is given in port already", quote(string(raw)))
		return
	}
	b.Host = host
	if port != 0 {
		b.Port = port
	}
}

func writeHost(e *encoder, b *Backend) {
	if b.Host != "" {
		e.field("host")
		e.text(b.Host)
	}
}

func checkSocket(s string) error {
	const want = `want an absolute path, or "@" and a name for an abstract socket`
	limit := 107 // sun_path of Linux, less the NUL
	switch {
	case strings.HasPrefix(s, "@") && len(s) > 1:
		limit = 108 // the "@" stands for its NUL
	case strings.HasPrefix(s, "/"):
		if clean := pathpkg.Clean(s); clean != s || s == "/" {
			return fmt.Errorf("is %s, %s without \"..\" and needless slashes", quote(s), want)
		}
	default:
		return fmt.Errorf("is %s, %s", quote(s), want)
	}
	if strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("is %s with a NUL in it, %s", quote(s), want)
	}
	if len(s) > limit {
		return fmt.Errorf("is %d bytes long, want at most %d", len(s), limit)
	}
	return nil
}

func readPreamble(d *decoder, b *Backend) {
	const want = "bytes in base64"
	raw, ok := d.text(want)
	if !ok || len(raw) == 0 {
		return
	}
	data, err := base64.StdEncoding.Strict().AppendDecode(nil, raw)
	switch {
	case err != nil || bytes.ContainsAny(raw, "\r\n"):
		d.fail("is %s, want %s (the standard alphabet, with padding)", quote(string(raw)), want)
	case len(data) > maxPreamble:
		d.fail("is %d bytes, want at most %d", len(data), maxPreamble)
	default:
		b.Preamble = slices.Clip(data)
	}
}

func writePreamble(e *encoder, b *Backend) {
	if len(b.Preamble) > 0 {
		e.field("preamble")
		e.text(base64.StdEncoding.EncodeToString(b.Preamble))
	}
}

func checkAuthority(s string) error {
	if s == "" {
		return nil
	}
	return checkHostField(s)
}

func checkServerName(s string) error {
	if isAddress(s) {
		return nil
	}
	return checkDomain(s)
}

func checkALPN(s string) (string, error) {
	if s == "" || len(s) > 255 {
		return "", fmt.Errorf("is %s, want a name of 1 to 255 bytes", quote(s))
	}
	return s, nil
}

func readTLS(d *decoder, b *Backend) {
	t := new(TLS)
	if _, ok := tlsFields.read(d, t); ok {
		b.TLS = t
	}
}

func writeTLS(e *encoder, b *Backend) {
	if b.TLS == nil {
		return
	}
	t := *b.TLS
	if t.ServerName == b.defaultServerName() {
		t.ServerName = ""
	}
	if slices.Equal(t.ALPN, b.defaultALPN()) {
		t.ALPN = nil
	}
	e.field("tls")
	tlsFields.write(e, &t)
}

func readProbeRef(d *decoder, b *Backend) {
	switch d.peek() {
	case '"':
		raw, ok := d.text("")
		if !ok {
			return
		}
		if string(raw) == "none" {
			b.Probe.None = true
			return
		}
		name := string(raw)
		if err := ValidateName(name); err != nil {
			d.fail("%v", err)
			return
		}
		b.Probe.Name = name
	case '{':
		p := new(Probe)
		readProbe(d, p)
		b.Probe.Inline = p
	default:
		d.mistyped(`a probe's name, a probe, or "none"`)
	}
}

func writeProbeRef(e *encoder, b *Backend) {
	switch {
	case b.Probe.None:
		e.field("probe")
		e.text("none")
	case b.Probe.Name != "":
		e.field("probe")
		e.text(b.Probe.Name)
	case b.Probe.Inline != nil:
		e.field("probe")
		probeFields.write(e, b.Probe.Inline)
	}
}

// Label is a name and a value that a director may select by.
type Label struct{ Name, Value string }

// Labels is a set of labels in the order of their names, each name once.
type Labels []Label

// Get returns the value of a label.
func (l Labels) Get(name string) (value string, ok bool) {
	i, ok := slices.BinarySearchFunc(l, name, func(l Label, name string) int { return strings.Compare(l.Name, name) })
	if !ok {
		return "", false
	}
	return l[i].Value, true
}

// Match says whether all of the labels in want are in l.
func (l Labels) Match(want Labels) bool {
	for len(want) > 0 {
		if len(l) < len(want) {
			return false
		}
		switch c := strings.Compare(l[0].Name, want[0].Name); {
		case c < 0:
			l = l[1:]
		case c > 0 || l[0].Value != want[0].Value:
			return false
		default:
			l, want = l[1:], want[1:]
		}
	}
	return true
}

// labels is an object of any names with string values.
func labels[T any](name string, at func(*T) *Labels) field[T] {
	return field[T]{
		name: name,
		read: func(d *decoder, v *T) {
			var all Labels
			if !d.pairs("an object of strings", func(name string) {
				if name == "" {
					d.fail("is a label without a name")
				}
				if value, ok := d.text("a string"); ok {
					all = append(all, Label{name, string(value)})
				}
			}) {
				return
			}
			slices.SortStableFunc(all, func(a, b Label) int { return strings.Compare(a.Name, b.Name) })
			for i := 1; i < len(all); i++ {
				if all[i].Name == all[i-1].Name {
					mark := d.enter(all[i].Name)
					d.fail("is given twice")
					d.leave(mark)
				}
			}
			*at(v) = slices.Clip(all)
		},
		write: func(e *encoder, v *T) {
			all := *at(v)
			if len(all) == 0 {
				return
			}
			e.field(name)
			e.b = append(e.b, '{')
			for _, l := range all {
				e.field(l.Name)
				e.text(l.Value)
			}
			e.b = append(e.b, '}')
		},
		shape: labelsShape,
	}
}
