//go:build unix

package prober

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"roster/pool"
	"roster/store"
)

// canned is a connection to a backend that answers well and closes. It costs next
// to nothing, so that what is measured is the prober.
type canned struct {
	net.Conn
	read bool
}

var cannedBytes = []byte(okay)

func (c *canned) Write(b []byte) (int, error) { return len(b), nil }
func (c *canned) RemoteAddr() net.Addr        { return cannedAddr }
func (c *canned) Close() error                { return nil }
func (c *canned) Read(b []byte) (int, error) {
	if c.read {
		return 0, io.EOF
	}
	c.read = true
	return copy(b, cannedBytes), nil
}

// cpu is what the process has used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heapInUse() uint64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// BenchmarkPace probes n distinct checks at 5 s against backends that answer at
// once, some of them black holes, for 20 s: what a prober takes, and how late
// probes are. Definitions and pools, which backends have anyway, are not counted.
func BenchmarkPace(b *testing.B) {
	for _, row := range []struct{ checks, holes int }{{1000, 0}, {100_000, 0}, {100_000, 1000}, {100_000, 10_000}} {
		b.Run(fmt.Sprintf("checks=%d/holes=%d", row.checks, row.holes), func(b *testing.B) {
			for b.Loop() {
				pace(b, row.checks, row.holes)
			}
		})
	}
}

func pace(b *testing.B, checks, holes int) {
	pools := pool.New(pool.Config{Logger: silent, Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		if address[:3] == "11." {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return &canned{}, nil
	}})
	probe := probeOf(b, `{}`)
	defs := make([]*store.Backend, checks)
	for i := range defs {
		net := 10
		if i < holes {
			net = 11
		}
		host := fmt.Sprintf("%d.%d.%d.%d", net, i>>16, i>>8&255, i&255)
		defs[i] = &store.Backend{Host: host, Port: 80, HostHeader: host, Protocol: store.HTTP1}
		p, err := pools.Acquire(defs[i], pool.Deps{})
		if err != nil {
			b.Fatal(err)
		}
		defer p.Release()
	}
	before := heapInUse()
	m := New(Config{Pools: pools, Node: "n", Logger: silent, Concurrency: 16384})
	refs := make([]*Ref, checks)
	started := time.Now()
	for i, def := range defs {
		refs[i] = m.mustAcquire(b, CheckOf(def, probe, pool.Deps{}), Use{Judge: JudgeOf(probe)})
	}
	acquired := time.Since(started)
	ctx, cancel := context.WithCancel(b.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	started = time.Now()
	m.Answered(ctx)
	answered := time.Since(started)
	time.Sleep(6 * time.Second)
	after := heapInUse()

	m.mu.Lock()
	m.stats.Lateness = Lateness{}
	m.mu.Unlock()
	was, busy := m.Stats(), cpu()
	time.Sleep(20 * time.Second)
	s := m.Stats()
	busy = cpu() - busy
	started = time.Now()
	m.List()
	listed := time.Since(started)

	b.ReportMetric(float64(acquired.Nanoseconds())/float64(checks), "ns/acquire")
	b.ReportMetric(answered.Seconds(), "s/first-round")
	b.ReportMetric(float64(after-before)/float64(checks), "B/prober")
	b.ReportMetric(float64(s.Started-was.Started)/20, "probes/s")
	b.ReportMetric(float64(busy.Microseconds())/float64(s.Started-was.Started), "us-cpu/probe")
	b.ReportMetric(100*busy.Seconds()/20, "%cpu")
	b.ReportMetric(float64(s.Lateness.Quantile(0.5).Microseconds()), "us-late-p50")
	b.ReportMetric(float64(s.Lateness.Quantile(0.99).Microseconds()), "us-late-p99")
	b.ReportMetric(float64(s.Lateness.Max.Microseconds()), "us-late-max")
	b.ReportMetric(float64(listed.Milliseconds()), "ms/List")

	cancel()
	<-ended
	for _, r := range refs {
		r.Release()
	}
}

// BenchmarkHealthy is what choosing a backend costs of it.
func BenchmarkHealthy(b *testing.B) {
	m := New(Config{Pools: pool.New(pool.Config{})})
	r := m.mustAcquire(b, check(b, "10.0.0.7", `{}`), Use{Judge: judge})
	defer r.Release()
	for b.Loop() {
		r.Healthy()
	}
}
