package pool_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"time"

	"roster/pool"
	"roster/store"
)

// A request takes a slot of its backend's limit, then a connection. Whoever
// reads an answer to its end puts the connection back for the next.
func Example() {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello ", r.URL.Path)
	}))
	defer origin.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m := pool.New(pool.Config{})
	ended := make(chan error)
	go func() { ended <- m.Run(ctx) }()

	addr := origin.Listener.Addr().(*net.TCPAddr)
	p, err := m.Acquire(&store.Backend{
		Host: "127.0.0.1", Port: uint16(addr.Port), Protocol: store.HTTP1, IdleTimeout: time.Minute,
	}, pool.Deps{})
	if err != nil {
		fmt.Println(err)
		return
	}
	var limit pool.Limit
	limit.Set(100, 50, time.Second)

	for _, path := range []string{"/a", "/b"} {
		if err := limit.Acquire(ctx); err != nil {
			fmt.Println(err)
			return
		}
		c, err := p.Get(ctx, pool.Request{ConnectTimeout: time.Second})
		var e *pool.Error
		if errors.As(err, &e) {
			fmt.Println(e.ProxyStatus())
			return
		}
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: example.com\r\n\r\n", path)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			c.Discard()
			return
		}
		body := make([]byte, resp.ContentLength)
		resp.Body.Read(body)
		fmt.Printf("%s, reused: %v\n", body, c.Reused())
		c.Put()
		limit.Release()
	}

	p.Release()
	cancel()
	fmt.Println(<-ended, p.Stats())
	// Output:
	// hello /a, reused: false
	// hello /b, reused: true
	// <nil> {0 0 1 1 1 0}
}
