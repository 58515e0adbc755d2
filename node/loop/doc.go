// Package loop serves many sockets with one thread: epoll, timers, and a mailbox
// for what other goroutines have to say. It knows no protocol. It works on Linux
// only; New fails elsewhere.
//
// A Source is a descriptor in a loop. It lies in its owner's struct, and its
// Handler is told what it is ready for. Sources are edge-triggered unless they are
// listeners: a handler reads or writes until ErrAgain, or calls Again and goes on
// when the others have had their turn.
//
// # A turn
//
// epoll_wait returns up to 256 events. They are noted in their Sources first, so
// that Pending tells of an event that has come but was not delivered yet, and
// then delivered one by one; after those the Sources that asked for it with
// Again, then what was posted, then the timers that are due. Now is the time at
// which epoll_wait returned.
//
// # Concurrency
//
// Post, Stop and Steal may be called from any goroutine. All else is for the
// loop's own goroutine: from handlers, timers and posted functions, and before Run.
//
// That has a thread to itself. No call blocks but the wait for events,
// which enters the kernel by way of the scheduler: it holds up neither the garbage collector
// nor other goroutines. All others are too short for that to pay. A loop with little to do
// waits in Go's own poller instead, without a thread.
//
// # Descriptors
//
// A descriptor has one owner. Add lends it to the loop's epoll; Close, Reset and
// Release take it out of there, Close and Reset for ever. An event that was
// fetched before that is never delivered, neither to its Source nor to the next
// one with the same number. When Run returns, the loop has closed what is its own
// and nothing else.
//
// # What it does not do
//
// Block, retry, or, while it has much to do, allocate in a turn. Bound what a handler
// does: one that takes long delays all others.
package loop
