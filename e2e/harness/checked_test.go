package harness_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// address is a Dialer.
type address string

func (a address) Dial() (net.Conn, error) { return net.Dial("tcp", string(a)) }

// What a Checker is for: it tells the right answer from a wrong one, and that from none.
func TestCheckerSeesWhatIsWrong(t *testing.T) {
	t.Parallel()
	origin := harness.StartOrigin(t, "web")
	check := harness.Check{Method: "POST", Host: "a.test", Path: "/", Upload: 100_000, Answer: 100_000}
	for _, test := range []struct {
		name     string
		request  func(body []byte) []byte // what is done to the body on its way
		answer   func(head http.Header, body []byte) []byte
		want     string // right, wrong, an error or a status
		announce int    // bytes of the answer more than there are
	}{
		{name: "nothing", want: "right"},
		{name: "a byte of the request", request: func(b []byte) []byte { b[77_777] ^= 1; return b }, want: "wrong"},
		{name: "the request's end", request: func(b []byte) []byte { return b[:99_999] }, want: "wrong"},
		{name: "a byte of the answer", answer: func(_ http.Header, b []byte) []byte { b[77_777] ^= 1; return b }, want: "wrong"},
		{name: "the answer's end", answer: func(_ http.Header, b []byte) []byte { return b[:99_999] }, want: "wrong"},
		{name: "somebody else's answer", answer: func(h http.Header, b []byte) []byte { h.Set("X-Checked", "1"+h.Get("X-Checked")); return b }, want: "wrong"},
		{name: "a cut", answer: func(_ http.Header, b []byte) []byte { return b[:50_000] }, announce: 50_000, want: "error"},
		{name: "an error", answer: func(h http.Header, b []byte) []byte { h.Set("Status", "502"); return b }, want: "502"},
	} {
		relay := listenHTTP(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if test.request != nil {
				body = test.request(body)
			}
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(strings.NewReader(string(body))), int64(len(body)), nil
			r.URL.Scheme, r.URL.Host = "http", origin.Address()
			resp, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			defer resp.Body.Close()
			if body, err = io.ReadAll(resp.Body); err != nil {
				panic(http.ErrAbortHandler)
			}
			if test.answer != nil {
				body = test.answer(resp.Header, body)
			}
			for name, values := range resp.Header {
				w.Header()[name] = values
			}
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+test.announce))
			if resp.Header.Get("Status") != "" {
				resp.StatusCode = http.StatusBadGateway
			}
			w.WriteHeader(resp.StatusCode)
			w.Write(body)
		})
		for _, check.Fresh = range []bool{false, true} {
			var c harness.Checker
			for range 3 {
				r := c.Do(relay, check)
				got := "right"
				switch {
				case r.Wrong != "":
					got = "wrong"
				case r.Err != nil:
					got = "error"
				case r.Failed():
					got = fmt.Sprint(r.Status)
				}
				if got != test.want {
					t.Errorf("%s is changed: %s, want %s: %v", test.name, got, test.want, r)
				}
			}
			c.Close()
		}
	}
	var c harness.Checker
	origin.Stop()
	if r := c.Do(address(origin.Address()), check); r.Err == nil || r.Status != 0 {
		t.Errorf("nobody is there: %v", r)
	}
}

func listenHTTP(t *testing.T, handler http.HandlerFunc) address {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handler}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return address(l.Addr().String())
}
