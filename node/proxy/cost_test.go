//go:build !race

// The race detector allocates, and makes stacks larger.

package proxy

import (
	"net"
	"net/netip"
	"runtime"
	"testing"

	"roster/http1"
	"roster/message"
	"roster/node/table"
)

// TestNoAllocations: a plain request through the proxy, on warm connections,
// allocates no more than asking the table does.
func TestNoAllocations(t *testing.T) {
	ln := benchOrigin(t, answerOf(1<<10))
	r := newRig(t, Config{}, definitions{"backends/a": `{"host": "` + ln.Addr().String() + `"}`})
	c, request := newBenchClient(t, r.addr), []byte(browserGet)
	var head message.Request
	var parser http1.Parser
	if _, err := parser.Request(request, &head); err != nil {
		t.Fatal(err)
	}
	current := r.applier.Current()
	var ask table.Ask
	asking := testing.AllocsPerRun(500, func() {
		ask.Begin(&head, netip.Addr{}, 0)
		current.Match(&ask)
	})
	got := testing.AllocsPerRun(500, func() {
		if err := c.do(request, 1<<10); err != nil {
			t.Fatal(err)
		}
	})
	if got > asking {
		t.Errorf("%v allocations per request, %v of them in the table", got, asking)
	}
}

// TestIdleConnectionsAreSmall: what the process holds for a connection after its
// first request, this test's own end included.
func TestIdleConnectionsAreSmall(t *testing.T) {
	const n = 500
	ln := benchOrigin(t, answerOf(1<<10))
	r := newRig(t, Config{}, definitions{"backends/a": `{"host": "` + ln.Addr().String() + `"}`})
	buf, request := make([]byte, 64<<10), []byte(browserGet)
	held := func() uint64 {
		var m runtime.MemStats
		for range 3 { // the pools' second chance, and stacks shrink
			runtime.GC()
		}
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	open := func() net.Conn {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		c := benchClient{conn: conn, buf: buf}
		if err := c.do(request, 1<<10); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conns := make([]net.Conn, 0, n+1)
	conns = append(conns, open())
	before := held()
	for range n {
		conns = append(conns, open())
	}
	each := (int64(held()) - int64(before)) / n
	t.Logf("%d bytes per idle connection", each)
	if each > 6<<10 {
		t.Errorf("%d bytes per idle connection, want at most 6 KiB", each)
	}
	for _, c := range conns {
		c.Close()
	}
}
