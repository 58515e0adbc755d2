package proxy_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"

	"roster/node/proxy"
	"roster/node/table"
	"roster/pool"
	"roster/store"
	"roster/watcher"
)

// A node joins the parts like this; the changes come from a watcher then.
func Example() {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s for %s", r.Method, r.URL, r.Header.Get("X-Forwarded-For"))
	}))
	defer origin.Close()

	applier := table.NewApplier(pool.New(pool.Config{}))
	p := proxy.New(proxy.Config{Table: applier.Current})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	served := make(chan error)
	go func() { served <- p.Serve(context.Background(), proxy.Listener{Listener: ln}) }()

	get := func() {
		answer, err := http.Get("http://" + ln.Addr().String() + "/hello")
		if err != nil {
			panic(err)
		}
		defer answer.Body.Close()
		body, _ := io.ReadAll(answer.Body)
		fmt.Printf("%s\n", body)
	}
	get()

	key := store.Key{Kind: store.Backends, Name: "web"}
	def, _, err := store.Decode(key, []byte(`{"host": "`+origin.Listener.Addr().String()+`"}`), store.Reject)
	if err != nil {
		panic(err)
	}
	applier.Apply(watcher.Change{Revision: 7, Puts: []watcher.Item{{Key: key, CreateRevision: 7, ModRevision: 7, Definition: def}}})
	get()

	http.DefaultClient.CloseIdleConnections()
	fmt.Println(p.Drain(context.Background()), <-served)
	// Output:
	// 503 Service Unavailable: no healthy backend
	//
	// GET /hello for 127.0.0.1
	// <nil> <nil>
}
