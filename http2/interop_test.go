package http2

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/message"
)

// stdServer is net/http's HTTP/2 server, and a client of ours connected to it.
func stdServer(t *testing.T, cfg Config, h http.HandlerFunc) *Conn {
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	nc, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	return dial(t, nc, cfg)
}

// stdClient is net/http's client, connected to servers of ours over TLS.
func stdClient(t *testing.T, cfg Config, handle func(*Stream)) (*http.Client, string) {
	certificates := httptest.NewUnstartedServer(nil)
	certificates.EnableHTTP2 = true
	certificates.StartTLS()
	tlsConfig := certificates.TLS.Clone()
	certificates.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", tlsConfig)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { NewServer(nc, cfg).Serve(handle) })
		}
	})
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(func() { l.Close(); tr.CloseIdleConnections(); wg.Wait() })
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}, "https://" + l.Addr().String()
}

func TestNetHTTPsClient(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	cl, url := stdClient(t, Config{}, func(s *Stream) {
		var r message.Request
		if err := s.Request(&r); err != nil {
			t.Errorf("request: %v", err)
			return
		}
		switch string(r.Target) {
		case "/interim":
			s.Send(response(103, 0, field("Link", "</x>")), nil, false, nil)
			s.Send(response(200, 2), []byte("ok"), true, nil)
		case "/trailers":
			s.Send(response(200, message.Unknown, field("Trailer", "X-Sum")), []byte("abc"), false, nil)
			s.Send(nil, nil, true, []message.Field{field("X-Sum", "6")})
		case "/expect":
			if !r.Expect100 {
				t.Error("no Expect100")
			}
			s.Send(response(100, 0), nil, false, nil)
			body, err := io.ReadAll(s)
			s.Send(response(200, message.Unknown), fmt.Appendf(nil, "%s %v", body, err), true, nil)
		case "/refuse":
			s.Send(response(413, 0), nil, true, nil) // and the body is not read
		case "/reset":
			s.Send(response(200, 10), []byte("part"), false, nil)
			s.Reset(InternalError)
		case "/big":
			s.Send(response(200, int64(len(big))), big, true, nil)
		default:
			s.Send(response(200, message.Unknown), nil, false, nil)
			io.Copy(s, s)
			s.Send(nil, nil, true, s.Trailers())
		}
	})
	body := func(res *http.Response, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			return "error " + err.Error()
		}
		if res.ProtoMajor != 2 {
			t.Errorf("protocol %s", res.Proto)
		}
		if len(b) == len(big) && bytes.Equal(b, big) {
			return "big"
		}
		return string(b)
	}

	hints := 0
	req, _ := http.NewRequest("GET", url+"/interim", nil)
	req = req.WithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
			if code == 103 && h.Get("Link") == "</x>" {
				hints++
			}
			return nil
		}}))
	if got := body(cl.Do(req)); got != "ok" || hints != 1 {
		t.Errorf("interim: %q, %d hints", got, hints)
	}

	res, err := cl.Get(url + "/trailers")
	if got := body(res, err); got != "abc" || res.Trailer.Get("X-Sum") != "6" {
		t.Errorf("trailers: %q, %v", got, res.Trailer)
	}

	req, _ = http.NewRequest("PUT", url+"/expect", strings.NewReader("body"))
	req.Header.Set("Expect", "100-continue")
	if got := body(cl.Do(req)); got != "body <nil>" {
		t.Errorf("expect: %q", got)
	}

	if got := body(cl.Post(url+"/refuse", "text/plain", bytes.NewReader(big))); got != "" {
		t.Errorf("refuse: %q", got)
	}
	if got := body(cl.Get(url + "/reset")); !strings.Contains(got, "INTERNAL_ERROR") {
		t.Errorf("reset: %q", got)
	}
	if got := body(cl.Get(url + "/big")); got != "big" {
		t.Errorf("big: %d bytes", len(got))
	}

	var wg sync.WaitGroup
	for range 4 { // echo, both ways at once
		wg.Go(func() {
			req, _ := http.NewRequest("POST", url+"/", io.MultiReader(bytes.NewReader(big)))
			req.Trailer = http.Header{"X-End": {"yes"}}
			res, err := cl.Do(req)
			if got := body(res, err); got != "big" || res.Trailer.Get("X-End") != "yes" {
				t.Errorf("echo: %d bytes, %v", len(got), res.Trailer)
			}
		})
	}
	wg.Wait()
}

// net/http's client sends to a new connection what GOAWAY left out, and loses nothing.
func TestNetHTTPsClientAndGoAway(t *testing.T) {
	t.Parallel()
	cl, url := stdClient(t, Config{}, func(s *Stream) {
		if s.id == 21 {
			s.c.GoAway()
		}
		var r message.Request
		s.Request(&r)
		io.Copy(io.Discard, s)
		s.Send(response(200, 2), []byte("ok"), true, nil)
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				res, err := cl.Post(url, "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		})
	}
	wg.Wait()
}

func TestNetHTTPsServer(t *testing.T) {
	t.Parallel()
	big := strings.Repeat("0123456789abcdef", 1<<16)
	c := stdServer(t, Config{}, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/interim":
			w.Header().Set("Link", "</x>")
			w.WriteHeader(103)
			w.Write([]byte("ok"))
		case "/expect":
			b, err := io.ReadAll(r.Body) // sends 100
			fmt.Fprintf(w, "%s %v %s", b, err, r.Trailer.Get("X-End"))
		case "/early":
			w.WriteHeader(413)
		case "/abort":
			w.Write([]byte("part"))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Trailer", "X-End")
			w.(http.Flusher).Flush()
			io.Copy(w, r.Body)
			w.Header().Set("X-End", r.Trailer.Get("X-End"))
		}
	})
	heads := func(s *Stream) (list string) {
		for {
			var r message.Response
			if err := s.Head(&r); err != nil {
				return list + err.Error()
			}
			list += fmt.Sprint(r.Status, " ")
			if r.Status >= 200 {
				b, err := io.ReadAll(s)
				if len(b) < 100 {
					list += string(b)
				} else if string(b) == big {
					list += "big"
				}
				var reset *ResetError
				if errors.As(err, &reset) {
					list += fmt.Sprint(" ", reset.Code)
				}
				return list
			}
		}
	}
	if got := heads(open(t, c, request("GET", "/interim", 0), "", true)); got != "103 200 ok" {
		t.Errorf("interim: %q", got)
	}
	s := open(t, c, request("POST", "/expect", message.Unknown, field("Expect", "100-continue"), field("Trailer", "X-End")), "", false)
	var r message.Response
	if err := s.Head(&r); err != nil || r.Status != 100 {
		t.Errorf("expect: %d, %v", r.Status, err)
	}
	if err := s.Send(nil, []byte("body"), true, []message.Field{field("X-End", "end")}); err != nil {
		t.Error(err)
	}
	if got := heads(s); got != "200 body <nil> end" {
		t.Errorf("expect: %q", got)
	}
	s = open(t, c, request("POST", "/early", message.Unknown), "", false)
	if got := heads(s); got != "413 " {
		t.Errorf("early: %q", got)
	}
	s.Abort()
	if got := heads(open(t, c, request("GET", "/abort", 0), "", true)); got != fmt.Sprint("200 part ", InternalError) {
		t.Errorf("abort: %q", got)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s := open(t, c, request("POST", "/", message.Unknown, field("Trailer", "X-End")), "", false)
			wg.Go(func() {
				if err := s.Send(nil, []byte(big), true, []message.Field{field("X-End", "yes")}); err != nil {
					t.Error(err)
				}
			})
			if got := heads(s); got != "200 big" {
				t.Errorf("echo: %q", got)
			}
			if tr := s.Trailers(); len(tr) != 1 || string(tr[0].Value) != "yes" {
				t.Errorf("trailers %q", tr)
			}
		})
	}
	wg.Wait()
}

// A connection of prior knowledge, without TLS.
func TestNetHTTPsClientWithoutTLS(t *testing.T) {
	t.Parallel()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: protocols}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		nc, err := l.Accept()
		if err == nil {
			NewServer(nc, Config{}).Serve(hello)
		}
	})
	defer wg.Wait()
	defer tr.CloseIdleConnections()
	defer l.Close()
	res, err := (&http.Client{Transport: tr}).Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hello" || res.ProtoMajor != 2 {
		t.Errorf("%q, %v, %s", b, err, res.Proto)
	}
}
