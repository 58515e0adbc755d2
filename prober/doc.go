// Package prober checks backends' health: every distinct check is probed once,
// however many backends it serves.
//
// CheckOf turns a backend and its probe into a Check, whose Key is all that makes
// a difference on the wire. Acquire returns a backend's Ref to the prober of its
// check and makes that if there is none; Healthy is the verdict, Release ends it. For
// a definition that changed, acquire the next one with Use.Carry before the release.
// Manager.Run probes. Use.Notify gets what changed. Once makes a check once, with all
// that was sent and received.
//
// # Judging
//
// A prober keeps a History: 64-bit registers as Varnish's, one bit a probe. What
// makes it a verdict (window, threshold, initial) is a backend's own Judge, so
// that those which differ in it alone share a prober, and one that joins a prober
// later is judged by the history at once. Before the first answer Judge.Initial
// decides for a new backend; the verdict that one had before
// (Use.Carry) holds until then.
//
// A probe that fails for a fault of this machine (no ports, no descriptors) is not
// part of the history: it is counted, logged, and made again within a second.
//
// # What is good
//
// Over HTTP/1.1, an answer with the expected status whose head package http1
// reads, since no other would pass through the proxy either; interim answers
// before it are skipped. With expect_close the backend has to close the connection
// within the timeout; without, the probe is over when the head is complete. Over
// HTTP/2 (h2 and h2c), the final head with the expected status. gRPC: SERVING from
// grpc.health.v1.Health/Check, over HTTP/2 whatever the backend's protocol. TCP: a
// connection, with TLS if there is any; preamble and PROXY header are sent.
//
// # Pace
//
// A new prober's first probe is due at once. The second comes within an interval,
// at a time that depends on node and check; later ones come an interval after the
// last ended, two percent more or less. So neither the checks of a node nor the
// nodes of a fleet are in step. Concurrency is bounded, and probes that run into
// their timeouts wait only for each other: see Config.Concurrency.
//
// # Concurrency
//
// All methods may be called at any time from any goroutine. A verdict is one
// atomic word, a History one atomic pointer: all its registers belong together.
// Acquire and Release do no I/O and cost the same whatever exists. After
// Run returned they still work, and nothing is probed any more.
//
// # What it does not do
//
// Override: an operator's word on a backend is above its verdict, and the business
// of those who choose backends; probing goes on under it. Log transitions: Notify's
// owner knows what they are about.
package prober
