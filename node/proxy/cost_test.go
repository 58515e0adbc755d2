//go:build !race

// The race detector allocates, and makes stacks larger.

package proxy

import (
	"net"
	"net/netip"
	"runtime"
	"strings"
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

// TestDirectorsCostNoMemory: nor do a route that changes the request, directors one in the
// other, a limit of the whole time, the time that p2c wants, retries with their budget, and a session cookie.
func TestDirectorsCostNoMemory(t *testing.T) {
	ln := benchOrigin(t, answerOf(1<<10))
	for _, kind := range []string{"round_robin", "random", "least_connections", "p2c", "fallback", "hash", "shard"} {
		r := newRig(t, Config{}, definitions{
			"secret":            strings.Repeat("0123456789abcdef", 2),
			"backends/a":        `{"host": "` + ln.Addr().String() + `"}`,
			"directors/default": `{"type": "` + kind + `", "backends": ["inner"], "cookie": {}, "outlier": {}}`,
			"directors/inner":   `{"type": "` + kind + `", "backends": ["a"]}`,
			"routes/all": `{"match": {"host": "www.example.com", "path": "/path/*"}, "backend": "default", "retries": 3, "timeout": "30s", "strip_prefix": "/path",
				"rewrite_host": "x", "request_headers": {"set": {"X-A": "1"}}, "response_headers": {"add": {"X-B": "2"}}}`,
		})
		c, request := newBenchClient(t, r.addr), []byte(browserGet)
		do := func() {
			if err := c.do(request, 1<<10); err != nil {
				t.Fatal(err)
			}
		}
		do()
		if n := testing.AllocsPerRun(500, do); n > 0 {
			t.Errorf("%s: %v allocations per request", kind, n)
		}
		if got := r.told(); got.good < 501 || got.bad+got.unknown > 0 {
			t.Errorf("%s: told %+v", kind, got)
		}
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
	// A loop lets them keep what a request needs for a moment.
	eventually(t, func() bool {
		each := (int64(held()) - int64(before)) / n
		t.Logf("%d bytes per idle connection, want at most 6 KiB", each)
		return each <= 6<<10
	})
	for _, c := range conns {
		c.Close()
	}
}
