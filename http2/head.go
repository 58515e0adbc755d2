package http2

import (
	"sync"
	"unsafe"

	"golang.org/x/net/http2/hpack"

	"roster/http1"
	"roster/message"
)

// A head is a decoded field block.
type head struct {
	fields []message.Field // without the pseudo fields
	pseudo [pseudos][]byte // nil: absent
	status int             // of :status
	length int64           // of content-length, message.Unknown if there is none
	size   int             // as RFC 9113 section 6.5.2 counts
	next   *head           // a stream's queue

	end     bool         // the stream ended with it
	large   bool         // fields is not all there is
	lengths *http1.Error // content-length is wrong
	fault   string       // why it is malformed
}

// The pseudo fields (RFC 9113 section 8.3).
const (
	method = iota
	scheme
	authority
	path
	status
	pseudos
)

var heads = sync.Pool{New: func() any { return &head{fields: make([]message.Field, 0, 16)} }}

func newHead() *head {
	h := heads.Get().(*head)
	h.length = message.Unknown
	return h
}

// free gives h and its list, but not what the list refers to, to the next one.
func (h *head) free() {
	const usual = 64
	if cap(h.fields) > usual {
		return
	}
	clear(h.fields)
	*h = head{fields: h.fields[:0]}
	heads.Put(h)
}

// none is an empty value, which is not nil.
var none = []byte{}

// text returns a string's bytes, which must not be changed.
func text(s string) []byte {
	if len(s) == 0 {
		return none
	}
	return unsafe.Slice(unsafe.StringData(s), len(s))
}

// emit takes a field from the decoder.
func (c *Conn) emit(f hpack.HeaderField) {
	h := c.head
	h.size += len(f.Name) + len(f.Value) + 32
	if h.size > c.cfg.MaxHeaderSize || len(h.fields) >= c.cfg.MaxFields {
		h.large = true
		c.dec.SetEmitEnabled(false) // what follows only keeps the table right
		return
	}
	value := text(f.Value)
	if control(value) < len(value) {
		h.fault = "control character in a field value"
	}
	if len(f.Name) > 0 && f.Name[0] == ':' {
		h.takePseudo(f.Name, value)
		return
	}
	if !validName(f.Name) {
		h.fault = "invalid field name"
	}
	if len(value) > 0 && (blank(value[0]) || blank(value[len(value)-1])) {
		if !c.client {
			h.fault = "whitespace around a field value"
		}
		value = trimSpace(value)
	}
	name := text(f.Name)
	id := message.Lookup(name)
	switch id {
	case message.Connection, message.KeepAlive, message.ProxyConnection, message.TransferEncoding, message.Upgrade:
		h.fault = "field about a connection" // RFC 9113 section 8.2.2
	case message.TE:
		if !message.EqualFold(value, "trailers") {
			h.fault = "te is not trailers"
		}
	case message.ContentLength:
		h.takeLength(value, c.client)
	}
	h.fields = append(h.fields, message.Field{Name: name, Value: value, ID: id})
}

func (h *head) takePseudo(name string, value []byte) {
	var i int
	switch name {
	case ":method":
		i = method
	case ":scheme":
		i = scheme
	case ":authority":
		i = authority
	case ":path":
		i = path
	case ":status":
		i = status
		if len(value) != 3 || value[0] < '1' || value[0] > '9' || value[1]-'0' > 9 || value[2]-'0' > 9 {
			h.fault = "invalid :status"
			return
		}
		h.status = int(value[0]-'0')*100 + int(value[1]-'0')*10 + int(value[2]-'0')
	default:
		h.fault = "unknown pseudo field"
		return
	}
	if len(h.fields) > 0 {
		h.fault = "pseudo field after other fields"
	}
	if h.pseudo[i] != nil {
		h.fault = "pseudo field twice"
	}
	h.pseudo[i] = value
}

var (
	errLength  = &http1.Error{Status: 400, Type: "http_request_error", Msg: "invalid Content-Length"}
	errLengths = &http1.Error{Status: 400, Type: "http_request_error", Msg: "more than one Content-Length"}
)

// takeLength reads a content-length as http1 does: only an answer may repeat it.
func (h *head) takeLength(value []byte, response bool) {
	n, ok := http1.ParseLength(value)
	switch {
	case !ok:
		h.lengths = errLength
	case h.length >= 0 && (!response || n != h.length):
		h.lengths = errLengths
	}
	h.length = n
}

// decode reads a whole field block. An error means that nothing after it can be read.
func (c *Conn) decode(block []byte) (*head, error) {
	h := newHead()
	c.head = h
	c.dec.SetEmitEnabled(true)
	_, err := c.dec.Write(block)
	if err == nil {
		err = c.dec.Close()
	}
	if err != nil {
		return nil, fatal(Compression, err.Error())
	}
	return h, nil
}

// checkRequest says what is malformed about a request's head (RFC 9113 section
// 8.3.1), if anything.
func (h *head) checkRequest() string {
	p := &h.pseudo
	switch {
	case h.fault != "" || h.large:
	case p[status] != nil:
		return "request with :status"
	case p[method] == nil:
		return "no :method"
	case string(p[method]) == "CONNECT":
		if p[scheme] != nil || p[path] != nil || len(p[authority]) == 0 {
			return "CONNECT is not of an :authority alone"
		}
	case len(p[scheme]) == 0:
		return "no :scheme"
	case len(p[path]) == 0:
		return "no :path"
	}
	if h.fault == "" && h.end && h.lengths == nil && h.length > 0 {
		return "content-length without content"
	}
	return h.fault
}

// checkResponse is checkRequest for a response (RFC 9113 section 8.3.2).
func (h *head) checkResponse() string {
	p := &h.pseudo
	switch {
	case h.fault != "":
	case p[method] != nil || p[scheme] != nil || p[authority] != nil || p[path] != nil:
		return "response with a request's pseudo fields"
	case h.large:
	case h.status == 0:
		return "no :status"
	case h.status == 101:
		return "101 in HTTP/2" // RFC 9113 section 8.6
	case h.status < 200 && h.end:
		return "interim response that ends"
	case h.lengths != nil:
		return "invalid content-length"
	}
	return h.fault
}

// checkTrailers is checkRequest for trailers (RFC 9113 section 8.1).
func (h *head) checkTrailers() string {
	if h.fault == "" {
		for _, p := range h.pseudo {
			if p != nil {
				return "pseudo field in trailers"
			}
		}
		if !h.end {
			return "trailers that do not end"
		}
	}
	return h.fault
}

func refuse(status int, msg string) *http1.Error {
	return &http1.Error{Status: status, Type: "http_request_error", Msg: msg}
}

var (
	errHeadLarge   = refuse(431, "request head too large")
	errTargetLarge = refuse(414, "request target too long")
	errScheme      = refuse(400, "scheme is neither http nor https")
	errHosts       = refuse(400, "more than one Host field")
	errHostDiffers = refuse(400, "Host differs from :authority")
	errNoHost      = refuse(400, "neither :authority nor Host")
)

var schemeHTTP, schemeHTTPS = []byte("http"), []byte("https")

// request moves the head of a request to r.
func (h *head) request(r *message.Request, maxTarget int) *http1.Error {
	r.Reset()
	r.Major = 2
	p := &h.pseudo
	r.Method, r.Target, r.Authority = p[method], p[path], p[authority]
	hosts, cookies := 0, 0
	var host []byte
	for i := range h.fields {
		f := &h.fields[i]
		switch f.ID {
		case message.Host:
			hosts++
			host = f.Value
		case message.Cookie:
			if cookies++; cookies > 1 {
				continue
			}
		case message.Expect:
			r.Expect100 = r.Expect100 || message.HasToken(f.Value, "100-continue")
		}
		r.Fields = append(r.Fields, *f)
	}
	if cookies > 1 {
		joinCookies(r.Fields, h.fields)
	}
	r.Length = h.length
	if h.end {
		r.Length = 0
	}
	if h.large {
		return errHeadLarge
	}
	connect := string(r.Method) == "CONNECT"
	if connect {
		r.Target = r.Authority
	} else {
		switch {
		case message.EqualFold(p[scheme], "https"):
			r.Scheme = schemeHTTPS
		case message.EqualFold(p[scheme], "http"):
			r.Scheme = schemeHTTP
		default:
			return errScheme
		}
	}
	switch {
	case len(r.Target) > maxTarget:
		return errTargetLarge
	case hosts > 1:
		return errHosts
	case r.Authority == nil && hosts == 0:
		return errNoHost
	case r.Authority == nil:
		r.Authority = host
	case hosts > 0 && !sameHost(r.Authority, host, r.Scheme):
		return errHostDiffers
	}
	if err := http1.Check(r); err != nil {
		return err.(*http1.Error)
	}
	return h.lengths
}

// joinCookies puts all cookie fields of from into the one in fields.
func joinCookies(fields, from []message.Field) {
	var all []byte
	for i := range from {
		if from[i].ID == message.Cookie {
			if all != nil {
				all = append(all, "; "...)
			}
			all = append(all, from[i].Value...)
		}
	}
	for i := range fields {
		if fields[i].ID == message.Cookie {
			fields[i].Value = all
		}
	}
}

// sameHost compares two authorities, in any case and with or without the
// scheme's port.
func sameHost(a, b, scheme []byte) bool {
	port := ":443"
	if len(scheme) == len("http") {
		port = ":80"
	}
	a, b = withoutPort(a, port), withoutPort(b, port)
	if len(a) != len(b) {
		return false
	}
	for i, c := range a {
		d := b[i]
		if c != d && (c|0x20 != d|0x20 || c|0x20 < 'a' || c|0x20 > 'z') {
			return false
		}
	}
	return true
}

func withoutPort(b []byte, port string) []byte {
	if n := len(b) - len(port); n >= 0 && string(b[n:]) == port {
		return b[:n]
	}
	return b
}

// response moves the head of an answer to r. bodiless: it is to HEAD, or a 2xx to
// CONNECT.
func (h *head) response(r *message.Response, bodiless bool) {
	r.Reset()
	r.Major = 2
	r.Status = h.status
	r.Fields = append(r.Fields, h.fields...)
	r.Bodiless = bodiless
	switch {
	case bodiless, h.end:
	default:
		r.Length = h.length
	}
}
