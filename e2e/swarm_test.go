package e2e_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/e2e/harness"
)

// What the tests share that replace nodes under traffic.

// startWeb starts an etcd with one backend, an origin.
func startWeb(t *testing.T) (*harness.Etcd, *harness.Origin) {
	t.Helper()
	etcd, web := harness.StartEtcd(t), harness.StartOrigin(t, "web")
	etcd.Put(webKey, web.Definition())
	return etcd, web
}

// shortDir is a folder with a short path: sockets have room for 100 bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "roster-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// waitReady waits until a node is, whichever of its processes answers.
func waitReady(t *testing.T, admin string) {
	t.Helper()
	harness.Until(t, "readiness", func() (bool, any) {
		resp, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, resp.Status
	})
}

// swarm is clients that send each request once: any that fails is counted.
type swarm struct {
	t    *testing.T
	stop chan struct{}
	wg   sync.WaitGroup

	mu       sync.Mutex
	requests map[string]int // by kind of client
	failed   []string
}

func startSwarm(t *testing.T) *swarm {
	t.Helper()
	c := &swarm{t: t, stop: make(chan struct{}), requests: map[string]int{}}
	t.Cleanup(func() { c.end() })
	return c
}

// add adds n clients, that call again and again, each with a call of its own, and think
// in between for at most think.
func (c *swarm) add(kind string, n int, think time.Duration, newCall func() (call func() error, end func())) {
	for range n {
		c.wg.Go(func() {
			call, end := newCall()
			defer end()
			for {
				err := call()
				c.mu.Lock()
				if c.requests[kind]++; err != nil {
					c.failed = append(c.failed, fmt.Sprintf("%s %s: %v", time.Now().UTC().Format("15:04:05.000"), kind, err))
				}
				c.mu.Unlock()
				select {
				case <-c.stop:
					return
				case <-time.After(rand.N(think + 1)):
				}
			}
		})
	}
}

// wait waits until clients of each kind have had n more answers.
func (c *swarm) wait(n int) {
	c.t.Helper()
	counts := func() map[string]int {
		c.mu.Lock()
		defer c.mu.Unlock()
		all := map[string]int{}
		for kind, n := range c.requests {
			all[kind] = n
		}
		return all
	}
	before := counts()
	harness.Until(c.t, "more requests of each kind", func() (bool, any) {
		now := counts()
		for kind := range now {
			if now[kind]-before[kind] < n {
				return false, now
			}
		}
		return len(now) > 0, now
	})
}

// end ends the clients and fails the test if a request failed.
func (c *swarm) end() {
	c.t.Helper()
	select {
	case <-c.stop:
		return
	default:
	}
	close(c.stop)
	c.wg.Wait()
	c.t.Logf("requests: %v", c.requests)
	if n := len(c.failed); n > 0 {
		c.t.Errorf("%d requests failed, such as\n%s", n, strings.Join(c.failed[:min(n, 10)], "\n"))
	}
}

// onceOnly is a client of HTTP/1.1 that uses a connection for as long as it may.
type onceOnly struct {
	network, address string
	once             bool // a connection for each request
	conn             net.Conn
	in               *bufio.Reader
}

func (c *onceOnly) call() error {
	if c.conn == nil {
		conn, err := net.Dial(c.network, c.address)
		if err != nil {
			return err
		}
		c.conn, c.in = conn, bufio.NewReader(conn)
	}
	c.conn.SetDeadline(time.Now().Add(harness.WaitLimit))
	more := ""
	if c.once {
		more = "Connection: close\r\n"
	}
	_, err := io.WriteString(c.conn, "GET / HTTP/1.1\r\nHost: e2e.test\r\n"+more+"\r\n")
	var answer harness.Message
	if err == nil {
		answer, err = harness.ReadResponse(c.in, http.MethodGet)
	}
	if err == nil && (answer.Status() != http.StatusOK || answer.Body != "web\n") {
		err = fmt.Errorf("%v", answer)
	}
	if err != nil || c.once || strings.Contains(strings.ToLower(answer.Get("Connection")), "close") {
		c.close()
	}
	return err
}

func (c *onceOnly) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// directHTTP1 makes clients of a listener.
func directHTTP1(network, address string, once bool) func() (func() error, func()) {
	return func() (func() error, func()) {
		c := &onceOnly{network: network, address: address, once: once}
		return c.call, c.close
	}
}

// directHTTP2 makes clients of a listener with TLS, whose requests cannot be sent again: they
// have a body that is gone then.
func directHTTP2(address string) func() (func() error, func()) {
	return func() (func() error, func()) {
		client := visitor(address, &tls.Config{InsecureSkipVerify: true}, true)
		return func() error {
			post := func() (*http.Response, error) {
				req, err := http.NewRequest(http.MethodPost, "https://e2e.test/", io.MultiReader(strings.NewReader("body")))
				if err != nil {
					return nil, err
				}
				return client.Do(req)
			}
			resp, err := post()
			// Go's client says this only of what it has not begun to send: it picked a
			// connection, which was told to go away before, and then misses its own retry,
			// for it has closed the body.
			for err != nil && strings.Contains(err.Error(), "cannot rewind body after connection loss") {
				resp, err = post()
			}
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err == nil && (resp.StatusCode != http.StatusOK || string(body) != "web\n" || resp.ProtoMajor != 2) {
				err = fmt.Errorf("%s %s %q", resp.Proto, resp.Status, body)
			}
			return err
		}, client.CloseIdleConnections
	}
}
