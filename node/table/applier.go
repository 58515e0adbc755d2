package table

import (
	"sync"
	"sync/atomic"
	"time"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"roster/balancer"
	"roster/node/route"
	"roster/pool"
	"roster/prober"
	"roster/store"
	"roster/watcher"
)

// Pools gives connection pools. A *pool.Manager is one.
type Pools interface {
	Acquire(def *store.Backend, deps pool.Deps) (*pool.Pool, error)
}

// Applier turns changes into tables. One goroutine calls Apply.
type Applier struct {
	pools   Pools
	probers Probers // nil: nothing is probed
	notify  func(prober.Transition)
	start   time.Time
	current atomic.Pointer[Table]

	edits  uint64  // made so far
	refs   []int32 // per slot: what keeps it: definitions, overrides, mentions
	free   []Ref   // slots to give again
	ages   ages
	users  map[store.Key]map[string]struct{} // via, certificates and probes -> the backends that name them
	losers map[store.Key]*claim              // definitions whose name an older key of the other kind holds
	groups groups
	sticky map[Ref]struct{} // directors with a cookie
	views  *views

	// health is held from the first look at verdicts for a new table until queues are
	// as that table wants them, and while a changed verdict is acted on.
	health       sync.Mutex
	onTransition func(prober.Transition) // the method value, made once

	mu      sync.Mutex
	leaving map[string]leaver // removed backends
	swept   time.Time
}

// NewApplier returns an Applier with an empty table at revision 0.
func NewApplier(pools Pools) *Applier {
	a := &Applier{
		pools:   pools,
		start:   time.Now(),
		refs:    make([]int32, 1), // Ref 0 refers to nothing
		users:   make(map[store.Key]map[string]struct{}),
		losers:  make(map[store.Key]*claim),
		groups:  make(groups),
		sticky:  make(map[Ref]struct{}),
		leaving: make(map[string]leaver),
	}
	a.onTransition = a.transition
	a.views = newViews(a.start, &a.current)
	first := empty()
	first.views = a.views
	a.current.Store(first)
	return a
}

// Start is the zero of the clock that requests are timed by.
func (a *Applier) Start() time.Time { return a.start }

// Current is the newest table. Any goroutine may ask.
func (a *Applier) Current() *Table { return a.current.Load() }

// leaver is a removed backend. It is remembered until its last request has ended
// and those have chosen a backend that began by an older table: if the name comes
// back meanwhile, they count against its limit.
type leaver struct {
	*Runtime
	since time.Time
}

// grace is how long a request may take from loading a table to taking its slot.
const grace = 5 * time.Second

// Leaving counts the removed backends whose last request has not ended. Any
// goroutine may ask.
func (a *Applier) Leaving() (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, l := range a.leaving {
		if l.Active() > 0 {
			n++
		}
	}
	return n
}

// sweep forgets those that left for good; now and then is often enough.
func (a *Applier) sweep() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.swept) < grace {
		return
	}
	a.swept = time.Now()
	for name, l := range a.leaving {
		if l.Active() == 0 && time.Since(l.since) > grace {
			delete(a.leaving, name)
		}
	}
}

// leave keeps a removed backend's runtime in sight.
func (a *Applier) leave(name string, r *Runtime) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.leaving[name] = leaver{r, time.Now()}
}

// comeBack returns what is left of a removed backend of that name, else a new
// Runtime.
func (a *Applier) comeBack(name string) *Runtime {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l, ok := a.leaving[name]; ok {
		delete(a.leaving, name)
		return l.Runtime
	}
	return new(Runtime)
}

// Apply makes the table that follows from a change, publishes it, and then
// releases what no newer table uses: pools and probers lose their reference, the
// queues of removed and sick backends are woken.
func (a *Applier) Apply(c watcher.Change) *Table {
	old := a.current.Load()
	t := *old
	t.revision = c.Revision
	if c.Listed {
		t.revision = c.Touched
	}
	a.edits++
	t.edit = a.edits
	w := &work{
		Applier: a, before: old, t: &t, edit: edit{vector: old.slots, number: a.edits}, names: old.names.Txn(), routes: old.routes.Edit(),
		touched: make(map[Ref]struct{}), remade: make(map[Ref]struct{}),
	}
	for _, key := range c.Deletes {
		w.report(key, nil, nil)
		w.put(key, nil)
	}
	for _, item := range c.Puts {
		var rejected *Rejection
		if r := item.Rejected; r != nil {
			rejected = &Rejection{Key: item.Key, Revision: r.Revision, InEffect: item.ModRevision, Err: r.Err}
		}
		w.report(item.Key, rejected, item.Warnings)
		if item.Definition == nil {
			w.put(item.Key, nil)
			continue
		}
		w.put(item.Key, &claim{def: item.Definition, create: item.CreateRevision, mod: item.ModRevision})
	}
	return w.commit()
}

// claim is a definition with its revisions.
type claim struct {
	def         store.Definition
	create, mod int64

	rejected *Rejection // of a loser: what the watcher said of its key
	warnings []string
}

// work is one change in the making: a table not yet published, and what is to
// be done once it is.
type work struct {
	*Applier
	before  *Table
	t       *Table
	edit    edit
	names   *iradix.Txn[Ref]
	routes  *route.Edit
	compile []string            // backends to build: their definition or one they need changed
	rebuilt map[string]struct{} // of them, those that rebuild has been at
	after   []func()

	selecting map[string]map[string]struct{} // directors, and the backends that they may select or not
	touched   map[Ref]struct{}               // names whose backend or override changed
	remade    map[Ref]struct{}               // names whose director did

	reprobed   []string // backends to look at the probe of: it changed
	reprobeAll bool     // the default probe did
}

func (w *work) commit() *Table {
	w.health.Lock()
	defer w.health.Unlock()
	for _, name := range w.compile {
		w.build(name)
	}
	for _, name := range w.reprobed {
		w.probe(name)
	}
	if w.reprobeAll {
		w.probeAll()
	}
	w.selectMembers()
	t := w.t
	t.slots = w.edit.vector
	t.names = w.names.Commit()
	t.routes = w.routes.Commit()
	t.fallback = w.ages.defaultRef(t)
	t.counts.Routes = t.routes.Len()
	t.counts.Probes = t.probes.Len()
	t.counts.Certificates = t.certs.Len()
	t.counts.Rejected = t.rejected.Len()
	t.needsSecret = len(w.sticky) > 0 && t.secret == nil
	w.publish()
	for _, f := range w.after {
		f()
	}
	w.sweep()
	return t
}

// publish makes the views of the directors that are new in the table, lets requests
// have it, and has those looked at again whose members have changed.
func (w *work) publish() {
	v, t := w.views, w.t
	if t.secret != w.before.secret {
		for ref := range w.sticky {
			w.remade[ref] = struct{}{}
			s := t.slots.at(ref)
			d := s.Director
			if d.view.Load() == nil {
				continue
			}
			next := *s // an older table keeps the cookies that it has
			next.Director = &Director{Name: d.Name, Def: d.Def, CreateRevision: d.CreateRevision, ModRevision: d.ModRevision, Members: d.Members, run: d.run}
			w.edit.set(ref, &next)
			t.slots = w.edit.vector
		}
	}
	v.making.Lock()
	defer v.making.Unlock()
	backends, directors := w.relate()
	making := make(map[*Director]struct{})
	for ref := range w.remade {
		if s := t.slots.at(ref); s != nil && s.Director != nil {
			w.look(ref, s.Director, making)
		}
	}
	// Twice: before, so that no request takes an older view's word for what is new; and
	// after, for what looked at the older table meanwhile.
	v.markAll(backends, directors, w.remade)
	w.current.Store(t)
	v.markAll(backends, directors, w.remade)
}

// relate brings it up to date who is whose member, and returns the names whose
// directors have to look at them again.
func (w *work) relate() (backends, directors []Ref) {
	v := w.views
	v.mu.Lock()
	defer v.mu.Unlock()
	for ref := range w.remade {
		var was, is []balancer.Member
		if s := w.before.slots.at(ref); s != nil && s.Director != nil {
			was = s.Director.Members
			delete(v.timed, s.Director.run)
			delete(v.runs, ref)
		}
		if s := w.t.slots.at(ref); s != nil && s.Director != nil {
			is = s.Director.Members
			v.runs[ref] = s.Director.run
		}
		for len(was) > 0 && len(is) > 0 && was[0].Ref == is[0].Ref {
			was, is = was[1:], is[1:]
		}
		for len(was) > 0 && len(is) > 0 && was[len(was)-1].Ref == is[len(is)-1].Ref {
			was, is = was[:len(was)-1], is[:len(is)-1]
		}
		for i := range was {
			v.parents.remove(was[i].Ref, ref)
		}
		for i := range is {
			v.parents.add(is[i].Ref, ref)
		}
		directors = append(directors, ref)
	}
	for ref := range w.touched {
		switch was, is := w.before.slots.at(ref), w.t.slots.at(ref); {
		case alike(was, is):
		case is != nil && is.Director != nil: // an override
			directors = append(directors, ref)
		default:
			backends = append(backends, ref)
		}
	}
	return backends, directors
}

// alike says whether who looked at a slot before need not look again.
func alike(a, b *Slot) bool {
	if a == nil || b == nil || a.Backend == nil || b.Backend == nil {
		return a == b
	}
	state := func(s *Slot) store.HealthState {
		if s.Override == nil {
			return store.Auto
		}
		return s.Override.Def.State
	}
	return state(a) == state(b) && a.Backend.Probe == b.Backend.Probe &&
		(a.Backend.Pool == nil) == (b.Backend.Pool == nil) && (a.Backend.Fault == nil) == (b.Backend.Fault == nil)
}

// look makes the view of a director of the table to come, and first those of the
// directors below it.
func (w *work) look(ref Ref, d *Director, making map[*Director]struct{}) {
	if _, is := making[d]; is || d.view.Load() != nil {
		return
	}
	making[d] = struct{}{}
	for i := range d.Members {
		below := d.Members[i].Ref
		if s := w.t.slots.at(below); s != nil && s.Director != nil {
			w.look(below, s.Director, making)
		}
	}
	walk := walk{t: w.t, now: w.views.now()}
	d.run.stale.Store(false)
	d.view.Store(walk.makeView(ref, d))
	w.views.schedule(ref, d)
}

// put brings a key to its new definition; nil takes it out of effect.
func (w *work) put(key store.Key, c *claim) {
	switch key.Kind {
	case store.Backends:
		_, d := w.claims(key.Name)
		w.settle(key.Name, c, d)
	case store.Directors:
		b, _ := w.claims(key.Name)
		w.settle(key.Name, b, c)
	case store.HealthKind:
		w.override(key, c)
	case store.Routes:
		w.route(key, c)
	case store.Probes:
		w.t.probes = w.replace(w.t.probes, key, c)
		w.reprobe(key)
	case store.SecretKind:
		w.secret(c)
	case store.Certificates:
		w.t.certs = w.replace(w.t.certs, key, c)
		w.rebuild(key)
	}
}

// count moves the digest from one version of a key to another.
func (w *work) count(key store.Key, old, next *claim) {
	if old != nil {
		w.t.digest = w.t.digest.sub(digestOf(key.String(), old.create, old.mod))
	}
	if next != nil {
		w.t.digest = w.t.digest.add(digestOf(key.String(), next.create, next.mod))
	}
}

// report notes what is to be said of a key.
func (w *work) report(key store.Key, rejected *Rejection, warnings []string) {
	k := []byte(key.String())
	if rejected != nil {
		w.t.rejected, _, _ = w.t.rejected.Insert(k, rejected)
	} else if w.t.rejected.Len() > 0 {
		w.t.rejected, _, _ = w.t.rejected.Delete(k)
	}
	if len(warnings) > 0 {
		w.t.warnings, _, _ = w.t.warnings.Insert(k, warnings)
	} else if w.t.warnings.Len() > 0 {
		w.t.warnings, _, _ = w.t.warnings.Delete(k)
	}
}

func (w *work) replace(tree *iradix.Tree[*Definition], key store.Key, c *claim) *iradix.Tree[*Definition] {
	var old *claim
	k := []byte(key.Name)
	if d, ok := tree.Get(k); ok {
		old = &claim{def: d.Def, create: d.CreateRevision, mod: d.ModRevision}
	}
	w.count(key, old, c)
	if c == nil {
		tree, _, _ = tree.Delete(k)
		return tree
	}
	tree, _, _ = tree.Insert(k, &Definition{Key: key, Def: c.def, CreateRevision: c.create, ModRevision: c.mod})
	return tree
}

// secret puts the fleet's secret into effect.
func (w *work) secret(c *claim) {
	var old *claim
	if d := w.t.secret; d != nil {
		old = &claim{def: d.Def, create: d.CreateRevision, mod: d.ModRevision}
	}
	w.count(store.SecretKey, old, c)
	if w.t.secret = nil; c != nil {
		w.t.secret = &Definition{Key: store.SecretKey, Def: c.def, CreateRevision: c.create, ModRevision: c.mod}
	}
}

func (w *work) route(key store.Key, c *claim) {
	var old *claim
	before := w.before.routes.Get(key.Name)
	if before != nil {
		old = &claim{def: before.Def, create: before.CreateRevision, mod: before.ModRevision}
		w.routes.Remove(before)
	}
	w.count(key, old, c)
	if c != nil {
		def := c.def.(*store.Route)
		target := Ref(0)
		if def.Backend != "" {
			target = w.mention(def.Backend)
		}
		w.routes.Add(route.New(key.Name, def, c.create, c.mod, target))
	}
	if before != nil {
		w.forget(before.Target)
	}
}

func (w *work) override(key store.Key, c *claim) {
	ref, s := w.find(key.Name)
	var old *claim
	if s != nil && s.Override != nil {
		old = &claim{def: s.Override.Def, create: s.Override.CreateRevision, mod: s.Override.ModRevision}
	}
	if old == nil && c == nil {
		return
	}
	w.count(key, old, c)
	if old == nil {
		ref = w.mention(key.Name)
		s = w.edit.at(ref)
	}
	next := *s
	next.Override, next.Since = nil, time.Now()
	if c != nil {
		next.Override = &Override{Def: c.def.(*store.Health), CreateRevision: c.create, ModRevision: c.mod}
	}
	w.edit.set(ref, &next)
	w.touched[ref] = struct{}{}
	if b := next.Backend; b != nil {
		w.compile = append(w.compile, b.Name)
		w.after = append(w.after, func() { w.settleQueue(b.Name) })
	}
	if c == nil {
		w.forget(ref)
	}
}

// mention gives the slot of a name and keeps it until forget.
func (w *work) mention(name string) Ref {
	ref, s := w.find(name)
	if s == nil {
		if n := len(w.free); n > 0 {
			ref, w.free = w.free[n-1], w.free[:n-1]
		} else {
			ref = Ref(len(w.refs))
			w.refs = append(w.refs, 0)
		}
		w.names.Insert([]byte(name), ref)
		w.edit.set(ref, &Slot{Name: name})
	}
	w.refs[ref]++
	return ref
}

// forget ends one mention; the last one frees the slot.
func (w *work) forget(ref Ref) {
	if ref == 0 {
		return
	}
	if w.refs[ref]--; w.refs[ref] > 0 {
		return
	}
	w.names.Delete([]byte(w.edit.at(ref).Name))
	w.edit.set(ref, nil)
	w.free = append(w.free, ref)
}

func (w *work) find(name string) (Ref, *Slot) {
	ref, ok := w.names.Get([]byte(name))
	if !ok {
		return 0, nil
	}
	return ref, w.edit.at(ref)
}
