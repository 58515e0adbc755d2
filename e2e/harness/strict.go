package harness

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// ErrMalformed is wrapped by the error for a message that no strict recipient takes.
var ErrMalformed = errors.New("malformed")

// A Message is an HTTP/1 request or answer as it was on the wire.
type Message struct {
	Line     string // request line or status line
	Fields   []Field
	Body     string
	Trailers []Field
	Chunked  bool
	ToClose  bool // the body ended with the connection
}

// A Field is one line of a head or of trailers.
type Field struct{ Name, Value string }

// Values are those of all fields of a name, in their order.
func (m *Message) Values(name string) (values []string) {
	for _, f := range m.Fields {
		if strings.EqualFold(f.Name, name) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Get is the values of all fields of a name, joined by commas; "" if there is none.
func (m *Message) Get(name string) string { return strings.Join(m.Values(name), ", ") }

// Status is that of an answer, 0 for a request.
func (m *Message) Status() int {
	if !strings.HasPrefix(m.Line, "HTTP/") || len(m.Line) < 12 {
		return 0
	}
	n, _ := strconv.Atoi(m.Line[9:12])
	return n
}

// Target is that of a request.
func (m *Message) Target() string {
	_, rest, _ := strings.Cut(m.Line, " ")
	target, _, _ := strings.Cut(rest, " ")
	return target
}

// Method is that of a request.
func (m *Message) Method() string {
	method, _, _ := strings.Cut(m.Line, " ")
	return method
}

func (m Message) String() string {
	return fmt.Sprintf("%s %v %q %v", m.Line, m.Fields, m.Body, m.Trailers)
}

// ReadRequest reads a request more strictly than any origin does, by RFC 9112: one
// framing at most, written in one way, Host exactly once, no whitespace but where it
// belongs, no chunk extensions, HTTP/1.1. It shares no code with what it checks.
//
// The error is io.EOF if there is no more request; it wraps ErrMalformed if what there
// is cannot be read in one way only; others are cuts, and the message is what had come.
func ReadRequest(r *bufio.Reader) (Message, error) {
	m, err := readHead(r)
	if err != nil {
		return m, err
	}
	parts := strings.Split(m.Line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" || parts[2] != "HTTP/1.1" {
		return m, malformed("request line %q", m.Line)
	}
	for _, c := range []byte(parts[1]) {
		if c <= ' ' || c > '~' {
			return m, malformed("target %q", parts[1])
		}
	}
	if hosts := m.Values("host"); len(hosts) != 1 || hosts[0] == "" || strings.ContainsAny(hosts[0], " \t,/\\@?#") {
		return m, malformed("Host %q", hosts)
	}
	length, err := m.framing()
	if err != nil {
		return m, err
	}
	return m, m.readBody(r, max(length, 0))
}

// ReadResponse reads one answer to a request with that method, 1xx included, as
// strictly as ReadRequest. A body that was cut is an error; one that may have been cut
// without a trace (ToClose) is the caller's to judge.
func ReadResponse(r *bufio.Reader, method string) (Message, error) {
	m, err := readHead(r)
	if err != nil {
		return m, err
	}
	if len(m.Line) < 13 || m.Line[:9] != "HTTP/1.1 " || m.Line[12] != ' ' || m.Status() < 100 || !isDigits(m.Line[9:12]) {
		return m, malformed("status line %q", m.Line)
	}
	length, err := m.framing()
	if err != nil {
		return m, err
	}
	status := m.Status()
	switch {
	case status < 200 || status == 204:
		if m.Chunked || length >= 0 {
			return m, malformed("a %d with framing: %v", status, m.Fields)
		}
		return m, nil
	case method == "HEAD" || status == 304:
		return m, nil
	case length < 0 && !m.Chunked:
		m.ToClose = true
		b, err := io.ReadAll(r)
		m.Body = string(b)
		return m, cut("body", err)
	}
	return m, m.readBody(r, length)
}

// readHead reads up to the empty line.
func readHead(r *bufio.Reader) (m Message, err error) {
	if _, err := r.Peek(1); err != nil {
		return m, err
	}
	if m.Line, err = readLine(r, "first line"); err != nil {
		return m, err
	}
	m.Fields, err = readFields(r)
	return m, err
}

func readFields(r *bufio.Reader) (fields []Field, err error) {
	for {
		line, err := readLine(r, "field")
		if err != nil || line == "" {
			return fields, err
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || !isToken(name) {
			return fields, malformed("field %q", line)
		}
		fields = append(fields, Field{name, strings.Trim(value, " \t")})
	}
}

// readLine reads up to CRLF, with no other control character before than tab.
func readLine(r *bufio.Reader, what string) (string, error) {
	var b []byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			return string(b), cut(what, err)
		}
		if c == '\r' {
			if c, err = r.ReadByte(); err != nil {
				return string(b), cut(what, err)
			} else if c != '\n' {
				return string(b), malformed("bare CR after %q", b)
			}
			return string(b), nil
		}
		if c < ' ' && c != '\t' || c == 0x7f {
			return string(b), malformed("character %q after %q", c, b)
		}
		b = append(b, c)
	}
}

// framing is the announced length, -1 for none.
func (m *Message) framing() (int64, error) {
	lengths, codings := m.Values("content-length"), m.Values("transfer-encoding")
	switch {
	case len(lengths)+len(codings) > 1:
		return 0, malformed("framed twice: Content-Length %q, Transfer-Encoding %q", lengths, codings)
	case len(codings) == 1:
		if m.Chunked = codings[0] == "chunked"; !m.Chunked {
			return 0, malformed("Transfer-Encoding %q", codings)
		}
		return -1, nil
	case len(lengths) == 1:
		n, err := strconv.ParseInt(lengths[0], 10, 64)
		if err != nil || !isDigits(lengths[0]) {
			return 0, malformed("Content-Length %q", lengths)
		}
		return n, nil
	}
	return -1, nil
}

func (m *Message) readBody(r *bufio.Reader, length int64) error {
	if !m.Chunked {
		b, err := io.ReadAll(io.LimitReader(r, length))
		if m.Body = string(b); err == nil && int64(len(b)) < length {
			err = io.ErrUnexpectedEOF
		}
		return cut("body", err)
	}
	for {
		line, err := readLine(r, "chunk size")
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(line, 16, 63)
		if err != nil || strings.Trim(line, "0123456789abcdefABCDEF") != "" {
			return malformed("chunk size %q", line)
		}
		if n == 0 {
			m.Trailers, err = readFields(r)
			return err
		}
		b, err := io.ReadAll(io.LimitReader(r, n))
		m.Body += string(b)
		if err == nil && int64(len(b)) < n {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return cut("chunk", err)
		}
		if end, err := readLine(r, "end of a chunk"); err != nil {
			return err
		} else if end != "" {
			return malformed("%q after a chunk", end)
		}
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func cut(where string, err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("cut within the %s: %w", where, err)
	}
	return nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}
