package certs

import (
	"slices"
	"strings"
	"time"
)

// Stats are what a Set has and what became of its files.
type Stats struct {
	Files   []Certificate // in the order given, named by path
	Defined []Certificate // by name
	// Reloads counts changed files that took effect, Failures those that did not.
	Reloads, Failures uint64
	// Stale is how many files at this moment hold something that cannot be used.
	Stale int
}

// Certificate is one certificate in effect.
type Certificate struct {
	Name     string
	NotAfter time.Time // its end; zero if unknown
}

// Stats returns a copy. Above limit definitions, Defined has only the one that
// ends first.
func (s *Set) Stats(limit int) Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Reloads: s.reloads, Failures: s.failures, Stale: s.stale}
	for _, e := range s.current {
		st.Files = append(st.Files, Certificate{e.name, e.notAfter})
	}
	for name, e := range s.defined {
		c := Certificate{name, e.notAfter}
		switch {
		case len(s.defined) <= limit || st.Defined == nil:
			st.Defined = append(st.Defined, c)
		case c.NotAfter.Before(st.Defined[0].NotAfter):
			st.Defined[0] = c
		}
	}
	slices.SortFunc(st.Defined, func(a, b Certificate) int { return strings.Compare(a.Name, b.Name) })
	return st
}
