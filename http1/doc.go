// Package http1 is the codec of HTTP/1.1 and 1.0: heads and bodies in, heads and
// chunks out. It does no I/O, starts nothing and allocates nothing per message
// once its owner's heads and buffers have grown to size.
//
// Parser reads heads into message.Request and message.Response, which borrow
// from the buffer; Body says which bytes are the body; the Append functions write.
//
// # Promises
//
// The outcome depends on the bytes, not on how they were cut: a head that
// arrives byte by byte gives the same result or error as one that arrives whole,
// at a cost linear in its length.
//
// Framing is never guessed. Whatever RFC 9112 lets a recipient repair, and two
// recipients may repair differently, is refused:
//
//   - a line ends in CRLF; a bare CR or LF is an error everywhere (section 2.2
//     would let LF end a head's line)
//   - Content-Length is one field of digits below 2^63; a list is an error even if
//     its members agree (RFC 9110 section 8.6 would allow it); only a response may
//     repeat the field with the same value
//   - Transfer-Encoding is exactly "chunked", alone, in HTTP/1.1, without
//     Content-Length (section 6.1)
//   - no obs-fold, no whitespace around a field's name, no control characters in a
//     value but tab (sections 2.2, 5.1, 5.2)
//   - the request line has its three parts and two single spaces (section 3); up to
//     four empty lines before it are skipped (section 2.2)
//   - one Host in HTTP/1.1, at most one in 1.0, valid, without userinfo and, stricter
//     than section 3.2, without percent-encoding; an empty one means no authority.
//     The authority of an absolute-form target wins over it (section 3.2.2)
//   - targets are visible ASCII without "#"; absolute-form is http or https,
//     authority-form is for CONNECT only, "*" for OPTIONS only (section 3.2)
//   - a status line is "HTTP/1.x DDD", optionally with a space and a reason (section 4)
//   - a chunk is its size in hex, an optional extension, which is checked for
//     control characters and dropped, CRLF, data, CRLF (section 7.1)
//
// Writers decide the framing themselves from Length, and leave out what could
// end a line early.
//
// # What it does not do
//
// Policy: hop-by-hop fields, Via and everything else a proxy does to a head is
// the exchange's; reading, time limits and closing are the driver's.
package http1
