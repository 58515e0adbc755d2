package proxy

import (
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/pool"
)

// Timeouts over sockets, for the driver that is tested: loops wait for them in a way of
// their own, which no bubble can hold the clock of. None may end before its time; how long
// after, only the machine knows.

// notBefore checks that a time has passed since start.
func notBefore(t *testing.T, start time.Time, d time.Duration) {
	t.Helper()
	if took := time.Since(start); took < d {
		t.Errorf("after %v, want %v at least", took, d)
	}
}

// short is a timeout of these tests.
const short = 200 * time.Millisecond

// noTimeLeft is how an answer says that the backend took too long.
const noTimeLeft = "error=http_response_timeout\r\n"

var longBody = strings.Repeat("x", 16<<20) // more than the sockets' buffers take

func TestBackendTimeoutsOfSockets(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		fields string
		route  string
		run    func(t *testing.T, r *rig, o *origin)
	}{
		{"first byte", `"first_byte_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			start := time.Now()
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			contains(t, "answer", c.head(), " 504 ", noTimeLeft)
			notBefore(t, start, short)
			expect(t, "backend's connection", b.rest(), "")
		}},
		{"first byte counts from the request's end", `"first_byte_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c := r.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n")
			b := o.accept()
			b.head()
			var start time.Time
			for range 3 {
				time.Sleep(short + short/2)
				start = time.Now()
				c.send("x")
				b.take(1)
			}
			contains(t, "answer", c.head(), " 504 ", noTimeLeft)
			notBefore(t, start, short)
		}},
		{"between bytes of the head", `"between_bytes_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			time.Sleep(2 * short) // it is not for the first one
			start := time.Now()
			b.send("HTTP/1.1 200")
			contains(t, "answer", c.head(), " 504 ", noTimeLeft)
			notBefore(t, start, short)
		}},
		{"between bytes of the body", `"between_bytes_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			start := time.Now()
			b.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
			c.head()
			expect(t, "body", c.rest(), "abc")
			notBefore(t, start, short)
		}},
		{"between bytes of a long body", `"between_bytes_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			start := time.Now()
			b.send("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + longBody[:500_000])
			c.head()
			if n := len(c.rest()); n != 500_000 {
				t.Errorf("%d bytes, want what came", n)
			}
			notBefore(t, start, short)
		}},
		{"write", `"between_bytes_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c := r.dial()
			start := time.Now()
			go c.Conn.Write([]byte("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999\r\n\r\n" + longBody))
			b := o.accept()
			b.head() // and no more
			contains(t, "answer", c.head(), " 504 ", "error=connection_write_timeout\r\n")
			notBefore(t, start, short)
		}},
		{"100 (Continue) does not come", `"first_byte_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c, start := r.dial(), time.Now()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
			o.accept().head()
			contains(t, "answer", c.head(), " 504 ", noTimeLeft)
			notBefore(t, start, short)
		}},
		{"of the route", `"comment": "none"`, `, "timeout": "200ms"`, func(t *testing.T, r *rig, o *origin) {
			start := time.Now()
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			b.send("HTTP/1.1 103 Early Hints\r\n\r\n")
			c.head()
			contains(t, "answer", c.head(), " 504 ", noTimeLeft)
			notBefore(t, start, short)
		}},
		{"of the route, within the answer", `"comment": "none"`, `, "timeout": "200ms"`, func(t *testing.T, r *rig, o *origin) {
			start := time.Now()
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			b.send("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na")
			c.head()
			expect(t, "body", c.rest(), "a")
			notBefore(t, start, short)
		}},
		{"of the queue", `"max_connections": 1, "wait_limit": 1, "wait_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			first, second := r.dial(), r.dial()
			first.send(get)
			b := o.accept()
			b.head()
			start := time.Now()
			second.send(get)
			contains(t, "answer", second.head(), " 503 ", "error=connection_limit_reached\r\n")
			notBefore(t, start, short)
			b.send(okay)
			contains(t, "the one that has the slot", first.head(), " 200 ")
		}},
		{"of a tunnel", `"tunnel_timeout": "200ms"`, "", func(t *testing.T, r *rig, o *origin) {
			c := r.dial()
			c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			b := o.accept()
			b.head()
			start := time.Now()
			b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
			c.head()
			expect(t, "end", c.rest(), "")
			notBefore(t, start, short)
			expect(t, "backend's end", b.rest(), "")
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := newOrigin(t)
			r := newRig(t, Config{}, definitions{"backends/a": o.backend(test.fields), "routes/r": `{"backend": "a"` + test.route + `}`})
			test.run(t, r, o)
			eventually(t, func() bool {
				s := r.poolOf("a").Stats()
				return s.Opened-s.Closed == uint64(s.Active+s.Idle) && s.Active == 0
			})
		})
	}
}

// TestConnectTimeoutOfSockets: the backend's queue is full, so that it answers no SYN.
func TestConnectTimeoutOfSockets(t *testing.T) {
	t.Parallel()
	addr := full(t)
	r := newRig(t, Config{}, definitions{"backends/a": `{"host": "` + addr + `", "connect_timeout": "200ms"}`})
	c, start := r.dial(), time.Now()
	c.send(get)
	contains(t, "answer", c.head(), " 504 ", "error=connection_timeout\r\n")
	notBefore(t, start, short)
}

func TestClientTimeoutsOfSockets(t *testing.T) {
	t.Parallel()
	t.Run("body", func(t *testing.T) {
		t.Parallel()
		o := newOrigin(t)
		r := newRig(t, Config{BodyTimeout: short}, definitions{"backends/a": o.backend()})
		c := r.dial()
		start := time.Now()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nx")
		b := o.accept()
		b.head()
		b.take(1)
		contains(t, "answer", c.head(), " 408 ", "\r\nConnection: close\r\n")
		notBefore(t, start, short)
		expect(t, "backend's connection", b.rest(), "")
	})
	t.Run("body rate", func(t *testing.T) {
		t.Parallel()
		o := newOrigin(t)
		r := newRig(t, Config{MinBodyRate: 1 << 20}, definitions{"backends/a": o.backend()})
		c := r.dial()
		start := time.Now()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n")
		b := o.accept()
		b.head()
		ended := make(chan struct{})
		defer func() { <-ended }()
		go func() {
			defer close(ended)
			for time.Since(start) < patience {
				if _, err := c.Conn.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
		contains(t, "answer", c.head(), " 408 ", "\r\nConnection: close\r\n")
		notBefore(t, start, rateGrace)
		c.Conn.Close()
	})
	t.Run("write", func(t *testing.T) {
		t.Parallel()
		o := newOrigin(t)
		r := newRig(t, Config{WriteTimeout: short}, definitions{"backends/a": o.backend()})
		for _, head := range []string{
			"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", // spliced
			"HTTP/1.1 200 OK\r\n\r\n",                             // copied
		} {
			c := r.dial()
			c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			start := time.Now()
			c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			b := o.accept()
			b.head()
			if _, err := b.Conn.Write([]byte(head + longBody)); err == nil {
				_, err = b.r.ReadByte() // its end
				if err == nil {
					t.Error("the backend's connection goes on")
				}
			}
			notBefore(t, start, short)
		}
	})
}

// poolOf is the pool of a backend.
func (r *rig) poolOf(backend string) *pool.Pool {
	return r.applier.Current().Lookup(backend).Backend.Pool
}

// full is the address of a listener whose queue is full: who connects gets no answer.
func full(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", at.(*syscall.SockaddrInet4).Port)
	for {
		conn, err := net.DialTimeout("tcp", addr, short)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
}
