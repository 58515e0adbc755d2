package http2

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	frames "golang.org/x/net/http2"

	"roster/message"
)

// pipe runs a client and a server of ours over memory.
func pipe(t *testing.T, client, server Config, handle func(*Stream)) (*Conn, *Conn) {
	a, b := net.Pipe()
	s := serve(t, b, server, handle)
	return dial(t, a, client), s
}

// pipePeer is a peer, over memory, of a server of ours that has been greeted.
func pipePeer(t *testing.T, cfg Config, handle func(*Stream), settings ...frames.Setting) (*peer, *Conn) {
	a, b := net.Pipe()
	c := serve(t, b, cfg, handle)
	p := newPeer(t, a)
	p.greet(true, settings...)
	return p, c
}

func took(t *testing.T, what string, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("%s took %v, want %v", what, got, want)
	}
}

func TestArmReadBoundsHeadAndRead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		more := make(chan bool)
		c, _ := pipe(t, Config{}, Config{}, func(s *Stream) {
			<-more
			s.Send(response(200, message.Unknown), nil, false, nil)
			<-more
			s.Send(nil, []byte("x"), true, nil)
		})
		s := open(t, c, request("GET", "/", 0), "", true)
		var r message.Response
		for range 2 { // the stream stays usable
			start := time.Now()
			s.ArmRead(3 * time.Second)
			if err := s.Head(&r); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal(err)
			}
			took(t, "Head", start, 3*time.Second)
		}
		s.ArmRead(0)
		more <- true
		if err := s.Head(&r); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		s.ArmRead(time.Hour)
		go func() { time.Sleep(time.Second); s.ArmRead(4 * time.Second) }() // shorter, while it waits
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		took(t, "Read", start, 5*time.Second)
		s.ArmRead(0)
		close(more)
		if body, err := io.ReadAll(s); err != nil || string(body) != "x" {
			t.Fatalf("%q, %v", body, err)
		}
	})
}

// A peer that opens no window keeps a Send for ArmWrite's time and no longer.
func TestArmWriteBoundsStalls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errs := make(chan error, 1)
		p, _ := pipePeer(t, Config{}, func(s *Stream) {
			s.ArmWrite(10 * time.Second)
			errs <- s.Send(response(200, 100), make([]byte, 100), true, nil)
		}, frames.Setting{ID: frames.SettingInitialWindowSize, Val: 0})
		start := time.Now()
		p.headers(1, true, get...)
		for range 3 { // progress counts
			time.Sleep(9 * time.Second)
			p.fr.WriteWindowUpdate(1, 10)
		}
		if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		took(t, "Send", start, 37*time.Second)
		p.hear("RST_STREAM 1 INTERNAL_ERROR")
	})
}

// The same when it is the connection that takes nothing: others wait for who is
// writing, and WriteTimeout bounds that.
func TestWriteTimeoutEndsAConnectionThatTakesNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		errs := make(chan error, 2)
		a, b := net.Pipe()
		defer a.Close()
		c := serve(t, b, Config{WriteTimeout: 20 * time.Second}, func(s *Stream) {
			s.ArmWrite(5 * time.Second)
			errs <- s.Send(response(200, 1<<20), make([]byte, 1<<20), true, nil)
		})
		go func() {
			io.WriteString(a, frames.ClientPreface)
			fr := frames.NewFramer(a, nil)
			fr.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1 << 20})
			fr.WriteWindowUpdate(0, 1<<24)
			for id := uint32(1); id <= 3; id += 2 {
				fr.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: []byte{0x82, 0x87, 0x84, 0x41, 1, 'a'}, EndStream: true, EndHeaders: true})
			}
		}()
		for range 2 {
			if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
		}
		start := c.start
		<-c.Done()
		if d := time.Since(start); d < 20*time.Second || d > 30*time.Second {
			t.Errorf("connection lasted %v", d)
		}
	})
}

// A slow peer that takes a little now and then keeps its connection.
func TestWriteTimeoutIsForNoProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size = 60_000
		a, b := net.Pipe()
		slow := &slowReader{Conn: a}
		serve(t, b, Config{WriteTimeout: 10 * time.Second}, func(s *Stream) {
			s.Send(response(200, size), make([]byte, size), true, nil)
		})
		c := dial(t, slow, Config{})
		start := time.Now()
		if _, body := answer(t, open(t, c, request("GET", "/", 0), "", true)); len(body) != size {
			t.Errorf("%d bytes", len(body))
		}
		if time.Since(start) < 60*time.Second {
			t.Errorf("took only %v", time.Since(start))
		}
	})
}

// slowReader takes a kilobyte in three seconds.
type slowReader struct{ net.Conn }

func (c *slowReader) Read(p []byte) (int, error) {
	if len(p) >= 1024 {
		time.Sleep(3 * time.Second)
		p = p[:1024]
	}
	return c.Conn.Read(p)
}

func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, c := pipePeer(t, Config{IdleTimeout: 60 * time.Second}, func(s *Stream) {
			time.Sleep(5 * time.Minute) // is not idle
			hello(s)
		})
		p.headers(1, true, get...)
		p.hear("DATA 1 hello END")
		start := time.Now()
		go func() {
			for range 5 { // PINGs keep nothing open
				time.Sleep(10 * time.Second)
				p.fr.WritePing(false, [8]byte{})
			}
		}()
		p.hear("GOAWAY 2147483647 NO_ERROR")
		took(t, "idle", start, 60*time.Second)
		p.hear("GOAWAY 1 NO_ERROR") // without an answer to its PING
		<-c.Done()
		took(t, "idle and GOAWAY", start, 61*time.Second)
	})
}

// Who connects and says nothing, or not enough, is not waited for.
func TestHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	for _, first := range []string{"", "PRI * ", frames.ClientPreface, frames.ClientPreface + "\x00\x00\x06\x04"} {
		synctest.Test(t, func(t *testing.T) {
			a, b := net.Pipe()
			c := NewServer(b, Config{})
			start := time.Now()
			errs := make(chan error, 1)
			go func() { errs <- c.Serve(hello) }()
			go io.Copy(io.Discard, a)
			io.WriteString(a, first)
			if err := <-errs; err == nil || !strings.Contains(err.Error(), "no SETTINGS") {
				t.Errorf("after %q: %v", first, err)
			}
			took(t, "handshake", start, handshakeTimeout)
			a.Close()
		})
	}
}

// A peer that has gone without a word is found out by PINGs while streams are open.
func TestPingFindsADeadPeer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, c := pipePeer(t, Config{PingInterval: 30 * time.Second}, func(s *Stream) { <-whenGone(s) })
		time.Sleep(time.Hour) // idle: no PING
		if len(p.heard) != 0 {
			t.Errorf("heard %q", p.heard)
		}
		p.headers(1, true, get...)
		p.hear("PING 0")
		p.fr.WritePing(true, alivePing) // alive
		p.hear("PING 0")
		start := time.Now()
		<-c.Done()
		took(t, "death", start, pingTimeout)
	})
}

// Goroutines that handled a burst of streams end when there is nothing to do.
func TestIdleConnectionsKeepNoHandlers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c, s := pipe(t, Config{}, Config{}, func(s *Stream) { <-release; hello(s) })
		var streams []*Stream
		for range 20 {
			streams = append(streams, open(t, c, request("GET", "/", 0), "", true))
		}
		goroutines := func() int {
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.workers
		}
		if n := goroutines(); n != 20 {
			t.Errorf("%d goroutines for 20 streams", n)
		}
		close(release)
		for _, s := range streams {
			answer(t, s)
		}
		if n := goroutines(); n != 20 {
			t.Errorf("%d goroutines right after", n)
		}
		time.Sleep(2 * idleWorkers)
		if n := goroutines(); n != 0 {
			t.Errorf("%d goroutines later", n)
		}
		answer(t, open(t, c, request("GET", "/", 0), "", true))
	})
}
