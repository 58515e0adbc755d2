package proxy

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"roster/node/tracing"
)

// loop is an origin that answers every head, and a client, that allocate nothing.
func benchOrigin(b testing.TB, answer string) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				out, buf, end := []byte(answer), make([]byte, 64<<10), []byte("\r\n\r\n")
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return
					}
					for range bytes.Count(buf[:n], end) {
						if _, err := conn.Write(out); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	b.Cleanup(func() { ln.Close() })
	return ln
}

const browserGet = "GET /path/to/a/page?with=query HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\n" +
	"Accept: text/html,application/xhtml+xml\r\nAccept-Language: en\r\nAccept-Encoding: gzip, deflate\r\nCookie: session=0123456789abcdef\r\n\r\n"

func answerOf(n int) string {
	return "HTTP/1.1 200 OK\r\nServer: bench\r\nDate: Sat, 21 Nov 2026 05:47:20 GMT\r\nContent-Type: text/html\r\nContent-Length: " +
		itoa(n) + "\r\n\r\n" + strings.Repeat("x", n)
}

func itoa(n int) string {
	var b []byte
	for ; n > 0; n /= 10 {
		b = append([]byte{byte('0' + n%10)}, b...)
	}
	return string(b)
}

// roundTrip sends a request and reads an answer of a known number of bytes after
// the head; the head's length is learnt by the first.
type benchClient struct {
	conn net.Conn
	buf  []byte
	size int
}

func (c *benchClient) do(request []byte, body int) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	total := 0
	for c.size == 0 || total < c.size {
		n, err := c.conn.Read(c.buf)
		if err != nil {
			return err
		}
		if c.size == 0 {
			c.size = bytes.Index(c.buf[:n], []byte("\r\n\r\n")) + 4 + body
		}
		total += n
	}
	return nil
}

func newBenchClient(b testing.TB, addr string) *benchClient {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	return &benchClient{conn: conn, buf: make([]byte, 256<<10)}
}

func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkLoopback is a whole exchange: client, proxy and origin in one
// process, so its CPU is that of all three. way=direct is client and origin
// alone; the difference is the proxy.
func BenchmarkLoopback(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		for _, way := range []string{"direct", "proxy"} {
			b.Run("body="+itoa(size)+"/way="+way, func(b *testing.B) {
				ln := benchOrigin(b, answerOf(size))
				addr := ln.Addr().String()
				if way == "proxy" {
					addr = newRig(b, Config{}, definitions{"backends/a": `{"host": "` + addr + `"}`}).addr
				}
				c := newBenchClient(b, addr)
				request := []byte(browserGet)
				b.ReportAllocs()
				before := cpu()
				for b.Loop() {
					if err := c.do(request, size); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e3, "cpu-us/op")
			})
		}
	}
}

// BenchmarkTracing is BenchmarkLoopback's proxy, with and without a part in traces. The
// collector takes what comes and reads none of it.
func BenchmarkTracing(b *testing.B) {
	ln := benchOrigin(b, answerOf(1<<10))
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
	b.Cleanup(collector.Close)
	for _, row := range []struct {
		name   string
		config tracing.Config
	}{
		{"off", tracing.Config{}},
		{"on", tracing.Config{On: true, Sample: 0.01}},
		{"export/sample=0.01", tracing.Config{Endpoint: collector.URL, Sample: 0.01}},
		{"export/sample=1", tracing.Config{Endpoint: collector.URL, Sample: 1}},
	} {
		b.Run("tracing="+row.name, func(b *testing.B) {
			var c Config
			if row.config.Enabled() {
				var err error
				if c.Tracing, err = tracing.New(row.config); err != nil {
					b.Fatal(err)
				}
				var done sync.WaitGroup
				ctx, cancel := context.WithCancel(context.Background())
				done.Go(func() { c.Tracing.Run(ctx) })
				defer done.Wait()
				defer cancel()
			}
			r := newRig(b, c, definitions{"backends/a": `{"host": "` + ln.Addr().String() + `"}`})
			client, request := newBenchClient(b, r.addr), []byte(browserGet)
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				if err := client.do(request, 1<<10); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e3, "cpu-us/op")
		})
	}
}

// BenchmarkConnection is a request on a connection of its own.
func BenchmarkConnection(b *testing.B) {
	ln := benchOrigin(b, answerOf(1<<10))
	r := newRig(b, Config{}, definitions{"backends/a": `{"host": "` + ln.Addr().String() + `"}`})
	request := []byte(strings.Replace(browserGet, "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		conn, err := net.Dial("tcp", r.addr)
		if err != nil {
			b.Fatal(err)
		}
		conn.Write(request)
		io.Copy(io.Discard, conn)
		conn.Close()
	}
	b.ReportMetric(float64(cpu()-before)/float64(b.N)/1e3, "cpu-us/op")
}
