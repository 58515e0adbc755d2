package exchange

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"roster/http1"
	"roster/message"
	"roster/store"
)

// beginStream is begin for a request that came by HTTP/2. Its head is written as
// HTTP/1 all the same; the authority is in place of Host.
func (p *play) beginStream(raw, authority string, length int64) Step {
	p.t.Helper()
	named := strings.Contains(raw, "\r\nHost:")
	if !named {
		raw = strings.Replace(raw, "\r\n", "\r\nHost: h2.test\r\n", 1)
	}
	p.buf = []byte(raw)
	var parser http1.Parser
	if n, err := parser.Request(p.buf, &p.in); n != len(p.buf) || err != nil {
		p.t.Fatalf("parse %q: %d, %v", p.buf, n, err)
	}
	p.in.Major, p.in.Minor, p.in.Length = 2, 0, length
	p.in.Authority = []byte(authority)
	if !named {
		p.in.Fields = p.in.Fields[1:]
	}
	return p.x.Begin(p.policy, &p.peer, &p.in)
}

// tryStream goes on to Send.
func (p *play) tryStream(def *store.Backend) {
	p.t.Helper()
	p.step(p.x.Routed(nil, 1), Pick)
	p.step(p.x.Picked(def), Connect)
	p.step(p.x.Connected(false), Send)
}

const h2Get = "GET / HTTP/1.1\r\n\r\n"

func TestHTTP2Request(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	p.step(p.beginStream("POST /pkg.Service/Method HTTP/1.1\r\nTE: trailers\r\nContent-Type: application/grpc\r\nGrpc-Timeout: 1S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
		"h.test", message.Unknown), Route)
	p.tryStream(&store.Backend{HostHeader: "b", Protocol: store.H2C})
	head := strings.ReplaceAll(p.sent(), string(p.policy.comment), "(id)")
	check(t, head, []string{"POST /pkg.Service/Method HTTP/1.1", "Host: h.test", "TE: trailers", "Content-Type: application/grpc", "Grpc-Timeout: 1S",
		"Via: 2 roster (id)", "X-Forwarded-Host: h.test", "Forwarded: for=192.0.2.1;host=h.test;proto=http"}, []string{"pgrade"})
	if p.x.ClientMinor() != 1 || p.x.Reset() {
		t.Errorf("minor %d, reset %v", p.x.ClientMinor(), p.x.Reset())
	}
}

// The connection stays, whatever becomes of one of its streams, unless it is to end.
func TestHTTP2ConnectionOutlivesItsStreams(t *testing.T) {
	t.Parallel()
	answer := func(p *play) Step { return p.answered("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") }
	fails := func(k Kind) func(*play) Step {
		return func(p *play) Step { return p.x.Failed(Failure{Kind: k}) }
	}
	for _, row := range []struct {
		name string
		end  func(*play) Step
		want Step
	}{
		{"answer, body not read", answer, Answer},
		{"error, body not read", fails(FirstByte), Reply},
		{"body not valid", fails(BadBody), Reply},
		{"body too slow", fails(ClientTimeout), Reply},
		{"cut", func(p *play) Step { answer(p); return p.x.Failed(Failure{Kind: Truncated}) }, Cut},
		{"gone", fails(ClientGone), Cut},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			for _, drained := range []bool{false, true} {
				if drained && row.want == Cut {
					continue
				}
				p := newPlay(t, Config{}, "192.0.2.1")
				p.step(p.beginStream(strings.Replace(h2Get, "GET", "POST", 1), "h.test", message.Unknown), Route)
				p.tryStream(plainBackend)
				if drained {
					p.x.CloseClient()
				}
				p.step(row.end(p), row.want)
				if p.x.Response.Close != drained {
					t.Errorf("close %v, drained %v", p.x.Response.Close, drained)
				}
			}
		})
	}
}

func TestHTTP2RequestNamesAHost(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	p.step(p.beginStream(h2Get, "", 0), Reply)
	if p.x.Response.Status != 400 || p.x.Response.Close {
		t.Errorf("status %d, close %v", p.x.Response.Status, p.x.Response.Close)
	}
	p.step(p.beginStream("GET / HTTP/1.1\r\nX-Any: 1\r\n\r\n", "a.test", 0), Route)
	p.step(p.beginStream("GET / HTTP/1.1\r\nHost:\r\n\r\n", "", 0), Route) // an empty one, as in HTTP/1.1
}

func TestHTTP2TraceShowsTheHost(t *testing.T) {
	t.Parallel()
	p := newPlay(t, Config{}, "192.0.2.1")
	p.step(p.beginStream("TRACE / HTTP/1.1\r\nMax-Forwards: 0\r\n\r\n", "h.test", 0), Reply)
	if want := "TRACE / HTTP/1.1\r\nHost: h.test\r\nMax-Forwards: 0\r\n\r\n"; string(p.x.Body) != want {
		t.Errorf("got %q", p.x.Body)
	}
}

// A backend that speaks HTTP/2 is not asked for an upgrade, and the next one may be.
func TestUpgradeIsForHTTP1Backends(t *testing.T) {
	t.Parallel()
	const raw = "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
	const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
	one := &store.Backend{HostHeader: "b", Protocol: store.HTTP1}
	for _, protocol := range []store.Protocol{store.HTTP2, store.H2C} {
		two := &store.Backend{HostHeader: "b", Protocol: protocol}
		p := newPlay(t, Config{}, "192.0.2.1")
		check(t, p.send(raw, &store.Route{Retries: 2}, two), nil, []string{"pgrade"})
		p.step(p.x.Failed(Failure{Kind: Refused}), Pick)
		p.step(p.x.Picked(one), Connect)
		p.step(p.x.Connected(false), Send)
		check(t, p.sent(), []string{"Connection: upgrade", "Upgrade: websocket"}, nil)
		p.step(p.x.Failed(Failure{Kind: Refused}), Pick)
		p.step(p.x.Picked(two), Connect)
		p.step(p.x.Connected(false), Send)
		check(t, p.sent(), nil, []string{"pgrade"})
		p.step(p.answered(switched), Reply) // unasked
	}
}

// What a backend did not look at may be sent again, whatever the method, but not
// for ever.
func TestUnprocessedRequestIsSentAgain(t *testing.T) {
	t.Parallel()
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
	unprocessed := Failure{Kind: Closed, Unprocessed: true}
	t.Run("the same backend, then an error", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(post, nil, plainBackend)
		for i := range maxRefusals {
			p.step(p.x.Failed(unprocessed), Connect)
			if !p.x.Fresh() || p.x.Retries() != i+1 {
				t.Errorf("fresh %v, %d retries", p.x.Fresh(), p.x.Retries())
			}
			p.step(p.x.Connected(i == 0), Send)
		}
		p.step(p.x.Failed(unprocessed), Reply)
		check(t, p.response(), []string{"HTTP/1.1 502 Bad Gateway", "Proxy-Status: roster; error=connection_terminated"}, nil)
	})
	t.Run("then another", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(post, &store.Route{Retries: 1}, plainBackend)
		for range maxRefusals {
			p.step(p.x.Failed(unprocessed), Connect)
			p.step(p.x.Connected(false), Send)
		}
		p.step(p.x.Failed(unprocessed), Pick)
		if p.x.Fresh() || p.x.Retries() != maxRefusals+1 {
			t.Errorf("fresh %v, %d retries", p.x.Fresh(), p.x.Retries())
		}
		p.step(p.x.Picked(plainBackend), Connect)
		p.step(p.x.Connected(false), Send)
		p.step(p.x.Failed(unprocessed), Reply) // each request has so many
	})
	t.Run("not without its body", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(post, &store.Route{Retries: 1}, plainBackend)
		p.x.BodyGone()
		p.step(p.x.Failed(unprocessed), Reply)
	})
	t.Run("not after an interim answer", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(post, &store.Route{Retries: 1}, plainBackend)
		p.step(p.answered("HTTP/1.1 103 Early Hints\r\n\r\n"), Interim)
		p.step(p.x.Failed(unprocessed), Reply)
	})
}

// gRPC's outcome is in trailers.
func TestTrailersOfGRPCPass(t *testing.T) {
	t.Parallel()
	fields := []message.Field{
		{Name: []byte("grpc-status"), Value: []byte("5")},
		{Name: []byte("grpc-message"), Value: []byte("not found")},
		{Name: []byte("grpc-status-details-bin"), Value: []byte("CAUSCW5vdCBmb3VuZA")},
	}
	if got, want := fmt.Sprint(Trailers(fields)), fmt.Sprint(fields); got != want {
		t.Errorf("got %v", got)
	}
}

// Streams of one connection ask at the same time; each has its own ids.
func TestForkedPeersHaveTheirOwnIDs(t *testing.T) {
	t.Parallel()
	policy := New(Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	peer := policy.Peer(netip.MustParseAddr("10.0.0.1"), true)
	seen := make(map[string]bool)
	for range 3 {
		fork := peer.Fork(policy)
		if fork.addr != peer.addr || !fork.trusted || string(fork.proto()) != "https" {
			t.Errorf("another peer: %+v", fork)
		}
		for range 3 {
			seen[string(policy.ids.append(nil, &fork))] = true
		}
	}
	if len(seen) != 9 {
		t.Errorf("%d ids of 9", len(seen))
	}
}

func TestAnswerOfHTTP2HasAReason(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]string{404: "HTTP/1.1 404 Not Found\r\n", 299: "HTTP/1.1 299 \r\n"} {
		p := newPlay(t, Config{}, "192.0.2.1")
		p.send(plainGet, nil, plainBackend)
		p.step(p.x.Answered(&message.Response{Status: status, Major: 2, Length: message.Unknown}), Answer)
		got := p.response()
		if !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		check(t, got, []string{"Via: 2 roster", "Transfer-Encoding: chunked"}, nil)
	}
}
