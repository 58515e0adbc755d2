package http2

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/message"
)

// TestBodyThatWasThrownAwayIsNoWholeBody: who resets a stream after its end, or breaks
// the rules on it, may have had a part of the body thrown away; a handler that has
// read another part must not take that for all.
func TestBodyThatWasThrownAwayIsNoWholeBody(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(p *peer){
		"reset":             func(p *peer) { p.fr.WriteRSTStream(1, frames.ErrCodeCancel) },
		"data after end":    func(p *peer) { p.fr.WriteData(1, true, []byte("x")) },
		"window too large":  func(p *peer) { p.fr.WriteWindowUpdate(1, maxStreamID) },
		"headers after end": func(p *peer) { p.headers(1, true, ":x=y") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			part, harmed, end := make(chan struct{}), make(chan struct{}), make(chan error)
			p, _ := client(t, Config{}, func(s *Stream) {
				var r message.Request
				s.Request(&r)
				io.ReadFull(s, make([]byte, 10))
				close(part)
				<-harmed
				_, err := io.ReadAll(s)
				end <- err
			})
			p.headers(1, false, ":method=POST", ":scheme=https", ":authority=a.test", ":path=/")
			p.fr.WriteData(1, true, bytes.Repeat([]byte("a"), 10_000))
			<-part
			harm(p)
			p.sync()
			close(harmed)
			var reset *ResetError
			if err := <-end; !errors.As(err, &reset) {
				t.Errorf("the body ended with %v, want a ResetError", err)
			}
		})
	}
}

// endsWith returns io.EOF together with the last bytes, as TLS does if its end came in
// the same packet.
type endsWith struct {
	net.Conn
	last []byte
}

func (e *endsWith) Read(b []byte) (int, error) {
	n := copy(b, e.last)
	if e.last = e.last[n:]; len(e.last) == 0 {
		return n, io.EOF
	}
	return n, nil
}

// TestAnswerThatComesWithTheEndOfTheConnection is whole.
func TestAnswerThatComesWithTheEndOfTheConnection(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := &peer{t: t, fr: frames.NewFramer(&b, nil)}
	p.hp = hpack.NewEncoder(&p.hpb)
	p.fr.WriteSettings()
	p.headers(1, false, ":status=200")
	p.fr.WriteData(1, true, bytes.Repeat([]byte("a"), 10_000))
	a, other := net.Pipe()
	defer other.Close()
	go io.Copy(io.Discard, other)
	c := NewClient(&endsWith{Conn: a, last: b.Bytes()}, Config{})
	if !c.Reserve() {
		t.Fatal("no place")
	}
	s, _, err := c.Open(request("GET", "/", 0), "https", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { c.Run(); close(done) }()
	if head, body := answer(t, s); head.Status != 200 || len(body) != 10_000 {
		t.Errorf("answer %d with %d bytes", head.Status, len(body))
	}
	<-done
}

// TestRequestsThatCameAfterGoAway are ignored to their end, trailers too; those before
// are answered.
func TestRequestsThatCameAfterGoAway(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	p, c := client(t, Config{}, func(s *Stream) { <-held; hello(s) })
	t.Cleanup(release)
	p.headers(1, true, get...)
	p.sync()
	c.GoAway()
	p.hear("GOAWAY 2147483647 NO_ERROR")
	p.hear("PING 0")
	p.fr.WritePing(true, drainPing)
	p.hear("GOAWAY 1 NO_ERROR")
	p.headers(3, false, get...)
	p.fr.WriteData(3, false, []byte("x"))
	p.headers(3, true, "x-sum=1")
	p.sync()
	release()
	p.hear("HEADERS 1")
	p.hear("DATA 1 hello END")
}

// TestGoAwayNeverSaysMore: what a connection was not told to have been looked at, it is
// not told later, when an error ends it.
func TestGoAwayNeverSaysMore(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	p, c := client(t, Config{}, func(s *Stream) { <-held; hello(s) })
	t.Cleanup(func() { close(held) })
	p.headers(1, true, get...)
	p.sync()
	c.GoAway()
	p.hear("PING 0")
	p.fr.WritePing(true, drainPing)
	p.hear("GOAWAY 1 NO_ERROR")
	p.headers(3, true, get...)
	p.fr.WriteRSTStream(5, frames.ErrCodeCancel)
	p.hear("GOAWAY 1 PROTOCOL_ERROR")
}
