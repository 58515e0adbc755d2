package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"roster/node/loop"
	"roster/pool"
)

// loops is a rig that two loops serve.
func loops(t *testing.T, c Config, defs definitions) *rig {
	t.Helper()
	return newRigWith(t, 2, pool.Config{Logger: slog.New(slog.DiscardHandler)}, c, defs)
}

// TestTimesOfEndedRequests: what was set for a request's backend is of no consequence for
// the idle connection after it.
func TestTimesOfEndedRequests(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.serve(okay)
	r := loops(t, Config{}, definitions{"backends/a": o.backend(`"first_byte_timeout": "30ms"`)})
	c := r.dial()
	for range 3 {
		c.send(get)
		contains(t, "answer", c.head(), " 200 ")
		c.take(5)
		c.SetReadDeadline(time.Now().Add(80 * time.Millisecond))
		if _, err := c.r.ReadByte(); !isTimeout(err) {
			t.Fatalf("idle connection: %v", err)
		}
		c.SetReadDeadline(time.Now().Add(patience))
	}
}

// TestRequestTogetherWithEnd: a client whose stream ends in the same moment as its request
// comes is gone as any other.
func TestRequestTogetherWithEnd(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := loops(t, Config{}, definitions{"backends/a": o.backend(`"first_byte_timeout": "0s"`)})
	c := r.dial()
	c.send(get)
	c.Conn.(*net.TCPConn).CloseWrite()
	b := o.accept()
	b.head()
	expect(t, "backend", b.rest(), "")
	expect(t, "client", c.rest(), "")
}

// TestSilenceAfterContinue: a client that was told to go on, and does not, is waited for as
// long as any other.
func TestSilenceAfterContinue(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := loops(t, Config{BodyTimeout: 50 * time.Millisecond}, definitions{"backends/a": o.backend()})
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	b := o.accept()
	b.head()
	b.send("HTTP/1.1 100 Continue\r\n\r\n")
	contains(t, "interim answer", c.head(), " 100 ")
	contains(t, "answer", c.rest(), " 408 ")
}

// TestAnswerBeforeItsRequest: of an answer that came before the request was sent there is
// no second event.
func TestAnswerBeforeItsRequest(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := loops(t, Config{}, definitions{"backends/a": o.backend(`"first_byte_timeout": "0s"`, `"preamble": "aGVsbG8="`)})
	for range 20 {
		c := r.dial()
		c.send(get)
		b := o.accept()
		b.send("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		contains(t, "answer", c.head(), " 503 ")
		c.Close()
		b.Close()
	}
}

// A saboteur has system calls fail at random, and keeps the books of descriptors.
type saboteur struct {
	t         *testing.T
	mu        sync.Mutex
	random    *rand.Rand
	open      map[int]bool
	listening map[int]bool
	did       [5]int
	quiet     bool
	stolen    int // by one loop from another
}

// fault is loop.Faults. It says nothing that the system would not: whoever is told that
// there is nothing to read, though there is, would never hear of it again.
func (s *saboteur) fault(op loop.Op, fd, n int) (int, syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case loop.OpAdd:
		if s.open[fd] {
			s.stolen++
		}
		s.open[fd] = true
	case loop.OpAccept:
		s.listening[fd] = true
	case loop.OpClose:
		if !s.open[fd] {
			s.t.Errorf("descriptor %d is closed, and is not open", fd)
		}
		delete(s.open, fd)
		return n, 0
	case loop.OpRead, loop.OpWrite, loop.OpShutdown, loop.OpFill, loop.OpDrain:
		if !s.open[fd] {
			s.t.Errorf("descriptor %d is used (%d), and is not open", fd, op)
		}
	}
	if s.quiet {
		return n, 0
	}
	is := func(kind, of1000 int) bool {
		if s.random.IntN(1000) >= of1000 {
			return false
		}
		s.did[kind]++
		return true
	}
	short := (op == loop.OpRead || op == loop.OpWrite || op == loop.OpDrain || op == loop.OpFill) && n > 1
	switch {
	case op == loop.OpWait:
		return n, 0
	case op == loop.OpAdd && is(0, 20):
		return n, syscall.ENOSPC
	case (op == loop.OpAccept || op == loop.OpPipe) && is(0, 20):
		return n, syscall.EMFILE
	case short && is(1, 150):
		return 1 + s.random.IntN(n-1), 0
	case op != loop.OpAdd && op != loop.OpPipe && is(2, 30):
		return n, syscall.EINTR
	case (op == loop.OpRead || op == loop.OpPeek || op == loop.OpFill || op == loop.OpDrain) && is(3, 4):
		return n, syscall.ECONNRESET
	case (op == loop.OpWrite || op == loop.OpShutdown || op == loop.OpDrain) && is(4, 4):
		return n, syscall.EPIPE
	}
	return n, 0
}

// calm ends the faults, and says what is open but for what listens.
func (s *saboteur) calm() (open []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = true
	for fd := range s.open {
		if !s.listening[fd] {
			open = append(open, fd)
		}
	}
	return open
}

// descriptors are how many this process has open.
func descriptors(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// TestFaultsAnywhere: whatever fails, what a client gets is what its origin has for it, or
// an error, or the beginning of it and then the end of the connection; each request ends; and
// no descriptor is closed twice, used after that, or left.
func TestFaultsAnywhere(t *testing.T) {
	newOrigin(t) // the runtime's own descriptors are there from now on
	before := descriptors(t)
	for seed := range uint64(2) {
		s := &saboteur{t: t, random: rand.New(rand.NewPCG(seed, 8)), open: map[int]bool{}, listening: map[int]bool{}, quiet: true}
		t.Run(fmt.Sprint("seed=", seed), s.traffic)
		if open := s.calm(); len(open) > 0 {
			t.Errorf("descriptors %v are left open", open)
		}
		t.Logf("no place %d, short %d, interrupted %d, reset %d, broken %d", s.did[0], s.did[1], s.did[2], s.did[3], s.did[4])
		for i, n := range s.did {
			if n == 0 {
				t.Errorf("no fault of kind %d in all of it", i)
			}
		}
	}
	eventually(t, func() bool { return descriptors(t) <= before })
}

func (s *saboteur) traffic(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		want, _ := strconv.Atoi(r.Header.Get("Want"))
		if sent := r.Header.Get("Sent"); string(body) != bodyOf(r.Header.Get("Id"), sent) {
			t.Errorf("origin got %d bytes of %s, or others", len(body), sent)
		}
		answer := bodyOf(r.Header.Get("Id"), r.Header.Get("Want"))
		w.Header().Set("Id", r.Header.Get("Id"))
		if r.Header.Get("Sized") != "" {
			w.Header().Set("Content-Length", strconv.Itoa(want))
		}
		half := want / 2
		io.WriteString(w, answer[:half])
		w.(http.Flusher).Flush()
		io.WriteString(w, answer[half:])
	}))
	t.Cleanup(origin.Close)
	at := origin.Listener.Addr().String()
	r := loops(t, Config{faults: s.fault, Logger: slog.New(slog.DiscardHandler)}, definitions{
		"backends/a": `{"host": "` + at + `", "max_connections": 3, "wait_limit": 100, "wait_timeout": "20s"}`,
		"backends/b": `{"host": "` + at + `", "idle_timeout": "5ms"}`,
		"routes/a":   `{"backend": "a"}`,
		"routes/b":   `{"match": {"path": "/b/*"}, "backend": "b", "retries": 1}`,
	})
	r.exchange("GET /b/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\nSent: 0\r\nWant: 0\r\n\r\n")
	s.mu.Lock()
	s.quiet = false
	s.mu.Unlock()
	var whole atomic.Int64
	var clients sync.WaitGroup
	for i := range 6 {
		random := rand.New(rand.NewPCG(uint64(i), 9))
		clients.Go(func() {
			for j := range 25 {
				visit(t, r.addr, fmt.Sprintf("%d.%d", i, j), random, &whole)
			}
		})
	}
	clients.Wait()
	if n := whole.Load(); n < 100 {
		t.Errorf("%d whole answers in all", n)
	}
	s.calm()
	eventually(t, func() bool { return r.Stats().Connections == 0 })
	for _, name := range []string{"a", "b"} {
		if n := r.applier.Current().Lookup(name).Backend.Runtime.Active(); n != 0 {
			t.Errorf("%d slots of %s are taken", n, name)
		}
	}
}

// TestManyEndInPieces: however many connections end at once, a loop ends some of them at a
// time, and serves others in between.
func TestManyEndInPieces(t *testing.T) {
	t.Parallel()
	const most = 4 * sweepBatch
	var closed, turn, worst atomic.Int32 // descriptors, also in this turn, and in the worst
	o := newOrigin(t)
	r := newRigWith(t, 1, pool.Config{}, Config{faults: func(op loop.Op, _, n int) (int, syscall.Errno) {
		switch op {
		case loop.OpWait:
			worst.Store(max(worst.Load(), turn.Swap(0)))
		case loop.OpClose:
			closed.Add(1)
			turn.Add(1)
		}
		return n, 0
	}}, definitions{"backends/a": o.backend()})
	expectPieces := func(what string, at, n int32) {
		t.Helper()
		eventually(t, func() bool { return closed.Load() == at+n })
		eventually(t, func() bool { return turn.Load() == 0 })
		if n := worst.Swap(0); n > 2*sweepBatch { // a client and its backend
			t.Errorf("%s: %d descriptors are closed in one turn", what, n)
		}
	}
	var clients, backends [most]*peer
	for i := range clients {
		clients[i] = r.dial()
		clients[i].send(get)
		backends[i] = o.accept()
		backends[i].head()
	}
	for _, b := range backends {
		b.send(okay)
	}
	for _, c := range clients {
		c.head()
		c.take(5)
	}
	b := r.poolOf("a")
	eventually(t, func() bool { return b.Stats().Idle == most })
	b.Drain(true)
	expectPieces("connections to a backend", 0, most)
	b.Drain(false)

	// Half of the clients are idle, and half have a request that nobody answers.
	for _, c := range clients[:most/2] {
		c.send(get)
		o.accept().head()
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Drain(ctx) }()
	expectPieces("idle clients", most, most/2)
	cancel()
	expectPieces("clients with requests", most+most/2, most)
	if err := <-done; err != context.Canceled {
		t.Errorf("Drain: %v", err)
	}
}

// bodyOf are the bytes of a body, which no other of the same length has.
func bodyOf(id, size string) string {
	n, _ := strconv.Atoi(size)
	line := id + " a body of " + size + "\n"
	return strings.Repeat(line, n/len(line)+1)[:n]
}

// visit makes requests on one connection, until it ends.
func visit(t *testing.T, addr, id string, random *rand.Rand, whole *atomic.Int64) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	answers := bufio.NewReader(conn)
	sizes := []string{"0", "1", "3000", "20000", "400000"}
	for i := range 8 {
		id := fmt.Sprintf("%s.%d", id, i)
		sent, want := sizes[random.IntN(len(sizes))], sizes[random.IntN(len(sizes))]
		head := fmt.Sprintf("Host: x\r\nId: %s\r\nSent: %s\r\nWant: %s\r\n", id, sent, want)
		if random.IntN(2) > 0 {
			head += "Sized: 1\r\n"
		}
		path := []string{"/", "/b/"}[random.IntN(2)]
		body := bodyOf(id, sent)
		var request string
		switch random.IntN(3) {
		case 0:
			request = "POST " + path + " HTTP/1.1\r\n" + head + "Content-Length: " + sent + "\r\n\r\n" + body
		case 1:
			half := len(body) / 2
			request = "PUT " + path + " HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n"
			for _, piece := range []string{body[:half], body[half:]} {
				if piece != "" {
					request += fmt.Sprintf("%x\r\n%s\r\n", len(piece), piece)
				}
			}
			request += "0\r\n\r\n"
		default:
			request = "GET " + path + " HTTP/1.1\r\n" + strings.Replace(head, "Sent: "+sent, "Sent: 0", 1) + "\r\n"
		}
		wrote := make(chan struct{})
		cuts := rand.New(rand.NewPCG(random.Uint64(), 1))
		go func() {
			defer close(wrote)
			for request != "" {
				n := min(len(request), 1+cuts.IntN(1+len(request)))
				if _, err := io.WriteString(conn, request[:n]); err != nil {
					return
				}
				request = request[n:]
			}
		}()
		again := receive(t, answers, id, want, whole)
		if !again {
			conn.Close()
		}
		<-wrote
		if !again {
			return
		}
	}
}

// receive checks an answer. It is false if there is no other on its connection.
func receive(t *testing.T, r *bufio.Reader, id, want string, whole *atomic.Int64) bool {
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		if isTimeout(err) {
			t.Errorf("request %s has no end", id)
		}
		return false
	}
	got, err := io.ReadAll(answer.Body)
	switch {
	case isTimeout(err):
		t.Errorf("answer %s has no end", id)
	case answer.StatusCode >= 500 && answer.Header.Get("Id") == "":
		return err == nil && !answer.Close
	case answer.StatusCode != 200 || answer.Header.Get("Id") != id:
		t.Errorf("answer to %s: %d to %q", id, answer.StatusCode, answer.Header.Get("Id"))
	case !strings.HasPrefix(bodyOf(id, want), string(got)), err == nil && strconv.Itoa(len(got)) != want:
		t.Errorf("answer to %s: %d bytes of %s, or others, %v", id, len(got), want, err)
	case err == nil:
		whole.Add(1)
		return !answer.Close
	}
	return false
}

// TestLargeBodiesAreSpliced: in both directions, whoever is the slower one; and nothing of
// one that is cut off is left for another.
func TestLargeBodiesAreSpliced(t *testing.T) {
	t.Parallel()
	var fills atomic.Int64
	count := func(op loop.Op, fd, n int) (int, syscall.Errno) {
		if op == loop.OpFill {
			fills.Add(1)
		}
		return n, 0
	}
	o := newOrigin(t)
	r := loops(t, Config{faults: count}, definitions{"backends/a": o.backend()})
	const size = 3 << 20
	body := string(pattern(size))
	head := fmt.Sprintf("Content-Length: %d\r\n\r\n", size)
	spliced := func(what string, pass func()) {
		t.Helper()
		before := fills.Load()
		if pass(); fills.Load() == before {
			t.Errorf("%s: not spliced", what)
		}
	}
	same := func(what, got string) {
		t.Helper()
		if got != body {
			t.Errorf("%s: %d bytes, or others", what, len(got))
		}
	}
	slowly := func(to net.Conn, text string) {
		for len(text) > 0 {
			n := min(len(text), 300_000)
			io.WriteString(to, text[:n])
			text = text[n:]
			time.Sleep(time.Millisecond)
		}
	}
	c, b := r.dial(), (*peer)(nil)
	for _, way := range []struct {
		name string
		send func(net.Conn, string)
	}{{"at once", func(to net.Conn, text string) { io.WriteString(to, text) }}, {"slowly", slowly}} {
		spliced("request "+way.name, func() {
			go way.send(c.Conn, "POST / HTTP/1.1\r\nHost: h\r\n"+head+body)
			if b == nil {
				b = o.accept()
			}
			b.head()
			time.Sleep(5 * time.Millisecond) // the proxy is stuck meanwhile
			same("request "+way.name, b.take(size))
		})
		spliced("answer "+way.name, func() {
			go way.send(b.Conn, "HTTP/1.1 200 OK\r\n"+head+body)
			c.head()
			time.Sleep(5 * time.Millisecond)
			same("answer "+way.name, c.take(size))
		})
	}
	spliced("early answer", func() {
		c.send("POST / HTTP/1.1\r\nHost: h\r\n" + head + body[:size/2])
		b.head()
		b.send("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno")
		contains(t, "early answer", c.head(), " 403 ", "\r\nConnection: close\r\n")
		expect(t, "early answer", c.take(2), "no")
		c.Close()
		b.Close()
	})
	spliced("client gone", func() {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\n" + head + body[:size/2])
		b := o.accept()
		b.head()
		c.Close()
		if got := b.rest(); !strings.HasPrefix(body, got) || len(got) > size/2 { // cut off, with a reset or without
			t.Errorf("client gone: the backend got %d bytes, or others", len(got))
		}
	})
	spliced("after that", func() {
		c := r.dial()
		go io.WriteString(c.Conn, "POST / HTTP/1.1\r\nHost: h\r\n"+head+body)
		b := o.accept()
		b.head()
		same("after that", b.take(size))
		b.send(okay)
		contains(t, "after that", c.head(), " 200 ")
	})
}
