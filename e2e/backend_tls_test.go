package e2e_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
)

// An issuer signs certificates.
type issuer struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newIssuer(t testing.TB) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.cert, i.key, i.pem = i.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "e2e CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return i
}

// sign completes a certificate; the first one signs itself.
func (i *issuer) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	c.SerialNumber = big.NewInt(time.Now().UnixNano())
	c.NotBefore = time.Now().Add(-48 * time.Hour)
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(24 * time.Hour)
	}
	parent, signer := i.cert, i.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		i.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return cert, key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// issue is a certificate and key, in PEM, for names and addresses.
func (i *issuer) issue(c x509.Certificate, hosts ...string) (cert, key string) {
	i.t.Helper()
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
	_, k, cert := i.sign(&c)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		i.t.Fatal(err)
	}
	return cert, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// server is the configuration of an origin with a certificate for hosts.
func (i *issuer) server(hosts ...string) *tls.Config {
	i.t.Helper()
	cert, key := i.issue(x509.Certificate{}, hosts...)
	return i.config(cert, key)
}

func (i *issuer) config(cert, key string) *tls.Config {
	i.t.Helper()
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		i.t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}
}

// trust is the field ca.
func (i *issuer) trust() string {
	b, _ := json.Marshal(i.pem)
	return `"ca":` + string(b)
}

// certificate is the definition of one.
func certificate(cert, key string) string {
	b, _ := json.Marshal(map[string]string{"cert": cert, "key": key})
	return string(b)
}

// secure answers one request over TLS, and gives the connection's state.
func secure(s *harness.Socket, c *tls.Config, body string) (*harness.Wire, tls.ConnectionState) {
	w := s.Accept()
	state := w.Serve(c)
	serve(w, body)
	return w, state
}

var tlsTests = []planeTest{
	{"tls is verified by ca, for the name that is sent as SNI", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		origin := harness.Listen(t)
		config := ca.server("origin.test", "www.test", "localhost", "127.0.0.1")
		for i, test := range []struct{ def, sni string }{
			{fmt.Sprintf(`"host":%q,"tls":{%s,"server_name":"origin.test"}`, origin.Address(), ca.trust()), "origin.test"},
			{fmt.Sprintf(`"host":"localhost","port":%s,"tls":{%s}`, origin.Port(), ca.trust()), "localhost"},
			{fmt.Sprintf(`"host":%q,"tls":{%s}`, origin.Address(), ca.trust()), ""}, // an address, and it is in the certificate
			{fmt.Sprintf(`"host":%q,"host_header":"www.test:99","tls":{%s}`, origin.Address(), ca.trust()), "www.test"},
		} {
			name := fmt.Sprintf("b%d", i)
			p.backend(name, "{"+test.def+"}")
			c := p.ask(name)
			w, state := secure(origin, config, name)
			want(t, c.Response(), name)
			if state.ServerName != test.sni || state.Version < tls.VersionTLS12 {
				t.Errorf("%s: SNI %q, version %x, want %q", test.def, state.ServerName, state.Version, test.sni)
			}
			c.Send(p.get(name))
			serve(w, "again") // on the same connection
			want(t, c.Response(), "again")
		}
		if n := origin.Opened(); n != 4 {
			t.Errorf("%d connections, want 4: none is shared by different names", n)
		}
	}},
	{"a certificate that is not good is 502", func(t *testing.T, p *plane) {
		ca, other := newIssuer(t), newIssuer(t)
		origin := harness.Listen(t)
		expired, key := ca.issue(x509.Certificate{NotAfter: time.Now().Add(-time.Hour)}, "origin.test")
		for i, test := range []struct {
			name, fields string
			config       *tls.Config
		}{
			{"another name", ca.trust() + `,"server_name":"other.test"`, ca.server("origin.test")},
			{"an address that is not in it", ca.trust(), ca.server("origin.test")},
			{"another issuer", ca.trust() + `,"server_name":"origin.test"`, other.server("origin.test")},
			{"an issuer that the system does not know", `"server_name":"origin.test"`, ca.server("origin.test")},
			{"expired", ca.trust() + `,"server_name":"origin.test"`, ca.config(expired, key)},
		} {
			name := fmt.Sprintf("b%d", i)
			p.backend(name, at(origin, `"tls":{`+test.fields+`}`))
			c := p.ask(name)
			raw := origin.Accept()
			if err := tls.Server(raw.Conn, test.config).HandshakeContext(t.Context()); err == nil {
				raw.Close() // TLS 1.3: the refusal comes later
			}
			if m := c.Response(); m.Status() != 502 || m.Get("proxy-status") != "roster; error=tls_certificate_error" {
				t.Errorf("%s: %v, want 502 for tls_certificate_error", test.name, m)
			}
			if got := raw.Received(); got != "" {
				t.Errorf("%s: %q", test.name, got)
			}
		}
	}},
	{"insecure_skip_verify takes any certificate", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"tls":{"insecure_skip_verify":true,"server_name":"origin.test"}`))
		c := p.ask("b")
		_, state := secure(origin, newIssuer(t).server("elsewhere.test"), "one")
		want(t, c.Response(), "one")
		if state.ServerName != "origin.test" {
			t.Errorf("SNI %q", state.ServerName)
		}
	}},
	{"a client certificate is shown by name, and its successor when it is replaced", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		origin := harness.Listen(t)
		config := ca.server("127.0.0.1")
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, x509.NewCertPool()
		config.ClientCAs.AddCert(ca.cert)
		usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		p.backend("b", at(origin, fmt.Sprintf(`"tls":{%s,"certificate":%q}`, ca.trust(), p.name("mine"))))
		wantError(t, p.ask("b").Response(), 503, "destination_unavailable") // there is none yet
		for _, cn := range []string{"first", "second"} {
			cert, key := ca.issue(x509.Certificate{Subject: pkix.Name{CommonName: cn}, ExtKeyUsage: usage}, cn+".test")
			p.put("certificates/"+p.name("mine"), certificate(cert, key))
			c := p.ask("b")
			_, state := secure(origin, config, cn)
			want(t, c.Response(), cn)
			if len(state.PeerCertificates) == 0 || state.PeerCertificates[0].Subject.CommonName != cn {
				t.Errorf("certificates %v, want that of %s", state.PeerCertificates, cn)
			}
		}
		p.backend("without", at(origin, fmt.Sprintf(`"tls":{%s}`, ca.trust())))
		c := p.ask("without")
		raw := origin.Accept()
		if err := tls.Server(raw.Conn, config).HandshakeContext(t.Context()); err == nil {
			t.Error("the origin took a client without certificate")
		}
		raw.Close()
		if m := c.Response(); m.Status() != 502 {
			t.Errorf("without a certificate: %v, want 502", m)
		}
	}},
	{"alpn is offered as it is written", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		origin := harness.Listen(t)
		config := ca.server("127.0.0.1")
		var offered []string
		config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			offered = hello.SupportedProtos
			return nil, nil
		}
		config.NextProtos = []string{"http/1.1"}
		for i, test := range []struct{ more, offered string }{
			{``, "[]"},
			{`,"alpn":["x-test","http/1.1"]`, "[x-test http/1.1]"},
		} {
			name := fmt.Sprintf("b%d", i)
			p.backend(name, at(origin, fmt.Sprintf(`"tls":{%s%s}`, ca.trust(), test.more)))
			c := p.ask(name)
			secure(origin, config, name)
			want(t, c.Response(), name)
			if got := fmt.Sprint(offered); got != test.offered {
				t.Errorf("%s: offered %s, want %s", test.more, got, test.offered)
			}
		}
	}},
	{"sessions are resumed", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		origin := harness.Listen(t)
		config := ca.server("127.0.0.1")
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			name := fmt.Sprintf("b%x", version)
			p.backend(name, at(origin, fmt.Sprintf(`"reuse":false,"pool":%q,"tls":{%s}`, name, ca.trust())))
			config := config.Clone()
			config.MaxVersion = version
			for n, resumed := range []bool{false, true, true} {
				c := p.ask(name)
				w, state := secure(origin, config, name)
				want(t, c.Response(), name)
				w.End()
				if state.DidResume != resumed {
					t.Errorf("version %x, connection %d: resumed %v, want %v", version, n, state.DidResume, resumed)
				}
			}
		}
	}},
	{"a handshake that does not end is a connect timeout, one that fails is 502", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("slow", at(origin, `"connect_timeout":"100ms","tls":{}`))
		wantError(t, p.ask("slow").Response(), 504, "connection_timeout")
		origin.Accept().Close()
		p.backend("b", at(origin, `"tls":{}`))
		c := p.ask("b")
		w := origin.Accept()
		w.Take(5)
		w.CloseWrite()
		wantError(t, c.Response(), 502, "connection_terminated")
		c.Send(p.get("b"))
		w = origin.Accept()
		w.Send("HTTP/1.1 400 Bad Request\r\n\r\n")
		wantError(t, c.Response(), 502, "tls_protocol_error")
		c.Send(p.get("b"))
		w = origin.Accept()
		w.Take(5)
		w.Send("\x15\x03\x03\x00\x02\x02\x28") // alert: handshake failure
		wantError(t, c.Response(), 502, "tls_alert_received")
	}},
	{"preamble and PROXY header come before the handshake", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		origin := harness.Listen(t)
		p.backend("b", at(origin, fmt.Sprintf(`"preamble":"aGVsbG8NCg==","proxy_header":1,"tls":{%s}`, ca.trust())))
		c := p.ask("b")
		w := origin.Accept()
		if got := w.Line(); got != "hello\r\n" {
			t.Errorf("first %q", got)
		}
		header := fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", addrPort(c.LocalAddr()).Port(), addrPort(c.RemoteAddr()).Port())
		if got := w.Line(); got != header {
			t.Errorf("second %q, want %q", got, header)
		}
		w.Serve(ca.server("127.0.0.1"))
		serve(w, "one")
		want(t, c.Response(), "one")
	}},
	{"TLS through a via, and to the via", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		gate := harness.Listen(t)
		p.backend("plain", at(gate))
		p.backend("secure", at(gate, fmt.Sprintf(`"tls":{%s,"server_name":"gate.test"}`, ca.trust())))
		header := v2(netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("192.0.2.1:443"), authority("origin.test"))
		for _, via := range []string{"plain", "secure"} {
			name := "b-" + via
			p.backend(name, fmt.Sprintf(`{"host":"192.0.2.1","host_header":"origin.test","via":%q,"tls":{%s}}`, p.name(via), ca.trust()))
			c := p.ask(name)
			w := gate.Accept()
			if via == "secure" {
				if state := w.Serve(ca.server("gate.test")); state.ServerName != "gate.test" {
					t.Errorf("SNI to the via %q", state.ServerName)
				}
			}
			if got := w.Take(len(header)); got != header {
				t.Errorf("%s: header %q, want %q", via, got, header)
			}
			if state := w.Serve(ca.server("origin.test")); state.ServerName != "origin.test" {
				t.Errorf("SNI to the backend %q", state.ServerName)
			}
			serve(w, name)
			want(t, c.Response(), name)
		}
	}},
	{"backends share connections by their TLS settings", func(t *testing.T, p *plane) {
		ca := newIssuer(t)
		config := ca.server("a.test", "b.test", "127.0.0.1")
		for i, test := range []struct {
			one, other string
			shared     bool
		}{
			{`"tls":{CA}`, `"tls":{CA},"comment":"c"`, true},
			{`"tls":{CA,"server_name":"a.test"}`, `"tls":{CA,"server_name":"b.test"}`, false},
			{`"tls":{CA}`, `"tls":{CA,"alpn":["http/1.1"]}`, false},
			{`"tls":{CA}`, `"tls":{CA,"insecure_skip_verify":true}`, false},
			{`"tls":{"insecure_skip_verify":true}`, `"tls":{CA,"insecure_skip_verify":true}`, false},
		} {
			origin := harness.Listen(t)
			origin.Each(func(w *harness.Wire) {
				s := tls.Server(w.Conn, config)
				secure := harness.NewWire(t, s)
				for s.Handshake() == nil {
					if _, err := secure.ReadRequest(); err != nil {
						return
					}
					fmt.Fprint(s, answer("secure"))
				}
			})
			c := p.client()
			for n, def := range []string{test.one, test.other} {
				name := fmt.Sprintf("b%d-%d", i, n)
				p.backend(name, at(origin, strings.ReplaceAll(def, "CA", ca.trust())))
				c.Send(p.get(name))
				want(t, c.Response(), "secure")
			}
			if got := origin.Opened() == 1; got != test.shared {
				t.Errorf("%s and %s: %d connections, shared is to be %v", test.one, test.other, origin.Opened(), test.shared)
			}
		}
	}},
}
