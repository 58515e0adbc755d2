package exchange_test

import (
	"fmt"
	"net/netip"

	"roster/exchange"
	"roster/http1"
	"roster/message"
	"roster/store"
)

// A driver feeds the exchange with what happened and does what it says. Here the
// events are made up, and a step is printed instead of done.
func Example() {
	policy := exchange.New(exchange.Config{ProxyName: "edge"})
	peer := policy.Peer(netip.MustParseAddr("192.0.2.1"), false)

	var request message.Request
	var parser http1.Parser
	parser.Request([]byte("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: X-Private\r\nX-Private: 1\r\n\r\n"), &request)

	var x exchange.Exchange
	step := x.Begin(policy, &peer, &request)
	for done := false; !done; {
		switch step {
		case exchange.Route:
			fmt.Println("route for", x.Client())
			step = x.Routed(nil, 1)
		case exchange.Pick:
			step = x.Picked(&store.Backend{HostHeader: "10.0.0.7"})
		case exchange.Connect:
			fmt.Println("connect, fresh:", x.Fresh())
			step = x.Connected(!x.Fresh())
		case exchange.Send:
			fmt.Println("send", len(x.Request.Fields), "fields")
			step = x.Failed(exchange.Failure{Kind: exchange.Closed})
		case exchange.Reply:
			fmt.Println("reply", x.Response.Status, string(x.Response.Get(message.ProxyStatus)))
			done = true
		}
	}
	// Output:
	// route for 192.0.2.1
	// connect, fresh: false
	// send 6 fields
	// connect, fresh: true
	// send 6 fields
	// reply 502 edge; error=connection_terminated
}
