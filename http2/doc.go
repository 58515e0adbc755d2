// Package http2 is the stream layer of HTTP/2 (RFC 9113), for servers and
// clients: it turns a connection into streams, each one request and its answer.
// Frames are read by golang.org/x/net/http2's Framer and field blocks by its hpack.
//
// A server calls NewServer and Serve, whose handler gets a goroutine for each
// stream:
//
//	err := http2.NewServer(conn, http2.Config{}).Serve(func(s *http2.Stream) {
//		var in message.Request
//		if err := s.Request(&in); err != nil {
//			// answer its Status
//		}
//		s.Send(&head, body, true, nil)
//	})
//
// A client calls NewClient, runs Run in a goroutine, and for each request Reserve,
// Open, Head and Read:
//
//	if !conn.Reserve() {
//		// another connection
//	}
//	s, sent, err := conn.Open(&request, "https", body, true)
//	if err == nil && sent < len(body) {
//		err = s.Send(nil, body[sent:], true, nil)
//	}
//	err = s.Head(&head) // again while Status is 1xx
//
// # Promises
//
// A handler sees only requests that are well-formed (RFC 9113 section 8): what is
// malformed resets its stream and is never seen. What is well-formed but not a
// request http1 would have read (a target that is no path, a Host that differs
// from :authority) is an *http1.Error from Request. A body is never shorter or
// longer than its content-length without an error from Read.
//
// An answer that is malformed is an *http1.Error from Head, with Status 502; only
// space around a field's value, which several servers leave, is dropped instead.
//
// Memory for a connection is bounded: by ConnWindow for bodies not read yet, by
// MaxHeaderSize for each stream, and by 128 KiB or so for what waits to be written.
// What a peer can do to make work (resets, empty frames, endless field blocks,
// answers not read) has a budget; who exceeds it loses the connection.
//
// One write to the connection carries a head, its body and its end where that is
// at most a TLS record (16384 bytes); frames are cut so that longer bodies fill
// records if a Send has a multiple of 16375 bytes.
//
// Fields borrow from strings that are never changed: they stay valid for as long as
// they are referred to, and must not be written to.
//
// # Concurrency
//
// Methods of Conn may be called from any goroutine. A Stream may be read by one
// goroutine while another sends; Abort, Reset, OnGone, ReadEnded and the Arm methods
// are for any. A server's stream is invalid once its handler has returned. A
// client's stream must be read to io.EOF and sent to its end, or Reset or Abort
// must be called, for its place and window to be given back.
//
// # What it does not do
//
// Server push, priorities (RFC 9218 and before), extended CONNECT (RFC 8441),
// upgrade from HTTP/1.1, and padding or compression of what is sent: fields
// go out as literals or references to the static table, which costs bytes but no
// state and little time. Proxying policy is the exchange's.
package http2
