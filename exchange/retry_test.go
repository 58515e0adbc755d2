package exchange

import (
	"strings"
	"testing"
	"time"

	"roster/store"
)

// purse is a budget of so many tries.
type purse struct{ left, asked int }

func (p *purse) Take() bool {
	p.asked++
	p.left--
	return p.left >= 0
}

// TestRetryBudgetIsAskedLast: what no rule allows costs nothing, what is allowed costs
// one try, and without a try left what failed is what the client is told.
func TestRetryBudgetIsAskedLast(t *testing.T) {
	t.Parallel()
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n"
	for _, test := range []struct {
		name    string
		raw     string
		retries int
		failure Failure
		left    int
		want    []Step // of one failure after the other
		asked   int
	}{
		{"allowed", plainGet, 2, Failure{Kind: Refused}, 5, []Step{Pick, Pick, Reply}, 2},
		{"used up", plainGet, 3, Failure{Kind: Refused}, 1, []Step{Pick, Reply}, 2},
		{"none", plainGet, 3, Failure{Kind: Refused}, 0, []Step{Reply}, 1},
		{"no retries", plainGet, 0, Failure{Kind: Refused}, 5, []Step{Reply}, 0},
		{"a POST that may have been looked at", post, 3, Failure{Kind: Closed}, 5, []Step{Reply}, 0},
		{"a POST that surely was not", post, 1, Failure{Kind: Closed, Unprocessed: true}, 5, []Step{Connect, Connect, Pick, Reply}, 1},
		{"no backend", plainGet, 3, Failure{Kind: NoBackend}, 5, []Step{Reply}, 0},
		{"gone", plainGet, 3, Failure{Kind: ClientGone}, 5, []Step{Cut}, 0},
		{"repeats are free", plainGet, 0, Failure{Kind: Closed, Unprocessed: true}, 0, []Step{Connect, Connect, Reply}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, Config{}, "192.0.2.1")
			budget := &purse{left: test.left}
			p.step(p.begin(test.raw), Route)
			p.x.Limit(budget)
			p.step(p.x.Routed(&store.Route{Retries: test.retries}, 1), Pick)
			p.step(p.x.Picked(plainBackend), Connect)
			p.step(p.x.Connected(false), Send)
			for _, want := range test.want {
				p.step(p.x.Failed(test.failure), want)
				switch want {
				case Pick:
					p.step(p.x.Picked(plainBackend), Connect)
					fallthrough
				case Connect:
					p.step(p.x.Connected(false), Send)
				}
			}
			if budget.asked != test.asked {
				t.Errorf("asked %d times, want %d", budget.asked, test.asked)
			}
			if got := p.x.Failure(); got != test.failure.Kind {
				t.Errorf("failure %v, want %v", got, test.failure.Kind)
			}
		})
	}
	t.Run("forgotten by Begin", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.begin(plainGet)
		p.x.Limit(&purse{})
		p.send(plainGet, &store.Route{Retries: 1}, plainBackend)
		p.step(p.x.Failed(Failure{Kind: Refused}), Pick)
	})
}

func TestSessionCookie(t *testing.T) {
	t.Parallel()
	const length = "Content-Length: 0\r\n\r\n"
	plain := &store.Cookie{Name: "roster", Path: "/"}
	for _, test := range []struct {
		name   string
		cookie *store.Cookie
		tls    bool
		route  *store.Route
		answer string
		want   string // values of Set-Cookie, joined by " | "
	}{
		{"plain", plain, false, nil, "200 OK\r\n", "roster=v1; Path=/; HttpOnly; SameSite=Lax"},
		{"over TLS", plain, true, nil, "200 OK\r\n", "roster=v1; Path=/; HttpOnly; SameSite=Lax; Secure"},
		{"ttl", &store.Cookie{Name: "s", Path: "/a b", TTL: time.Hour}, false, nil, "200 OK\r\n", "s=v1; Path=/a b; Max-Age=3600; HttpOnly; SameSite=Lax"},
		{"ttl below a second", &store.Cookie{Name: "s", Path: "/", TTL: time.Millisecond}, false, nil, "200 OK\r\n", "s=v1; Path=/; Max-Age=1; HttpOnly; SameSite=Lax"},
		{"beside the backend's", plain, false, nil, "200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: roster=x\r\n", "a=1 | roster=x | roster=v1; Path=/; HttpOnly; SameSite=Lax"},
		{"of an error page", plain, false, nil, "500 Oops\r\n", "roster=v1; Path=/; HttpOnly; SameSite=Lax"},
		{"private", plain, false, nil, "200 OK\r\nCache-Control: private, max-age=5\r\n", "roster=v1; Path=/; HttpOnly; SameSite=Lax"},
		{"not modified", plain, false, nil, "304 Not Modified\r\n", ""},
		{"from a cache", plain, false, nil, "200 OK\r\nAge: 3\r\n", ""},
		{"for every cache", plain, false, nil, "200 OK\r\nCache-Control: max-age=5, Public\r\n", ""},
		{"for shared caches", plain, false, nil, "200 OK\r\nCache-Control: S-MaxAge=5\r\n", ""},
		{"none wanted", nil, false, nil, "200 OK\r\n", ""},
		{"a route's changes are to what the backend says", plain, false,
			&store.Route{ResponseHeaders: store.HeaderEdits{Remove: []string{"set-cookie"}}}, "200 OK\r\nSet-Cookie: a=1\r\n", "roster=v1; Path=/; HttpOnly; SameSite=Lax"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newPlay(t, Config{}, "192.0.2.1")
			p.peer.secure = test.tls
			p.step(p.begin(plainGet), Route)
			p.step(p.x.Routed(test.route, 1), Pick)
			p.step(p.x.Picked(plainBackend), Connect)
			if test.cookie != nil {
				p.x.SetCookie(test.cookie, []byte("v1"))
			}
			p.step(p.x.Connected(false), Send)
			p.step(p.answered("HTTP/1.1 103 Early Hints\r\nSet-Cookie: early=1\r\n\r\n"), Interim)
			if got := p.cookies(); got != "early=1" {
				t.Errorf("103: %q", got)
			}
			length := length
			if strings.HasPrefix(test.answer, "304") {
				length = "\r\n"
			}
			p.step(p.answered("HTTP/1.1 "+test.answer+length), Answer)
			if got := p.cookies(); got != test.want {
				t.Errorf("got  %q\nwant %q", got, test.want)
			}
		})
	}
	t.Run("of the backend that answers", func(t *testing.T) {
		t.Parallel()
		for _, second := range []bool{true, false} {
			p := newPlay(t, Config{}, "192.0.2.1")
			p.step(p.begin(plainGet), Route)
			p.step(p.x.Routed(&store.Route{Retries: 1}, 1), Pick)
			p.step(p.x.Picked(plainBackend), Connect)
			p.x.SetCookie(plain, []byte("first"))
			p.step(p.x.Connected(false), Send)
			p.step(p.x.Failed(Failure{Kind: Refused}), Pick)
			p.step(p.x.Picked(plainBackend), Connect)
			want := ""
			if second {
				p.x.SetCookie(plain, []byte("second"))
				want = "roster=second; Path=/; HttpOnly; SameSite=Lax"
			}
			p.step(p.x.Connected(false), Send)
			p.step(p.answered("HTTP/1.1 200 OK\r\n"+length), Answer)
			if got := p.cookies(); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
	t.Run("not with what is answered here", func(t *testing.T) {
		t.Parallel()
		p := newPlay(t, Config{}, "192.0.2.1")
		p.step(p.begin(plainGet), Route)
		p.step(p.x.Routed(nil, 1), Pick)
		p.step(p.x.Picked(plainBackend), Connect)
		p.x.SetCookie(plain, []byte("v1"))
		p.step(p.x.Failed(Failure{Kind: Refused}), Reply)
		if got := p.cookies(); got != "" {
			t.Errorf("got %q", got)
		}
	})
}

// cookies are the values of Set-Cookie that the client gets.
func (p *play) cookies() string {
	var all []string
	for _, f := range p.x.Response.Fields {
		if strings.EqualFold(string(f.Name), "Set-Cookie") {
			all = append(all, string(f.Value))
		}
	}
	return strings.Join(all, " | ")
}
