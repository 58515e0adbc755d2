package manifest

import (
	"regexp"
	"strings"
)

// Write writes definitions as a YAML file that Parse reads, kinds and names in the
// order in which they are first given. Values are as in etcd: JSON, or a health
// state as plain text. A value that is neither is written as a string.
func Write(entries []Entry) []byte {
	file := &node{shape: object}
	for _, e := range entries {
		var kind *node
		for _, m := range file.members {
			if m.name == string(e.Key.Kind) {
				kind = m.value
			}
		}
		if kind == nil {
			kind = &node{shape: object}
			file.members = append(file.members, member{name: string(e.Key.Kind), value: kind})
		}
		value := &node{shape: text, text: string(e.Value)}
		if docs, err := parseJSON(e.Value); err == nil && len(docs) == 1 {
			value = docs[0]
		}
		kind.members = append(kind.members, member{name: e.Key.Name, value: value})
	}
	if len(file.members) == 0 {
		return nil
	}
	return file.appendMembers(nil, "")
}

// appendMembers writes an object's members, one a line.
func (n *node) appendMembers(b []byte, indent string) []byte {
	for _, m := range n.members {
		b = append(b, indent...)
		b = appendScalar(b, m.name)
		b = append(b, ':')
		b = m.value.appendYAML(b, indent+"  ")
	}
	return b
}

// appendYAML writes a value behind its name or dash; indent is for lines below.
func (n *node) appendYAML(b []byte, indent string) []byte {
	switch {
	case n.shape == object && len(n.members) > 0:
		return n.appendMembers(append(b, '\n'), indent)
	case n.shape == list && n.nested():
		b = append(b, '\n')
		for _, item := range n.items {
			b = append(b, indent...)
			b = append(b, '-')
			b = item.appendYAML(b, indent+"  ")
		}
		return b
	case n.shape == text && literal.MatchString(n.text):
		b = append(b, " |\n"...)
		for line := range strings.Lines(n.text) {
			b = append(append(b, indent...), line...)
		}
		return b
	}
	b = append(b, ' ')
	b = n.appendFlow(b)
	return append(b, '\n')
}

// nested reports whether a list holds lists or objects, and is better read one item a
// line.
func (n *node) nested() bool {
	for _, item := range n.items {
		if item.shape == object || item.shape == list {
			return true
		}
	}
	return false
}

// appendFlow writes a value on one line.
func (n *node) appendFlow(b []byte) []byte {
	switch n.shape {
	case text:
		return appendScalar(b, n.text)
	case list:
		b = append(b, '[')
		for i, item := range n.items {
			if i > 0 {
				b = append(b, ", "...)
			}
			b = item.appendFlow(b)
		}
		return append(b, ']')
	case object:
		return append(b, "{}"...) // one with members is never in a flow
	}
	return append(b, n.text...)
}

var (
	// plain is what needs no quotes in any version of YAML, in and out of flows.
	plain = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)
	// reserved are plain words that some version reads as something else.
	reserved = regexp.MustCompile(`^(?i:y|yes|n|no|true|false|on|off|null)$`)
	// literal is text of several lines, none empty or with space at its start, such as
	// PEM: good to read as a block.
	literal = regexp.MustCompile(`^(?:[!-~][ -~]*\n){2,}$`)
)

// appendScalar writes a string, in JSON's quotes where needed: they are YAML's, too.
func appendScalar(b []byte, s string) []byte {
	if plain.MatchString(s) && !reserved.MatchString(s) {
		return append(b, s...)
	}
	return appendString(b, s)
}
