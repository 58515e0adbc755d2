package e2e_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"roster/e2e/harness"
)

// echo starts an origin that answers every request with the Host it was asked for,
// so that an answer names the definition that the node served it by. It returns the
// port.
func echo(t testing.TB) int {
	t.Helper()
	port := harness.FreePort(t)
	ln, err := net.Listen("tcp", harness.Loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(ln)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return port
}

// echoBackend is the definition of a backend on an echo, all of whose answers are answer.
func echoBackend(port int, answer string) string {
	return fmt.Sprintf(`{"host": "127.0.0.1", "port": %d, "host_header": %q, "override_host": true, "probe": "none"}`, port, answer)
}

// caller is a client with one connection, which it opens once. It does not try
// anything twice, as net/http's would: what fails here has failed.
type caller struct {
	conn net.Conn
	in   *bufio.Reader
}

func dial(addr string) (*caller, error) {
	conn, err := net.DialTimeout("tcp", addr, harness.WaitLimit)
	if err != nil {
		return nil, err
	}
	return &caller{conn, bufio.NewReader(conn)}, nil
}

func (c *caller) get() (status int, body string, err error) {
	c.conn.SetDeadline(time.Now().Add(harness.WaitLimit))
	if _, err := io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: client.test\r\n\r\n"); err != nil {
		return 0, "", err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if why := resp.Header.Get("Proxy-Status"); why != "" {
		b = fmt.Append(b, why)
	}
	if err == nil && resp.Close {
		err = fmt.Errorf("the node closes the connection after %d %q", resp.StatusCode, b)
	}
	return resp.StatusCode, string(b), err
}

// traffic is a few clients that each send a request every few milliseconds on one
// connection, and hold every answer against what is allowed when it is sent.
type traffic struct {
	t        testing.TB
	allowed  atomic.Pointer[map[string]bool]
	stop     chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
	requests atomic.Int64

	mu       sync.Mutex
	failures int
	first    []string
}

const trafficPause = 10 * time.Millisecond

// startTraffic sends requests to addr until end, or the end of the test. Every
// answer must be one of those allowed.
func startTraffic(t testing.TB, addr string, clients int, allowed ...string) *traffic {
	t.Helper()
	tr := &traffic{t: t, stop: make(chan struct{})}
	tr.allow(allowed...)
	for range clients {
		tr.wg.Go(func() { tr.run(addr) })
	}
	t.Cleanup(tr.end)
	return tr
}

// allow says what requests sent from now on may be answered.
func (tr *traffic) allow(answers ...string) {
	set := map[string]bool{}
	for _, a := range answers {
		set[a] = true
	}
	tr.allowed.Store(&set)
}

func (tr *traffic) run(addr string) {
	c, err := dial(addr)
	if err != nil {
		tr.failed("connect: %v", err)
		return
	}
	defer c.conn.Close()
	tick := time.NewTicker(trafficPause)
	defer tick.Stop()
	for {
		select {
		case <-tr.stop:
			return
		case <-tick.C:
		}
		allowed := *tr.allowed.Load()
		begun := time.Now()
		status, body, err := c.get()
		tr.requests.Add(1)
		switch {
		case err != nil:
			tr.failed("request sent %v ago: %v", time.Since(begun), err)
			return
		case status != http.StatusOK:
			tr.failed("status %d: %s", status, body)
		case !allowed[body]:
			tr.failed("answered by %q, allowed are %q", body, slices.Sorted(maps.Keys(allowed)))
		}
	}
}

func (tr *traffic) failed(format string, args ...any) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.failures++; len(tr.first) < 5 {
		tr.first = append(tr.first, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	}
}

// more waits for n more requests and fails the test on the first failure.
func (tr *traffic) more(n int64) {
	tr.t.Helper()
	before := tr.requests.Load()
	harness.Until(tr.t, fmt.Sprintf("%d requests", n), func() (bool, any) {
		now := tr.requests.Load()
		return now-before >= n || tr.wrong() != "", now - before
	})
	tr.check()
}

// check ends the test if a request failed.
func (tr *traffic) check() {
	tr.t.Helper()
	if wrong := tr.wrong(); wrong != "" {
		tr.t.Fatal(wrong)
	}
}

func (tr *traffic) wrong() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if tr.failures == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d requests failed:\n%s", tr.failures, tr.requests.Load(), strings.Join(tr.first, "\n"))
}

func (tr *traffic) ended() bool {
	select {
	case <-tr.stop:
		return true
	default:
		return false
	}
}

// end stops the clients, once, and says what failed.
func (tr *traffic) end() {
	tr.t.Helper()
	tr.once.Do(func() {
		close(tr.stop)
		tr.wg.Wait()
		if wrong := tr.wrong(); wrong != "" {
			tr.t.Error(wrong)
		}
		tr.t.Logf("%d requests", tr.requests.Load())
	})
}

// witness reads a node's status all the time and holds fresh_ms against what the
// test knows: a node may claim to know all that etcd had at a moment only if it does.
type witness struct {
	t    testing.TB
	node *harness.Node
	http *http.Client
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup

	mu      sync.Mutex
	rule    func(s harness.Status, fresh time.Time) string // "" or what is wrong
	samples int
	wrong   []string
}

const witnessPause = 25 * time.Millisecond

func startWitness(t testing.TB, node *harness.Node) *witness {
	t.Helper()
	transport := &http.Transport{}
	w := &witness{t: t, node: node, http: &http.Client{Transport: transport, Timeout: harness.WaitLimit}, stop: make(chan struct{})}
	w.wg.Go(func() {
		defer transport.CloseIdleConnections()
		tick := time.NewTicker(witnessPause)
		defer tick.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-tick.C:
				w.sample()
			}
		}
	})
	t.Cleanup(w.end)
	return w
}

// status asks for a node's status. fresh is not after the moment up to which it
// claims to know everything by more than the millisecond it rounds to.
func (w *witness) status() (s harness.Status, fresh time.Time, err error) {
	begun := time.Now()
	resp, err := w.http.Get(w.node.AdminURL() + "/v1/status")
	if err != nil {
		return s, fresh, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		return s, fresh, err
	}
	if s.Etcd.FreshMS == nil {
		return s, fresh, fmt.Errorf("fresh_ms is null after a revision was applied")
	}
	return s, begun.Add(-time.Duration(*s.Etcd.FreshMS+1) * time.Millisecond), nil
}

func (w *witness) sample() {
	s, fresh, err := w.status()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.samples++
	switch {
	case err != nil:
		w.wrong = append(w.wrong, err.Error())
	case w.rule != nil:
		if wrong := w.rule(s, fresh); wrong != "" {
			w.wrong = append(w.wrong, fmt.Sprintf("%s: %s (%+v)", time.Now().Format("15:04:05.000"), wrong, s))
		}
	}
}

// blind says that nothing of etcd after now can be known to the node, until the next
// call of blind, knows or anything.
func (w *witness) blind() {
	since := time.Now()
	w.set(func(s harness.Status, fresh time.Time) string {
		if fresh.After(since) {
			return fmt.Sprintf("claims to know what etcd had %v after it was cut off", fresh.Sub(since))
		}
		return ""
	})
}

// knows says that a node which knows what etcd has after now shows it by what f is
// true of, until the next call of blind, knows or anything.
func (w *witness) knows(what string, f func(harness.Status) bool) {
	since := time.Now()
	w.set(func(s harness.Status, fresh time.Time) string {
		if fresh.After(since) && !f(s) {
			return fmt.Sprintf("claims to know what etcd had %v after %s, and does not", fresh.Sub(since), what)
		}
		return ""
	})
}

// anything says that nothing is to be held against the node for now.
func (w *witness) anything() { w.set(nil) }

func (w *witness) set(rule func(harness.Status, time.Time) string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rule = rule
}

// end stops the witness, once, and says what was not true.
func (w *witness) end() {
	w.t.Helper()
	w.once.Do(func() {
		close(w.stop)
		w.wg.Wait()
		if len(w.wrong) > 0 {
			w.t.Errorf("%d of %d statuses are not true, the first:\n%s", len(w.wrong), w.samples,
				strings.Join(w.wrong[:min(3, len(w.wrong))], "\n"))
		}
		w.t.Logf("%d statuses", w.samples)
	})
}
