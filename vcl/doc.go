// Package vcl reads the backends, probes and directors of a VCL file into definitions,
// and writes backends and probes as VCL.
//
// Parse takes VCL 4.0 and 4.1: backend and probe declarations with all attributes of
// vcl-backend(7) and vcl-probe(7), and the directors of vmod_directors(3) that vcl_init
// makes. VCL's default backend, the first, becomes the route default. Everything else
// is not imported, and there is a Note for each statement of it.
//
// # Where Varnish differs
//
// What VCL leaves open is filled in as Varnish does, where roster's default is another:
// the Host field of a backend is its .host as written, without the port, and a
// .threshold alone means a window of one more.
//
// A string attribute may be several strings, one after the other or joined by "+",
// where Varnish takes one, and a probe within a backend may have a ";" behind it. Names
// may be used before they are declared.
//
// # Errors
//
// All errors of a file and of those it includes are reported together, each with file,
// line and column; a definition that package store refuses is one of them. No input
// makes Parse fail otherwise, or take longer than in proportion to its size.
package vcl
