// Package origin is a small HTTP server to try a proxy on: it says who it is and what
// it was asked.
package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"time"
)

// Handler answers /healthz with 200 and "ok", and everything else with 200, the name,
// the request line and the header as received, their fields sorted, and how many bytes
// of body came. The name is in the field X-Origin, too.
func Handler(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Origin", name)
		if r.URL.Path == "/healthz" {
			fmt.Fprintln(w, "ok")
			return
		}
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			panic(http.ErrAbortHandler) // the client is gone, or what it sent is broken
		}
		fmt.Fprintf(w, "This is origin %s. The request was:\n\n", name)
		fmt.Fprintf(w, "%s %s %s\nHost: %s\n", r.Method, r.RequestURI, r.Proto, r.Host)
		for _, field := range slices.Sorted(maps.Keys(r.Header)) {
			for _, value := range r.Header[field] {
				fmt.Fprintf(w, "%s: %s\n", field, value)
			}
		}
		if n > 0 {
			fmt.Fprintf(w, "\n(and %d bytes of body)\n", n)
		}
	})
}

// Serve serves Handler on a listener until ctx ends, then lets requests in progress
// finish for at most five seconds. It returns nil after that.
func Serve(ctx context.Context, l net.Listener, name string) error {
	server := &http.Server{Handler: Handler(name), ReadHeaderTimeout: time.Minute}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		server.Close()
	}
	if err := <-failed; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
