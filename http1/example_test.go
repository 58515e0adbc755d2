package http1_test

import (
	"fmt"
	"strings"

	"roster/http1"
	"roster/message"
)

// A driver reads a request, looks at it, and writes it on to a backend.
func Example() {
	received := []byte("POST http://shop.test/cart?id=1 HTTP/1.1\r\n" +
		"Host: ignored.test\r\n" +
		"Transfer-Encoding: chunked\r\n" +
		"User-Agent: example\r\n" +
		"\r\n" +
		"5;ext=dropped\r\nhello\r\n0\r\nDigest: abc\r\n\r\n" +
		"GET /next HTTP/1.1\r\n")

	var parser http1.Parser
	var request message.Request
	n, err := parser.Request(received, &request)
	if err != nil || n == 0 {
		return // answer err.(*http1.Error).Status, or receive more
	}
	sent := http1.AppendRequest(nil, &request)

	var body http1.Body
	body.Reset(request.Length)
	rest := received[n:]
	for {
		data, n, event, err := body.Next(rest)
		rest = rest[n:]
		if err != nil || event == http1.More {
			return // cut the connection, or receive more
		}
		if event == http1.End {
			break
		}
		sent = http1.AppendChunk(sent, len(data))
		sent = append(sent, data...)
		sent = append(sent, http1.ChunkEnd...)
	}
	sent = http1.AppendLastChunk(sent, body.Trailers())

	fmt.Printf("%snext: %q\n", strings.ReplaceAll(string(sent), "\r\n", "\n"), rest)
	// Output:
	// POST /cart?id=1 HTTP/1.1
	// Host: shop.test
	// User-Agent: example
	// Transfer-Encoding: chunked
	//
	// 5
	// hello
	// 0
	// Digest: abc
	//
	//
	// next: "GET /next HTTP/1.1\r\n"
}
