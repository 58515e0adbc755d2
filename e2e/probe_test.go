package e2e_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness"
)

// Probes on the wire: the test is the origin that is probed, and the client that gets an
// answer or none by the verdict.

// TestProbesOnTheWire has one node for all of its tests. None of them may define a
// probe named default.
func TestProbesOnTheWire(t *testing.T) {
	t.Parallel()
	p := newProbePlane(t)
	tests := slices.Concat(probeRequestTests, probeAnswerTests, probeWindowTests, probeTypeTests, probeChangeTests, overrideTests)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, p.of(t, i))
		})
	}
}

func newProbePlane(t *testing.T, args ...string) *plane {
	t.Helper()
	etcd := harness.StartEtcd(t, "--max-txn-ops=4096")
	p := &plane{t: t, etcd: etcd.Client()}
	p.Node = harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "n1", Args: args})
	return p
}

// health is what the admin API says of a backend's health.
type health struct {
	State, Admin, Reason string
	Since                time.Time
	Probe                probeHealth
}

type probeHealth struct {
	Good, Window, Threshold int
	State                   string
	Since                   time.Time
	Probes                  int
	Stage, Text             string
	Rows                    []struct{ Name, Row string }
}

// why says where the last probe failed, and why.
func (h *probeHealth) why() string { return h.Stage + ": " + h.Text }

func (p *plane) health(name string) health {
	p.t.Helper()
	return p.namedHealth(p.name(name))
}

// namedHealth is health for a whole name.
func (p *plane) namedHealth(name string) health {
	p.t.Helper()
	var s struct{ Health health }
	a := p.AdminGet("/v1/backends/" + name)
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil || a.Status != 200 {
		p.t.Fatalf("%v: %v", a, err)
	}
	return s.Health
}

// waitHealth waits until a backend is healthy or sick, and returns all there is of that.
func (p *plane) waitHealth(name, state string) health {
	p.t.Helper()
	return p.waitNamed(p.name(name), state)
}

// waitNamed is waitHealth for a whole name.
func (p *plane) waitNamed(name, state string) (h health) {
	p.t.Helper()
	harness.Until(p.t, name+" to be "+state, func() (bool, any) {
		h = p.namedHealth(name)
		return h.State == state, h
	})
	return h
}

// oneProbe is a probe that is made once in an hour, and whose one answer decides. Before it
// the backend is the opposite of what is wanted.
func oneProbe(wantGood bool, fields ...string) string {
	initial := 1
	if wantGood {
		initial = 0
	}
	return inline(1, 1, initial, "1h", fields...)
}

// inline is the field of a backend with a probe of its own.
func inline(window, threshold, initial int, interval string, fields ...string) string {
	own := fmt.Sprintf(`"window":%d,"threshold":%d,"initial":%d,"interval":%q`, window, threshold, initial, interval)
	return `"probe":{` + strings.Join(append([]string{own}, fields...), ",") + `}`
}

// verdict is the state that an answer should lead to.
func verdict(good bool) string {
	if good {
		return "healthy"
	}
	return "sick"
}

// isServed asks a backend on a new connection, and says whether it answered, with
// its name, or was sick.
func (p *plane) isServed(name string) bool {
	p.t.Helper()
	m := p.ask(name).Response()
	if m.Status() == 200 && m.Body == name {
		return true
	}
	wantError(p.t, m, 503, "destination_unavailable")
	return false
}

// closed is a good answer of a backend that closes the connection then.
const closed = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// bad is what a sick backend answers.
const bad = "HTTP/1.1 500 Sick\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

// answerProbe answers a probe that has been sent whole, and ends the connection.
func answerProbe(w *harness.Wire, good bool) {
	if good {
		w.Send(closed)
	} else {
		w.Send(bad)
	}
	w.Close()
}

var probeRequestTests = []planeTest{
	{"what a probe sends", func(t *testing.T, p *plane) {
		preamble := func(s string) string { return `"preamble":"` + base64.StdEncoding.EncodeToString([]byte(s)) + `"` }
		const closes = "Connection: close\r\n\r\n"
		for i, test := range []struct {
			what          string
			unix          bool
			backend       []string
			probe         []string
			want          string // HOST is the origin's address
			prologue      func(w *harness.Wire) string
			elsewherePort bool // the backend's own port is another one
		}{
			{what: "the default", want: "GET / HTTP/1.1\r\nHost: HOST\r\n" + closes},
			{what: "url", probe: []string{`"url":"/health?a=%20b"`}, want: "GET /health?a=%20b HTTP/1.1\r\nHost: HOST\r\n" + closes},
			{what: "host_header", backend: []string{`"host_header":"www.test:81"`}, want: "GET / HTTP/1.1\r\nHost: www.test:81\r\n" + closes},
			{what: "request lines", probe: []string{`"request":["HEAD /a HTTP/1.0","x-Odd:  two ","Connection: close"]`}, want: "HEAD /a HTTP/1.0\r\nx-Odd:  two \r\n" + closes},
			{what: "request lines with host_header, which they replace", backend: []string{`"host_header":"www.test"`}, probe: []string{`"request":["GET /a HTTP/1.1","Host: other.test"]`}, want: "GET /a HTTP/1.1\r\nHost: other.test\r\n\r\n"},
			{what: "reuse is off", backend: []string{`"reuse":false`}, want: "GET / HTTP/1.1\r\nHost: HOST\r\n" + closes},
			{what: "a socket", unix: true, want: "GET / HTTP/1.1\r\nHost: localhost\r\n" + closes},
			{what: "another port", elsewherePort: true, want: "GET / HTTP/1.1\r\nHost: 127.0.0.1:1\r\n" + closes},
			{what: "a preamble", backend: []string{preamble("\x00hi\r\n")}, want: "\x00hi\r\nGET / HTTP/1.1\r\nHost: HOST\r\n" + closes},
			{what: "PROXY version 1: the connection's own address at both ends", backend: []string{`"proxy_header":1`}, want: "GET / HTTP/1.1\r\nHost: HOST\r\n" + closes,
				prologue: func(w *harness.Wire) string {
					port := addrPort(w.RemoteAddr()).Port()
					return fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", port, port)
				}},
			{what: "PROXY version 1 over a socket", unix: true, backend: []string{`"proxy_header":1`}, want: "PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nHost: localhost\r\n" + closes},
			{what: "PROXY version 2: LOCAL", backend: []string{`"proxy_header":2`}, want: v2Signature + "\x20\x00\x00\x00GET / HTTP/1.1\r\nHost: HOST\r\n" + closes},
			{what: "a preamble and PROXY", backend: []string{preamble("hi"), `"proxy_header":2`}, want: "hi" + v2Signature + "\x20\x00\x00\x00GET / HTTP/1.1\r\nHost: HOST\r\n" + closes},
		} {
			origin := harness.Listen
			if test.unix {
				origin = harness.ListenUnix
			}
			o := origin(t)
			name := fmt.Sprintf("b%d", i)
			probe := oneProbe(true, test.probe...)
			def := at(o, append(test.backend, probe)...)
			if test.elsewherePort {
				def = fmt.Sprintf(`{"host":"127.0.0.1","port":1,%s}`, oneProbe(true, append(test.probe, `"port":`+o.Port())...))
			}
			p.backend(name, def)
			w := o.Accept()
			want := strings.ReplaceAll(test.want, "HOST", o.Address())
			if test.prologue != nil {
				want = test.prologue(w) + want
			}
			if got := w.Take(len(want)); got != want {
				t.Errorf("%s: sent\n%q, want\n%q", test.what, got, want)
			}
			w.Send(closed)
			w.CloseWrite()
			if more, _ := w.End(); more != "" {
				t.Errorf("%s: and then %q", test.what, more)
			}
			p.waitHealth(name, "healthy")
			if n := o.Opened(); n != 1 {
				t.Errorf("%s: %d connections, want 1", test.what, n)
			}
		}
	}},
	{"what a probe sends by a via", func(t *testing.T, p *plane) {
		gate := harness.Listen(t)
		p.backend("gate", at(gate, `"probe":"none"`))
		p.backend("b", fmt.Sprintf(`{"host":"192.0.2.1:81","host_header":"b.test","proxy_header":2,"via":%q,%s}`, p.name("gate"), oneProbe(true)))
		w := gate.Accept()
		want := v2(netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("192.0.2.1:81"), authority("b.test")) +
			v2Signature + "\x20\x00\x00\x00GET / HTTP/1.1\r\nHost: b.test\r\nConnection: close\r\n\r\n"
		if got := w.Take(len(want)); got != want {
			t.Errorf("sent\n%q, want\n%q", got, want)
		}
		answerProbe(w, true)
		p.waitHealth("b", "healthy")
	}},
	{"a probe is on a connection of its own, and its answer's is not used again", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, inline(1, 1, 1, "10ms", `"expect_close":false`)))
		w := origin.Accept()
		w.Request()
		w.Send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		if more, _ := w.End(); more != "" {
			t.Errorf("and then %q", more)
		}
		w = origin.Accept()
		if m := w.Request(); m.Target() != "/" {
			t.Errorf("%v", m)
		}
	}},
	{"max_connections does not count probes", func(t *testing.T, p *plane) {
		origin, probes := harness.Listen(t), harness.Listen(t)
		p.backend("b", at(origin, `"max_connections":1`, inline(1, 1, 1, "10ms", `"port":`+probes.Port(), `"timeout":"1h"`)))
		w := probes.Accept()
		w.Request()
		c := p.ask("b")
		serve(origin.Accept(), "b")
		want(t, c.Response(), "b")
		c.Send(p.get("b"))
		p.waitState("b", "the slot to be taken", func(s backendState) bool { return s.Requests.Active == 1 })
		answerProbe(w, true)
		probes.Accept().Request() // it is probed on
	}},
}

// silent is a listener of which nothing is ever accepted; connections to it are made by
// the kernel.
func silent(t *testing.T) string {
	t.Helper()
	return harness.Listen(t).Address()
}

var probeAnswerTests = []planeTest{
	{"what a probe makes of an answer", func(t *testing.T, p *plane) {
		const open = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
		const lax = `"expect_close":false`
		brief := `"timeout":"300ms"`
		hold := func(w *harness.Wire, parts ...string) {
			for _, part := range parts {
				w.Send(part)
			}
			w.End() // until the prober goes
		}
		for i, test := range []struct {
			what   string
			probe  string
			answer func(w *harness.Wire)
			good   bool
			reason string // part of it
		}{
			{what: "the status and a close", answer: func(w *harness.Wire) { w.Send(open); w.Close() }, good: true},
			{what: "a body, too", answer: func(w *harness.Wire) { w.Send("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 1<<16)); w.Close() }, good: true},
			{what: "HTTP/1.0", answer: func(w *harness.Wire) { w.Send("HTTP/1.0 200 OK\r\n\r\n"); w.Close() }, good: true},
			{what: "interim answers", answer: func(w *harness.Wire) {
				w.Send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", open)
				w.Close()
			}, good: true},
			{what: "expect_close, and no close", probe: brief, answer: func(w *harness.Wire) { hold(w, open) }, reason: "close"},
			{what: "no expect_close, and no close", probe: lax, answer: func(w *harness.Wire) { hold(w, open) }, good: true},
			{what: "no expect_close, and the body to come", probe: lax, answer: func(w *harness.Wire) { hold(w, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1") }, good: true},
			{what: "no expect_close, and a close", probe: lax, answer: func(w *harness.Wire) { w.Send(open); w.Close() }, good: true},
			{what: "another status that is expected", probe: `"expected_response":404`, answer: func(w *harness.Wire) { w.Send("HTTP/1.1 404 No\r\n\r\n"); w.Close() }, good: true},
			{what: "another status", answer: func(w *harness.Wire) { w.Send("HTTP/1.1 204 No\r\n\r\n"); w.Close() }, reason: "204"},
			{what: "another status, and no close", probe: lax, answer: func(w *harness.Wire) { hold(w, bad) }, reason: "500"},
			{what: "garbage", answer: func(w *harness.Wire) { w.Send("SSH-2.0-OpenSSH\r\n\r\n"); w.Close() }, reason: "answer"},
			{what: "a head that the proxy would not take", answer: func(w *harness.Wire) {
				w.Send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n12")
				w.Close()
			}, reason: "answer"},
			{what: "a dripping head", probe: brief, answer: func(w *harness.Wire) {
				w.Send("HTTP/1.1 200 OK\r\n")
				for range time.Tick(10 * time.Millisecond) {
					if _, err := w.Write([]byte("X: y\r\n")); err != nil {
						return // the prober has gone, while it got bytes all the time
					}
				}
			}, reason: "receive"},
			{what: "half a head", probe: brief, answer: func(w *harness.Wire) { hold(w, "HTTP/1.1 200 OK\r\nX: ") }, reason: "receive"},
			{what: "half a head and a close", answer: func(w *harness.Wire) { w.Send("HTTP/1.1 200 OK\r\nX: "); w.Close() }, reason: "answer"},
			{what: "no answer", probe: brief, answer: func(w *harness.Wire) { hold(w) }, reason: "receive"},
			{what: "a close without an answer", answer: func(w *harness.Wire) { w.Close() }, reason: "receive"},
			{what: "a reset without an answer", answer: func(w *harness.Wire) { w.Reset() }, reason: "receive"},
		} {
			t.Run(test.what, func(t *testing.T) {
				t.Parallel()
				p := *p
				p.t, p.Node = t, p.Node.For(t)
				origin := harness.Listen(t)
				name := fmt.Sprintf("b%d", i)
				var fields []string
				if test.probe != "" {
					fields = append(fields, test.probe)
				}
				p.backend(name, at(origin, oneProbe(test.good, fields...)))
				w := origin.Accept()
				w.Request()
				test.answer(w)
				h := p.waitHealth(name, verdict(test.good))
				if (h.Probe.Stage == "") != test.good || !strings.Contains(h.Probe.why(), test.reason) {
					t.Errorf("reason %q, want %q in it", h.Probe.why(), test.reason)
				}
			})
		}
	}},
	{"the registers of one probe, in Varnish's letters", func(t *testing.T, p *plane) {
		six := func(t testing.TB) *harness.Socket { return harness.ListenAt(t, "tcp", "[::1]:0") }
		for name, test := range map[string]struct {
			listen func(testing.TB) *harness.Socket
			answer func(*harness.Wire)
			want   string
		}{
			"good":     {harness.Listen, func(w *harness.Wire) { answerProbe(w, true) }, "4XRH"},
			"unix":     {harness.ListenUnix, func(w *harness.Wire) { answerProbe(w, true) }, "UXRH"},
			"six":      {six, func(w *harness.Wire) { answerProbe(w, true) }, "6XRH"},
			"status":   {harness.Listen, func(w *harness.Wire) { answerProbe(w, false) }, "4XR"},
			"reset":    {harness.Listen, (*harness.Wire).Reset, "4Xr"},
			"no-close": {harness.Listen, func(w *harness.Wire) { w.Send(closed); w.End() }, "4Xr"},
		} {
			if name == "six" {
				l, err := net.Listen("tcp", "[::1]:0")
				if err != nil {
					continue // a machine without
				}
				l.Close()
			}
			origin := test.listen(t)
			p.backend(name, at(origin, oneProbe(strings.HasSuffix(test.want, "H"), `"timeout":"1s"`)))
			w := origin.Accept()
			w.Request()
			test.answer(w)
			p.waitHealth(name, verdict(strings.HasSuffix(test.want, "H")))
			got := ""
			for _, row := range p.health(name).Probe.Rows {
				switch row.Row[63] {
				case row.Name[0]:
					got += row.Name
				case '-':
				default:
					t.Errorf("%s: row %q of %s", name, row.Row, row.Name)
				}
			}
			if got != test.want {
				t.Errorf("%s: %s, want %s", name, got, test.want)
			}
		}
	}},
	{"nobody listens", func(t *testing.T, p *plane) {
		p.backend("b", fmt.Sprintf(`{"host":%q,%s}`, harness.FreeAddress(t), oneProbe(false)))
		if h := p.waitHealth("b", "sick"); !strings.Contains(h.Probe.why(), "refused") {
			t.Errorf("%+v", h)
		}
	}},
	{"no connection in time", func(t *testing.T, p *plane) {
		p.backend("b", fullBacklog(t, oneProbe(false, `"timeout":"300ms"`)))
		if h := p.waitHealth("b", "sick"); !strings.Contains(h.Probe.why(), "connect") {
			t.Errorf("%+v", h)
		}
	}},
	{"no handshake in time", func(t *testing.T, p *plane) {
		p.backend("b", fmt.Sprintf(`{"host":%q,"tls":{"insecure_skip_verify":true},%s}`, silent(t), oneProbe(false, `"timeout":"300ms"`)))
		if h := p.waitHealth("b", "sick"); !strings.Contains(h.Probe.why(), "handshake") {
			t.Errorf("%+v", h)
		}
	}},
	{"a socket that is not there", func(t *testing.T, p *plane) {
		p.backend("b", `{"path":"/nonexistent/socket",`+oneProbe(false)+`}`)
		if h := p.waitHealth("b", "sick"); !strings.Contains(h.Probe.why(), syscall.ENOENT.Error()) {
			t.Errorf("%+v", h)
		}
	}},
}

// A judge computes the verdict in another way than the node: over the list of answers.
type judge struct{ window, threshold, initial int }

func (j judge) healthy(answers string) bool {
	all := strings.Repeat("B", j.window) + strings.Repeat("G", j.initial) + answers
	return strings.Count(all[len(all)-j.window:], "G") >= j.threshold
}

// judged are windows at their edges. G is a good answer, B a bad one.
var judged = []struct {
	judge
	answers string
}{
	{judge{1, 1, 0}, "GBBGG"},
	{judge{1, 1, 1}, "BGB"},
	{judge{2, 1, 0}, "BGBBGB"},
	{judge{2, 2, 1}, "GBGGB"},
	{judge{2, 2, 2}, "BGG"},
	{judge{8, 3, 2}, "GBBBBBBBBBGGGBBBBBBG"},
	{judge{8, 3, 0}, "GGG"},
	{judge{8, 3, 3}, "BBBBBBB"},
	{judge{8, 8, 8}, "BGGGGGGGGB"},
	{judge{64, 1, 0}, "BG" + strings.Repeat("B", 65)},
	{judge{64, 64, 63}, "GB" + strings.Repeat("G", 65)},
	{judge{64, 64, 64}, "B" + strings.Repeat("G", 64)},
	{judge{64, 64, 0}, strings.Repeat("G", 65)},
}

var probeWindowTests = []planeTest{
	{"who gets requests, after each answer, by window, threshold and initial", func(t *testing.T, p *plane) {
		for i, test := range judged {
			t.Run(fmt.Sprintf("%d of %d from %d", test.threshold, test.window, test.initial), func(t *testing.T) {
				t.Parallel()
				p := *p
				p.t, p.Node = t, p.Node.For(t)
				name := fmt.Sprintf("b%d", i)
				origin, probes := echoes(harness.Listen(t), name), harness.Listen(t)
				p.backend(name, at(origin, inline(test.window, test.threshold, test.initial, "5ms", `"timeout":"1h"`, `"port":`+probes.Port())))
				for n := range len(test.answers) + 1 {
					w := probes.Accept() // the one before has had its effect
					w.Request()
					so := test.answers[:n]
					if got, want := p.isServed(name), test.healthy(so); got != want {
						t.Fatalf("after %q it is served: %t, want %t", so, got, want)
					}
					if n < len(test.answers) {
						answerProbe(w, test.answers[n] == 'G')
					}
				}
			})
		}
	}},
	{"backends that differ in window, threshold and initial share probes and judge each for itself", func(t *testing.T, p *plane) {
		probes := harness.Listen(t)
		judges := []judge{{1, 1, 0}, {2, 2, 1}, {8, 3, 2}, {8, 3, 0}, {64, 1, 1}}
		var pairs []string
		for i, j := range judges {
			name := fmt.Sprintf("b%d", i)
			def := at(echoes(harness.Listen(t), name), `"host_header":"same"`, inline(j.window, j.threshold, j.initial, "5ms", `"timeout":"1h"`, `"port":`+probes.Port()))
			pairs = append(pairs, "backends/"+p.name(name), def,
				"routes/"+p.name(name), fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q}`, p.name(name), p.name(name)))
		}
		p.put(pairs...)
		const answers = "GBBGGGBBBBBBBBBG"
		for n := range len(answers) + 1 {
			w := probes.Accept()
			w.Request()
			for i, j := range judges {
				if got, want := p.isServed(fmt.Sprintf("b%d", i)), j.healthy(answers[:n]); got != want {
					t.Fatalf("%+v after %q is served: %t, want %t", j, answers[:n], got, want)
				}
			}
			if n < len(answers) {
				answerProbe(w, answers[n] == 'G')
			}
		}
		if n := probes.Opened(); n != len(answers)+1 {
			t.Errorf("%d probes, want %d", n, len(answers)+1)
		}
	}},
}
