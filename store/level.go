package store

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Level is the definition level of this release: it grows by one with each release
// whose definitions have fields, values of fields, or kinds that the one before refuses.
// What is new says so in the schema, see field.since and field.valueSince. Nodes publish
// their Level, so that nothing is written which one of them cannot read.
const Level = 1 + upcoming

// kindLevels are the levels that kinds came with, where that is not 1.
var kindLevels = map[Kind]int{}

// Need is something in a definition that releases below a level refuse.
type Need struct {
	Path  string // of the field; "" is the definition as a whole
	What  string // "a field", `the value "p2c"`, or "a kind"
	Level int    // 2 or more
}

// Needs are what a value, which Decode takes, has in it that came after level 1, in the
// order of the value; nil for most. It goes by the value and not by its Definition: a field
// that says what is the default is a field that an older release does not know.
func Needs(key Key, value []byte) []Need {
	d := &decoder{data: value}
	d.path = d.pathBuf[:0]
	if level := kindLevels[key.Kind]; level > 1 {
		d.need(level, "a kind")
	}
	d.definition(key, Reject)
	return d.needs
}

// String says what needs which level.
func (n Need) String() string {
	if n.Path == "" {
		return fmt.Sprintf("is %s of definition level %d", n.What, n.Level)
	}
	return fmt.Sprintf("%s: is %s of definition level %d", n.Path, n.What, n.Level)
}

// need notes that the field at hand came with a level.
func (d *decoder) need(level int, what string) {
	d.needs = append(d.needs, Need{string(d.path), what, level})
}

// since says that a field came with a level.
func (f field[T]) since(level int) field[T] {
	read := f.read
	f.read = func(d *decoder, v *T) {
		d.need(level, "a field")
		read(d, v)
	}
	return f
}

// valueSince says that some values of a field, all strings, came with a level.
func (f field[T]) valueSince(level int, values ...string) field[T] {
	read := f.read
	f.read = func(d *decoder, v *T) {
		d.peek()
		start := d.pos
		read(d, v)
		var s string
		if json.Unmarshal(d.data[start:d.pos], &s) == nil && slices.Contains(values, s) {
			d.need(level, fmt.Sprintf("the value %q", s))
		}
	}
	return f
}
