package store_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	multierror "github.com/hashicorp/go-multierror"

	"roster/condition"
	"roster/store"
)

// decode decodes a value of kind, named web.
func decode(kind store.Kind, value string) (store.Definition, []string, error) {
	return store.Decode(store.Key{Kind: kind, Name: "web"}, []byte(value), store.Reject)
}

// mustDecode fails the test where the value is wrong.
func mustDecode(t *testing.T, kind store.Kind, value string) store.Definition {
	t.Helper()
	def, _, err := decode(kind, value)
	if err != nil {
		t.Fatalf("Decode(%s, %s): %v", kind, value, err)
	}
	return def
}

// faults are the errors of a value, one per line, in order.
func faults(t *testing.T, err error) []string {
	t.Helper()
	if err == nil {
		return nil
	}
	var all *multierror.Error
	if !errors.As(err, &all) {
		t.Fatalf("error is a %T, want a *multierror.Error: %v", err, err)
	}
	var lines []string
	for _, err := range all.Errors {
		var fault *store.FieldError
		if !errors.As(err, &fault) {
			t.Fatalf("error is a %T, want a *FieldError: %v", err, err)
		}
		lines = append(lines, err.Error())
	}
	return lines
}

// plain is a backend at host with all defaults.
func plain(host string, port uint16, change ...func(*store.Backend)) *store.Backend {
	b := &store.Backend{
		Host: host, Port: port, HostHeader: host, Authority: host,
		ConnectTimeout: 3500 * time.Millisecond, FirstByteTimeout: time.Minute, BetweenBytesTimeout: time.Minute,
		TunnelTimeout: time.Hour, IdleTimeout: time.Minute, Protocol: store.HTTP1,
	}
	for _, c := range change {
		c(b)
	}
	return b
}

func plainProbe(change ...func(*store.Probe)) *store.Probe {
	p := &store.Probe{
		Type: store.HTTPProbe, URL: "/", ExpectedResponse: 200, ExpectClose: true,
		Timeout: 2 * time.Second, Interval: 5 * time.Second, Window: 8, Threshold: 3, Initial: 2,
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func compiled(when string) *condition.Condition {
	c, err := condition.Compile(when)
	if err != nil {
		panic(err)
	}
	return c
}

func plainRoute(change func(*store.Route)) *store.Route {
	r := &store.Route{OnError: store.FailRequest, ConnectTimeout: store.Inherit, FirstByteTimeout: store.Inherit, BetweenBytesTimeout: store.Inherit}
	change(r)
	return r
}

// Good values, what they say, and how they are written.
func TestDecodeGood(t *testing.T) {
	t.Parallel()
	type B = store.Backend
	for _, row := range []struct {
		kind      store.Kind
		value     string
		want      store.Definition
		canonical string // "" = value
	}{
		// Backends.
		{store.Backends, `{"host":"example.com"}`, plain("example.com", 80), ""},
		{store.Backends, ` { "port" : 80 , "host" : "example.com" } `, plain("example.com", 80), `{"host":"example.com"}`},
		{store.Backends, `{"host":"10.0.0.7","port":8080,"probe":"light"}`, plain("10.0.0.7", 8080, func(b *B) {
			b.HostHeader, b.Authority, b.Probe.Name = "10.0.0.7:8080", "", "light"
		}), ""},
		{store.Backends, `{"host":"[::1]:8080"}`, plain("::1", 8080, func(b *B) { b.HostHeader, b.Authority = "[::1]:8080", "" }), `{"host":"::1","port":8080}`},
		{store.Backends, `{"host":"::1"}`, plain("::1", 80, func(b *B) { b.HostHeader, b.Authority = "[::1]", "" }), ""},
		{store.Backends, `{"host":"[fe80::1%eth0]"}`, plain("fe80::1%eth0", 80, func(b *B) { b.HostHeader, b.Authority = "[fe80::1]", "" }), `{"host":"fe80::1%eth0"}`},
		{store.Backends, `{"host":"Example.com:http"}`, plain("Example.com", 80), `{"host":"Example.com"}`},
		{store.Backends, `{"host":"example.com:https"}`, plain("example.com", 443, func(b *B) { b.HostHeader = "example.com:443" }), `{"host":"example.com","port":443}`},
		{store.Backends, `{"host":"example.com","port":"http-alt"}`, plain("example.com", 8080, func(b *B) { b.HostHeader = "example.com:8080" }), `{"host":"example.com","port":8080}`},
		{store.Backends, `{"host":"example.com","tls":{}}`, plain("example.com", 443, func(b *B) { b.TLS = &store.TLS{ServerName: "example.com"} }), ""},
		{store.Backends, `{"host":"10.0.0.7","host_header":"www.example.com:81","tls":{}}`, plain("10.0.0.7", 443, func(b *B) {
			b.HostHeader, b.Authority, b.TLS = "www.example.com:81", "www.example.com", &store.TLS{ServerName: "www.example.com"}
		}), ""},
		{store.Backends, `{"host":"::1","tls":{"insecure_skip_verify":true}}`, plain("::1", 443, func(b *B) {
			b.HostHeader, b.Authority, b.TLS = "[::1]", "", &store.TLS{ServerName: "::1", InsecureSkipVerify: true}
		}), ""},
		{store.Backends, `{"host":"a.example","tls":{"server_name":"b.example","certificate":"team-a/client","alpn":["h2","x"]},"protocol":"h2"}`, plain("a.example", 443, func(b *B) {
			b.Protocol, b.TLS = store.HTTP2, &store.TLS{ServerName: "b.example", Certificate: "team-a/client", ALPN: []string{"h2", "x"}}
		}), ""},
		{store.Backends, `{"host":"a.example","tls":{"alpn":["h2"]},"protocol":"h2"}`, plain("a.example", 443, func(b *B) {
			b.Protocol, b.TLS = store.HTTP2, &store.TLS{ServerName: "a.example", ALPN: []string{"h2"}}
		}), `{"host":"a.example","tls":{},"protocol":"h2"}`},
		{store.Backends, `{"path":"/run/web.sock"}`, plain("", 0, func(b *B) { b.Path, b.HostHeader, b.Authority = "/run/web.sock", "localhost", "localhost" }), ""},
		{store.Backends, `{"path":"@web","host_header":"web.example"}`, plain("", 0, func(b *B) { b.Path, b.HostHeader, b.Authority = "@web", "web.example", "web.example" }), ""},
		{store.Backends, `{"none":true,"comment":"later"}`, plain("", 0, func(b *B) { b.None, b.Comment = true, "later" }), ""},
		{store.Backends, `{"none":false,"host":"a"}`, plain("a", 80), `{"host":"a"}`},
		{store.Backends, `{"host":"a","connect_timeout":"0s","first_byte_timeout":0,"between_bytes_timeout":"0","tunnel_timeout":"1d","idle_timeout":"90s"}`, plain("a", 80, func(b *B) {
			b.ConnectTimeout, b.FirstByteTimeout, b.BetweenBytesTimeout, b.TunnelTimeout, b.IdleTimeout = 0, 0, 0, 24*time.Hour, 90*time.Second
		}), `{"host":"a","connect_timeout":"0s","first_byte_timeout":"0s","between_bytes_timeout":"0s","tunnel_timeout":"1d","idle_timeout":"90s"}`},
		{store.Backends, `{"host":"a","max_connections":100,"wait_limit":10,"wait_timeout":"1.5s","override_host":true,"proxy_header":2,"preamble":"AAEC","pool":"p","reuse":false}`, plain("a", 80, func(b *B) {
			b.MaxConnections, b.WaitLimit, b.WaitTimeout, b.OverrideHost = 100, 10, 1500*time.Millisecond, true
			b.ProxyHeader, b.Preamble, b.Pool, b.NoReuse = 2, []byte{0, 1, 2}, "p", true
		}), `{"host":"a","override_host":true,"max_connections":100,"wait_limit":10,"wait_timeout":"1.5s","proxy_header":2,"preamble":"AAEC","pool":"p","reuse":false}`},
		{store.Backends, `{"host":"a","via":"team-a/gate"}`, plain("a", 80, func(b *B) { b.Via = "team-a/gate" }), ""},
		{store.Backends, `{"host":"a","via":"gate","authority":""}`, plain("a", 80, func(b *B) { b.Via, b.Authority = "gate", "" }), ""},
		{store.Backends, `{"host":"a","via":"gate","authority":"b.example:8443"}`, plain("a", 80, func(b *B) { b.Via, b.Authority = "gate", "b.example" }), `{"host":"a","via":"gate","authority":"b.example"}`},
		{store.Backends, `{"host":"a","via":"gate","authority":"10.0.0.1"}`, plain("a", 80, func(b *B) { b.Via, b.Authority = "gate", "" }), `{"host":"a","via":"gate","authority":""}`},
		{store.Backends, `{"host":"a","probe":"none","protocol":"h2c"}`, plain("a", 80, func(b *B) { b.Probe.None, b.Protocol = true, store.H2C }), `{"host":"a","protocol":"h2c","probe":"none"}`},
		{store.Backends, `{"host":"a","probe":{"url":"/health","window":5}}`, plain("a", 80, func(b *B) {
			b.Probe.Inline = plainProbe(func(p *store.Probe) { p.URL, p.Window = "/health", 5 })
		}), ""},
		{store.Backends, `{"host":"a","labels":{"zone":"a","app":"web"},"comment":"Gr\u00fc\u00dfe \"\\\/\n\ud83d\ude00"}`, plain("a", 80, func(b *B) {
			b.Labels, b.Comment = store.Labels{{"app", "web"}, {"zone", "a"}}, "Grüße \"\\/\n😀"
		}), `{"host":"a","labels":{"app":"web","zone":"a"},"comment":"Grüße \"\\/\n😀"}`},
		{store.Backends, `{"host":"a","labels":{}}`, plain("a", 80), `{"host":"a"}`},

		// Probes.
		{store.Probes, `{}`, plainProbe(), ""},
		{store.Probes, `{"port":"http-alt","url":"/x?y","expected_response":204,"expect_close":false,"timeout":"100ms","interval":"1m30s"}`, plainProbe(func(p *store.Probe) {
			p.Port, p.URL, p.ExpectedResponse, p.ExpectClose, p.Timeout, p.Interval = 8080, "/x?y", 204, false, 100*time.Millisecond, 90*time.Second
		}), `{"port":8080,"url":"/x?y","expected_response":204,"expect_close":false,"timeout":"100ms","interval":"90s"}`},
		{store.Probes, `{"request":["HEAD / HTTP/1.1","Host: a","Connection: close"]}`, plainProbe(func(p *store.Probe) {
			p.URL, p.Request = "", []string{"HEAD / HTTP/1.1", "Host: a", "Connection: close"}
		}), ""},
		{store.Probes, `{"type":"tcp"}`, &store.Probe{Type: store.TCPProbe, Timeout: 2 * time.Second, Interval: 5 * time.Second, Window: 8, Threshold: 3, Initial: 2}, ""},
		{store.Probes, `{"type":"grpc","service":"x.Y"}`, &store.Probe{Type: store.GRPCProbe, Service: "x.Y", Timeout: 2 * time.Second, Interval: 5 * time.Second, Window: 8, Threshold: 3, Initial: 2}, ""},
		{store.Probes, `{"threshold":5}`, plainProbe(func(p *store.Probe) { p.Threshold, p.Initial = 5, 4 }), ""},
		{store.Probes, `{"window":64,"threshold":64,"initial":0}`, plainProbe(func(p *store.Probe) { p.Window, p.Threshold, p.Initial = 64, 64, 0 }), ""},
		{store.Probes, `{"initial":8}`, plainProbe(func(p *store.Probe) { p.Initial = 3 }), `{"initial":3}`},

		// Directors.
		{store.Directors, `{"type":"round_robin","backends":["web-1",{"name":"web-2","weight":2},"web-1"],"select":{"app":"web"}}`, &store.Director{
			Type: store.RoundRobin, Members: []store.Member{{Name: "web-1", Weight: 1}, {Name: "web-2", Weight: 2}, {Name: "web-1", Weight: 1}},
			Select: store.Labels{{"app", "web"}}, RetryBudget: 0.2,
		}, ""},
		{store.Directors, `{"type":"fallback","sticky":true,"backends":[]}`, &store.Director{Type: store.Fallback, Sticky: true, RetryBudget: 0.2}, `{"type":"fallback","sticky":true}`},
		{store.Directors, `{"type":"random","backends":[{"name":"a","weight":0.5},{"name":"b","weight":0}],"slow_start":"30s","panic":0.5,"retry_budget":0}`, &store.Director{
			Type: store.Random, Members: []store.Member{{Name: "a", Weight: 0.5}, {Name: "b"}}, SlowStart: 30 * time.Second, Panic: 0.5,
		}, ""},
		{store.Directors, `{"type":"hash","by":"header:X-User"}`, &store.Director{Type: store.Hash, By: "header:x-user", RetryBudget: 0.2}, `{"type":"hash","by":"header:x-user"}`},
		{store.Directors, `{"type":"hash","by":"url"}`, &store.Director{Type: store.Hash, By: "url", RetryBudget: 0.2}, `{"type":"hash"}`},
		{store.Directors, `{"type":"shard","by":"cookie:SID","replicas":25,"warmup":0.5,"rampup":"1m","healthy":"all","backends":["a",{"name":"b","rampup":"0s"},{"name":"c","weight":3,"rampup":"60s"}]}`, &store.Director{
			Type: store.Shard, By: "cookie:SID", Replicas: 25, Warmup: 0.5, Rampup: time.Minute, Healthy: store.HealthyAll, RetryBudget: 0.2,
			Members: []store.Member{{"a", 1, time.Minute}, {"b", 1, 0}, {"c", 3, time.Minute}},
		}, `{"type":"shard","backends":["a",{"name":"b","rampup":"0s"},{"name":"c","weight":3}],"by":"cookie:SID","replicas":25,"warmup":0.5,"rampup":"1m","healthy":"all"}`},
		{store.Directors, `{"type":"shard"}`, &store.Director{Type: store.Shard, By: "url", Replicas: 67, Healthy: store.HealthyChosen, RetryBudget: 0.2}, ""},
		{store.Directors, `{"type":"p2c","cookie":{},"outlier":{}}`, &store.Director{Type: store.P2C, RetryBudget: 0.2,
			Cookie: &store.Cookie{Name: "roster", Path: "/"}, Outlier: &store.Outlier{Consecutive: 5, Ejection: 30 * time.Second, MaxEjection: 5 * time.Minute, MaxShare: 0.1}}, ""},
		{store.Directors, `{"type":"least_connections","cookie":{"name":"c","ttl":"1h","path":"/x"},"outlier":{"consecutive":1,"ejection":"1s","max_ejection":"2s","max_share":1}}`, &store.Director{Type: store.LeastConnections, RetryBudget: 0.2,
			Cookie: &store.Cookie{Name: "c", TTL: time.Hour, Path: "/x"}, Outlier: &store.Outlier{Consecutive: 1, Ejection: time.Second, MaxEjection: 2 * time.Second, MaxShare: 1}}, ""},

		// Routes.
		{store.Routes, `{"backend":"java"}`, plainRoute(func(r *store.Route) { r.Backend = "java" }), ""},
		{store.Routes, `{"match":{},"backend":"java"}`, plainRoute(func(r *store.Route) { r.Backend = "java" }), `{"backend":"java"}`},
		{store.Routes, `{"match":{"host":"*.Foo.com:8080","path":"/java/*"},"when":"req.method == 'GET'","on_error":"skip","priority":-3,"backend":"team-a/java"}`, plainRoute(func(r *store.Route) {
			r.Match.Host, r.Match.Path = []string{"*.foo.com"}, []string{"/java/*"}
			r.When, r.OnError, r.Priority, r.Backend = "req.method == 'GET'", store.SkipRoute, -3, "team-a/java"
			r.Condition = compiled(r.When)
		}), `{"match":{"host":"*.foo.com","path":"/java/*"},"when":"req.method == 'GET'","on_error":"skip","priority":-3,"backend":"team-a/java"}`},
		{store.Routes, `{"match":{"host":["a.example.","[::1]","10.0.0.1"],"path":["/","/a%2Fb","/*"],"path_regex":"^/a+$","method":["GET","PURGE"],"header":{"X-A":"1","x-b":["*","2"]},"query":{"q":"*"},"client":["10.0.0.0/8","::1"]},"backend":"x"}`, plainRoute(func(r *store.Route) {
			r.Backend = "x"
			r.Match = store.Match{
				Host: []string{"a.example", "[::1]", "10.0.0.1"}, Path: []string{"/", "/a%2Fb", "/*"}, PathRegex: []string{"^/a+$"}, Method: []string{"GET", "PURGE"},
				Header: map[string][]string{"x-a": {"1"}, "x-b": {"*", "2"}}, Query: map[string][]string{"q": {"*"}},
				Client: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("::1/128")},
			}
		}), `{"match":{"host":["a.example","[::1]","10.0.0.1"],"path":["/","/a%2Fb","/*"],"path_regex":"^/a+$","method":["GET","PURGE"],"header":{"x-a":"1","x-b":["*","2"]},"query":{"q":"*"},"client":["10.0.0.0/8","::1/128"]},"backend":"x"}`},
		{store.Routes, `{"respond":{"status":301,"headers":{"Set-Cookie":["a=1","b=2"],"Location":"/new"},"body":"moved\n"}}`, plainRoute(func(r *store.Route) {
			r.Respond = &store.Respond{Status: 301, Headers: []store.HeaderField{{"Location", "/new"}, {"Set-Cookie", "a=1"}, {"Set-Cookie", "b=2"}}, Body: "moved\n"}
		}), `{"respond":{"status":301,"headers":{"Location":"/new","Set-Cookie":["a=1","b=2"]},"body":"moved\n"}}`},
		{store.Routes, `{"respond":{}}`, plainRoute(func(r *store.Route) { r.Respond = &store.Respond{Status: 200} }), ""},
		{store.Routes, `{"backend":"x","request_headers":{"set":{"X-A":"1"},"add":{"X-B":""},"remove":["Cookie"]},"response_headers":{},"strip_prefix":"/x","rewrite_host":"y.example:81","retries":2,"timeout":"10s","connect_timeout":"0s","first_byte_timeout":"1s"}`, plainRoute(func(r *store.Route) {
			r.Backend, r.StripPrefix, r.RewriteHost, r.Retries, r.Timeout = "x", "/x", "y.example:81", 2, 10*time.Second
			r.ConnectTimeout, r.FirstByteTimeout = 0, time.Second
			r.RequestHeaders = store.HeaderEdits{Set: []store.HeaderField{{"X-A", "1"}}, Add: []store.HeaderField{{"X-B", ""}}, Remove: []string{"Cookie"}}
		}), `{"backend":"x","request_headers":{"set":{"X-A":"1"},"add":{"X-B":""},"remove":["Cookie"]},"strip_prefix":"/x","rewrite_host":"y.example:81","retries":2,"timeout":"10s","connect_timeout":"0s","first_byte_timeout":"1s"}`},

		// Health.
		{store.HealthKind, `sick`, &store.Health{State: store.Sick}, `{"state":"sick"}`},
		{store.HealthKind, "  DRAIN \n", &store.Health{State: store.Drain}, `{"state":"drain"}`},
		{store.HealthKind, ` {"state":" Auto ","reason":"done","by":"eva"}`, &store.Health{State: store.Auto, Reason: "done", By: "eva"}, `{"state":"auto","reason":"done","by":"eva"}`},
	} {
		def, warnings, err := decode(row.kind, row.value)
		if err != nil || warnings != nil {
			t.Errorf("Decode(%s, %s): warnings %q, error %v", row.kind, row.value, warnings, err)
			continue
		}
		if def.Kind() != row.kind {
			t.Errorf("Decode(%s, %s) is of kind %s", row.kind, row.value, def.Kind())
		}
		if diff := cmp.Diff(row.want, def, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("Decode(%s, %s), -want +got:\n%s", row.kind, row.value, diff)
		}
		want := row.canonical
		if want == "" {
			want = row.value
		}
		if got := string(store.Encode(def)); got != want {
			t.Errorf("Encode of %s %s\n got %s\nwant %s", row.kind, row.value, got, want)
		}
		if err := fits(row.kind, row.value); err != nil {
			t.Error(err)
		}
	}
}

// Bad values, and everything that is said of them.
func TestDecodeBad(t *testing.T) {
	t.Parallel()
	const names = "http, www, www-http, https, http-alt, webcache, https-alt, pcsync-https, http-mgmt, ipp, gss-http, http-rpc-epmap, http-wmap, https-wmap"
	for _, row := range []struct {
		kind  store.Kind
		value string
		want  []string
	}{
		// What is not JSON, or not an object.
		{store.Backends, ``, []string{"the value is empty, want an object"}},
		{store.Backends, `[]`, []string{"the value is a list, want an object"}},
		{store.Backends, `null`, []string{"the value is null, want an object"}},
		{store.Backends, `"10.0.0.7"`, []string{`the value is the string "10.0.0.7", want an object`}},
		{store.Backends, `10.0.0.7`, []string{"the value is 10.0, want an object", "not JSON: line 1, column 5: something follows the value"}},
		{store.Backends, `{"host":"a"`, []string{`not JSON: line 1, column 12: want "," or "}" after a field`}},
		{store.Backends, `{"host":"a",}`, []string{`not JSON: line 1, column 13: want a field's name in quotes`}},
		{store.Backends, `{host:"a"}`, []string{`not JSON: line 1, column 2: want a field's name in quotes`}},
		{store.Backends, `{"host"="a"}`, []string{`not JSON: line 1, column 8: want a ":" after a field's name`}},
		{store.Backends, "{\n  \"host\": 'a'\n}", []string{`not JSON: line 2, column 11: want a value, not '\''`}},
		{store.Backends, `{"host":`, []string{`not JSON: line 1, column 9: it ends where a value should be`}},
		{store.Backends, `{"host":"a`, []string{`not JSON: line 1, column 11: a string without its end quote`}},
		{store.Backends, `{"host":"a\x"}`, []string{`not JSON: line 1, column 11: a backslash before 'x' in a string`}},
		{store.Backends, `{"comment":"\u00g0"}`, []string{`not JSON: line 1, column 15: \u without four hexadecimal digits`}},
		{store.Backends, "{\"host\":\"a\nb\"}", []string{`not JSON: line 1, column 11: a control character in a string, want an escape such as \n`}},
		{store.Backends, `{"host":"a"} x`, []string{"not JSON: line 1, column 14: something follows the value"}},
		{store.Backends, `{"host":"a"}{"host":"a"}`, []string{"not JSON: line 1, column 13: something follows the value"}},
		{store.Backends, "{\"host\":\"a\"}\x00", []string{"not JSON: line 1, column 13: something follows the value"}},
		{store.Backends, "\ufeff{\"host\":\"a\"}", []string{"not JSON: line 1, column 1: a byte order mark, want none"}},
		{store.Backends, `{"host":"a","port":08}`, []string{`not JSON: line 1, column 20: a number that begins with 0`}},
		{store.Backends, `{"host":"a","port":1.}`, []string{`not JSON: line 1, column 22: want a digit`}},
		{store.Backends, "{\"comment\":\"\xff\",\"host\":\"a\"}", []string{"comment: holds invalid UTF-8"}},
		{store.Backends, `{"comment":"\ud800","pool":"\udc00\ud800","host":"a"}`, []string{"comment: holds invalid UTF-8", "pool: holds invalid UTF-8"}},
		{store.Backends, "{\"host\":\"a\",\"\xff\":1}", []string{"a field's name holds invalid UTF-8"}},
		// Errors before a fault in the JSON are told.
		{store.Backends, `{"port":0,"host":}`, []string{"port: is 0, want 1 to 65535", "not JSON: line 1, column 18: want a value, not '}'"}},

		// Fields that are unknown, given twice or of another type.
		{store.Backends, `{"hots":"a"}`, []string{`hots: is not a field of a backend; did you mean "host"?`, "host: is missing; one of host, path and none is required"}},
		{store.Backends, `{"host":"a","Port":1,"connectTimeout":"1s","first-byte-timeout":"1s","colour":"red"}`, []string{
			`Port: is not a field of a backend; did you mean "port"?`,
			`connectTimeout: is not a field of a backend; did you mean "connect_timeout"?`,
			`first-byte-timeout: is not a field of a backend; did you mean "first_byte_timeout"?`,
			`colour: is not a field of a backend`,
		}},
		{store.Backends, `{"host":"a","a.b":{"x":[1,{"y":null}]},"":1}`, []string{`["a.b"]: is not a field of a backend`, `[""]: is not a field of a backend`}},
		{store.Backends, `{"host":"a","host":"b"}`, []string{"host: is given twice"}},
		{store.Backends, `{"host":"a","h\u006fst":"b"}`, []string{"host: is given twice"}},
		{store.Backends, `{"host":"a","labels":{"app":"a","x.y":"b","app":"c","x.y":"d"}}`, []string{"labels.app: is given twice", `labels["x.y"]: is given twice`}},
		{store.Backends, `{"host":5,"port":true,"override_host":"yes","connect_timeout":5,"max_connections":"9","tls":true,"probe":[],"labels":["a"],"comment":{}}`, []string{
			`host: is 5, want an address or a domain name`,
			`port: is true, want a number from 1 to 65535 or a service name`,
			`override_host: is the string "yes", want true or false`,
			`connect_timeout: is 5, a number without a unit, want a duration such as "1.4s"`,
			`max_connections: is the string "9", want a whole number`,
			`tls: is true, want an object`,
			`probe: is a list, want a probe's name, a probe, or "none"`,
			`labels: is a list, want an object of strings`,
			`comment: is an object, want a string`,
		}},

		// Backends.
		{store.Backends, `{}`, []string{"host: is missing; one of host, path and none is required"}},
		{store.Backends, `{"none":false}`, []string{"host: is missing; one of host, path and none is required"}},
		{store.Backends, `{"host":"a","path":"/x"}`, []string{"path: does not go with host; only one of host, path and none may be given"}},
		{store.Backends, `{"none":true,"host":"a","port":1,"comment":""}`, []string{
			"host: does not go with none, the backend that always fails",
			"port: does not go with none, the backend that always fails",
		}},
		{store.Backends, `{"path":"/x","port":1,"via":"gate"}`, []string{"port: does not go with path", "via: does not go with path"}},
		{store.Backends, `{"host":"a:81","port":80}`, []string{"port: is given in host already"}},
		{store.Backends, `{"port":80,"host":"a:81"}`, []string{`host: is "a:81", but the port is given in port already`}},
		{store.Backends, `{"host":"a","port":70000}`, []string{"port: is 70000, want 1 to 65535"}},
		{store.Backends, `{"host":"a","port":80.5}`, []string{"port: is 80.5, want a whole number"}},
		{store.Backends, `{"host":"a","port":99999999999999999999999}`, []string{"port: is 99999999999999999999999, want 1 to 65535"}},
		{store.Backends, `{"host":"a","port":"8080"}`, []string{`port: is the string "8080", want the number 8080`}},
		{store.Backends, `{"host":"a","port":"gopher"}`, []string{`port: is "gopher", want a number from 1 to 65535 or a service name: ` + names}},
		{store.Backends, `{"host":"a","max_connections":-1,"wait_timeout":"-1s","proxy_header":3}`, []string{
			"max_connections: is -1, want 0 or more (at most 1000000000)", `wait_timeout: "-1s" is negative, want 0 or more`, "proxy_header: is 3, want 1 to 2",
		}},
		{store.Backends, `{"host":"a","preamble":"AAE"}`, []string{`preamble: is "AAE", want bytes in base64 (the standard alphabet, with padding)`}},
		{store.Backends, `{"host":"a","host_header":"a b"}`, []string{`host_header: is "a b" with ' ' in it, want a host and perhaps a port`}},
		{store.Backends, `{"host":"a","host_header":""}`, []string{"host_header: is empty, want a host"}},
		{store.Backends, `{"host":"a","host_header":"::1"}`, []string{`host_header: is "::1", want an IPv6 address in brackets`}},
		{store.Backends, `{"host":"a","via":"-x"}`, []string{`via: name "-x" has a segment that does not begin with a letter`}},
		{store.Backends, `{"host":"a","protocol":"http/2"}`, []string{`protocol: is "http/2", want "http/1.1", "h2c" or "h2"`}},
		{store.Backends, `{"host":"a","protocol":"h2"}`, []string{`protocol: is "h2", which needs tls; want "h2c" for HTTP/2 without TLS, or tls`}},
		{store.Backends, `{"host":"a","protocol":"h2c","tls":{}}`, []string{`protocol: is "h2c", HTTP/2 without TLS; want "h2", or no tls`}},
		{store.Backends, `{"host":"a","tls":{"alpn":["h2"]}}`, []string{`tls.alpn: is ["h2"] with the protocol "http/1.1", want "h2" in it if and only if the protocol is "h2"`}},
		{store.Backends, `{"host":"a","tls":{"ca":"x","server_nam":"b","server_name":"-","certificate":"","alpn":[]}}`, []string{
			`tls.ca: holds no certificate, want PEM ("-----BEGIN CERTIFICATE-----")`,
			`tls.server_nam: is not a field of tls; did you mean "server_name"?`,
			`tls.server_name: "-" has '-' in it, want an address or a domain name`,
			`tls.certificate: the name is empty, want letters, digits, "_", "." and "-"`,
			`tls.alpn: is an empty list, want at least one: a protocol's name`,
		}},
		{store.Backends, `{"host":"a","probe":{"window":65,"uri":"/"}}`, []string{"probe.window: is 65, want 1 to 64", `probe.uri: is not a field of a probe; did you mean "url"?`}},
		{store.Backends, `{"host":"a","labels":{"app":1,"":"x"}}`, []string{"labels.app: is 1, want a string", `labels[""]: is a label without a name`}},

		// Probes.
		{store.Probes, `{"url":"/x","request":["GET / HTTP/1.1"]}`, []string{"request: does not go with url; only one of them may be given"}},
		{store.Probes, `{"url":"x"}`, []string{`url: is "x", want a path that begins with "/"`}},
		{store.Probes, `{"url":"/a b"}`, []string{`url: has ' ' in it, want it percent-encoded`}},
		{store.Probes, `{"request":["GET / HTTP/1.1\r","A: b\n"]}`, []string{`request[0]: has '\r' in it, want one line, without its end`, `request[1]: has '\n' in it, want one line, without its end`}},
		{store.Probes, `{"request":["",""]}`, []string{"request[0]: is empty, want a request line"}},
		{store.Probes, `{"threshold":9}`, []string{"threshold: the threshold is 9 and the window 8 by default, want a threshold from 1 to window"}},
		{store.Probes, `{"window":2}`, []string{"window: the threshold is 3 by default and the window 2, want a threshold from 1 to window"}},
		{store.Probes, `{"window":0,"threshold":0,"initial":-1}`, []string{"window: is 0, want 1 to 64", "threshold: is 0, want 1 to 64", "initial: is -1, want 0 to 64"}},
		{store.Probes, `{"timeout":"0s","interval":0}`, []string{`timeout: is "0s", want above 0`, `interval: is "0s", want above 0`}},
		{store.Probes, `{"expected_response":99}`, []string{"expected_response: is 99, want 100 to 999"}},
		{store.Probes, `{"type":"tcp","url":"/","service":"x"}`, []string{`url: does not go with the type "tcp", only with "http"`, `service: does not go with the type "tcp", only with "grpc"`}},
		{store.Probes, `{"type":"udp","service":"x"}`, []string{`type: is "udp", want "http", "grpc" or "tcp"`}},

		// Directors.
		{store.Directors, `{}`, []string{"type: is missing, want round_robin, fallback, random, hash, shard, least_connections or p2c"}},
		{store.Directors, `{"type":"rr","sticky":true}`, []string{`type: is "rr", want "round_robin", "fallback", "random", "hash", "shard", "least_connections" or "p2c"`}},
		{store.Directors, `{"type":"random","sticky":true,"by":"url","rampup":"1s","backends":[{"name":"a","rampup":"1s"}]}`, []string{
			`sticky: does not go with the type "random", only with "fallback"`,
			`by: does not go with the type "random", only with "hash" or "shard"`,
			`rampup: does not go with the type "random", only with "shard"`,
			`backends[0].rampup: does not go with the type "random", only with "shard"`,
		}},
		{store.Directors, `{"type":"shard","slow_start":"1s","backends":["a",{"name":"b","weight":0.5}]}`, []string{
			`slow_start: does not go with the type "shard", only with "round_robin", "random", "least_connections" or "p2c"`,
			"backends[1].weight: is 0.5, want 1 or more in a shard director",
		}},
		{store.Directors, `{"type":"random","backends":["a",7,{"weight":-1},{"name":"b","wieght":1},"x y"]}`, []string{
			`backends[1]: is 7, want a name, or an object with "name", "weight" and "rampup"`,
			"backends[2].weight: is -1, want 0 to 1000000",
			"backends[2].name: is missing, want the name of a backend or director",
			`backends[3].wieght: is not a field of a member; did you mean "weight"?`,
			`backends[4]: name "x y" has ' ' in it, want letters, digits, "_", ".", "-", and "/" between segments`,
		}},
		{store.Directors, `{"type":"random","select":{}}`, []string{"select: is empty, want at least one label: it would select every backend"}},
		{store.Directors, `{"type":"hash","by":"header:"}`, []string{`by: is "header:", want url, path, host, client.ip, header:<name> or cookie:<name>`}},
		{store.Directors, `{"type":"shard","replicas":10000,"backends":[{"name":"a","weight":1000}]}`, []string{"replicas: replicas times the weights of all backends is 10000000, want at most 4000000"}},
		{store.Directors, `{"type":"shard","healthy":"most","warmup":1.5,"replicas":0}`, []string{
			`healthy: is "most", want "chosen", "ignore" or "all"`, "warmup: is 1.5, want 0 to 1", "replicas: is 0, want 1 to 10000",
		}},
		{store.Directors, `{"type":"p2c","cookie":{"name":"a b","path":"x","ttl":"x"},"outlier":{"consecutive":0,"max_share":2},"panic":1e400}`, []string{
			"cookie.name: is \"a b\", want a cookie's name: letters, digits and !#$%&'*+-.^_`|~",
			`cookie.path: is "x", want a path that begins with "/"`,
			`cookie.ttl: "x" is not a duration, want a number and a unit (ms, s, m, h, d, w) such as "1.4s"`,
			"outlier.consecutive: is 0, want 1 or more (at most 1000000000)", "outlier.max_share: is 2, want 0 to 1", "panic: is 1e400, want 0 to 1",
		}},
		{store.Directors, `{"type":"p2c","outlier":{"ejection":"10m"}}`, []string{"outlier.ejection: the ejection is 10m and max_ejection 5m, want one not below the first"}},

		// Routes.
		{store.Routes, `{}`, []string{"backend: is missing; one of backend and respond is required"}},
		{store.Routes, `{"backend":"a","respond":{}}`, []string{"respond: does not go with backend; only one of them may be given"}},
		{store.Routes, `{"backend":"a","when":" ","on_error":"skip"}`, []string{"when: is empty, want a condition in CEL, or no when"}},
		{store.Routes, `{"backend":"a","on_error":"skip"}`, []string{"on_error: does not go without when"}},
		{store.Routes, `{"when":"req.path == '/' &&\n req.foo && client.ip","priority":"high"}`, []string{
			`priority: is the string "high", want a whole number`,
			"backend: is missing; one of backend and respond is required",
			"when: line 2, column 5: req has no field foo, want req.method, req.host, req.path, req.query, req.url, req.proto, req.header or req.cookie",
			"when: line 2, column 19: it is of type string, want bool",
		}},
		{store.Routes, `{"backend":"a","match":{"host":"*","path":"java","path_regex":"(","method":"get","header":{"a b":"1"},"client":"10.0.0.1/8"}}`, []string{
			`match.host: is "*", want a host such as "foo.com", or "*.foo.com" for all below it`,
			`match.path: is "java", want a path that begins with "/"`,
			"match.path_regex: is \"(\", want a regular expression (RE2): error parsing regexp: missing closing ): `(`",
			`match.method: is "get", want "GET": methods are case-sensitive`,
			`match.header["a b"]: is not the name of a header field`,
			`match.client: is "10.0.0.1/8" with bits set beyond its length, want 10.0.0.0/8`,
		}},
		{store.Routes, `{"backend":"a","match":{"client":["10.0.0.0/8","x","::ffff:10.0.0.0/104"],"host":[],"query":{"q":[]},"header":{"A":"1","a":"2"},"hots":"a"}}`, []string{
			`match.client[1]: is "x", want an address or CIDR such as "10.0.0.0/8"`,
			`match.client[2]: is "::ffff:10.0.0.0/104", want the IPv4 CIDR that it stands for`,
			`match.host: is an empty list, want at least one: a host such as "foo.com" or "*.foo.com"`,
			`match.query.q: is an empty list, want at least one: a value, or "*" for any`,
			"match.header.a: is given twice",
			`match.hots: is not a field of match; did you mean "host"?`,
		}},
		{store.Routes, `{"backend":"a","match":{"path":["/java*","/a/../b","/a//b","/a%2fb","/%41","/a?b","/ü","/%00","/a|b"]}}`, []string{
			`match.path[0]: is "/java*" with a "*" in it, want one only at the end, after a "/"; path_regex can say more`,
			`match.path[1]: is "/a/../b", want no empty, "." or ".." segment: requests are compared without them`,
			`match.path[2]: is "/a//b", want no empty, "." or ".." segment: requests are compared without them`,
			`match.path[3]: is "/a%2fb", want two hexadecimal digits in upper case after "%"`,
			`match.path[4]: is "/%41", want 'A' instead of "%41"`,
			`match.path[5]: is "/a?b" with '?' in it, want a path alone`,
			`match.path[6]: is "/ü" with 'ü' in it, want it percent-encoded`,
			`match.path[7]: is "/%00", which no request has: a NUL is refused`,
			`match.path[8]: is "/a|b" with '|' in it, want it percent-encoded`,
		}},
		{store.Routes, `{"respond":{},"response_headers":{"add":{"X":"a"}},"request_headers":{},"strip_prefix":"/a","rewrite_host":"b","retries":1,"timeout":"1s",
			"connect_timeout":"1s","first_byte_timeout":"1s","between_bytes_timeout":"1s"}`, []string{
			"request_headers: does not go with respond, which asks no backend",
			"strip_prefix: does not go with respond, which asks no backend",
			"rewrite_host: does not go with respond, which asks no backend",
			"retries: does not go with respond, which asks no backend",
			"timeout: does not go with respond, which asks no backend",
			"connect_timeout: does not go with respond, which asks no backend",
			"first_byte_timeout: does not go with respond, which asks no backend",
			"between_bytes_timeout: does not go with respond, which asks no backend",
		}},
		{store.Routes, `{"respond":{"status":100,"headers":{"Content-Length":"1","A":"b\nc","a":"d"},"body":1}}`, []string{
			"respond.status: is 100, want 200 to 599",
			"respond.headers.Content-Length: is a field of the connection, which the proxy sets itself",
			`respond.headers.A: has '\n' in it, want no control characters`,
			"respond.headers.a: is given twice",
			"respond.body: is 1, want a string",
		}},
		{store.Routes, `{"respond":{"status":204,"body":"x"}}`, []string{"respond.body: does not go with the status 204, which has none"}},
		{store.Routes, `{"backend":"a","request_headers":{"set":{"Host":"x"},"remove":["Connection","a b"]},"response_headers":{"add":{"X":" a"},"append":{}}}`, []string{
			"request_headers.set.Host: is not changed as a header field, want rewrite_host",
			"request_headers.remove[0]: is a field of the connection, which the proxy sets itself",
			`request_headers.remove[1]: "a b" is not the name of a header field`,
			`response_headers.add.X: is " a", want no white space around it`,
			"response_headers.append: is not a field of response_headers",
		}},
		{store.Routes, `{"backend":"a","strip_prefix":"/x/*","rewrite_host":"","retries":101,"timeout":"forever","connect_timeout":null}`, []string{
			`strip_prefix: is "/x/*" with a "*" in it, want one only at the end, after a "/"; path_regex can say more`,
			"rewrite_host: is empty, want a host", "retries: is 101, want 0 to 100",
			`timeout: "forever" is not a duration, want a number and a unit (ms, s, m, h, d, w) such as "1.4s"`,
			`connect_timeout: is null, want a duration such as "1.4s"`,
		}},

		// Health.
		{store.HealthKind, ``, []string{`the value is "", want healthy, sick, auto or drain, or an object with state, reason and by`}},
		{store.HealthKind, `unwell`, []string{`the value is "unwell", want healthy, sick, auto or drain, or an object with state, reason and by`}},
		{store.HealthKind, `"sick"`, []string{`the value is "\"sick\"", want healthy, sick, auto or drain, or an object with state, reason and by`}},
		{store.HealthKind, `{"reason":"x"}`, []string{"state: is missing, want healthy, sick, auto or drain"}},
		{store.HealthKind, `{"state":"down","until":1}`, []string{
			`state: is "down", want healthy, sick, auto or drain, or an object with state, reason and by`, "until: is not a field of a health override",
		}},
	} {
		def, _, err := decode(row.kind, row.value)
		if def != nil {
			t.Errorf("Decode(%s, %s) is a definition beside its error", row.kind, row.value)
		}
		if diff := cmp.Diff(row.want, faults(t, err)); diff != "" {
			t.Errorf("Decode(%s, %s), -want +got:\n%s", row.kind, row.value, diff)
		}
	}
}

func TestSevenMistakesGiveSevenErrors(t *testing.T) {
	t.Parallel()
	_, _, err := store.Decode(store.Key{Kind: store.Backends, Name: "web 1"}, []byte(`{
		"host": "example..com",
		"prot": 8080,
		"connect_timeout": "3 seconds",
		"max_connections": -5,
		"max_connections": 5,
		"tls": {"alpn": "h2"},
		"probe": {"threshold": 9}
	}`), store.Reject)
	want := []string{
		`name "web 1" has ' ' in it, want letters, digits, "_", ".", "-", and "/" between segments`,
		`host: "example..com" is not a domain name: a part of it is empty or ends with "-"`,
		`prot: is not a field of a backend; did you mean "port"?`,
		`connect_timeout: "3 seconds" has an unknown unit, want a number and a unit (ms, s, m, h, d, w) such as "1.4s"`,
		`max_connections: is -5, want 0 or more (at most 1000000000)`,
		`max_connections: is given twice`,
		`tls.alpn: is the string "h2", want a list: a protocol's name`,
		`probe.threshold: the threshold is 9 and the window 8 by default, want a threshold from 1 to window`,
	}
	if diff := cmp.Diff(want, faults(t, err)); diff != "" { // seven of fields, and the name's
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := err.Error(); got != strings.Join(want, "; ") {
		t.Errorf("as text: %s", got)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	if _, _, err := store.Decode(store.Key{Kind: store.Probes, Name: "none"}, []byte(`{}`), store.Reject); err == nil {
		t.Error("a probe named none was accepted")
	}
	if _, _, err := store.Decode(store.Key{Kind: store.Backends, Name: "none"}, []byte(`{"host":"a"}`), store.Reject); err != nil {
		t.Errorf("a backend named none: %v", err)
	}
	if _, _, err := store.Decode(store.Key{Kind: "ack", Name: "x"}, []byte(`{`), store.Reject); err == nil {
		t.Error("a kind that does not exist was accepted")
	}
}

// With Warn, backends, probes and directors are served without what is
// unknown; routes, certificates and overrides are not.
func TestUnknownFieldsWarn(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		kind     store.Kind
		value    string
		known    string // "" = an error still
		warnings []string
	}{
		{store.Backends, `{"host":"a","shiny":{"x":1},"tls":{"ech":true},"probe":{"retry":1}}`, `{"host":"a","tls":{},"probe":{}}`, []string{
			"shiny: is not a field of a backend, served without it",
			"tls.ech: is not a field of tls, served without it",
			"probe.retry: is not a field of a probe, served without it",
		}},
		{store.Probes, `{"ulr":"/"}`, `{}`, []string{`ulr: is not a field of a probe, served without it; did you mean "url"?`}},
		{store.Directors, `{"type":"random","subset":3,"backends":[{"name":"a","zone":"b"}]}`, `{"type":"random","backends":["a"]}`, []string{
			"subset: is not a field of a director, served without it",
			"backends[0].zone: is not a field of a member, served without it",
		}},
		{store.Directors, `{"type":"random","subset":3,"panic":7}`, ``, nil},
		{store.Backends, `{"host":"a","shiny":1,"host":"b"}`, ``, nil},
		{store.Routes, `{"backend":"a","match":{"country":"de"}}`, ``, nil},
		{store.Routes, `{"backend":"a","mirror":"b"}`, ``, nil},
		{store.HealthKind, `{"state":"sick","until":"x"}`, ``, nil},
	} {
		def, warnings, err := store.Decode(store.Key{Kind: row.kind, Name: "web"}, []byte(row.value), store.Warn)
		if row.known == "" {
			if err == nil {
				t.Errorf("Decode(%s, %s) has no error", row.kind, row.value)
			}
			continue
		}
		if err != nil {
			t.Errorf("Decode(%s, %s): %v", row.kind, row.value, err)
			continue
		}
		if diff := cmp.Diff(row.warnings, warnings); diff != "" {
			t.Errorf("warnings of %s, -want +got:\n%s", row.value, diff)
		}
		if got := string(store.Encode(def)); got != row.known {
			t.Errorf("Decode(%s, %s)\n got %s\nwant %s", row.kind, row.value, got, row.known)
		}
	}
}

// A value of any size and depth is judged in a moment, on a small stack, and
// what is said of it stays short.
func TestHostileValues(t *testing.T) {
	t.Parallel()
	const size = 1_500_000
	fill := func(head, body, tail string) string {
		return head + strings.Repeat(body, (size-len(head)-len(tail))/len(body)) + tail
	}
	for name, value := range map[string]string{
		"deep lists":        fill(`{"x":`, `[`, ``),
		"deep objects":      fill(``, `{"x":`, ``),
		"deep known fields": fill(``, `{"probe":`, ``),
		"long name":         fill(`{"`, `n`, `":1}`),
		"long string":       fill(`{"port":"`, `9`, `"}`),
		"long number":       fill(`{"port":`, `9`, `}`),
		"unknown fields":    fill(`{"host":"a"`, `,"hots":1`, `}`),
		"twice":             fill(`{"host":"a"`, `,"host":"b"`, `}`),
		"bad labels":        fill(`{"labels":{"a":1`, `,"b":1`, `}}`),
		"same labels":       fill(`{"host":"a","labels":{"a":"1"`, `,"b":"1"`, `}}`),
		"escapes":           fill(`{"comment":"`, `\u0000`, `"}`),
		"surrogates":        fill(`{"comment":"`, `\ud800`, `"}`),
		"bad UTF-8":         fill(`{"host":"`, "\xff", `"}`),
		"white space":       fill(``, " \n", ``),
		"dots":              fill(`{"host":"`, ".", `"}`),
		"digits":            fill(`{"connect_timeout":"`, "1", `"}`),
		"units":             fill(`{"connect_timeout":"`, "1h", `"}`),
		"preamble":          fill(`{"host":"a","preamble":"`, "AAAA", `"}`),
		"pem":               fill(`{"host":"a","tls":{"ca":"`, `-----BEGIN CERTIFICATE-----\n`, `"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []store.UnknownFields{store.Reject, store.Warn} {
				start := time.Now()
				_, warnings, err := store.Decode(store.Key{Kind: store.Backends, Name: "web"}, []byte(value), mode)
				if took := time.Since(start); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				if name != "bad labels" && name != "escapes" && err == nil && warnings == nil {
					t.Error("no error")
				}
				if got := fmt.Sprint(err, warnings); len(got) > 40_000 {
					t.Errorf("%d bytes of errors: %.200s", len(got), got)
				}
			}
		})
	}
}

func TestManyErrorsAreCounted(t *testing.T) {
	t.Parallel()
	_, _, err := decode(store.Backends, `{"host":"a"`+strings.Repeat(`,"x":1`, 150)+`}`)
	lines := faults(t, err)
	if len(lines) != 101 || lines[100] != "and 50 more errors" {
		t.Errorf("%d errors, the last %q", len(lines), lines[len(lines)-1])
	}
}

// A route's expressions may not take more memory than a node has.
func TestRegexpsAreBounded(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ regexps, want string }{
		{`"` + strings.Repeat("a{1000}", 21) + `"`, "instructions, want at most 20000"},
		{`"` + strings.Repeat("a", 5000) + `"`, "is 5000 bytes long, want at most 4096"},
		{`[` + strings.Repeat(`"a",`, 64) + `"a"]`, "is a list of 65, want at most 64"},
	} {
		_, _, err := decode(store.Routes, `{"backend":"a","match":{"path_regex":`+row.regexps+`}}`)
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("error %v, want %q in it", err, row.want)
		}
	}
}

func TestLabels(t *testing.T) {
	t.Parallel()
	l := store.Labels{{"app", "web"}, {"tier", "1"}, {"zone", "a"}}
	if v, ok := l.Get("tier"); !ok || v != "1" {
		t.Errorf("Get(tier) = %q, %v", v, ok)
	}
	if v, ok := l.Get("x"); ok {
		t.Errorf("Get(x) = %q", v)
	}
	for _, row := range []struct {
		want store.Labels
		is   bool
	}{
		{nil, true},
		{store.Labels{{"app", "web"}}, true},
		{store.Labels{{"app", "web"}, {"zone", "a"}}, true},
		{store.Labels{{"app", "web"}, {"zone", "b"}}, false},
		{store.Labels{{"rack", "1"}}, false},
		{store.Labels{{"zoo", "1"}}, false},
	} {
		if got := l.Match(row.want); got != row.is {
			t.Errorf("Match(%v) = %v", row.want, got)
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{ // the Host field and the port
		"a": "a 80", "a-b.c_d.example.": "a-b.c_d.example. 80", "1and1.com": "1and1.com 80", "xn--bcher-kva.example:81": "xn--bcher-kva.example:81 81",
		"10.0.0.7": "10.0.0.7 80", "10.0.0.7:http-alt": "10.0.0.7:8080 8080", "[::1]": "[::1] 80", "[2001:DB8::1]:https-alt": "[2001:DB8::1]:8443 8443",
		"::ffff:10.0.0.7": "[::ffff:10.0.0.7] 80", strings.Repeat("a", 63): strings.Repeat("a", 63) + " 80",
	} {
		b := mustDecode(t, store.Backends, object("host", in)).(*store.Backend)
		if got := fmt.Sprint(b.HostHeader, " ", b.Port); got != want {
			t.Errorf("host %q is %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{
		"", ":80", "a:", "a:0", "a:65536", "a:080x", "a:+80", "a:gopher", "http://a", "a/b", "a b", "a@b", "-a", "a-", "a..b", ".", ".a", "a-.b", "bücher.example",
		"10.0.0.256", "10.0.0", "1", "0x7f.1", "a.0x1", "010.0.0.1", "10.0.0.7.", "[::1", "[::1]x", "[::1]:", "[10.0.0.7]", "[a]", "::1::", "1:2:3", "[::1]]",
		strings.Repeat("a", 64), strings.Repeat("a.", 127), "a\x00", "*.a",
	} {
		if def, _, err := decode(store.Backends, object("host", in)); err == nil {
			t.Errorf("host %q is good: %s", in, store.Encode(def))
		}
	}
}

// A definition outlives the buffer that it was read from.
func TestDecodeSharesNothingWithTheValue(t *testing.T) {
	t.Parallel()
	for kind, value := range map[store.Kind]string{
		store.Backends:   `{"host":"a.example","port":81,"via":"gate","preamble":"AAEC","probe":{"url":"/x"},"labels":{"app":"web"},"comment":"x"}`,
		store.Directors:  `{"type":"hash","by":"cookie:sid","backends":["a",{"name":"b"}],"select":{"app":"web"}}`,
		store.Routes:     `{"match":{"host":"a.example","header":{"a":"b"}},"when":"true","respond":{"headers":{"x":"y"},"body":"z"}}`,
		store.HealthKind: `{"state":"sick","reason":"x"}`,
	} {
		raw := []byte(value)
		def, _, err := store.Decode(store.Key{Kind: kind, Name: "web"}, raw, store.Reject)
		if err != nil {
			t.Fatal(err)
		}
		before := string(store.Encode(def))
		for i := range raw {
			raw[i] = 'X'
		}
		if after := string(store.Encode(def)); after != before {
			t.Errorf("%s changed with its buffer to %s", before, after)
		}
	}
}
