package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-multierror"

	"roster/cmd/roster/internal/nearest"
	"roster/store"
)

// Entry is one definition of a file.
type Entry struct {
	Key        store.Key
	Value      []byte // as it is to be put: JSON on one line, or a health state as plain text
	Definition store.Definition
	File       string
	Line       int // 0 where it is not known
}

// place is where the definition stands, for messages.
func (e Entry) place() string {
	if e.Line == 0 {
		return e.File
	}
	return fmt.Sprintf("%s:%d", e.File, e.Line)
}

// Error is one thing wrong with a file.
type Error struct {
	File         string
	Line, Column int       // from 1; 0 where it is not known
	Key          store.Key // zero where no definition is meant
	Err          error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	for _, n := range []int{e.Line, e.Column} {
		if n > 0 {
			fmt.Fprintf(&b, ":%d", n)
		}
	}
	b.WriteString(": ")
	if e.Key != (store.Key{}) {
		b.WriteString(e.Key.String() + ": ")
	}
	b.WriteString(e.Err.Error())
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// Load reads files as one set; "-" is stdin. Definitions come in the order of the
// files. The error is a *multierror.Error; those of what was read are *Error.
func Load(files []string, stdin io.Reader) ([]Entry, error) {
	var all set
	for _, file := range files {
		data, name, err := read(file, stdin)
		if err != nil {
			all.errs = multierror.Append(all.errs, err)
			continue
		}
		all.add(name, data)
	}
	return all.result()
}

// Parse reads one file's content. file is its name, for messages.
func Parse(file string, data []byte) ([]Entry, error) {
	var all set
	all.add(file, data)
	return all.result()
}

// ParseOne reads a file that holds one definition and nothing around it, under the
// given key. Its Value may be text for a health state.
func ParseOne(file string, data []byte, key store.Key) (Entry, error) {
	docs, err := parse(file, data)
	var all set
	switch {
	case err != nil:
		all.syntax(file, err)
	case len(docs) != 1:
		all.fail(&Error{File: file, Key: key, Err: fmt.Errorf("holds %d values, want one definition", len(docs))})
	default:
		all.define(file, key, docs[0], docs[0].line, docs[0].column)
	}
	entries, err := all.result()
	if err != nil {
		return Entry{}, err
	}
	return entries[0], nil
}

// LoadOne is ParseOne of a file; "-" is stdin.
func LoadOne(file string, stdin io.Reader, key store.Key) (Entry, error) {
	data, name, err := read(file, stdin)
	if err != nil {
		return Entry{}, err
	}
	return ParseOne(name, data, key)
}

func read(file string, stdin io.Reader) (data []byte, name string, err error) {
	if file == "-" {
		data, err = io.ReadAll(stdin)
		return data, "stdin", err
	}
	data, err = os.ReadFile(file)
	return data, file, err
}

// parse reads JSON as JSON, for its exact positions and escapes, and everything else
// as YAML.
func parse(file string, data []byte) ([]*node, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	isJSON := filepath.Ext(file) == ".json"
	if start := bytes.TrimLeft(data, " \t\r\n"); isJSON || len(start) > 0 && start[0] == '{' {
		docs, err := parseJSON(data)
		if err == nil || isJSON {
			return docs, err
		}
	}
	return parseYAML(data)
}

// set gathers definitions and errors.
type set struct {
	entries []Entry
	seen    map[store.Key]Entry
	errs    *multierror.Error
}

func (s *set) result() ([]Entry, error) {
	if s.errs != nil {
		return nil, s.errs
	}
	return s.entries, nil
}

func (s *set) fail(e *Error) { s.errs = multierror.Append(s.errs, e) }

func (s *set) syntax(file string, err error) {
	e := &Error{File: file, Err: err}
	var bad *syntaxError
	if errors.As(err, &bad) {
		e.Line, e.Column = bad.line, bad.column
	}
	s.fail(e)
}

const wanted = "want a map of kinds (backends, probes, directors, routes, certificates, health) to names to definitions"

func (s *set) add(file string, data []byte) {
	docs, err := parse(file, data)
	if err != nil {
		s.syntax(file, err)
		return
	}
	if len(docs) == 0 {
		s.fail(&Error{File: file, Err: errors.New("is empty, " + wanted)})
	}
	for _, doc := range docs {
		if doc.shape != object {
			s.fail(&Error{File: file, Line: doc.line, Column: doc.column, Err: errors.New("is " + doc.what() + ", " + wanted)})
			continue
		}
		for _, kind := range doc.members {
			s.kind(file, kind)
		}
	}
}

func (s *set) kind(file string, m member) {
	at := Error{File: file, Line: m.line, Column: m.column}
	kind, ok := store.ParseKind(m.name)
	if !ok {
		at.Err = errors.New(UnknownKind(m.name))
		s.fail(&at)
		return
	}
	switch {
	case m.value.shape == object:
	case m.value.shape == scalar && m.value.text == "null":
		return // a heading with nothing below it
	default:
		at.Err = fmt.Errorf("%s is %s, want a map of names to definitions", m.name, m.value.what())
		s.fail(&at)
		return
	}
	for _, def := range m.value.members {
		s.define(file, store.Key{Kind: kind, Name: def.name}, def.value, def.line, def.column)
	}
}

// define takes in one definition.
func (s *set) define(file string, key store.Key, n *node, line, column int) {
	value := n.appendJSON(nil)
	if key.Kind == store.HealthKind && n.shape == text {
		value = []byte(n.text)
	}
	def, _, err := store.Decode(key, value, store.Reject)
	if n.booleans(err) {
		value = n.appendJSON(nil)
		def, _, err = store.Decode(key, value, store.Reject)
	}
	if err != nil {
		for _, err := range Each(err) {
			e := &Error{File: file, Line: line, Column: column, Key: key, Err: err}
			var field *store.FieldError
			if errors.As(err, &field) && field.Path != "" {
				e.Line, e.Column = n.find(field.Path)
			}
			s.fail(e)
		}
		return
	}
	entry := Entry{Key: key, Value: value, Definition: def, File: file, Line: line}
	if s.seen == nil {
		s.seen = map[store.Key]Entry{}
	}
	if before, twice := s.seen[key]; twice {
		s.fail(&Error{file, line, column, key, fmt.Errorf("is defined twice, before in %s", before.place())})
		return
	}
	if other, ok := SharesName(key); ok {
		if before, taken := s.seen[other]; taken {
			s.fail(&Error{file, line, column, key, fmt.Errorf(
				"%s has %s: backends and directors share one namespace, rename one of them", before.place(), other)})
			return
		}
	}
	s.seen[key] = entry
	s.entries = append(s.entries, entry)
}

// SharesName gives the key of the other kind that a backend's or a director's name
// must not be used in, too.
func SharesName(key store.Key) (other store.Key, ok bool) {
	switch key.Kind {
	case store.Backends:
		return store.Key{Kind: store.Directors, Name: key.Name}, true
	case store.Directors:
		return store.Key{Kind: store.Backends, Name: key.Name}, true
	}
	return store.Key{}, false
}

// Each gives the errors of a *multierror.Error one by one, or the error itself.
func Each(err error) []error {
	var many *multierror.Error
	if errors.As(err, &many) {
		return many.Errors
	}
	return []error{err}
}

// UnknownKind says that a word is no kind, and what was perhaps meant.
func UnknownKind(word string) string {
	var kinds, words []string
	for _, k := range store.Kinds() {
		kinds = append(kinds, string(k))
		words = append(words, string(k), k.Singular())
	}
	if near := nearest.Word(word, words); near != "" {
		return fmt.Sprintf("%q is not a kind of definition, did you mean %s?", word, near)
	}
	return fmt.Sprintf("%q is not a kind of definition, want one of %s", word, strings.Join(kinds, ", "))
}
