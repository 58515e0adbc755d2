package accesslog_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"roster/node/accesslog"
)

func Example() {
	dir, _ := os.MkdirTemp("", "example")
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "access.log")

	log, err := accesslog.New(accesslog.Config{Format: accesslog.JSON, File: file})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		log.Run(ctx)
	}()

	client := netip.MustParseAddrPort("192.0.2.7:50000")
	log.Record(&accesslog.Entry{
		Time:   time.Date(2026, 11, 21, 7, 46, 40, 0, time.UTC),
		Client: client, Peer: client,
		Method: []byte("GET"), Target: []byte("/"), Host: []byte("example.com"), Proto: "HTTP/1.1",
		Status: 503, Sent: 20, Backend: "web-1",
		Queue: 5 * time.Second, Connect: -1, FirstByte: -1, Total: 5 * time.Second,
		Error: "queue timeout",
	})

	cancel()
	<-done
	lines, _ := os.ReadFile(file)
	fmt.Print(string(lines))
	// Output:
	// {"time":"2026-11-21T07:46:40.000000Z","client":"192.0.2.7","client_port":50000,"tls":false,"method":"GET","target":"/","host":"example.com","proto":"HTTP/1.1","status":503,"bytes":20,"received":0,"backend":"web-1","retries":0,"queue":5.000000,"total":5.000000,"error":"queue timeout"}
}
