// Package table holds what one node knows at one revision: backends,
// directors and routes, compiled for the request path.
//
// A [Table] is immutable. The [Applier] turns each change of the watcher into
// the next Table and publishes it with one atomic store, so a request that
// loads the pointer once sees exactly one revision, and a change costs what it
// touches: every name has a slot, given at its first mention; directors and
// routes hold slots, so a changed backend replaces its own slot and nothing
// that refers to it.
//
// # Runtime objects
//
// Only the Applier creates and releases what outlives a table: a backend's
// [Runtime] (limit and counters, by name) and its reference to a pool (by
// address). Both are carried from table to table by identity. A removed
// backend finishes its requests and then owns nothing.
//
// # Concurrency
//
// A Table may be read from any goroutine, for ever. An Applier belongs to one
// goroutine; its Current may be called from any.
package table
