// Package watcher turns a prefix of etcd into an ordered run of changes, each of
// them everything that one revision did, with every value decoded and validated.
//
// New makes a Watcher, Run keeps it going, and one reader calls Next in a loop.
// The first change is the state as it was listed, whole; every later one is what
// a single revision did, or, after a new list, the difference to what had been
// returned before. Summed up they always give the definitions that etcd holds.
//
// # Promises
//
// Changes come in the order of their revisions, none is skipped, and no revision
// is split, however etcd cuts or joins its responses. A reader that is slow makes
// nothing grow without bound: the watcher stops receiving, and etcd keeps the rest.
//
// An invalid value never takes a definition away. Its key keeps the newest valid
// version since it was last created, from memory, else from etcd's history, at
// most 100 versions back and as far as compaction has left it. A key that has none
// is listed with its rejection and without a definition. A delete always deletes.
// So the state is a function of the keyspace at one revision and, for keys whose
// value is invalid, of their earlier versions: a new watcher computes the same.
//
// What was known stays when etcd is lost, and nothing is believed unseen
// afterwards. Every new stream starts with a linearizable read that must show the
// history this watcher knows: the cluster's id, a revision not below the one seen,
// and the keys touched last as they were left. Else, and where compaction took
// what was missed, the prefix is listed again and compared by create revision, mod
// revision and value, so that what did not change is in no change. An empty list
// from the same cluster at no lower revision is the truth, unless a read of the keys
// touched last, at the revision known, shows that it is of another history: then, and
// from another cluster or from a past, it is held (see Status.Held).
//
// # A start without etcd
//
// Where etcd gives no list in time, Config.Saved may give the state that an earlier
// watcher came to. It becomes the first change as if it had been listed at its revision,
// each value decoded anew, and is doubted as what is known after any outage: etcd is
// listed as soon as it answers and compared, so that what did not change is in no change,
// and an empty list, one of the past or one of another cluster is judged as above.
//
// # How it speaks to etcd
//
// One watch on a gRPC stream of its own. The stream that etcd's client offers
// resumes silently, and stays mute after a restore to an older revision; it also
// queues without bound for a slow reader. On a stream of its own the watcher knows
// of each new connection, a progress request is answered to it alone, and flow
// control reaches back to etcd.
//
// # What it does not do
//
// Resolve references between definitions, or decide which of two kinds owns a
// name: that is for whoever builds a table from the changes.
package watcher
