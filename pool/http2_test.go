package pool_test

import (
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roster/http2"
	"roster/message"
	"roster/pool"
	"roster/store"
)

// A server that answers every request with its connection's number.
type h2cServer struct {
	net.Listener
	conns atomic.Int32
	all   sync.WaitGroup
}

func newH2CServer(t *testing.T, cfg http2.Config) *h2cServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &h2cServer{Listener: l}
	s.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			number := byte('0' + s.conns.Add(1))
			s.all.Go(func() {
				http2.NewServer(c, cfg).Serve(func(stream *http2.Stream) {
					var r message.Request
					if stream.Request(&r) == nil {
						stream.Send(&message.Response{Status: 200, Length: 1}, []byte{number}, true, nil)
					}
				})
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.all.Wait()
	})
	return s
}

// running returns a Manager and what ends it.
func running(t *testing.T) (m *pool.Manager, stop func()) {
	m = pool.New(pool.Config{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	return m, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// ask sends a request and returns the answer's body.
func ask(t *testing.T, p *pool.Pool) string {
	t.Helper()
	s, _, err := p.GetSession(t.Context(), pool.Request{ConnectTimeout: 10 * time.Second}, func(c *pool.Conn) (pool.Session, error) {
		h := http2.NewClient(c, http2.Config{})
		go h.Run()
		select {
		case <-h.Ready():
			return h, nil
		case <-h.Done():
			return nil, io.ErrUnexpectedEOF
		}
	})
	if err != nil {
		t.Error(err)
		return ""
	}
	request := message.Request{Method: []byte("GET"), Target: []byte("/"), Authority: []byte("h")}
	stream, _, err := s.(*http2.Conn).Open(&request, "http", nil, true)
	if err != nil {
		t.Error(err)
		return ""
	}
	stream.ArmRead(10 * time.Second)
	var r message.Response
	if err := stream.Head(&r); err != nil {
		t.Error(err)
		return ""
	}
	body, err := io.ReadAll(stream)
	if err != nil {
		t.Error(err)
	}
	return string(body)
}

// The pool and the HTTP/2 layer mean the same by a Session.
func TestHTTP2Sessions(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name string
		def  store.Backend
		want string // connections that carried three requests
	}{
		{"shared", store.Backend{}, "111"},
		{"one exchange each", store.Backend{NoReuse: true}, "123"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			server := newH2CServer(t, http2.Config{})
			m, stop := running(t)
			defer stop()
			def := row.def
			addr := server.Addr().(*net.TCPAddr)
			def.Host, def.Port, def.Protocol, def.IdleTimeout = addr.IP.String(), uint16(addr.Port), store.H2C, time.Minute
			p, err := m.Acquire(&def, pool.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for range 3 {
				got += ask(t, p)
			}
			if got != row.want {
				t.Errorf("connections %s, want %s", got, row.want)
			}
			p.Release()
			for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
				st := p.Stats()
				if st.Active == 0 && st.Idle == 0 && st.Opened == uint64(server.conns.Load()) {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("after the release: %+v", st)
				}
			}
		})
	}
}

// Many first requests at once never exceed what a backend takes on a connection.
func TestFirstRequestsAreNotRefused(t *testing.T) {
	t.Parallel()
	server := newH2CServer(t, http2.Config{MaxStreams: 3})
	m, stop := running(t)
	defer stop()
	addr := server.Addr().(*net.TCPAddr)
	def := store.Backend{Host: addr.IP.String(), Port: uint16(addr.Port), Protocol: store.H2C, IdleTimeout: time.Minute}
	p, err := m.Acquire(&def, pool.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	var all sync.WaitGroup
	for range 60 {
		all.Go(func() { ask(t, p) })
	}
	all.Wait()
}
