// Package sockets opens the sockets that a process listens on, or takes those that it was
// given, and passes them on to the next process.
//
// A Set is all of them. [Inherit] takes what a service manager or an older process of
// roster has left, by the convention of sd_listen_fds(3): descriptors from 3 on,
// LISTEN_FDS says how many, LISTEN_FDNAMES what they are called. [Set.Listen] hands out
// what is wanted by the address it is bound to, or opens it:
//
//	set, err := sockets.Inherit(false)
//	l, err := set.Listen("tcp", ":8080", 1)
//	for _, s := range l.Sockets { ln, err := s.Listener(); ... }
//
// # Several sockets for one address
//
// Listen opens as many as it is asked for, with SO_REUSEPORT: the kernel spreads
// connections over them. What is inherited stays as many as it is: whoever accepts has to
// accept from each of Listener.Sockets, more or fewer than it would have opened, for to
// close one is to reset the connections that wait in it. Opening more would be as bad:
// clients would wait in them before this process serves, and be lost if it never does.
//
// The first socket of an address is opened without that option, so that an address which
// another process listens on is an error.
//
// # Who owns what
//
// A descriptor belongs to its Socket. The file of a Unix-domain socket is removed with it
// only by the process that listens last, and never if a service manager has made it. A
// process that was given sockets by another one owns no file before [Set.Adopt], and one
// that has passed them on none after [Set.Release].
//
// All methods may be called from any goroutine.
package sockets
