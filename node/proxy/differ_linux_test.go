package proxy

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"roster/node/loop"
	"roster/pool"
)

// address is what is another for a pipe than for a socket.
var address = regexp.MustCompile(`(?m)^X-Forwarded-For: .*\r\n|for=[^;]*`)

// TestDriversDoNotDiffer sends the same bytes through goroutines and through loops, whose
// reads and writes are cut at random: both ends see the same.
func TestDriversDoNotDiffer(t *testing.T) {
	t.Parallel()
	for i, s := range recorded {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			differ(t, []byte(s), uint64(i))
		})
	}
	// Of pipelines, whichever follows whichever.
	random := rand.New(rand.NewPCG(7, 7))
	for i := range 20 {
		var s string
		for range 2 + random.IntN(4) {
			s += recorded[random.IntN(len(recorded))]
		}
		t.Run(fmt.Sprintf("pipeline %d", i), func(t *testing.T) {
			differ(t, []byte(s), uint64(i))
		})
	}
}

// FuzzDrivers is TestDriversDoNotDiffer for any bytes. As goroutines see no difference
// between cuts (FuzzCuts), loops that do as they do see none.
func FuzzDrivers(f *testing.F) {
	for i, s := range recorded {
		f.Add([]byte(s), uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		if len(data) > 4<<10 || bytes.Contains(data, []byte("PRI * HTTP/2.0")) {
			return // HTTP/2 is no loop's
		}
		differ(t, data, seed)
	})
}

// differ compares what both ends see with goroutines and with loops. What the goroutines
// end by a timeout the loops end by one that is short; a machine that is slow may then cut
// off what was still to be sent, so that only what a longer one does not mend is a
// difference.
func differ(t *testing.T, data []byte, seed uint64) {
	want := play(t, data, rand.New(rand.NewPCG(0, 0)), false)
	want.origin = address.ReplaceAllString(want.origin, "")
	if n := bytes.Count(data, []byte("HTTP/1.")); want.requests > n {
		t.Errorf("%d requests at the origin, of at most %d", want.requests, n)
	}
	var got script
	for _, patience := range []time.Duration{100 * time.Millisecond, time.Second, 8 * time.Second} {
		got = playLoops(t, patience, data, seed, want.client)
		if got == want {
			return
		}
	}
	if got.client != want.client {
		t.Errorf("the client got\n%q with loops,\n%q with goroutines", got.client, want.client)
	}
	if got.origin != want.origin {
		t.Errorf("the origin got\n%q with loops,\n%q with goroutines", got.origin, want.origin)
	}
}

// playLoops is play with loops. Client and origin write in pieces, which are what the loops
// read, and the loops do.
func playLoops(t *testing.T, patience time.Duration, data []byte, seed uint64, want string) script {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(2, seed))
	c := Config{HeadTimeout: patience, BodyTimeout: patience}
	c.faults = func(op loop.Op, _, n int) (int, syscall.Errno) {
		mu.Lock()
		defer mu.Unlock()
		if op == loop.OpWrite && n > 0 {
			n = 1 + random.IntN(min(n, 1+random.IntN(60)))
		}
		return n, 0
	}
	o := newOrigin(t)
	r := newRigWith(t, 2, pool.Config{}, c, definitions{"backends/a": o.backend(`"host_header": "origin.test"`)})

	var seen []string
	var origins sync.WaitGroup
	origins.Go(func() {
		for {
			conn, err := o.ln.Accept()
			if err != nil {
				return
			}
			origins.Go(func() {
				defer conn.Close()
				originOf(conn, func(r string) {
					mu.Lock()
					seen = append(seen, r)
					mu.Unlock()
				}, true)
			})
		}
	})

	client, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	client.SetDeadline(time.Now().Add(patience + 10*time.Second))
	var sending sync.WaitGroup
	sending.Go(func() {
		cuts := rand.New(rand.NewPCG(3, seed))
		for rest := data; len(rest) > 0; runtime.Gosched() {
			n := 1 + cuts.IntN(min(len(rest), 1+cuts.IntN(60)))
			if _, err := client.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	})
	var got []byte
	normal := func() string { return answers(changing.ReplaceAllString(string(got), "")) }
	buf := make([]byte, 4<<10)
	for ended := false; err == nil; {
		if !ended && normal() == want {
			ended = true // nobody has to wait for the idle timeout
			sending.Wait()
			client.(*net.TCPConn).CloseWrite()
		}
		var n int
		n, err = client.Read(buf)
		got = append(got, buf[:n]...)
	}
	client.Close()
	sending.Wait()
	backends := r.poolOf("a")
	eventually(t, func() bool { return r.Stats().Connections == 0 && backends.Stats().Active == 0 })
	backends.Drain(true)
	eventually(t, func() bool { s := backends.Stats(); return s.Opened == s.Closed && s.Idle == 0 })
	// Whoever connects last is accepted last, and all before it.
	last, err := net.Dial("tcp", o.addr())
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(last, "GET /last HTTP/1.1\r\nHost: h\r\n\r\n")
	io.CopyN(io.Discard, last, 1)
	last.Close()
	o.ln.Close()
	origins.Wait()
	s := script{client: normal()}
	for _, r := range seen {
		if !strings.HasPrefix(r, "GET /last ") {
			s.origin += "\n" + r
			s.requests++
		}
	}
	s.origin = address.ReplaceAllString(strings.TrimPrefix(s.origin, "\n"), "")
	return s
}
