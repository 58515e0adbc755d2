package origin_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"roster/cmd/roster/internal/origin"
)

func Example() {
	r := httptest.NewRequest("POST", "http://www.example.com/a//b?c=d", strings.NewReader("body"))
	r.Header.Set("X-Forwarded-For", "192.0.2.1")
	w := httptest.NewRecorder()
	origin.Handler("web-1").ServeHTTP(w, r)
	fmt.Println(w.Code, w.Header().Get("X-Origin"))
	fmt.Print(w.Body)
	// Output:
	// 200 web-1
	// This is origin web-1. The request was:
	//
	// POST http://www.example.com/a//b?c=d HTTP/1.1
	// Host: www.example.com
	// X-Forwarded-For: 192.0.2.1
	//
	// (and 4 bytes of body)
}

func TestServeEndsWithItsContext(t *testing.T) {
	defer goleak.VerifyNone(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- origin.Serve(ctx, l, "web-1") }()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("health: %s", resp.Status)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("after its end: %v", err)
	}
	if _, err := c.Get("http://" + l.Addr().String()); err == nil {
		t.Error("it listens after its end")
	}
}
