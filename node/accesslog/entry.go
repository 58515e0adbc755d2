package accesslog

import (
	"net/netip"
	"time"
)

// An Entry is what is known of a request that has ended. Fields that are zero are
// left out of the line where the package's documentation says so.
type Entry struct {
	// Time is when the request's head had been received.
	Time time.Time
	// Client is who sent the request, by the word of trusted proxies (the port is 0
	// then); Peer is the connection's other end. Neither is valid for a Unix socket.
	Client, Peer netip.AddrPort

	// These may be any bytes, as a client sent them.
	Method, Target, Host, UserAgent, Referer, RequestID []byte
	// TraceID is that of the trace the request belongs to, in hexadecimal digits.
	TraceID []byte
	// Proto is such as "HTTP/1.1".
	Proto string
	TLS   bool

	// Status is 0 if the client got none.
	Status int
	// Received and Sent are bytes of the bodies.
	Received, Sent int64

	// Director is the name of the target if that is not the backend itself.
	Route, Director, Backend string
	// Address is the other end of the backend's connection.
	Address netip.AddrPort
	Retries int

	// Queue is the wait for a place at the backend, Connect the time from then until
	// there was a connection, FirstByte the time from Time until the answer's first
	// byte came, Total from Time until the end. They are below 0 if the request did
	// not come so far.
	Queue, Connect, FirstByte, Total time.Duration

	// Error is what went wrong, in a word; Cause is what the system said of it.
	Error, Cause string
	// Revision is that of the table that routed the request.
	Revision int64
}

// At how many bytes texts are cut.
const (
	maxTarget = 8 << 10 // as much as servers take of a request line, usually
	maxText   = 2 << 10 // referer, user agent
	maxName   = 512     // others

	// maxEscape is how long one byte becomes at most: \u0000.
	maxEscape = 6
	// maxRest bounds what a line has besides: names, numbers, addresses.
	maxRest = 1 << 10
	// maxLine bounds a line.
	maxLine = maxRest + maxEscape*(maxTarget+2*maxText+10*maxName)
)
