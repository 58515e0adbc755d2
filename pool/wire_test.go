package pool

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"roster/store"
)

// An origin is a real listener whose connections the test serves by hand.
type origin struct {
	net.Listener
	t *testing.T
}

func listen(t *testing.T, network, address string) *origin {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &origin{l, t}
}

func (o *origin) accept() net.Conn {
	o.t.Helper()
	c, err := o.Listener.Accept()
	if err != nil {
		o.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	o.t.Cleanup(func() { c.Close() })
	return c
}

// backend is the definition of a plain backend at the origin.
func (o *origin) backend() store.Backend {
	b := store.Backend{Protocol: store.HTTP1, IdleTimeout: time.Minute}
	switch a := o.Addr().(type) {
	case *net.TCPAddr:
		b.Host, b.Port = a.IP.String(), uint16(a.Port)
	case *net.UnixAddr:
		b.Path = a.Name
	}
	return b
}

func read(t *testing.T, r io.Reader, n int) string {
	t.Helper()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// manager returns a Manager that runs until the test's end.
func manager(t *testing.T, c Config) *Manager {
	t.Helper()
	c.Logger = silent
	m := New(c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return m
}

func acquireWith(t *testing.T, m *Manager, def store.Backend, deps Deps) *Pool {
	t.Helper()
	p, err := m.Acquire(&def, deps)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Release)
	return p
}

const (
	hello     = "GET / HTTP/1.1\r\n\r\n"
	signature = "\r\n\r\n\x00\r\nQUIT\n"
)

var (
	client = netip.MustParseAddrPort("192.0.2.7:50000")
	server = netip.MustParseAddrPort("198.51.100.1:80")
)

func port(p uint16) string { return string(binary.BigEndian.AppendUint16(nil, p)) }

// What is sent first, and its order: preamble, then PROXY header, then the request.
func TestPrologueOnTheWire(t *testing.T) {
	t.Parallel()
	v4 := signature + "\x21\x11\x00\x0c" + "\xc0\x00\x02\x07" + "\xc6\x33\x64\x01" + "\xc3\x50" + "\x00\x50"
	for _, row := range []struct {
		name   string
		change func(*store.Backend)
		req    Request
		want   string
	}{
		{"nothing", func(b *store.Backend) {}, Request{Client: client, Server: server}, ""},
		{"preamble", func(b *store.Backend) { b.Preamble = []byte("pre\r\n") }, Request{}, "pre\r\n"},
		{"PROXY 1", func(b *store.Backend) { b.ProxyHeader = 1 }, Request{Client: client, Server: server},
			"PROXY TCP4 192.0.2.7 198.51.100.1 50000 80\r\n"},
		{"PROXY 1 for a unix client", func(b *store.Backend) { b.ProxyHeader = 1 }, Request{}, "PROXY UNKNOWN\r\n"},
		{"PROXY 2", func(b *store.Backend) { b.ProxyHeader = 2 }, Request{Client: client, Server: server}, v4},
		{"PROXY 2 for a unix client", func(b *store.Backend) { b.ProxyHeader = 2 }, Request{Server: server}, signature + "\x21\x00\x00\x00"},
		{"preamble and PROXY 2", func(b *store.Backend) { b.ProxyHeader, b.Preamble = 2, []byte("pre") }, Request{Client: client, Server: server}, "pre" + v4},
	} {
		for _, how := range []string{"Write", "WriteBuffers", "RoundTrip", "TakePrologue"} {
			t.Run(row.name+"/"+how, func(t *testing.T) {
				t.Parallel()
				o := listen(t, "tcp", "127.0.0.1:0")
				def := o.backend()
				row.change(&def)
				p := acquireWith(t, manager(t, Config{}), def, Deps{})
				c, err := p.Get(t.Context(), row.req)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Discard()
				there := o.accept()
				answered := make(chan error, 1)
				switch how {
				case "Write":
					n, err := c.Write([]byte(hello))
					if n != len(hello) || err != nil {
						t.Errorf("Write = %d, %v", n, err)
					}
				case "WriteBuffers":
					bufs := net.Buffers{[]byte(hello[:5]), []byte(hello[5:])}
					if n, err := c.WriteBuffers(&bufs); n != int64(len(hello)) || err != nil {
						t.Errorf("WriteBuffers = %d, %v", n, err)
					}
				case "RoundTrip":
					go func() {
						_, err := c.RoundTrip([]byte(hello[:5]), []byte(hello[5:]), make([]byte, 9))
						answered <- err
					}()
				case "TakePrologue":
					c.Conn.Write(append(clip(c.TakePrologue()), hello...))
				}
				if got, want := read(t, there, len(row.want)+len(hello)), row.want+hello; got != want {
					t.Errorf("\n got %q\nwant %q", got, want)
				}
				if how == "RoundTrip" {
					there.Write([]byte("x"))
					if err := <-answered; err != nil {
						t.Error(err)
					}
				}
				if c.TakePrologue() != nil {
					t.Error("the prologue would be sent twice")
				}
				// Only once.
				c.Write([]byte("again"))
				if got := read(t, there, 5); got != "again" {
					t.Errorf("second write: %q", got)
				}
			})
		}
	}
}

func TestUnixAndAbstractSockets(t *testing.T) {
	t.Parallel()
	for _, path := range []string{filepath.Join(t.TempDir(), "s"), fmt.Sprintf("@roster-pool-test-%d", os.Getpid())} {
		o := listen(t, "unix", path)
		def := o.backend()
		def.Path, def.ProxyHeader = path, 1
		p := acquireWith(t, manager(t, Config{}), def, Deps{})
		c, err := p.Get(t.Context(), Request{Client: client, Server: server})
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(hello))
		want := "PROXY TCP4 192.0.2.7 198.51.100.1 50000 80\r\n" + hello
		if got := read(t, o.accept(), len(want)); got != want {
			t.Errorf("%s: got %q", path, got)
		}
		c.Discard()
		c, err = p.DialProbe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(hello))
		want = "PROXY UNKNOWN\r\n" + hello
		if got := read(t, o.accept(), len(want)); got != want {
			t.Errorf("%s: probe sent %q", path, got)
		}
		c.Discard()
	}
}

func TestMissingSocketIsRefused(t *testing.T) {
	t.Parallel()
	p := acquireWith(t, manager(t, Config{}), store.Backend{Path: filepath.Join(t.TempDir(), "none"), Protocol: store.HTTP1}, Deps{})
	_, err := p.Get(t.Context(), Request{})
	wantKind(t, err, Refused, false)
	_, err = p.Get(t.Context(), Request{})
	wantKind(t, err, Refused, true)
}

func TestRefusedPort(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	def := o.backend()
	o.Close()
	p := acquireWith(t, manager(t, Config{}), def, Deps{})
	_, err := p.Get(t.Context(), Request{})
	e := wantKind(t, err, Refused, false)
	if want := fmt.Sprintf("pool: connect 127.0.0.1:%d: connection refused", def.Port); e.Error() != want {
		t.Errorf("Error = %q, want %q", e, want)
	}
}

// Probes: version 1 has the connection's own address at both ends, version 2 is LOCAL.
func TestProxyHeaderOfProbes(t *testing.T) {
	t.Parallel()
	for version := 1; version <= 2; version++ {
		o := listen(t, "tcp", "127.0.0.1:0")
		def := o.backend()
		def.ProxyHeader, def.Preamble = version, []byte("pre")
		p := acquireWith(t, manager(t, Config{}), def, Deps{})
		c, err := p.DialProbe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(hello))
		own := c.LocalAddr().(*net.TCPAddr)
		want := fmt.Sprintf("prePROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", own.Port, own.Port)
		if version == 2 {
			want = "pre" + signature + "\x20\x00\x00\x00"
		}
		if got := read(t, o.accept(), len(want+hello)); got != want+hello {
			t.Errorf("version %d: got %q, want %q", version, got, want+hello)
		}
		c.Discard()
	}
}

func TestViaIsToldTheBackendsAddress(t *testing.T) {
	t.Parallel()
	o := listen(t, "unix", filepath.Join(t.TempDir(), "via"))
	via := o.backend()
	via.Preamble = []byte("hop")
	z := &zone{}
	z.set("web.example", "10.0.0.7", "10.0.0.8")
	m := manager(t, Config{Resolver: z})
	for _, row := range []struct{ name, host, authority, address, tlv string }{
		{"address", "10.0.0.9", "", "\x0a\x00\x00\x09", ""},
		{"name", "web.example", "web.example", "\x0a\x00\x00\x07", "\x02\x00\x0bweb.example"},
	} {
		def := store.Backend{Host: row.host, Port: 8080, Via: "hop", Authority: row.authority, Preamble: []byte("pre"), Protocol: store.HTTP1}
		p := acquireWith(t, m, def, Deps{Via: &via})
		c, err := p.Get(t.Context(), Request{Client: client, Server: server})
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte(hello))
		want := "hop" + signature + "\x21\x11" + port(uint16(12+len(row.tlv))) + "\x00\x00\x00\x00" + row.address + "\x00\x00" + port(8080) + row.tlv + "pre" + hello
		there := o.accept()
		if got := read(t, there, len(want)); got != want {
			t.Errorf("%s:\n got %q\nwant %q", row.name, got, want)
		}
		c.Put()
		c, err = p.Get(t.Context(), Request{})
		if err != nil || !c.Reused() {
			t.Fatalf("a connection through a via is not shared: %v, %v", c, err)
		}
		c.Write([]byte(hello))
		if got := read(t, there, len(hello)); got != hello {
			t.Errorf("%s: second request came as %q", row.name, got)
		}
		c.Discard()
	}
}

func TestProhibitedDestinationIsNotDialled(t *testing.T) {
	t.Parallel()
	admin := listen(t, "tcp", "127.0.0.1:0")
	adminAddr := admin.Addr().(*net.TCPAddr).AddrPort()
	z := &zone{}
	z.set("rebound.example", "127.0.0.1")
	z.set("meta.example", "169.254.169.254")
	z.set("mixed.example", "169.254.169.254", "127.0.0.2")
	elsewhere := listen(t, "tcp", fmt.Sprintf("127.0.0.2:%d", adminAddr.Port()))
	m := manager(t, Config{Resolver: z, Rules: Rules{Self: []netip.AddrPort{adminAddr}, PathDir: t.TempDir()}})
	harmless := store.Backend{Host: "127.0.0.3", Port: 1}
	bad := store.Backend{Host: "169.254.169.254", Port: 80}
	for _, row := range []struct {
		name string
		def  store.Backend
		deps Deps
	}{
		{"own address", store.Backend{Host: "127.0.0.1", Port: adminAddr.Port()}, Deps{}},
		{"own address, mapped", store.Backend{Host: "::ffff:127.0.0.1", Port: adminAddr.Port()}, Deps{}},
		{"own address, unspecified", store.Backend{Host: "0.0.0.0", Port: adminAddr.Port()}, Deps{}},
		{"name of own address", store.Backend{Host: "rebound.example", Port: adminAddr.Port()}, Deps{}},
		{"name of metadata service", store.Backend{Host: "meta.example", Port: 80}, Deps{}},
		{"via", store.Backend{Host: "10.0.0.1", Port: 80, Via: "v"}, Deps{Via: &bad}},
		{"backend behind a via", store.Backend{Host: "169.254.169.254", Port: 80, Via: "v"}, Deps{Via: &harmless}},
		{"path", store.Backend{Path: "/var/run/docker.sock"}, Deps{}},
	} {
		p := acquireWith(t, m, row.def, row.deps)
		for name, dial := range map[string]func() (*Conn, error){
			"request": func() (*Conn, error) { return p.Get(t.Context(), Request{ConnectTimeout: time.Second}) },
			"probe":   func() (*Conn, error) { return p.DialProbe(t.Context()) },
		} {
			_, err := dial()
			var e *Error
			if !errors.As(err, &e) || e.Kind != Prohibited || e.ProxyStatus() != "destination_ip_prohibited" {
				t.Errorf("%s, %s: %v", row.name, name, err)
			}
		}
	}
	// The addresses of a name that may be reached are.
	p := acquireWith(t, m, store.Backend{Host: "mixed.example", Port: adminAddr.Port()}, Deps{})
	c, err := p.Get(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.accept()
	c.Discard()
}

// A close that has arrived on an idle connection is never met by a request.
func TestCloseSeenOnIdleConnectionRemovesItBeforeUse(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		for how, what := range map[string]func(net.Conn){
			"closed": func(c net.Conn) { c.Close() },
			"reset": func(c net.Conn) {
				if tcp, ok := c.(*net.TCPConn); ok {
					tcp.SetLinger(0)
				}
				c.Close()
			},
			"half closed":      func(c net.Conn) { c.(interface{ CloseWrite() error }).CloseWrite() },
			"unasked answer":   func(c net.Conn) { c.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n")) },
			"answer and close": func(c net.Conn) { c.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n")); c.Close() },
		} {
			t.Run(network+"/"+how, func(t *testing.T) {
				t.Parallel()
				address := "127.0.0.1:0"
				if network == "unix" {
					address = filepath.Join(t.TempDir(), "s")
				}
				o := listen(t, network, address)
				p := acquireWith(t, manager(t, Config{}), o.backend(), Deps{})
				older := get(t, p)
				olderEnd := o.accept()
				newer := get(t, p)
				newerEnd := o.accept()
				older.Put()
				newer.Put()
				what(newerEnd)
				if c := get(t, p); c != older || !c.Reused() {
					t.Error("not the connection that is still open")
				}
				older.Put()
				what(olderEnd)
				c := get(t, p)
				if c.Reused() {
					t.Error("reused a connection that was closed")
				}
				c.Discard()
				checkCounts(t, p)
				if s := p.Stats(); s != (Stats{Opened: 3, Closed: 3, Reused: 1}) {
					t.Errorf("Stats = %+v", s)
				}
			})
		}
	}
}

// The janitor removes them from pools that nobody uses.
func TestSweepClosesWhatTheBackendClosed(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	m := New(Config{})
	p := acquireWith(t, m, o.backend(), Deps{})
	var conns []*Conn
	var ends []net.Conn
	for range 3 * sweepChunk {
		conns = append(conns, get(t, p))
		ends = append(ends, o.accept())
	}
	for i, c := range conns {
		c.Put()
		if i%2 == 0 {
			ends[i].Close()
		}
	}
	p.sweep(m.now())
	if s := p.Stats(); s.Idle != len(conns)/2 {
		t.Errorf("idle = %d of %d, want half", s.Idle, len(conns))
	}
	checkCounts(t, p)
	for range len(conns) / 2 {
		if c := get(t, p); !c.Reused() {
			t.Fatal("an open connection was lost")
		}
	}
}

// authority is a certificate authority of its own.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newCA(t *testing.T) *testCA {
	t.Helper()
	ca := &testCA{}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	ca.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, ca.key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	ca.cert, _ = x509.ParseCertificate(der)
	ca.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return ca
}

func (ca *testCA) issue(t *testing.T, names ...string) *store.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: names[0]},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, _ := x509.MarshalECPrivateKey(key)
	return &store.Certificate{
		Cert: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Key:  string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})),
	}
}

func pair(t *testing.T, c *store.Certificate) tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair([]byte(c.Cert), []byte(c.Key))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestTLS(t *testing.T) {
	t.Parallel()
	ca, other := newCA(t), newCA(t)
	cert := pair(t, ca.issue(t, "web.example", "127.0.0.1"))
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	z := &zone{}
	z.set("web.example", "127.0.0.1")
	for _, row := range []struct {
		name   string
		server *tls.Config
		host   string // "" = 127.0.0.1
		tls    store.TLS
		deps   Deps
		status string // Proxy-Status error
		check  func(*testing.T, tls.ConnectionState)
	}{
		{"verified by address", &tls.Config{}, "", store.TLS{CA: ca.pem}, Deps{}, "", func(t *testing.T, s tls.ConnectionState) {
			if s.ServerName != "" || s.NegotiatedProtocol != "" {
				t.Errorf("SNI, ALPN = %q, %q, want none", s.ServerName, s.NegotiatedProtocol)
			}
		}},
		{"verified by host", &tls.Config{}, "web.example", store.TLS{CA: ca.pem}, Deps{}, "", func(t *testing.T, s tls.ConnectionState) {
			if s.ServerName != "web.example" {
				t.Errorf("SNI = %q", s.ServerName)
			}
		}},
		{"verified by server_name", &tls.Config{}, "", store.TLS{CA: ca.pem, ServerName: "web.example"}, Deps{}, "", func(t *testing.T, s tls.ConnectionState) {
			if s.ServerName != "web.example" {
				t.Errorf("SNI = %q", s.ServerName)
			}
		}},
		{"another name", &tls.Config{}, "", store.TLS{CA: ca.pem, ServerName: "other.example"}, Deps{}, "tls_certificate_error", nil},
		{"another authority", &tls.Config{}, "", store.TLS{CA: other.pem}, Deps{}, "tls_certificate_error", nil},
		{"the system's authorities", &tls.Config{}, "", store.TLS{}, Deps{}, "tls_certificate_error", nil},
		{"not verified", &tls.Config{}, "", store.TLS{InsecureSkipVerify: true}, Deps{}, "", nil},
		{"client certificate", &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: tls.VersionTLS12}, "",
			store.TLS{CA: ca.pem, Certificate: "c"}, Deps{Certificate: ca.issue(t, "me")}, "", func(t *testing.T, s tls.ConnectionState) {
				if len(s.PeerCertificates) != 1 || s.PeerCertificates[0].Subject.CommonName != "me" {
					t.Errorf("client certificate: %v", s.PeerCertificates)
				}
			}},
		{"client certificate missing", &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MaxVersion: tls.VersionTLS12}, "",
			store.TLS{CA: ca.pem}, Deps{}, "tls_alert_received", nil},
		{"ALPN", &tls.Config{NextProtos: []string{"h2"}}, "", store.TLS{CA: ca.pem, ALPN: []string{"h2"}}, Deps{}, "", func(t *testing.T, s tls.ConnectionState) {
			if s.NegotiatedProtocol != "h2" {
				t.Errorf("ALPN = %q", s.NegotiatedProtocol)
			}
		}},
		{"TLS 1.2", &tls.Config{MaxVersion: tls.VersionTLS12}, "", store.TLS{CA: ca.pem}, Deps{}, "", nil},
		{"TLS 1.1", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "", store.TLS{CA: ca.pem}, Deps{}, "tls_alert_received", nil},
		{"CA that is none", &tls.Config{}, "", store.TLS{CA: "x"}, Deps{}, "tls_protocol_error", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := listen(t, "tcp", "127.0.0.1:0")
			m := manager(t, Config{Resolver: z})
			def := o.backend()
			def.TLS, def.Preamble, def.ProxyHeader = &row.tls, []byte("pre"), 1
			if row.host != "" {
				def.Host = row.host
			}
			state := make(chan tls.ConnectionState, 1)
			served := make(chan struct{})
			go func() {
				defer close(served)
				conn, err := o.Listener.Accept()
				if err != nil {
					return // it was not dialled at all
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(10 * time.Second))
				// What is sent first comes in the clear.
				want := "prePROXY TCP4 192.0.2.7 198.51.100.1 50000 80\r\n"
				got := make([]byte, len(want))
				if _, err := io.ReadFull(conn, got); err != nil {
					return // given up before the handshake
				}
				if string(got) != want {
					t.Errorf("prologue %q, want %q", got, want)
				}
				row.server.Certificates = []tls.Certificate{cert}
				s := tls.Server(conn, row.server)
				if s.Handshake() == nil {
					state <- s.ConnectionState()
					io.Copy(s, s)
				} else {
					io.Copy(io.Discard, conn) // so that the alert is not lost to a reset
				}
			}()
			c, err := acquireWith(t, m, def, row.deps).Get(t.Context(), Request{Client: client, Server: server, ConnectTimeout: 5 * time.Second})
			if row.status != "" {
				var e *Error
				if !errors.As(err, &e) || e.ProxyStatus() != row.status || e.Stage != Handshake {
					t.Errorf("Get = %v, want status %s", err, row.status)
				}
				o.Close()
				<-served
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if n, err := c.RoundTrip([]byte("he"), []byte("llo"), make([]byte, 9)); n != 5 || err != nil {
				t.Errorf("RoundTrip = %d, %v", n, err)
			}
			if s := <-state; row.check != nil {
				row.check(t, s)
			}
			if got := c.Protocol(); len(row.tls.ALPN) > 0 && got != row.tls.ALPN[0] {
				t.Errorf("Protocol = %q", got)
			}
			c.Discard()
			<-served
		})
	}
}

// A TLS connection is checked for liveness like any other, and a new one
// resumes the session.
func TestTLSIsReusedAndResumed(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	config := &tls.Config{Certificates: []tls.Certificate{pair(t, ca.issue(t, "127.0.0.1"))}}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := config.Clone()
		config.MaxVersion = version
		o := listen(t, "tcp", "127.0.0.1:0")
		def := o.backend()
		def.TLS = &store.TLS{CA: ca.pem}
		p := acquireWith(t, manager(t, Config{}), def, Deps{})
		serve := func() (end *tls.Conn, resumed chan bool) {
			resumed = make(chan bool, 1)
			end = tls.Server(o.accept(), config)
			go func() {
				b := make([]byte, 9)
				for {
					n, err := end.Read(b)
					if err != nil {
						return
					}
					end.Write(b[:n])
				}
			}()
			return end, resumed
		}
		got := make(chan *Conn)
		open := func() (*Conn, *tls.Conn) {
			go func() {
				c, err := p.Get(t.Context(), Request{ConnectTimeout: 5 * time.Second})
				if err != nil {
					t.Error(err)
				}
				got <- c
			}()
			end, _ := serve()
			return <-got, end
		}
		c, end := open()
		b := make([]byte, 9)
		for range 3 {
			if n, err := c.RoundTrip([]byte("hello"), nil, b); n != 5 || err != nil {
				t.Fatalf("RoundTrip = %d, %v", n, err)
			}
			c.Put()
			if c = get(t, p); !c.Reused() {
				t.Fatal("not reused")
			}
		}
		c.Put()
		end.Close()
		c, end = open()
		if c.Reused() || !c.Conn.(*tls.Conn).ConnectionState().DidResume {
			t.Errorf("%s: reused %v, resumed %v, want a new connection that resumes", tls.VersionName(version), c.Reused(), c.Conn.(*tls.Conn).ConnectionState().DidResume)
		}
		c.Discard()
		end.Close()
	}
}

func TestHandshakeFailures(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		serve  func(net.Conn)
		kind   Kind
		status string
	}{
		{"closed", func(c net.Conn) { c.Read(make([]byte, 4096)); c.Close() }, Terminated, "connection_terminated"},
		{"no TLS", func(c net.Conn) { c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n")) }, TLS, "tls_protocol_error"},
		{"silent", func(c net.Conn) {}, Timeout, "connection_timeout"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := listen(t, "tcp", "127.0.0.1:0")
			def := o.backend()
			def.TLS = &store.TLS{InsecureSkipVerify: true}
			p := acquireWith(t, manager(t, Config{}), def, Deps{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				row.serve(o.accept())
			}()
			timeout := 10 * time.Second
			if row.kind == Timeout {
				timeout = 50 * time.Millisecond
			}
			_, err := p.Get(t.Context(), Request{ConnectTimeout: timeout})
			e := wantKind(t, err, row.kind, false)
			if e.ProxyStatus() != row.status || e.Stage != Handshake {
				t.Errorf("status %s at %s, want %s", e.ProxyStatus(), e.Stage, row.status)
			}
			<-done
		})
	}
}

// A via with TLS: its own TLS first, then the PROXY header inside, then the
// backend's TLS inside that.
func TestViaWithTLSCarriesTheBackendsTLS(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	o := listen(t, "tcp", "127.0.0.1:0")
	via := o.backend()
	via.TLS = &store.TLS{CA: ca.pem, ServerName: "via.example"}
	def := store.Backend{Host: "10.0.0.7", Port: 443, Via: "v", Authority: "web.example", Protocol: store.HTTP1, TLS: &store.TLS{CA: ca.pem, ServerName: "web.example"}}
	p := acquireWith(t, manager(t, Config{}), def, Deps{Via: &via})
	served := make(chan struct{})
	go func() {
		defer close(served)
		outer := tls.Server(o.accept(), &tls.Config{Certificates: []tls.Certificate{pair(t, ca.issue(t, "via.example"))}})
		want := signature + "\x21\x11\x00\x1a\x00\x00\x00\x00\x0a\x00\x00\x07\x00\x00\x01\xbb\x02\x00\x0bweb.example"
		if got := read(t, outer, len(want)); got != want {
			t.Errorf("via got %q", got)
		}
		inner := tls.Server(outer, &tls.Config{Certificates: []tls.Certificate{pair(t, ca.issue(t, "web.example"))}})
		if got := read(t, inner, len(hello)); got != hello {
			t.Errorf("backend got %q", got)
		}
		inner.Write([]byte("ok"))
	}()
	c, err := p.Get(t.Context(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	if n, err := c.RoundTrip([]byte(hello), nil, b); err != nil || string(b[:n]) != "ok" {
		t.Errorf("RoundTrip = %q, %v", b[:n], err)
	}
	c.Discard()
	<-served
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("x", 8<<20)
	for _, row := range []struct {
		name, head, body string
		serve            func(t *testing.T, c net.Conn)
		want             string
		err              error
	}{
		{"head", hello, "", func(t *testing.T, c net.Conn) { read(t, c, len(hello)); c.Write([]byte("ok")) }, "ok", nil},
		{"head and body", hello, "body", func(t *testing.T, c net.Conn) {
			if got := read(t, c, len(hello)+4); got != hello+"body" {
				t.Errorf("got %q", got)
			}
			c.Write([]byte("ok"))
		}, "ok", nil},
		{"more than the socket takes", hello, big, func(t *testing.T, c net.Conn) {
			if got := read(t, c, len(hello)+len(big)); got != hello+big {
				t.Error("the body did not arrive as sent")
			}
			c.Write([]byte("ok"))
		}, "ok", nil},
		{"closed", hello, "", func(t *testing.T, c net.Conn) { read(t, c, len(hello)); c.Close() }, "", io.EOF},
		{"answer before the request", hello, "", func(t *testing.T, c net.Conn) { read(t, c, len(hello)) }, "early", nil},
		{"answer and close in the middle of a body", hello, big, func(t *testing.T, c net.Conn) {
			read(t, c, len(hello))
			c.Write([]byte("no"))
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}, "no|reset", nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := listen(t, "tcp", "127.0.0.1:0")
			p := acquireWith(t, manager(t, Config{}), o.backend(), Deps{})
			c := get(t, p)
			served := make(chan struct{})
			there := o.accept()
			if row.want == "early" {
				there.Write([]byte("early")) // it may say nothing more
				for alive(c.fd) {            // and the runtime may have been told already
					time.Sleep(time.Millisecond)
				}
			}
			go func() {
				defer close(served)
				row.serve(t, there)
			}()
			c.ArmRead(10 * time.Second)
			b := make([]byte, 99)
			n, err := c.RoundTrip([]byte(row.head), []byte(row.body), b)
			got := string(b[:n])
			switch {
			case row.want == "no|reset":
				// A reset may overtake the answer; never may both be missing.
				if got != "no" && err == nil {
					t.Errorf("RoundTrip = %q, %v", got, err)
				}
			case got != row.want || err != row.err:
				t.Errorf("RoundTrip = %q, %v, want %q, %v", got, err, row.want, row.err)
			}
			c.Discard()
			<-served
		})
	}
}

// The same without Get's look: RoundTrip finds out, and nothing was sent.
func TestRoundTripOnStaleConnectionSendsNothing(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	cert := pair(t, ca.issue(t, "127.0.0.1"))
	for _, secure := range []bool{false, true} {
		for how, what := range map[string]func(net.Conn){
			"closed":         func(c net.Conn) { c.Close() },
			"half closed":    func(c net.Conn) { c.(interface{ CloseWrite() error }).CloseWrite() },
			"unasked answer": func(c net.Conn) { c.Write([]byte("x")) },
			"open":           func(c net.Conn) {},
		} {
			t.Run(fmt.Sprintf("TLS=%v/%s", secure, how), func(t *testing.T) {
				t.Parallel()
				o := listen(t, "tcp", "127.0.0.1:0")
				def := o.backend()
				if secure {
					def.TLS = &store.TLS{CA: ca.pem}
				}
				p := acquireWith(t, manager(t, Config{}), def, Deps{})
				ends := make(chan net.Conn, 1)
				go func() {
					end := o.accept()
					if secure {
						end = tls.Server(end, &tls.Config{Certificates: []tls.Certificate{cert}})
					}
					if _, err := io.ReadFull(end, make([]byte, len(hello))); err != nil {
						t.Error(err)
					}
					end.Write([]byte("ok"))
					ends <- end
				}()
				b := make([]byte, 9)
				c := get(t, p)
				c.ArmRead(10 * time.Second)
				if n, err := c.RoundTrip([]byte(hello), nil, b); n != 2 || err != nil {
					t.Fatalf("RoundTrip = %d, %v", n, err)
				}
				c.Put()
				end := <-ends
				what(end)
				c, err := p.Get(t.Context(), Request{Unchecked: true})
				if err != nil || !c.Reused() {
					t.Fatal("not reused", err)
				}
				if how == "open" {
					go func() {
						io.ReadFull(end, make([]byte, len(hello)))
						end.Write([]byte("ok"))
					}()
				}
				_, err = c.RoundTrip([]byte(hello), nil, b)
				if want := map[bool]error{true: nil, false: ErrStale}[how == "open"]; err != want {
					t.Errorf("RoundTrip = %v, want %v", err, want)
				}
				c.Discard()
				if how == "half closed" || how == "unasked answer" {
					if rest, _ := io.ReadAll(end); len(rest) > 0 {
						t.Errorf("the origin got %q", rest)
					}
				}
			})
		}
	}
}

func TestRoundTripTimesOut(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	p := acquireWith(t, manager(t, Config{}), o.backend(), Deps{})
	c := get(t, p)
	defer c.Discard()
	there := o.accept()
	// An older deadline that fires early is not the one that counts.
	c.ArmRead(20 * time.Millisecond)
	c.ArmRead(100 * time.Millisecond)
	start := time.Now()
	_, err := c.RoundTrip([]byte(hello), nil, make([]byte, 9))
	if d := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || d < 100*time.Millisecond {
		t.Errorf("RoundTrip = %v after %v", err, d)
	}
	if got := read(t, there, len(hello)); got != hello {
		t.Errorf("origin got %q", got)
	}
	c.ArmRead(0)
	there.Write([]byte("late"))
	if n, err := c.RoundTrip([]byte(hello), nil, make([]byte, 9)); n != 4 || err != nil {
		t.Errorf("after the deadline was lifted: %d, %v", n, err)
	}
	if got := read(t, there, len(hello)); got != hello {
		t.Errorf("origin got %q", got)
	}
}

func TestAbortEndsReadsFromOutside(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	p := acquireWith(t, manager(t, Config{}), o.backend(), Deps{})
	c := get(t, p)
	there := o.accept()
	go func() {
		read(t, there, len(hello))
		c.Abort()
	}()
	if _, err := c.RoundTrip([]byte(hello), nil, make([]byte, 9)); err == nil {
		t.Error("RoundTrip was not ended")
	}
	c.Put()
	if s := p.Stats(); s != (Stats{Opened: 1, Closed: 1}) {
		t.Errorf("Stats = %+v, want the aborted connection closed", s)
	}
}

// Splice and writev need the socket itself.
func TestConnGivesItsSocket(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	p := acquireWith(t, manager(t, Config{}), o.backend(), Deps{})
	c := get(t, p)
	if c.TCP() == nil || c.Conn != net.Conn(c.TCP()) {
		t.Error("no TCP connection")
	}
	c.Discard()
}

// With the protocol h2 nothing else is spoken: a backend that does not choose it
// by ALPN is an error, not noise.
func TestBackendHasToAgreeOnH2(t *testing.T) {
	t.Parallel()
	ca := newCA(t)
	certificate := pair(t, ca.issue(t, "127.0.0.1"))
	for _, row := range []struct {
		name     string
		protocol store.Protocol
		alpn     []string // of the definition
		server   []string
		want     string // agreed on
		status   string // if that fails
	}{
		{"h2", store.HTTP2, nil, []string{"http/1.1", "h2"}, "h2", ""},
		{"h2 among others", store.HTTP2, []string{"h2", "http/1.1"}, []string{"h2"}, "h2", ""},
		{"the backend has no ALPN", store.HTTP2, nil, nil, "", "tls_protocol_error"},
		{"the backend refuses", store.HTTP2, nil, []string{"http/1.1"}, "", "tls_alert_received"},
		{"the backend chooses another", store.HTTP2, []string{"http/1.1", "h2"}, []string{"http/1.1"}, "", "tls_protocol_error"},
		{"http/1.1 offers nothing", store.HTTP1, nil, []string{"h2", "http/1.1"}, "", ""},
		{"http/1.1 offered", store.HTTP1, []string{"http/1.1"}, []string{"http/1.1"}, "http/1.1", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			o := listen(t, "tcp", "127.0.0.1:0")
			def := o.backend()
			def.Protocol = row.protocol
			def.TLS = &store.TLS{CA: ca.pem, ALPN: row.alpn}
			p := acquireWith(t, manager(t, Config{}), def, Deps{})
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				tls.Server(o.accept(), &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: row.server}).Handshake()
			}()
			c, err := p.Get(t.Context(), Request{ConnectTimeout: 10 * time.Second})
			<-ended
			if row.status != "" {
				if e := wantKind(t, err, TLS, false); e.ProxyStatus() != row.status || e.Stage != Handshake {
					t.Errorf("%v is %s, want %s", e, e.ProxyStatus(), row.status)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Discard()
			if c.Protocol() != row.want {
				t.Errorf("agreed on %q, want %q", c.Protocol(), row.want)
			}
		})
	}
}
