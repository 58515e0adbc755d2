package watcher

import (
	"time"

	"roster/store"
)

// A Change is everything one etcd revision did to the definitions under the
// prefix or, if Listed, the difference between a list of all of them and what
// had been returned before.
type Change struct {
	// Revision is the one that did it, or that of the list. It is one of etcd's
	// history as it is now, so it may be lower than that of the change before:
	// then etcd was restored or replaced, and Listed is set.
	Revision int64

	// Touched is the newest revision known to have touched a definition: Revision,
	// or in a list the newest of the keys listed (what was deleted last cannot be
	// seen in one), but not less than before in the same history. 0: none.
	Touched int64

	// Puts and Deletes are sorted by key. They may both be empty in the first
	// change, in one that only says that the revision went back, and in one that only
	// raises Ack.
	Puts    []Item
	Deletes []store.Key

	// Listed says that this change comes from a list: it may sum up many revisions.
	Listed bool

	// Resumed says that this change, the first, is the state that was saved, see
	// Config.Saved. Listed is set, too: it is of a list of then.
	Resumed bool

	// Cluster is the id of the cluster of etcd that Revision is of.
	Cluster uint64

	// Ack is the revision up to which removals are acknowledged: the value of the key
	// "ack" as of Revision, but not above the revision that wrote it, and 0 without one, or
	// with one that is no number. In a list that was held, and is believed
	// because it is acknowledged, it is at least Revision. A change that raises Ack and
	// does nothing else has neither Puts nor Deletes, and is not Listed.
	Ack int64

	// Received is when etcd's message with the revision arrived, or when the list
	// was complete; before any value of it was decoded.
	Received time.Time
}

// An Item is one key after a change.
type Item struct {
	Key store.Key

	// CreateRevision and ModRevision are of the version in effect; 0 without one.
	CreateRevision int64
	ModRevision    int64

	// Definition is the version in effect, shared and never to be changed. Nil: the
	// key has no valid version, so that it is absent although Rejected lists it.
	Definition store.Definition

	// Value is the version in effect as etcd has it, if Config.Values asks for it.
	// It may hold a key: it is not to be shown.
	Value string

	// Warnings are those of decoding Definition.
	Warnings []string

	// Rejected says that the newest value of the key is invalid. Nil: it is in effect.
	Rejected *Rejection
}

// A Rejection says why the newest value of a key is not in effect.
type Rejection struct {
	Revision int64 // the mod revision of that value
	Err      error // of store.Decode: everything that is wrong with it

	CreateRevision int64  // of the key
	Value          string // of the key, if Config.Values asks for it; not to be shown
}
