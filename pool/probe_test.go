package pool

import (
	"context"
	"net"
	"testing"

	"roster/store"
)

// A prober's pool keeps no connection of others, and its probes none for them: when
// the last backend of an address is gone, so are its connections.
func TestPoolsForProbesKeepNothing(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := ln.Addr().(*net.TCPAddr).AddrPort()
	def := &store.Backend{Host: addr.Addr().String(), Port: addr.Port()}
	m := New(Config{})
	backend, err := m.Acquire(def, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	probes, err := m.ForProbes().Acquire(def, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := backend.Get(context.Background(), Request{})
	if err != nil {
		t.Fatal(err)
	}
	c.Put()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	probe, err := probes.DialProbe(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	probe.Put()
	if n := m.Pools(); n != 1 {
		t.Errorf("%d pools, want 1", n)
	}
	backend.Release()
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("a byte, want the end of the idle connection")
	}
	if n := m.Pools(); n != 0 {
		t.Errorf("%d pools after the backend's release, want none", n)
	}
	probes.Release()
	if _, err := m.ForProbes().Acquire(&store.Backend{None: true}, Deps{}); err == nil {
		t.Error("a pool without an address")
	}
}
