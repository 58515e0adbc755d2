package proxy

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"roster/http1"
	"roster/message"
)

// recorded are what the fuzz targets begin with.
var recorded = []string{
	get,
	get + get + "GET /2 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
	"GET /1 HTTP/1.0\r\n\r\n",
	"HEAD /2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + get,
	"POST /3 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc" + get,
	"POST /4 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nX: y\r\n\r\n" + get,
	"POST /5 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n" + get,
	"POST /6 HTTP/1.1\r\nHost: h\r\nContent-Length: 30\r\n\r\nabc",
	"GET /7 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + get,
	"PUT /8 HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab" + get,
	"GET /9 HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + get,
	"OPTIONS * HTTP/1.1\r\nHost: h\r\nMax-Forwards: 0\r\n\r\n" + get,
	"\r\n\r\nGET http://a/b?c HTTP/1.1\r\nHost: h\r\nVia: 1.1 roster\r\n\r\n",
}

// FuzzCuts sends the same bytes to a proxy twice, cut in two ways, to origins
// that cut their answers too. Neither client nor origin may see a difference,
// and no request may reach the origin that was not in the client's bytes. It is about
// goroutines, in a bubble; FuzzDrivers asks the same of loops, over sockets.
func FuzzCuts(f *testing.F) {
	for i, s := range recorded {
		f.Add([]byte(s), uint64(i))
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		if len(data) > 4<<10 {
			return
		}
		whole := play(t, data, rand.New(rand.NewPCG(0, 0)), false)
		cut := play(t, data, rand.New(rand.NewPCG(1, seed)), true)
		if whole.client != cut.client {
			t.Errorf("the client's answers depend on the cuts:\n%q\n%q", whole.client, cut.client)
		}
		if whole.origin != cut.origin {
			t.Errorf("the origin's requests depend on the cuts:\n%q\n%q", whole.origin, cut.origin)
		}
		if n := bytes.Count(data, []byte("HTTP/1.")); whole.requests > n {
			t.Errorf("%d requests at the origin, of at most %d", whole.requests, n)
		}
	})
}

// script is what both ends saw.
type script struct {
	client, origin string
	requests       int
}

// changing is what differs from run to run: times and ids.
var changing = regexp.MustCompile(`(?m)^(Date|X-Request-Id|Via): .*\r\n`)

// play lets a client send data and collects all it gets until the proxy closes
// the connection.
func play(t *testing.T, data []byte, random *rand.Rand, cuts bool) script {
	var s script
	inBubble(t, Config{}, `, "host_header": "origin.test"`, nil, func(t *testing.T, p *pipes) {
		var origins sync.WaitGroup
		var mu sync.Mutex
		var seen []string
		stop := make(chan struct{})
		origins.Go(func() {
			for {
				select {
				case <-stop:
					return
				case conn := <-p.backends:
					origins.Go(func() {
						defer conn.Close()
						originOf(conn, func(r string) {
							mu.Lock()
							seen = append(seen, r)
							mu.Unlock()
						}, cuts)
					})
				}
			}
		})
		c := p.client()
		var got []byte
		var reading sync.WaitGroup
		reading.Go(func() { got, _ = io.ReadAll(c.Conn) })
		for rest := data; len(rest) > 0; {
			n := len(rest)
			if cuts {
				n = 1 + random.IntN(min(n, 1+random.IntN(60)))
			}
			if _, err := c.Conn.Write(rest[:n]); err != nil {
				break
			}
			rest = rest[n:]
			synctest.Wait()
		}
		reading.Wait() // the proxy's timeouts end it
		c.Close()
		close(stop)
		s.client = answers(changing.ReplaceAllString(string(got), ""))
		p.closeIdle()
		origins.Wait()
		mu.Lock()
		defer mu.Unlock()
		s.origin, s.requests = strings.Join(seen, "\n"), len(seen)
	})
	return s
}

// closeIdle closes idle backend connections, which the origins wait for.
func (p *pipes) closeIdle() {
	b := p.applier.Current().Lookup("a").Backend
	b.Pool.Drain(true)
}

// answers takes chunk borders out of a client's stream: they may be anywhere.
func answers(stream string) string {
	var out strings.Builder
	for {
		head, rest, ok := strings.Cut(stream, "\r\n\r\n")
		out.WriteString(head)
		if !ok {
			return out.String()
		}
		out.WriteString("|")
		stream = rest
		if !strings.Contains(head, "Transfer-Encoding: chunked") {
			continue // a body becomes part of the next head; both streams alike
		}
		var body http1.Body
		body.Reset(message.Unknown)
		buf := []byte(stream)
		for {
			piece, n, event, err := body.Next(buf)
			buf = buf[n:]
			out.Write(piece)
			if err != nil || event == http1.More {
				return out.String() + fmt.Sprint(err)
			}
			if event == http1.End {
				fmt.Fprintf(&out, "%q", body.Trailers())
				break
			}
		}
		stream = string(buf)
	}
}

// originOf answers the requests of one connection, in a way that their target
// decides, and reports each once it is whole.
func originOf(conn io.ReadWriter, report func(string), cuts bool) {
	r := bufio.NewReader(conn)
	for {
		var head []byte
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			b, err := r.ReadByte()
			if err != nil {
				return
			}
			head = append(head, b)
		}
		var parser http1.Parser
		var request message.Request
		if n, err := parser.Request(head, &request); n != len(head) || err != nil {
			report(fmt.Sprintf("NOT A REQUEST: %q: %v", head, err))
			return
		}
		var body http1.Body
		var content []byte
		body.Reset(request.Length)
		for {
			_, _, event, err := body.Next(nil)
			if event == http1.End || err != nil {
				break
			}
			b, err := r.ReadByte()
			if err != nil {
				return // cut off: not a request
			}
			one := []byte{b}
			for len(one) > 0 {
				piece, n, event, err := body.Next(one)
				content = append(content, piece...)
				one = one[n:]
				if err != nil {
					report(fmt.Sprintf("BROKEN BODY: %q: %v", content, err))
					return
				}
				if event == http1.End {
					break
				}
			}
		}
		report(changing.ReplaceAllString(string(head), "") + string(content) + fmt.Sprintf("%q", body.Trailers()))
		answer := "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
		if string(request.Method) == "HEAD" {
			answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
		} else {
			switch len(request.Target) % 5 {
			case 1:
				answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n8;x\r\n01234567\r\n0\r\nX-T: 1\r\n\r\n"
			case 2:
				answer = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"
			case 3:
				answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end"
			}
		}
		for out := []byte(answer); len(out) > 0; {
			n := len(out)
			if cuts {
				n = min(n, 7)
			}
			if _, err := conn.Write(out[:n]); err != nil {
				return
			}
			out = out[n:]
		}
		if strings.Contains(answer, "until the end") {
			return
		}
	}
}
