// Package accesslog writes a line for each request, without making a request wait
// for it.
//
//	log, err := accesslog.New(accesslog.Config{Format: accesslog.JSON, File: "access.log"})
//	go log.Run(ctx)
//	log.Record(&accesslog.Entry{Method: method, Status: 200, ...})
//
// Record formats the line into memory and returns; Run writes, every 100 ms or when
// 64 KiB have gathered. When the output does not keep up, the memory (1 MiB) fills
// and further lines are dropped and counted: an output that blocks, such as a full
// pipe, costs lines and never a request.
//
// # What a reader of the log can rely on
//
// A line is a request; nothing that a client sends can begin another line, or leave
// its field. Lines are written whole: what others append to the same file does not
// come between, nor what they write to the same pipe, but in lines above 4 KiB.
// They are in the order in which the requests ended. Where the disk was full in the
// middle of a line, the next line begins on a new one.
//
// # JSON
//
// An object a line. Fields never change their meaning; new ones may come.
//
//	time         when the request's head had been received: RFC 3339, UTC, microseconds
//	client       address of the client, trusted proxies left out
//	client_port  its port, if it is connected to this node itself
//	peer         address of the connection's other end, if that is not the client
//	tls          whether the connection is encrypted
//	method, target, host, proto
//	             of the request, as received; proto is HTTP/1.0, HTTP/1.1 or HTTP/2.0
//	status       of the answer, 0 if there was none
//	bytes        of the answer's body sent
//	received     bytes of the request's body received
//	referer, user_agent
//	route, director, backend, address
//	             which were chosen; address is that of the connection to the backend
//	retries      how often the request was sent again
//	queue        wait for a place at the backend (max_connections)
//	connect      from then until there was a connection; a reused one takes no time
//	first_byte   from time to the first byte of the backend's answer
//	total        from time to the answer's end
//	error        what went wrong, in a word (docs/LISTENERS.md lists them)
//	cause        why there was no connection to the backend
//	request_id   X-Request-Id
//	trace_id     of the trace that the request belongs to, if it is known to belong to
//	             one (docs/TRACING.md); not in the combined format
//	revision     that of the table that routed the request
//
// queue, connect, first_byte and total are in seconds, with six decimals, and absent
// where the request did not come so far. Texts and addresses are absent where there
// is nothing to say. Bytes that are no UTF-8 become U+FFFD, as in encoding/json.
//
// # Combined
//
// Apache's combined format, in local time, and then fields with names:
//
//	192.0.2.7 - - [21/Nov/2026:07:46:40 +0000] "GET / HTTP/1.1" 200 512 "-" "curl/8.5" host="example.com" route="www" director="web" backend="web-1" address="10.0.0.7:8080" received=0 retries=0 queue=0.000002 connect=0.000301 first_byte=0.001204 total=0.001310 error="..." request_id="..." revision=17
//
// The names mean what they mean in JSON, and are absent as there. Status is 000
// where there was no answer, the bytes are - where none were sent. Texts are escaped
// as Apache does it: \" and \\, \n and other such, \xhh for what is not printable
// ASCII.
//
// # Both
//
// Longer texts than these are cut and end in ...: the target at 8 KiB, referer and
// user agent at 2 KiB, others at 512 bytes.
package accesslog
