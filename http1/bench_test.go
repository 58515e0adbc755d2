package http1

import (
	"bytes"
	"fmt"
	"testing"

	"roster/message"
)

// Heads as a browser and nginx send them: 10 fields each.
const (
	typicalRequest = "GET /assets/app/main.3f9c2b.js?v=20260401 HTTP/1.1\r\n" +
		"Host: www.example.com\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
		"Accept: */*\r\n" +
		"Accept-Language: en-US,en;q=0.5\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Referer: https://www.example.com/\r\n" +
		"Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n" +
		"Connection: keep-alive\r\n" +
		"Sec-Fetch-Mode: no-cors\r\n" +
		"Sec-Fetch-Site: same-origin\r\n\r\n"
	typicalResponse = "HTTP/1.1 200 OK\r\n" +
		"Server: nginx/1.22.1\r\n" +
		"Date: Sat, 21 Nov 2026 05:00:00 GMT\r\n" +
		"Content-Type: application/javascript\r\n" +
		"Content-Length: 1024\r\n" +
		"Last-Modified: Fri, 20 Nov 2026 05:00:00 GMT\r\n" +
		"Connection: keep-alive\r\n" +
		"ETag: \"691e1234-400\"\r\n" +
		"Cache-Control: public, max-age=31536000\r\n" +
		"Vary: Accept-Encoding\r\n" +
		"Accept-Ranges: bytes\r\n\r\n"
	// What a load generator sends.
	smallRequest = "GET /1k HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n"
)

func BenchmarkRequest(b *testing.B) {
	for _, c := range []struct{ name, head string }{{"typical", typicalRequest}, {"small", smallRequest}} {
		b.Run("head="+c.name, func(b *testing.B) {
			buf := []byte(c.head)
			var p Parser
			var r message.Request
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				if n, err := p.Request(buf, &r); n != len(buf) || err != nil {
					b.Fatal(n, err)
				}
			}
		})
	}
}

func BenchmarkResponse(b *testing.B) {
	buf, method := []byte(typicalResponse), []byte("GET")
	var p Parser
	var r message.Response
	b.ReportAllocs()
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if n, err := p.Response(buf, &r, method); n != len(buf) || err != nil {
			b.Fatal(n, err)
		}
	}
}

// BenchmarkRequestByteByByte shows that the cost grows with the head, not with
// its square: ns/B stays the same.
func BenchmarkRequestByteByByte(b *testing.B) {
	for _, n := range []int{1 << 10, 4 << 10, 16 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("bytes=%d", n), func(b *testing.B) {
			head := "GET / HTTP/1.1\r\nHost: a\r\n"
			for len(head) < n-700 {
				head += "X-Field: " + string(bytes.Repeat([]byte("v"), 600)) + "\r\n"
			}
			buf := []byte(head + "\r\n")
			var p Parser
			var r message.Request
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				for i := 1; i <= len(buf); i++ {
					if n, err := p.Request(buf[:i], &r); err != nil || n != 0 && n != len(buf) {
						b.Fatal(n, err)
					}
				}
			}
		})
	}
}

func BenchmarkAppendRequest(b *testing.B) {
	var p Parser
	var r message.Request
	if _, err := p.Request([]byte(typicalRequest), &r); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendRequest(dst[:0], &r)
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	var p Parser
	var r message.Response
	if _, err := p.Response([]byte(typicalResponse), &r, nil); err != nil {
		b.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendResponse(dst[:0], &r, 1)
	}
}

func BenchmarkChunked(b *testing.B) {
	for _, size := range []int{16, 1024, 16384} {
		b.Run(fmt.Sprintf("chunk=%d", size), func(b *testing.B) {
			var buf []byte
			for range 16 {
				buf = append(append(AppendChunk(buf, size), make([]byte, size)...), ChunkEnd...)
			}
			buf = AppendLastChunk(buf, nil)
			var body Body
			b.ReportAllocs()
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				body.Reset(message.Unknown)
				rest := buf
				for {
					_, n, event, err := body.Next(rest)
					if err != nil {
						b.Fatal(err)
					}
					if event == End {
						break
					}
					rest = rest[n:]
				}
			}
		})
	}
}
