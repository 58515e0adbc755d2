// Package message holds the heads of requests and responses in no particular
// version of HTTP: field lists over borrowed bytes.
//
// A codec fills them in, the exchange rewrites them, a codec writes them out.
// Every slice is borrowed from the buffer the head was parsed in and is valid
// until that buffer is reused; whoever needs a part for longer copies it.
//
// # Concurrency
//
// None: a head belongs to the connection whose buffer it points into. The
// package itself keeps no state that changes.
//
// # What it does not do
//
// Validate: names are tokens and values free of control characters because the
// codec that read them, or the code that made them, says so. Writers check again.
package message
