package message

// What Length says of a body besides its number of bytes.
const (
	// Unknown until it ends: chunked, or an HTTP/2 stream without a length.
	Unknown = -1
	// UntilClose ends with the connection. Only responses.
	UntilClose = -2
)

// A Request is the head of a request.
type Request struct {
	// Method is a token, case-sensitive.
	Method []byte
	// Target is the path and query as the client spelt them, "*" for an OPTIONS
	// of the whole server, and the authority for CONNECT. An absolute-form target
	// is split into Scheme, Authority and this.
	Target []byte
	// Authority is host[:port]: that of an absolute-form or CONNECT target, else
	// the value of Host, else empty.
	Authority []byte
	// Scheme is "http" or "https" when the request says which, else nil.
	Scheme []byte
	// Fields are all fields in order, Host and the framing ones included.
	Fields []Field
	// Major and Minor are the version, a higher minor than 1 read as 1.
	Major, Minor uint8
	// Length is the body's length in bytes, or Unknown. Zero is no body.
	Length int64
	// Close: the sender will not reuse the connection (Connection: close, or
	// HTTP/1.0 without keep-alive).
	Close bool
	// Expect100: the client waits for 100 (Continue) before it sends the body.
	Expect100 bool
	// Upgrade is the value of the first Upgrade field if Connection names it, else nil.
	Upgrade []byte
}

// A Response is the head of a response.
type Response struct {
	// Status is 100 to 999.
	Status int
	// Reason may be empty. It means nothing.
	Reason []byte
	// Fields are all fields in order, the framing ones included.
	Fields []Field
	// Major and Minor are the version, a higher minor than 1 read as 1.
	Major, Minor uint8
	// Length is the body's length in bytes, Unknown or UntilClose. Zero is no body.
	Length int64
	// Bodiless: no body follows whatever the fields say (an answer to HEAD, 1xx,
	// 204, 304, 2xx to CONNECT); Length is 0. A Content-Length among Fields is then
	// that of the body a GET would have had.
	Bodiless bool
	// Close: the connection cannot be reused after this response.
	Close bool
	// Upgrade is the value of the first Upgrade field if Connection names it, else nil.
	Upgrade []byte
}

// Get returns the value of the first field of id, nil if there is none.
func (r *Request) Get(id ID) []byte { return Get(r.Fields, id) }

// Get returns the value of the first field of id, nil if there is none.
func (r *Response) Get(id ID) []byte { return Get(r.Fields, id) }

// Reset empties r but keeps the room for its fields.
func (r *Request) Reset() { *r = Request{Fields: r.Fields[:0]} }

// Reset empties r but keeps the room for its fields.
func (r *Response) Reset() { *r = Response{Fields: r.Fields[:0]} }
