package pool

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// ErrDangling is what Acquire's error wraps if a definition refers to something
// that was not handed to it: a via, or a certificate.
var ErrDangling = errors.New("dangling reference")

// ErrStale is RoundTrip's on a reused connection that its backend had closed.
var ErrStale = errors.New("pool: connection was closed while it was idle")

// Kind says what was wrong, for those who count, decide or answer by it.
type Kind uint8

const (
	Refused    Kind = iota + 1 // nobody listens there
	Unroutable                 // no way to that network or host
	Timeout                    // no connection within the connect timeout
	Terminated                 // closed by the other side before it was ready for use
	TLS                        // the handshake failed
	DNS                        // the name has no known address
	Prohibited                 // a place where no backend may point
	Local                      // this machine's fault: ports, descriptors, rights. Says nothing about the backend
)

var kindNames = [...]string{"", "refused", "unroutable", "timeout", "terminated", "tls", "dns", "prohibited", "local"}

// String returns the kind as a word for logs and metrics.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Stage is where on the way to a usable connection something failed.
type Stage string

const (
	Resolve   Stage = "resolve"
	Connect   Stage = "connect"
	Handshake Stage = "handshake" // TLS
)

// Error says why there is no connection. Held is set if nothing was tried,
// because the address is held down; Kind and Err are then those of the failure
// that caused it.
type Error struct {
	Kind  Kind
	Stage Stage
	Addr  string // the address as dialled, or the name
	Held  bool
	Err   error
}

func (e *Error) Error() string {
	if e.Held {
		return fmt.Sprintf("pool: %s %s: held down: %v", e.Stage, e.Addr, e.Err)
	}
	return fmt.Sprintf("pool: %s %s: %v", e.Stage, e.Addr, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ProxyStatus returns the error type of RFC 9209, section 2.3.
func (e *Error) ProxyStatus() string {
	switch e.Kind {
	case Refused:
		return "connection_refused"
	case Unroutable:
		return "destination_ip_unroutable"
	case Timeout:
		return "connection_timeout"
	case Terminated:
		return "connection_terminated"
	case TLS:
		var alert tls.AlertError
		switch {
		case isCertificateError(e.Err):
			return "tls_certificate_error"
		case errors.As(e.Err, &alert), isRemoteAlert(e.Err):
			return "tls_alert_received"
		}
		return "tls_protocol_error"
	case DNS:
		if isTimeout(e.Err) {
			return "dns_timeout"
		}
		return "dns_error"
	case Prohibited:
		return "destination_ip_prohibited"
	}
	return "proxy_internal_error"
}

// connectError classifies what a dial returned.
func connectError(addr string, err error) *Error {
	e := &Error{Kind: Refused, Stage: Connect, Addr: addr, Err: bare(err)}
	var errno syscall.Errno
	switch {
	case isTimeout(err):
		e.Kind = Timeout
	case errors.As(err, &errno):
		e.Kind = kindOf(errno)
		if errno == syscall.EADDRNOTAVAIL && noWay(addr, net.Dial) {
			e.Kind = Unroutable
		}
	}
	return e
}

// noWay tells if EADDRNOTAVAIL for an address is no passing fault of this machine: it
// has no address that could reach that one, as where IPv6 is off. Linux says the same
// of ports that ran out. Those are TCP's, so dial is asked for a UDP socket, which
// sends nothing.
func noWay(addr string, dial func(network, address string) (net.Conn, error)) bool {
	conn, err := dial("udp", addr)
	if err != nil {
		return errors.Is(err, syscall.EADDRNOTAVAIL)
	}
	conn.Close()
	return false
}

// kindOf classifies the error number of a connect. Without a closer match it is
// the backend's: then the health of a backend is judged as it should be.
func kindOf(errno syscall.Errno) Kind {
	switch errno {
	case syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.ENETDOWN, syscall.EHOSTDOWN,
		syscall.EAFNOSUPPORT, syscall.EPROTONOSUPPORT:
		return Unroutable
	case syscall.ETIMEDOUT:
		return Timeout
	case syscall.EADDRNOTAVAIL, syscall.EADDRINUSE, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.EACCES, syscall.EPERM:
		return Local
	}
	return Refused
}

// handshakeError classifies what a TLS handshake returned.
func handshakeError(addr string, err error) *Error {
	e := &Error{Kind: TLS, Stage: Handshake, Addr: addr, Err: err}
	var errno syscall.Errno
	switch {
	case isCertificateError(err), isRemoteAlert(err):
	case isTimeout(err):
		e.Kind = Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.As(err, &errno):
		e.Kind = Terminated
	}
	return e
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

func isCertificateError(err error) bool {
	var (
		verify  *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	return errors.As(err, &verify) || errors.As(err, &unknown) || errors.As(err, &host) || errors.As(err, &invalid)
}

// isRemoteAlert: crypto/tls reports a received alert as a net.OpError named so.
func isRemoteAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// bare drops what package net adds around an error number (operation, addresses
// and the name of the call), since Error says it already.
func bare(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
