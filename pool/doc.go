// Package pool keeps connections to backends for reuse, and bounds the requests
// to each.
//
// The applier acquires a Pool for every definition and releases it when the
// definition is gone. Pools of definitions with the same identity (address, TLS
// settings, protocol, preamble, via, PROXY header and pool id) share their
// connections. Get returns the most recently used idle connection, or dials; the
// caller owns it until Put (reusable) or Discard (not), exactly one of which
// must follow. What a new connection has to send before anything else (preamble,
// PROXY header) goes out with the first Write.
//
// HTTP/2 carries many requests in one connection: GetSession returns a Session
// with a place reserved in it, and those who come while one is being made wait for
// it instead of dialling one each.
//
// A thread that waits for many sockets by itself, as an epoll loop does, has a Lane
// for idle connections, which are Links: descriptors that the runtime's poller does
// not know. Idle returns one without looking at its socket, of its own Lane or else
// of a neighbour's; Target, Connect and Connected make one without waiting, Open
// where that cannot be. Links and Conns of an identity are counted together, and not
// exchanged. Limit.Enqueue is Acquire for such a thread.
//
// Manager.Run resolves names and closes what was idle for too long.
//
// # Liveness
//
// Get looks at an idle connection before it hands it out, with one non-blocking
// recv of the socket (MSG_PEEK): if the backend closed it or sent anything
// unasked, it is closed and the next one taken. So a close that arrived never
// meets a request, not even one that cannot be sent again, and an answer nobody
// asked for is never taken for the answer to the next request. A close that is
// still under way is the caller's to handle: Conn.Reused says whether to try
// again. Watching idle sockets through epoll instead would save that call, but
// not be certain: the event may be in a queue while the request goes out.
//
// Over TLS the look is a read that does not wait: session tickets and key updates
// come unasked and are no reason to close, and what came with the last answer may
// be in TLS's buffer already. A Session reads its connection all the time, and so
// knows by itself.
//
// The look takes 0.36 us of 0.44 for Get and Put (2 cores of an AMD EPYC, Linux
// 6.18). With Request.Unchecked it is RoundTrip's, which saves the read that
// finds nothing yet in return: a checked request costs less so (14.6 us with the
// origin's part) than an unchecked one by Write and Read (15.0).
//
// An idle Link is watched by its loop, which ends it by TakeIdle when something
// happens. Idle does not look: the event may still be in the queue, so the loop has to.
//
// # Concurrency
//
// All methods may be called at any time from any goroutine, those of Conn and Link
// by the owner only, but for Link.TakeIdle. Connections are dialled and closed
// outside the locks, so a slow backend delays its own callers only. After Run
// returns, Get still dials (by the addresses known) and Put closes: nothing depends
// on the order of shutdown.
//
// # What it does not do
//
// Retry: only the caller knows whether a request may be sent twice. Judge: sick
// backends are dialled like others. Limit: Limit is for callers to hold around a
// request, because it counts requests of a backend's name, not connections.
package pool
