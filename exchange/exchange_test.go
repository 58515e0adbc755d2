package exchange

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roster/http1"
	"roster/message"
	"roster/store"
)

// play runs one exchange whose heads are written as HTTP/1.
type play struct {
	t      *testing.T
	policy *Policy
	peer   Peer
	x      Exchange
	in     message.Request
	answer message.Response
	buf    []byte // so that borrowed bytes can be spoilt
}

func newPlay(t *testing.T, c Config, peer string) *play {
	t.Helper()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	p := &play{t: t, policy: New(c)}
	var addr netip.Addr
	if peer != "" {
		addr = netip.MustParseAddr(peer)
	}
	p.peer = p.policy.Peer(addr, false)
	return p
}

func (p *play) begin(raw string) Step {
	p.t.Helper()
	p.buf = []byte(raw)
	var parser http1.Parser
	if n, err := parser.Request(p.buf, &p.in); n != len(raw) || err != nil {
		p.t.Fatalf("parse %q: %d, %v", raw, n, err)
	}
	return p.x.Begin(p.policy, &p.peer, &p.in)
}

// send goes all the way to Send and returns the request's head.
func (p *play) send(raw string, route *store.Route, def *store.Backend) string {
	p.t.Helper()
	p.step(p.begin(raw), Route)
	p.step(p.x.Routed(route, 7), Pick)
	p.step(p.x.Picked(def), Connect)
	p.step(p.x.Connected(false), Send)
	return strings.ReplaceAll(p.sent(), string(p.policy.comment), "(id)")
}

func (p *play) sent() string { return string(http1.AppendRequest(nil, &p.x.Request)) }

func (p *play) answered(raw string) Step {
	p.t.Helper()
	method := "GET"
	if p.x.Head() {
		method = "HEAD"
	}
	var parser http1.Parser
	if n, err := parser.Response([]byte(raw), &p.answer, []byte(method)); n != len(raw) || err != nil {
		p.t.Fatalf("parse %q: %d, %v", raw, n, err)
	}
	return p.x.Answered(&p.answer)
}

// response is what the client gets.
func (p *play) response() string {
	return string(append(http1.AppendResponse(nil, &p.x.Response, p.x.ClientMinor()), p.x.Body...))
}

func (p *play) step(got, want Step) {
	p.t.Helper()
	if got != want {
		p.t.Fatalf("step %d, want %d (failure %v)", got, want, p.x.Failure())
	}
}

var plainBackend = &store.Backend{HostHeader: "backend.test"}

const plainGet = "GET / HTTP/1.1\r\nHost: h.test\r\n\r\n"

// has and not check lines of a head.
func check(t *testing.T, head string, has, not []string) {
	t.Helper()
	for _, line := range has {
		if !strings.Contains(head, "\r\n"+line+"\r\n") && !strings.HasPrefix(head, line+"\r\n") {
			t.Errorf("no line %q in %q", line, head)
		}
	}
	for _, part := range not {
		if strings.Contains(head, part) {
			t.Errorf("%q in %q", part, head)
		}
	}
}

func TestRequestFields(t *testing.T) {
	t.Parallel()
	request := func(lines ...string) string {
		return "GET /p?q HTTP/1.1\r\nHost: h.test\r\n" + strings.Join(append(lines, "", ""), "\r\n")
	}
	for _, test := range []struct {
		name, raw string
		has, not  []string
	}{
		{"end to end", request("Accept: */*", "X-Any: a b", "Cookie: c=1", "Authorization: Basic x", "Cache-Control: no-cache"),
			[]string{"GET /p?q HTTP/1.1", "Host: h.test", "Accept: */*", "X-Any: a b", "Cookie: c=1", "Authorization: Basic x", "Cache-Control: no-cache"}, nil},
		{"hop by hop", request("Connection: keep-alive", "Keep-Alive: 5", "Proxy-Connection: x", "TE: gzip;q=0.5", "Upgrade: h2c", "HTTP2-Settings: AAA"),
			nil, []string{"Connection", "Keep-Alive", "TE:", "Upgrade", "HTTP2-Settings"}},
		{"trailers wanted", request("Connection: TE", "TE: deflate;q=0.5, Trailers"), []string{"TE: trailers", "Connection: TE"}, []string{"deflate"}},
		{"trailers wanted twice", request("TE: trailers", "te: trailers"), []string{"TE: trailers"}, []string{"te:"}},
		{"trailers wanted by 1.0", "GET / HTTP/1.0\r\nTE: trailers\r\n\r\n", nil, []string{"TE"}},
		{"named by Connection", request("Connection: X-Foo, close", "x-foo: 1", "X-Bar: 2"), []string{"X-Bar: 2"}, []string{"foo", "close"}},
		{"Connection cannot take out what all need", request("Connection: Host, Via, X-Forwarded-For, Cookie, Authorization, Content-Type", "Cookie: c", "Content-Type: t", "Authorization: a"),
			[]string{"Host: h.test", "Cookie: c", "Content-Type: t", "Authorization: a", "Via: 1.1 roster (id)", "X-Forwarded-For: 192.0.2.1"}, nil},
		{"Via", request("Via: 1.0 fred"), []string{"Via: 1.0 fred", "Via: 1.1 roster (id)"}, nil},
		{"Via of 1.0", "GET / HTTP/1.0\r\n\r\n", []string{"Via: 1.0 roster (id)", "Host: backend.test"}, nil},
		{"who the client is", request("X-Forwarded-For: 6.6.6.6", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil", "X-Forwarded-Port: 1", "X-Forwarded-Server: e", "Forwarded: for=6.6.6.6", "X-Request-Id: mine"),
			[]string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: h.test", "Forwarded: for=192.0.2.1;host=h.test;proto=http"},
			[]string{"6.6.6.6", "evil", "X-Forwarded-Port", "X-Forwarded-Server", "mine"}},
		{"who the client is, with underscores", request("X_Forwarded_For: 6.6.6.6", "x-forwarded_proto: https", "X_Request_Id: mine", "X_Any: y", "X_Forwarded_Anything_That_Is_Longer_Than_All: z"),
			[]string{"X_Any: y"}, []string{"6.6.6.6", "https", "mine", "Anything"}},
		{"Host with a port", "GET / HTTP/1.1\r\nHost: h.test:81\r\n\r\n", []string{"Host: h.test:81", `Forwarded: for=192.0.2.1;host="h.test:81";proto=http`}, nil},
		{"absolute-form", "GET http://other.test/x HTTP/1.1\r\nHost: h.test\r\n\r\n", []string{"GET /x HTTP/1.1", "Host: other.test", "X-Forwarded-Host: other.test"}, []string{"h.test\r\nHost"}},
		{"empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", []string{"Host: backend.test"}, []string{"X-Forwarded-Host"}},
		{"length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n", []string{"Content-Length: 3"}, nil},
		{"length 0", "DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", []string{"Content-Length: 0"}, nil},
		{"chunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n", []string{"Transfer-Encoding: chunked", "Trailer: X-Sum"}, nil},
		{"Trailer without any", request("Trailer: X-Sum"), nil, []string{"Trailer"}},
		{"Expect", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\n", []string{"Expect: 100-Continue"}, nil},
		{"Expect of 1.0", "POST / HTTP/1.0\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", nil, []string{"Expect"}},
		{"Max-Forwards of OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 10\r\n\r\n", []string{"OPTIONS * HTTP/1.1", "Max-Forwards: 9"}, nil},
		{"Max-Forwards of GET", request("Max-Forwards: 0"), []string{"Max-Forwards: 0"}, nil},
		{"upgrade", request("Connection: upgrade", "Upgrade: websocket"), []string{"Connection: upgrade", "Upgrade: websocket"}, nil},
		{"upgrade to h2c", request("Connection: upgrade, http2-settings", "Upgrade: websocket, H2C", "HTTP2-Settings: x"), nil, []string{"pgrade", "ettings"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, Config{}, "192.0.2.1")
			check(t, p.send(test.raw, nil, plainBackend), test.has, test.not)
		})
	}
}

func TestHostRules(t *testing.T) {
	t.Parallel()
	override := &store.Backend{HostHeader: "backend.test", OverrideHost: true}
	for _, test := range []struct {
		name  string
		def   *store.Backend
		route *store.Route
		raw   string
		want  string
	}{
		{"the client's", plainBackend, nil, plainGet, "h.test"},
		{"none", plainBackend, nil, "GET / HTTP/1.0\r\n\r\n", "backend.test"},
		{"override", override, nil, plainGet, "backend.test"},
		{"rewrite", plainBackend, &store.Route{RewriteHost: "r.test"}, plainGet, "r.test"},
		{"rewrite is nearer than override", override, &store.Route{RewriteHost: "r.test"}, plainGet, "r.test"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, Config{}, "192.0.2.1")
			check(t, p.send(test.raw, test.route, test.def), []string{"Host: " + test.want}, nil)
		})
	}
}

func TestTrustedProxies(t *testing.T) {
	t.Parallel()
	trust := Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	request := func(lines ...string) string {
		return "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Join(append(lines, "", ""), "\r\n")
	}
	for _, test := range []struct {
		name, peer, raw, client string
		has, not                []string
	}{
		{"not trusted", "192.0.2.1", request("X-Forwarded-For: 1.1.1.1"), "192.0.2.1", []string{"X-Forwarded-For: 192.0.2.1"}, nil},
		{"appended", "10.0.0.1", request("X-Forwarded-For: 1.1.1.1"), "1.1.1.1", []string{"X-Forwarded-For: 1.1.1.1, 10.0.0.1"}, []string{"Forwarded: for"}},
		{"chain", "10.0.0.1", request("X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.2"), "1.1.1.1", []string{"X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.2, 10.0.0.1"}, nil},
		{"two fields", "10.0.0.1", request("X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 10.0.0.2"), "1.1.1.1", []string{"X-Forwarded-For: 1.1.1.1, 10.0.0.2, 10.0.0.1"}, nil},
		{"all trusted", "10.0.0.1", request("X-Forwarded-For: 10.0.0.3, 10.0.0.2"), "10.0.0.3", nil, nil},
		{"none", "10.0.0.1", request(), "10.0.0.1", []string{"X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1;host=h;proto=http"}, nil},
		{"no address", "10.0.0.1", request("X-Forwarded-For: 1.1.1.1, unknown, 10.0.0.2"), "10.0.0.2", nil, nil},
		{"ports and brackets", "10.0.0.1", request("X-Forwarded-For: [2001:db8::1]:80, 10.0.0.2:99"), "2001:db8::1", nil, nil},
		{"IPv6", "fd00::1", request("X-Forwarded-For: ::ffff:1.2.3.4"), "1.2.3.4", []string{"X-Forwarded-For: ::ffff:1.2.3.4, fd00::1"}, nil},
		{"IPv6 alone", "2001:db8::1", request(), "2001:db8::1", []string{`Forwarded: for="[2001:db8::1]";host=h;proto=http`}, nil},
		{"proto and host kept", "10.0.0.1", request("X-Forwarded-Proto: https", "X-Forwarded-Host: o.test", "X-Forwarded-Port: 443"), "10.0.0.1",
			[]string{"X-Forwarded-Proto: https", "X-Forwarded-Host: o.test", "X-Forwarded-Port: 443"}, []string{"Proto: http\r", "Forwarded-Host: h"}},
		{"Forwarded appended", "10.0.0.1", request("Forwarded: for=1.1.1.1"), "10.0.0.1", []string{"Forwarded: for=1.1.1.1, for=10.0.0.1;host=h;proto=http"}, nil},
		{"request id kept", "10.0.0.1", request("X-Request-Id: abc-1"), "10.0.0.1", []string{"X-Request-Id: abc-1"}, nil},
		{"request id not fit", "10.0.0.1", request("X-Request-Id: a b"), "10.0.0.1", nil, []string{"a b"}},
		{"a socket", "", request("X-Forwarded-For: 1.1.1.1"), "invalid IP", []string{"Forwarded: for=unknown;host=h;proto=http"}, []string{"X-Forwarded-For"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, trust, test.peer)
			p.begin(test.raw)
			if got := p.x.Client().String(); got != test.client {
				t.Errorf("client %s, want %s", got, test.client)
			}
			check(t, p.send(test.raw, nil, plainBackend), test.has, test.not)
		})
	}
}

// What is no request has no fields to tell who sent it.
func TestClientOfARefusedRequest(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, "10.0.0.1")
	p.step(p.x.Refuse(p.policy, &p.peer, Failure{Kind: BadRequest}), Reply)
	if got := p.x.Client().String(); got != "10.0.0.1" {
		t.Errorf("client %s", got)
	}
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	seen := map[string]bool{}
	for range 1000 {
		p.begin(plainGet)
		id := string(p.x.RequestID())
		if len(id) != 32 || seen[id] {
			t.Fatalf("id %q, seen %t", id, seen[id])
		}
		seen[id] = true
	}
}

func TestAnswersOfTheProxyItself(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, raw, want string
		has             []string
	}{
		{"CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n", "501", []string{"Connection: close", "Proxy-Status: roster; error=http_request_error"}},
		{"loop", "GET / HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("Via: 1.1 a, HTTP/1.1 Roster (x)\r\n", 17) + "\r\n", "508",
			[]string{"Proxy-Status: roster; error=proxy_loop_detected"}},
		{"expectation", "GET / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n", "417", nil},
		{"TRACE", "TRACE /x HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\nCookie: secret\r\nX: y\r\n\r\n", "200",
			[]string{"Content-Type: message/http", "TRACE /x HTTP/1.1", "Max-Forwards: 0", "X: y"}},
		{"OPTIONS", "OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n", "200", []string{"Content-Length: 0"}},
		{"Max-Forwards", "TRACE / HTTP/1.1\r\nHost: h\r\nMax-Forwards: x\r\n\r\n", "400", nil},
		{"names without end", "GET / HTTP/1.1\r\nHost: h\r\nConnection: " + strings.Repeat("a,", 40) + "\r\n\r\n", "400", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, Config{}, "192.0.2.1")
			p.step(p.begin(test.raw), Reply)
			got := p.response()
			if got[9:12] != test.want {
				t.Errorf("status %s, want %s", got[9:12], test.want)
			}
			check(t, got, test.has, []string{"secret"})
		})
	}
}

// TestLoops: a request that comes back is one, a tier of the same name is none.
func TestLoops(t *testing.T) {
	t.Parallel()
	edge, inner := newPlay(t, Config{}, "192.0.2.1"), newPlay(t, Config{}, "192.0.2.2")
	edge.send(plainGet, nil, plainBackend)
	inner.send(edge.sent(), nil, plainBackend)
	for _, p := range []*play{edge, inner} {
		p.step(p.begin(inner.sent()), Reply)
		if got := p.x.Failure(); got != Loop {
			t.Errorf("came back: %v, want a loop", got)
		}
	}
	own := string(edge.policy.comment)
	for _, test := range []struct {
		name, via string
		want      Step
	}{
		{"first of several", "1.1 roster " + own + ", 1.1 roster (00000000), 1.0 cache", Reply},
		{"last of several", "1.0 cache (a, b), 1.1 roster (00000000),HTTP/1.1\tROSTER\t" + own, Reply},
		{"of another field", "1.0 cache\r\nVia: 2 roster " + own, Reply},
		{"without a space", "1.1 roster" + own, Reply},
		{"another name", "1.1 rooster " + own, Route},
		{"another process", "1.1 roster (00000000)", Route},
		{"comments dropped, once", "1.1 roster", Route},
		{"comments dropped, for ever", strings.Repeat("1.1 roster, ", maxTiers) + "1.1 roster", Reply},
		{"as many tiers as may be", strings.Repeat("1.1 roster\r\nVia: ", maxTiers-1) + "1.1 roster", Route},
		{"a comment alone", own, Route},
	} {
		t.Run(test.name, func(t *testing.T) {
			edge.t = t
			edge.step(edge.begin("GET / HTTP/1.1\r\nHost: h\r\nVia: "+test.via+"\r\n\r\n"), test.want)
		})
	}
}

func TestMinRevision(t *testing.T) {
	t.Parallel()
	const raw = "GET / HTTP/1.1\r\nHost: h\r\nX-Min-Revision: 41\r\n\r\n"
	p := newPlay(t, Config{}, "192.0.2.1")
	p.step(p.begin(raw), Route)
	p = newPlay(t, Config{MinRevisionWait: time.Second}, "192.0.2.1")
	p.step(p.begin(raw), Revision)
	if got := p.x.MinRevision(); got != 41 {
		t.Errorf("revision %d, want 41", got)
	}
	p.step(p.x.Waited(), Route)
	p.step(p.begin(raw), Revision)
	p.step(p.x.Failed(Failure{Kind: Stale}), Reply)
	check(t, p.response(), []string{"HTTP/1.1 503 Service Unavailable", "Retry-After: 1"}, nil)
	p.step(p.begin("GET / HTTP/1.1\r\nHost: h\r\nX-Min-Revision: soon\r\n\r\n"), Reply)
}

// TestFailures is contract section 6: what each failure looks like.
func TestFailures(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		failure Failure
		want    string
		varnish string
	}{
		{Failure{Kind: BadBody}, "400 http_request_error", "400"},
		{Failure{Kind: BadRequest, Status: 431}, "431 http_request_error", "431"},
		{Failure{Kind: ClientTimeout}, "408 http_request_error", "408"},
		{Failure{Kind: Internal}, "500 proxy_internal_error", "500"},
		{Failure{Kind: NoBackend}, "503 destination_unavailable", "503"},
		{Failure{Kind: Busy}, "503 connection_limit_reached", "503"},
		{Failure{Kind: Sick}, "503 destination_unavailable", "503"},
		{Failure{Kind: Refused}, "502 connection_refused", "503"},
		{Failure{Kind: Unroutable}, "502 destination_ip_unroutable", "503"},
		{Failure{Kind: Unresolved}, "502 dns_error", "503"},
		{Failure{Kind: Prohibited}, "502 destination_ip_prohibited", "503"},
		{Failure{Kind: Handshake}, "502 tls_protocol_error", "503"},
		{Failure{Kind: Handshake, Type: "tls_certificate_error"}, "502 tls_certificate_error", "503"},
		{Failure{Kind: Local}, "502 proxy_internal_error", "503"},
		{Failure{Kind: ConnectTimeout}, "504 connection_timeout", "503"},
		{Failure{Kind: Closed}, "502 connection_terminated", "503"},
		{Failure{Kind: Incomplete}, "502 http_response_incomplete", "503"},
		{Failure{Kind: WriteTimeout}, "504 connection_write_timeout", "503"},
		{Failure{Kind: FirstByte}, "504 http_response_timeout", "503"},
		{Failure{Kind: BetweenBytes}, "504 http_response_timeout", "503"},
		{Failure{Kind: Late}, "504 http_response_timeout", "503"},
		{Failure{Kind: BadAnswer}, "502 http_protocol_error", "503"},
	} {
		t.Run(test.want, func(t *testing.T) {
			t.Parallel()
			for _, varnish := range []bool{false, true} {
				p := newPlay(t, Config{ProxyName: "edge 1", VarnishErrors: varnish}, "192.0.2.1")
				p.send("POST / HTTP/1.1\r\nHost: h\r\n\r\n", nil, plainBackend)
				p.step(p.x.Failed(test.failure), Reply)
				want, typ, _ := strings.Cut(test.want, " ")
				if varnish {
					want = test.varnish
				}
				got := p.response()
				check(t, got, []string{`Proxy-Status: "edge 1"; error=` + typ, "X-Request-Id: " + string(p.x.RequestID()), "Content-Type: text/plain; charset=utf-8"}, nil)
				if got[9:12] != want || !strings.HasPrefix(string(p.x.Body), want+" ") {
					t.Errorf("got %q, want status %s", got, want)
				}
				if p.x.Failure() != test.failure.Kind {
					t.Errorf("counted as %v", p.x.Failure())
				}
			}
		})
	}
}

func TestErrorToHeadHasNoBody(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	p.step(p.begin("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"), Route)
	p.step(p.x.Failed(Failure{Kind: NoBackend}), Reply)
	if p.x.Body != nil {
		t.Errorf("body %q", p.x.Body)
	}
	check(t, p.response(), []string{"Content-Length: 44"}, nil)
}

func TestRetries(t *testing.T) {
	t.Parallel()
	const put = "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
	two := &store.Route{Retries: 1}
	for _, test := range []struct {
		name   string
		raw    string
		route  *store.Route
		reused bool
		gone   bool // the body
		kind   Kind
		want   Step
	}{
		{"reused", plainGet, nil, true, false, Closed, Connect},
		{"reused PUT", put, nil, true, false, Closed, Connect},
		{"reused PUT, body gone", put, nil, true, true, Closed, Reply},
		{"reused POST", post, nil, true, false, Closed, Reply},
		{"reused PATCH", strings.Replace(post, "POST", "PATCH", 1), nil, true, false, Closed, Reply},
		{"reused, but it answered", plainGet, nil, true, false, Incomplete, Reply},
		{"reused, but it was slow", plainGet, nil, true, false, FirstByte, Reply},
		{"fresh", plainGet, nil, false, false, Closed, Reply},
		{"another, refused", plainGet, two, false, false, Refused, Pick},
		{"another, closed", plainGet, two, false, false, Closed, Pick},
		{"another, slow", plainGet, two, false, false, FirstByte, Pick},
		{"another, bad", plainGet, two, false, false, BadAnswer, Pick},
		{"another for a POST that was not sent", post, two, false, false, Refused, Pick},
		{"another for a POST that may have been", post, two, false, false, Closed, Reply},
		{"another, body gone", put, two, false, true, Closed, Reply},
		{"another, none there", plainGet, two, false, false, NoBackend, Reply},
		{"another, client's fault", plainGet, two, false, false, BadBody, Reply},
		{"gone", plainGet, two, true, false, ClientGone, Cut},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, Config{}, "192.0.2.1")
			p.step(p.begin(test.raw), Route)
			p.step(p.x.Routed(test.route, 1), Pick)
			p.step(p.x.Picked(plainBackend), Connect)
			p.step(p.x.Connected(test.reused), Send)
			if test.gone {
				p.x.BodyGone()
			}
			p.step(p.x.Failed(Failure{Kind: test.kind}), test.want)
			switch test.want {
			case Connect:
				if !p.x.Fresh() {
					t.Error("not on a fresh connection")
				}
				p.step(p.x.Connected(false), Send)
				p.step(p.x.Failed(Failure{Kind: Closed}), Reply) // once only
			case Pick:
				p.step(p.x.Picked(plainBackend), Connect)
				p.step(p.x.Connected(false), Send)
				p.step(p.x.Failed(Failure{Kind: test.kind}), Reply)
			}
		})
	}
	t.Run("not after an interim answer", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(plainGet, two, plainBackend)
		p.step(p.answered("HTTP/1.1 103 Early Hints\r\n\r\n"), Interim)
		p.step(p.x.Failed(Failure{Kind: Incomplete}), Reply)
	})
	t.Run("not after the head", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(plainGet, two, plainBackend)
		p.step(p.answered("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n"), Answer)
		p.step(p.x.Failed(Failure{Kind: Truncated}), Cut)
		if p.x.Reset() {
			t.Error("reset, want a close that is short of the length")
		}
	})
	t.Run("a head that was not sent is taken back", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(plainGet, nil, plainBackend)
		p.step(p.answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Answer)
		p.x.Withdraw()
		p.step(p.x.Failed(Failure{Kind: BadAnswer}), Reply)
	})
}

func TestAnswerFields(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, request, answer string
		step                  Step
		has, not              []string
	}{
		{"end to end", plainGet, "HTTP/1.1 200 Fine\r\nServer: s\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 3\r\nDate: d\r\n\r\n", Answer,
			[]string{"HTTP/1.1 200 Fine", "Server: s", "Set-Cookie: a", "Set-Cookie: b", "Content-Length: 3", "Date: d", "Via: 1.1 roster"}, []string{"Connection"}},
		{"hop by hop", plainGet, "HTTP/1.1 200 OK\r\nConnection: close, X-A\r\nX-A: 1\r\nKeep-Alive: 3\r\nUpgrade: h2\r\nContent-Length: 0\r\n\r\n", Answer,
			nil, []string{"Connection", "X-A", "Keep-Alive", "Upgrade"}},
		{"Date is added", plainGet, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Answer, []string{"Date: Sat, 01 Jan 2000 00:00:00 GMT"}, nil},
		{"until close becomes chunked", plainGet, "HTTP/1.1 200 OK\r\n\r\n", Answer, []string{"Transfer-Encoding: chunked"}, []string{"Connection"}},
		{"chunked for an old client", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n", Answer,
			[]string{"Connection: close"}, []string{"chunked", "Trailer"}},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Answer, []string{"Content-Length: 9"}, nil},
		{"304", plainGet, "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Answer, []string{"Content-Length: 9"}, nil},
		{"204", plainGet, "HTTP/1.1 204 No Content\r\n\r\n", Answer, nil, []string{"Content-Length", "chunked"}},
		{"interim", plainGet, "HTTP/1.1 103 Early Hints\r\nLink: l\r\nConnection: X-B\r\nX-B: 1\r\n\r\n", Interim, []string{"Link: l"}, []string{"Via", "Date", "X-B"}},
		{"interim for an old client", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n", Wait, nil, nil},
		{"client closes", "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Answer, []string{"Connection: close"}, nil},
		{"early", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Answer, []string{"Connection: close"}, nil},
		{"switched", "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Tunnel,
			[]string{"HTTP/1.1 101 Switching Protocols", "Upgrade: x", "Connection: upgrade"}, nil},
		{"switched unasked", plainGet, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", Reply, []string{"HTTP/1.1 502 Bad Gateway"}, nil},
		{"switched to nothing", "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\n\r\n", Reply, []string{"HTTP/1.1 502 Bad Gateway"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { // where it is midnight, 2000-01-01
				p := newPlay(t, Config{}, "192.0.2.1")
				p.send(test.request, nil, plainBackend)
				p.step(p.answered(test.answer), test.step)
				if test.step != Wait {
					check(t, p.response(), test.has, test.not)
				}
			})
		})
	}
}

func TestInterimAnswersHaveAnEnd(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	p.send(plainGet, nil, plainBackend)
	for range maxInterims {
		p.step(p.answered("HTTP/1.1 102 Processing\r\n\r\n"), Interim)
	}
	p.step(p.answered("HTTP/1.1 102 Processing\r\n\r\n"), Reply)
}

func TestOldClientsAreResetWhereTheEndIsTheClose(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	p.send("GET / HTTP/1.0\r\n\r\n", nil, plainBackend)
	p.step(p.answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), Answer)
	p.step(p.x.Failed(Failure{Kind: Truncated}), Cut)
	if !p.x.Reset() {
		t.Error("no reset")
	}
}

func TestRouteEdits(t *testing.T) {
	t.Parallel()
	route := &store.Route{
		RequestHeaders:  store.HeaderEdits{Remove: []string{"cookie", "X-Gone"}, Set: []store.HeaderField{{Name: "X-Set", Value: "new"}, {Name: "X-Forwarded-Proto", Value: "https"}}, Add: []store.HeaderField{{Name: "X-Add", Value: "2"}}},
		ResponseHeaders: store.HeaderEdits{Remove: []string{"Server"}, Set: []store.HeaderField{{Name: "X-Frame", Value: "deny"}}},
	}
	p := newPlay(t, Config{RevisionHeader: true}, "192.0.2.1")
	head := p.send("GET / HTTP/1.1\r\nHost: h\r\nCookie: c\r\nx-gone: 1\r\nX-SET: old\r\nX-Add: 1\r\n\r\n", route, plainBackend)
	check(t, head, []string{"X-Set: new", "X-Add: 1", "X-Add: 2", "X-Forwarded-Proto: https"}, []string{"Cookie", "gone", "old", "Proto: http\r"})
	p.step(p.answered("HTTP/1.1 200 OK\r\nServer: s\r\nX-Frame: allow\r\nX-Frame: x\r\nContent-Length: 0\r\n\r\n"), Answer)
	check(t, p.response(), []string{"X-Frame: deny", "X-Roster-Revision: 7"}, []string{"Server", "allow"})
}

func TestRespond(t *testing.T) {
	t.Parallel()
	route := &store.Route{Respond: &store.Respond{Status: 404, Headers: []store.HeaderField{{Name: "Content-Type", Value: "text/html"}}, Body: "<h1>no</h1>"}}
	for _, method := range []string{"GET", "HEAD"} {
		p := newPlay(t, Config{}, "192.0.2.1")
		p.step(p.begin(method+" / HTTP/1.1\r\nHost: h\r\n\r\n"), Route)
		p.step(p.x.Routed(route, 1), Reply)
		check(t, p.response(), []string{"HTTP/1.1 404 Not Found", "Content-Type: text/html", "Content-Length: 11"}, []string{"Proxy-Status"})
		if got := strings.HasSuffix(p.response(), "<h1>no</h1>"); got != (method == "GET") {
			t.Errorf("%s: body %t", method, got)
		}
	}
}

func TestStripPrefix(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ prefix, target, want string }{
		{"/java", "/java/x?q", "/x?q"},
		{"/java", "/java", "/"},
		{"/java", "/java?q", "/?q"},
		{"/java", "/javascript", "/javascript"},
		{"/java/", "/java/x", "/x"},
		{"/java/", "/java", "/java"},
		{"/java", "/%6aava/%41", "/%41"},
		{"/java", "//java//x", "/x"},
		{"/a%20b", "/a%20b/x", "/x"},
		{"/a%2Fb", "/a%2fb/x", "/x"},
		{"/a/b", "/a%2Fb/x", "/a%2Fb/x"},
		{"/java", "/x/../java/y", "/x/../java/y"},
		{"/java", "/jav?a/x", "/jav?a/x"},
		{"/", "/x", "/x"},
		{"/java", "*", "*"},
	} {
		var x Exchange
		if got := string(x.strip([]byte(test.target), test.prefix)); got != test.want {
			t.Errorf("strip %s off %s: %s, want %s", test.prefix, test.target, got, test.want)
		}
	}
}

// What is left of a path after its prefix leads nowhere else than routes saw: the dot
// segments of a path that a route lets pass could go up to what it does not.
func TestStripPrefixGoesByThePathOfRoutes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ prefix, target, path, want string }{
		{"/pub", "/pub/a/../../pub/secret?q=/../", "/pub/secret", "/secret?q=/../"},
		{"/pub", "/pub/../admin", "/admin", "/admin"},
		{"/pub", "/pub/%2e%2E/admin", "/admin", "/admin"},
		{"/pub", "/x/../pub/y", "/pub/y", "/y"},
		{"/pub", "/pub/x/.", "/pub/x/", "/x/"},
		{"/pub", "/pub/..", "/", "/"},
		{"/pub", "/pub/.../%2e.x/..y/%41", "/pub/.../..x/..y/A", "/.../%2e.x/..y/%41"},
		{"/pub", "/pub/x?/../y", "/pub/x", "/x?/../y"},
	} {
		p := newPlay(t, Config{}, "192.0.2.1")
		p.step(p.begin("GET "+test.target+" HTTP/1.1\r\nHost: h\r\n\r\n"), Route)
		p.x.SetPath([]byte(test.path))
		p.step(p.x.Routed(&store.Route{StripPrefix: test.prefix, ConnectTimeout: store.Inherit, FirstByteTimeout: store.Inherit, BetweenBytesTimeout: store.Inherit}, 1), Pick)
		p.step(p.x.Picked(plainBackend), Connect)
		p.step(p.x.Connected(false), Send)
		if got := string(p.x.Request.Target); got != test.want {
			t.Errorf("%s without %s: %s, want %s", test.target, test.prefix, got, test.want)
		}
	}
}

func TestTimeouts(t *testing.T) {
	t.Parallel()
	def := &store.Backend{ConnectTimeout: 1, FirstByteTimeout: 2, BetweenBytesTimeout: 3, TunnelTimeout: 4}
	p := newPlay(t, Config{}, "192.0.2.1")
	p.send(plainGet, nil, def)
	if got, want := p.x.Timeouts(), (Timeouts{1, 2, 3, 4, 0}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	route := &store.Route{Timeout: 9, ConnectTimeout: store.Inherit, FirstByteTimeout: 0, BetweenBytesTimeout: 7}
	p.send(plainGet, route, def)
	if got, want := p.x.Timeouts(), (Timeouts{1, 0, 7, 4, 9}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTrailers(t *testing.T) {
	t.Parallel()
	fields := []message.Field{
		{Name: []byte("Grpc-Status"), Value: []byte("0")},
		message.New(message.ContentLength, []byte("5")),
		message.New(message.XForwardedFor, []byte("6.6.6.6")),
		{Name: []byte("Digest"), Value: []byte("x")},
	}
	if got := Trailers(fields); len(got) != 2 || string(got[1].Name) != "Digest" {
		t.Errorf("got %v", got)
	}
}

// TestNothingBorrowedAfterBodyGone: the client's buffer is reused once the body
// streams, and nothing of it may turn up later.
func TestNothingBorrowedAfterBodyGone(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}, "192.0.2.1")
	p.send("HEAD /x HTTP/1.1\r\nHost: h\r\nX-Request-Id: kept\r\nTransfer-Encoding: chunked\r\n\r\n", nil, plainBackend)
	p.x.BodyGone()
	for i := range p.buf {
		p.buf[i] = '#'
	}
	p.step(p.x.Failed(Failure{Kind: FirstByte}), Reply)
	check(t, p.response(), []string{"X-Request-Id: kept"}, []string{"#"})
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	err := Config{ProxyName: "a\n", TrustedProxies: []netip.Prefix{{}}, MinRevisionWait: -1}.Validate()
	if err == nil || strings.Count(err.Error(), "*") != 3 {
		t.Errorf("got %v, want three faults", err)
	}
}

// TestEachAnswerNamesItsRevision, a failure too, once a table has routed the request.
func TestEachAnswerNamesItsRevision(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{RevisionHeader: true}, "192.0.2.1")
	p.step(p.begin(plainGet), Route)
	p.step(p.x.Routed(nil, 17), Pick)
	p.step(p.x.Failed(Failure{Kind: NoBackend}), Reply)
	check(t, p.response(), []string{"X-Roster-Revision: 17"}, nil)

	p = newPlay(t, Config{RevisionHeader: true, MinRevisionWait: 1}, "192.0.2.1")
	p.step(p.begin("GET / HTTP/1.1\r\nHost: h\r\nX-Min-Revision: 99\r\n\r\n"), Revision)
	p.step(p.x.Failed(Failure{Kind: Stale}), Reply)
	check(t, p.response(), nil, []string{"X-Roster-Revision"})
}

// TestDocumentedKinds: docs/LISTENERS.md has a row for each kind, as it is.
func TestDocumentedKinds(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/LISTENERS.md")
	if err != nil {
		t.Fatal(err)
	}
	for k := None + 1; k < kinds; k++ {
		info := kindInfo[k]
		row := fmt.Sprintf("| `%s` | %d | `%s` | ", info.name, info.status, info.typ)
		if info.status == 0 {
			row = fmt.Sprintf("| `%s` | - | | ", info.name)
		}
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/LISTENERS.md has no row %s", row)
		}
	}
}
