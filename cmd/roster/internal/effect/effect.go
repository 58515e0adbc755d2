// Package effect works out what a change of definitions does on a node: by the same
// identities of pools and checks that nodes go by.
//
// It knows no history: a definition that nodes reject counts as none, where a node may
// serve an earlier one, and of a name that a backend and a director have the backend
// counts.
package effect

import (
	"bytes"
	"cmp"
	"maps"
	"slices"
	"strings"

	"roster/pool"
	"roster/prober"
	"roster/store"
)

// Definitions are those of a keyspace, valid ones.
type Definitions map[store.Key]store.Definition

// Decode makes Definitions of what etcd holds, without what is invalid.
func Decode(entries []store.Entry) Definitions {
	all := make(Definitions, len(entries))
	for _, e := range entries {
		if def, _, err := store.Decode(e.Key, e.Value, store.Reject); err == nil {
			all[e.Key] = def
		}
	}
	return all
}

// Effect is what a node does about a change. Lists are sorted.
type Effect struct {
	Backends  Changed    `json:"backends"`
	Routes    Changed    `json:"routes"`
	Directors []Director `json:"directors"`
	// Pools of connections, and probers, which several backends may share.
	Pools   Shared `json:"pools"`
	Probers Shared `json:"probers"`
	// Dangling are references, of what the change leaves, to what is not there.
	Dangling []string `json:"dangling"`
}

// Changed are names.
type Changed struct {
	Added   []string `json:"added"`
	Changed []string `json:"changed"`
	Removed []string `json:"removed"`
}

// Shared counts what is kept, with connections or history, and what is not.
type Shared struct {
	Kept  int `json:"kept"`
	New   int `json:"new"`
	Ended int `json:"ended"`
}

// Director is one whose definition or members change.
type Director struct {
	Name   string   `json:"name"`
	Change string   `json:"change"` // added, changed, removed, or members
	Gains  []string `json:"gains"`
	Loses  []string `json:"loses"`
}

// Of compares two states.
func Of(before, after Definitions) Effect {
	e := Effect{Directors: []Director{}, Dangling: after.dangling()}
	e.Backends, e.Routes = changed(before, after, store.Backends), changed(before, after, store.Routes)
	poolsBefore, probersBefore := before.shared()
	poolsAfter, probersAfter := after.shared()
	e.Pools, e.Probers = compare(poolsBefore, poolsAfter), compare(probersBefore, probersAfter)

	directors := changed(before, after, store.Directors)
	membersBefore, membersAfter := before.members(), after.members()
	how := map[string]string{}
	for change, names := range map[string][]string{"added": directors.Added, "changed": directors.Changed, "removed": directors.Removed} {
		for _, name := range names {
			how[name] = change
		}
	}
	for _, name := range union(membersBefore, membersAfter) {
		d := Director{Name: name, Change: cmp.Or(how[name], "members"),
			Gains: without(membersAfter[name], membersBefore[name]), Loses: without(membersBefore[name], membersAfter[name])}
		if how[name] != "" || len(d.Gains)+len(d.Loses) > 0 {
			e.Directors = append(e.Directors, d)
		}
	}
	return e
}

func changed(before, after Definitions, kind store.Kind) Changed {
	c := Changed{[]string{}, []string{}, []string{}}
	for key, def := range after {
		old, there := before[key]
		switch {
		case key.Kind != kind:
		case !there:
			c.Added = append(c.Added, key.Name)
		case old != def && !bytes.Equal(store.Encode(old), store.Encode(def)):
			c.Changed = append(c.Changed, key.Name)
		}
	}
	for key := range before {
		if _, there := after[key]; key.Kind == kind && !there {
			c.Removed = append(c.Removed, key.Name)
		}
	}
	for _, names := range [][]string{c.Added, c.Changed, c.Removed} {
		slices.Sort(names)
	}
	return c
}

func compare[K comparable](before, after map[K]bool) (s Shared) {
	for id := range after {
		if before[id] {
			s.Kept++
		} else {
			s.New++
		}
	}
	s.Ended = len(before) - s.Kept
	return s
}

// shared are the identities of the pools and the checks that backends have.
func (d Definitions) shared() (pools map[string]bool, checks map[prober.Key]bool) {
	pools, checks = map[string]bool{}, map[prober.Key]bool{}
	for key, def := range d {
		b, ok := def.(*store.Backend)
		if !ok || b.None {
			continue
		}
		deps, ok := d.deps(b)
		if !ok {
			continue // a node answers 503 for it
		}
		id := pool.Identity(b, deps)
		if b.ProxyHeader != 0 {
			id += "\x00" + key.Name // never shared
		}
		pools[id] = true
		if p := d.probe(b); p != nil {
			checks[prober.CheckOf(b, p, deps).Key()] = true
		}
	}
	return pools, checks
}

func get[D store.Definition](d Definitions, kind store.Kind, name string) (def D, ok bool) {
	def, ok = d[store.Key{Kind: kind, Name: name}].(D)
	return def, ok
}

// deps are the definitions that connections to a backend need; false if one is missing.
func (d Definitions) deps(b *store.Backend) (deps pool.Deps, ok bool) {
	if b.Via != "" {
		via, ok := get[*store.Backend](d, store.Backends, b.Via)
		if !ok || via.None || via.Via != "" {
			return deps, false
		}
		deps.Via = via
	}
	certificate := func(of *store.Backend) (*store.Certificate, bool) {
		if of == nil || of.TLS == nil || of.TLS.Certificate == "" {
			return nil, true
		}
		return get[*store.Certificate](d, store.Certificates, of.TLS.Certificate)
	}
	if deps.Certificate, ok = certificate(b); !ok {
		return deps, false
	}
	deps.ViaCertificate, ok = certificate(deps.Via)
	return deps, ok
}

// probe is the one in effect for a backend; nil for none.
func (d Definitions) probe(b *store.Backend) *store.Probe {
	switch {
	case b.Probe.None:
		return nil
	case b.Probe.Inline != nil:
		return b.Probe.Inline
	}
	p, _ := get[*store.Probe](d, store.Probes, cmp.Or(b.Probe.Name, "default"))
	return p
}

// members are those of each director, those that it selects included, sorted.
func (d Definitions) members() map[string][]string {
	all := map[string][]string{}
	for key, def := range d {
		v, ok := def.(*store.Director)
		if !ok {
			continue
		}
		names := []string{}
		for _, m := range v.Members {
			names = append(names, m.Name)
		}
		if v.Select != nil {
			scope := key.Name[:strings.LastIndexByte(key.Name, '/')+1]
			for k, def := range d {
				if b, ok := def.(*store.Backend); ok && !b.None && strings.HasPrefix(k.Name, scope) && b.Labels.Match(v.Select) {
					names = append(names, k.Name)
				}
			}
		}
		slices.Sort(names)
		all[key.Name] = slices.Compact(names)
	}
	return all
}

// dangling lists references to what is not there, each in words.
func (d Definitions) dangling() []string {
	all := []string{}
	has := func(name string) bool {
		_, backend := d[store.Key{Kind: store.Backends, Name: name}]
		_, director := d[store.Key{Kind: store.Directors, Name: name}]
		return backend || director
	}
	for key, def := range d {
		refer := func(to string, there bool) {
			if !there {
				all = append(all, key.String()+" names "+to)
			}
		}
		switch def := def.(type) {
		case *store.Director:
			for _, m := range def.Members {
				refer(m.Name, has(m.Name))
			}
		case *store.Route:
			if def.Backend != "" {
				refer(def.Backend, has(def.Backend))
			}
		case *store.Backend:
			if name := def.Probe.Name; name != "" {
				_, ok := d[store.Key{Kind: store.Probes, Name: name}]
				refer("probe "+name, ok)
			}
			if def.Via != "" {
				_, ok := d[store.Key{Kind: store.Backends, Name: def.Via}]
				refer("via "+def.Via, ok)
			}
			if def.TLS != nil && def.TLS.Certificate != "" {
				_, ok := d[store.Key{Kind: store.Certificates, Name: def.TLS.Certificate}]
				refer("certificate "+def.TLS.Certificate, ok)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func union[V any](a, b map[string]V) []string {
	names := slices.Collect(maps.Keys(a))
	names = slices.AppendSeq(names, maps.Keys(b))
	slices.Sort(names)
	return slices.Compact(names)
}

func without(a, b []string) []string {
	left := []string{}
	for _, name := range a {
		if !slices.Contains(b, name) {
			left = append(left, name)
		}
	}
	return left
}
