// Package guard keeps backends that were removed in great numbers: a registry that lost
// its leases, or a script that deleted too much, does not take a fleet down.
//
// A Guard stands between the changes of a prefix and what makes a table of them. A change
// whose removals bring the backends below a share of how many were served five minutes ago
// (see Window, Least) has those removals taken out of it: they are held. All else of it
// goes on as it is, directors and routes of the same revision included: a director that
// was put without the backends has them no more as members, one that was deleted is gone.
//
// What is held is released by an acknowledgement of the revision that removed it or of a
// later one, and each backend by itself when its name is put again. While something is
// held it counts as served, so that what an outage goes on to remove is held, too; but live
// and held ones together count for no more than there were before, or those that come back
// under other names would raise the bar for what is removed later.
//
// No more are held than there were before: names that come and go while something is held
// do not fill the memory.
package guard

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"roster/store"
	"roster/watcher"
)

const (
	// Window is how far back the number is taken that backends are compared with. A guard
	// that is younger takes the number it began with.
	Window = 5 * time.Minute
	// Least is the least such number that is guarded.
	Least = 10

	// maxNames bounds the names in Held: they are for people.
	maxNames = 100
	// grain is the resolution of the numbers of the past.
	grain = time.Second
)

// Guard holds removals. A nil one holds none. One goroutine calls Apply; Held and Since are for any.
type Guard struct {
	percent int

	live     map[string]live // the backends in effect by what etcd has
	revision int64           // of the newest change
	cluster  uint64          // that revision is of
	touched  int64           // that the table is at
	past     []sample        // how many were served, oldest first
	most     int             // were served before the first was held; 0: none is

	mu    sync.Mutex
	held  map[string]removed
	shown *Held // of held; nil: to be made
}

// live is a definition in effect, so much of it as it takes to put it again.
type live struct {
	create, mod int64
	value       string
	definition  store.Definition
	warnings    []string
	refused     bool // its newest value is invalid
}

// removed is a backend that is held.
type removed struct {
	live
	revision int64              // that removed it, or of the list that did not have it
	rejected *watcher.Rejection // of an invalid value that the key has now
	since    time.Time
}

func (r removed) item(name string) watcher.Item {
	return watcher.Item{Key: store.Key{Kind: store.Backends, Name: name}, CreateRevision: r.create, ModRevision: r.mod, Value: r.value,
		Definition: r.definition, Warnings: r.warnings, Rejected: r.rejected}
}

// sample says how many backends were served from a moment on, and how many at most before
// the next sample.
type sample struct {
	at          time.Time
	count, peak int
}

// Held is what a guard holds.
type Held struct {
	Count int
	// Revision is the one to acknowledge for all of them to be released.
	Revision int64
	Since    time.Time // when the oldest of them was removed
	Names    []string  // the first of them, sorted; at most 100
}

// New returns a guard with nothing in it, that holds what brings backends below a
// percentage, 1 to 100.
func New(percent int) *Guard {
	return &Guard{percent: percent, live: make(map[string]live), held: make(map[string]removed)}
}

// Outcome is what a guard has made of a change.
type Outcome struct {
	// Change is what is to be applied instead.
	Change watcher.Change
	// None: nothing is to be applied, for the change only acknowledges, and releases
	// nothing.
	None bool
	// Held is how many backends it would have removed, and Released how many that were
	// held it has released by its acknowledgement. Passed is how many it has removed
	// although they should be held: as many are as there were backends.
	Held, Released, Passed int
}

// Apply takes in the next change, at a time that is not before that of the last one. The
// first change is that of a list as a whole. On a nil Guard nothing is ever held.
func (g *Guard) Apply(c watcher.Change, now time.Time) Outcome {
	only := !c.Listed && len(c.Puts)+len(c.Deletes) == 0 // it only acknowledges
	if g == nil {
		return Outcome{Change: c, None: only}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.Revision < g.revision || c.Cluster != g.cluster { // another history, in whose lists it is missing as well
		for name, r := range g.held {
			r.revision = c.Revision // what was acknowledged in it before was not meant for this
			g.hold(name, r)
		}
	}
	g.revision, g.cluster = c.Revision, c.Cluster
	g.forget(now)

	w := work{Guard: g, gone: make(map[string]removed), special: make(map[string]special), refused: make(map[string]*watcher.Rejection)}
	w.take(c)
	acknowledged := c.Revision <= c.Ack
	var out Outcome
	if len(w.gone) > 0 && !acknowledged && g.tooFew() {
		g.most = max(g.most, g.past[0].count) // which may be the newest: that of before this change
		for _, s := range g.past[1:] {
			g.most = max(g.most, s.peak)
		}
		for _, name := range slices.Sorted(maps.Keys(w.gone)) {
			if len(g.held) >= g.most {
				out.Passed++
				continue
			}
			out.Held++
			r := w.gone[name]
			r.revision, r.since = c.Revision, now
			g.hold(name, r)
			w.special[name] = kept
			if r.rejected != nil || r.refused {
				w.special[name] = again
			}
		}
	}
	for name, r := range g.held {
		if r.revision <= c.Ack {
			w.drop(name, r)
			out.Released++
		}
	}
	if out.Released > 0 || len(w.gone) > 0 && acknowledged {
		g.past = nil // that there are so few is as it should be
	}
	if len(g.held) == 0 {
		g.most = 0
	}
	g.note(now)
	out.Change = w.rewrite(c)
	switch {
	case !only && c.Listed:
		g.touched = c.Touched
	case !only:
		g.touched = c.Revision
	case out.Released > 0: // the table is at the revision of a definition still, not of the acknowledgement
		out.Change.Listed, out.Change.Touched = true, g.touched
	default:
		out.None = true
	}
	return out
}

// hold takes down a backend that is held.
func (g *Guard) hold(name string, r removed) { g.held[name], g.shown = r, nil }

// release forgets one that is held, if it is.
func (g *Guard) release(name string) {
	if _, ok := g.held[name]; ok {
		delete(g.held, name)
		g.shown = nil
	}
}

// work is one change being looked at.
type work struct {
	*Guard
	gone    map[string]removed            // backends that it removes
	special map[string]special            // backends of which something else is told than the change does
	refused map[string]*watcher.Rejection // of those that are absent
}

// special is what is told of a backend.
type special int

const (
	kept    special = iota // nothing
	again                  // its definition of before, with what is rejected now
	dropped                // its removal
	absent                 // its removal, with what is rejected now
)

// drop ends that a backend is held.
func (w *work) drop(name string, r removed) {
	w.release(name)
	w.special[name] = dropped
	if r.rejected != nil {
		w.special[name] = absent
		w.refused[name] = r.rejected
	}
}

// take brings what etcd has up to date.
func (w *work) take(c watcher.Change) {
	for _, key := range c.Deletes {
		if key.Kind == store.Backends {
			w.remove(key.Name, nil)
		}
	}
	for _, item := range c.Puts {
		name := item.Key.Name
		switch {
		case item.Key.Kind == store.Backends && item.Definition == nil:
			w.remove(name, item.Rejected)
		case item.Key.Kind == store.Backends:
			w.live[name] = live{item.CreateRevision, item.ModRevision, item.Value, item.Definition, item.Warnings, item.Rejected != nil}
			w.release(name)
		case item.Key.Kind == store.Directors && item.Definition != nil && item.Rejected == nil:
			// The name is put again, and a backend that is older would keep it.
			delete(w.gone, name)
			if r, ok := w.held[name]; ok {
				w.drop(name, r)
			}
		}
	}
}

// remove takes in that a backend has no definition in etcd any more, but perhaps an
// invalid one.
func (w *work) remove(name string, rejected *watcher.Rejection) {
	if was, ok := w.live[name]; ok {
		delete(w.live, name)
		w.gone[name] = removed{live: was, rejected: rejected}
	} else if r, ok := w.held[name]; ok {
		r.rejected = rejected
		w.hold(name, r)
		w.special[name] = again
	}
}

// rewrite is the change with what is special in it.
func (w *work) rewrite(c watcher.Change) watcher.Change {
	if len(w.special) == 0 {
		return c
	}
	own := func(key store.Key) bool {
		_, ok := w.special[key.Name]
		return ok && key.Kind == store.Backends
	}
	c.Deletes = slices.DeleteFunc(slices.Clone(c.Deletes), own)
	c.Puts = slices.DeleteFunc(slices.Clone(c.Puts), func(i watcher.Item) bool { return own(i.Key) })
	for name, what := range w.special {
		key := store.Key{Kind: store.Backends, Name: name}
		switch r := w.held[name]; what {
		case again:
			c.Puts = append(c.Puts, r.item(name))
		case absent:
			c.Puts = append(c.Puts, watcher.Item{Key: key, Rejected: w.refused[name]})
		case dropped:
			c.Deletes = append(c.Deletes, key)
		}
	}
	slices.SortFunc(c.Deletes, compare)
	slices.SortFunc(c.Puts, func(a, b watcher.Item) int { return compare(a.Key, b.Key) })
	return c
}

func compare(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
}

// tooFew says whether what etcd has is below the share of what was served five minutes ago,
// or at first.
func (g *Guard) tooFew() bool {
	return len(g.past) > 0 && g.past[0].count >= Least && len(g.live)*100 < g.percent*g.past[0].count
}

// forget leaves of the past what Window has in it, and what that began with.
func (g *Guard) forget(now time.Time) {
	old := 0
	for old+1 < len(g.past) && !g.past[old+1].at.After(now.Add(-Window)) {
		old++
	}
	g.past = slices.Delete(g.past, 0, old)
}

// note takes down how many backends count as served from now on.
func (g *Guard) note(now time.Time) {
	count := max(len(g.live), min(len(g.live)+len(g.held), g.most))
	switch n := len(g.past); {
	case n > 0 && g.past[n-1].count == count:
	case n > 1 && now.Sub(g.past[n-1].at) < grain:
		g.past[n-1].count, g.past[n-1].peak = count, max(count, g.past[n-1].peak)
	default:
		g.past = append(g.past, sample{now, count, count})
	}
}

// Held is what the guard holds. It is shared: its names are not to be changed.
func (g *Guard) Held() Held {
	if g == nil {
		return Held{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shown == nil {
		h := Held{Count: len(g.held), Names: slices.Sorted(maps.Keys(g.held))}
		h.Names = slices.Clone(h.Names[:min(len(h.Names), maxNames)])
		for _, r := range g.held {
			h.Revision = max(h.Revision, r.revision)
			if h.Since.IsZero() || r.since.Before(h.Since) {
				h.Since = r.since
			}
		}
		g.shown = &h
	}
	return *g.shown
}

// Since is when a backend was removed that is held; false for others.
func (g *Guard) Since(name string) (time.Time, bool) {
	if g == nil {
		return time.Time{}, false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	r, ok := g.held[name]
	return r.since, ok
}
