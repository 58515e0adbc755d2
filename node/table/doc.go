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
// # Directors
//
// A request is an [Ask]: [Table.Match] finds its route, [Table.Pick] its backend, and
// [Ask.Done] tells what came of it. A director's choice is package balancer's, from a view
// of its members' health that is made off the request path: with the director, and by
// [Applier.Run] when health, an override or the definition of a member changes, many
// changes at once. A view is a hint. Whom it offers is looked up in the request's own
// table, and where it may be out of date, members themselves are asked; so a request gets
// a healthy backend while there is one, and never one of another revision.
//
// Directors that select by labels are in an index with the backends, so a change costs
// what is selected. What a director remembers (its turn, who is ejected, ramps) lives as
// long as its name is a director, and of members by their names.
//
// # Concurrency
//
// A Table may be read from any goroutine, for ever. Apply belongs to one goroutine; the
// Applier's other methods may be called from any. An Ask belongs to one request at a time.
package table
