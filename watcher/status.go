package watcher

import "time"

// Status is a copy of what the watcher knows of itself. Taking one is cheap.
type Status struct {
	// Connected: a watch is open on a history that proved to be the expected one.
	// False while an empty list is held.
	Connected bool

	// Seen is the newest revision up to which nothing is missing from the changes
	// that the reader has done with (it is done with a change when it asks for the
	// next). It moves on events and on proofs, also with writes outside the prefix,
	// and goes back only with etcd's history. 0 before the first change.
	Seen int64

	// Listed is the revision of the newest list with which the reader is done: one that
	// found no difference counts, too, of which there is no change. It is not moved by
	// what others write. Compaction may leave nothing else of a change that was undone. 0
	// before the first.
	Listed int64

	// Fresh is the newest moment of which it is proven that every change committed
	// before it, as far as the member of etcd watched knows, has been received. In
	// good times it trails the present by at most about a ProofInterval. Zero before
	// the first proof; it stands still while etcd is lost or a list is held.
	Fresh time.Time

	// Endpoint is the address of the member of etcd watched now, or last.
	Endpoint string

	// Error is why there is no connection; empty if Connected.
	Error string

	// Held, if not empty, says why an empty list is not believed, and what releases it.
	Held string
	// HeldRevision is the one to acknowledge, to have that list believed, and HeldSince
	// when it was first held. Zero while none is.
	HeldRevision int64
	HeldSince    time.Time

	// Cluster is the id of the etcd cluster that the state is from; 0 before the first list.
	Cluster uint64

	Keys     int   // definitions in etcd under the prefix, the rejected included
	Rejected int   // of them, those whose newest value is invalid
	Ignored  int   // keys of no known kind under the prefix
	Ack      int64 // the revision in the prefix's key "ack"; 0 without one
	Relists  int64 // lists completed after the first
	Streams  int64 // watch streams opened
}
