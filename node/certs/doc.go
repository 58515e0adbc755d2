// Package certs chooses the certificate that a listener shows to a client.
//
// A Set has certificates from two places: files, which Run reads again when they
// change, and definitions, which Apply brings up to date. TLS gives the
// configuration for listeners; it never changes, and always serves what the Set
// has at that moment:
//
//	set, err := certs.New(certs.Config{Files: []certs.Pair{{Cert: "a.pem", Key: "a.key"}}})
//	listener := tls.NewListener(plain, set.TLS())
//	go set.Run(ctx)
//	set.Apply(map[string]*store.Certificate{"www": definition, "old": nil})
//
// # Which certificate
//
// One that has the client's server name (SNI) as a host; else one that has it
// with "*" for its first label; else the first file; else none, and the
// handshake fails with the alert unrecognized_name. Of several for one host,
// files come first, in the order given, then definitions by name; the first is
// taken that the client can use, so that an RSA and an ECDSA certificate may
// stand side by side. A client without a server name gets the first file.
//
// # Changes
//
// A handshake sees all of an Apply or nothing of it. Connections that are open
// go on. A session that a client resumes shows no certificate, so it is resumed
// whatever became of the one it began with. With a client CA it is resumed only
// while the client's certificate is still good by the newest CA file.
//
// A file that becomes unreadable or wrong changes nothing: what was loaded last
// stays, the fault is logged once per change of the file, and counted.
//
// # What it does not do
//
// Revocation (CRL, OCSP stapling), ACME, different client CAs by server name,
// keys of session tickets shared by nodes: crypto/tls makes new ones every day,
// and a client that comes to another node makes a full handshake there.
package certs
