package http1

import (
	"bytes"

	"roster/message"
)

// Limits bound a head. Zero means the default.
type Limits struct {
	// MaxHead bounds a head in bytes, from its first line to its empty line, both
	// included. Zero means 64 KiB. More: 431, or 502 for a response.
	MaxHead int
	// MaxFields bounds the number of fields. Zero means 128. More: 431, or 502.
	MaxFields int
	// MaxTarget bounds a request's target in bytes. Zero means 16 KiB; RFC 9112
	// section 3 asks for at least 8000. More: 414.
	MaxTarget int
}

const (
	maxHead   = 64 << 10
	maxFields = 128
	maxTarget = 16 << 10

	maxMethod = 32 // bytes; the longest registered one has 17
	maxEmpty  = 4  // empty lines before a request
)

// A Parser reads the heads that arrive on one connection, in one direction. The
// zero value is ready. It belongs to the connection's owner.
//
// Call Request (or Response) with everything received and not yet consumed. If
// it returns 0 and no error, call it again with the same bytes and more behind
// them; they may have moved. It remembers how far it had come. After a head or an
// error it starts anew.
type Parser struct {
	Limits

	start int    // of the first line, after empty ones
	line  int    // where the first line not read yet starts; == start: the first
	scan  int    // there is no LF in the bytes from line to here; 0: not looked
	count int    // fields in the lines read
	query []byte // "/" and query of an absolute-form target without a path
}

// Reset forgets a head that was read in part.
func (p *Parser) Reset() { p.start, p.line, p.scan, p.count = 0, 0, 0, 0 }

func or(n, standard int) int {
	if n > 0 {
		return n
	}
	return standard
}

// Request reads one request head from the start of buf into r, whose Fields are
// used again. n is the length of the head; n == 0 without an error means that
// more bytes are needed. The error is an *Error.
//
// r borrows from buf and, for an absolute-form target without a path, from p. It
// means nothing until n > 0.
func (p *Parser) Request(buf []byte, r *message.Request) (n int, err error) {
	n, e := p.request(buf, r)
	return p.finish(n, e)
}

// Response reads one response head, like Request. method is that of the request
// it answers: HEAD and CONNECT decide whether it has a body. An interim response
// (1xx) is a head of its own.
func (p *Parser) Response(buf []byte, r *message.Response, method []byte) (n int, err error) {
	n, e := p.response(buf, r, method)
	return p.finish(n, e)
}

func (p *Parser) finish(n int, e *Error) (int, error) {
	if e != nil {
		p.Reset()
		return 0, e // not a nil *Error in an error
	}
	if n > 0 {
		p.Reset()
	}
	return n, nil
}

func (p *Parser) request(buf []byte, r *message.Request) (int, *Error) {
	if p.waiting(buf) {
		return p.wait(buf, false)
	}
	if p.line == p.start {
		for {
			if p.start == len(buf) {
				return 0, nil
			}
			if buf[p.start] != '\r' {
				break
			}
			if p.start+1 == len(buf) {
				return 0, nil
			}
			if buf[p.start+1] != '\n' {
				return 0, faultBareCR.request
			}
			if p.start == 2*maxEmpty {
				return 0, errEmptyLines
			}
			p.start += 2
			p.line = p.start
		}
		if class[buf[p.start]]&isToken == 0 {
			return 0, errStart // at once: it may be a protocol without lines
		}
	}
	for {
		resumed := p.line > p.start
		r.Reset()
		if !resumed {
			next, e := p.requestLine(buf[:min(len(buf), p.limit())], r)
			if e != nil {
				return p.stop(buf, e, false)
			}
			p.line = next
		}
		done, e := p.fields(buf, &r.Fields, false)
		if e != nil || done == 0 {
			return 0, e
		}
		if resumed { // earlier lines are good, but where they were may have moved
			p.line, p.scan, p.count = p.start, 0, 0
			continue
		}
		return done, frameRequest(r)
	}
}

func (p *Parser) response(buf []byte, r *message.Response, method []byte) (int, *Error) {
	if p.line == 0 {
		const start = "HTTP/1."
		if n := min(len(buf), len(start)); string(buf[:n]) != start[:n] {
			return 0, errStatusLine // at once, as above
		}
	}
	if p.waiting(buf) {
		return p.wait(buf, true)
	}
	for {
		resumed := p.line > 0
		r.Reset()
		if !resumed {
			next, e := statusLine(buf[:min(len(buf), p.limit())], r)
			if e != nil {
				return p.stop(buf, e, true)
			}
			p.line = next
		}
		done, e := p.fields(buf, &r.Fields, true)
		if e != nil || done == 0 {
			return 0, e
		}
		if resumed {
			p.line, p.scan, p.count = 0, 0, 0
			continue
		}
		return done, frameResponse(r, method)
	}
}

// limit is where in the buffer the line being read has to end at the latest.
func (p *Parser) limit() int {
	n := or(p.MaxHead, maxHead)
	if p.line == p.start {
		n = min(n, maxMethod+or(p.MaxTarget, maxTarget)+len("  HTTP/1.1\r\n"))
	}
	return p.start + n
}

// waiting reports whether the line that was incomplete still is.
func (p *Parser) waiting(buf []byte) bool {
	return p.scan > 0 && (len(buf) < p.scan || bytes.IndexByte(buf[p.scan:min(len(buf), p.limit())], '\n') < 0)
}

// wait notes that the line is not all there, or refuses it if it is too long.
func (p *Parser) wait(buf []byte, response bool) (int, *Error) {
	limit := p.limit()
	switch {
	case len(buf) < limit:
		p.scan = max(p.scan, len(buf))
		return 0, nil
	case p.line == p.start && !response:
		return 0, errTargetLong
	}
	return 0, faultHead.in(response)
}

// stop is for a line that could not be read: a fault counts once the line is
// complete, so that the outcome does not depend on how the bytes are cut.
func (p *Parser) stop(buf []byte, e *Error, response bool) (int, *Error) {
	if bytes.IndexByte(buf[p.line:min(len(buf), p.limit())], '\n') < 0 {
		return p.wait(buf, response)
	}
	return 0, e
}

// fields reads lines up to the empty one, and returns where that ends; 0 if it
// is not there yet.
func (p *Parser) fields(buf []byte, fields *[]message.Field, response bool) (int, *Error) {
	limit := p.limit()
	head := buf[:min(len(buf), limit)]
	list, next, done, f := fieldLines(head, p.line, *fields, or(p.MaxFields, maxFields)-p.count)
	*fields = list
	if done {
		return next, nil
	}
	p.line = next
	p.count += len(list)
	if f == nil {
		return p.wait(buf, response)
	}
	return p.stop(buf, f.in(response), response)
}

// fieldLines reads field lines from buf[pos:] and appends them to fields, room at
// most. next is after the empty line if done, else the start of the line that is
// faulty or not all there; without an LF in it, a fault may be premature.
func fieldLines(buf []byte, pos int, fields []message.Field, room int) (_ []message.Field, next int, done bool, f *fault) {
	for {
		i := pos
		for i < len(buf) && class[buf[i]]&isToken != 0 {
			i++
		}
		if i == len(buf) {
			return fields, pos, false, nil
		}
		if buf[i] != ':' || i == pos {
			if i == pos && buf[i] == '\r' {
				if i+1 == len(buf) {
					return fields, pos, false, nil
				}
				if buf[i+1] == '\n' {
					return fields, i + 2, true, nil
				}
			}
			return fields, pos, false, nameFault(buf, pos, i)
		}
		name := buf[pos:i:i]
		i++
		for i < len(buf) && (buf[i] == ' ' || buf[i] == '\t') {
			i++
		}
		end := control(buf, i)
		if len(buf)-end < 2 {
			if end == len(buf) || buf[end] == '\r' {
				return fields, pos, false, nil
			}
			return fields, pos, false, valueFault(buf[end])
		}
		if buf[end] != '\r' || buf[end+1] != '\n' {
			return fields, pos, false, valueFault(buf[end])
		}
		if len(fields) >= room {
			return fields, pos, false, faultFields
		}
		pos = end + 2
		for end > i && (buf[end-1] == ' ' || buf[end-1] == '\t') {
			end--
		}
		fields = append(fields, message.Field{Name: name, Value: buf[i:end:end], ID: message.Lookup(name)})
	}
}

// nameFault says what is wrong with a line that starts at pos and is no field
// name from i on.
func nameFault(buf []byte, pos, i int) *fault {
	switch c := buf[i]; {
	case c == '\r' && (i+1 == len(buf) || buf[i+1] != '\n'):
		return faultBareCR
	case c == '\n':
		return faultBareLF
	case c != ' ' && c != '\t':
		return faultName
	case i == pos:
		return faultFold
	}
	return faultColon
}

func valueFault(c byte) *fault {
	switch c {
	case '\r':
		return faultBareCR
	case '\n':
		return faultBareLF
	}
	return faultControl
}

// requestLine reads the request line from buf[p.line:] (RFC 9112 section 3) and
// returns where the next line starts.
func (p *Parser) requestLine(buf []byte, r *message.Request) (next int, e *Error) {
	pos := p.line
	i := pos
	for i < len(buf) && class[buf[i]]&isToken != 0 {
		i++
	}
	if i == len(buf) {
		return 0, errMore
	}
	if buf[i] != ' ' {
		return 0, errMethod
	}
	r.Method = buf[pos:i:i]
	start := i + 1
	i = targetEnd(buf, start)
	if i == len(buf) {
		return 0, errMore
	}
	if buf[i] != ' ' || i == start {
		switch c := buf[i]; {
		case c == '#':
			return 0, errFragment
		case c == '\r', c == '\n', c == ' ':
			return 0, errNoTarget
		}
		return 0, errTargetByte
	}
	target := buf[start:i:i]
	version, next, e := restOfLine(buf, i+1, false)
	if e != nil {
		return 0, e
	}
	if len(r.Method) > maxMethod {
		return 0, errMethodLong
	}
	if len(target) > or(p.MaxTarget, maxTarget) {
		return 0, errTargetLong
	}
	if len(version) != len("HTTP/1.1") || string(version[:5]) != "HTTP/" || version[6] != '.' ||
		class[version[5]]&class[version[7]]&isDigit == 0 {
		if bytes.IndexByte(version, ' ') >= 0 {
			return 0, errTargetByte
		}
		return 0, errVersion
	}
	if version[5] != '1' {
		return 0, errVersionMajor
	}
	r.Major, r.Minor = 1, min(version[7]-'0', 1)
	return next, p.target(target, r)
}

// restOfLine returns the line from i to its CRLF, and where the next one starts.
func restOfLine(buf []byte, i int, response bool) (line []byte, next int, e *Error) {
	end := control(buf, i)
	switch {
	case end == len(buf):
		return nil, 0, errMore
	case buf[end] == '\n':
		return nil, 0, faultBareLF.in(response)
	case buf[end] != '\r':
		return nil, 0, faultLine.in(response)
	case end+1 == len(buf):
		return nil, 0, errMore
	case buf[end+1] != '\n':
		return nil, 0, faultBareCR.in(response)
	}
	return buf[i:end:end], end + 2, nil
}

// statusLine reads "HTTP/1.x DDD[ reason]" (RFC 9112 section 4). Without the
// second space it is not to the letter, but there is no other way to read it.
func statusLine(buf []byte, r *message.Response) (next int, e *Error) {
	line, next, e := restOfLine(buf, 0, true)
	if e != nil {
		return 0, e
	}
	const digits = len("HTTP/1.1 ")
	if len(line) < digits+3 || string(line[:7]) != "HTTP/1." || class[line[7]]&isDigit == 0 || line[8] != ' ' ||
		class[line[digits]]&class[line[digits+1]]&class[line[digits+2]]&isDigit == 0 || line[digits] == '0' {
		return 0, errStatusLine
	}
	r.Major, r.Minor = 1, min(line[7]-'0', 1)
	r.Status = int(line[digits]-'0')*100 + int(line[digits+1]-'0')*10 + int(line[digits+2]-'0')
	if line = line[digits+3:]; len(line) > 0 {
		if line[0] != ' ' {
			return 0, errStatusLine
		}
		r.Reason = line[1:]
	}
	return next, nil
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// IsH2Preface reports whether buf starts with the connection preface of HTTP/2
// (RFC 9113 section 3.4), and if not, whether it may once more bytes have come.
// Ask before Request, for which it is an unsupported version.
func IsH2Preface(buf []byte) (is, maybe bool) {
	n := min(len(buf), len(preface))
	match := string(buf[:n]) == preface[:n]
	return match && n == len(preface), match && n < len(preface)
}
