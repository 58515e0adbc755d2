package store

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	multierror "github.com/hashicorp/go-multierror"
)

// Definition is one of *Backend, *Probe, *Director, *Route, *Certificate and
// *Health.
type Definition interface{ Kind() Kind }

// UnknownFields says what becomes of a value with a field that this release
// does not know.
type UnknownFields int

const (
	// Reject makes an unknown field an error.
	Reject UnknownFields = iota
	// Warn serves backends, probes and directors without the field, with a
	// warning: for a binary rolled back below its definitions. Elsewhere it
	// is an error still, as dropping a route's condition would widen it.
	Warn
)

// FieldError is one thing wrong with a value.
type FieldError struct {
	Path string // of the field, as in "backends[2].weight"; "" is the value as a whole
	Msg  string // the value and what would be right
}

func (e *FieldError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

const (
	// maxErrors is how many errors one value can have; a last one says that
	// there are more. A value may be 1.5 MiB of nothing but errors.
	maxErrors = 100
	// maxDepth is how deep a value may nest, what is unknown in it included.
	// No definition needs more than five.
	maxDepth = 32
)

// Decode reads the value of key. Its error is a *multierror.Error of
// *FieldError, with everything that is wrong: the name, each field, and fields
// that do not go together. A value that is not JSON is read as far as it is.
//
// The definition shares no memory with value.
func Decode(key Key, value []byte, unknown UnknownFields) (def Definition, warnings []string, err error) {
	if key == SecretKey {
		secret, err := readSecret(value)
		if err != nil {
			return nil, nil, &multierror.Error{Errors: []error{err}, ErrorFormat: oneLine}
		}
		return secret, nil, nil
	}
	d := &decoder{data: value}
	d.path = d.pathBuf[:0]
	if err := ValidateName(key.Name); err != nil {
		d.fail("%v", err)
	}
	def = d.definition(key, unknown)
	if d.errs != nil {
		if d.more > 0 {
			d.errs = append(d.errs, &FieldError{"", fmt.Sprintf("and %d more errors", d.more)})
		}
		return nil, nil, &multierror.Error{Errors: d.errs, ErrorFormat: oneLine}
	}
	return def, d.warnings, nil
}

// definition reads the value as a whole. What is wrong is in errs afterwards.
func (d *decoder) definition(key Key, unknown UnknownFields) (def Definition) {
	value := d.data
	switch {
	case bytes.HasPrefix(value, []byte("\ufeff")):
		d.syntax("a byte order mark, want none")
	case d.peek() == 0 && d.pos == len(value) && key.Kind != HealthKind:
		d.fail("the value is empty, want an object")
		d.broken = true
	}
	switch key.Kind {
	case Backends:
		d.warn = unknown == Warn
		b := new(Backend)
		readBackend(d, b)
		def = b
	case Probes:
		d.warn = unknown == Warn
		if key.Name == "none" {
			d.fail(`name "none" is reserved: a backend's probe "none" is no probe at all`)
		}
		p := new(Probe)
		readProbe(d, p)
		def = p
	case Directors:
		d.warn = unknown == Warn
		v := new(Director)
		readDirector(d, v)
		def = v
	case Routes:
		r := new(Route)
		readRoute(d, r)
		def = r
	case Certificates:
		d.secret = true
		c := new(Certificate)
		readCertificate(d, c)
		def = c
	case HealthKind:
		h := new(Health)
		readHealth(d, h)
		def = h
	default:
		d.fail("%s is not a kind of definition", quote(string(key.Kind)))
		d.broken = true
	}
	d.end()
	return def
}

// oneLine joins the errors of a value, for logs.
func oneLine(errs []error) string {
	all := make([]string, len(errs))
	for i, err := range errs {
		all[i] = err.Error()
	}
	return strings.Join(all, "; ")
}

// decoder walks one value once, from its start to its end. What is wrong is
// collected, and the walk goes on behind it; only what is not JSON ends it,
// after which every method returns at once and false.
type decoder struct {
	data     []byte
	pos      int
	depth    int
	warn     bool // unknown fields are warnings
	secret   bool // never quote a value
	broken   bool // not JSON from here on
	path     []byte
	pathBuf  [48]byte
	scratch  []byte // of a string with escapes
	errs     []error
	more     int // errors beyond maxErrors
	warnings []string
	needs    []Need // of a later level than 1
}

// fail adds an error about the field at hand.
func (d *decoder) fail(format string, args ...any) {
	d.add(string(d.path), fmt.Sprintf(format, args...))
}

// failAt adds an error about what is at a path below the object at hand.
func (d *decoder) failAt(path, format string, args ...any) {
	mark := len(d.path)
	if mark > 0 {
		d.path = append(d.path, '.')
	}
	d.path = append(d.path, path...)
	d.fail(format, args...)
	d.leave(mark)
}

func (d *decoder) add(path, msg string) {
	if len(d.errs) >= maxErrors {
		d.more++
		return
	}
	d.errs = append(d.errs, &FieldError{path, msg})
}

// count is how many errors there are so far.
func (d *decoder) count() int { return len(d.errs) + d.more }

// syntax ends the walk.
func (d *decoder) syntax(format string, args ...any) {
	if d.broken {
		return
	}
	d.broken = true
	pos := min(d.pos, len(d.data))
	line := 1 + bytes.Count(d.data[:pos], []byte{'\n'})
	column := pos - bytes.LastIndexByte(d.data[:pos], '\n')
	d.add("", fmt.Sprintf("not JSON: line %d, column %d: %s", line, column, fmt.Sprintf(format, args...)))
}

// end reports what follows the value.
func (d *decoder) end() {
	if d.peek(); d.pos < len(d.data) {
		d.syntax("something follows the value")
	}
}

// enter makes a field the one at hand, until leave with what enter returned.
func (d *decoder) enter(field string) int {
	mark := len(d.path)
	d.path = appendField(d.path, field)
	return mark
}

func (d *decoder) enterIndex(i int) int {
	mark := len(d.path)
	d.path = append(d.path, '[')
	d.path = strconv.AppendInt(d.path, int64(i), 10)
	d.path = append(d.path, ']')
	return mark
}

func (d *decoder) leave(mark int) { d.path = d.path[:mark] }

// appendField adds .name to a path, or ["name"] where a dot would mislead.
func appendField(path []byte, name string) []byte {
	for i := 0; i < len(name); i++ {
		if c := name[i]; !isLetter(c) && !isDigit(c) && c != '_' && c != '-' || len(name) > maxQuoted {
			path = append(path, '[')
			path = append(path, quote(name)...)
			return append(path, ']')
		}
	}
	if name == "" {
		return append(path, `[""]`...)
	}
	if len(path) > 0 {
		path = append(path, '.')
	}
	return append(path, name...)
}

// peek returns the next byte that is not white space; 0 at the end, and where
// the value is broken.
func (d *decoder) peek() byte {
	if d.broken {
		return 0
	}
	for d.pos < len(d.data) {
		switch c := d.data[d.pos]; c {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return c
		}
	}
	return 0
}

// object calls member with each name of the object at hand; member must read
// the value. It is false where there is no object, or one that is broken. A
// name is good until the next string is read.
func (d *decoder) object(want string, member func(name []byte)) bool {
	if d.peek() != '{' {
		d.mistyped(want)
		return false
	}
	if !d.down() {
		return false
	}
	if d.peek() == '}' {
		return d.up()
	}
	for {
		if d.peek() != '"' {
			d.syntax("want a field's name in quotes")
			return false
		}
		name, ok := d.scanString()
		if d.peek() != ':' {
			d.syntax(`want a ":" after a field's name`)
			return false
		}
		d.pos++
		if ok {
			member(name)
		} else {
			d.fail("a field's name holds invalid UTF-8")
			d.skip()
		}
		switch d.peek() {
		case ',':
			d.pos++
		case '}':
			return d.up()
		default:
			d.syntax(`want "," or "}" after a field`)
			return false
		}
	}
}

// list calls element for each element of the list at hand, which must read it.
func (d *decoder) list(want string, element func(i int)) bool {
	if d.peek() != '[' {
		d.mistyped(want)
		return false
	}
	if !d.down() {
		return false
	}
	if d.peek() == ']' {
		return d.up()
	}
	for i := 0; ; i++ {
		mark := d.enterIndex(i)
		element(i)
		d.leave(mark)
		switch d.peek() {
		case ',':
			d.pos++
		case ']':
			return d.up()
		default:
			d.syntax(`want "," or "]" after an element`)
			return false
		}
	}
}

func (d *decoder) down() bool {
	d.pos++
	if d.depth++; d.depth > maxDepth {
		d.syntax("nested deeper than %d", maxDepth)
	}
	return !d.broken
}

func (d *decoder) up() bool {
	d.pos++
	d.depth--
	return true
}

// skip passes the value at hand.
func (d *decoder) skip() {
	switch c := d.peek(); {
	case c == '{':
		d.object("", func([]byte) { d.skip() })
	case c == '[':
		if !d.down() {
			return
		}
		for d.peek() != ']' {
			d.skip()
			if d.peek() == ',' {
				if d.pos++; d.peek() == ']' {
					d.syntax(`want an element after ","`)
				}
			} else if d.peek() != ']' {
				d.syntax(`want "," or "]" after an element`)
			}
			if d.broken {
				return
			}
		}
		d.up()
	case c == '"':
		d.text("")
	case c == '-' || isDigit(c):
		d.scanNumber()
	default:
		if d.word("true") || d.word("false") || d.word("null") || d.broken {
			return
		}
		if d.pos >= len(d.data) {
			d.syntax("it ends where a value should be")
		} else {
			d.syntax("want a value, not %s", quoteRune(string(d.data[d.pos:min(len(d.data), d.pos+utf8.UTFMax)])))
		}
	}
}

// mistyped passes the value at hand and says what it should have been.
func (d *decoder) mistyped(want string) {
	c := d.peek()
	start := d.pos
	d.skip()
	if d.broken {
		return
	}
	is := ""
	switch raw := d.data[start:d.pos]; {
	case c == '{':
		is = "an object"
	case c == '[':
		is = "a list"
	case c == '"' && d.secret:
		is = "a string"
	case c == '"':
		is = "the string " + clip(string(raw))
	case c != 't' && c != 'f' && c != 'n' && d.secret:
		is = "a number"
	default:
		is = clip(string(raw))
	}
	if len(d.path) == 0 {
		is = "the value is " + is
	} else {
		is = "is " + is
	}
	d.fail("%s, want %s", is, want)
}

// text reads a string. Its bytes are good until the next one is read.
func (d *decoder) text(want string) ([]byte, bool) {
	if d.peek() != '"' {
		d.mistyped(want)
		return nil, false
	}
	s, ok := d.scanString()
	if !ok && !d.broken {
		d.fail("holds invalid UTF-8")
	}
	return s, ok
}

// flag reads true or false.
func (d *decoder) flag() (value, ok bool) {
	d.peek()
	switch {
	case d.word("true"):
		return true, true
	case d.word("false"):
		return false, true
	}
	d.mistyped("true or false")
	return false, false
}

// integer reads a whole number from lo to hi.
func (d *decoder) integer(lo, hi int) (int, bool) {
	if c := d.peek(); c != '-' && !isDigit(c) {
		d.mistyped("a whole number")
		return 0, false
	}
	raw, ok := d.scanNumber()
	if !ok {
		return 0, false
	}
	if bytes.ContainsAny(raw, ".eE") {
		d.fail("is %s, want a whole number", clip(string(raw)))
		return 0, false
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil || n < lo || n > hi {
		d.fail("is %s, want %s", clip(string(raw)), between(lo, hi))
		return 0, false
	}
	return n, true
}

func between(lo, hi int) string {
	if hi == maxCount && lo >= 0 {
		return fmt.Sprintf("%d or more (at most %d)", lo, hi)
	}
	return fmt.Sprintf("%d to %d", lo, hi)
}

// number reads a number from lo to hi.
func (d *decoder) number(lo, hi float64) (float64, bool) {
	if c := d.peek(); c != '-' && !isDigit(c) {
		d.mistyped("a number")
		return 0, false
	}
	raw, ok := d.scanNumber()
	if !ok {
		return 0, false
	}
	x, err := strconv.ParseFloat(string(raw), 64)
	if err != nil || x < lo || x > hi {
		d.fail("is %s, want %s to %s", clip(string(raw)),
			strconv.FormatFloat(lo, 'f', -1, 64), strconv.FormatFloat(hi, 'f', -1, 64))
		return 0, false
	}
	if x == 0 {
		x = 0 // -0 is written as 0
	}
	return x, true
}

// word passes true, false or null, if it is the one at hand.
func (d *decoder) word(w string) bool {
	if d.broken || len(d.data)-d.pos < len(w) || string(d.data[d.pos:d.pos+len(w)]) != w {
		return false
	}
	d.pos += len(w)
	return true
}

// scanNumber passes a number of RFC 8259, 6.
func (d *decoder) scanNumber() ([]byte, bool) {
	start := d.pos
	digits := func() bool {
		from := d.pos
		for d.pos < len(d.data) && isDigit(d.data[d.pos]) {
			d.pos++
		}
		return d.pos > from
	}
	next := func(set string) bool {
		if d.pos < len(d.data) && strings.IndexByte(set, d.data[d.pos]) >= 0 {
			d.pos++
			return true
		}
		return false
	}
	next("-")
	if next("0") {
		if digits() {
			d.pos = start
			d.syntax("a number that begins with 0")
			return nil, false
		}
	} else if !digits() {
		d.syntax("want a digit")
		return nil, false
	}
	if next(".") && !digits() {
		d.syntax("want a digit")
		return nil, false
	}
	if next("eE") {
		next("+-")
		if !digits() {
			d.syntax("want a digit")
			return nil, false
		}
	}
	return d.data[start:d.pos], true
}

// scanString passes a string and returns what it holds, which is good until
// the next string. Control characters and bad escapes are not JSON. It is false,
// without an error, for invalid UTF-8, which half a surrogate pair is too.
func (d *decoder) scanString() ([]byte, bool) {
	d.pos++
	start := d.pos
	var seen byte // all bytes, ored
	for i, c := range d.data[start:] {
		switch {
		case c == '"':
			d.pos = start + i + 1
			s := d.data[start : start+i]
			return s, seen < utf8.RuneSelf || utf8.Valid(s)
		case c == '\\':
			d.pos = start + i
			return d.scanEscaped(start)
		case c < ' ':
			d.pos = start + i
			d.syntax("a control character in a string, want an escape such as \\n")
			return nil, false
		}
		seen |= c
	}
	d.pos = len(d.data)
	d.syntax("a string without its end quote")
	return nil, false
}

// scanEscaped goes on with the string from start where its first backslash is.
func (d *decoder) scanEscaped(start int) ([]byte, bool) {
	s := append(d.scratch[:0], d.data[start:d.pos]...)
	ok := true
	for d.pos < len(d.data) {
		c := d.data[d.pos]
		d.pos++
		switch {
		case c == '"':
			d.scratch = s
			return s, ok && utf8.Valid(s)
		case c < ' ':
			d.pos--
			d.syntax("a control character in a string, want an escape such as \\n")
			return nil, false
		case c != '\\':
			s = append(s, c)
			continue
		}
		if d.pos == len(d.data) {
			break
		}
		c = d.data[d.pos]
		d.pos++
		switch c {
		case '"', '\\', '/':
			s = append(s, c)
		case 'b':
			s = append(s, '\b')
		case 'f':
			s = append(s, '\f')
		case 'n':
			s = append(s, '\n')
		case 'r':
			s = append(s, '\r')
		case 't':
			s = append(s, '\t')
		case 'u':
			r := d.hex4()
			if utf16.IsSurrogate(r) {
				low := rune(utf8.RuneError)
				if bytes.HasPrefix(d.data[d.pos:], []byte(`\u`)) {
					back := d.pos
					d.pos += 2
					if low = d.hex4(); !d.broken && utf16.DecodeRune(r, low) == utf8.RuneError {
						d.pos = back
					}
				}
				if r = utf16.DecodeRune(r, low); r == utf8.RuneError {
					ok = false
				}
			}
			if d.broken {
				return nil, false
			}
			s = utf8.AppendRune(s, r)
		default:
			d.pos -= 2
			d.syntax("a backslash before %s in a string", quoteRune(string(rune(c))))
			return nil, false
		}
	}
	d.syntax("a string without its end quote")
	return nil, false
}

func (d *decoder) hex4() rune {
	if len(d.data)-d.pos < 4 {
		d.syntax("\\u without four hexadecimal digits")
		return 0
	}
	n, err := strconv.ParseUint(string(d.data[d.pos:d.pos+4]), 16, 16)
	if err != nil {
		d.syntax("\\u without four hexadecimal digits")
		return 0
	}
	d.pos += 4
	return rune(n)
}

// maxQuoted is how much of a value a message repeats, in bytes.
const maxQuoted = 64

// quote shows a string in a message: short, and never a private key.
func quote(s string) string {
	return strconv.Quote(clip(s))
}

// clip shortens what a message shows.
func clip(s string) string {
	if strings.Contains(s, "PRIVATE KEY") {
		return "(a private key)"
	}
	if len(s) <= maxQuoted {
		return strings.ToValidUTF8(s, "\uFFFD")
	}
	n := maxQuoted
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return strings.ToValidUTF8(s[:n], "\uFFFD") + "..."
}

// quoteRune shows the first character of s.
func quoteRune(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n <= 1 {
		if s == "" {
			return "nothing"
		}
		return fmt.Sprintf("byte 0x%02x", s[0])
	}
	return strconv.QuoteRune(r)
}
