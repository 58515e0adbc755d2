package http1

import "errors"

// An Error says why a message was refused. After one, the connection it came on
// cannot be used for another message: its bytes have lost their meaning.
//
// All errors of this package but ErrTruncated are of this type, made once, so
// that refusing costs nothing.
type Error struct {
	// Status is what to answer the client: 400, 414, 431, 501 or 505 for its own
	// request, 502 for a backend's response.
	Status int
	// Type is the error type for Proxy-Status (RFC 9209 section 2.3).
	Type string
	// Msg says what is wrong. It is fixed text, fit to be shown to the client.
	Msg string
}

func (e *Error) Error() string { return "http1: " + e.Msg }

// ErrTruncated: the connection closed before the end of the message.
var ErrTruncated = errors.New("http1: connection closed before the end of the message")

// refuse makes the error for a fault that requests and responses share, as it is
// for each.
type fault struct{ request, response *Error }

func bad(msg string) *Error { return badRequest(400, msg) }

func badRequest(status int, msg string) *Error {
	return &Error{Status: status, Type: "http_request_error", Msg: msg}
}

func badResponse(msg string) *Error {
	return &Error{Status: 502, Type: "http_protocol_error", Msg: msg}
}

func badBoth(msg string) *fault { return &fault{bad(msg), badResponse(msg)} }
