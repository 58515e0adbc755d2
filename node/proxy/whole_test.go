package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/http2"
	"roster/message"
	"roster/node/accesslog"
)

// TestClientsThatDoNotReadHinderNoOthers of the same connection to a backend.
func TestClientsThatDoNotReadHinderNoOthers(t *testing.T) {
	t.Parallel()
	l := &lab{t: t}
	r := newRig(t, Config{}, definitions{"backends/a": sides[2].origin(t, l)})
	for range 16 {
		c := r.dial()
		c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.send("GET /bytes/30000000 HTTP/1.1\r\nHost: h\r\n\r\n")
		c.head()
	}
	m := &matrix{T: t, lab: l, url: "http://" + r.addr, client: sides[0].client(t)}
	m.client.Timeout = patience / 2
	for range 20 {
		time.Sleep(20 * time.Millisecond) // for the others' windows to fill
		if _, body := m.get("/bytes/1000"); len(body) != 1000 {
			t.Fatal("no answer while others do not read")
		}
	}
}

// TestAccessLogOfTunnels has the request, not what came after it.
func TestAccessLogOfTunnels(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "log")
	log, err := accesslog.New(accesslog.Config{Format: accesslog.JSON, File: file})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	written := make(chan error)
	go func() { written <- log.Run(ctx) }()
	o := newOrigin(t)
	r := newRig(t, Config{AccessLog: log}, definitions{"backends/a": o.backend()})
	c := r.dial()
	c.send("GET /chat HTTP/1.1\r\nHost: example.test\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	b := o.accept()
	b.head()
	b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	c.head()
	c.send(strings.Repeat("secret ", 100))
	b.take(700)
	b.Close()
	c.rest()
	c.Close()
	eventually(t, func() bool { return log.Written() == 1 })
	cancel()
	<-written
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "line", string(data), `"method":"GET"`, `"target":"/chat"`, `"host":"example.test"`)
}

// TestTrailersOfRequestsSentAgain are those of the client, each once.
func TestTrailersOfRequestsSentAgain(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{}, definitions{
		"backends/a":  o.backend(),
		"directors/d": `{"type": "round_robin", "backends": ["a"]}`,
		"routes/all":  `{"match": {"path": "/*"}, "backend": "d", "retries": 1}`,
	})
	c := r.dial()
	c.send("PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nServer: x\r\nA: 1\r\nUser-Agent: y\r\nB: 2\r\n\r\n")
	b := o.accept()
	b.until("\r\n0\r\nA: 1\r\nB: 2\r\n\r\n")
	b.Close()
	b = o.accept()
	b.until("\r\n\r\n2\r\nhi\r\n")
	expect(t, "end", b.until("\r\n\r\n"), "0\r\nA: 1\r\nB: 2\r\n\r\n")
	b.send(okay)
	contains(t, "answer", c.head(), " 200 ")
}

// TestTrailersPassBesideALength between connections that can have both.
func TestTrailersPassBesideALength(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	o := newStreams(t, func(s *http2.Stream) {
		var r message.Request
		s.Request(&r)
		body, err := io.ReadAll(s)
		got <- fmt.Sprintf("%s %v %s", body, err, message.Get(s.Trailers(), message.Other))
		s.Send(&message.Response{Status: 204, Bodiless: true}, nil, true, nil)
	})
	r := newRig(t, Config{}, definitions{"backends/a": o.backend()})
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	h := http2.NewClient(conn, http2.Config{})
	var all sync.WaitGroup
	all.Go(func() { h.Run() })
	defer all.Wait()
	defer h.Close()
	h.Reserve()
	s, _, err := h.Open(&message.Request{Method: []byte("POST"), Target: []byte("/"), Authority: []byte("h"), Length: 5}, "http", nil, false)
	if err != nil {
		t.Fatal(err)
	}
	s.Send(nil, []byte("hello"), true, []message.Field{{Name: []byte("x-sum"), Value: []byte("7")}})
	var answer message.Response
	if err := s.Head(&answer); err != nil || answer.Status != 204 {
		t.Errorf("%d, %v", answer.Status, err)
	}
	expect(t, "request", <-got, "hello <nil> 7")
}

// TestLongUploadAfter100Continue: once the backend has asked for the body, it has no
// answer to give before that has come, however long it takes.
func TestLongUploadAfter100Continue(t *testing.T) {
	t.Parallel()
	const short = `"first_byte_timeout": "150ms", "between_bytes_timeout": "150ms"`
	for _, back := range []side{sides[0], sides[2]} {
		t.Run(back.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, Config{}, definitions{"backends/a": back.origin(t, &lab{t: t}, short)})
			c := r.dial()
			c.send("POST /continue HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
			contains(t, "interim answer", c.head(), " 100 ")
			for range 10 {
				c.send("x")
				time.Sleep(40 * time.Millisecond)
			}
			contains(t, "answer", c.head(), " 200 ")
			expect(t, "body", c.take(2), "10")
		})
	}
}

// atOnce holds back what is written until it is let go.
type atOnce struct {
	net.Conn
	mu   sync.Mutex
	held *bytes.Buffer
}

func (a *atOnce) Write(b []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held != nil {
		return a.held.Write(b)
	}
	return a.Conn.Write(b)
}

// TestRequestTogetherWithTheEndOfTLS is served, whole or not the end is there with it.
func TestRequestTogetherWithTheEndOfTLS(t *testing.T) {
	t.Parallel()
	for name, less := range map[string]int{"whole end": 0, "part of it": 3} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			o.serve(okay)
			raw := dial(t, r.listen(Listener{TLS: serverTLS()}))
			under := &atOnce{Conn: raw.Conn}
			conn := tls.Client(under, &tls.Config{
				RootCAs: localhost().pool, ServerName: "localhost",
				MaxVersion: tls.VersionTLS12, // an alert of a later one is not known before it is decrypted
			})
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			c := newPeer(t, conn)
			c.send(get)
			c.head()
			c.take(5)
			under.mu.Lock()
			under.held = new(bytes.Buffer)
			under.mu.Unlock()
			c.send(get)
			conn.CloseWrite()
			raw.SetDeadline(time.Now().Add(patience)) // CloseWrite has set one
			raw.send(under.held.String()[:under.held.Len()-less])
			contains(t, "answer", c.head(), " 200 ")
		})
	}
}

// TestEndOfServeDuringHandshakes: connections may be cut off at any moment.
func TestEndOfServeDuringHandshakes(t *testing.T) {
	t.Parallel()
	r, _ := one(t)
	for range 30 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var all sync.WaitGroup
		all.Go(func() { r.Serve(ctx, Listener{Listener: ln, TLS: serverTLS()}) })
		for range 4 {
			all.Go(func() {
				conn, err := tls.Dial("tcp", ln.Addr().String(), &tls.Config{RootCAs: localhost().pool, ServerName: "localhost"})
				if err != nil {
					return
				}
				cancel()
				conn.Close()
			})
		}
		all.Wait()
		cancel()
	}
}

// TestLastAnswersOfHTTP2AreNotLost: a connection that ends does so only after its client
// has ended it too, for what is unread when it is closed takes the answers with it.
func TestLastAnswersOfHTTP2AreNotLost(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, definitions{"backends/a": sides[0].origin(t, &lab{t: t})})
	c := r.dial()
	c.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	c.take(9)
	eventually(t, func() bool { return r.Stats().HTTP2 == 1 })
	done := make(chan error)
	go func() { done <- r.Drain(context.Background()) }()
	// GOAWAY, then what the answer to its PING brings about, and no more.
	c.until("drain\x00\x00\x00")
	c.send("\x00\x00\x08\x06\x01\x00\x00\x00\x00drain\x00\x00\x00")
	rest := make(chan string)
	go func() { rest <- c.rest() }()
	got := <-rest
	if strings.Contains(got, "<") {
		t.Errorf("the end is %q", got)
	}
	// It is half closed: who still sends gets no reset.
	c.send("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678")
	time.Sleep(50 * time.Millisecond)
	if _, err := io.WriteString(c.Conn, "\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678"); err != nil {
		t.Errorf("reset: %v", err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
