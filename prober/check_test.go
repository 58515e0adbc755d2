package prober

import (
	"fmt"
	"testing"

	"roster/pool"
	"roster/store"
)

// What makes two checks one, and what does not: section 3 of the contract.
func TestCheckIdentity(t *testing.T) {
	t.Parallel()
	const plain = `{"host": "web.example", "port": 8080}`
	via := decode[*store.Backend](t, store.Backends, `{"host": "10.0.0.1"}`)
	via2 := decode[*store.Backend](t, store.Backends, `{"host": "10.0.0.2"}`)
	base := func() *Check {
		return CheckOf(decode[*store.Backend](t, store.Backends, plain), probeOf(t, `{}`), pool.Deps{})
	}
	for _, row := range []struct {
		name, backend, probe string
		deps                 pool.Deps
		same                 bool
	}{
		{"window", plain, `{"window": 20}`, pool.Deps{}, true},
		{"threshold", plain, `{"threshold": 5}`, pool.Deps{}, true},
		{"initial", plain, `{"initial": 0}`, pool.Deps{}, true},
		{"the request as lines", plain, `{"request": ["GET / HTTP/1.1", "Host: web.example:8080", "Connection: close"]}`, pool.Deps{}, true},
		{"the port by the probe", `{"host": "web.example", "host_header": "web.example:8080"}`, `{"port": 8080}`, pool.Deps{}, true},
		{"case of the host", `{"host": "WEB.example", "port": 8080, "host_header": "web.example:8080"}`, `{}`, pool.Deps{}, true},
		{"limits, labels, timeouts, pool, reuse", `{"host": "web.example", "port": 8080, "max_connections": 5, "labels": {"a": "b"},
			"comment": "x", "connect_timeout": "1s", "idle_timeout": "1s", "pool": "p", "reuse": false, "override_host": true}`, `{}`, pool.Deps{}, true},

		{"type", plain, `{"type": "tcp"}`, pool.Deps{}, false},
		{"grpc", plain, `{"type": "grpc"}`, pool.Deps{}, false},
		{"host", `{"host": "web2.example", "port": 8080, "host_header": "web.example:8080"}`, `{}`, pool.Deps{}, false},
		{"port", `{"host": "web.example", "port": 8081, "host_header": "web.example:8080"}`, `{}`, pool.Deps{}, false},
		{"port of the probe", plain, `{"port": 9000}`, pool.Deps{}, false},
		{"host header", `{"host": "web.example", "port": 8080, "host_header": "x"}`, `{}`, pool.Deps{}, false},
		{"url", plain, `{"url": "/x"}`, pool.Deps{}, false},
		{"request", plain, `{"request": ["GET / HTTP/1.0"]}`, pool.Deps{}, false},
		{"timeout", plain, `{"timeout": "1s"}`, pool.Deps{}, false},
		{"interval", plain, `{"interval": "1s"}`, pool.Deps{}, false},
		{"expected response", plain, `{"expected_response": 204}`, pool.Deps{}, false},
		{"expect close", plain, `{"expect_close": false}`, pool.Deps{}, false},
		{"protocol", `{"host": "web.example", "port": 8080, "protocol": "h2c"}`, `{}`, pool.Deps{}, false},
		{"TLS", `{"host": "web.example", "port": 8080, "tls": {}, "host_header": "web.example:8080"}`, `{}`, pool.Deps{}, false},
		{"PROXY header", `{"host": "web.example", "port": 8080, "proxy_header": 1}`, `{}`, pool.Deps{}, false},
		{"preamble", `{"host": "web.example", "port": 8080, "preamble": "eA=="}`, `{}`, pool.Deps{}, false},
		{"via", `{"host": "web.example", "port": 8080, "via": "v"}`, `{}`, pool.Deps{Via: via}, false},
		{"via that is missing", `{"host": "web.example", "port": 8080, "via": "v"}`, `{}`, pool.Deps{}, false},
	} {
		c := CheckOf(decode[*store.Backend](t, store.Backends, row.backend), probeOf(t, row.probe), row.deps)
		if same := c.Key() == base().Key(); same != row.same {
			t.Errorf("%s: same check %v, want %v", row.name, same, row.same)
		}
	}

	key := func(backend, probe string, deps pool.Deps) Key {
		return CheckOf(decode[*store.Backend](t, store.Backends, backend), probeOf(t, probe), deps).Key()
	}
	cert := func(s string) *store.Certificate { return &store.Certificate{Cert: "c" + s, Key: "k" + s} }
	const (
		h2  = `{"host": "web.example", "port": 8080, "protocol": "h2c"}`
		tls = `{"host": "web.example", "tls": {"certificate": "c"}}`
		v   = `{"host": "web.example", "via": "v"}`
	)
	for _, row := range []struct {
		name string
		a, b Key
		same bool
	}{
		{"request and expect_close do not apply to HTTP/2", key(h2, `{}`, pool.Deps{}), key(h2, `{"request": ["GET / HTTP/1.1"], "expect_close": false}`, pool.Deps{}), true},
		{"url over HTTP/2", key(h2, `{}`, pool.Deps{}), key(h2, `{"url": "/x"}`, pool.Deps{}), false},
		{"gRPC makes HTTP/2 of HTTP/1.1", key(plain, `{"type": "grpc"}`, pool.Deps{}), key(h2, `{"type": "grpc"}`, pool.Deps{}), true},
		{"gRPC's service", key(h2, `{"type": "grpc"}`, pool.Deps{}), key(h2, `{"type": "grpc", "service": "x"}`, pool.Deps{}), false},
		{"a certificate's content", key(tls, `{}`, pool.Deps{Certificate: cert("1")}), key(tls, `{}`, pool.Deps{Certificate: cert("2")}), false},
		{"a certificate that is the same", key(tls, `{}`, pool.Deps{Certificate: cert("1")}), key(tls, `{}`, pool.Deps{Certificate: cert("1")}), true},
		{"a via's address", key(v, `{}`, pool.Deps{Via: via}), key(v, `{}`, pool.Deps{Via: via2}), false},
		{"a via by another name", key(v, `{}`, pool.Deps{Via: via}), key(`{"host": "web.example", "via": "w"}`, `{}`, pool.Deps{Via: via}), true},
		{"a via's authority", key(v, `{}`, pool.Deps{Via: via}), key(`{"host": "web.example", "via": "v", "authority": "x"}`, `{}`, pool.Deps{Via: via}), false},
		{"a socket and a host", key(`{"path": "/a", "host_header": "x"}`, `{}`, pool.Deps{}), key(`{"host": "a", "host_header": "x"}`, `{}`, pool.Deps{}), false},
	} {
		if (row.a == row.b) != row.same {
			t.Errorf("%s: same check %v, want %v", row.name, row.a == row.b, row.same)
		}
	}
}

// The definition that a probe with another port connects by is the backend's but
// for the port; a socket has none.
func TestCheckOfAnotherPort(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ backend, probe, address, text string }{
		{`{"host": "10.0.0.7", "port": 8080}`, `{}`, "10.0.0.7:8080", "GET / at 10.0.0.7:8080"},
		{`{"host": "10.0.0.7", "port": 8080}`, `{"port": 9000, "url": "/h"}`, "10.0.0.7:9000", "GET /h at 10.0.0.7:9000"},
		{`{"host": "::1"}`, `{"port": 9000, "type": "tcp"}`, "[::1]:9000", "connect to [::1]:9000"},
		{`{"path": "/run/app"}`, `{"port": 9000}`, "/run/app", "GET / at /run/app"},
		{`{"host": "a", "protocol": "h2c"}`, `{}`, "a:80", "GET / over h2c at a:80"},
		{`{"host": "a"}`, `{"request": ["HEAD / HTTP/1.0"]}`, "a:80", "HEAD / HTTP/1.0 at a:80"},
		{`{"host": "a"}`, `{"type": "grpc", "service": "db"}`, "a:80", `grpc health of "db" at a:80`},
	} {
		def := decode[*store.Backend](t, store.Backends, row.backend)
		before := fmt.Sprintf("%+v", *def)
		c := CheckOf(def, probeOf(t, row.probe), pool.Deps{})
		if c.Address() != row.address || c.String() != row.text {
			t.Errorf("%s with %s: %q at %q, want %q at %q", row.backend, row.probe, c, c.Address(), row.text, row.address)
		}
		if after := fmt.Sprintf("%+v", *def); after != before {
			t.Errorf("the definition changed from %s to %s", before, after)
		}
	}
}

// Nodes tell each other of checks by their keys, and nodes of two releases do in a rolling
// upgrade: a release in which these are others starts cold.
func TestKeysAreThoseOfEarlierReleases(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ backend, probe, want string }{
		{`{"host": "web.example", "port": 8080}`, `{}`, "7865f3042eb32317"},
		{`{"host": "web.example", "tls": {"alpn": ["http/1.1"]}, "proxy_header": 2, "preamble": "eA=="}`, `{"request": ["GET / HTTP/1.0"], "expect_close": false}`, "d96e28ae63fc6b7c"},
		{`{"host": "10.0.0.1", "protocol": "h2c", "via": "v", "authority": "a"}`, `{"url": "/x", "expected_response": 204}`, "f7cbd4978e735d22"},
		{`{"path": "/run/app"}`, `{"type": "grpc", "service": "s"}`, "b7db7a2b8ab0370e"},
		{`{"host": "10.0.0.1"}`, `{"type": "tcp", "port": 9, "timeout": "1s", "interval": "1m"}`, "e5a1810ae6827383"},
	} {
		key := CheckOf(decode[*store.Backend](t, store.Backends, row.backend), probeOf(t, row.probe), pool.Deps{}).Key()
		if got := fmt.Sprintf("%x", key[:8]); got != row.want {
			t.Errorf("%s with %s: %s, want %s", row.backend, row.probe, got, row.want)
		}
	}
}
