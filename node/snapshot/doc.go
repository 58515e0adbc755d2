// Package snapshot keeps a file of what a node serves, for a start without etcd.
//
// A Writer is told of each change after it was applied, adds it to what it has, and
// writes all of it to the file: at once after a pause, at most once in Least and at most
// PerSecond bytes a second on average, and a last time when it ends. Read gives back what
// the file has, as the state that a watcher and a guard go on from.
//
// # Promises
//
// The file is never newer than what is applied, and always whole: it is written beside
// its place, with a checksum, synced, and renamed into it. A process that is killed
// while it writes leaves the older file. What cannot be read whole is not read at all.
//
// Whoever applies changes is never kept waiting: Applied appends to a list. The cost of
// writing is in proportion to what exists, which is why it is bounded over time.
//
// Two processes may follow each other with one file: once Cede has returned, nothing that
// the first one has yet to write, or is writing, comes to be the file.
//
// The file has the keys of certificates and the fleet's secret, as etcd has them. It is
// made for its owner alone (mode 0600), and not read if others may write it.
//
// # What it does not do
//
// Judge whether what it has is still so: the watcher compares it with etcd. Write over a
// file that is not its own: one that is no snapshot, or is of another prefix, is left.
package snapshot
