package proxy

import (
	"context"
	"net"
	"testing"
	"time"
)

// TestDrainWithPatience: a connection without a request has one more answered, which says
// that it is the last; a listener is closed at once.
func TestDrainWithPatience(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	idle := r.dial()
	idle.send(get)
	idle.head()
	idle.take(5)
	done := make(chan error)
	go func() { done <- r.DrainAfter(context.Background(), time.Hour) }()
	eventually(t, func() bool {
		conn, err := net.Dial("tcp", r.addr)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	idle.send(get)
	contains(t, "last answer", idle.rest(), " 200 ", "\r\nConnection: close\r\n", "hello")
	if err := <-done; err != nil {
		t.Errorf("DrainAfter: %v", err)
	}
}

// TestDrainPatienceEnds: one that sends nothing is closed.
func TestDrainPatienceEnds(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	idle := r.dial()
	idle.send(get)
	idle.head()
	idle.take(5)
	done := make(chan error)
	began := time.Now()
	const patience = 100 * time.Millisecond
	go func() { done <- r.DrainAfter(context.Background(), patience) }()
	expect(t, "idle connection", idle.rest(), "")
	if took := time.Since(began); took < patience {
		t.Errorf("closed after %v, want at least %v", took, patience)
	}
	if err := <-done; err != nil {
		t.Errorf("DrainAfter: %v", err)
	}
}

// TestDrainWithoutTimeCutsNobody: that it would have listened for longer is no error.
func TestDrainWithoutTimeCutsNobody(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	contains(t, "answer", r.exchange(last), " 200 ")
	eventually(t, func() bool { return r.Stats().Connections == 0 })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Drain(ctx); err != nil {
		t.Errorf("Drain: %v", err)
	}
}

// TestSocketsOfOneListener: all are accepted from, count as one, and are drained.
func TestSocketsOfOneListener(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	var sockets []net.Listener
	for range 3 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, ln)
	}
	done := make(chan error)
	go func() {
		done <- r.Serve(context.Background(), Listener{Listener: sockets[0], Others: sockets[1:], MaxConnections: 1})
	}()
	for _, ln := range sockets {
		c := dial(t, ln.Addr().String())
		c.send(get)
		contains(t, "answer", c.head(), " 200 ")
		c.Close() // or the next would wait
	}
	if err := r.Drain(context.Background()); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	for _, ln := range sockets {
		if conn, err := net.Dial("tcp", ln.Addr().String()); err == nil {
			conn.Close()
			t.Errorf("%v still accepts", ln.Addr())
		}
	}

	// If one fails for good, so do all.
	r, _ = one(t)
	sockets = nil
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		sockets = append(sockets, ln)
	}
	go func() {
		done <- r.Serve(context.Background(), Listener{Listener: sockets[0], Others: sockets[1:]})
	}()
	sockets[1].Close()
	if err := <-done; err == nil {
		t.Error("no error of a socket that was closed")
	}
}
