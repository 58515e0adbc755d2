// Package proxy is the data plane: it serves clients on listeners and passes their
// requests to backends. What is done to a request is package exchange's, what its bytes
// mean is package http1's or http2's; this package moves them, in goroutines or, plain
// HTTP/1.1 on Linux, in loops (worker.go and evented*.go). Both do the same, unless it
// is said here.
//
// Serve runs a listener. Drain ends all of them in good order; the end of Serve's
// context ends one at once.
//
// # One connection in a loop
//
// A worker is a loop (package node/loop) with its share of the listening sockets, its
// clients and its idle connections to backends; nothing of them is locked. A client,
// evented, is a state (phase) that is moved on by what its socket, its backend's socket, a
// timer or another goroutine says. It never waits: a dial that must, and the wait for a
// revision, are a goroutine's, which posts what came of it; turn says whether the client
// still wants it. What a loop does not speak (an upgrade, HTTP/2, a backend over TLS) leaves
// it once, and is then served as below.
//
// An idle connection is not looked at before a request that may be sent twice. Its epoll
// is: bytes that nobody asked for, or an end, are known if they came before the loop's last
// wait returned. So they are taken for the next answer's only if they come in that turn or
// later, where no look would help for certain, as a request may meet them on its way.
//
// # Descriptors of a loop
//
//   - A listening socket is its Socket's. Workers that listen to it borrow it; the last of
//     them to stop closes the Socket.
//   - A client's belongs to its evented from accept until free, which closes it, or leave:
//     there it is duplicated for package net, and the original closed.
//   - One being connected is the backend's and so its client's, which closes it if it
//     fails, or is not wanted any more.
//   - One that is connected is that of the worker whose client has it in use. While it is
//     idle its Lane has it: who takes it from there (a client of this worker, one of another
//     by stealing, an event that says it is of no more use, the pool that ends it) owns it
//     and nobody else. A worker from which it was stolen forgets it, and does not close it.
//   - One that a goroutine has dialled is the goroutine's until the posted function has
//     taken it; it closes it if the client went meanwhile.
//   - Pipes belong to the loop, but to a client from Pipe to PutPipe.
//
// # One connection in a goroutine
//
// A connection has one goroutine. Without a request it holds no buffer: it waits
// for the socket to become readable, and only then takes the memory to serve. A
// request that is in memory as a whole is served without leaving that wait, so
// that neither the client's nor the backend's socket is read before there is
// something to read: a request costs a read and a write on either side, and no
// call beyond those four but the pool's look at the idle connection. Over TLS the
// same holds.
//
// A connection that speaks HTTP/2, agreed on by ALPN or known by its preface, has a
// goroutine for each stream, and a stream is a client of its own: the same steps,
// without the connection's part. A backend that speaks HTTP/2 is called in a
// session, which the pool shares among requests.
//
// A second goroutine exists only while a request's body streams, so that an
// answer may come before its end, and in tunnels.
//
// # What a client can rely on
//
// The answer is whole, or visibly not: a failure after the head went out closes
// the connection short of the announced length, before the last chunk, or, where
// closing would say that all is well, with a reset. Requests of a pipeline are
// answered in their order. After a request that cannot be understood the
// connection ends; what the client still sends is read for a while, so that the
// answer is not lost in a reset.
//
// # What a backend can rely on
//
// A request is whole or cut off, never ended early in good form. When the client
// has gone, its request is cancelled within a second or so (requests that have
// waited for 2 s are looked at once a second only).
//
// Gone is a client whose stream has ended. One that shuts down its sending side
// and still waits for the answer (printf | nc -N) looks the same, for TCP tells
// the two apart only when something is sent; so it gets none either if the backend
// takes more than half a second, as with nginx and net/http. The other reading
// would leave every abandoned request at its backend until first_byte_timeout. In
// tunnels the end of one direction is passed on, and the other goes on.
//
// # What the table is told
//
// Of each backend that it chose for a request it is told once what came of that: when
// the answer is here as a whole, or when it failed, before another is chosen; of a tunnel
// at the switch, for it may last for days. A request that is sent again to the same
// backend is one choice.
//
// # Bounds
//
// Bodies stream: a request holds at most one buffer of 64 KiB for each direction
// whatever its size, and whoever reads slowly slows the sender down. Each wait has
// a timeout: Config's for clients, the definition's for backends.
package proxy
