// Package store is what roster keeps in etcd: the definitions of backends,
// probes, directors, routes, certificates and health overrides, and the client
// that reads and writes them.
//
// Decode turns a key and its value into a definition and reports everything
// that is wrong with it at once; Encode writes it back. Defaults are filled in
// by Decode, so that readers of a definition see what is in effect, and left
// out by Encode: Decode(key, Encode(def)) equals def.
//
// # Definitions
//
// A definition from Decode is never changed again, by anyone: it is shared by
// every table that holds its key, and lists in it may be shared between
// definitions. It refers to nothing outside itself; names in it (a probe, a
// via, a director's members) may be of definitions that do not exist.
//
// Values are strict JSON. An unknown or repeated field, a wrong type, a value
// out of range, invalid UTF-8 and anything after the value are errors.
//
// # The client
//
// A Store reads and writes keys under one prefix: at one revision, with
// compare-and-swap, many at once. It knows keys and bytes; what they mean is
// Decode's business.
//
// # What it does not do
//
// Watching (package watcher), following references, and anything that needs
// the network or the file system to judge a definition: a socket that is
// missing or a name that does not resolve is a matter of the node.
package store
