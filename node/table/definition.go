package table

import (
	"iter"

	"roster/store"
)

// Definition finds the definition in effect under a key; nil if there is none.
func (t *Table) Definition(key store.Key) *Definition {
	switch key.Kind {
	case store.Probes:
		d, _ := t.probes.Get([]byte(key.Name))
		return d
	case store.Certificates:
		d, _ := t.certs.Get([]byte(key.Name))
		return d
	case store.Routes:
		if r := t.routes.Get(key.Name); r != nil {
			return &Definition{key, r.Def, r.CreateRevision, r.ModRevision}
		}
		return nil
	}
	s := t.Lookup(key.Name)
	switch {
	case s == nil:
	case key.Kind == store.Backends && s.Backend != nil:
		return &Definition{key, s.Backend.Def, s.Backend.CreateRevision, s.Backend.ModRevision}
	case key.Kind == store.Directors && s.Director != nil:
		return &Definition{key, s.Director.Def, s.Director.CreateRevision, s.Director.ModRevision}
	case key.Kind == store.HealthKind && s.Override != nil:
		return &Definition{key, s.Override.Def, s.Override.CreateRevision, s.Override.ModRevision}
	}
	return nil
}

// Definitions yields the definitions of a kind whose names begin with under and come
// after the name after, in name order.
func (t *Table) Definitions(kind store.Kind, under, after string) iter.Seq[*Definition] {
	switch kind {
	case store.Probes:
		return values(ordered(t.probes, under, after))
	case store.Certificates:
		return values(ordered(t.certs, under, after))
	case store.Routes:
		return func(yield func(*Definition) bool) {
			for r := range t.Routes(under, after) {
				if !yield(&Definition{store.Key{Kind: kind, Name: r.Name}, r.Def, r.CreateRevision, r.ModRevision}) {
					return
				}
			}
		}
	}
	return func(yield func(*Definition) bool) {
		for s := range t.Slots(under, after) {
			if d := t.Definition(store.Key{Kind: kind, Name: s.Name}); d != nil && !yield(d) {
				return
			}
		}
	}
}

// Available says whether a request that is sent to a name now finds a backend there:
// a backend that is not sick, or a director that has one to choose, be it in panic only.
func (t *Table) Available(name string) bool {
	ref, ok := t.names.Get([]byte(name))
	if !ok {
		return false
	}
	s := t.slots.at(ref)
	if s.Director == nil {
		return s.Available()
	}
	w := walk{t: t, now: t.views.now(), doubt: true}
	if w.available(ref, s) {
		return true
	}
	if w.out {
		w.begin()
		w.exact, w.pardon = true, true
		return w.available(ref, s)
	}
	return false
}
