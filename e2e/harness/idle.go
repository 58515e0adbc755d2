package harness

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// OpenIdle opens n connections with dial, has each serve a GET of / for the host, and
// leaves them open and idle until the test ends. dial is called from several
// goroutines.
func OpenIdle(t testing.TB, n int, host string, dial func() (net.Conn, error)) {
	t.Helper()
	NeedDescriptors(t, n+2000)
	const workers = 16 // few: what serves requests at the same time is not what is measured
	var (
		mu    sync.Mutex
		conns []net.Conn
		fault error
		wg    sync.WaitGroup
		todo  = make(chan int)
	)
	t.Cleanup(func() {
		for _, c := range conns {
			c.Close()
		}
	})
	for range workers {
		wg.Go(func() {
			r := bufio.NewReader(nil)
			for range todo {
				c, err := openIdle(host, dial, r)
				mu.Lock()
				if err != nil {
					fault = err
				} else {
					conns = append(conns, c)
				}
				mu.Unlock()
			}
		})
	}
	for i := range n {
		todo <- i
	}
	close(todo)
	wg.Wait()
	if fault != nil {
		t.Fatalf("%d of %d connections: %v", len(conns), n, fault)
	}
}

func openIdle(host string, dial func() (net.Conn, error), r *bufio.Reader) (net.Conn, error) {
	c, err := dial()
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(WaitLimit))
	if err := serveIdle(c, host, r); err != nil {
		c.Close()
		return nil, err
	}
	c.SetDeadline(time.Time{})
	return c, nil
}

func serveIdle(c net.Conn, host string, r *bufio.Reader) error {
	if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host); err != nil {
		return err
	}
	r.Reset(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK || resp.Close {
		return fmt.Errorf("%s, close %v", resp.Status, resp.Close)
	}
	return nil
}
