package pool

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"roster/store"
)

// answering starts an origin that answers 1 KiB to each read.
func answering(tb testing.TB) *net.TCPAddr {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				b, answer := make([]byte, 4096), []byte(strings.Repeat("x", 1024))
				for {
					if _, err := c.Read(b); err != nil {
						return
					}
					c.Write(answer)
				}
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func benchPool(b *testing.B) *Pool {
	addr := answering(b)
	m := New(Config{})
	p, err := m.Acquire(&store.Backend{Host: "127.0.0.1", Port: uint16(addr.Port), Protocol: store.HTTP1, IdleTimeout: time.Minute}, Deps{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Release)
	return p
}

func mustGet(b *testing.B, p *Pool, r Request) *Conn {
	c, err := p.Get(context.Background(), r)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func BenchmarkGetPut(b *testing.B) {
	for _, unchecked := range []bool{false, true} {
		r := Request{ConnectTimeout: 3500 * time.Millisecond, Unchecked: unchecked}
		b.Run(fmt.Sprintf("unchecked=%v", unchecked), func(b *testing.B) {
			p := benchPool(b)
			mustGet(b, p, r).Put()
			b.ReportAllocs()
			for b.Loop() {
				mustGet(b, p, r).Put()
			}
		})
		b.Run(fmt.Sprintf("parallel/unchecked=%v", unchecked), func(b *testing.B) {
			p := benchPool(b)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c, err := p.Get(context.Background(), r)
					if err != nil {
						b.Error(err)
						return
					}
					c.Put()
				}
			})
		})
	}
}

// One request as the driver makes it: RoundTrip against a write and a read.
func BenchmarkRequest(b *testing.B) {
	head := []byte(strings.Repeat("h", 300))
	for _, way := range []string{"RoundTrip", "WriteRead", "WriteReadUnsafe"} {
		b.Run("way="+way, func(b *testing.B) {
			p := benchPool(b)
			buf := make([]byte, 16<<10)
			r := Request{Unchecked: way != "WriteRead"}
			mustGet(b, p, r).Put()
			b.ReportAllocs()
			for b.Loop() {
				c := mustGet(b, p, r)
				c.ArmRead(time.Minute)
				var n int
				var err error
				if way == "RoundTrip" {
					n, err = c.RoundTrip(head, nil, buf)
				} else {
					c.Write(head)
					n, err = c.Read(buf)
				}
				if n != 1024 || err != nil {
					b.Fatal(n, err)
				}
				c.Put()
			}
		})
	}
}

func BenchmarkDial(b *testing.B) {
	p := benchPool(b)
	b.ReportAllocs()
	for b.Loop() {
		c := mustGet(b, p, Request{ConnectTimeout: 3500 * time.Millisecond})
		c.TCP().SetLinger(0) // or the ports run out
		c.Discard()
	}
}

func BenchmarkArmRead(b *testing.B) {
	p := benchPool(b)
	c := mustGet(b, p, Request{})
	defer c.Discard()
	b.Run("way=ArmRead", func(b *testing.B) {
		for b.Loop() {
			c.ArmRead(time.Minute)
		}
	})
	b.Run("way=SetReadDeadline", func(b *testing.B) {
		for b.Loop() {
			c.SetReadDeadline(time.Now().Add(time.Minute))
		}
	})
}

func BenchmarkAcquireRelease(b *testing.B) {
	m := New(Config{})
	def := &store.Backend{Host: "10.0.0.1", Port: 8080, Protocol: store.HTTP1}
	b.ReportAllocs()
	for b.Loop() {
		p, err := m.Acquire(def, Deps{})
		if err != nil {
			b.Fatal(err)
		}
		p.Release()
	}
}

// The reuse of a connection allocates nothing, and neither does a request over it.
func TestReuseAllocatesNothing(t *testing.T) {
	addr := answering(t)
	m := New(Config{})
	p, err := m.Acquire(&store.Backend{Host: "127.0.0.1", Port: uint16(addr.Port), Protocol: store.HTTP1, IdleTimeout: time.Minute}, Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	head, buf := []byte("GET"), make([]byte, 4096)
	request := func(unchecked bool) {
		c, err := p.Get(context.Background(), Request{ConnectTimeout: time.Second, Unchecked: unchecked})
		if err != nil {
			t.Fatal(err)
		}
		c.ArmRead(time.Minute)
		c.ArmWrite(time.Minute)
		if _, err := c.RoundTrip(head, nil, buf); err != nil {
			t.Fatal(err)
		}
		c.Put()
	}
	for _, unchecked := range []bool{false, true} {
		request(unchecked)
		if n := testing.AllocsPerRun(100, func() { request(unchecked) }); n != 0 {
			t.Errorf("unchecked %v: %v allocations a request", unchecked, n)
		}
	}
}

// A backend that nobody asked anything costs little: there may be 100,000.
func TestPoolAtRestIsSmall(t *testing.T) {
	const n = 100_000
	defs := make([]store.Backend, n)
	for i := range defs {
		defs[i] = store.Backend{Host: fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), Port: 8080, Protocol: store.HTTP1, IdleTimeout: time.Minute}
	}
	m := New(Config{})
	pools := make([]*Pool, n)
	before := heapBytes()
	for i := range defs {
		var err error
		if pools[i], err = m.Acquire(&defs[i], Deps{}); err != nil {
			t.Fatal(err)
		}
	}
	each := float64(heapBytes()-before) / n
	t.Logf("%.0f bytes each", each)
	if each > 300 {
		t.Errorf("%.0f bytes each, want at most 300", each)
	}
	for _, p := range pools {
		p.Release()
	}
	runtime.KeepAlive(defs)
}

func heapBytes() uint64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}
