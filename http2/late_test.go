package http2

import (
	"io"
	"net"
	"runtime"
	"sync/atomic"
	"testing"

	"roster/message"
)

// lateConn is a connection on which writing a request takes until the answer has been
// received.
type lateConn struct {
	net.Conn
	c    *Conn
	late atomic.Bool // from now on
}

func (l *lateConn) Write(b []byte) (int, error) {
	n, err := l.Conn.Write(b)
	for l.late.Load() && l.c.Active() > 0 {
		runtime.Gosched()
	}
	return n, err
}

// On a session for one request, the answer may be here and the connection over before
// Open's goroutine goes on. The answer is good all the same.
func TestAnswerIsThereBeforeOpenReturns(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	serve(t, b, Config{}, func(s *Stream) {
		s.Send(response(200, 2), []byte("ok"), true, nil)
	})
	nc := &lateConn{Conn: a}
	nc.c = dial(t, nc, Config{})
	<-nc.c.Ready()
	if !nc.c.Reserve() {
		t.Fatal("no place")
	}
	nc.c.GoAway()
	for busy := true; busy; runtime.Gosched() { // with what begins a connection
		nc.c.mu.Lock()
		busy = nc.c.writing || nc.c.out != nil
		nc.c.mu.Unlock()
	}
	nc.late.Store(true)
	s, _, err := nc.c.Open(request("POST", "/", 0), "http", nil, true)
	if err != nil {
		t.Fatal(err)
	}
	var r message.Response
	if err := s.Head(&r); err != nil || r.Status != 200 {
		t.Fatalf("head: %d, %v", r.Status, err)
	}
	if body, err := io.ReadAll(s); string(body) != "ok" || err != nil {
		t.Errorf("body %q, %v", body, err)
	}
}
