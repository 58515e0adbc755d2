package vcl

import (
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file. Lines and columns count from 1, columns in bytes, as
// Varnish counts them.
type Position struct {
	File         string
	Line, Column int
}

func (p Position) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column) }

// source is one file. Sources are numbered in the order in which they are read.
type source struct {
	number int
	name   string
	text   string
	from   *source // that includes this one; nil for the first
	lines  []int   // where each line starts
}

func newSource(number int, name string, text string, from *source) *source {
	s := &source{number: number, name: name, text: text, from: from, lines: []int{0}}
	for i := range len(text) {
		if text[i] == '\n' {
			s.lines = append(s.lines, i+1)
		}
	}
	return s
}

// place is a Position that is not worked out yet.
type place struct {
	src    *source
	offset int
}

func (p place) position() Position {
	line, found := slices.BinarySearch(p.src.lines, p.offset)
	if !found {
		line-- // where it would be put in is behind its line's start
	}
	return Position{p.src.name, line + 1, p.offset - p.src.lines[line] + 1}
}

// compare puts places in the order of reading.
func (p place) compare(q place) int {
	if p.src != q.src {
		return p.src.number - q.src.number
	}
	return p.offset - q.offset
}

type tokenKind int

const (
	endToken    tokenKind = iota // of all the files
	nameToken                    // with dots and dashes in it: req.http.x-y
	stringToken                  // of any form; value is what is in it
	numberToken                  // 1, 1.5
	blobToken                    // :aGk=:; value is the base64
	inlineC                      // C{ ... }C
	symbolToken                  // ==, {, ;
)

// token is one word of VCL.
type token struct {
	kind  tokenKind
	place place
	end   int    // offset of what follows it
	value string // as written, but without a string's quotes or a blob's colons
}

func (t token) is(symbol string) bool { return t.kind == symbolToken && t.value == symbol }
func (t token) named(name string) bool {
	return t.kind == nameToken && t.value == name
}

// what names the token in an error.
func (t token) what() string {
	switch t.kind {
	case endToken:
		return "the end of the file"
	case stringToken:
		return "the string " + quote(t.value)
	case inlineC:
		return "inline C"
	case blobToken:
		return "a blob"
	}
	return quote(t.value)
}

// quote puts text in quotes, cut where it is long: it goes into messages of one line.
func quote(s string) string {
	const most = 60
	if len(s) > most {
		s = s[:most-3] + "..."
	}
	return fmt.Sprintf("%q", s)
}

// symbols of two bytes; all others are of one.
var symbols = []string{"==", "!=", "!~", "<=", ">=", "<<", ">>", "&&", "||", "++", "--", "+=", "-=", "*=", "/="}

// lexer cuts a source into tokens.
type lexer struct {
	src    *source
	at     int
	tokens []token
	fail   func(place, string, ...any)
	broken bool // a string or comment has no end: what follows is not known
}

func (l *lexer) run() {
	for l.at < len(l.src.text) && !l.broken {
		l.next()
	}
	l.at = len(l.src.text)
}

func (l *lexer) rest() string { return l.src.text[l.at:] }

// add makes a token of the next n bytes; value is what it says.
func (l *lexer) add(kind tokenKind, n int, value string) {
	l.tokens = append(l.tokens, token{kind, place{l.src, l.at}, l.at + n, value})
	l.at += n
}

// until finds the end of what began with open; false, with an error, if it has none.
func (l *lexer) until(open, end, what string) (inner string, size int, ok bool) {
	inner, _, ok = strings.Cut(l.rest()[len(open):], end)
	if !ok {
		l.fail(place{l.src, l.at}, "the %s that begins here has no end, want %s", what, end)
		l.broken = true
	}
	return inner, len(open) + len(inner) + len(end), ok
}

func (l *lexer) next() {
	rest := l.rest()
	switch c := rest[0]; {
	case c == ' ' || '\t' <= c && c <= '\r':
		l.at++
	case c == '#' || strings.HasPrefix(rest, "//"):
		line, _, _ := strings.Cut(rest, "\n")
		l.at += len(line)
	case strings.HasPrefix(rest, "/*"):
		inner, n, ok := l.until("/*", "*/", "comment")
		if i := strings.Index(inner, "/*"); ok && i >= 0 {
			l.fail(place{l.src, l.at + 2 + i}, "a comment begins within a comment, which Varnish refuses; is a */ missing before it?")
		}
		l.at += n
	case strings.HasPrefix(rest, "C{"):
		if inner, n, ok := l.until("C{", "}C", "inline C"); ok {
			l.add(inlineC, n, inner)
		}
	case strings.HasPrefix(rest, `{"`):
		if inner, n, ok := l.until(`{"`, `"}`, "long string"); ok {
			l.add(stringToken, n, inner)
		}
	case strings.HasPrefix(rest, `"""`):
		if inner, n, ok := l.until(`"""`, `"""`, "long string"); ok {
			l.add(stringToken, n, inner)
		}
	case c == '"':
		l.short()
	case isLetter(c):
		n := 1
		for n < len(rest) && isNameByte(rest[n]) {
			n++
		}
		l.add(nameToken, n, rest[:n])
	case isDigit(c):
		n := digits(rest)
		if n < len(rest) && rest[n] == '.' {
			n++
			n += digits(rest[n:])
		}
		l.add(numberToken, n, rest[:n])
	default:
		l.symbol()
	}
}

// short is a string in single quotes, on one line.
func (l *lexer) short() {
	rest := l.rest()[1:]
	n := strings.IndexAny(rest, "\"\n")
	if n < 0 || rest[n] == '\n' {
		l.fail(place{l.src, l.at}, `the string that begins here has no end on its line; one of several lines is put in {"..."}`)
		if n < 0 {
			n = len(rest)
		}
		l.add(stringToken, 1+n, rest[:n])
		return
	}
	l.add(stringToken, n+2, rest[:n])
}

func (l *lexer) symbol() {
	rest := l.rest()
	for _, s := range symbols {
		if strings.HasPrefix(rest, s) {
			l.add(symbolToken, len(s), s)
			return
		}
	}
	if rest[0] == ':' {
		n := 1
		for n < len(rest) && (isLetter(rest[n]) || isDigit(rest[n]) || strings.IndexByte("+/=", rest[n]) >= 0) {
			n++
		}
		if n < len(rest) && rest[n] == ':' {
			l.add(blobToken, n+1, rest[1:n])
			return
		}
	}
	if strings.IndexByte("{}()[];,.=+-*/%<>!~&|:?$@^", rest[0]) < 0 {
		n := 1
		for n < len(rest) && (rest[n] >= 0x80 || rest[n] < ' ' && rest[n] != '\n') {
			n++ // as one: a character of several bytes, or a file that is no text
		}
		l.fail(place{l.src, l.at}, "%s is not VCL outside of strings and comments", quote(rest[:n]))
		l.at += n
		return
	}
	l.add(symbolToken, 1, rest[:1])
}

func digits(s string) int {
	n := 0
	for n < len(s) && isDigit(s[n]) {
		n++
	}
	return n
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }

// isNameByte says that c may be in a name, a variable's or an object's method's, too.
func isNameByte(c byte) bool {
	return isLetter(c) || isDigit(c) || c == '_' || c == '-' || c == '.'
}
