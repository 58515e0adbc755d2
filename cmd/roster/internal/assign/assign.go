// Package assign makes a definition of words such as host=10.0.0.7 port=8080, as a
// command line has them.
//
// A word is a field's path, "=" and its value. Dots lead into objects, as in
// probe.url=/health; where the definition takes names of the user's own (labels,
// select, match.header and the like), all of the rest is one name, as in
// labels.app.kubernetes.io/name=web. A field that is given twice or more is a list of
// those values.
//
// A value is what the field takes: of the readings as JSON, as a string and as a list
// split at commas, in this order, the first that the definition accepts. So port=8080
// is a number and labels.version=2 a string, and values never need quotes beyond the
// shell's. "@FILE" stands for what the file holds, in the fields cert, key and tls.ca
// alone: a backend's path may begin with @.
package assign

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/hashicorp/go-multierror"

	"roster/store"
)

// Value makes a definition's value of words. Its error is a *multierror.Error: of the
// words themselves, or else of the definition, as store.Decode has it.
func Value(key store.Key, words []string) ([]byte, error) {
	root, err := parse(words)
	if err != nil {
		return nil, err
	}
	// What one field is does not depend on how another is read, so each is settled by
	// itself: the first reading that has no error at its path.
	for _, leaf := range root.leaves(nil) {
		for i := range leaf.readings {
			leaf.chosen = i
			if !faulty(key, root, leaf.path) {
				break
			}
			if i == len(leaf.readings)-1 {
				leaf.chosen = leaf.plain
			}
		}
	}
	value := root.appendJSON(nil)
	if _, _, err := store.Decode(key, value, store.Reject); err != nil {
		return nil, err
	}
	return value, nil
}

// faulty reports whether the definition has an error at a path or below.
func faulty(key store.Key, root *field, path string) bool {
	_, _, err := store.Decode(key, root.appendJSON(nil), store.Reject)
	var many *multierror.Error
	if !errors.As(err, &many) {
		return false
	}
	for _, err := range many.Errors {
		var f *store.FieldError
		if errors.As(err, &f) && strings.HasPrefix(f.Path, path) {
			rest := f.Path[len(path):]
			if rest == "" || rest[0] == '.' || rest[0] == '[' {
				return true
			}
		}
	}
	return false
}

// field is an object (with fields) or a leaf (with readings).
type field struct {
	name     string
	path     string // as package store spells it
	fields   []*field
	words    []string // the values given, as typed
	readings []string // as JSON
	plain    int      // the reading whose error is told when none is right
	chosen   int
}

func (f *field) leaves(all []*field) []*field {
	if f.readings != nil {
		return append(all, f)
	}
	for _, child := range f.fields {
		all = child.leaves(all)
	}
	return all
}

func (f *field) appendJSON(b []byte) []byte {
	if f.readings != nil {
		return append(b, f.readings[f.chosen]...)
	}
	b = append(b, '{')
	for i, child := range f.fields {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, quote(child.name)...), ':')
		b = child.appendJSON(b)
	}
	return append(b, '}')
}

func parse(words []string) (*field, error) {
	root := &field{}
	var errs *multierror.Error
	for _, word := range words {
		path, value, ok := strings.Cut(word, "=")
		if !ok || path == "" {
			errs = multierror.Append(errs, fmt.Errorf("%q is not of the form field=value, such as host=10.0.0.7", word))
			continue
		}
		if rest, isFile := strings.CutPrefix(value, "@"); isFile && fromFile[path] {
			data, err := os.ReadFile(rest)
			if err != nil {
				errs = multierror.Append(errs, fmt.Errorf("%s: %w", path, err))
				continue
			}
			value = string(data)
		}
		f := root
		for _, name := range split(path) {
			f = f.child(name)
		}
		f.words = append(f.words, value)
	}
	errs = root.settle(errs)
	return root, errs.ErrorOrNil()
}

// settle turns words into readings.
func (f *field) settle(errs *multierror.Error) *multierror.Error {
	switch {
	case len(f.words) > 0 && len(f.fields) > 0:
		return multierror.Append(errs, fmt.Errorf("%s is given as a whole and in parts: %s.%s", f.path, f.path, f.fields[0].name))
	case len(f.words) == 1:
		word := f.words[0]
		if json.Valid([]byte(word)) {
			f.readings = append(f.readings, word)
		}
		f.plain = len(f.readings)
		if start := strings.TrimSpace(word); f.plain > 0 && start[0] != '"' {
			f.plain = 0 // a number that is out of range should not be told to be no string
		}
		f.readings = append(f.readings, quote(word), quoteAll(strings.Split(word, ",")))
	case len(f.words) > 1:
		f.readings = []string{quoteAll(f.words)}
	}
	for _, child := range f.fields {
		errs = child.settle(errs)
	}
	return errs
}

func (f *field) child(name string) *field {
	for _, c := range f.fields {
		if c.name == name {
			return c
		}
	}
	c := &field{name: name, path: join(f.path, name)}
	f.fields = append(f.fields, c)
	return c
}

// join spells a path as package store does.
func join(path, name string) string {
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c|0x20 && c|0x20 <= 'z', '0' <= c && c <= '9', c == '_', c == '-':
		default:
			return path + "[" + quote(name) + "]"
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string has always a JSON form
	}
	return string(b)
}

func quoteAll(words []string) string {
	var all []string
	for _, w := range words {
		all = append(all, quote(w))
	}
	return "[" + strings.Join(all, ",") + "]"
}

// fromFile are the fields that hold PEM.
var fromFile = map[string]bool{"cert": true, "key": true, "tls.ca": true}

// open are the fields whose names are the user's own, with dots in them.
var open = []string{
	"labels.", "select.", "match.header.", "match.query.", "respond.headers.",
	"request_headers.set.", "request_headers.add.", "response_headers.set.", "response_headers.add.",
}

func split(path string) []string {
	for _, prefix := range open {
		if rest, ok := strings.CutPrefix(path, prefix); ok && rest != "" {
			return append(strings.Split(strings.TrimSuffix(prefix, "."), "."), rest)
		}
	}
	return strings.Split(path, ".")
}
