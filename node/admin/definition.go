package admin

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"roster/node/table"
	"roster/store"
)

// Definition is a definition in effect. A probe, a route or an override is shown so.
type Definition struct {
	Name     string `json:"name"`
	Revision int64  `json:"revision"` // of the value in effect
	// Definition is the value, defaults left out. One that seems to hold a private key is
	// shown as a string that says so.
	Definition json.RawMessage `json:"definition"`
}

// Director is a director as a node sees it.
type Director struct {
	Definition
	Health  DirectorHealth `json:"health"`
	Members []Member       `json:"members"` // in order, selected ones included
}

// DirectorHealth is whether a director answers.
type DirectorHealth struct {
	State  store.HealthState `json:"state"` // healthy if a request finds a backend
	Admin  store.HealthState `json:"admin"` // the operator's word, else auto
	Reason string            `json:"reason,omitempty"`
}

// Member is one place in a director.
type Member struct {
	Name   string            `json:"name"`
	Kind   store.Kind        `json:"kind"` // backends or directors; empty: dangling
	Weight float64           `json:"weight"`
	State  store.HealthState `json:"state"` // healthy or sick
}

// Certificate is a certificate without its key.
type Certificate struct {
	Definition
	Hosts     []string  `json:"hosts"`
	Subject   string    `json:"subject"`
	Issuer    string    `json:"issuer"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
}

// Override is an operator's word on a name.
type Override struct {
	Definition
	Of store.Kind `json:"of"` // backends or directors; empty: dangling
}

// shown is a definition as people may see it.
func shown(key store.Key, def store.Definition) json.RawMessage {
	return store.RedactValue(key, store.Redact(def))
}

// secretless is text of a definition as people may see it.
func secretless(s string) string {
	if strings.Contains(s, "PRIVATE KEY") {
		return "(a private key)"
	}
	return s
}

func definitionOf(_ *table.Table, d *table.Definition) Definition {
	return Definition{Name: d.Key.Name, Revision: d.ModRevision, Definition: shown(d.Key, d.Def)}
}

// kindOf says which kind has a name; empty: neither.
func kindOf(slot *table.Slot) store.Kind {
	switch {
	case slot == nil:
	case slot.Backend != nil:
		return store.Backends
	case slot.Director != nil:
		return store.Directors
	}
	return ""
}

func directorOf(t *table.Table, d *table.Definition) Director {
	slot := t.Lookup(d.Key.Name)
	out := Director{
		Definition: definitionOf(t, d),
		Health:     DirectorHealth{State: stateOf(t.Available(d.Key.Name)), Admin: store.Auto},
		Members:    []Member{},
	}
	if o := slot.Override; o != nil {
		out.Health.Admin, out.Health.Reason = o.Def.State, secretless(o.Def.Reason)
	}
	for _, m := range slot.Director.Members {
		member := t.Slot(m.Ref)
		if member == nil {
			continue
		}
		out.Members = append(out.Members, Member{
			Name: member.Name, Kind: kindOf(member), Weight: m.Weight, State: stateOf(t.Available(member.Name)),
		})
	}
	return out
}

func certificateOf(t *table.Table, d *table.Definition) Certificate {
	def := d.Def.(*store.Certificate)
	out := Certificate{Definition: definitionOf(t, d), Hosts: def.Hosts}
	if out.Hosts == nil {
		out.Hosts = []string{}
	}
	if block, _ := pem.Decode([]byte(def.Cert)); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil { // as it did when the definition was read
			out.Subject, out.Issuer = cert.Subject.String(), cert.Issuer.String()
			out.NotBefore, out.NotAfter = cert.NotBefore, cert.NotAfter
		}
	}
	return out
}

func overrideOf(t *table.Table, d *table.Definition) Override {
	return Override{Definition: definitionOf(t, d), Of: kindOf(t.Lookup(d.Key.Name))}
}

// list answers with a page of a kind's definitions.
func list[T any](s *Server, kind store.Kind, show func(*table.Table, *table.Definition) T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p, ok := pageOf(w, r); ok {
			t := s.Node.Table()
			answerPage(w, p, t, t.Definitions(kind, p.under, p.after), show)
		}
	}
}

func answerPage[T any](w http.ResponseWriter, p page, t *table.Table, all iter.Seq[*table.Definition], show func(*table.Table, *table.Definition) T) {
	list := List[T]{Revision: t.Revision(), Items: []T{}}
	last := ""
	for d := range all {
		if len(list.Items) == p.limit {
			list.Next = last
			break
		}
		last = d.Key.Name
		list.Items = append(list.Items, show(t, d))
	}
	answer(w, http.StatusOK, list)
}

// one answers with a definition.
func one[T any](s *Server, kind store.Kind, show func(*table.Table, *table.Definition) T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !known(w, r) {
			return
		}
		t := s.Node.Table()
		key := store.Key{Kind: kind, Name: r.PathValue("name")}
		d := t.Definition(key)
		if d == nil {
			notFound(w, t, key)
			return
		}
		revision(w, d.ModRevision)
		answer(w, http.StatusOK, show(t, d))
	}
}

func notFound(w http.ResponseWriter, t *table.Table, key store.Key) {
	fail(w, http.StatusNotFound, "%s %q is not defined at revision %d", key.Kind.Singular(), key.Name, t.Revision())
}

// revision sets the fields of an answer about one value: its revision for If-Match, and
// for X-Min-Revision.
func revision(w http.ResponseWriter, rev int64) {
	n := strconv.FormatInt(rev, 10)
	w.Header().Set("ETag", `"`+n+`"`)
	w.Header().Set(revisionField, n)
}

// revisionField names the revision that an answer is about.
const revisionField = "X-Roster-Revision"

// probeList lists the checks that the node makes, or the probes that are defined.
func (s *Server) probeList(w http.ResponseWriter, r *http.Request) {
	p, ok := pageOf(w, r, "named")
	if !ok {
		return
	}
	named, err := flag(r, "named")
	switch {
	case err != nil:
		fail(w, http.StatusBadRequest, "%v", err)
	case named:
		t := s.Node.Table()
		answerPage(w, p, t, t.Definitions(store.Probes, p.under, p.after), definitionOf)
	default:
		s.probes(w, p)
	}
}
