package http2

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/message"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sockets returns the ends of a TCP connection.
func sockets(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// serve runs a server over nc until the test ends.
func serve(t testing.TB, nc net.Conn, cfg Config, handle func(*Stream)) *Conn {
	c := NewServer(nc, cfg)
	done := make(chan struct{})
	go func() { c.Serve(handle); close(done) }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

// dial runs a client over nc until the test ends.
func dial(t testing.TB, nc net.Conn, cfg Config) *Conn {
	c := NewClient(nc, cfg)
	done := make(chan struct{})
	go func() { c.Run(); close(done) }()
	t.Cleanup(func() { c.Close(); <-done })
	return c
}

// both connects a client and a server of ours.
func both(t testing.TB, client, server Config, handle func(*Stream)) (*Conn, *Conn) {
	a, b := sockets(t)
	s := serve(t, b, server, handle)
	return dial(t, a, client), s
}

func field(name, value string) message.Field {
	return message.Field{Name: []byte(name), Value: []byte(value), ID: message.Lookup([]byte(name))}
}

func request(method, target string, length int64, fields ...message.Field) *message.Request {
	return &message.Request{Method: []byte(method), Target: []byte(target), Authority: []byte("a.test"),
		Length: length, Fields: fields, Major: 2}
}

func response(status int, length int64, fields ...message.Field) *message.Response {
	return &message.Response{Status: status, Length: length, Fields: fields}
}

// open opens a stream with all of body.
func open(t testing.TB, c *Conn, r *message.Request, body string, end bool) *Stream {
	t.Helper()
	if !c.Reserve() {
		t.Fatal("no place for a stream")
	}
	s, n, err := c.Open(r, "https", []byte(body), end)
	if err != nil {
		t.Fatal(err)
	}
	if n < len(body) {
		if err := s.Send(nil, []byte(body[n:]), end, nil); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// answer reads a whole answer.
func answer(t testing.TB, s *Stream) (*message.Response, string) {
	t.Helper()
	r := new(message.Response)
	for {
		if err := s.Head(r); err != nil {
			t.Fatalf("head: %v", err)
		}
		if r.Status >= 200 {
			break
		}
	}
	body, err := io.ReadAll(s)
	if err != nil {
		t.Fatalf("body after %d bytes: %v", len(body), err)
	}
	return r, string(body)
}

// echo answers with the request's body.
func echo(s *Stream) {
	var r message.Request
	if err := s.Request(&r); err != nil {
		s.Send(response(400, 0), nil, true, nil)
		return
	}
	if s.Send(response(200, message.Unknown), nil, false, nil) != nil {
		return
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := s.Read(buf)
		if n > 0 {
			if s.Send(nil, buf[:n], false, nil) != nil {
				return
			}
		}
		if err == io.EOF {
			s.Send(nil, nil, true, s.Trailers())
			return
		}
		if err != nil {
			return
		}
	}
}

// hello answers every request with a word.
func hello(s *Stream) {
	var r message.Request
	if err := s.Request(&r); err != nil {
		s.Send(response(400, 0), nil, true, nil)
		return
	}
	s.Send(response(200, 5), []byte("hello"), true, nil)
}

// A peer speaks frames to the connection under test, and keeps what it hears.
type peer struct {
	t   testing.TB
	nc  net.Conn
	fr  *frames.Framer
	hp  *hpack.Encoder
	hpb bytes.Buffer

	mu    sync.Mutex
	heard []string // one line for each frame
	more  sync.Cond
	err   error
	done  chan struct{}
}

// newPeer speaks over nc. Its preface and SETTINGS are not sent yet.
func newPeer(t testing.TB, nc net.Conn) *peer {
	p := &peer{t: t, nc: nc, fr: frames.NewFramer(nc, nc), done: make(chan struct{})}
	p.fr.AllowIllegalWrites = true
	p.fr.AllowIllegalReads = true
	p.hp = hpack.NewEncoder(&p.hpb)
	p.more.L = &p.mu
	go p.listen()
	t.Cleanup(func() { nc.Close(); <-p.done })
	return p
}

func (p *peer) listen() {
	defer close(p.done)
	dec := hpack.NewDecoder(4096, nil)
	for {
		f, err := p.fr.ReadFrame()
		line := ""
		if err == nil {
			line = describe(f, dec)
		}
		p.mu.Lock()
		if p.err = err; err == nil {
			p.heard = append(p.heard, line)
		}
		p.mu.Unlock()
		p.more.Broadcast()
		if err != nil {
			return
		}
	}
}

// describe makes a line of a frame: its type, stream, and what matters of it.
func describe(f frames.Frame, dec *hpack.Decoder) string {
	h := f.Header()
	line := h.Type.String() + " " + strconv.Itoa(int(h.StreamID))
	switch f := f.(type) {
	case *frames.HeadersFrame:
		list, err := dec.DecodeFull(f.HeaderBlockFragment())
		for _, f := range list {
			line += " " + f.Name + "=" + f.Value
		}
		if err != nil {
			line += " " + err.Error()
		}
		if f.StreamEnded() {
			line += " END"
		}
	case *frames.DataFrame:
		if len(f.Data()) > 32 {
			line += " " + strconv.Itoa(len(f.Data())) + " bytes"
		} else {
			line += " " + string(f.Data())
		}
		if f.StreamEnded() {
			line += " END"
		}
	case *frames.RSTStreamFrame:
		line += " " + f.ErrCode.String()
	case *frames.GoAwayFrame:
		line = "GOAWAY " + strconv.Itoa(int(f.LastStreamID)) + " " + f.ErrCode.String()
	case *frames.WindowUpdateFrame:
		line += " " + strconv.Itoa(int(f.Increment))
	case *frames.PingFrame:
		if f.IsAck() {
			line += " ACK"
		}
	case *frames.SettingsFrame:
		if f.IsAck() {
			line += " ACK"
		}
	}
	return line
}

// hear waits until a line starts with prefix, and returns it; later lines are
// looked at from there on.
func (p *peer) hear(prefix string) string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := 0; ; {
		for ; at < len(p.heard); at++ {
			if strings.HasPrefix(p.heard[at], prefix) {
				line := p.heard[at]
				p.heard = p.heard[at+1:]
				return line
			}
		}
		if p.err != nil {
			p.t.Fatalf("connection ended (%v) before %q; heard %q", p.err, prefix, p.heard)
		}
		p.more.Wait()
	}
}

// closed waits until the connection has ended and returns everything heard.
func (p *peer) closed() []string {
	p.t.Helper()
	<-p.done
	if !errors.Is(p.err, io.EOF) && !errors.Is(p.err, net.ErrClosed) && !strings.Contains(p.err.Error(), "reset by peer") && !errors.Is(p.err, io.ErrUnexpectedEOF) {
		p.t.Fatalf("connection ended with %v", p.err)
	}
	return p.heard
}

func (p *peer) block(fields ...string) []byte {
	p.hpb.Reset()
	for _, f := range fields {
		name, value, _ := strings.Cut(f[1:], "=")
		if err := p.hp.WriteField(hpack.HeaderField{Name: f[:1] + name, Value: value}); err != nil {
			p.t.Fatal(err)
		}
	}
	return p.hpb.Bytes()
}

// get are the pseudo fields of an ordinary request.
var get = []string{":method=GET", ":scheme=https", ":authority=a.test", ":path=/"}

func with(base []string, more ...string) []string {
	return append(append([]string(nil), base...), more...)
}

func (p *peer) headers(id uint32, end bool, fields ...string) {
	p.fr.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: p.block(fields...), EndStream: end, EndHeaders: true})
}

// greet sends the preface (of a client) and SETTINGS, and waits for their ACK.
func (p *peer) greet(client bool, settings ...frames.Setting) {
	p.t.Helper()
	if client {
		io.WriteString(p.nc, frames.ClientPreface)
	}
	p.fr.WriteSettings(settings...)
	p.hear("SETTINGS 0 ACK")
	p.fr.WriteSettingsAck()
}

// client returns a peer that speaks to a server of ours.
func client(t testing.TB, cfg Config, handle func(*Stream), settings ...frames.Setting) (*peer, *Conn) {
	a, b := sockets(t)
	c := serve(t, b, cfg, handle)
	p := newPeer(t, a)
	p.greet(true, settings...)
	return p, c
}

// server returns a peer that speaks to a client of ours.
func server(t testing.TB, cfg Config, settings ...frames.Setting) (*peer, *Conn) {
	a, b := sockets(t)
	c := dial(t, a, cfg)
	preface := make([]byte, len(frames.ClientPreface))
	if _, err := io.ReadFull(b, preface); err != nil || string(preface) != frames.ClientPreface {
		t.Fatalf("preface %q: %v", preface, err)
	}
	p := newPeer(t, b)
	p.greet(false, settings...)
	p.sync()
	return p, c
}

// sync returns when everything sent before was handled.
func (p *peer) sync() {
	p.t.Helper()
	p.fr.WritePing(false, [8]byte{'s', 'y', 'n', 'c'})
	p.hear("PING 0 ACK")
}

// eventually waits for something that other goroutines will do.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("never: " + what)
}

// countWrites counts writes.
type countWrites struct {
	net.Conn
	mu sync.Mutex
	n  int
}

func (c *countWrites) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *countWrites) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
