// Package balancer chooses among a director's members. It knows positions,
// weights and whether each member may be chosen now; nothing of HTTP, sockets or
// etcd, and it has no clock: the time is an argument, counted from any fixed
// moment.
//
// A [State] is what a director keeps as long as its name is one. From it and the
// members of the moment a [View] is made, off the request path; requests ask the
// newest View:
//
//	view := state.View(def, members, health, view, now)
//	at := view.Pick(&balancer.Query{Key: key, Now: now}, health)
//
// # Promises
//
// A View is a hint: Pick asks again about the member that it chose, and looks at
// all members before it says that there is none. It takes no lock and allocates
// nothing. Cursors, ramps and ejections outlive views and definitions.
//
// # What it does not do
//
// Follow directors that are members of directors, or count requests: the caller
// answers for both in [Members].
package balancer

import "errors"

// ErrNoBackend says that no member may be chosen: all are sick, missing or
// none. The client's answer is 503.
var ErrNoBackend = errors.New("no healthy backend")
