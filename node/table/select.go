package table

import (
	"maps"
	"slices"
	"strings"

	"roster/balancer"
	"roster/store"
)

// groups finds backends by their labels, and the directors that select by them: each is
// in the groups of its labels, in every scope that its name is in. So what a change
// costs does not depend on how many there are elsewhere.
type groups map[string]*group

// group is what is in one scope and has one label.
type group struct {
	backends  map[Ref]struct{}
	directors map[string]struct{} // names; a director is in one of the groups of its labels only
}

func groupKey(scope string, l store.Label) string { return scope + "\x00" + l.Name + "\x00" + l.Value }

// scopeOf is where a director selects.
func scopeOf(director string) string { return director[:strings.LastIndexByte(director, '/')+1] }

// each yields the keys of the groups that a backend is in.
func (groups) each(backend string, labels store.Labels) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for at := 0; ; {
			for _, l := range labels {
				if !yield(groupKey(backend[:at], l)) {
					return
				}
			}
			n := strings.IndexByte(backend[at:], '/')
			if n < 0 {
				return
			}
			at += n + 1
		}
	}
}

func (g groups) get(key string) *group {
	at := g[key]
	if at == nil {
		at = new(group)
		g[key] = at
	}
	return at
}

func (g groups) drop(key string) {
	if at := g[key]; len(at.backends)+len(at.directors) == 0 {
		delete(g, key)
	}
}

// labelled moves a backend from the labels of an older definition to those of a new one;
// nil stands for none. The directors concerned are looked at in the end.
func (w *work) labelled(ref Ref, name string, old, next *store.Backend) {
	of := func(def *store.Backend) store.Labels {
		if def == nil || def.None {
			return nil
		}
		return def.Labels
	}
	was, is := of(old), of(next)
	if slices.Equal(was, is) {
		return
	}
	move := func(labels store.Labels, f func(at *group)) {
		for key := range w.groups.each(name, labels) {
			at := w.groups.get(key)
			f(at)
			for director := range at.directors {
				w.reselect(director, name)
			}
			w.groups.drop(key)
		}
	}
	move(was, func(at *group) { delete(at.backends, ref) })
	move(is, func(at *group) {
		if at.backends == nil {
			at.backends = make(map[Ref]struct{})
		}
		at.backends[ref] = struct{}{}
	})
}

// reselect has a director look at a backend in the end.
func (w *work) reselect(director, backend string) {
	if w.selecting == nil {
		w.selecting = make(map[string]map[string]struct{})
	}
	if w.selecting[director] == nil {
		w.selecting[director] = make(map[string]struct{})
	}
	w.selecting[director][backend] = struct{}{}
}

// enlist notes a director that selects in the smallest of its labels' groups.
func (w *work) enlist(run *directorRun, name string, def *store.Director) {
	w.delist(run, name)
	if def == nil || def.Select == nil {
		return
	}
	for i, l := range def.Select {
		key := groupKey(scopeOf(name), l)
		if i == 0 || w.groups.size(key) < w.groups.size(run.group) {
			run.group = key
		}
	}
	at := w.groups.get(run.group)
	if at.directors == nil {
		at.directors = make(map[string]struct{})
	}
	at.directors[name] = struct{}{}
}

func (g groups) size(key string) int {
	if at := g[key]; at != nil {
		return len(at.backends)
	}
	return 0
}

// delist ends that.
func (w *work) delist(run *directorRun, name string) {
	if run.group == "" {
		return
	}
	delete(w.groups[run.group].directors, name)
	w.groups.drop(run.group)
	run.group = ""
}

// selects says whether a director selects a backend that it does not list.
func (w *work) selects(director string, def *store.Director, backend string) bool {
	_, s := w.find(backend)
	if s == nil || s.Backend == nil || s.Backend.Def.None || !strings.HasPrefix(backend, scopeOf(director)) || !s.Backend.Def.Labels.Match(def.Select) {
		return false
	}
	return !slices.ContainsFunc(def.Members, func(m store.Member) bool { return m.Name == backend })
}

// selected are the names of all backends that a director selects, in order.
func (w *work) selected(run *directorRun, director string, def *store.Director) []string {
	if run.group == "" {
		return nil
	}
	listed := make(map[string]struct{}, len(def.Members))
	for i := range def.Members {
		listed[def.Members[i].Name] = struct{}{}
	}
	var names []string
	for ref := range w.groups[run.group].backends { // of its scope
		s := w.edit.at(ref)
		if _, twice := listed[s.Name]; !twice && s.Backend.Def.Labels.Match(def.Select) {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

// selectMembers brings the members of the directors up to date that select backends
// which this change touched. One copy of a member list and no more is made for each.
func (w *work) selectMembers() {
	for _, name := range slices.Sorted(maps.Keys(w.selecting)) {
		ref, s := w.find(name)
		if s == nil || s.Director == nil || s.Director.Def.Select == nil {
			continue
		}
		old := s.Director
		def := old.Def
		touched := slices.Sorted(maps.Keys(w.selecting[name]))
		members := make([]balancer.Member, 0, len(old.Members)+len(touched))
		members = append(members, old.Members[:len(def.Members)]...)
		rest := old.Members[len(def.Members):]
		var gone []balancer.Member
		same := true
		for _, backend := range touched {
			i, was := slices.BinarySearchFunc(rest, backend, func(m balancer.Member, name string) int { return strings.Compare(m.Name, name) })
			members, rest = append(members, rest[:i]...), rest[i:]
			switch is := w.selects(name, def, backend); {
			case was && is:
				members, rest = append(members, rest[0]), rest[1:]
			case was:
				gone, rest, same = append(gone, rest[0]), rest[1:], false
			case is:
				members, same = append(members, w.selectedMember(old.run, def, backend)), false
			}
		}
		if same {
			continue
		}
		members = append(members, rest...)
		next := *s
		next.Director = &Director{Name: name, Def: def, CreateRevision: old.CreateRevision, ModRevision: old.ModRevision, Members: members, run: old.run}
		w.edit.set(ref, &next)
		w.remade[ref] = struct{}{}
		for i := range gone {
			delete(old.run.seats, gone[i].Name)
			w.forget(gone[i].Ref)
		}
	}
}

func (w *work) selectedMember(run *directorRun, def *store.Director, name string) balancer.Member {
	ref := w.mention(name)
	return balancer.Member{Ref: ref, Name: w.edit.at(ref).Name, Weight: 1, Rampup: def.Rampup, Seat: run.seat(def, name)}
}
