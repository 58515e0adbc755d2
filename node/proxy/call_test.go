package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"roster/http2"
	"roster/message"
)

// streams is an origin of HTTP/2 without net/http's manners.
type streams struct {
	addr  string
	mu    sync.Mutex
	conns []*http2.Conn
}

// newStreams starts an origin that calls handle with each stream.
func newStreams(t testing.TB, handle func(s *http2.Stream)) *streams {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &streams{addr: ln.Addr().String()}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			h := http2.NewServer(conn, http2.Config{})
			o.mu.Lock()
			o.conns = append(o.conns, h)
			o.mu.Unlock()
			all.Go(func() { h.Serve(handle) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		for _, h := range o.taken() {
			h.Close()
		}
		all.Wait()
	})
	return o
}

// backend is the definition of the origin with more fields.
func (o *streams) backend(more ...string) string {
	fields := append([]string{fmt.Sprintf(`"host": %q, "protocol": "h2c"`, o.addr)}, more...)
	return "{" + strings.Join(fields, ", ") + "}"
}

func (o *streams) taken() []*http2.Conn {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.conns
	o.conns = nil
	return all
}

// goAway ends all connections in good order.
func (o *streams) goAway() {
	for _, h := range o.taken() {
		h.GoAway()
	}
}

// TestRequestThatWasNotProcessedIsSentAgain, even a POST; and not without end.
func TestRequestThatWasNotProcessedIsSentAgain(t *testing.T) {
	t.Parallel()
	var calls, refusals atomic.Int32
	o := newStreams(t, func(s *http2.Stream) {
		var r message.Request
		s.Request(&r)
		body, _ := io.ReadAll(s)
		calls.Add(1)
		if refusals.Add(-1) >= 0 {
			s.Reset(http2.RefusedStream)
			return
		}
		s.Send(&message.Response{Status: 200, Length: int64(len(body))}, body, true, nil)
	})
	r := newRig(t, Config{}, definitions{"backends/a": o.backend()})
	const post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
	refusals.Store(1)
	contains(t, "answer", r.exchange(post), " 200 ", "\r\n\r\nhello")
	if n := calls.Load(); n != 2 {
		t.Errorf("%d calls, want 2", n)
	}
	calls.Store(0)
	refusals.Store(1000)
	contains(t, "answer", r.exchange(post), " 502 ", "error=")
	if n := calls.Load(); n > 4 {
		t.Errorf("%d calls", n)
	}
}

// TestBackendsOfHTTP2HaveTimeouts of their own for each request. After one, others
// finish on the connection, but none begin.
func TestBackendsOfHTTP2HaveTimeouts(t *testing.T) {
	t.Parallel()
	o := newStreams(t, func(s *http2.Stream) {
		var r message.Request
		s.Request(&r)
		switch string(r.Target) {
		case "/mute":
			gone := make(chan struct{})
			s.OnGone(func() { close(gone) })
			<-gone
		case "/half":
			gone := make(chan struct{})
			s.OnGone(func() { close(gone) })
			s.Send(&message.Response{Status: 200, Length: 10}, []byte("half"), false, nil)
			<-gone
		default:
			s.Send(&message.Response{Status: 200, Length: 2}, []byte("ok"), true, nil)
		}
	})
	r := newRig(t, Config{}, definitions{"backends/a": o.backend(`"first_byte_timeout": "100ms"`, `"between_bytes_timeout": "100ms"`, `"max_connections": 3`)})
	ask := func(path string) string {
		return r.exchange("GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	}
	contains(t, "first", ask("/"), " 200 OK\r\n", "ok")
	contains(t, "mute", ask("/mute"), " 504 ", "error=http_response_timeout")
	if got := ask("/half"); !strings.HasSuffix(got, "half") {
		t.Errorf("half: %q", got)
	}
	contains(t, "after", ask("/"), " 200 ", "ok")
	b := r.applier.Current().Lookup("a").Backend
	if s := b.Pool.Stats(); s.Opened != 3 {
		t.Errorf("%d connections, want 3", s.Opened)
	}
	eventually(t, func() bool { return b.Runtime.Active() == 0 })
}

// TestBackendThatGoesAwayLosesNoRequest: connections that a backend ends by GOAWAY
// are not seen by clients, whatever the method.
func TestBackendThatGoesAwayLosesNoRequest(t *testing.T) {
	t.Parallel()
	o := newStreams(t, func(s *http2.Stream) {
		var r message.Request
		s.Request(&r)
		body, _ := io.ReadAll(s)
		s.Send(&message.Response{Status: 200, Length: int64(len(body))}, body, true, nil)
	})
	r := newRig(t, Config{}, definitions{"backends/a": o.backend()})
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	var asked atomic.Int64
	for range 8 {
		clients.Go(func() {
			m := &matrix{T: t, url: "http://" + r.addr, client: sides[0].client(t)}
			for ctx.Err() == nil {
				if res, body := m.do("POST", "/", strings.NewReader("hello")); res.StatusCode != 200 || string(body) != "hello" {
					t.Errorf("%d %q", res.StatusCode, body)
					return
				}
				asked.Add(1)
			}
		})
	}
	for range 20 {
		target := asked.Load() + 50
		eventually(t, func() bool { return t.Failed() || asked.Load() > target })
		o.goAway()
	}
	stop()
	clients.Wait()
}
