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

// A fault can be in a request or in a response, and is an error of its own in each.
type fault struct{ request, response *Error }

func (f *fault) in(response bool) *Error {
	if response {
		return f.response
	}
	return f.request
}

func bad(msg string) *Error { return refusal(400, msg) }

func refusal(status int, msg string) *Error {
	return &Error{Status: status, Type: "http_request_error", Msg: msg}
}

func badResponse(msg string) *Error {
	return &Error{Status: 502, Type: "http_protocol_error", Msg: msg}
}

func both(msg string) *fault { return &fault{bad(msg), badResponse(msg)} }

var (
	// errMore never leaves the package: the line is not all there.
	errMore = &Error{Msg: "incomplete"}

	errEmptyLines   = bad("too many empty lines before the request")
	errStart        = bad("not an HTTP request")
	errMethod       = bad("invalid method")
	errMethodLong   = refusal(501, "method too long")
	errNoTarget     = bad("request line without a target or a version, or with more than single spaces")
	errTargetByte   = bad("space, control character or non-ASCII byte in the request target")
	errFragment     = bad("fragment in the request target")
	errTargetLong   = refusal(414, "request target too long")
	errTargetForm   = bad("request target is neither a path nor an http or https URI")
	errAsterisk     = bad("request target * is for OPTIONS only")
	errConnect      = bad("request target of CONNECT is not host:port")
	errTargetHost   = bad("invalid host in the request target")
	errVersion      = bad("invalid HTTP version")
	errVersionMajor = refusal(505, "HTTP version not supported")
	errNoHost       = bad("no Host field")
	errHosts        = bad("more than one Host field")
	errHost         = bad("invalid Host field")
	errCoding       = refusal(501, "transfer coding not supported")

	errStatusLine = badResponse("invalid status line")

	faultBareCR   = both("CR without LF")
	faultBareLF   = both("LF without CR")
	faultControl  = both("control character in a field value")
	faultLine     = both("control character in the first line")
	faultFold     = both("line folding or whitespace before a field name")
	faultColon    = both("whitespace between a field name and its colon")
	faultName     = both("invalid field name, or a line without a colon")
	faultLength   = both("invalid Content-Length")
	faultLengths  = both("more than one Content-Length")
	faultBoth     = both("Transfer-Encoding together with Content-Length")
	faultOld      = both("Transfer-Encoding in HTTP/1.0")
	faultCoding   = both("Transfer-Encoding is not a single, final chunked")
	faultChunk    = both("invalid chunk size")
	faultChunkBig = both("chunk size too big")
	faultChunkExt = both("invalid or too long chunk extension")
	faultChunkEnd = both("chunk data not followed by CRLF")
	faultTrailer  = both("trailer section too large")

	faultHead = &fault{
		refusal(431, "request head too large"),
		&Error{Status: 502, Type: "http_response_header_section_size", Msg: "response head too large"},
	}
	faultFields = &fault{
		refusal(431, "too many fields"),
		&Error{Status: 502, Type: "http_response_header_section_size", Msg: "too many fields"},
	}
	errInterim = badResponse("1xx response with a body")
	errBackend = &Error{Status: 502, Type: "http_response_transfer_coding", Msg: "transfer coding not supported"}
)
