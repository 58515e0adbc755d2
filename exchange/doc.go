// Package exchange is one request and its answer as a state machine: it is fed
// with what happened (a head, a connection, a failure) and says what to do next.
// All policy of proxying lives here and only here: which fields pass and which
// are added, who the client is, what is retried, what an error looks like.
//
// A driver owns the sockets. It calls Begin with a request's head and then does
// what each Step says, reporting the outcome with the method that the Step names:
//
//	step := x.Begin(policy, peer, &request)
//	for {
//		switch step {
//		case exchange.Route:
//			step = x.Routed(...)     // or Failed
//		case exchange.Connect:
//			step = x.Connected(...)  // or Failed
//		case exchange.Send:
//			step = x.Answered(...)   // or Failed
//		...
//
// Bodies do not pass through: the driver copies them, by the Length of the heads
// that the exchange hands out, and tells what the exchange has to know of it
// (BodyRead, BodyGone).
//
// # Loops
//
// A request's Via names this proxy and, in a comment, this process: "1.1 roster
// (5f3c9a01)". One that comes back with both is a loop, and answered 508. The name
// alone proves nothing, for an edge tier in front of an inner one has it by
// default as well; but after 16 of it the request is taken for a loop whose
// comments somebody drops, as RFC 9110 7.6.3 allows.
//
// # Memory
//
// Heads borrow: x.Request points into the client's head until the first byte of
// the answer, or BodyGone; x.Response into the backend's head. Everything else is
// in scratch space that the next Begin reuses, so an exchange on a warm Exchange
// allocates nothing. Shrink gives large scratch space back.
//
// # Concurrency
//
// An Exchange belongs to one goroutine at a time. A Policy is immutable and
// shared.
//
// # What it does not do
//
// Know how messages are written: codecs do. Of versions it knows what differs in
// meaning: HTTP/1.0 has no interim answers and no chunks, and an HTTP/2 client's
// connection outlives a request whose body was not read. Choose a
// backend: the table does. Measure time: the driver does, by Timeouts.
package exchange
