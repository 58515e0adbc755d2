package http2

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	frames "golang.org/x/net/http2"

	"roster/message"
)

func TestRequestAndAnswer(t *testing.T) {
	t.Parallel()
	c, _ := both(t, Config{}, Config{}, func(s *Stream) {
		var r message.Request
		if err := s.Request(&r); err != nil {
			t.Errorf("request: %v", err)
		}
		got := fmt.Sprintf("%s %s %s %s %d", r.Method, r.Scheme, r.Authority, r.Target, r.Length)
		if want := "PUT https a.test /x?y 4"; got != want {
			t.Errorf("request is %q, want %q", got, want)
		}
		list := ""
		for _, f := range r.Fields {
			list += fmt.Sprintf("%s=%s(%d)\n", f.Name, f.Value, f.ID)
		}
		if want := fmt.Sprintf("x-one=1(%d)\nte=trailers(%d)\nuser-agent=me(%d)\nexpect=100-continue(%d)\ncontent-length=4(%d)\n",
			message.Other, message.TE, message.UserAgent, message.Expect, message.ContentLength); list != want {
			t.Errorf("fields are\n%swant\n%s", list, want)
		}
		if !r.Expect100 || r.Major != 2 {
			t.Errorf("Expect100 %v, Major %d", r.Expect100, r.Major)
		}
		s.Send(response(100, 0), nil, false, nil)
		s.Send(response(103, 0, field("link", "</a>")), nil, false, nil)
		body, err := io.ReadAll(s)
		if err != nil || string(body) != "body" || !s.ReadEnded() {
			t.Errorf("body %q, %v", body, err)
		}
		s.Send(response(201, 3, field("Server", " x "), field("Connection", "close"), field("bad name", "x"),
			field("x-bad", "a\nb"), field("Content-Length", "77")), []byte("abc"), true,
			[]message.Field{field("X-Sum", "1"), field("Content-Type", "no")})
	})
	s := open(t, c, request("PUT", "/x?y", 4, field("X-One", "1"), field("Host", "other"), field("Keep-Alive", "x"),
		field("TE", "gzip, trailers"), field("User-Agent", "me"), field("Expect", "100-continue")), "body", true)
	var r message.Response
	for _, want := range []int{100, 103} {
		if err := s.Head(&r); err != nil || r.Status != want || !r.Bodiless {
			t.Fatalf("interim head %d, %v, want %d", r.Status, err, want)
		}
	}
	head, body := answer(t, s)
	if head.Status != 201 || head.Length != 3 || body != "abc" || len(head.Fields) != 2 || string(head.Get(message.Server)) != "x" {
		t.Errorf("answer %+v %q", head, body)
	}
	if tr := s.Trailers(); len(tr) != 1 || string(tr[0].Name) != "x-sum" || string(tr[0].Value) != "1" {
		t.Errorf("trailers %q", tr)
	}
	eventually(t, "stream's place is free", func() bool { return c.Active() == 0 })
}

// A body of any size comes out as it went in, both ways at once, whatever the
// windows are.
func TestBodiesBothWaysAtOnce(t *testing.T) {
	t.Parallel()
	for _, window := range []int32{0, 1, 1000, 65535, 1 << 20} {
		t.Run(fmt.Sprintf("window=%d", window), func(t *testing.T) {
			t.Parallel()
			cfg := Config{StreamWindow: window}
			c, _ := both(t, cfg, cfg, echo)
			var wg sync.WaitGroup
			for i := range 8 {
				size := 1 << 18
				if window == 1 {
					size = 2000
				} else if window == 1000 {
					size = 100_000
				}
				body := make([]byte, size+i)
				rng := rand.NewChaCha8([32]byte{byte(i)})
				rng.Read(body)
				s := open(t, c, request("POST", "/", message.Unknown), "", false)
				wg.Add(2)
				go func() {
					defer wg.Done()
					for rest := body; len(rest) > 0; {
						n := min(len(rest), 99+i*7777)
						if _, err := s.Write(rest[:n]); err != nil {
							t.Error(err)
							return
						}
						rest = rest[n:]
					}
					if err := s.Send(nil, nil, true, []message.Field{field("x-end", "yes")}); err != nil {
						t.Error(err)
					}
				}()
				go func() {
					defer wg.Done()
					var r message.Response
					if err := s.Head(&r); err != nil {
						t.Error(err)
						return
					}
					got, err := io.ReadAll(s)
					if err != nil || string(got) != string(body) {
						t.Errorf("%d bytes back, %v; sent %d", len(got), err, len(body))
					}
					if tr := s.Trailers(); len(tr) != 1 {
						t.Errorf("trailers %q", tr)
					}
				}()
			}
			wg.Wait()
		})
	}
}

// An answer with a head, a body and its end is one write.
func TestAnswerIsOneWrite(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	counted := &countWrites{Conn: b}
	handled := make(chan struct{}, 8)
	serve(t, counted, Config{}, func(s *Stream) { hello(s); handled <- struct{}{} })
	c := dial(t, a, Config{})
	answer(t, open(t, c, request("GET", "/", 0), "", true))
	<-handled
	eventually(t, "SETTINGS are acknowledged", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.acked })
	before := counted.count()
	answer(t, open(t, c, request("GET", "/", 0), "", true))
	<-handled
	if n := counted.count() - before; n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
}

func TestBodilessAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		method string
		status int
		length string
	}{{"HEAD", 200, "77"}, {"GET", 304, "77"}, {"GET", 204, ""}, {"HEAD", 200, ""}} {
		c, _ := both(t, Config{}, Config{}, func(s *Stream) {
			var r message.Request
			s.Request(&r)
			head := &message.Response{Status: test.status, Bodiless: true}
			if test.length != "" {
				head.Fields = append(head.Fields, field("content-length", test.length))
			}
			s.Send(head, nil, true, nil)
		})
		head, body := answer(t, open(t, c, request(test.method, "/", 0), "", true))
		if !head.Bodiless || head.Length != 0 || body != "" || string(head.Get(message.ContentLength)) != test.length {
			t.Errorf("%s %d: %+v %q", test.method, test.status, head, body)
		}
	}
}

// A field block larger than a frame is cut into CONTINUATION frames and put together.
func TestLargeHeads(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("v", 40_000)
	c, _ := both(t, Config{}, Config{}, func(s *Stream) {
		var r message.Request
		if err := s.Request(&r); err != nil {
			t.Error(err)
		}
		s.Send(response(200, 0, r.Fields...), nil, true, nil)
	})
	head, _ := answer(t, open(t, c, request("GET", "/", 0, field("x-large", large), field("x-after", "1")), "", true))
	if len(head.Fields) != 3 || string(head.Fields[0].Value) != large || string(head.Fields[1].Name) != "x-after" {
		t.Errorf("%d fields", len(head.Fields))
	}
}

func TestCookiesAreJoined(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, func(s *Stream) {
		var r message.Request
		s.Request(&r)
		s.Send(response(200, 0, r.Fields...), nil, true, nil)
	})
	p.headers(1, true, with(get, "cookie=a=1", "x=y", "cookie=b=2", "cookie=c=3")...)
	if got, want := p.hear("HEADERS 1"), "HEADERS 1 :status=200 cookie=a=1; b=2; c=3 x=y content-length=0 END"; got != want {
		t.Errorf("heard %q, want %q", got, want)
	}
}

// What is left of a stream when its handler returns is reset.
func TestHandlerThatReturnsEarly(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, func(s *Stream) {
		var r message.Request
		s.Request(&r)
		switch string(r.Target) {
		case "/answer":
			s.Send(response(200, 0), nil, true, nil)
		case "/part":
			s.Send(response(200, 10), []byte("part"), false, nil)
		}
	})
	for i, test := range []struct{ path, want string }{
		{"/nothing", "RST_STREAM 1 INTERNAL_ERROR"},
		{"/part", "RST_STREAM 3 INTERNAL_ERROR"},
		{"/answer", "RST_STREAM 5 NO_ERROR"},
	} {
		id := uint32(2*i + 1)
		p.headers(id, false, ":method=POST", ":scheme=https", ":authority=a.test", ":path="+test.path)
		if got := p.hear("RST_STREAM"); got != test.want {
			t.Errorf("%s: heard %q, want %q", test.path, got, test.want)
		}
		p.fr.WriteData(id, true, []byte("too late")) // is ignored
	}
	p.sync()
	if len(p.heard) != 0 {
		t.Errorf("heard %q", p.heard)
	}
}

// An answer that is whole before its request is can be read to its end.
func TestEarlyAnswerIsReadWhole(t *testing.T) {
	t.Parallel()
	c, _ := both(t, Config{}, Config{}, hello)
	s := open(t, c, request("POST", "/", message.Unknown), "", false)
	eventually(t, "the server's reset is here", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return s.err != nil
	})
	if head, body := answer(t, s); head.Status != 200 || body != "hello" {
		t.Errorf("%d %q", head.Status, body)
	}
	var reset *ResetError
	if _, err := s.Write([]byte("x")); !errors.As(err, &reset) || reset.Code != NoError || !reset.Remote || reset.Unprocessed {
		t.Errorf("write after that: %v", err)
	}
}

func TestResetsReachTheOtherSide(t *testing.T) {
	t.Parallel()
	gone := make(chan struct{})
	failed := make(chan error, 2)
	c, _ := both(t, Config{}, Config{}, func(s *Stream) {
		var r message.Request
		s.Request(&r)
		if string(r.Target) == "/refuse" {
			s.Reset(RefusedStream)
			return
		}
		s.OnGone(func() { close(gone) })
		_, err := io.ReadAll(s)
		failed <- err
		<-gone
		failed <- s.Send(response(200, 0), nil, true, nil)
		s.OnGone(func() { failed <- nil }) // at once
	})
	s := open(t, c, request("POST", "/", message.Unknown), "abc", false)
	s.Abort()
	for range 2 {
		var reset *ResetError
		if err := <-failed; !errors.As(err, &reset) || reset.Code != Cancel || !reset.Remote {
			t.Errorf("handler saw %v", err)
		}
	}
	if err := <-failed; err != nil {
		t.Error(err)
	}
	var r message.Response
	var reset *ResetError
	if err := s.Head(&r); !errors.As(err, &reset) || reset.Code != Cancel || reset.Remote {
		t.Errorf("head after Abort: %v", err)
	}
	s = open(t, c, request("GET", "/refuse", 0), "", true)
	if err := s.Head(&r); !errors.As(err, &reset) || !reset.Unprocessed {
		t.Errorf("refused: %v", err)
	}
}

// Bytes that were received and never read do not count against the connection
// once their stream has ended.
func TestWindowIsGivenBackAfterReset(t *testing.T) {
	t.Parallel()
	const window = 65535
	served := make(chan struct{}, 100)
	c, _ := both(t, Config{}, Config{StreamWindow: window, ConnWindow: window}, func(s *Stream) {
		var r message.Request
		s.Request(&r)
		<-served
	})
	for range 20 {
		s := open(t, c, request("POST", "/", message.Unknown), strings.Repeat("x", window/2), false)
		served <- struct{}{}
		var r message.Response
		if err := s.Head(&r); err == nil {
			t.Fatal("answered")
		}
	}
}

func TestAbortEndsWaiting(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c, _ := both(t, Config{}, Config{StreamWindow: 10}, func(s *Stream) { <-release })
	defer close(release)
	s := open(t, c, request("POST", "/", message.Unknown), "", false)
	errs := make(chan error)
	go func() { errs <- s.Send(nil, make([]byte, 1<<20), true, nil) }()
	go func() { errs <- s.Head(new(message.Response)) }()
	eventually(t, "both wait", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return s.reading && s.sending })
	s.Abort()
	for range 2 {
		var reset *ResetError
		if err := <-errs; !errors.As(err, &reset) || reset.Code != Cancel {
			t.Errorf("got %v", err)
		}
	}
}

// Streams take turns when the connection's window is what is short.
func TestConnectionWindowIsShared(t *testing.T) {
	t.Parallel()
	c, _ := both(t, Config{StreamWindow: 1 << 20, ConnWindow: 65535}, Config{}, func(s *Stream) {
		var r message.Request
		s.Request(&r)
		s.Send(response(200, 1<<18), make([]byte, 1<<18), true, nil)
	})
	var streams []*Stream
	for range 10 {
		streams = append(streams, open(t, c, request("GET", "/", 0), "", true))
	}
	var wg sync.WaitGroup
	for _, s := range streams {
		wg.Go(func() {
			if _, body := answer(t, s); len(body) != 1<<18 {
				t.Errorf("%d bytes", len(body))
			}
		})
	}
	wg.Wait()
}

func TestReserveKeepsToTheServersLimit(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c, _ := both(t, Config{}, Config{MaxStreams: 2}, func(s *Stream) { <-release; hello(s) })
	eventually(t, "SETTINGS are here", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.settings })
	a := open(t, c, request("GET", "/", 0), "", true)
	if !c.Reserve() || c.Reserve() || c.Active() != 2 {
		t.Errorf("limit of 2 is not kept: %d", c.Active())
	}
	c.Unreserve()
	b := open(t, c, request("GET", "/", 0), "", true)
	close(release)
	answer(t, a)
	answer(t, b)
	if !c.Reserve() {
		t.Error("no place after the answers")
	}
	c.Unreserve()
}

// After a connection's end everything on it fails, with what a caller can tell.
func TestEndOfConnection(t *testing.T) {
	t.Parallel()
	started := make(chan struct{})
	gone := make(chan struct{})
	c, s := both(t, Config{}, Config{}, func(s *Stream) {
		s.OnGone(func() { close(gone) })
		close(started)
		<-gone
	})
	stream := open(t, c, request("GET", "/", 0), "", true)
	<-started
	s.Close()
	if err := stream.Head(new(message.Response)); !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "reset by peer") {
		t.Errorf("head: %v", err)
	}
	<-gone
	<-c.Done()
	if c.Reserve() {
		t.Error("place on a connection that has ended")
	}
}

// A window that our SETTINGS made smaller than what was already sent is negative;
// the end of the body needs none (RFC 9113 section 6.9.2).
func TestEndNeedsNoWindow(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	read := make(chan string, 1)
	release := make(chan struct{})
	serve(t, b, Config{StreamWindow: 10}, func(s *Stream) {
		<-release
		body, err := io.ReadAll(s)
		read <- fmt.Sprint(len(body), err)
	})
	p := newPeer(t, a)
	io.WriteString(a, frames.ClientPreface)
	p.fr.WriteSettings()
	p.headers(1, false, get...)
	p.fr.WriteData(1, false, make([]byte, 1000)) // before our SETTINGS are known
	p.hear("SETTINGS 0 ACK")
	p.fr.WriteSettingsAck()
	p.fr.WriteData(1, true, nil)
	p.sync()
	close(release)
	if got := <-read; got != "1000<nil>" && got != "1000 <nil>" {
		t.Errorf("read %s", got)
	}
}

// A stream that is reset here while one of its DATA frames is half received takes
// nothing else with it.
func TestResetWithinAFrame(t *testing.T) {
	t.Parallel()
	opened := make(chan *Stream, 1)
	const window = 65535
	p, c := client(t, Config{ConnWindow: window}, func(s *Stream) {
		var r message.Request
		s.Request(&r)
		if string(r.Method) == "POST" {
			opened <- s
			s.Read(make([]byte, 10))
			s.Reset(Cancel)
			return
		}
		hello(s)
	})
	for i := range uint32(20) { // more than the window in all
		id := 2*i + 1
		p.headers(id, false, ":method=POST", ":scheme=https", ":authority=a.test", ":path=/")
		p.nc.Write([]byte{0, 0x20, 0, 0, 8, byte(id >> 24), byte(id >> 16), byte(id >> 8), byte(id), 100}) // padded
		p.nc.Write(make([]byte, 3000))
		<-opened
		p.hear(fmt.Sprintf("RST_STREAM %d CANCEL", id))
		p.nc.Write(make([]byte, 0x2000-1-3000))
	}
	p.sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.recvWindow+c.unacked != window {
		t.Errorf("%d bytes of the window are lost", window-c.recvWindow-c.unacked)
	}
}

// A client whose identifiers are used up ends with its last stream.
func TestStreamIDsAreUsedUp(t *testing.T) {
	t.Parallel()
	c, _ := both(t, Config{}, Config{}, hello)
	c.mu.Lock()
	c.nextID = maxStreamID - 2
	c.mu.Unlock()
	a := open(t, c, request("GET", "/", 0), "", true)
	if !c.Reserve() || c.Reserve() {
		t.Error("there is one identifier left")
	}
	c.Unreserve()
	b := open(t, c, request("GET", "/", 0), "", true)
	if c.Reserve() {
		t.Error("place without an identifier")
	}
	answer(t, a)
	answer(t, b)
	<-c.Done()
}

// What Serve and Run return.
func TestReasonsOfTheEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		end  func(p *peer, c *Conn)
		open bool // with a stream open
		want string
	}{
		{"the client closes", func(p *peer, c *Conn) { p.nc.Close() }, false, ""},
		{"Close", func(p *peer, c *Conn) { c.Close() }, true, ""},
		{"GoAway", func(p *peer, c *Conn) { c.GoAway(); p.fr.WritePing(true, drainPing) }, false, ""},
		{"the client says GOAWAY", func(p *peer, c *Conn) {
			p.fr.WriteGoAway(0, 0, nil)
			p.hear("PING 0")
			p.fr.WritePing(true, drainPing)
		}, false, ""},
		{"the client closes with a stream open", func(p *peer, c *Conn) { p.nc.Close() }, true, "http2: connection closed: unexpected EOF"},
		{"an invalid frame", func(p *peer, c *Conn) { p.fr.WriteData(0, true, nil) }, false, "http2: PROTOCOL_ERROR: DATA of stream 0"},
		{"half a frame", func(p *peer, c *Conn) { p.nc.Write([]byte{0, 0, 9, 0}); p.nc.Close() }, false, "http2: read: unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a, b := sockets(t)
			c := NewServer(b, Config{})
			ended := make(chan error)
			started := make(chan struct{})
			go func() { ended <- c.Serve(func(s *Stream) { close(started); <-whenGone(s) }) }()
			p := newPeer(t, a)
			p.greet(true)
			if test.open {
				p.headers(1, true, get...)
				<-started
			}
			p.sync()
			test.end(p, c)
			got := ""
			if test.name == "GoAway" || test.name == "the client says GOAWAY" {
				p.hear("GOAWAY 0 NO_ERROR")
				p.nc.Close()
			}
			if err := <-ended; err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
			<-c.Done()
		})
	}
}
