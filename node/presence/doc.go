// Package presence tells the fleet, by keys in etcd, that a node is there and how far
// it is.
//
// A Keeper writes two keys: the presence, under a lease that it keeps alive, and the
// membership, without one. The presence says what the node serves by; it is written
// anew when that has changed, at once, but at most once an Interval, and the last state
// always gets written. A node that is idle writes nothing. Run deletes both keys when
// it ends; a node that is killed, or cut off from etcd, leaves its membership: it may
// still be serving, and is unknown to the fleet.
//
// # What it does not do
//
// Decide anything: a node serves on whether its presence can be written or not. Nor
// does it read other nodes' presence.
package presence
