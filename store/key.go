package store

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is a kind of definition, spelt as in its keys.
type Kind string

// The kinds of definitions.
const (
	Backends     Kind = "backends"
	Probes       Kind = "probes"
	Directors    Kind = "directors"
	Routes       Kind = "routes"
	Certificates Kind = "certificates"
	HealthKind   Kind = "health"
)

// Kinds returns all kinds, in the order that lists show them in.
func Kinds() []Kind {
	return []Kind{Backends, Probes, Directors, Routes, Certificates, HealthKind}
}

// ParseKind reads a kind as a user types it: "backend" or "backends".
func ParseKind(s string) (Kind, bool) {
	for _, k := range Kinds() {
		if s == string(k) || s == k.Singular() {
			return k, true
		}
	}
	return "", false
}

// Singular is the word for one of the kind: "backend", "health".
func (k Kind) Singular() string { return strings.TrimSuffix(string(k), "s") }

// Key names a definition: what its key in etcd has after the prefix.
type Key struct {
	Kind Kind
	Name string
}

// ParseKey reads what follows the prefix, "backends/team-a/web-1". It is false
// for what is no definition: other kinds, or no kind at all; SecretKey counts as one.
// The name may be invalid, which Decode reports.
func ParseKey(rel string) (Key, bool) {
	kind, name, found := strings.Cut(rel, "/")
	if !found {
		if rel == SecretKey.String() {
			return SecretKey, true
		}
		return Key{}, false
	}
	switch k := Kind(kind); k {
	case Backends, Probes, Directors, Routes, Certificates, HealthKind:
		return Key{k, name}, true
	}
	return Key{}, false
}

// String is the key under the prefix: "backends/team-a/web-1".
func (k Key) String() string {
	if k.Kind == SecretKind {
		return string(k.Kind)
	}
	return string(k.Kind) + "/" + k.Name
}

// MaxName is the longest name, in bytes.
const MaxName = 255

// ValidateName says what is wrong with a name, or nil: one or more segments
// joined by "/", each [A-Za-z][A-Za-z0-9_.-]*, at most MaxName bytes in all.
func ValidateName(name string) error {
	switch {
	case name == "":
		return errors.New("the name is empty, want letters, digits, \"_\", \".\" and \"-\"")
	case len(name) > MaxName:
		return fmt.Errorf("name %s is %d bytes long, want at most %d", quote(name), len(name), MaxName)
	}
	start := true // of a segment
	for i := 0; i < len(name); i++ {
		c := name[i]
		switch {
		case isLetter(c):
			start = false
		case start && c == '/':
			return fmt.Errorf("name %s has an empty segment, want single \"/\" between segments only", quote(name))
		case start:
			return fmt.Errorf("name %s has a segment that does not begin with a letter", quote(name))
		case c == '/':
			start = true
		case !isDigit(c) && c != '_' && c != '.' && c != '-':
			return fmt.Errorf("name %s has %s in it, want letters, digits, \"_\", \".\", \"-\", and \"/\" between segments", quote(name), quoteRune(name[i:]))
		}
	}
	if start {
		return fmt.Errorf("name %s ends with \"/\"", quote(name))
	}
	return nil
}

func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }
func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
