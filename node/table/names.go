package table

import (
	"cmp"
	"container/heap"
	"errors"
	"fmt"
	"time"

	"roster/balancer"
	"roster/pool"
	"roster/store"
)

// claims returns the two definitions that may stand under a name, which
// backends and directors share.
func (w *work) claims(name string) (backend, director *claim) {
	if len(w.losers) > 0 {
		backend = w.losers[store.Key{Kind: store.Backends, Name: name}]
		director = w.losers[store.Key{Kind: store.Directors, Name: name}]
	}
	_, s := w.find(name)
	if s == nil {
		return backend, director
	}
	if b := s.Backend; b != nil {
		backend = &claim{def: b.Def, create: b.CreateRevision, mod: b.ModRevision}
	}
	if d := s.Director; d != nil {
		director = &claim{def: d.Def, create: d.CreateRevision, mod: d.ModRevision}
	}
	return backend, director
}

// settle gives a name to the older of two claims, a tie to the backend. The
// other is rejected until the name is free.
func (w *work) settle(name string, b, d *claim) {
	oldB, oldD := w.claims(name)
	bKey, dKey := store.Key{Kind: store.Backends, Name: name}, store.Key{Kind: store.Directors, Name: name}
	w.count(bKey, oldB, b)
	w.count(dKey, oldD, d)

	switch {
	case b == nil || d == nil:
		w.unlose(bKey)
		w.unlose(dKey)
	case d.create < b.create:
		w.unlose(dKey)
		w.lose(bKey, b, dKey, d)
		b = nil
	default:
		w.unlose(bKey)
		w.lose(dKey, d, bKey, b)
		d = nil
	}

	var ref Ref
	if b != nil || d != nil {
		ref = w.mention(name) // until the end, so that the slot is not freed on the way
		defer w.forget(ref)
	}
	w.setBackend(name, b)
	w.setDirector(name, d)
	w.rebuild(bKey)
}

// conflictError says why a valid definition is not in effect.
type conflictError struct {
	key, holder   store.Key
	mine, holders int64 // create revisions
}

func (e *conflictError) Error() string {
	return fmt.Sprintf("name %q is held by %s, which is older (create revision %d, this one's is %d); delete one of them or rename it",
		e.key.Name, e.holder, e.holders, e.mine)
}

// lose puts a definition aside, with what the watcher said of its key.
func (w *work) lose(key store.Key, c *claim, holder store.Key, by *claim) {
	k := []byte(key.String())
	said, _ := w.t.rejected.Get(k)
	var conflict *conflictError
	if said != nil && errors.As(said.Err, &conflict) {
		c.rejected, c.warnings = w.losers[key].rejected, w.losers[key].warnings
	} else {
		c.rejected = said
		c.warnings, _ = w.t.warnings.Get(k)
	}
	w.losers[key] = c
	w.report(key, &Rejection{Key: key, Revision: c.mod, Err: &conflictError{key, holder, c.create, by.create}}, nil)
}

// unlose ends that, and says again what the watcher said, unless it has said
// something new since.
func (w *work) unlose(key store.Key) {
	c := w.losers[key]
	if c == nil {
		return
	}
	delete(w.losers, key)
	var conflict *conflictError
	if said, ok := w.t.rejected.Get([]byte(key.String())); ok && errors.As(said.Err, &conflict) {
		w.report(key, c.rejected, c.warnings)
	}
}

// setBackend makes c the backend of a name; nil makes it none.
func (w *work) setBackend(name string, c *claim) {
	ref, s := w.find(name)
	var old *Backend
	if s != nil {
		old = s.Backend
	}
	if old != nil && c != nil && c.def == store.Definition(old.Def) && c.create == old.CreateRevision && c.mod == old.ModRevision {
		return
	}
	if old != nil {
		w.need(old, false)
	}
	if c == nil {
		if old == nil {
			return
		}
		next := *s
		next.Backend = nil
		w.touched[ref] = struct{}{}
		w.edit.set(ref, &next)
		w.labelled(ref, name, old.Def, nil)
		w.forget(ref)
		w.t.counts.Backends--
		w.after = append(w.after, func() {
			w.leave(name, old.Runtime)
			old.Runtime.Fail()
			if old.Pool != nil {
				old.Pool.Release()
			}
			if old.Probe != nil {
				old.Probe.Release()
			}
		})
		return
	}
	b := &Backend{Name: name, Def: c.def.(*store.Backend), CreateRevision: c.create, ModRevision: c.mod, edit: w.edits}
	if old != nil {
		b.Runtime, b.Pool, b.Probe = old.Runtime, old.Pool, old.Probe
	} else {
		ref = w.mention(name)
		s = w.edit.at(ref)
		w.t.counts.Backends++
		b.Runtime = w.comeBack(name)
	}
	w.touched[ref] = struct{}{}
	if old == nil || old.CreateRevision != c.create {
		w.ages.push(age{c.create, name, ref}, w.t.counts.Backends, w.edit.vector)
	}
	next := *s
	next.Backend = b
	if old == nil {
		next.Since = time.Now()
	}
	w.edit.set(ref, &next)
	var before *store.Backend
	if old != nil {
		before = old.Def
	}
	w.labelled(ref, name, before, b.Def)
	w.need(b, true)
	w.compile = append(w.compile, name)
	if old == nil {
		b.limit() // no request may meet it without
	} else {
		w.after = append(w.after, func() { w.settleQueue(name) })
	}
}

// setDirector makes c the director of a name; nil makes it none.
func (w *work) setDirector(name string, c *claim) {
	ref, s := w.find(name)
	var old *Director
	if s != nil {
		old = s.Director
	}
	if old == nil && c == nil {
		return
	}
	if c != nil && old != nil && c.def == store.Definition(old.Def) && c.create == old.CreateRevision && c.mod == old.ModRevision {
		return
	}
	var d *Director
	if c != nil {
		if old == nil {
			ref = w.mention(name)
			w.t.counts.Directors++
		}
		d = w.newDirector(ref, old, name, c)
	}
	next := *w.edit.at(ref)
	next.Director = d
	w.edit.set(ref, &next)
	w.remade[ref] = struct{}{}
	if old != nil {
		for i := range old.Members {
			w.forget(old.Members[i].Ref)
		}
	}
	if d == nil {
		w.delist(old.run, name)
		delete(w.sticky, ref)
		w.forget(ref)
		w.t.counts.Directors--
	}
}

// newDirector makes the director of a definition; old is that of the name so far.
func (w *work) newDirector(ref Ref, old *Director, name string, c *claim) *Director {
	def := c.def.(*store.Director)
	d := &Director{Name: name, Def: def, CreateRevision: c.create, ModRevision: c.mod}
	if old != nil {
		d.run = old.run
	} else {
		d.run = &directorRun{ref: ref}
	}
	if delete(w.sticky, ref); def.Cookie != nil {
		w.sticky[ref] = struct{}{}
	}
	w.enlist(d.run, name, def)
	selected := w.selected(d.run, name, def)

	seats := d.run.seats
	if d.run.seats = nil; balancer.Remembers(def) {
		d.run.seats = make(map[string]*balancer.Seat)
		keep := func(name string) {
			if seat := seats[name]; seat != nil {
				d.run.seats[name] = seat
			}
		}
		for i := range def.Members {
			keep(def.Members[i].Name)
		}
		for _, name := range selected {
			keep(name)
		}
	}
	d.Members = make([]balancer.Member, 0, len(def.Members)+len(selected))
	for i := range def.Members {
		m := &def.Members[i]
		member := w.mention(m.Name)
		d.Members = append(d.Members, balancer.Member{
			Ref: member, Name: w.edit.at(member).Name, Weight: m.Weight, Rampup: m.Rampup, Seat: d.run.seat(def, m.Name),
		})
	}
	for _, name := range selected {
		d.Members = append(d.Members, w.selectedMember(d.run, def, name))
	}
	return d
}

// needs are the definitions that a backend names: those that it cannot be reached
// without, and its probe.
func needs(b *store.Backend) (keys [3]store.Key) {
	if b.Via != "" {
		keys[0] = store.Key{Kind: store.Backends, Name: b.Via}
	}
	if b.TLS != nil && b.TLS.Certificate != "" {
		keys[1] = store.Key{Kind: store.Certificates, Name: b.TLS.Certificate}
	}
	if b.Probe.Name != "" {
		keys[2] = store.Key{Kind: store.Probes, Name: b.Probe.Name}
	}
	return keys
}

// need notes (or ends) that a backend is to be built again when what it needs
// changes.
func (w *work) need(b *Backend, on bool) {
	for _, key := range needs(b.Def) {
		switch {
		case key.Name == "":
		case on:
			if w.users[key] == nil {
				w.users[key] = make(map[string]struct{})
			}
			w.users[key][b.Name] = struct{}{}
		default:
			delete(w.users[key], b.Name)
			if len(w.users[key]) == 0 {
				delete(w.users, key)
			}
		}
	}
}

// rebuild has the backends built again that need key, and those that need them.
func (w *work) rebuild(key store.Key) {
	for name := range w.users[key] {
		if _, known := w.rebuilt[name]; !known {
			if w.rebuilt == nil {
				w.rebuilt = make(map[string]struct{})
			}
			w.rebuilt[name] = struct{}{}
			w.compile = append(w.compile, name)
			w.rebuild(store.Key{Kind: store.Backends, Name: name})
		}
	}
}

// own returns a backend's slot for this change to complete.
func (w *work) own(ref Ref) *Slot {
	s := w.edit.at(ref)
	w.touched[ref] = struct{}{}
	if s.Backend.edit == w.edits {
		return s
	}
	slot, b := *s, *s.Backend // they are in an older table
	b.edit, slot.Backend = w.edits, &b
	w.edit.set(ref, &slot)
	return &slot
}

// build gives a backend its pool and its prober, now that all definitions of the
// change are in.
func (w *work) build(name string) {
	ref, s := w.find(name)
	if s == nil || s.Backend == nil {
		return
	}
	b := w.own(ref).Backend
	old := b.Pool
	b.Pool, b.Fault = w.acquire(b.Def)
	if b.Pool != nil && s.Override != nil && s.Override.Def.State == store.Drain {
		b.Pool.Drain(true)
		if old != nil {
			old.Drain(true) // it is where the requests under way return their connections
		}
	}
	if old != nil {
		w.after = append(w.after, old.Release)
	}
	w.probe(name)
}

func (w *work) acquire(def *store.Backend) (*pool.Pool, error) {
	if def.None {
		return nil, nil
	}
	deps, err := w.deps(def)
	if err != nil {
		return nil, err
	}
	return w.pools.Acquire(def, deps)
}

// deps finds the definitions that connections to a backend need.
func (w *work) deps(def *store.Backend) (deps pool.Deps, err error) {
	if def.Via != "" {
		_, s := w.find(def.Via)
		if s == nil || s.Backend == nil || s.Backend.Def.None || s.Backend.Def.Via != "" {
			return deps, &DanglingError{store.Key{Kind: store.Backends, Name: def.Via}}
		}
		deps.Via = s.Backend.Def
	}
	certificate := func(of *store.Backend) (*store.Certificate, error) {
		if of == nil || of.TLS == nil || of.TLS.Certificate == "" {
			return nil, nil
		}
		if c, ok := w.t.Certificate(of.TLS.Certificate); ok {
			return c, nil
		}
		return nil, &DanglingError{store.Key{Kind: store.Certificates, Name: of.TLS.Certificate}}
	}
	if deps.Certificate, err = certificate(def); err != nil {
		return deps, err
	}
	deps.ViaCertificate, err = certificate(deps.Via)
	return deps, err
}

// ages finds the oldest backend: a heap by create revision, then name. Entries
// of removed backends stay until they come up, or outnumber the live ones.
type ages []age

type age struct {
	create int64
	name   string
	ref    Ref
}

func (h ages) Len() int { return len(h) }
func (h ages) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[i].create, h[j].create), cmp.Compare(h[i].name, h[j].name)) < 0
}
func (h ages) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *ages) Push(x any)   { *h = append(*h, x.(age)) }
func (h *ages) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

func (h *ages) push(a age, live int, v vector) {
	if len(*h) > 2*live+64 {
		kept := (*h)[:0]
		for _, old := range *h {
			if old.in(v) {
				kept = append(kept, old)
			}
		}
		*h = kept
		heap.Init(h)
	}
	heap.Push(h, a)
}

func (a age) in(v vector) bool {
	s := v.at(a.ref)
	return s != nil && s.Backend != nil && s.Name == a.name && s.Backend.CreateRevision == a.create
}

// defaultRef is where a request goes that no route takes.
func (h *ages) defaultRef(t *Table) Ref {
	if ref, ok := t.names.Get([]byte("default")); ok {
		if s := t.slots.at(ref); s.Backend != nil || s.Director != nil {
			return ref
		}
	}
	for len(*h) > 0 {
		if (*h)[0].in(t.slots) {
			return (*h)[0].ref
		}
		heap.Pop(h)
	}
	return 0
}
