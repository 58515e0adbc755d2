package proxy

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roster/exchange"
	"roster/pool"
)

// stress is a proxy with everything happening at once, and what came of it.
type stress struct {
	*rig
	until time.Time

	whole, refused, cut, left, tunnels atomic.Int64
}

// TestEverythingAtOnce: while definitions change, come and go, and backends turn sick and
// well, clients of all kinds each get what the origin has for them, or are refused; and when
// all is over nothing is left of it: no connection, slot, place in a queue or descriptor, and
// the table was told once of each choice.
func TestEverythingAtOnce(t *testing.T) {
	newOrigin(t) // the runtime's own descriptors are there from now on
	before := descriptors(t)
	books := &saboteur{t: t, open: map[int]bool{}, listening: map[int]bool{}, quiet: true}
	t.Run("run", func(t *testing.T) { everythingAtOnce(t, books) })
	if open := books.calm(); len(open) > 0 {
		t.Errorf("descriptors %v are left open", open)
	}
	if testLoops > 0 && books.stolen < 5 {
		t.Errorf("only %d connections went from one loop to another", books.stolen)
	}
	eventually(t, func() bool { return descriptors(t) <= before })
}

func everythingAtOnce(t *testing.T, books *saboteur) {
	one, two := httptest.NewServer(stressOrigin(t)), httptest.NewServer(stressOrigin(t))
	t.Cleanup(one.Close)
	t.Cleanup(two.Close)
	at, other := one.Listener.Addr().String(), two.Listener.Addr().String()
	s := &stress{rig: newRigWith(t, 2*testLoops, pool.Config{Logger: slog.New(slog.DiscardHandler)}, Config{faults: books.fault}, definitions{
		"backends/a":    `{"host": "` + at + `", "max_connections": 3, "wait_limit": 5, "wait_timeout": "50ms"}`,
		"backends/b":    `{"host": "` + at + `", "idle_timeout": "5ms"}`,
		"backends/c":    `{"host": "` + other + `"}`,
		"backends/d":    `{"host": "` + other + `", "max_connections": 2, "wait_limit": 100, "wait_timeout": "10s"}`,
		"backends/e":    `{"host": "` + at + `", "max_connections": 1, "wait_limit": 5, "wait_timeout": "20ms"}`,
		"backends/t":    sides[1].origin(t, stressOrigin(t)),
		"directors/all": `{"type": "p2c", "backends": ["a", "b", "c", "d"], "outlier": {"consecutive": 3, "ejection": "20ms", "max_ejection": "20ms", "max_share": 0.5}}`,
		"routes/a":      `{"match": {"path": "/a"}, "backend": "a"}`,
		"routes/b":      `{"match": {"path": "/b"}, "backend": "b"}`,
		"routes/d":      `{"match": {"path": "/d"}, "backend": "d"}`,
		"routes/e":      `{"match": {"path": "/e"}, "backend": "e"}`,
		"routes/t":      `{"match": {"path": "/t"}, "backend": "t"}`,
		"routes/all":    `{"match": {"path": "/all"}, "backend": "all"}`,
	})}
	s.until = time.Now().Add(2 * time.Second)
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 10))
			for j := 0; j < 10 || time.Now().Before(s.until); j++ {
				s.visit(fmt.Sprintf("%d.%d", i, j), random)
			}
		})
	}
	gone := make(chan struct{})
	go func() {
		all.Wait()
		close(gone)
	}()
	s.change(at, other, gone)
	t.Logf("%d whole answers, %d refused, %d cut off, %d clients left, %d tunnels; %d revisions", s.whole.Load(), s.refused.Load(), s.cut.Load(), s.left.Load(), s.tunnels.Load(), s.rev)
	for what, n := range map[string]int64{"whole answers": s.whole.Load(), "refusals": s.refused.Load(), "answers cut off": s.cut.Load(), "clients that leave": s.left.Load(), "tunnels": s.tunnels.Load()} {
		if n < 5 {
			t.Errorf("only %d %s in all of it", n, what)
		}
	}

	eventually(t, func() bool { return s.Stats().Connections == 0 && s.applier.Leaving() == 0 })
	for _, name := range []string{"a", "b", "c", "d", "e", "t"} {
		b := s.applier.Current().Lookup(name).Backend
		if active, queued := b.Runtime.Active(), b.Runtime.Queued(); active != 0 || queued != 0 {
			t.Errorf("%d slots of %s are taken, and %d wait", active, name, queued)
		}
		eventually(t, func() bool { return b.Pool.Stats().Active == 0 })
		b.Pool.Drain(true)
		eventually(t, func() bool { p := b.Pool.Stats(); return p.Idle == 0 && p.Opened == p.Closed })
	}
	stats := s.Stats()
	var requests, told uint64
	for _, n := range stats.Requests {
		requests += n
	}
	for _, n := range stats.Outcomes {
		told += n
	}
	// Who leaves had a backend, so that nobody has gone whose failure is another.
	if chosen := requests - stats.Failures[exchange.NoBackend]; told != chosen {
		t.Errorf("the table was told %d times of %d choices: %d, failures %d, outcomes %d", told, chosen, stats.Requests, stats.Failures, stats.Outcomes)
	}
}

// change changes definitions for as long as clients come, and then leaves them as they were.
func (s *stress) change(at, other string, gone <-chan struct{}) {
	random := rand.New(rand.NewPCG(0, 11))
	d := func(host string) string {
		return fmt.Sprintf(`{"host": %q, "max_connections": 2, "wait_limit": 100, "wait_timeout": "10s"}`, host)
	}
	for {
		select {
		case <-gone:
			s.apply(definitions{"backends/d": d(other), "health/a": "", "health/b": ""})
			return
		default:
		}
		pick := func(values ...string) string { return values[random.IntN(len(values))] }
		switch random.IntN(6) {
		case 0:
			s.apply(definitions{"backends/d": pick("", d(at), d(other), d(other))})
		case 1:
			s.apply(definitions{"health/b": pick("sick", "")})
		case 2:
			s.apply(definitions{"health/a": pick("drain", "sick", "", "")})
		case 3:
			s.apply(definitions{"backends/a": fmt.Sprintf(`{"host": %q, "max_connections": %d, "wait_limit": 5, "wait_timeout": "50ms"}`, at, 1+random.IntN(4))})
		case 4:
			s.apply(definitions{"backends/c": fmt.Sprintf(`{"host": %q}`, pick(at, other))})
		case 5:
			s.apply(definitions{"routes/all": `{"match": {"path": "/all"}, "backend": "` + pick("all", "all", "c") + `"}`})
		}
		time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond)
	}
}

// stressOrigin answers with what it is asked for, slowly or never to the end if it is asked
// for that; and checks what it is sent.
func stressOrigin(t *testing.T) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			conn, in, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
			io.Copy(conn, in)
			return
		}
		id, sent, want := r.Header.Get("Id"), r.Header.Get("Sent"), r.Header.Get("Want")
		mode := r.Header.Get("Mode")
		if mode == "slow" {
			time.Sleep(3 * time.Millisecond)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if string(body) != bodyOf(id, sent) {
			t.Errorf("origin got %d bytes of %s, or others", len(body), sent)
		}
		w.Header().Set("Id", id)
		if r.Header.Get("Sized") != "" {
			w.Header().Set("Content-Length", want)
		}
		answer := bodyOf(id, want)
		half := len(answer) / 2
		io.WriteString(w, answer[:half])
		w.(http.Flusher).Flush()
		switch {
		case mode == "slow":
			time.Sleep(3 * time.Millisecond)
		case mode == "abort" && answer != "": // else it is whole already
			panic(http.ErrAbortHandler)
		}
		io.WriteString(w, answer[half:])
	})
}

// visit makes requests on one connection, until it ends.
func (s *stress) visit(id string, random *rand.Rand) {
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Error(err)
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if random.IntN(12) == 0 {
		s.tunnel(conn)
		return
	}
	in := bufio.NewReader(conn)
	for i := range 6 {
		if !s.request(conn, in, fmt.Sprintf("%s.%d", id, i), random) {
			return
		}
	}
}

// tunnel has a few bytes echoed.
func (s *stress) tunnel(conn net.Conn) {
	io.WriteString(conn, "GET /all HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(conn)
	answer, err := http.ReadResponse(in, nil)
	switch {
	case err != nil:
		s.t.Errorf("tunnel: %v", err)
	case answer.StatusCode == 503:
		s.refused.Add(1)
	case answer.StatusCode != 101:
		s.t.Errorf("tunnel: %s", answer.Status)
	default:
		io.WriteString(conn, "hello")
		got := make([]byte, 5)
		if _, err := io.ReadFull(in, got); err != nil || string(got) != "hello" {
			s.t.Errorf("tunnel: %q, %v", got, err)
		}
		s.tunnels.Add(1)
	}
}

// request makes a request, of any kind, and checks its answer. It is false if there is no
// other on its connection.
func (s *stress) request(conn net.Conn, in *bufio.Reader, id string, random *rand.Rand) (again bool) {
	sizes := []string{"0", "1", "10", "300", "3000", "20000", "400000"}
	sent, want := sizes[random.IntN(len(sizes))], sizes[random.IntN(len(sizes))]
	mode := []string{"", "", "", "slow", "abort"}[random.IntN(5)]
	head := fmt.Sprintf("Host: x\r\nId: %s\r\nSent: %s\r\nWant: %s\r\nMode: %s\r\n", id, sent, want, mode)
	if random.IntN(2) > 0 {
		head += "Sized: 1\r\n"
	}
	slow, leaves := random.IntN(5) == 0, random.IntN(6) == 0
	paths := []string{"/e", "/all", "/t", "/a", "/b", "/d"}
	if leaves {
		paths = paths[:3] // where there is always a backend: see what is said of choices
	}
	path := paths[random.IntN(len(paths))]
	body := bodyOf(id, sent)
	switch random.IntN(3) {
	case 0:
		head = "POST " + path + " HTTP/1.1\r\n" + head + "Content-Length: " + sent + "\r\n\r\n"
	case 1:
		head = "PUT " + path + " HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n"
		if body != "" {
			body = fmt.Sprintf("%x\r\n%s\r\n", len(body), body)
		}
		body += "0\r\n\r\n"
	default:
		head = "GET " + path + " HTTP/1.1\r\n" + strings.Replace(head, "Sent: "+sent, "Sent: 0", 1) + "\r\n"
		body = ""
	}
	rest := head + body
	if leaves {
		rest = rest[:random.IntN(len(rest)+1)]
	}
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		for pieces := 6; rest != ""; pieces-- {
			n := len(rest)
			if slow && pieces > 1 {
				n = (n + pieces - 1) / pieces
				time.Sleep(time.Millisecond)
			}
			if _, err := io.WriteString(conn, rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	defer func() {
		if !again {
			conn.Close()
		}
		<-wrote
	}()
	if leaves {
		conn.SetReadDeadline(time.Now().Add(time.Duration(random.IntN(5000)) * time.Microsecond))
		io.Copy(io.Discard, in)
		if random.IntN(2) == 0 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		s.left.Add(1)
		return false
	}
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		s.short(id, mode, err)
		return false
	}
	if slow {
		answer.Body = io.NopCloser(&slowly{answer.Body, 5})
	}
	got, err := io.ReadAll(answer.Body)
	switch {
	case answer.Header.Get("Id") == "" && (answer.StatusCode == 503 || answer.StatusCode == 502 && mode == "abort"):
		s.refused.Add(1)
		return err == nil && !answer.Close
	case answer.StatusCode != 200 || answer.Header.Get("Id") != id:
		s.t.Errorf("answer to %s %s: %s to %q, %s", path, id, answer.Status, answer.Header.Get("Id"), answer.Header.Get("Proxy-Status"))
	case !strings.HasPrefix(bodyOf(id, want), string(got)), err == nil && strconv.Itoa(len(got)) != want:
		s.t.Errorf("answer to %s: %d bytes of %s, or others, %v", id, len(got), want, err)
	case err != nil:
		s.short(id, mode, err)
	default:
		s.whole.Add(1)
		return !answer.Close
	}
	return false
}

// short is called for an answer that is not whole.
func (s *stress) short(id, mode string, err error) {
	if mode != "abort" || isTimeout(err) {
		s.t.Errorf("answer to %s (%s): %v", id, mode, err)
	}
	s.cut.Add(1)
}

// slowly waits before each of the next reads.
type slowly struct {
	io.Reader
	n int
}

func (s *slowly) Read(b []byte) (int, error) {
	if s.n > 0 {
		s.n--
		time.Sleep(time.Millisecond)
		b = b[:min(len(b), 20<<10)]
	}
	return s.Reader.Read(b)
}
