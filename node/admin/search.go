package admin

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"roster/node/table"
	"roster/store"
)

// FoundBackends is a part of the backends that were looked for: the sick ones first, then
// those that are drained, then the healthy ones, each by name.
type FoundBackends struct {
	Revision int64     `json:"revision"`
	Counts   States    `json:"counts"` // of all that the words and the director are true of
	Total    int       `json:"total"`  // of those, whose state is asked for
	Offset   int       `json:"offset"` // of the first item among them
	Items    []Backend `json:"items"`
}

// States counts backends.
type States struct {
	All        int `json:"all"`
	Sick       int `json:"sick"` // no new requests, and not by the operator's drain
	Draining   int `json:"draining"`
	Healthy    int `json:"healthy"`
	Overridden int `json:"overridden"` // of the others, those by an operator's word
}

// FoundDirectors is a part of the directors that were looked for, those without a backend
// to choose first, then those that lack one, each by name.
type FoundDirectors struct {
	Revision int64             `json:"revision"`
	Total    int               `json:"total"`
	Offset   int               `json:"offset"`
	Items    []DirectorSummary `json:"items"`
}

// DirectorSummary is a director without its definition.
type DirectorSummary struct {
	Name      string             `json:"name"`
	Revision  int64              `json:"revision"`
	Type      store.DirectorType `json:"type"`
	Health    DirectorHealth     `json:"health"`
	Total     int                `json:"total"`     // members
	Available int                `json:"available"` // of them, those that may be chosen
	// Members are the first of them, those that may not be chosen before the others.
	Members []Member `json:"members"`
}

// shownMembers is how many members of a director are shown: its list is for people.
const shownMembers = 12

// span is the part of what was found that was asked for.
type span struct{ offset, limit int }

const (
	defaultSpan = 50
	maxSpan     = 500
)

// spanOf reads the parameters of a search; more are allowed besides. If it is not ok, it
// has answered.
func spanOf(w http.ResponseWriter, r *http.Request, more ...string) (s span, ok bool) {
	if !known(w, r, append([]string{"q", "offset", "limit"}, more...)...) {
		return s, false
	}
	s.limit = defaultSpan
	for _, p := range []struct {
		name        string
		least, most int
		to          *int
	}{{"offset", 0, 1 << 30, &s.offset}, {"limit", 1, maxSpan, &s.limit}} {
		v := r.URL.Query().Get(p.name)
		if v == "" {
			continue
		}
		n, err := strconv.Atoi(v)
		if err != nil || n < p.least || n > p.most {
			fail(w, http.StatusBadRequest, "%s is %q, want %d to %d", p.name, v, p.least, p.most)
			return s, false
		}
		*p.to = n
	}
	return s, true
}

// cut returns the part of what is found, which is in order of groups.
func cut[T any](s span, groups ...[]T) []T {
	skip, out := s.offset, []T{}
	for _, g := range groups {
		if n := min(skip, len(g)); n > 0 {
			g, skip = g[n:], skip-n
		}
		out = append(out, g[:min(len(g), s.limit-len(out))]...)
	}
	return out
}

// wordsOf are what is looked for, in lower case.
func wordsOf(r *http.Request) []string {
	return strings.Fields(strings.ToLower(r.URL.Query().Get("q")))
}

// backendHas says whether each word is somewhere in the backend's name, its address or
// one of its labels, which are written name=value.
func backendHas(b *table.Backend, words []string) bool {
	for _, word := range words {
		switch {
		case strings.Contains(strings.ToLower(b.Name), word),
			strings.Contains(strings.ToLower(placeOf(b.Def)), word),
			slices.ContainsFunc(b.Def.Labels, func(l store.Label) bool {
				return strings.Contains(strings.ToLower(l.Name+"="+l.Value), word)
			}):
		default:
			return false
		}
	}
	return true
}

// placeOf is where a backend is, for people.
func placeOf(def *store.Backend) string {
	switch {
	case def.None:
		return "none"
	case def.Path != "":
		return def.Path
	}
	return net.JoinHostPort(def.Host, strconv.Itoa(int(def.Port)))
}

// word is the operator's word on a slot, auto without one.
func word(s *table.Slot) store.HealthState {
	if s.Override == nil {
		return store.Auto
	}
	return s.Override.Def.State
}

// searchBackends answers with the backends that were looked for.
func (s *Server) searchBackends(w http.ResponseWriter, r *http.Request) {
	span, ok := spanOf(w, r, "state", "director")
	if !ok {
		return
	}
	q := r.URL.Query()
	state := q.Get("state")
	if !slices.Contains([]string{"", "sick", "draining", "healthy", "overridden"}, state) {
		fail(w, http.StatusBadRequest, "state is %q, want sick, draining, healthy or overridden", state)
		return
	}
	t := s.Node.Table()
	slots := t.Slots("", "")
	if name := q.Get("director"); name != "" {
		slot := t.Lookup(name)
		if slot == nil || slot.Director == nil {
			fail(w, http.StatusBadRequest, "director is %q, which is not defined at revision %d", name, t.Revision())
			return
		}
		found := backendsBelow(t, slot)
		slots = func(yield func(*table.Slot) bool) {
			for _, s := range found {
				if !yield(s) {
					return
				}
			}
		}
	}
	out, words := FoundBackends{Revision: t.Revision(), Offset: span.offset}, wordsOf(r)
	var sick, draining, healthy []*table.Slot
	for slot := range slots {
		if slot.Backend == nil || !backendHas(slot.Backend, words) {
			continue
		}
		out.Counts.All++
		told := word(slot)
		if told != store.Auto {
			out.Counts.Overridden++
		}
		is, count, group := "sick", &out.Counts.Sick, &sick
		switch {
		case told == store.Drain:
			is, count, group = "draining", &out.Counts.Draining, &draining
		case slot.Available():
			is, count, group = "healthy", &out.Counts.Healthy, &healthy
		}
		*count++
		if state == "" || state == is || state == "overridden" && told != store.Auto {
			out.Total++
			*group = append(*group, slot)
		}
	}
	out.Items = []Backend{}
	for _, slot := range cut(span, sick, draining, healthy) {
		out.Items = append(out.Items, s.backendOf(slot, true))
	}
	answer(w, http.StatusOK, out)
}

// backendsBelow are the backends that a director's requests may come to, in name order.
func backendsBelow(t *table.Table, director *table.Slot) (found []*table.Slot) {
	seen := map[*table.Slot]bool{director: true}
	for way := []*table.Slot{director}; len(way) > 0; way = way[1:] {
		for _, m := range way[0].Director.Members {
			switch next := t.Slot(m.Ref); {
			case next == nil || seen[next]:
			case next.Director != nil:
				seen[next] = true
				way = append(way, next)
			case next.Backend != nil:
				seen[next] = true
				found = append(found, next)
			}
		}
	}
	slices.SortFunc(found, func(a, b *table.Slot) int { return strings.Compare(a.Name, b.Name) })
	return found
}

// searchDirectors answers with the directors that were looked for, by name.
func (s *Server) searchDirectors(w http.ResponseWriter, r *http.Request) {
	span, ok := spanOf(w, r)
	if !ok {
		return
	}
	t, words := s.Node.Table(), wordsOf(r)
	var none, lacking, whole []DirectorSummary
	for slot := range t.Slots("", "") {
		if slot.Director == nil {
			continue
		}
		name := strings.ToLower(slot.Name)
		if slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(name, word) }) {
			continue
		}
		switch d := summaryOf(t, slot); {
		case d.Health.State != store.Healthy:
			none = append(none, d)
		case d.Available < d.Total:
			lacking = append(lacking, d)
		default:
			whole = append(whole, d)
		}
	}
	answer(w, http.StatusOK, FoundDirectors{Revision: t.Revision(), Total: len(none) + len(lacking) + len(whole), Offset: span.offset,
		Items: cut(span, none, lacking, whole)})
}

func summaryOf(t *table.Table, slot *table.Slot) DirectorSummary {
	d := slot.Director
	out := DirectorSummary{
		Name: slot.Name, Revision: d.ModRevision, Type: d.Def.Type, Total: len(d.Members),
		Health: DirectorHealth{State: stateOf(t.Available(slot.Name)), Admin: word(slot)},
	}
	if slot.Override != nil {
		out.Health.Reason = secretless(slot.Override.Def.Reason)
	}
	var bad, good []Member
	for _, m := range d.Members {
		member := t.Slot(m.Ref)
		if member == nil {
			continue
		}
		available := t.Available(member.Name)
		to := &bad
		if available {
			out.Available++
			to = &good
		}
		if len(*to) < shownMembers {
			*to = append(*to, Member{Name: member.Name, Kind: kindOf(member), Weight: m.Weight, State: stateOf(available)})
		}
	}
	out.Members = cut(span{limit: shownMembers}, bad, good)
	return out
}

// searches are the routes of this file.
func (s *Server) searches() []route {
	query := parameter{"q", "Words, in lower or upper case, each of which has to be somewhere in the name; of a backend also in the address or in a label, which is written name=value.", ""}
	offset := parameter{"offset", "Leave out so many of those found.", 0}
	limit := parameter{"limit", fmt.Sprintf("At most so many, 1 to %d; %d by default.", maxSpan, defaultSpan), 0}
	return []route{
		{method: "GET", path: "/v1/search/backends", summary: "Backends that are looked for, the sick ones first, with the history of probes",
			query: []parameter{query,
				{"state", "Only those that are sick, draining or healthy, or overridden: so by an operator's word.", ""},
				{"director", "Only those that the director's requests may come to.", ""}, offset, limit},
			answers: ok(FoundBackends{}), handle: http.HandlerFunc(s.searchBackends)},
		{method: "GET", path: "/v1/search/directors", summary: "Directors that are looked for, the sick ones first, with some of their members",
			query: []parameter{query, offset, limit}, answers: ok(FoundDirectors{}), handle: http.HandlerFunc(s.searchDirectors)},
	}
}
