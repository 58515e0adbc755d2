package store

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Encode writes a definition as Decode takes it: JSON on one line, fields in
// one order, defaults left out. A certificate is written with its key; for
// anything that people see, use Redact.
//
// Of two definitions that Decode returned, equal ones encode alike.
func Encode(def Definition) []byte {
	return encode(def, false)
}

func encode(def Definition, redact bool) []byte {
	e := &encoder{b: make([]byte, 0, 128), redact: redact}
	switch v := def.(type) {
	case *Backend:
		backendFields.write(e, v)
	case *Probe:
		probeFields.write(e, v)
	case *Director:
		directorFields.write(e, v)
	case *Route:
		routeFields.write(e, v)
	case *Certificate:
		certificateFields.write(e, v)
	case *Health:
		healthFields.write(e, v)
	default:
		panic(fmt.Sprintf("store: encode %T", def))
	}
	return e.b
}

// encoder appends JSON.
type encoder struct {
	b      []byte
	redact bool // hide keys
}

// field begins a field; its value has to follow.
func (e *encoder) field(name string) {
	if e.b[len(e.b)-1] != '{' {
		e.b = append(e.b, ',')
	}
	e.text(name)
	e.b = append(e.b, ':')
}

// text appends a string with the escapes that JSON needs, and no others.
func (e *encoder) text(s string) { e.b = appendText(e.b, s) }

func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 { // not of Decode; keep the output JSON
				b = append(b, s[from:i]...)
				b = append(b, `\ufffd`...)
				from = i + n
			}
			i += n
			continue
		}
		i++
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i-1]...)
		from = i
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, `\n`...)
		case '\r':
			b = append(b, `\r`...)
		case '\t':
			b = append(b, `\t`...)
		default:
			b = fmt.Appendf(b, `\u%04x`, c)
		}
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

func (e *encoder) flag(v bool)      { e.b = strconv.AppendBool(e.b, v) }
func (e *encoder) integer(n int)    { e.b = strconv.AppendInt(e.b, int64(n), 10) }
func (e *encoder) number(x float64) { e.b = strconv.AppendFloat(e.b, x, 'f', -1, 64) }

func (e *encoder) duration(t time.Duration) {
	e.b = append(e.b, '"')
	e.b = appendDuration(e.b, t)
	e.b = append(e.b, '"')
}

// list appends a list of n elements.
func (e *encoder) list(n int, element func(i int)) {
	e.b = append(e.b, '[')
	for i := range n {
		if i > 0 {
			e.b = append(e.b, ',')
		}
		element(i)
	}
	e.b = append(e.b, ']')
}

func (e *encoder) texts(list []string) {
	e.list(len(list), func(i int) { e.text(list[i]) })
}

// anyOf writes a list of one as what is in it.
func (e *encoder) anyOf(list []string) {
	if len(list) == 1 {
		e.text(list[0])
		return
	}
	e.texts(list)
}

// redacted stands for what is not shown.
const redacted = "(redacted)"

// Redact is Encode for people: a certificate's key is not in it.
func Redact(def Definition) []byte { return encode(def, true) }

// RedactValue is for showing a key's raw value, which may be invalid. Of a
// certificate, only a cert without private keys and a list of hosts are shown,
// whatever else it holds and however malformed it is; any other value that
// seems to hold a private key is not shown at all. The result may share memory
// with raw.
func RedactValue(key Key, raw []byte) []byte {
	if key.Kind == SecretKind {
		return hidden(len(raw))
	}
	if key.Kind != Certificates {
		if bytes.Contains(raw, []byte("PRIVATE KEY")) {
			return hidden(len(raw))
		}
		return raw
	}
	d := &decoder{data: raw, secret: true}
	e := &encoder{b: []byte{'{'}}
	ok := d.object("", func(b []byte) {
		switch name := string(b); name {
		case "cert":
			e.field(name)
			if s, ok := d.text(""); ok {
				if clean, err := parseCertificates(string(s)); err == nil {
					e.text(clean)
					return
				}
			}
		case "hosts":
			e.field(name)
			if list, ok := d.texts(false, maxList, "", secretHost); ok {
				e.texts(list)
				return
			}
		case "key":
			e.field(name)
			d.skip()
		default:
			e.field("(unknown field)")
			d.skip()
		}
		e.text(redacted)
	})
	if d.end(); !ok || d.broken {
		return hidden(len(raw))
	}
	return append(e.b, '}')
}

func hidden(n int) []byte {
	return appendText(nil, fmt.Sprintf("%s, %d bytes", redacted, n))
}
