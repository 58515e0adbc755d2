package proxy

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"roster/exchange"
	"roster/node/table"
)

const (
	get  = "GET /x?y HTTP/1.1\r\nHost: h.test\r\n\r\n"
	last = "GET /x?y HTTP/1.1\r\nHost: h.test\r\nConnection: close\r\n\r\n"
	okay = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
)

// status cuts the status out of an answer.
func status(answer string) string {
	if len(answer) < 12 {
		return answer
	}
	return answer[9:12]
}

// one is a rig with one origin as the default backend.
func one(t testing.TB, fields ...string) (*rig, *origin) {
	t.Helper()
	o := newOrigin(t)
	return newRig(t, Config{}, definitions{"backends/a": o.backend(fields...)}), o
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\ngot  %q\nwant %q", what, got, want)
	}
}

func contains(t testing.TB, what, got string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q in it", what, got, want)
		}
	}
}

func TestKeepAliveBothSides(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send(get)
	b := o.accept()
	for i := range 3 {
		if i > 0 {
			c.send(get)
		}
		contains(t, "request", b.head(), "GET /x?y HTTP/1.1\r\nHost: h.test\r\n")
		b.send(okay)
		contains(t, "answer", c.head(), "HTTP/1.1 200 OK\r\n", "\r\nContent-Length: 5\r\n")
		expect(t, "body", c.take(5), "hello")
	}
	r.ended(3)
	if s := r.Stats(); s.Requests[2] != 3 || s.Accepted != 1 || s.Connections != 1 {
		t.Errorf("stats: %+v", s)
	}
}

func TestPipelineIsAnsweredInOrder(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nPOST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	b := o.accept()
	for i := range 3 {
		contains(t, "request", b.head(), fmt.Sprintf(" /%d HTTP/1.1\r\n", i+1))
		if i == 1 {
			expect(t, "body", b.take(3), "abc")
		}
		b.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d", i+1))
	}
	got := c.rest()
	if a, b, c := strings.Index(got, "\r\n\r\n1"), strings.Index(got, "\r\n\r\n2"), strings.Index(got, "\r\n\r\n3"); a < 0 || b < a || c < b {
		t.Errorf("answers: %q", got)
	}
}

func TestChunksAndTrailersPassBothWays(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
	c.send("3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 1\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
	b := o.accept()
	contains(t, "head", b.head(), "\r\nTransfer-Encoding: chunked\r\n", "\r\nTrailer: X-Sum\r\n")
	expect(t, "body", b.until("0\r\nX-Sum: 1\r\n\r\n"), "5\r\nabcde\r\n0\r\nX-Sum: 1\r\n\r\n")
	b.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n")
	contains(t, "answer", c.head(), "\r\nTransfer-Encoding: chunked\r\n")
	expect(t, "first chunk, before the last came", c.until("wiki\r\n"), "4\r\nwiki\r\n")
	b.send("0\r\nX-End: 2\r\nContent-Length: 9\r\n\r\n")
	expect(t, "end", c.until("\r\n\r\n"), "0\r\nX-End: 2\r\n\r\n")
	c.send(get)
	b.head() // on the same connection
	b.send(okay)
	contains(t, "next", c.head(), " 200 ")
}

func TestOldClients(t *testing.T) {
	t.Parallel()
	t.Run("until close", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send("GET / HTTP/1.0\r\n\r\n")
		b := o.accept()
		contains(t, "head", b.head(), "GET / HTTP/1.1\r\nHost: "+o.addr()+"\r\n")
		b.send("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n")
		got := c.rest()
		if !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.HasSuffix(got, "\r\n\r\nabc") || strings.Contains(got, "chunked") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("keep-alive", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		o.serve(okay)
		c := r.dial()
		for range 2 {
			c.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			contains(t, "answer", c.head(), "\r\nConnection: keep-alive\r\n")
			c.take(5)
		}
	})
	t.Run("broken body is a reset", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send("GET / HTTP/1.0\r\n\r\n")
		b := o.accept()
		b.head()
		b.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		c.head()
		b.Close()
		if got := c.rest(); !strings.Contains(got, "reset") {
			t.Errorf("got %q, want a reset", got)
		}
	})
}

func TestBodilessAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, request, answer, want string }{
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "\r\nContent-Length: 1000\r\n"},
		{"HEAD chunked", "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", " 200 OK\r\n"},
		{"204", get, "HTTP/1.1 204 No Content\r\n\r\n", " 204 "},
		{"304", get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: x\r\n\r\n", "\r\nContent-Length: 7\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			o.serve(test.answer)
			c := r.dial()
			for range 2 {
				c.send(test.request)
				contains(t, "answer", c.head(), test.want)
			}
			if n := c.r.Buffered(); n > 0 {
				t.Errorf("%d bytes after the head", n)
			}
		})
	}
}

func TestInterimAnswersPass(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send(get)
	b := o.accept()
	b.head()
	b.send("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
	expect(t, "103", c.head(), "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
	b.send(okay)
	contains(t, "answer", c.head(), " 200 ")
}

func TestExpectContinue(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
	t.Run("continued", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send(head)
		b := o.accept()
		contains(t, "head", b.head(), "\r\nExpect: 100-continue\r\n", "\r\nContent-Length: 5\r\n")
		b.send("HTTP/1.1 100 Continue\r\n\r\n")
		expect(t, "100", c.head(), "HTTP/1.1 100 Continue\r\n\r\n")
		c.send("hello")
		expect(t, "body", b.take(5), "hello")
		b.send(okay)
		if got := c.head(); strings.Contains(got, "close") {
			t.Errorf("answer: %q", got)
		}
		c.take(5)
		c.send(get)
		b.head()
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send(head)
		b := o.accept()
		b.head()
		b.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
		contains(t, "answer", c.rest(), " 413 ", "\r\nConnection: close\r\n")
		expect(t, "backend's connection", b.rest(), "")
	})
	t.Run("unknown", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		contains(t, "answer", r.exchange("GET / HTTP/1.1\r\nHost: h\r\nExpect: more\r\nConnection: close\r\n\r\n"), " 417 ")
		o.quiet()
	})
}

func TestEarlyAnswer(t *testing.T) {
	t.Parallel()
	t.Run("streams while the body does", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
		b := o.accept()
		b.head()
		b.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		contains(t, "answer", c.head(), "\r\nConnection: close\r\n")
		for range 3 {
			c.send("2\r\nhi\r\n")
			expect(t, "at the origin", b.until("hi\r\n"), "2\r\nhi\r\n")
			b.send("2\r\nho\r\n")
			expect(t, "at the client", c.until("ho\r\n"), "2\r\nho\r\n")
		}
		c.send("0\r\n\r\n")
		b.until("0\r\n\r\n")
		b.send("0\r\n\r\n")
		expect(t, "end", c.rest(), "0\r\n\r\n")
	})
	t.Run("ends the upload", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\nabc")
		b := o.accept()
		b.head()
		b.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
		go func() { // goes on sending
			junk := make([]byte, 1<<10)
			for range 1000 {
				if _, err := c.Conn.Write(junk); err != nil {
					return
				}
			}
		}()
		got := c.until("no")
		contains(t, "answer", got, " 403 ", "\r\nConnection: close\r\n")
	})
}

func TestStaleConnection(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		request string
		again   bool
	}{
		{get, true},
		{"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", true},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", false},
		{"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", false},
	} {
		t.Run(test.request[:6], func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			b.send(okay)
			c.head()
			c.take(5)
			c.send(test.request)
			b.head()
			b.Close() // without an answer
			if !test.again {
				contains(t, "answer", c.head(), " 502 ", "Proxy-Status: roster; error=connection_terminated\r\n")
				o.quiet()
				return
			}
			b = o.accept()
			contains(t, "again", b.head(), test.request[:6])
			if strings.Contains(test.request, "abc") {
				expect(t, "body", b.take(3), "abc")
			}
			b.send(okay)
			contains(t, "answer", c.head(), " 200 ")
			if got := r.Stats().Retries; got != 1 {
				t.Errorf("%d retries, want 1", got)
			}
		})
	}
	t.Run("fresh fails", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send(get)
		b := o.accept()
		b.head()
		b.Close()
		contains(t, "answer", c.head(), " 502 ")
		o.quiet()
	})
	t.Run("close seen before use", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send(get)
		b := o.accept()
		b.head()
		b.send(okay)
		c.head()
		c.take(5)
		b.Close()
		c.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
		b = o.accept()
		b.head()
		expect(t, "body", b.take(3), "abc")
		b.send(okay)
		contains(t, "answer", c.head(), " 200 ")
	})
}

func TestTruncatedAnswersAreCut(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, answer, want string }{
		{"length", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "abc"},
		{"chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", "3\r\nabc\r\n"},
		{"no last chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "3\r\nabc\r\n"},
		{"no end of trailers", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", "3\r\nabc\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			b.send(test.answer)
			c.head()
			b.Close()
			expect(t, "body", c.rest(), test.want)
			if got := r.Stats().Failures[exchange.Truncated]; got != 1 {
				t.Errorf("%d truncated answers counted, want 1", got)
			}
		})
	}
}

func TestBadAnswersAre502(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, answer, typ string }{
		{"junk", "SSH-2.0-OpenSSH\r\n\r\n", "http_protocol_error"},
		{"status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", "http_protocol_error"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "http_protocol_error"},
		{"101 unasked", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "http_protocol_error"},
		{"bad chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "http_protocol_error"},
		{"part of a head", "HTTP/1.1 200 OK\r\nX: y\r\n", "http_response_incomplete"},
		{"nothing", "", "connection_terminated"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			b.send(test.answer)
			b.Close()
			contains(t, "answer", c.head(), " 502 ", "Proxy-Status: roster; error="+test.typ+"\r\n", "\r\nX-Request-Id: ")
			// The client's connection is still good.
			c.until("\n")
			c.send(get)
			b = o.accept()
			b.head()
			b.send(okay)
			contains(t, "next answer", c.head(), " 200 ")
		})
	}
}

func TestBytesAfterAnAnswerAreNobodys(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send(get)
	b := o.accept()
	b.head()
	b.send(okay + "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
	c.head()
	expect(t, "body", c.take(5), "hello")
	c.send(get)
	b = o.accept()
	b.head()
	b.send(okay)
	c.head()
	expect(t, "body", c.take(5), "hello")
}

// TestSmuggling: whatever a client sends, the origin sees at most one request
// for each that the client may have meant, and bad framing ends the connection.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	const second = "GET /evil HTTP/1.1\r\nHost: h\r\n\r\n"
	for _, test := range []struct{ name, raw, want string }{
		{"length and chunked", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, "400"},
		{"two lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n" + second, "400"},
		{"list of lengths", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello" + second, "400"},
		{"length wraps", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n" + second, "400"},
		{"signed length", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello" + second, "400"},
		{"space before colon", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 5\r\n\r\nhello" + second, "400"},
		{"folded", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + second, "400"},
		{"bare lf", "POST / HTTP/1.1\nHost: h\nContent-Length: 5\n\nhello" + second, "400"},
		{"bare cr", "GET / HTTP/1.1\r\nHost: h\r\nX: a\rTransfer-Encoding: chunked\r\n\r\n" + second, "400"},
		{"nul", "GET / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n" + second, "400"},
		{"chunked twice", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, "400"},
		{"chunked not last", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + second, "400"},
		{"gzip, chunked", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + second, "501"},
		{"chunked in 1.0", "POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + second, "400"},
		{"two hosts", "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n" + second, "400"},
		{"no host", "GET / HTTP/1.1\r\n\r\n" + second, "400"},
		{"bad host", "GET / HTTP/1.1\r\nHost: h:port\r\n\r\n" + second, "400"},
		{"bad chunk size", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n" + second, "400"},
		{"chunk longer than said", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + second, "400"},
		{"chunk size wraps", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + second, "400"},
		{"http/0.9", "GET /\r\n\r\n" + second, "400"},
		{"http/2.0", "GET / HTTP/2.0\r\nHost: h\r\n\r\n" + second, "505"},
		{"connect", "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n" + second, "501"},
		{"climbing path", "GET /../x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + second, "400"},
		{"nul in path", "GET /%00 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n" + second, "400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			got := r.exchange(test.raw)
			expect(t, "status", status(got), test.want)
			if strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("got %q, want one answer", got)
			}
			contains(t, "answer", got, "\r\nConnection: close\r\n", "error=http_request_error\r\n", "\r\nX-Request-Id: ")
			o.quiet()
		})
	}
}

// TestBrokenUploadIsNeverWhole: a chunked body that breaks after it began to
// stream is cut off at the origin, and answered with 400.
func TestBrokenUploadIsNeverWhole(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, rest, want string }{
		{"framing", "zz\r\n", "400"},
		{"gone", "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			c := r.dial()
			c.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
			b := o.accept()
			b.head()
			b.until("abc\r\n")
			if test.rest == "" {
				c.CloseWrite()
			} else {
				c.send(test.rest)
			}
			if got := b.rest(); strings.Contains(got, "0\r\n\r\n") {
				t.Errorf("origin got %q, want the connection cut", got)
			}
			expect(t, "status", status(c.rest()), test.want)
		})
	}
}

func (p *peer) CloseWrite() { p.Conn.(*net.TCPConn).CloseWrite() }

func TestUpgrade(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send("GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\nearly")
	b := o.accept()
	contains(t, "request", b.head(), "\r\nConnection: upgrade\r\n", "\r\nUpgrade: websocket\r\n", "\r\nSec-WebSocket-Key: k\r\n")
	b.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: a\r\n\r\nfirst")
	contains(t, "answer", c.head(), " 101 ", "\r\nConnection: upgrade\r\n", "\r\nUpgrade: websocket\r\n", "\r\nSec-WebSocket-Accept: a\r\n")
	expect(t, "first bytes", c.take(5), "first")
	expect(t, "early bytes", b.take(5), "early")
	c.send("ping")
	expect(t, "at the origin", b.take(4), "ping")
	b.send("pong")
	expect(t, "at the client", c.take(4), "pong")
	c.CloseWrite()
	expect(t, "end at the origin", b.rest(), "")
	tick := r.tick.Load()
	eventually(t, func() bool { return r.tick.Load() > tick+4 }) // the watch does not mind
	b.send("bye")
	b.Close()
	expect(t, "end at the client", c.rest(), "bye")
}

func TestUpgradeRefused(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	c := r.dial()
	for range 2 {
		c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		contains(t, "answer", c.head(), " 200 ")
		c.take(5)
	}
}

func TestErrorsOfSection6(t *testing.T) {
	t.Parallel()
	closed := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}()
	for _, test := range []struct {
		name   string
		config Config
		defs   definitions
		want   string
	}{
		{"no backend", Config{}, definitions{}, "503 destination_unavailable"},
		{"none", Config{}, definitions{"backends/a": `{"none": true}`}, "503 destination_unavailable"},
		{"dangling route", Config{}, definitions{"routes/a": `{"backend": "b"}`}, "503 destination_unavailable"},
		{"dangling via", Config{}, definitions{"backends/a": `{"host": "127.0.0.1:1", "via": "b"}`}, "503 destination_unavailable"},
		{"refused", Config{}, definitions{"backends/a": fmt.Sprintf(`{"host": %q}`, closed)}, "502 connection_refused"},
		{"prohibited", Config{}, definitions{"backends/a": `{"host": "169.254.0.1:80"}`}, "502 destination_ip_prohibited"},
		{"varnish", Config{Exchange: exchange.Config{VarnishErrors: true}}, definitions{"backends/a": fmt.Sprintf(`{"host": %q}`, closed)}, "503 connection_refused"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, test.config, test.defs)
			got := r.exchange("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			code, typ, _ := strings.Cut(test.want, " ")
			expect(t, "status", status(got), code)
			contains(t, "answer", got, "Proxy-Status: roster; error="+typ+"\r\n", "\r\nX-Request-Id: ", "\r\nContent-Type: text/plain", code+" ")
		})
	}
}

func TestLimitAndQueue(t *testing.T) {
	t.Parallel()
	r, o := one(t, `"max_connections": 1, "wait_limit": 1, "wait_timeout": "10s"`)
	first, second, third := r.dial(), r.dial(), r.dial()
	first.send(get)
	b := o.accept()
	b.head()
	second.send(get)
	rt := r.applier.Current().Lookup("a").Backend.Runtime
	eventually(t, func() bool { return rt.Queued() > 0 })
	third.send(get)
	contains(t, "third", third.head(), " 503 ", "error=connection_limit_reached\r\n")
	b.send(okay)
	first.head()
	b.head()
	b.send(okay)
	contains(t, "second", second.head(), " 200 ")
	if n := rt.Active(); n != 0 {
		t.Errorf("%d active after the last byte of the answer, want 0", n)
	}
}

func TestRetriesTakeAnotherMember(t *testing.T) {
	t.Parallel()
	bad, good := newOrigin(t), newOrigin(t)
	go func() {
		for {
			conn, err := bad.ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	good.serve(okay)
	r := newRig(t, Config{}, definitions{
		"backends/bad": bad.backend(), "backends/good": good.backend(),
		"directors/d": `{"type": "round_robin", "backends": ["bad", "good"]}`,
		"routes/r":    `{"backend": "d", "retries": 1}`,
	})
	for range 4 {
		got := r.exchange("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		expect(t, "status", status(got), "200")
	}
	rt := r.applier.Current().Lookup("bad").Backend.Runtime
	if n := rt.Failures.Load(); n == 0 {
		t.Error("no failure counted for the bad member")
	}
	if n := rt.Active(); n != 0 {
		t.Errorf("%d active, want 0", n)
	}
}

func TestRouteEffects(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{Exchange: exchange.Config{RevisionHeader: true}}, definitions{
		"backends/a": o.backend(),
		"routes/a": `{"match": {"path": "/java/*"}, "backend": "a", "strip_prefix": "/java", "rewrite_host": "inner.test",
			"request_headers": {"set": {"X-A": "1"}, "add": {"X-B": "2"}, "remove": ["X-C"]},
			"response_headers": {"set": {"Server": "roster"}}}`,
		"routes/b": `{"match": {"host": "own.test"}, "respond": {"status": 301, "headers": {"Location": "https://x/"}, "body": "moved"}}`,
	})
	c := r.dial()
	c.send("GET /java/x?q HTTP/1.1\r\nHost: h\r\nX-A: 0\r\nX-C: 3\r\n\r\n")
	b := o.accept()
	got := b.head()
	contains(t, "request", got, "GET /x?q HTTP/1.1\r\nHost: inner.test\r\n", "\r\nX-A: 1\r\n", "\r\nX-B: 2\r\n")
	if strings.Contains(got, "X-C") || strings.Contains(got, "X-A: 0") {
		t.Errorf("request: %q", got)
	}
	b.send("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\n\r\n")
	contains(t, "answer", c.head(), "\r\nServer: roster\r\n", "\r\nX-Roster-Revision: 1\r\n")
	c.send("GET / HTTP/1.1\r\nHost: own.test\r\n\r\n")
	contains(t, "answer", c.head(), " 301 Moved Permanently\r\n", "\r\nLocation: https://x/\r\n", "\r\nContent-Length: 5\r\n")
	expect(t, "body", c.take(5), "moved")
}

// TestConditionNotComputed: that is no fault of the client's.
func TestConditionNotComputed(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, definitions{
		"routes/a": `{"when": "int(req.method) == 0", "respond": {"status": 204}}`,
	})
	c := r.dial()
	for range 2 { // nor a reason to close the connection
		c.send(get)
		contains(t, "answer", c.head(), " 500 ", "\r\nProxy-Status: roster; error=proxy_internal_error\r\n")
		contains(t, "body", c.until("\n"), "the route's condition cannot be computed")
	}
	c.send("GET /../x HTTP/1.1\r\nHost: h\r\n\r\n")
	contains(t, "answer", c.head(), " 400 ")
}

// TestSkippedConditionsAreCounted: a route that on_error has passed over would else be
// missed by nobody.
func TestSkippedConditionsAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig(t, Config{}, definitions{
		"routes/a": `{"when": "int(req.method) == 0", "on_error": "skip", "respond": {"status": 403}}`,
		"routes/b": `{"match": {"host": ["h.test", "*.test"]}, "when": "int(req.host) == 0", "on_error": "skip", "respond": {"status": 403}}`,
		"routes/c": `{"respond": {"status": 204}}`,
	})
	c := r.dial()
	c.send(get)
	contains(t, "answer", c.head(), " 204 ")
	if s := r.Stats(); s.Skipped != 2 || s.Conditions != 0 {
		t.Errorf("%d skipped, %d failed, want 2 and none", s.Skipped, s.Conditions)
	}
}

// TestStrippedPathLeadsWhereRoutesSaw: dot segments do not go up to what a route in front
// of them refuses.
func TestStrippedPathLeadsWhereRoutesSaw(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{}, definitions{
		"backends/a":    o.backend(),
		"routes/public": `{"match": {"path": "/pub/*"}, "backend": "a", "strip_prefix": "/pub"}`,
		"routes/secret": `{"match": {"path": "/secret/*"}, "respond": {"status": 403}}`,
	})
	c := r.dial()
	c.send("GET /pub/../pub/x/./y?a HTTP/1.1\r\nHost: h\r\n\r\n")
	contains(t, "request", o.accept().head(), "GET /x/y?a HTTP/1.1\r\n")
}

func TestForwardedFields(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{Exchange: exchange.Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}},
		definitions{"backends/a": o.backend()})
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nVia: 1.0 other\r\n\r\n")
	contains(t, "request", o.accept().head(),
		"\r\nX-Forwarded-For: 1.2.3.4, 127.0.0.1\r\n", "\r\nX-Forwarded-Proto: https\r\n", "\r\nX-Forwarded-Host: h\r\n",
		"\r\nX-Request-Id: mine\r\n", "\r\nVia: 1.0 other\r\n", "\r\nVia: 1.1 roster (")
}

// Whoever is not trusted could claim to have come by TLS, or from inside.
func TestNoRouteIsChosenByWhatAStrangerForwards(t *testing.T) {
	t.Parallel()
	for _, trusted := range []bool{false, true} {
		var c exchange.Config
		if trusted {
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
		}
		o := newOrigin(t)
		r := newRig(t, Config{Exchange: c}, definitions{
			"backends/a":    o.backend(),
			"routes/secure": `{"match": {"header": {"x-forwarded-proto": "https"}}, "priority": 1, "respond": {"status": 201}}`,
			"routes/inside": `{"when": "'x-forwarded-for' in req.header || req.header.forwarded != ''", "respond": {"status": 202}}`,
		})
		for i, field := range []string{"X-Forwarded-Proto: https", "X-Forwarded-For: 10.0.0.1", "Forwarded: for=10.0.0.1"} {
			conn := r.dial()
			conn.send("GET / HTTP/1.1\r\nHost: h\r\n" + field + "\r\n\r\n")
			if !trusted {
				o.accept().head() // no route took it
				continue
			}
			contains(t, field+" of a trusted proxy", conn.head(), []string{" 201 ", " 202 ", " 202 "}[i])
		}
	}
}

func TestLongBodies(t *testing.T) {
	t.Parallel()
	const size = 20 << 20
	random := func(seed uint64) io.Reader { return rand.NewChaCha8([32]byte{byte(seed)}) }
	same := func(t *testing.T, got io.Reader, n int64) {
		t.Helper()
		want := random(1)
		a, b := make([]byte, 64<<10), make([]byte, 64<<10)
		for n > 0 {
			k := min(int64(len(a)), n)
			if _, err := io.ReadFull(got, a[:k]); err != nil {
				t.Fatalf("%d bytes before the end: %v", n, err)
			}
			io.ReadFull(want, b[:k])
			if string(a[:k]) != string(b[:k]) {
				t.Fatalf("bytes differ within the last %d", n)
			}
			n -= k
		}
	}
	t.Run("answer", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		for range 2 {
			c.send(get)
		}
		b := o.accept()
		for range 2 {
			b.head()
			b.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
			go io.CopyN(b.Conn, random(1), size)
			c.head()
			same(t, c.r, size)
		}
	})
	t.Run("request", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		for range 2 {
			c.send(fmt.Sprintf("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n", size))
			go io.CopyN(c.Conn, random(1), size)
			b := o.accept()
			b.head()
			same(t, b.r, size)
			b.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
			if got := c.head(); !strings.Contains(got, " 204 ") || strings.Contains(got, "close") {
				t.Errorf("answer: %q", got)
			}
		}
	})
	t.Run("until close", func(t *testing.T) {
		t.Parallel()
		r, o := one(t)
		c := r.dial()
		c.send("GET / HTTP/1.0\r\n\r\n")
		b := o.accept()
		b.head()
		b.send("HTTP/1.0 200 OK\r\n\r\n")
		io.CopyN(b.Conn, random(1), 1<<20)
		b.Close()
		c.head()
		same(t, c.r, 1<<20)
		expect(t, "end", c.rest(), "")
	})
}

// TestSlowReader: a client that does not read stops the origin, not the proxy.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send(get)
	b := o.accept()
	b.head()
	const size = 64 << 20
	b.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
	c.head()
	sent, chunk := 0, make([]byte, 256<<10)
	for {
		b.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		n, err := b.Conn.Write(chunk)
		sent += n
		if err != nil {
			break
		}
		if sent > 32<<20 {
			t.Fatal("the proxy took 32 MiB that nobody reads")
		}
	}
	b.SetWriteDeadline(time.Now().Add(patience))
	go func() {
		for sent < size {
			n, err := b.Conn.Write(chunk[:min(len(chunk), size-sent)])
			if err != nil {
				return
			}
			sent += n
		}
	}()
	if n, err := io.CopyN(io.Discard, c.r, size); err != nil {
		t.Errorf("%d bytes, then %v", n, err)
	}
}

func TestClientGoneCancels(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, answer string }{
		{"before the answer", ""},
		{"within the answer", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r, o := one(t)
			c := r.dial()
			c.send(get)
			b := o.accept()
			b.head()
			if test.answer != "" {
				b.send(test.answer)
				c.head()
			}
			c.Close()
			expect(t, "backend's connection", b.rest(), "")
		})
	}
	t.Run("in the queue", func(t *testing.T) {
		t.Parallel()
		r, o := one(t, `"max_connections": 1, "wait_limit": 9, "wait_timeout": "60s"`)
		first, second := r.dial(), r.dial()
		first.send(get)
		o.accept()
		second.send(get)
		rt := r.applier.Current().Lookup("a").Backend.Runtime
		eventually(t, func() bool { return rt.Queued() > 0 })
		second.Close()
		eventually(t, func() bool { return rt.Queued() == 0 })
	})
}

// TestEndTogetherWithRequest: the end of the stream that came with the last
// bytes is noticed although nobody reads it.
func TestEndTogetherWithRequest(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	c := r.dial()
	c.send(get)
	c.CloseWrite()
	contains(t, "answer", c.rest(), " 200 ", "hello")
}

func TestDrain(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	idle, busy := r.dial(), r.dial()
	idle.send(get)
	b := o.accept()
	b.head()
	b.send(okay)
	idle.head()
	idle.take(5)
	busy.send(get)
	b.head()
	done := make(chan error)
	go func() { done <- r.Drain(context.Background()) }()
	expect(t, "idle connection", idle.rest(), "")
	select {
	case err := <-done:
		t.Fatalf("drained with a request in flight: %v", err)
	default:
	}
	b.send(okay)
	contains(t, "last answer", busy.rest(), " 200 ", "\r\nConnection: close\r\n", "hello")
	if err := <-done; err != nil {
		t.Errorf("Drain: %v", err)
	}
	if conn, err := net.Dial("tcp", r.addr); err == nil {
		conn.Close()
		t.Error("still accepts")
	}
}

func TestDrainCutsAfterItsTime(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	c := r.dial()
	c.send(get)
	b := o.accept()
	b.head()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.Drain(ctx); err != context.DeadlineExceeded {
		t.Errorf("Drain: %v", err)
	}
	expect(t, "client", c.rest(), "")
	expect(t, "backend", b.rest(), "")
}

func TestRetire(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	c := r.dial()
	c.send(get)
	c.head()
	c.take(5)
	r.Retire()
	c.send(get)
	contains(t, "answer", c.rest(), "\r\nConnection: close\r\n")
	contains(t, "new connection", r.exchange(get), " 200 ", "\r\nConnection: close\r\n")
}

// TestCutsDoNotMatter: however the bytes of both sides are cut, client and
// origin see the same.
func TestCutsDoNotMatter(t *testing.T) {
	t.Parallel()
	const request = "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\n5;x=y\r\npedia\r\n0\r\nX-T: 1\r\n\r\n" +
		"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789" +
		"GET /c HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
	answers := []string{
		"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n8\r\ndefghijk\r\n0\r\nX-E: 2\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world",
		"HTTP/1.1 404 Not Found\r\n\r\nuntil the end",
	}
	unchunk := func(s string) string { // chunk borders may move with the cuts
		head, body, _ := strings.Cut(s, "\r\n\r\n")
		if !strings.Contains(head, "chunked") {
			return s
		}
		var data strings.Builder
		for {
			line, rest, _ := strings.Cut(body, "\r\n")
			var n int
			fmt.Sscanf(line, "%x", &n)
			if n == 0 {
				return head + "|" + data.String() + "|" + rest
			}
			data.WriteString(rest[:n])
			body = rest[n+2:]
		}
	}
	seeds := 60
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			cut := func(p *peer, s string) {
				random := rand.New(rand.NewPCG(uint64(len(s)), uint64(seed)))
				for len(s) > 0 {
					n := 1 + random.IntN(min(len(s), 1+random.IntN(40)))
					io.WriteString(p.Conn, s[:n])
					s = s[n:]
					for range random.IntN(20) {
						runtime.Gosched() // so that pieces arrive alone, mostly
					}
				}
			}
			r, o := one(t)
			c := r.dial()
			go cut(c, request)
			b := o.accept()
			contains(t, "first", b.head(), "POST /a ")
			data := b.until("\r\n\r\n")
			expect(t, "first body", unchunk("chunked\r\n\r\n"+data), "chunked|wikipedia|X-T: 1\r\n\r\n")
			cut(b, answers[0])
			contains(t, "second", b.head(), "PUT /b ")
			expect(t, "second body", b.take(10), "0123456789")
			cut(b, answers[1])
			contains(t, "third", b.head(), "GET /c ")
			cut(b, answers[2])
			b.Close()
			expect(t, "103", status(c.head()), "103")
			head := c.head()
			body := c.until("X-E: 2\r\n\r\n")
			contains(t, "first answer", unchunk(head+body), "|abcdefghijk|X-E: 2\r\n\r\n")
			expect(t, "second status", status(c.head()), "200")
			expect(t, "second answer", c.take(12), "hello, world")
			contains(t, "third answer", unchunk(c.rest()), " 404 ", "|until the end|\r\n")
		})
	}
}

// TestDrainServesNewcomers: a connection that was made before the listener
// closed has its first request answered, in the queue or not.
func TestDrainServesNewcomers(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	o.serve(okay)
	contains(t, "answer", r.exchange(last), " 200 ") // it listens
	conns := make([]*peer, 20)
	for i := range conns {
		conns[i] = r.dial()
	}
	drained := make(chan error)
	go func() { drained <- r.Drain(context.Background()) }()
	<-r.drained
	for _, c := range conns {
		c.send(get)
		contains(t, "answer", c.rest(), " 200 ", "\r\nConnection: close\r\n")
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestServeEndsWithItsContext: connections and requests do not outlive it.
func TestServeEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r, o := one(t)
	var ln Listener
	addr := open(t, testLoops, &ln)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- r.Serve(ctx, ln) }()
	idle, busy := dial(t, addr), dial(t, addr)
	busy.send(get)
	b := o.accept()
	b.head()
	eventually(t, func() bool { return r.Stats().Connections == 2 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	expect(t, "idle", idle.rest(), "")
	busy.rest()
	expect(t, "backend", b.rest(), "")
	other := r.dial() // the other listener goes on
	other.send(get)
	o.accept().head()
}

// TestEmptyLinesBetweenRequests: they are no request, and none that is late.
func TestEmptyLinesBetweenRequests(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.serve(okay)
	r := newRig(t, Config{HeadTimeout: 50 * time.Millisecond, IdleTimeout: 500 * time.Millisecond}, definitions{"backends/a": o.backend()})
	c := r.dial()
	for range 2 {
		c.send(get + "\r\n")
		c.head()
		expect(t, "body", c.take(5), "hello")
	}
	expect(t, "end, without 408", c.rest(), "")
}

// The whole set is replaced after a request was routed and before it has a backend.
func TestARequestThatHasGoneNowhereGoesByTheNewestTable(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	var swap atomic.Pointer[func()]
	var tables atomic.Pointer[table.Applier]
	c := Config{Table: func() *table.Table {
		routed := tables.Load().Current()
		if f := swap.Swap(nil); f != nil {
			(*f)()
		}
		return routed
	}}
	old := definitions{"backends/old": o.backend(), "directors/default": `{"type":"round_robin","backends":["old"]}`,
		"routes/r": `{"backend":"default","response_headers":{"set":{"X-Set":"old"}}}`}
	r := newRig(t, c, old)
	tables.Store(r.applier)
	replace := func() {
		r.apply(definitions{"backends/old": "", "backends/new": o.backend(), "directors/default": `{"type":"round_robin","backends":["new"]}`,
			"routes/r": `{"backend":"default","response_headers":{"set":{"X-Set":"new"}}}`})
	}
	swap.Store(&replace)
	conn := r.dial()
	conn.send(get)
	b := o.accept()
	b.head()
	b.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	contains(t, "answer", conn.head(), " 200 ", "X-Set: new")
}
