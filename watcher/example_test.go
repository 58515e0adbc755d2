package watcher_test

import (
	"context"
	"fmt"
	"os"
	"sync"

	"roster/store"
	"roster/store/embedded"
	"roster/watcher"
)

func Example() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	dir, _ := os.MkdirTemp("", "watcher")
	defer os.RemoveAll(dir)
	server, err := embedded.Start(ctx, embedded.Config{Dir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	definitions, err := store.Open(store.Config{Endpoints: []string{server.Endpoint()}, Prefix: "/roster/"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer definitions.Close()

	w, err := watcher.New(watcher.Config{Store: definitions})
	if err != nil {
		fmt.Println(err)
		return
	}
	var running sync.WaitGroup
	running.Go(func() { w.Run(ctx) })
	defer running.Wait()
	defer cancel()

	c, _ := w.Next(ctx)
	fmt.Printf("listed: %d definitions\n", len(c.Puts))

	web := definitions.Prefix() + "backends/web-1"
	for _, value := range []string{`{"host": "10.0.0.7", "port": 8080}`, `{"host": "10.0.0.7", "prot": 8080}`, ""} {
		if value != "" {
			definitions.Client().Put(ctx, web, value)
		} else {
			definitions.Client().Delete(ctx, web)
		}
		c, _ := w.Next(ctx)
		for _, item := range c.Puts {
			backend := item.Definition.(*store.Backend)
			fmt.Printf("put %s: port %d, rejected %t\n", item.Key, backend.Port, item.Rejected != nil)
		}
		for _, key := range c.Deletes {
			fmt.Printf("deleted %s\n", key)
		}
	}
	// Output:
	// listed: 0 definitions
	// put backends/web-1: port 8080, rejected false
	// put backends/web-1: port 8080, rejected true
	// deleted backends/web-1
}
