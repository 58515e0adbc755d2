package harness

import (
	"io"
	"net"
	"sync"
	"testing"
)

// A Link is a TCP relay to one address that the test can cut: the network between a
// node and etcd, say.
type Link struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// StartLink starts a relay to target. It is closed with the test.
func StartLink(t testing.TB, target string) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &Link{listener: l, target: target, conns: map[net.Conn]bool{}}
	k.wg.Add(1)
	go k.accept()
	t.Cleanup(func() {
		l.Close()
		k.Cut()
		k.wg.Wait()
	})
	return k
}

// Address is where the relay listens.
func (k *Link) Address() string { return k.listener.Addr().String() }

// Cut closes all connections and from then on every new one at once.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = true
	for c := range k.conns {
		c.Close()
	}
}

// Mend ends a Cut.
func (k *Link) Mend() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = false
}

func (k *Link) accept() {
	defer k.wg.Done()
	for {
		c, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.wg.Add(1)
		go k.relay(c)
	}
}

func (k *Link) relay(a net.Conn) {
	defer k.wg.Done()
	defer a.Close()
	if !k.add(a) {
		return
	}
	defer k.remove(a)
	b, err := net.Dial("tcp", k.target)
	if err != nil {
		return
	}
	defer b.Close()
	if !k.add(b) {
		return
	}
	defer k.remove(b)
	k.wg.Add(1)
	go func() {
		defer k.wg.Done()
		io.Copy(b, a)
		b.Close()
		a.Close()
	}()
	io.Copy(a, b)
}

func (k *Link) add(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut {
		return false
	}
	k.conns[c] = true
	return true
}

func (k *Link) remove(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, c)
}
