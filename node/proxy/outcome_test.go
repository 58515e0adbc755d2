package proxy

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"roster/exchange"
	"roster/node/table"
)

// told is how often the table was told of each outcome.
type told struct{ unknown, good, bad uint64 }

func (r *rig) told() told {
	o := r.Stats().Outcomes
	return told{o[table.Unknown], o[table.Good], o[table.Bad]}
}

// ended waits until so many requests have ended.
func (r *rig) ended(n uint64) {
	r.t.Helper()
	eventually(r.t, func() bool {
		var sum uint64
		for _, v := range r.Stats().Requests {
			sum += v
		}
		return sum >= n
	})
}

// outcomes is a handler for what lab does not do.
type outcomes struct {
	lab
	held chan struct{} // closed to let go
}

func (o *outcomes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	cmd, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch cmd {
	case "drip": // an answer that begins and does not end
		w.Write([]byte("x"))
		http.NewResponseController(w).Flush()
		o.lab.entered <- struct{}{}
		<-r.Context().Done()
		o.lab.gone <- struct{}{}
	case "fails": // so too, but it says that it failed
		w.WriteHeader(500)
		http.NewResponseController(w).Flush()
		o.lab.entered <- struct{}{}
		<-r.Context().Done()
		o.lab.gone <- struct{}{}
	case "sink": // reads all
		o.lab.entered <- struct{}{}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	case "held":
		o.lab.entered <- struct{}{}
		<-o.held
	default:
		o.lab.ServeHTTP(w, r)
	}
}

// TestEveryChoiceIsToldOfOnce: whatever becomes of a request, the table is told once of
// each backend that it chose, and rightly.
func TestEveryChoiceIsToldOfOnce(t *testing.T) {
	t.Parallel()
	for _, front := range []side{sides[0], sides[2]} {
		for _, back := range []side{sides[0], sides[2]} {
			t.Run(front.name+"_to_"+back.name, func(t *testing.T) {
				t.Parallel()
				newOutcomeTest(t, front, back).run()
			})
		}
	}
}

type outcomeTest struct {
	*matrix
	front side
	rig   *rig
	held  chan struct{}
	ends  uint64 // requests so far
}

func newOutcomeTest(t *testing.T, front, back side) *outcomeTest {
	o := &outcomes{lab: lab{t: t, entered: make(chan struct{}, 1), gone: make(chan struct{}, 1)}, held: make(chan struct{})}
	dead, deadToo := newDead(t, "127.0.0.2"), newDead(t, "127.0.0.3")
	origin := back.origin(t, o)
	with := func(field string) string { return strings.TrimSuffix(origin, "}") + ", " + field + "}" }
	r := newRig(t, Config{}, definitions{
		"backends/a":        origin,
		"backends/dead":     dead.backend(),
		"backends/dead-too": deadToo.backend(),
		"backends/slow":     with(`"first_byte_timeout": "30ms"`),
		"backends/one":      with(`"max_connections": 1`),
		"backends/none":     `{"none": true}`,
		"directors/both":    `{"type": "fallback", "backends": ["dead", "a"]}`,
		"directors/ruin":    `{"type": "round_robin", "backends": ["dead", "dead-too"], "retry_budget": 1}`,
		"routes/default":    `{"backend": "a"}`,
		"routes/dead":       `{"match": {"path": "/dead"}, "backend": "dead"}`,
		"routes/slow":       `{"match": {"path": "/slow/*"}, "strip_prefix": "/slow", "backend": "slow"}`,
		"routes/one":        `{"match": {"path": "/one/*"}, "strip_prefix": "/one", "backend": "one"}`,
		"routes/none":       `{"match": {"path": "/none"}, "backend": "none"}`,
		"routes/missing":    `{"match": {"path": "/missing"}, "backend": "missing"}`,
		"routes/own":        `{"match": {"path": "/own"}, "respond": {"status": 503}}`,
		"routes/late":       `{"match": {"path": "/late/*"}, "strip_prefix": "/late", "backend": "a", "timeout": "50ms"}`,
		"routes/both":       `{"match": {"path": "/both/*"}, "strip_prefix": "/both", "backend": "both", "retries": 1}`,
		"routes/ruin":       `{"match": {"path": "/ruin"}, "backend": "ruin", "retries": 2}`,
	})
	m := &matrix{T: t, lab: &o.lab, url: front.url(r.addr), client: front.client(t)}
	return &outcomeTest{matrix: m, front: front, rig: r, held: o.held}
}

// expect runs a case, in which so many requests end.
func (m *outcomeTest) expect(name string, requests uint64, want told, do func()) {
	m.Helper()
	before := m.rig.told()
	do()
	m.ends += requests
	m.rig.ended(m.ends)
	after := m.rig.told()
	got := told{after.unknown - before.unknown, after.good - before.good, after.bad - before.bad}
	if got != want {
		m.Errorf("%s: told %+v, want %+v", name, got, want)
	}
}

// status is expect for a GET that is answered.
func (m *outcomeTest) status(name, path string, status int, want told) {
	m.Helper()
	m.expect(name, 1, want, func() {
		if res, _ := m.get(path); res.StatusCode != status {
			m.Errorf("%s: status %d, want %d", name, res.StatusCode, status)
		}
	})
}

// broken sends a request whose answer is cut off.
func (m *outcomeTest) broken(path string) {
	res, err := m.client.Get(m.url + path)
	if err == nil {
		_, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	if err == nil {
		m.Errorf("%s: the answer is whole", path)
	}
}

// leave sends a request and goes when the backend has it, or when its answer has begun.
func (m *outcomeTest) leave(method, path string, body io.Reader, begun bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, method, m.url+path, body)
	if begun {
		res, err := m.client.Do(req)
		if err != nil {
			m.Error(err)
			return
		}
		<-m.lab.entered
		cancel()
		res.Body.Close()
	} else {
		go func() {
			<-m.lab.entered
			cancel()
			if c, ok := body.(io.Closer); ok {
				c.Close() // net/http waits for who writes it
			}
		}()
		if res, err := m.client.Do(req); err == nil {
			res.Body.Close()
			m.Errorf("%s: answered %d", path, res.StatusCode)
		}
	}
}

func (m *outcomeTest) run() {
	good, bad, unknown := told{good: 1}, told{bad: 1}, told{unknown: 1}
	m.status("answered", "/bytes/10", 200, good)
	m.status("answered with much", "/bytes/1000000", 200, good)
	m.status("answered without a length", "/stream/100000", 200, good)
	m.status("not found", "/status/404", 404, good)
	m.status("not modified", "/status/304", 304, good)
	m.status("failed", "/status/500", 500, bad)
	m.status("overloaded", "/status/503", 503, bad)
	m.status("not implemented", "/status/501", 501, good)
	m.status("version", "/status/505", 505, good)
	m.status("interim answers first", "/hints", 200, good)
	m.status("reset", "/reset", 502, bad)
	m.status("refused", "/dead", 502, bad)
	m.status("held down", "/dead", 502, bad)
	m.status("slow", "/slow/hang", 504, bad)
	<-m.lab.entered
	<-m.lab.gone
	m.status("late", "/late/hang", 504, bad)
	<-m.lab.entered
	<-m.lab.gone
	m.status("none", "/none", 503, told{})
	m.status("missing", "/missing", 503, told{})
	m.status("answered here", "/own", 503, told{})
	m.status("not valid", "/..", 400, told{})
	m.expect("cut", 1, bad, func() { m.broken("/cut/100000") })
	m.expect("cut without a length", 1, bad, func() { m.broken("/cutstream/100000") })
	m.expect("HEAD", 1, good, func() { m.do("HEAD", "/bytes/77", nil) })
	m.expect("upload", 1, good, func() { m.do("POST", "/continue", bytes.NewReader(pattern(1<<20))) })
	m.expect("upload, answered early", 1, good, func() {
		res, err := m.client.Post(m.url+"/refuse", "", &slowBody{n: 1 << 20})
		if err == nil {
			io.Copy(io.Discard, res.Body) // or this client is gone while it is answered
			res.Body.Close()              // a client of HTTP/1 may see the end of the connection first
		}
	})
	m.expect("upload to nobody", 1, bad, func() {
		if res, err := m.client.Post(m.url+"/dead", "", strings.NewReader("x")); err == nil {
			res.Body.Close()
		}
	})
	m.expect("client gone while it waits", 1, unknown, func() { m.leave("GET", "/hang", nil, false); <-m.lab.gone })
	m.expect("client gone while it is answered", 1, unknown, func() { m.leave("GET", "/drip", nil, true); <-m.lab.gone })
	m.expect("client gone while it is told of a failure", 1, bad, func() { m.leave("GET", "/fails", nil, true); <-m.lab.gone })
	m.expect("client gone while it sends", 1, unknown, func() {
		r, w := io.Pipe()
		defer w.Close()
		go w.Write(pattern(64 << 10)) // and no more; less would stay in net/http's buffer
		m.leave("POST", "/sink", r, false)
	})
	m.expect("queue full", 2, told{unknown: 1, good: 1}, func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.get("/one/held")
		}()
		<-m.lab.entered
		if res, _ := m.get("/one/held"); res.StatusCode != 503 {
			m.Errorf("queue full: %d", res.StatusCode)
		}
		close(m.held)
		<-done
	})
	m.expect("another member", 2, told{good: 2, bad: 2}, func() {
		for range 2 {
			if res, _ := m.get("/both/bytes/5"); res.StatusCode != 200 {
				m.Errorf("another member: %d", res.StatusCode)
			}
		}
	})
	m.status("no member", "/ruin", 502, told{bad: 3})
}

// slowBody is a body that takes a while.
type slowBody struct{ n int }

func (s *slowBody) Read(b []byte) (int, error) {
	if s.n == 0 {
		return 0, io.EOF
	}
	n := min(len(b), s.n, 4<<10)
	s.n -= n
	return n, nil
}

// TestRepeatsAreNoChoices: a request that is sent again to the same backend, on a fresh
// connection, is told of once.
func TestRepeatsAreNoChoices(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send(get)
	b := o.accept()
	b.head()
	b.send(okay)
	c.head()
	c.take(5)
	c.send(get)
	b.head()
	b.Close() // the request was sent on a connection that was just closing
	b = o.accept()
	b.head()
	b.send(okay)
	contains(t, "answer", c.head(), " 200 ")
	if got := r.told(); got != (told{good: 2}) || r.Stats().Retries != 1 {
		t.Errorf("told %+v with %d retries", got, r.Stats().Retries)
	}
}

// TestTunnelsAreToldOfAtTheSwitch: they may last for days.
func TestTunnelsAreToldOfAtTheSwitch(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
	b := o.accept()
	b.head()
	b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n")
	c.head()
	if got := r.told(); got != (told{good: 1}) {
		t.Errorf("told %+v", got)
	}
	b.Close()
	c.rest()
	c.Close()
	r.ended(1)
	if got := r.told(); got != (told{good: 1}) {
		t.Errorf("told %+v when it is over", got)
	}
}

// TestClientsThatSendNonsenseSayNothingOfBackends: a body whose framing breaks off while
// it is passed on.
func TestClientsThatSendNonsenseSayNothingOfBackends(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
	b := o.accept()
	b.head()
	b.until("abc\r\n")
	c.send("nonsense\r\n")
	contains(t, "answer", c.rest(), " 400 ")
	if got := r.told(); got != (told{unknown: 1}) {
		t.Errorf("told %+v", got)
	}
}

// panicking is a log that panics at one message, in the midst of a request.
type panicking struct {
	slog.Handler
	at   string
	seen *atomic.Int32 // of the panics that were logged
}

func (p panicking) Enabled(context.Context, slog.Level) bool { return true }

func (p panicking) Handle(_ context.Context, r slog.Record) error {
	if r.Message == p.at {
		panic(p.at)
	}
	if strings.HasPrefix(r.Message, "panic while serving") {
		p.seen.Add(1)
	}
	return nil
}

// TestAPanicIsToldOfAsWell: and the backend's slot is given back.
func TestAPanicIsToldOfAsWell(t *testing.T) {
	t.Parallel()
	for _, front := range []side{sides[0], sides[2]} {
		t.Run(front.name, func(t *testing.T) {
			t.Parallel()
			o := newDead(t, "127.0.0.2")
			seen := new(atomic.Int32)
			r := newRig(t, Config{Logger: slog.New(panicking{slog.DiscardHandler, "no connection", seen})},
				definitions{"backends/a": o.backend(`"max_connections": 1`)})
			client := front.client(t)
			for i := range 2 {
				res, err := client.Get(front.url(r.addr))
				if err == nil {
					res.Body.Close()
					t.Errorf("answered %d", res.StatusCode)
				}
				eventually(t, func() bool { return seen.Load() == int32(i+1) })
				if got := r.told(); got != (told{unknown: uint64(i + 1)}) {
					t.Errorf("told %+v", got)
				}
				if n := r.applier.Current().Lookup("a").Backend.Runtime.Active(); n != 0 {
					t.Errorf("%d slots held", n)
				}
			}
		})
	}
}

// TestOutcomeAfter: what is said of a backend by what failed.
func TestOutcomeAfter(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		o      outcome
		failed exchange.Kind
		want   table.Outcome
	}{
		{outcome{status: 200}, exchange.None, table.Good},
		{outcome{status: 500}, exchange.None, table.Bad},
		{outcome{status: 501}, exchange.None, table.Good},
		{outcome{status: 505}, exchange.None, table.Good},
		{outcome{status: 599}, exchange.None, table.Bad},
		{outcome{status: 101}, exchange.None, table.Good},
		{outcome{status: 200}, exchange.Truncated, table.Bad},
		{outcome{status: 200}, exchange.ClientGone, table.Unknown},
		{outcome{status: 503}, exchange.ClientGone, table.Bad},
		{outcome{}, exchange.Refused, table.Bad},
		{outcome{}, exchange.Local, table.Unknown},
		{outcome{}, exchange.Busy, table.Unknown},
		{outcome{}, exchange.Sick, table.Unknown},
		{outcome{}, exchange.Internal, table.Unknown},
		{outcome{}, exchange.BadBody, table.Unknown},
		{outcome{}, exchange.Late, table.Unknown}, // it was never asked
		{outcome{sent: true}, exchange.Late, table.Bad},
	} {
		if got := test.o.after(test.failed); got != test.want {
			t.Errorf("%s: %v, want %v", fmt.Sprintf("%+v after %v", test.o, test.failed), got, test.want)
		}
	}
}

// TestLatencyIsTheBackends: of an upload only what the backend takes after its end.
func TestLatencyIsTheBackends(t *testing.T) {
	t.Parallel()
	p := New(Config{Table: func() *table.Table { return nil }, Start: time.Now().Add(-time.Hour)})
	c := &client{p: p, work: new(work)}
	now := p.now()
	c.outcome = outcome{due: true, timed: true, began: now - 10*time.Second}
	c.answer.Status = 103
	c.outcome.head(c)
	if c.outcome.took != 0 || c.outcome.status != 0 {
		t.Errorf("after an interim answer: %+v", c.outcome)
	}
	c.answer.Status = 200
	c.outcome.head(c)
	if got := c.outcome.took; got < 10*time.Second || got > 20*time.Second {
		t.Errorf("without a body: %v", got)
	}
	c.upload = &upload{}
	c.outcome.took = 0
	if c.outcome.head(c); c.outcome.took != 0 {
		t.Errorf("while the body is sent: %v", c.outcome.took)
	}
	c.upload.sentAt.Store(int64(now - time.Second))
	if c.outcome.head(c); c.outcome.took < time.Second || c.outcome.took > 9*time.Second {
		t.Errorf("a second after the body was sent: %v", c.outcome.took)
	}
}
