package pool

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roster/store"
)

// A deadline that moves on with every message fires when the newest says so,
// not before, and is not set anew each time.
func TestArmedDeadlinesAreTheNewest(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		counting := &countingConn{}
		n.set("10.0.0.1:80", func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			counting.Conn = here
			n.ends = append(n.ends, there)
			return counting, nil
		})
		c := get(t, p)
		b := make([]byte, 1)
		fires := func(f func() error, after time.Duration) {
			t.Helper()
			start := time.Now()
			if err := f(); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != after {
				t.Errorf("%v after %v, want a timeout after %v", err, time.Since(start), after)
			}
		}
		read := func() error { _, err := c.Read(b); return err }
		write := func() error { _, err := c.Write(b); return err }

		for range 100 { // a minute of traffic
			c.ArmRead(60 * time.Second)
			c.ArmWrite(60 * time.Second)
			time.Sleep(600 * time.Millisecond)
		}
		if counting.sets != 2 {
			t.Errorf("deadlines were set %d times, want once each way", counting.sets)
		}
		fires(read, 59400*time.Millisecond)
		c.ArmWrite(time.Minute)
		fires(write, time.Minute)
		c.ArmRead(time.Hour)
		c.ArmRead(time.Second) // shorter than before
		fires(read, time.Second)

		// No limit: only the other end's word ends it.
		c.ArmRead(time.Second)
		c.ArmRead(0)
		go func() {
			time.Sleep(time.Minute)
			n.ends[0].Write([]byte("x"))
		}()
		if _, err := c.Read(b); err != nil {
			t.Errorf("Read without a limit = %v", err)
		}

		// Past Conn's own methods.
		c.ArmWrite(time.Hour)
		c.ArmRead(time.Second)
		time.Sleep(500 * time.Millisecond)
		c.ArmRead(time.Second)
		_, err := c.Conn.Read(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.ReadExpired(err) {
			t.Errorf("early: %v, ReadExpired", err)
		}
		_, err = c.Conn.Read(b)
		if !errors.Is(err, os.ErrDeadlineExceeded) || !c.ReadExpired(err) {
			t.Errorf("in time: %v, not ReadExpired", err)
		}
		if c.ReadExpired(io.EOF) {
			t.Error("EOF is no timeout")
		}
		// The other direction belongs to another goroutine, and has its own time.
		c.ArmWrite(time.Second)
		time.Sleep(500 * time.Millisecond)
		c.ArmWrite(time.Minute)
		c.SetReadDeadline(time.Time{})
		c.ArmRead(time.Second)
		_, err = c.Conn.Read(b)
		sets := counting.sets
		if !c.ReadExpired(err) || counting.sets != sets {
			t.Errorf("%v, with a write deadline that is over but not wanted: not ReadExpired", err)
		}

		// The next owner starts without.
		c.ArmRead(time.Second)
		c.Put()
		c = get(t, p)
		go func() {
			time.Sleep(time.Minute)
			n.ends[0].Write([]byte("x"))
		}()
		if _, err := c.Read(b); err != nil {
			t.Errorf("the next owner's Read = %v", err)
		}
		c.SetDeadline(time.Now().Add(time.Second))
		fires(read, time.Second)
		c.SetReadDeadline(time.Now().Add(time.Second))
		fires(read, time.Second)
		c.SetWriteDeadline(time.Now().Add(time.Second))
		fires(write, time.Second)
		c.Discard()
	})
}

// The write deadline of an earlier message never ends a later one's TLS, which
// would not survive it.
func TestArmedWritesOverTLS(t *testing.T) {
	ca := newCA(t)
	config := &tls.Config{Certificates: []tls.Certificate{pair(t, ca.issue(t, "10.0.0.1"))}}
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, TLS: &store.TLS{InsecureSkipVerify: true}})
		defer p.Release()
		stalled := make(chan struct{})
		n.set("10.0.0.1:80", func(context.Context) (net.Conn, error) {
			here, there := net.Pipe()
			n.ends = append(n.ends, there)
			go func() {
				s := tls.Server(there, config)
				for b := make([]byte, 9); ; {
					k, err := s.Read(b)
					if err != nil {
						return
					}
					if string(b[:k]) == "stall" {
						close(stalled)
						return
					}
					s.Write(b[:k])
				}
			}()
			return here, nil
		})
		c := get(t, p)
		b := make([]byte, 9)
		again := func(after time.Duration) {
			t.Helper()
			time.Sleep(after)
			c.ArmRead(5 * time.Minute)
			c.ArmWrite(time.Minute)
			if k, err := c.RoundTrip([]byte("he"), []byte("llo"), b); k != 5 || err != nil {
				t.Fatalf("RoundTrip = %d, %v", k, err)
			}
		}
		again(0)
		c.Put()
		time.Sleep(90 * time.Second) // idle for longer than a write may take
		if c = get(t, p); !c.Reused() {
			t.Fatal("not reused")
		}
		again(0)
		for range 10 { // a long upload
			again(45 * time.Second)
		}
		c.ArmWrite(0)
		time.Sleep(90 * time.Second)
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Errorf("Write without a limit = %v", err)
		}
		c.Read(b)

		// What times out is not followed by a wait for an answer.
		if _, err := c.Write([]byte("stall")); err != nil {
			t.Fatal(err)
		}
		<-stalled
		c.ArmRead(5 * time.Minute)
		c.ArmWrite(time.Minute)
		start := time.Now()
		_, err := c.RoundTrip([]byte("hello"), nil, b)
		if d := time.Since(start); !errors.Is(err, os.ErrDeadlineExceeded) || d != time.Minute {
			t.Errorf("RoundTrip = %v after %v, want a timeout after 1m", err, d)
		}
		c.Discard()
	})
}

type countingConn struct {
	net.Conn
	sets int
}

func (c *countingConn) SetReadDeadline(t time.Time) error {
	c.sets++
	return c.Conn.SetReadDeadline(t)
}

func (c *countingConn) SetWriteDeadline(t time.Time) error {
	c.sets++
	return c.Conn.SetWriteDeadline(t)
}

// opened - closed == active + idle at all times, zero after the last release,
// whoever acquires, releases, gets, puts and discards meanwhile.
func TestCountsHoldUnderStress(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var origins sync.WaitGroup
	defer origins.Wait()
	origins.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			origins.Go(func() { // closes after a few requests, as servers do
				defer c.Close()
				b := make([]byte, 1)
				for range 1 + rand.IntN(20) {
					if _, err := io.ReadFull(c, b); err != nil {
						return
					}
					c.Write(b)
				}
			})
		}
	})
	addr := l.Addr().(*net.TCPAddr)
	m := manager(t, Config{})
	def := func(i int) *store.Backend {
		return &store.Backend{Host: "127.0.0.1", Port: uint16(addr.Port), Protocol: store.HTTP1,
			IdleTimeout: time.Duration(1+i%3) * time.Millisecond, NoReuse: i%7 == 0, Pool: fmt.Sprint(i % 2)}
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	var pools []*Pool
	for i := range 8 {
		all.Go(func() {
			p, err := m.Acquire(def(i), Deps{})
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 300 {
				c, err := p.Get(context.Background(), Request{Unchecked: j%2 == 0, Fresh: j%31 == 0})
				if err != nil {
					t.Error(err)
					return
				}
				c.ArmRead(10 * time.Second)
				b := []byte{byte(j)}
				_, err = c.RoundTrip(b, nil, b)
				switch {
				case err != nil && !c.Reused():
					// The origin may have closed it at once, too.
					c.Discard()
				case err != nil || j%13 == 0:
					c.Discard()
				default:
					if b[0] != byte(j) {
						t.Errorf("answer %d to request %d: connections are mixed up", b[0], byte(j))
					}
					c.Put()
				}
				s := p.Stats()
				if int(s.Opened-s.Closed) != s.Active+s.Idle {
					t.Errorf("counts differ: %+v", s)
				}
				if j%50 == 49 {
					q := p
					if p, err = m.Acquire(def(i+j), Deps{}); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					pools = append(pools, q)
					mu.Unlock()
					q.Release()
				}
			}
			mu.Lock()
			pools = append(pools, p)
			mu.Unlock()
			p.Release()
		})
	}
	all.Wait()
	for _, p := range pools {
		if s := p.Stats(); s.Active != 0 || s.Idle != 0 || s.Opened != s.Closed {
			t.Errorf("after the last release: %+v", s)
		}
	}
	if m.Pools() != 0 {
		t.Errorf("pools left: %d", m.Pools())
	}
	l.Close()
}

// 10,000 definitions come and go, and take nothing with them. Not parallel: it
// counts the process's descriptors.
func TestNothingLeaksOverManyUpdates(t *testing.T) {
	before := descriptors(t)
	l, err := net.Listen("unix", "@roster-pool-leak-"+fmt.Sprint(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { io.Copy(io.Discard, c); c.Close() })
		}
	})
	m := New(Config{Logger: silent})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()
	current := make([]*Pool, 100)
	for i := range 10000 {
		def := &store.Backend{Path: l.Addr().String(), Protocol: store.HTTP1, Pool: fmt.Sprint(i), IdleTimeout: time.Minute}
		p, err := m.Acquire(def, Deps{})
		if err != nil {
			t.Fatal(err)
		}
		if i%10 == 0 {
			c, err := p.Get(t.Context(), Request{})
			if err != nil {
				t.Fatal(err)
			}
			c.Put()
		}
		if old := current[i%100]; old != nil {
			old.Release()
		}
		current[i%100] = p
	}
	for _, p := range current {
		p.Release()
	}
	cancel()
	<-ended
	l.Close()
	served.Wait()
	if after := descriptors(t); after > before {
		t.Errorf("descriptors: %d before, %d after", before, after)
	}
	if m.Pools() != 0 {
		t.Errorf("pools left: %d", m.Pools())
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		lack(t, "no /proc/self/fd here")
	}
	return len(all)
}

func TestManagerOutlivesItsUsersInAnyOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		m := New(Config{Dial: n.dial, Resolver: &zone{}, Logger: silent})
		// Without Run: numeric addresses work.
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: time.Second})
		get(t, p).Put()
		if c := get(t, p); !c.Reused() {
			t.Error("not reused")
		} else {
			c.Put()
		}
		p.Release()
		if s := p.Stats(); s.Opened != s.Closed {
			t.Errorf("Stats = %+v", s)
		}
	})
}
