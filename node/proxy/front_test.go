package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"roster/exchange"
	"roster/node/accesslog"
)

// TestDrainOverTLS: idle connections end, requests in flight are answered, of either
// version of HTTP.
func TestDrainOverTLS(t *testing.T) {
	t.Parallel()
	for _, s := range sides[1:] {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{})
			entered := make(chan struct{}, 2)
			r := newRig(t, Config{}, definitions{"backends/a": sides[0].origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/held" {
					entered <- struct{}{}
					<-release
				}
				io.WriteString(w, "whole")
			}))})
			l := Listener{}
			if s.tls {
				l.TLS = serverTLS()
			}
			addr := r.listen(l)
			m := &matrix{T: t, url: s.url(addr), client: s.client(t)}
			idle := &matrix{T: t, url: m.url, client: s.client(t)}
			idle.get("/")
			var all sync.WaitGroup
			for range 2 {
				all.Go(func() {
					if _, body := m.get("/held"); string(body) != "whole" {
						t.Errorf("body %q", body)
					}
				})
			}
			<-entered
			<-entered
			done := make(chan error)
			go func() { done <- r.Drain(context.Background()) }()
			eventually(t, func() bool { return r.ending.Load() })
			close(release)
			all.Wait()
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Error("not drained: an idle connection is left")
			}
		})
	}
}

// TestHandshakesThatNeverEndAreEnded: a client that says nothing has HeadTimeout.
func TestHandshakesThatNeverEndAreEnded(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{HeadTimeout: 50 * time.Millisecond}, nil)
	c := dial(t, r.listen(Listener{TLS: serverTLS()}))
	expect(t, "end", c.rest(), "")
	c = dial(t, r.listen(Listener{TLS: serverTLS()}))
	c.send("GET / HTTP/1.1\r\n\r\n")
	c.rest()
	eventually(t, func() bool { return r.Stats().BadTLS == 2 && r.Stats().Connections == 0 })
}

// TestPriorKnowledgeInPieces: the preface of HTTP/2 is known however it is cut, and
// what only begins like it is no request.
func TestPriorKnowledgeInPieces(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, nil)
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	c := r.dial()
	for i := range preface {
		c.send(preface[i : i+1])
		time.Sleep(time.Millisecond)
	}
	c.send("\x00\x00\x00\x04\x00\x00\x00\x00\x00") // SETTINGS
	if b := c.take(9); b[3] != 4 {
		t.Errorf("answer %q, want SETTINGS", b)
	}
	c = r.dial()
	c.send("PRI * HTTP/1.1\r\nHost: h\r\n\r\n")
	expect(t, "status", status(c.rest()), "400")
}

// TestAccessLogSaysWhatWasDone, for each version of HTTP, for errors too.
func TestAccessLogSaysWhatWasDone(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	log, err := accesslog.New(accesslog.Config{Format: accesslog.JSON, File: file})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan error)
	go func() { written <- log.Run(ctx) }()
	l := &lab{t: t, entered: make(chan struct{}, 1), gone: make(chan struct{}, 1)}
	r := newRig(t, Config{AccessLog: log}, definitions{
		"backends/a":  sides[0].origin(t, l),
		"backends/b":  sides[2].origin(t, l),
		"routes/two":  `{"match": {"path": "/status/404"}, "backend": "b"}`,
		"backends/no": `{"none": true}`,
		"routes/none": `{"match": {"path": "/none"}, "backend": "no"}`,
		"routes/all":  `{"match": {"path": "/*"}, "backend": "d"}`,
		"directors/d": `{"type": "round_robin", "backends": ["a"]}`,
	})
	secure := r.listen(Listener{TLS: serverTLS()})
	for _, s := range []side{sides[0], sides[3]} {
		addr := r.addr
		if s.tls {
			addr = secure
		}
		m := &matrix{T: t, url: s.url(addr), client: s.client(t)}
		for _, ask := range []func(){
			func() { m.get("/bytes/1000") },
			func() { m.echo(50_000, -1) },
			func() { m.get("/none") },
			func() { m.get("/status/404") },
		} {
			// A line comes after the answer, so the next may overtake it.
			before := log.Written()
			ask()
			eventually(t, func() bool { return log.Written() == before+1 })
		}
	}
	r.exchange("nonsense\r\n\r\n")
	cancel()
	if err := <-written; err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	type line struct {
		Method, Target, Proto, Route, Director, Backend, Error, Address string
		TLS                                                             bool
		Status, Bytes, Received                                         int
		Total                                                           *float64
		FirstByte                                                       *float64 `json:"first_byte"`
		RequestID                                                       string   `json:"request_id"`
	}
	var got []line
	for b := range bytes.Lines(data) {
		var l line
		if err := json.Unmarshal(b, &l); err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		if l.Total == nil || l.RequestID == "" || (l.Status < 500 && l.Method != "") != (l.FirstByte != nil && strings.HasPrefix(l.Address, "127.0.0.1:")) {
			t.Errorf("incomplete: %s", b)
		}
		l.Total, l.FirstByte, l.RequestID, l.Address = nil, nil, "", ""
		got = append(got, l)
	}
	want := []line{}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		two := proto == "HTTP/2.0"
		want = append(want,
			line{Method: "GET", Target: "/bytes/1000", Proto: proto, Route: "all", Director: "d", Backend: "a", TLS: two, Status: 200, Bytes: 1000},
			line{Method: "POST", Target: "/echo", Proto: proto, Route: "all", Director: "d", Backend: "a", TLS: two, Status: 200, Bytes: 50_000, Received: 50_000},
			line{Method: "GET", Target: "/none", Proto: proto, Route: "none", Backend: "no", Error: "no_backend", TLS: two, Status: 503, Bytes: 35},
			line{Method: "GET", Target: "/status/404", Proto: proto, Route: "two", Backend: "b", TLS: two, Status: 404})
	}
	want = append(want, line{Error: "bad_request", Status: 400})
	if len(got) != len(want) {
		t.Fatalf("%d lines, want %d:\n%s", len(got), len(want), data)
	}
	for i := range want {
		if i == len(want)-1 || want[i].Status == 503 {
			want[i].Bytes = got[i].Bytes
		}
		if got[i] != want[i] {
			t.Errorf("line %d:\ngot  %+v\nwant %+v", i, got[i], want[i])
		}
	}
}

// TestTLSClientsAreServedFromTheWait: what comes in one packet, in several, and with the
// end of the connection is served alike.
func TestTLSClientsAreServedFromTheWait(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	go o.serve(okay)
	conn, err := tls.Dial("tcp", r.listen(Listener{TLS: serverTLS()}), &tls.Config{RootCAs: localhost().pool, ServerName: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	c := newPeer(t, conn)
	c.send(get + get + get[:10]) // one record
	for range 2 {
		c.head()
		c.take(5)
	}
	c.send(get[10:20])
	c.send(get[20:])
	c.head()
	c.take(5)
	for _, b := range []byte(get) { // a record each, in few packets
		conn.Write([]byte{b})
	}
	c.head()
	c.take(5)
	c.send(get)
	conn.CloseWrite()
	contains(t, "answer before the end", c.rest(), " 200 ", "hello")
}

// TestSlowClientIsNoFailureOfTheBackend, however its answer is sent.
func TestSlowClientIsNoFailureOfTheBackend(t *testing.T) {
	t.Parallel()
	l := &lab{t: t, entered: make(chan struct{}, 1), gone: make(chan struct{}, 1)}
	for _, s := range sides {
		for _, kind := range []string{"bytes", "stream"} {
			t.Run(s.name+"_"+kind, func(t *testing.T) {
				t.Parallel()
				r := newRig(t, Config{WriteTimeout: 200 * time.Millisecond}, definitions{"backends/a": sides[0].origin(t, l)})
				listener := Listener{}
				if s.tls {
					listener.TLS = serverTLS()
				}
				client := s.client(t)
				dialer := &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
					return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096) })
				}}
				client.Transport.(*http.Transport).DialContext = dialer.DialContext
				res, err := client.Get(s.url(r.listen(listener)) + "/" + kind + "/50000000")
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				eventually(t, func() bool { return r.Stats().Failures[exchange.ClientTimeout] == 1 })
				b := r.applier.Current().Lookup("a").Backend
				if n := b.Runtime.Failures.Load(); n != 0 {
					t.Errorf("%d failures of the backend", n)
				}
				if _, err := io.Copy(io.Discard, res.Body); err == nil {
					t.Error("the answer is taken for whole")
				}
			})
		}
	}
}
