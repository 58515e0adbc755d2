package exchange

import (
	"net/netip"
	"testing"

	"roster/http1"
	"roster/message"
)

// BenchmarkExchange is the policy of a plain request and its answer, without
// reading or writing a byte.
func BenchmarkExchange(b *testing.B) {
	policy := New(Config{})
	peer := policy.Peer(netip.MustParseAddr("192.0.2.1"), false)
	var parser http1.Parser
	var request message.Request
	var answer message.Response
	parser.Request([]byte("GET /path HTTP/1.1\r\nHost: www.example.com\r\nUser-Agent: Mozilla/5.0\r\nAccept: */*\r\n"+
		"Accept-Language: en\r\nAccept-Encoding: gzip\r\nCookie: a=b\r\n\r\n"), &request)
	parser.Reset()
	parser.Response([]byte("HTTP/1.1 200 OK\r\nServer: x\r\nDate: d\r\nContent-Type: text/html\r\nContent-Length: 10\r\n\r\n"), &answer, []byte("GET"))
	var x Exchange
	b.ReportAllocs()
	for b.Loop() {
		x.Begin(policy, &peer, &request)
		x.Client()
		x.Routed(nil, 1)
		x.Picked(plainBackend)
		x.Connected(true)
		if x.Answered(&answer) != Answer {
			b.Fatal("no answer")
		}
	}
}
