package manifest

import (
	"encoding/json"
	"errors"
	"strconv"

	"roster/store"
)

// shape is what a node is.
type shape int

const (
	scalar shape = iota // text is JSON: a number, true, false or null
	text                // text is the string itself
	list
	object
)

// node is a value of a file: JSON, with positions.
type node struct {
	shape        shape
	text         string
	items        []*node
	members      []member // in the order of the file; a name may be there twice
	line, column int

	// A text may be true or false in YAML 1.1, unquoted: which one.
	maybe, is bool
}

// boolean makes true or false of the text that an error is about, if it can be that, and
// says whether it was.
func (n *node) boolean(path string) bool {
	done := false
	var walk func(n *node, at string)
	walk = func(n *node, at string) {
		if at == path && n.shape == text && n.maybe {
			n.shape, n.text, done = scalar, strconv.FormatBool(n.is), true
		}
		for i, item := range n.items {
			if at := at + "[" + strconv.Itoa(i) + "]"; leads(at, path) {
				walk(item, at)
			}
		}
		for _, m := range n.members {
			if at := joinField(at, m.name); leads(at, path) {
				walk(m.value, at)
			}
		}
	}
	walk(n, "")
	return done
}

// booleans makes true or false of all texts that errors of package store are about.
func (n *node) booleans(err error) (done bool) {
	if err == nil {
		return false
	}
	for _, err := range Each(err) {
		var field *store.FieldError
		if errors.As(err, &field) && n.boolean(field.Path) {
			done = true
		}
	}
	return done
}

// member is one name of an object and its value.
type member struct {
	name         string
	line, column int
	value        *node
}

// what names the node's shape in a message.
func (n *node) what() string {
	switch n.shape {
	case list:
		return "a list"
	case object:
		return "a map"
	case text:
		return strconv.Quote(n.text)
	}
	return n.text
}

// appendJSON writes the node as JSON on one line.
func (n *node) appendJSON(b []byte) []byte {
	switch n.shape {
	case scalar:
		return append(b, n.text...)
	case text:
		return appendString(b, n.text)
	case list:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.appendJSON(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	for i, m := range n.members {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, m.name)
		b = append(b, ':')
		b = m.value.appendJSON(b)
	}
	return append(b, '}')
}

func appendString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string has always a JSON form
	}
	return append(b, quoted...)
}

// find gives the position of the field that an error of package store is about, or
// of what is nearest to it.
func (n *node) find(path string) (line, column int) {
	line, column = n.line, n.column
	var walk func(n *node, at string)
	walk = func(n *node, at string) {
		for i, item := range n.items {
			if at := at + "[" + strconv.Itoa(i) + "]"; leads(at, path) {
				line, column = item.line, item.column
				walk(item, at)
			}
		}
		for _, m := range n.members {
			if at := joinField(at, m.name); leads(at, path) {
				line, column = m.line, m.column
				walk(m.value, at)
			}
		}
	}
	walk(n, "")
	return line, column
}

// leads reports whether path is at or below it.
func leads(at, path string) bool {
	return len(path) >= len(at) && path[:len(at)] == at &&
		(len(path) == len(at) || path[len(at)] == '.' || path[len(at)] == '[')
}

// joinField adds a field to a path, as package store spells it: .name, or ["name"]
// where a dot would mislead.
func joinField(path, name string) string {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return path + "[" + strconv.Quote(name) + "]"
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
