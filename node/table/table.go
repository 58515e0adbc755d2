package table

import (
	"errors"
	"fmt"
	"iter"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"roster/node/route"
	"roster/pool"
	"roster/prober"
	"roster/store"
)

// Ref is a name's slot in a table; 0 refers to nothing.
type Ref = uint32

// Slot is all that is known under one name at one revision. A slot without
// Backend and Director is dangling: something refers to a name nobody defines.
type Slot struct {
	Name     string
	Backend  *Backend
	Director *Director
	Override *Override // the operator's word on its health; nil = none
	Since    time.Time // when it came to be, or its override or lack of a probe did; see HealthSince
}

// Backend is one backend as one table sees it. It never changes; what it points to does.
type Backend struct {
	// What each request reads is together, here and in what is pointed to: of 10,000
	// backends nothing is in a cache.

	Def *store.Backend
	// Pool gives connections; nil for a backend none, and where Fault says
	// why there can be none.
	Pool *pool.Pool
	// Runtime is what lives on when the definition changes.
	Runtime *Runtime
	// Probe is the verdict of the backend's probe; nil where there is none.
	Probe *prober.Ref
	// Fault is why every request to this backend fails with 503 (a dangling
	// via, say); nil for a backend that may be tried.
	Fault error

	Name                        string
	CreateRevision, ModRevision int64
	edit                        uint64 // that made it, and may complete it until the table is out
}

// limit puts the definition's limit into effect and opens the queue.
func (b *Backend) limit() {
	b.Runtime.Set(b.Def.MaxConnections, b.Def.WaitLimit, b.Def.WaitTimeout)
}

// Override is the operator's word on a name's health. It wins over probes.
type Override struct {
	Def                         *store.Health
	CreateRevision, ModRevision int64
}

// refused says whether the operator wants no new requests at the name.
func (s *Slot) refused() bool {
	return s.Override != nil && (s.Override.Def.State == store.Sick || s.Override.Def.State == store.Drain)
}

// Rejection is a key whose newest value is not in effect, and why.
type Rejection struct {
	Key      store.Key
	Revision int64 // the rejected one
	InEffect int64 // the one served instead; 0 = none, the key is absent
	Err      error
}

// Available says whether new requests may be sent to the slot's backend: the
// operator's word, else its probe's verdict. One without a probe is healthy.
func (s *Slot) Available() bool {
	b := s.Backend
	if b == nil || b.Pool == nil || b.Fault != nil {
		return false
	}
	if s.Override != nil {
		switch s.Override.Def.State {
		case store.Sick, store.Drain:
			return false
		case store.Healthy:
			return true
		}
	}
	return b.Probe == nil || b.Probe.Healthy()
}

// Takes says whether a backend that an older table has chosen may get the request yet: it
// is still there, and no operator wants it to get none.
func (t *Table) Takes(b *Backend) bool {
	s := t.Lookup(b.Name)
	return s != nil && s.Backend != nil && s.Backend.Runtime == b.Runtime && !s.refused()
}

// Table is everything a node serves by, at one revision.
type Table struct {
	revision int64
	edit     uint64 // that made it: later tables have higher ones
	digest   Digest
	slots    vector
	names    *iradix.Tree[Ref]
	routes   route.Index
	probes   *iradix.Tree[*Definition]
	certs    *iradix.Tree[*Definition]
	rejected *iradix.Tree[*Rejection]
	warnings *iradix.Tree[[]string]
	secret   *Definition // the fleet's; nil: none
	fallback Ref         // the default rule's answer
	counts   Counts
	views    *views

	needsSecret bool
}

// Definition is a definition that only others refer to.
type Definition struct {
	Key                         store.Key
	Def                         store.Definition
	CreateRevision, ModRevision int64
}

// Counts are the sizes of a table.
type Counts struct {
	Backends, Directors, Routes, Probes, Certificates, Rejected int
}

func empty() *Table {
	return &Table{
		names:    iradix.New[Ref](),
		probes:   iradix.New[*Definition](),
		certs:    iradix.New[*Definition](),
		rejected: iradix.New[*Rejection](),
		warnings: iradix.New[[]string](),
	}
}

// Revision is the newest revision that touched the prefix and is in this
// table; 0 before the first.
func (t *Table) Revision() int64 { return t.revision }

// Digest tells two tables apart: it is a function of every key, its create
// revision and the revision in effect.
func (t *Table) Digest() Digest { return t.digest }

// Counts are the table's sizes.
func (t *Table) Counts() Counts { return t.counts }

// NeedsSecret says whether a director has a cookie, but the fleet no secret: then no
// cookies are set. Where the key holds an invalid value, it is among Rejected.
func (t *Table) NeedsSecret() bool { return t.needsSecret }

// Slot returns what is known under ref; nil for 0 and for a free slot.
func (t *Table) Slot(ref Ref) *Slot { return t.slots.at(ref) }

// Lookup finds a name; nil if the table never heard of it.
func (t *Table) Lookup(name string) *Slot {
	ref, ok := t.names.Get([]byte(name))
	if !ok {
		return nil
	}
	return t.slots.at(ref)
}

// Slots yields the slots whose names begin with under and come after the name
// after, in name order.
func (t *Table) Slots(under, after string) iter.Seq[*Slot] {
	return func(yield func(*Slot) bool) {
		for name, ref := range ordered(t.names, under, after) {
			if s := t.slots.at(ref); s != nil && s.Name == name && !yield(s) {
				return
			}
		}
	}
}

// Routes yields the routes in name order.
func (t *Table) Routes(under, after string) iter.Seq[*route.Route] {
	return t.routes.All(under, after)
}

// Certificate finds a certificate by name.
func (t *Table) Certificate(name string) (*store.Certificate, bool) {
	d, ok := t.certs.Get([]byte(name))
	if !ok {
		return nil, false
	}
	return d.Def.(*store.Certificate), true
}

// Rejected yields the keys whose newest value is not in effect.
func (t *Table) Rejected() iter.Seq[*Rejection] {
	return values(ordered(t.rejected, "", ""))
}

// NewlyRejected yields those of t's rejected keys that old did not have so.
func (t *Table) NewlyRejected(old *Table) iter.Seq[*Rejection] {
	return func(yield func(*Rejection) bool) {
		if t.rejected == old.rejected {
			return
		}
		for r := range t.Rejected() {
			if was, _ := old.rejected.Get([]byte(r.Key.String())); was != r && !yield(r) {
				return
			}
		}
	}
}

// Cycles yields members that lead back to a director that names them, as the
// director's key and the member: each closes a cycle, and is skipped by picks
// that come by all of it.
func (t *Table) Cycles() iter.Seq2[store.Key, string] {
	return func(yield func(store.Key, string) bool) {
		const onTrail, done = 1, 2
		state := make(map[string]int)
		var walk func(s *Slot) bool
		walk = func(s *Slot) bool {
			state[s.Name] = onTrail
			for _, m := range s.Director.Members {
				next := t.slots.at(m.Ref)
				switch {
				case next == nil || next.Director == nil:
				case state[next.Name] == onTrail:
					if !yield(store.Key{Kind: store.Directors, Name: s.Name}, next.Name) {
						return false
					}
				case state[next.Name] == 0 && !walk(next):
					return false
				}
			}
			state[s.Name] = done
			return true
		}
		for s := range t.Slots("", "") {
			if s.Director != nil && state[s.Name] == 0 && !walk(s) {
				return
			}
		}
	}
}

// Warnings yields, by key, what is odd but in effect: what was found when values were
// read, then what definitions have that does nothing. It looks at every director and backend.
func (t *Table) Warnings() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for key, warnings := range ordered(t.warnings, "", "") {
			if !yield(key, warnings) {
				return
			}
		}
		for s := range t.Slots("", "") {
			if key, warnings := t.vain(s); len(warnings) > 0 && !yield(key.String(), warnings) {
				return
			}
		}
	}
}

// vain says what in a slot's definition does nothing.
func (t *Table) vain(s *Slot) (key store.Key, warnings []string) {
	switch {
	case s.Director != nil:
		key = store.Key{Kind: store.Directors, Name: s.Name}
		if d := s.Director.Def; len(d.Members) == 0 && d.Select == nil {
			warnings = append(warnings, "it has neither backends nor select, so it answers as none does")
		}
	case s.Backend != nil && s.Backend.Def.Protocol != store.HTTP1:
		key = store.Key{Kind: store.Backends, Name: s.Name}
		p := t.probeOf(s.Backend.Def)
		if p == nil || p.Type != store.HTTPProbe {
			break
		}
		const text = "its probe's %s does not apply to the protocol %q, and does nothing"
		if p.Request != nil {
			warnings = append(warnings, fmt.Sprintf(text, "request", s.Backend.Def.Protocol))
		}
		if !p.ExpectClose { // true is the default, so nobody need have said it
			warnings = append(warnings, fmt.Sprintf(text, "expect_close", s.Backend.Def.Protocol))
		}
	}
	return key, warnings
}

// Dangling yields each reference to a name nobody defines, as the referring
// key and the missing name. It looks at every director, route, via and override.
func (t *Table) Dangling() iter.Seq2[store.Key, string] {
	return func(yield func(store.Key, string) bool) {
		missing := func(ref Ref) (string, bool) {
			s := t.slots.at(ref)
			if s == nil || s.Backend != nil || s.Director != nil {
				return "", false
			}
			return s.Name, true
		}
		for s := range t.Slots("", "") {
			if s.Override != nil && s.Backend == nil && s.Director == nil && !yield(store.Key{Kind: store.HealthKind, Name: s.Name}, s.Name) {
				return
			}
			if s.Director != nil {
				for _, m := range s.Director.Members {
					if name, is := missing(m.Ref); is && !yield(store.Key{Kind: store.Directors, Name: s.Name}, name) {
						return
					}
				}
			}
			if s.Backend == nil {
				continue
			}
			key := store.Key{Kind: store.Backends, Name: s.Name}
			var d *DanglingError
			if errors.As(s.Backend.Fault, &d) && !yield(key, d.Key.String()) {
				return
			}
			if p := s.Backend.Def.Probe.Name; p != "" {
				if _, ok := t.probes.Get([]byte(p)); !ok && !yield(key, "probes/"+p) {
					return
				}
			}
		}
		for r := range t.Routes("", "") {
			if name, is := missing(r.Target); is && !yield(store.Key{Kind: store.Routes, Name: r.Name}, name) {
				return
			}
		}
	}
}

// DanglingError says that a definition needs another that is not there.
type DanglingError struct{ Key store.Key }

func (e *DanglingError) Error() string { return fmt.Sprintf("%s is not defined", e.Key) }

// ordered yields a tree's keys that begin with under and come after the key
// after, in order.
func ordered[T any](tree *iradix.Tree[T], under, after string) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		it := tree.Root().Iterator()
		if after >= under && after != "" {
			it.SeekLowerBound([]byte(after + "\x00"))
		} else {
			it.SeekLowerBound([]byte(under))
		}
		for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
			name := string(k)
			if len(name) < len(under) || name[:len(under)] != under || !yield(name, v) {
				return
			}
		}
	}
}

func values[T any](seq iter.Seq2[string, T]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, v := range seq {
			if !yield(v) {
				return
			}
		}
	}
}
