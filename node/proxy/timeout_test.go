package proxy

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roster/exchange"
	"roster/node/table"
	"roster/pool"
)

// pipes is a proxy whose connections are pipes, for a bubble with its own time.
type pipes struct {
	*rig
	clients  chan net.Conn
	backends chan net.Conn // the origin's ends
	hang     bool          // connecting takes for ever
	closed   chan struct{}
	once     sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.clients:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// inBubble runs f with a proxy in front of the backend "a", whose definition has
// the fields, and definitions beside it.
func inBubble(t *testing.T, c Config, fields string, defs definitions, f func(t *testing.T, p *pipes)) {
	synctest.Test(t, func(t *testing.T) {
		p := &pipes{clients: make(chan net.Conn), backends: make(chan net.Conn, 9), closed: make(chan struct{})}
		p.rig = &rig{t: t, pools: pool.New(pool.Config{Logger: slog.New(slog.DiscardHandler), Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if p.hang {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			near, far := net.Pipe()
			p.backends <- far
			return near, nil
		}})}
		p.applier = table.NewApplier(p.pools)
		p.apply(definitions{"backends/a": `{"host": "127.0.0.1:9"` + fields + `}`})
		p.apply(defs)
		c.Table, c.Logger = p.applier.Current, slog.New(alarmed{slog.DiscardHandler, t})
		if err := c.Validate(); err != nil {
			t.Fatal(err)
		}
		p.Proxy = New(c)
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() { p.Serve(ctx, Listener{Listener: p}) })
		done.Go(func() { p.pools.Run(ctx) })
		f(t, p)
		cancel()
		done.Wait()
	})
}

// client connects.
func (p *pipes) client() *peer {
	near, far := net.Pipe()
	p.t.Cleanup(func() { near.Close() })
	p.clients <- far
	return &peer{p.t, near, bufio.NewReader(near)}
}

// origin is the backend's next connection.
func (p *pipes) origin() *peer {
	c := <-p.backends
	p.t.Cleanup(func() { c.Close() })
	return &peer{p.t, c, bufio.NewReader(c)}
}

// after checks how long something took since a moment.
func after(t *testing.T, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got.Round(10*time.Millisecond) != want {
		t.Errorf("after %v, want %v", got, want)
	}
}

func TestBackendTimeouts(t *testing.T) {
	t.Parallel()
	t.Run("connect", func(t *testing.T) {
		inBubble(t, Config{}, "", nil, func(t *testing.T, p *pipes) {
			p.hang = true
			c, start := p.client(), time.Now()
			c.send(get)
			contains(t, "answer", c.head(), " 504 ", "error=connection_timeout\r\n")
			after(t, start, 3500*time.Millisecond)
		})
	})
	t.Run("first byte", func(t *testing.T) {
		inBubble(t, Config{}, `, "first_byte_timeout": "2s"`, nil, func(t *testing.T, p *pipes) {
			c, start := p.client(), time.Now()
			c.send(get)
			b := p.origin()
			b.head()
			contains(t, "answer", c.head(), " 504 ", "error=http_response_timeout\r\n")
			after(t, start, 2*time.Second)
			expect(t, "backend's connection", b.rest(), "")
		})
	})
	t.Run("between bytes of the head", func(t *testing.T) {
		inBubble(t, Config{}, `, "between_bytes_timeout": "5s"`, nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send(get)
			b := p.origin()
			b.head()
			time.Sleep(30 * time.Second)
			b.send("HTTP/1.1 200")
			time.Sleep(4 * time.Second)
			b.send(" OK\r\n")
			start := time.Now()
			contains(t, "answer", c.head(), " 504 ", "error=http_response_timeout\r\n")
			after(t, start, 5*time.Second)
		})
	})
	t.Run("between bytes of the body", func(t *testing.T) {
		inBubble(t, Config{}, `, "between_bytes_timeout": "5s"`, nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send(get)
			b := p.origin()
			b.head()
			b.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
			c.head()
			for range 3 {
				time.Sleep(4 * time.Second)
				b.send("a")
				c.take(1)
			}
			start := time.Now()
			expect(t, "rest", c.rest(), "")
			after(t, start, 5*time.Second)
		})
	})
	t.Run("no limit", func(t *testing.T) {
		inBubble(t, Config{}, `, "first_byte_timeout": "0s", "between_bytes_timeout": "0s"`, nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send(get)
			b := p.origin()
			b.head()
			time.Sleep(24 * time.Hour)
			b.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
			c.head()
			time.Sleep(24 * time.Hour)
			b.send("a")
			expect(t, "body", c.take(1), "a")
		})
	})
	t.Run("first byte counts from the request's end", func(t *testing.T) {
		inBubble(t, Config{}, `, "first_byte_timeout": "5s"`, nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
			b := p.origin()
			b.head()
			for range 3 {
				time.Sleep(20 * time.Second)
				c.send("x")
				b.take(1)
			}
			start := time.Now()
			contains(t, "answer", c.head(), " 504 ", "error=http_response_timeout\r\n")
			after(t, start, 5*time.Second)
		})
	})
	t.Run("backend reads too slowly", func(t *testing.T) {
		inBubble(t, Config{}, `, "between_bytes_timeout": "5s"`, nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
			b := p.origin()
			b.head()
			c.send("x")
			start := time.Now()
			contains(t, "answer", c.head(), " 504 ", "error=connection_write_timeout\r\n")
			after(t, start, 5*time.Second)
		})
	})
	t.Run("100 (Continue) does not come", func(t *testing.T) {
		inBubble(t, Config{}, "", nil, func(t *testing.T, p *pipes) {
			c, start := p.client(), time.Now()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
			p.origin().head()
			contains(t, "answer", c.head(), " 504 ", "error=http_response_timeout\r\n")
			after(t, start, time.Minute)
		})
	})
	t.Run("of the route", func(t *testing.T) {
		inBubble(t, Config{}, "", definitions{"routes/r": `{"backend": "a", "timeout": "10s", "first_byte_timeout": "20s"}`}, func(t *testing.T, p *pipes) {
			c, start := p.client(), time.Now()
			c.send(get)
			b := p.origin()
			b.head()
			time.Sleep(6 * time.Second)
			b.send("HTTP/1.1 103 Early Hints\r\n\r\n")
			c.head()
			contains(t, "answer", c.head(), " 504 ", "error=http_response_timeout\r\n")
			after(t, start, 10*time.Second)
			c.until("\n")
			synctest.Wait()
			if n := p.Stats().Failures[exchange.Late]; n != 1 {
				t.Errorf("%d late, want 1", n)
			}
		})
	})
	t.Run("of the queue", func(t *testing.T) {
		inBubble(t, Config{}, `, "max_connections": 1, "wait_limit": 1, "wait_timeout": "3s"`, nil, func(t *testing.T, p *pipes) {
			first, second := p.client(), p.client()
			first.send(get)
			p.origin().head()
			start := time.Now()
			second.send(get)
			contains(t, "answer", second.head(), " 503 ", "error=connection_limit_reached\r\n")
			after(t, start, 3*time.Second)
		})
	})
}

func TestClientTimeouts(t *testing.T) {
	t.Parallel()
	t.Run("head", func(t *testing.T) {
		inBubble(t, Config{}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			time.Sleep(50 * time.Second)
			start := time.Now()
			var trickle sync.WaitGroup
			trickle.Go(func() {
				for i := range get {
					time.Sleep(time.Second)
					if _, err := io.WriteString(c.Conn, get[i:i+1]); err != nil {
						return
					}
				}
			})
			contains(t, "answer", c.rest(), " 408 ", "\r\nConnection: close\r\n")
			after(t, start, 16*time.Second)
			trickle.Wait()
		})
	})
	t.Run("idle", func(t *testing.T) {
		inBubble(t, Config{IdleTimeout: 7 * time.Second}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			for range 3 {
				time.Sleep(6 * time.Second)
				c.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n")
				b := <-p.backends
				go func() {
					far := &peer{t, b, bufio.NewReader(b)}
					far.head()
					far.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
					far.Close()
				}()
				c.head()
			}
			start := time.Now()
			expect(t, "end", c.rest(), "")
			after(t, start, 7*time.Second)
		})
	})
	t.Run("body", func(t *testing.T) {
		inBubble(t, Config{}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n")
			b := p.origin()
			b.head()
			for range 3 {
				time.Sleep(29 * time.Second)
				c.send("x")
				b.take(1)
			}
			start := time.Now()
			contains(t, "answer", c.head(), " 408 ", "\r\nConnection: close\r\n")
			after(t, start, 30*time.Second)
			expect(t, "backend's connection", b.rest(), "")
		})
	})
	t.Run("body rate", func(t *testing.T) {
		inBubble(t, Config{MinBodyRate: 100}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n")
			b := p.origin()
			b.head()
			go io.Copy(io.Discard, b.Conn)
			start := time.Now()
			for range 10 { // 100 bytes, 6 s: the grace is 5 s, and then 100 bytes a second
				time.Sleep(600 * time.Millisecond)
				c.send("0123456789")
			}
			time.Sleep(time.Second)
			c.send("0123456789")
			contains(t, "answer", c.head(), " 408 ", "\r\nConnection: close\r\n")
			after(t, start, 7*time.Second)
		})
	})
	t.Run("body rate is not what the backend makes it", func(t *testing.T) {
		inBubble(t, Config{MinBodyRate: 100}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n")
			b := p.origin()
			b.head()
			for range 10 {
				go c.send("x")
				time.Sleep(20 * time.Second) // the byte is there, but nobody takes it
				b.take(1)
			}
			b.send(okay)
			contains(t, "answer", c.head(), " 200 ")
		})
	})
	t.Run("reads nothing", func(t *testing.T) {
		inBubble(t, Config{}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send(get)
			b := p.origin()
			b.head()
			b.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
			start := time.Now()
			expect(t, "backend's connection", b.rest(), "")
			after(t, start, 90*time.Second) // half as long again, for it is looked at twice in the time
		})
	})
	t.Run("reads slowly", func(t *testing.T) {
		inBubble(t, Config{}, "", nil, func(t *testing.T, p *pipes) {
			c := p.client()
			c.send(get)
			b := p.origin()
			b.head()
			go b.send("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n" + strings.Repeat("x", 50))
			c.r = bufio.NewReaderSize(c.Conn, 16)
			one, got := make([]byte, 30), ""
			for !strings.HasSuffix(got, "\r\n\r\n"+strings.Repeat("x", 50)) {
				time.Sleep(50 * time.Second)
				n, err := c.Conn.Read(one)
				if err != nil {
					t.Fatalf("%q, then %v", got, err)
				}
				got += string(one[:n])
			}
		})
	})
}

func TestTunnelTimeout(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, `, "tunnel_timeout": "10s"`, nil, func(t *testing.T, p *pipes) {
		c := p.client()
		c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		b := p.origin()
		b.head()
		b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		c.head()
		for range 5 { // one direction keeps both open
			time.Sleep(9 * time.Second)
			c.send("x")
			b.take(1)
		}
		start := time.Now()
		expect(t, "end", c.rest(), "")
		after(t, start, 10*time.Second)
		expect(t, "backend's end", b.rest(), "")
	})
}

// TestTunnelWithoutTimeout: neither what was armed before the tunnel nor a
// beginning Drain ends one that has no limit.
func TestTunnelWithoutTimeout(t *testing.T) {
	t.Parallel()
	inBubble(t, Config{}, `, "tunnel_timeout": "0s"`, nil, func(t *testing.T, p *pipes) {
		c := p.client()
		c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		b := p.origin()
		b.head()
		b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
		c.head()
		bothWays := func() {
			t.Helper()
			c.send("x")
			expect(t, "at the origin", b.take(1), "x")
			b.send("y")
			expect(t, "at the client", c.take(1), "y")
		}
		time.Sleep(24 * time.Hour)
		bothWays()
		drained := make(chan error)
		go func() { drained <- p.Drain(t.Context()) }()
		synctest.Wait()
		bothWays()
		time.Sleep(24 * time.Hour)
		bothWays()
		b.Close()
		expect(t, "end", c.rest(), "")
		if err := <-drained; err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}

func TestMinRevisionIsAwaited(t *testing.T) {
	t.Parallel()
	const request = "GET / HTTP/1.1\r\nHost: h\r\nX-Min-Revision: 3\r\n\r\n"
	reached := make(chan struct{})
	config := Config{
		Exchange: exchange.Config{MinRevisionWait: time.Second, RevisionHeader: true},
		Await:    func(context.Context, int64) error { return nil },
	}
	inBubble(t, config, "", nil, func(t *testing.T, p *pipes) {
		reached = make(chan struct{})
		p.config.Await = func(ctx context.Context, revision int64) error {
			if revision != 3 {
				t.Errorf("revision %d", revision)
			}
			select {
			case <-reached:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		c, start := p.client(), time.Now()
		c.send(request)
		contains(t, "answer", c.head(), " 503 ", "\r\nRetry-After: 1\r\n")
		after(t, start, time.Second)
		c.r.Discard(c.r.Buffered())
		c.send(request)
		p.apply(nil)
		close(reached)
		b := p.origin()
		b.head()
		b.send("HTTP/1.1 204 No Content\r\n\r\n")
		contains(t, "answer", c.head(), " 204 ", "\r\nX-Roster-Revision: 3\r\n")
	})
}

// TestRouteTimeoutAfterStaleConnection: it bounds the second dial as it does the
// first.
func TestRouteTimeoutAfterStaleConnection(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	dials := 0
	pools := pool.Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if dials++; dials > 1 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return net.Dial(network, address)
	}}
	r := newRigOver(t, pools, Config{}, definitions{
		"backends/a": o.backend(`"connect_timeout": "0s"`),
		"routes/a":   `{"backend": "a"}`,
		"routes/b":   `{"match": {"path": "/b"}, "backend": "a", "timeout": "200ms"}`,
	})
	c := r.dial()
	c.send(get)
	b := o.accept()
	b.head()
	b.send(okay)
	c.head()
	c.take(5)
	b.Close()
	start := time.Now()
	c.send("GET /b HTTP/1.1\r\nHost: h\r\n\r\n")
	contains(t, "answer", c.head(), " 504 ", "error=http_response_timeout\r\n")
	if took := time.Since(start); took < 200*time.Millisecond {
		t.Errorf("after %v, want 200ms at least", took)
	}
}

// TestIdleTimeoutOfSockets: sockets are waited for in another way than pipes.
func TestIdleTimeoutOfSockets(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.serve(okay)
	r := newRig(t, Config{IdleTimeout: time.Second}, definitions{"backends/a": o.backend()})
	c := r.dial()
	start := time.Now()
	for time.Since(start) < 1500*time.Millisecond { // the deadline armed first passes meanwhile
		c.send(get)
		c.head()
		c.take(5)
	}
	idle := time.Now()
	expect(t, "end", c.rest(), "")
	if took := time.Since(idle); took < 900*time.Millisecond {
		t.Errorf("closed after %v, want 1s at least", took)
	}
}

// TestHeadTimeoutOfSockets: a head that does not end.
func TestHeadTimeoutOfSockets(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{HeadTimeout: 200 * time.Millisecond}, nil)
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHos")
	contains(t, "answer", c.head(), " 408 ", "\r\nConnection: close\r\n")
}
