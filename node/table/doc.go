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
// [Runtime] (limit and counters, by name), its reference to a pool (by
// address) and that to a prober (by check; see [Applier.Probe]). All are carried
// from table to table by identity. A removed backend finishes its requests and
// then owns nothing.
//
// # Health
//
// Whether a backend is available is the operator's word, else its probe's verdict,
// which changes without a new table: [Slot.Available] asks for that of now. A
// definition that changes the check gets a reference of its own, which begins with
// the verdict of the older one; so no request sees one definition with the verdict
// on another. The queue of a sick backend is shut.
//
// # Concurrency
//
// A Table may be read from any goroutine, for ever. An Applier belongs to one
// goroutine; its Current may be called from any.
package table
