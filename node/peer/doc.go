// Package peer is what nodes of one fleet tell each other: what they know of backends'
// health, so that a node that starts need not find it out anew.
//
// A Server answers, over mutual TLS and to reads only:
//
//	GET /v1/histories   the history of each check, packed; see below
//	GET /v1/drains      what is left of drained and deleted backends, JSON
//
// With ?prefix= and ?cluster= a request says whose it is; a node of another prefix or
// etcd answers 421. Each answer says in its header whose it is, and Client.Ask drops
// that of another.
//
// # A history on the wire
//
// The body is a run of records, each after its length as a varint:
//
//	32 bytes    the check's prober.Key: equal on all nodes, in all releases
//	varint      milliseconds since its newest probe, by the sender's clock
//	byte        how many bits of the registers are probes, 1 to 64
//	byte        which registers follow, bit n for the nth of prober.History.Rows; others are 0
//	8 bytes     each of those, little-endian
//	varint      how long the last probe took, in microseconds; then the average
//	string      the stage at which the last probe failed, after its length as a varint
//	string      what was wrong, or the first line of the answer
//
// What follows in a record is of a later release, and passed over. Ages are all that is
// said of time, and whoever receives one adds the time since it asked: no clocks of two
// machines are compared.
//
// # What it does not do
//
// Decide: which histories are of use is the prober's business. Anything that a start has to
// wait for: Ask returns when its context ends, with what has come until then.
package peer
