package harness

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// An Origin is an HTTP server that a backend points to. It answers every request with
// 200, its name as the body and in the field X-Origin, and remembers what it was asked.
// A request whose path begins with /hold waits until Release; one with the field
// X-Checked is of a Checker, and answered as that wants it.
type Origin struct {
	t       testing.TB
	Name    string
	address string

	requests atomic.Int64
	held     atomic.Int64

	mu      sync.Mutex
	server  *http.Server
	served  chan struct{}
	conns   map[net.Conn]bool
	opened  int
	release chan struct{}
	last    *http.Request
}

// StartOrigin starts an origin on a free port. It is ended with the test.
func StartOrigin(t testing.TB, name string) *Origin {
	t.Helper()
	return StartOriginAt(t, "127.0.0.1", name)
}

// StartOriginAt is StartOrigin at another address of this machine.
func StartOriginAt(t testing.TB, host, name string) *Origin {
	t.Helper()
	o := &Origin{t: t, Name: name, address: net.JoinHostPort(host, strconv.Itoa(FreePort(t))), conns: map[net.Conn]bool{}, release: make(chan struct{})}
	o.Start()
	t.Cleanup(func() {
		o.Release()
		o.Stop()
	})
	return o
}

// Start starts the origin again after Stop, at the same address.
func (o *Origin) Start() {
	o.t.Helper()
	l := listen(o.t, "tcp", o.address)
	s := &http.Server{Handler: http.HandlerFunc(o.serve), ConnState: o.connState}
	served := make(chan struct{})
	o.mu.Lock()
	o.server, o.served = s, served
	o.mu.Unlock()
	go func() {
		defer close(served)
		s.Serve(l)
	}()
}

// Stop closes the listener and all connections. Twice is no harm.
func (o *Origin) Stop() {
	o.mu.Lock()
	s, served := o.server, o.served
	o.mu.Unlock()
	s.Close()
	<-served
}

func (o *Origin) serve(w http.ResponseWriter, r *http.Request) {
	o.requests.Add(1)
	o.mu.Lock()
	o.last = r.Clone(context.Background())
	release := o.release
	o.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/hold") {
		o.held.Add(1)
		select {
		case <-release:
		case <-r.Context().Done():
		}
		o.held.Add(-1)
	}
	w.Header().Set("X-Origin", o.Name)
	if r.Header.Get(checkedField) != "" {
		serveChecked(w, r)
		return
	}
	fmt.Fprintln(w, o.Name)
}

func (o *Origin) connState(c net.Conn, s http.ConnState) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch s {
	case http.StateNew:
		o.conns[c] = true
		o.opened++
	case http.StateClosed, http.StateHijacked:
		delete(o.conns, c)
	}
}

// Address is the origin's host and port.
func (o *Origin) Address() string { return o.address }

// Definition is a backend definition of this origin, as JSON. Each of more is a
// further field, such as `"comment": "x"`.
func (o *Origin) Definition(more ...string) string {
	host, port, _ := net.SplitHostPort(o.address)
	fields := append([]string{fmt.Sprintf(`"host": %q`, host), `"port": ` + port}, more...)
	return "{" + strings.Join(fields, ", ") + "}"
}

// Requests is how many requests have reached the origin.
func (o *Origin) Requests() int64 { return o.requests.Load() }

// Last is the newest request that reached the origin, without its body; nil before
// the first.
func (o *Origin) Last() *http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.last
}

// Connections are those open now, and how many were ever opened.
func (o *Origin) Connections() (open, opened int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.conns), o.opened
}

// WaitConnections waits until exactly n connections are open.
func (o *Origin) WaitConnections(n int) {
	o.t.Helper()
	Until(o.t, fmt.Sprintf("%d connections to %s", n, o.Name), func() (bool, any) {
		open, _ := o.Connections()
		return open == n, open
	})
}

// Held is how many requests below /hold are waiting now.
func (o *Origin) Held() int64 { return o.held.Load() }

// WaitHeld waits until exactly n requests below /hold are waiting.
func (o *Origin) WaitHeld(n int64) {
	o.t.Helper()
	Until(o.t, fmt.Sprintf("%d requests held by %s", n, o.Name), func() (bool, any) {
		return o.Held() == n, o.Held()
	})
}

// Release lets the requests that are held now go on; later ones are held again.
func (o *Origin) Release() {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.release)
	o.release = make(chan struct{})
}
