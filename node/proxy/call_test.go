package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"roster/http2"
	"roster/message"
)

// streams is an origin of HTTP/2 without net/http's manners: handle is called with each
// stream.
func streams(t testing.TB, handle func(s *http2.Stream)) (definition string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var conns []*http2.Conn
	all.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			h := http2.NewServer(conn, http2.Config{})
			mu.Lock()
			conns = append(conns, h)
			mu.Unlock()
			all.Go(func() { h.Serve(handle) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, h := range conns {
			h.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return fmt.Sprintf(`{"host": %q, "protocol": "h2c"`, ln.Addr()) + "%s}"
}

// TestRequestThatWasNotProcessedIsSentAgain, even a POST; and not without end.
func TestRequestThatWasNotProcessedIsSentAgain(t *testing.T) {
	t.Parallel()
	var calls, refusals atomic.Int32
	def := streams(t, func(s *http2.Stream) {
		var r message.Request
		s.Request(&r)
		body, _ := io.ReadAll(io.MultiReader(s))
		calls.Add(1)
		if refusals.Add(-1) >= 0 {
			s.Reset(http2.RefusedStream)
			return
		}
		s.Send(&message.Response{Status: 200, Length: int64(len(body))}, body, true, nil)
	})
	r := newRig(t, Config{}, definitions{"backends/a": fmt.Sprintf(def, "")})
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

// TestBackendsOfHTTP2HaveTimeouts of their own for each request, whose end does not
// end the connection that others use.
func TestBackendsOfHTTP2HaveTimeouts(t *testing.T) {
	t.Parallel()
	var conns sync.Map
	def := streams(t, func(s *http2.Stream) {
		var r message.Request
		s.Request(&r)
		conns.Store(string(r.Target), true)
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
	r := newRig(t, Config{}, definitions{"backends/a": fmt.Sprintf(def, `, "first_byte_timeout": "100ms", "between_bytes_timeout": "100ms", "max_connections": 3`)})
	ask := func(path string) string {
		return r.exchange("GET " + path + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	}
	contains(t, "first", ask("/"), " 200 ", "ok")
	contains(t, "mute", ask("/mute"), " 504 ", "error=http_response_timeout")
	if got := ask("/half"); !strings.HasSuffix(got, "half") {
		t.Errorf("half: %q", got)
	}
	contains(t, "after", ask("/"), " 200 ", "ok")
	b := r.applier.Current().Lookup("a").Backend
	if s := b.Pool.Stats(); s.Opened != 1 {
		t.Errorf("%d connections, want 1", s.Opened)
	}
	eventually(t, func() bool { return b.Runtime.Active() == 0 })
}

// TestBackendThatGoesAwayLosesNoRequest: an orderly restart of a backend that
// speaks HTTP/2 is not seen by clients, whatever the method.
func TestBackendThatGoesAwayLosesNoRequest(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	r := newRig(t, Config{}, definitions{"backends/a": fmt.Sprintf(`{"host": %q, "protocol": "h2c"}`, addr)})
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
	for range 5 {
		server := &http.Server{Protocols: sides[2].protocols(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})}
		served := make(chan struct{})
		go func() {
			defer close(served)
			server.Serve(ln)
		}()
		target := asked.Load() + 200
		eventually(t, func() bool { return asked.Load() > target })
		next, err := reuse(ln)
		if err != nil {
			t.Fatal(err)
		}
		brief, cancel := context.WithTimeout(ctx, patience)
		if err := server.Shutdown(brief); err != nil {
			t.Error(err)
		}
		cancel()
		<-served
		ln = next
	}
	server := &http.Server{Protocols: sides[2].protocols(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
	go server.Serve(ln)
	defer server.Close()
	target := asked.Load() + 50
	eventually(t, func() bool { return asked.Load() > target })
	stop()
	clients.Wait()
}

// reuse returns a second listener on the same socket, so that it stays open when the
// first is closed.
func reuse(ln net.Listener) (net.Listener, error) {
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}
