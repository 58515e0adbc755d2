package route

import (
	"cmp"
	"iter"
	"strings"
	"sync/atomic"
)

// Index is a set of routes by name, and finds them by request. It never
// changes; the zero Index is empty.
type Index struct {
	names       tree[*Route]
	exact, wild *hosts // by "foo.com" and ".foo.com"
	any         *host  // nil where every route has hosts
	levels      tree[level]
}

// level counts the routes of one priority: while there is but one, the first
// match is the match.
type level struct{ priority, routes int }

// Len is the number of routes.
func (ix Index) Len() int { return ix.names.len() }

// Get finds a route by name; nil if there is none.
func (ix Index) Get(name string) *Route {
	r, _ := ix.names.get(named(name))
	return r
}

func named(name string) place[*Route] {
	return func(r *Route) int { return strings.Compare(r.Name, name) }
}

// All yields the routes whose names begin with under and come after the name
// after, in name order.
func (ix Index) All(under, after string) iter.Seq[*Route] {
	return func(yield func(*Route) bool) {
		n := ix.names.rank(named(max(under, after)))
		for r := range ix.names.from(n) {
			if r.Name == after && after != "" {
				continue
			}
			if !strings.HasPrefix(r.Name, under) || !yield(r) {
				return
			}
		}
	}
}

// Edit is changes to an Index on their way to be one.
type Edit struct {
	ix Index
	id uint64
}

// edits numbers edits: what one of them has made it may change, until it is
// committed and has another number.
var edits atomic.Uint64

// Edit begins changes; ix itself stays as it is.
func (ix Index) Edit() *Edit { return &Edit{ix, edits.Add(1)} }

// Commit returns the Index with all changes so far.
func (e *Edit) Commit() Index {
	e.id = edits.Add(1)
	return e.ix
}

// Add adds a route, in place of one of its name.
func (e *Edit) Add(r *Route) {
	if old := e.ix.Get(r.Name); old != nil {
		e.takeOut(old)
	}
	e.ix.names = e.ix.names.set(r, named(r.Name), e.id)
	e.count(r.priority, 1)
	e.each(r, func(h *host, path string, prefix bool) { h.set(path, prefix, r, e.id) })
}

// Remove removes a route, if it is the one of its name.
func (e *Edit) Remove(r *Route) {
	if e.ix.Get(r.Name) != r {
		return
	}
	e.ix.names = e.ix.names.remove(named(r.Name), e.id)
	e.takeOut(r)
}

// takeOut removes a route from all but the names.
func (e *Edit) takeOut(r *Route) {
	e.count(r.priority, -1)
	e.each(r, func(h *host, path string, prefix bool) { h.remove(path, prefix, r, e.id) })
}

func (e *Edit) count(priority, by int) {
	at := func(l level) int { return cmp.Compare(l.priority, priority) }
	l, _ := e.ix.levels.get(at)
	l.priority = priority
	if l.routes += by; l.routes > 0 {
		e.ix.levels = e.ix.levels.set(l, at, e.id)
	} else {
		e.ix.levels = e.ix.levels.remove(at, e.id)
	}
}

// each calls change with every host and path of a route. The path is "" for
// any; else exact, or what comes before the "*" of a prefix.
func (e *Edit) each(r *Route, change func(h *host, path string, prefix bool)) {
	for _, name := range orAny(r.Def.Match.Host) {
		name, below := strings.CutPrefix(name, "*")
		var h *host
		switch {
		case name == "":
			h = e.ix.any
		case below:
			h = e.ix.wild.get([]byte(name))
		default:
			h = e.ix.exact.get([]byte(name))
		}
		if h == nil {
			h = &host{name: name, edit: e.id}
		}
		h = h.own(e.id)
		for _, p := range orAny(r.Def.Match.Path) {
			prefix := strings.HasSuffix(p, "/*")
			if prefix {
				p = p[:len(p)-1]
			}
			change(h, p, prefix)
		}
		switch {
		case name == "" && h.empty():
			e.ix.any = nil
		case name == "":
			e.ix.any = h
		case below:
			e.ix.wild = e.ix.wild.put(h, e.id)
		default:
			e.ix.exact = e.ix.exact.put(h, e.id)
		}
	}
}

// orAny makes a list of nothing asked for one of what always holds.
func orAny(list []string) []string {
	if len(list) == 0 {
		return []string{""}
	}
	return list
}
