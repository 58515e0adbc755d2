package prober

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"roster/pool"
	"roster/store"
)

// letters are those of the registers that an observation sets a bit of.
func letters(o *outcome) string {
	h := noHistory.next(o, time.Time{})
	var b strings.Builder
	for _, row := range h.Rows() {
		if row.Bits != 0 {
			b.WriteByte(row.Letter)
		}
	}
	return b.String()
}

// silence is a backend that takes a request and then does nothing.
func silence(c net.Conn) { io.Copy(io.Discard, c) }

// drip sends text byte by byte, with pauses.
func drip(text string, pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		for _, b := range []byte(text) {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(pause)
		}
	}
}

// stays answers and keeps the connection.
func stays(text string) func(net.Conn) {
	return func(c net.Conn) {
		request(c)
		io.WriteString(c, text)
		silence(c)
	}
}

// What a probe over HTTP/1.1 makes of all that a backend may do: the stage that
// failed, the observations as Varnish has them, and when it was done.
func TestProbeOnTheWire(t *testing.T) {
	t.Parallel()
	const closes, open = `{"timeout": "2s"}`, `{"timeout": "2s", "expect_close": false}`
	const ms = time.Millisecond
	for _, row := range []struct {
		name  string
		probe string
		serve func(net.Conn)
		dial  func(context.Context) error

		stage Stage
		saw   string
		text  string // a part of it
		after time.Duration
	}{
		{"good, and closes", closes, good, nil, "", "4XRH", "HTTP/1.1 200 OK", 0},
		{"good, and closes later", closes, func(c net.Conn) { good(c); time.Sleep(1500 * ms) }, nil, "", "4XRH", "200 OK", 1500 * ms},
		{"good, with a long body", closes, says(okay + strings.Repeat("x", 300_000)), nil, "", "4XRH", "200 OK", 0},
		{"good, but never closes", closes, stays(okay), nil, Close, "4Xr", "HTTP/1.1 200 OK, but not closed within 2s", 2000 * ms},
		{"good, never closes, and need not", open, stays(okay), nil, "", "4XRH", "200 OK", 0},
		{"good, closes, and need not", open, good, nil, "", "4XRH", "200 OK", 0},
		{"wrong status, closes", closes, bad, nil, Status, "4XR", "HTTP/1.1 500 Internal Server Error, want 200", 0},
		{"wrong status, never closes", closes, stays("HTTP/1.1 404 Not Found\r\n\r\n"), nil, Status, "4Xr", "404 Not Found, want 200; not closed within 2s", 2000 * ms},
		{"wrong status, need not close", open, stays("HTTP/1.1 404 Not Found\r\n\r\n"), nil, Status, "4XR", "404 Not Found, want 200", 0},
		{"another status expected", `{"expected_response": 404}`, says("HTTP/1.1 404\r\n\r\n"), nil, "", "4XRH", "HTTP/1.1 404", 0},
		{"HTTP/1.0", closes, says("HTTP/1.0 200 OK\r\n\r\nhi"), nil, "", "4XRH", "HTTP/1.0 200 OK", 0},
		{"interim answers first", open, stays("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + okay), nil, "", "4XRH", "HTTP/1.1 200 OK", 0},
		{"an interim answer expected", `{"expected_response": 103, "expect_close": false}`, stays("HTTP/1.1 103 Early Hints\r\n\r\n"), nil, "", "4XRH", "103", 0},
		{"interim answers only", open, stays("HTTP/1.1 100 Continue\r\n\r\n"), nil, Receive, "4Xr", "not the whole head", 2000 * ms},
		{"switches protocols", open, stays("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), nil, Status, "4XR", "101", 0},

		{"garbage, closes", closes, says("SSH-2.0-OpenSSH_9.2\x00\r\n\r\n"), nil, Answer, "4XR", `SSH-2.0-OpenSSH_9.2\x00`, 0},
		{"garbage, stays", closes, stays("SSH-2.0-OpenSSH_9.2\r\n\r\n"), nil, Answer, "4Xr", "not closed within 2s", 2000 * ms},
		{"garbage, need not close", open, stays("SSH-2.0-OpenSSH_9.2\r\n\r\n"), nil, Answer, "4XR", "SSH-2.0", 0},
		{"a status of two digits", open, stays("HTTP/1.1 20 OK\r\n\r\n"), nil, Answer, "4XR", "HTTP/1.1 20 OK", 0},
		{"a head too long", open, stays("HTTP/1.1 200 OK\r\nA: " + strings.Repeat("x", 100_000)), nil, Answer, "4XR", "HTTP/1.1 200 OK", 0},
		{"half a head, closes", closes, says("HTTP/1.1 200 OK\r\nServ"), nil, Answer, "4XR", "closed after 21 bytes", 0},
		{"half a head, stays", open, stays("HTTP/1.1 200 OK\r\nServ"), nil, Receive, "4Xr", "only 21 bytes within 2s", 2000 * ms},
		{"closes without an answer", closes, func(c net.Conn) { request(c) }, nil, Receive, "4X", "closed without an answer", 0},
		{"closes without an answer, need not", open, func(c net.Conn) { request(c) }, nil, Receive, "4X", "closed without an answer", 0},
		{"drips in time", closes, drip(okay, 10*ms), nil, "", "4XRH", "200 OK", time.Duration(len(okay)) * 10 * ms},
		{"drips too slowly", closes, drip(okay, 150*ms), nil, Receive, "4Xr", "bytes within 2s", 2000 * ms},
		{"drips a head in time, need not close", open, drip(okay, 30*ms), nil, "", "4XRH", "200 OK", time.Duration(len(okay)-3) * 30 * ms},
		{"never answers", closes, silence, nil, Receive, "4Xr", "no answer within 2s", 2000 * ms},
		{"never answers, need not close", open, silence, nil, Receive, "4Xr", "no answer within 2s", 2000 * ms},
		{"never reads", closes, deaf, nil, Send, "4x", "not taken within 2s", 2000 * ms},
		{"closes before it reads", closes, func(c net.Conn) {}, nil, Send, "4x", "", 0},
		{"refuses", closes, nil, nil, Connect, "", "connection refused", 0},
		{"never connects", closes, good, blackHole, Connect, "", "no connection within 2s", 2000 * ms},
		{"connects slowly, and what is left is too little", closes, drip(okay, 11*ms),
			func(context.Context) error { time.Sleep(1500 * ms); return nil }, Receive, "4Xr", "within 2s", 2000 * ms},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t)
				n.at("10.0.0.7:80").does(row.serve).dialing(row.dial)
				c := check(t, "10.0.0.7", row.probe)
				start := time.Now()
				r, err := Once(t.Context(), n.pools(), c)
				if err != nil {
					t.Fatal(err)
				}
				if got := time.Since(start); got != row.after || r.Ended != row.after {
					t.Errorf("it took %v (%v by the report), want %v", got, r.Ended, row.after)
				}
				if r.Stage != row.stage || r.Good != (row.stage == "") || !strings.Contains(r.Text, row.text) {
					t.Errorf("good %v, stage %q, %q; want stage %q, %q", r.Good, r.Stage, r.Text, row.stage, row.text)
				}

				p, err := n.pools().Acquire(c.def, c.deps)
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), c.Timeout())
				defer cancel()
				o := c.run(ctx, p, nil)
				if got := letters(&o); got != row.saw || o.stage != r.Stage || o.text != r.Text {
					t.Errorf("saw %q, %s %q; want %q, and the stage as in the report", got, o.stage, o.text, row.saw)
				}
				if whole := strings.Contains(row.saw, "R"); whole && o.answered != row.after || !whole && o.answered != 0 {
					t.Errorf("answered after %v, want %v if there is a whole answer, else 0", o.answered, row.after)
				}
			})
		})
	}
}

// An error that a reset makes, before and after the answer.
func TestProbeMeetsReset(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		before, probe string
		stage         Stage
		saw           string
	}{
		{"", `{}`, Receive, "4Xr"},
		{"HTTP/1.1 200 OK\r\n", `{}`, Receive, "4Xr"},
		{okay, `{}`, Close, "4Xr"},
		{okay, `{"expect_close": false}`, "", "4XRH"},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			c, err := l.Accept()
			if err != nil {
				return
			}
			request(c)
			io.WriteString(c, row.before)
			if row.stage == "" {
				io.Copy(io.Discard, c)
			}
			c.(*net.TCPConn).SetLinger(0)
			if row.before != "" { // let it be read before the reset takes it away
				time.Sleep(20 * time.Millisecond)
			}
			c.Close()
		}()
		c := check(t, l.Addr().String(), row.probe)
		p, err := pool.New(pool.Config{Logger: silent}).Acquire(c.def, c.deps)
		if err != nil {
			t.Fatal(err)
		}
		o := c.run(t.Context(), p, nil)
		if o.stage != row.stage || letters(&o) != row.saw {
			t.Errorf("reset after %q with %s: %s %q, saw %q; want %s, %q",
				row.before, row.probe, o.stage, o.text, letters(&o), row.stage, row.saw)
		}
		l.Close()
		<-served
	}
}

// The exact bytes that go out, in order: preamble, PROXY header, request.
func TestProbeSends(t *testing.T) {
	t.Parallel()
	const varnish = "GET / HTTP/1.1\r\nHost: 10.0.0.7\r\nConnection: close\r\n\r\n"
	for _, row := range []struct{ name, backend, probe, want string }{
		{"what Varnish sends", `{"host": "10.0.0.7"}`, `{}`, varnish},
		{"host header and url", `{"host": "10.0.0.7", "host_header": "foo.com"}`, `{"url": "/health?x=1"}`,
			"GET /health?x=1 HTTP/1.1\r\nHost: foo.com\r\nConnection: close\r\n\r\n"},
		{"a port in the Host", `{"host": "10.0.0.7", "port": 8080}`, `{}`,
			"GET / HTTP/1.1\r\nHost: 10.0.0.7:8080\r\nConnection: close\r\n\r\n"},
		{"lines as they are", `{"host": "10.0.0.7"}`, `{"request": ["OPTIONS * HTTP/1.1", "host: x", "X-Odd:  y "]}`,
			"OPTIONS * HTTP/1.1\r\nhost: x\r\nX-Odd:  y \r\n\r\n"},
		{"preamble", `{"host": "10.0.0.7", "preamble": "cHJlIQ=="}`, `{}`, "pre!" + varnish},
		{"PROXY 1 over a pipe without address", `{"host": "10.0.0.7", "proxy_header": 1}`, `{}`, "PROXY UNKNOWN\r\n" + varnish},
		{"PROXY 2", `{"host": "10.0.0.7", "proxy_header": 2}`, `{}`, "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + varnish},
		{"preamble and PROXY 2", `{"host": "10.0.0.7", "preamble": "cHJlIQ==", "proxy_header": 2}`, `{}`,
			"pre!\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + varnish},
		{"a socket", `{"path": "/run/app"}`, `{}`, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"},
		{"tcp sends nothing", `{"host": "10.0.0.7"}`, `{"type": "tcp"}`, ""},
		{"tcp sends what has to come first", `{"host": "10.0.0.7", "preamble": "cHJlIQ=="}`, `{"type": "tcp"}`, "pre!"},
	} {
		for _, traced := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/traced=%v", row.name, traced), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					n := newNetwork(t)
					var got []byte
					def := decode[*store.Backend](t, store.Backends, row.backend)
					c := CheckOf(def, probeOf(t, row.probe), pool.Deps{})
					n.at(c.Address()).does(func(conn net.Conn) {
						b := make([]byte, 1000)
						for !strings.HasSuffix(string(got), row.want) || row.want == "" {
							k, err := conn.Read(b)
							got = append(got, b[:k]...)
							if err != nil {
								return
							}
						}
						io.WriteString(conn, okay)
					})
					if traced {
						r, err := Once(t.Context(), n.pools(), c)
						if err != nil || !r.Good {
							t.Fatalf("%+v, %v; want a good one", r, err)
						}
						if string(r.Sent) != row.want || r.SentTotal != int64(len(row.want)) {
							t.Errorf("the report has %q sent, want %q", r.Sent, row.want)
						}
					} else {
						p, err := n.pools().Acquire(c.def, c.deps)
						if err != nil {
							t.Fatal(err)
						}
						if o := c.run(t.Context(), p, nil); o.saw&sawHappy == 0 {
							t.Fatalf("%+v, want a good one", o)
						}
					}
					synctest.Wait()
					if string(got) != row.want {
						t.Errorf("the backend got %q, want %q", got, row.want)
					}
				})
			})
		}
	}
}

// Which register says how a connection was made.
func TestProbeFamilies(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		`{"host": "10.0.0.7"}`: "4XRH", `{"host": "::ffff:10.0.0.7"}`: "4XRH", `{"host": "2001:db8::1"}`: "6XRH",
		`{"path": "/run/app"}`: "UXRH", `{"path": "@app"}`: "UXRH",
	} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			def := decode[*store.Backend](t, store.Backends, value)
			c := CheckOf(def, probeOf(t, `{}`), pool.Deps{})
			for _, a := range []string{"10.0.0.7:80", "[2001:db8::1]:80", "/run/app", "@app"} {
				n.at(a).does(good)
			}
			p, err := n.pools().Acquire(c.def, c.deps)
			if err != nil {
				t.Fatal(err)
			}
			if o := c.run(t.Context(), p, nil); letters(&o) != want {
				t.Errorf("%s: saw %q (%s), want %q", value, letters(&o), o.text, want)
			}
		})
	}
}

// What a connection cannot be made for, by what the pool says.
func TestProbeStagesOfConnecting(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		err   error
		stage Stage
		local bool
	}{
		{&pool.Error{Kind: pool.DNS, Stage: pool.Resolve, Err: errors.New("no such host")}, Resolve, false},
		{&pool.Error{Kind: pool.Refused, Stage: pool.Connect, Err: syscall.ECONNREFUSED}, Connect, false},
		{&pool.Error{Kind: pool.Prohibited, Stage: pool.Connect, Err: errors.New("prohibited")}, Connect, false},
		{&pool.Error{Kind: pool.TLS, Stage: pool.Handshake, Err: errors.New("bad certificate")}, Handshake, false},
		{&pool.Error{Kind: pool.Local, Stage: pool.Connect, Err: syscall.EMFILE}, Connect, true},
	} {
		o := check(t, "10.0.0.7", `{}`).run(t.Context(), failing{row.err}, nil)
		if o.stage != row.stage || o.local != row.local || o.saw != 0 || o.text != row.err.(*pool.Error).Err.Error() {
			t.Errorf("%v: %+v, want stage %s, local %v", row.err, o, row.stage, row.local)
		}
	}
}

// A machine without ports or descriptors says nothing about a backend, even if the
// probe's time ended meanwhile; one without any way to the address does: the backend
// cannot be used from here.
func TestLocalFaultIsNoJudgement(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	<-ended.Done()
	for _, row := range []struct {
		ctx   context.Context
		kind  pool.Kind
		errno syscall.Errno
		local bool
	}{
		{t.Context(), pool.Local, syscall.EMFILE, true},
		{ended, pool.Local, syscall.EMFILE, true},
		{t.Context(), pool.Local, syscall.EADDRNOTAVAIL, true}, // of 127.0.0.1
		{t.Context(), pool.Unroutable, syscall.EAFNOSUPPORT, false},
	} {
		err := &pool.Error{Kind: row.kind, Stage: pool.Connect, Addr: "127.0.0.1:80", Err: row.errno}
		o := check(t, "127.0.0.1", `{}`).run(row.ctx, failing{err}, nil)
		if o.local != row.local || o.stage != Connect || o.text != row.errno.Error() {
			t.Errorf("%v: %+v, want it local: %v", row.errno, o, row.local)
		}
	}
}

type failing struct{ err error }

func (f failing) DialProbe(context.Context) (*pool.Conn, error) { return nil, f.err }

// A probe that is given up says nothing about the backend.
func TestProbeCancelled(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		serve func(net.Conn)
		dial  func(context.Context) error
	}{{silence, nil}, {good, blackHole}, {deaf, nil}, {stays(okay), nil}} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.at("10.0.0.7:80").does(row.serve).dialing(row.dial)
			c := check(t, "10.0.0.7", `{}`)
			p, err := n.pools().Acquire(c.def, c.deps)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), c.Timeout())
			time.AfterFunc(time.Second, cancel)
			start := time.Now()
			if o := c.run(ctx, p, nil); !o.cancelled || time.Since(start) != time.Second {
				t.Errorf("%+v after %v, want it cancelled after 1s", o, time.Since(start))
			}
			if _, err := Once(ctx, n.pools(), c); !errors.Is(err, context.Canceled) {
				t.Errorf("Once returned %v, want %v", err, context.Canceled)
			}
		})
	}
}
