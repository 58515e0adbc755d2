package store

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// schema is the table of a JSON object's fields, for reading and for writing.
// It reads like the table in the documentation: a line is a field's name, where
// it is kept, its default and its bounds.
type schema[T any] struct {
	what   string // "a backend", for messages
	fields []field[T]
	zero   T // what an object without fields says: the defaults
}

// field is one line.
type field[T any] struct {
	name  string
	init  func(*T)           // sets the default; nil where that is the zero value, or not known before all fields are
	read  func(*decoder, *T) // reads the value at hand
	write func(*encoder, *T) // writes name and value, or nothing where it is the default
	shape func() *shape      // of the value, for editors: what read takes, and perhaps more
}

// as gives a field another shape than its kind of field has.
func (f field[T]) as(s func() *shape) field[T] {
	f.shape = s
	return f
}

func newSchema[T any](what string, fields ...field[T]) *schema[T] {
	s := &schema[T]{what: what, fields: fields}
	if len(fields) > 64 {
		panic("store: more fields than bits: " + what)
	}
	for _, f := range fields {
		if f.init != nil {
			f.init(&s.zero)
		}
	}
	return s
}

// given is the set of fields that an object has.
type given[T any] struct {
	schema *schema[T]
	bits   uint64
	faulty uint64 // those with an error of their own
}

// has says whether the object has a field, right or wrong.
func (g given[T]) has(name string) bool { return g.bits&g.bit(name) != 0 }

// bad says whether a field is wrong by itself, so that it is not worth
// comparing with others.
func (g given[T]) bad(name string) bool { return g.faulty&g.bit(name) != 0 }

func (g given[T]) bit(name string) uint64 {
	for i := range g.schema.fields {
		if g.schema.fields[i].name == name {
			return 1 << i
		}
	}
	panic("store: no field " + name)
}

// only reports fields that are given but do not go with the rest; allowed
// names those that do.
func (g given[T]) only(d *decoder, why string, allowed ...string) {
	for i := range g.schema.fields {
		if name := g.schema.fields[i].name; g.bits&(1<<i) != 0 && !slices.Contains(allowed, name) {
			d.failAt(name, "%s", why)
		}
	}
}

// read reads the object at hand into v. It is false if there is none, or if it
// is broken: then what its fields are together is not worth judging.
func (s *schema[T]) read(d *decoder, v *T) (given[T], bool) {
	*v = s.zero
	g := given[T]{schema: s}
	next := 0 // fields mostly come in the order of the table
	ok := d.object("an object", func(name []byte) {
		at := -1
		for n := range s.fields {
			i := next + n
			if i >= len(s.fields) {
				i -= len(s.fields)
			}
			if s.fields[i].name == string(name) {
				at = i
				break
			}
		}
		if at < 0 {
			s.unknown(d, string(name))
			return
		}
		next = at + 1
		f := &s.fields[at]
		mark := d.enter(f.name)
		if g.bits&(1<<at) != 0 {
			d.fail("is given twice")
			d.skip()
		} else {
			g.bits |= 1 << at
			before := d.count()
			if f.read(d, v); d.count() > before {
				g.faulty |= 1 << at
			}
		}
		d.leave(mark)
	})
	return g, ok
}

// unknown passes a field that s does not have.
func (s *schema[T]) unknown(d *decoder, name string) {
	if d.count() >= maxErrors || len(d.warnings) >= maxErrors { // what is said of it would not be shown
		if !d.warn {
			d.more++
		}
		d.skip()
		return
	}
	if d.secret && len(name) > 32 { // it may be the key; a line of PEM has 64
		name = fmt.Sprintf("(a name of %d bytes)", len(name))
	}
	hint := ""
	if known := s.nearest(name); known != "" {
		hint = fmt.Sprintf("; did you mean %q?", known)
	}
	mark := d.enter(name)
	if !d.warn {
		d.fail("is not a field of %s%s", s.what, hint)
	} else {
		d.warnings = append(d.warnings, fmt.Sprintf("%s: is not a field of %s, served without it%s", d.path, s.what, hint))
	}
	d.leave(mark)
	d.skip()
}

// nearest is the field whose name was probably meant, or "".
func (s *schema[T]) nearest(name string) string {
	if len(name) > 40 {
		return ""
	}
	plain := func(s string) string { // connectTimeout and connect-timeout are connect_timeout
		return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "", ".", "").Replace(s))
	}
	best, found := 1+min(2, len(name)/3), ""
	for i := range s.fields {
		known := s.fields[i].name
		if d := distance(plain(name), plain(known)); d < best {
			best, found = d, known
		}
	}
	return found
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours between two short names.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	last := make([]int, len(b)+1)
	for i := 1; i <= len(a); i++ {
		before, last, row = last, row, before
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// write writes v as an object, its fields in the order of the table.
func (s *schema[T]) write(e *encoder, v *T) {
	e.b = append(e.b, '{')
	for i := range s.fields {
		s.fields[i].write(e, v)
	}
	e.b = append(e.b, '}')
}

// maxCount bounds counts: connections, requests.
const maxCount = 1_000_000_000

// text is a string; check, if any, says what is wrong with one. Where the
// default is "", not to be given, check may refuse it.
func text[T any](name string, at func(*T) *string, is string, check func(string) error) field[T] {
	return field[T]{
		name: name,
		init: func(v *T) { *at(v) = is },
		read: func(d *decoder, v *T) {
			b, ok := d.text("a string")
			if !ok {
				return
			}
			if string(b) == is && (is != "" || check == nil) {
				*at(v) = is // one string for all who have the default
				return
			}
			if s := string(b); check == nil || d.right(check(s)) {
				*at(v) = s
			}
		},
		write: func(e *encoder, v *T) {
			if s := *at(v); s != is {
				e.field(name)
				e.text(s)
			}
		},
		shape: func() *shape { return textShape().or(is, is != "") },
	}
}

// textInto reads a string that check, if any, finds right.
func (d *decoder) textInto(to *string, check func(string) error) bool {
	b, ok := d.text("a string")
	if !ok {
		return false
	}
	s := string(b)
	if check != nil && !d.right(check(s)) {
		return false
	}
	*to = s
	return true
}

// right reports what a check found wrong with the field at hand.
func (d *decoder) right(err error) bool {
	if err != nil {
		d.fail("%v", err)
	}
	return err == nil
}

// anyQuoted is "a", "b" or "c": what would be right.
func anyQuoted[S ~string](options []S) string {
	want := make([]string, len(options))
	for i, o := range options {
		want[i] = strconv.Quote(string(o))
	}
	last := len(want) - 1
	if last == 0 {
		return want[0]
	}
	return strings.Join(want[:last], ", ") + " or " + want[last]
}

// choice is one of a few strings.
func choice[T any, S ~string](name string, at func(*T) *S, is S, options ...S) field[T] {
	oneOf := anyQuoted(options)
	return field[T]{
		name: name,
		init: func(v *T) { *at(v) = is },
		read: func(d *decoder, v *T) {
			b, ok := d.text(oneOf)
			if !ok {
				return
			}
			for _, o := range options {
				if string(b) == string(o) {
					*at(v) = o
					return
				}
			}
			d.fail("is %s, want %s", quote(string(b)), oneOf)
		},
		write: func(e *encoder, v *T) {
			if s := *at(v); s != is {
				e.field(name)
				e.text(string(s))
			}
		},
		shape: func() *shape { return choiceShape(options...).or(is, is != "") },
	}
}

// flag is true or false.
func flag[T any](name string, at func(*T) *bool, is bool) field[T] {
	return field[T]{
		name: name,
		init: func(v *T) { *at(v) = is },
		read: func(d *decoder, v *T) {
			if b, ok := d.flag(); ok {
				*at(v) = b
			}
		},
		write: func(e *encoder, v *T) {
			if b := *at(v); b != is {
				e.field(name)
				e.flag(b)
			}
		},
		shape: func() *shape { return flagShape().or(is, true) },
	}
}

// integer is a whole number from lo to hi.
func integer[T any](name string, at func(*T) *int, is, lo, hi int) field[T] {
	return field[T]{
		name: name,
		init: func(v *T) { *at(v) = is },
		read: func(d *decoder, v *T) {
			if n, ok := d.integer(lo, hi); ok {
				*at(v) = n
			}
		},
		write: func(e *encoder, v *T) {
			if n := *at(v); n != is {
				e.field(name)
				e.integer(n)
			}
		},
		shape: func() *shape { return integerShape(lo, hi).or(is, lo <= is && is <= hi) },
	}
}

// number is any number from lo to hi.
func number[T any](name string, at func(*T) *float64, is, lo, hi float64) field[T] {
	return field[T]{
		name: name,
		init: func(v *T) { *at(v) = is },
		read: func(d *decoder, v *T) {
			if x, ok := d.number(lo, hi); ok {
				*at(v) = x
			}
		},
		write: func(e *encoder, v *T) {
			if x := *at(v); x != is {
				e.field(name)
				e.number(x)
			}
		},
		shape: func() *shape { return numberShape(lo, hi).or(is, true) },
	}
}

// duration is a duration of at least lo.
func duration[T any](name string, at func(*T) *time.Duration, is, lo time.Duration) field[T] {
	return field[T]{
		name: name,
		init: func(v *T) { *at(v) = is },
		read: func(d *decoder, v *T) {
			if t, ok := d.duration(lo); ok {
				*at(v) = t
			}
		},
		write: func(e *encoder, v *T) {
			if t := *at(v); t != is {
				e.field(name)
				e.duration(t)
			}
		},
		shape: func() *shape { return durationShape(lo).or(FormatDuration(max(is, 0)), is >= lo) },
	}
}

// duration reads a string that ParseDuration takes, or a plain 0, which needs
// no unit to be understood.
func (d *decoder) duration(lo time.Duration) (time.Duration, bool) {
	const want = `a duration such as "1.4s"`
	var t time.Duration
	if c := d.peek(); c == '-' || isDigit(c) {
		raw, ok := d.scanNumber()
		if !ok {
			return 0, false
		}
		if string(raw) != "0" {
			d.fail("is %s, a number without a unit, want %s", clip(string(raw)), want)
			return 0, false
		}
	} else {
		b, ok := d.text(want)
		if !ok {
			return 0, false
		}
		var err error
		if t, err = ParseDuration(string(b)); err != nil {
			d.fail("%v", err)
			return 0, false
		}
	}
	if t < lo {
		d.fail("is %q, want above 0", FormatDuration(t))
		return 0, false
	}
	return t, true
}

// maxList bounds a list of strings, where nothing else does.
const maxList = 10_000

// texts is a list of one to most strings, of which want says one; check says
// what is wrong with one of them, and returns how it is kept.
func texts[T any](name string, at func(*T) *[]string, most int, want string, check func(string) (string, error)) field[T] {
	return field[T]{
		name: name,
		read: func(d *decoder, v *T) {
			if list, ok := d.texts(false, most, want, check); ok {
				*at(v) = list
			}
		},
		write: func(e *encoder, v *T) {
			if list := *at(v); len(list) > 0 {
				e.field(name)
				e.texts(list)
			}
		},
		shape: func() *shape { return listShape(textShape(), most) },
	}
}

// anyOf is a string or a list of them, of which any may hold.
func anyOf[T any](name string, at func(*T) *[]string, most int, want string, check func(string) (string, error)) field[T] {
	f := texts(name, at, most, want, check)
	f.read = func(d *decoder, v *T) {
		if list, ok := d.texts(true, most, want, check); ok {
			*at(v) = list
		}
	}
	f.write = func(e *encoder, v *T) {
		if list := *at(v); len(list) > 0 {
			e.field(name)
			e.anyOf(list)
		}
	}
	f.shape = func() *shape { return oneOrMore(textShape(), most) }
	return f
}

// texts reads a list of one to most strings; single takes a string for a list
// of one.
func (d *decoder) texts(single bool, most int, want string, check func(string) (string, error)) (list []string, ok bool) {
	ok = true
	one := func(want string) {
		b, good := d.text(want)
		if !good {
			ok = false
			return
		}
		s := string(b)
		if check != nil {
			var err error
			if s, err = check(s); !d.right(err) {
				ok = false
				return
			}
		}
		list = append(list, s)
	}
	switch c := d.peek(); {
	case single && c == '"':
		one(want)
	case single && c != '[':
		d.mistyped(want + ", or a list of such")
		return nil, false
	default:
		n := 0
		if !d.list("a list: "+want, func(i int) {
			if n = i + 1; n <= most {
				one(want)
			} else {
				d.skip()
			}
		}) {
			return nil, false
		}
		switch {
		case n == 0:
			d.fail("is an empty list, want at least one: %s", want)
			return nil, false
		case n > most:
			d.fail("is a list of %d, want at most %d", n, most)
			return nil, false
		}
	}
	return list, ok
}

// emptyList passes the list at hand if there is nothing in it.
func (d *decoder) emptyList() bool {
	back := d.pos
	d.pos++
	if d.peek() == ']' {
		d.pos++
		return true
	}
	d.pos = back
	return false
}

// object is an object with a table of its own, kept behind a pointer; finish,
// if any, judges it and fills in what depends on several fields.
func object[T, U any](name string, at func(*T) **U, s *schema[U], finish func(*decoder, *U, given[U])) field[T] {
	return field[T]{
		name: name,
		read: func(d *decoder, v *T) {
			u := new(U)
			g, ok := s.read(d, u)
			if !ok {
				return
			}
			if finish != nil {
				finish(d, u, g)
			}
			*at(v) = u
		},
		write: func(e *encoder, v *T) {
			if u := *at(v); u != nil {
				e.field(name)
				s.write(e, u)
			}
		},
		shape: s.shape,
	}
}

// pairs is an object of any names; one reads the value of each.
func (d *decoder) pairs(want string, one func(name string)) bool {
	return d.object(want, func(name []byte) {
		s := string(name)
		mark := d.enter(s)
		one(s)
		d.leave(mark)
	})
}
