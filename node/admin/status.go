package admin

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/node/presence"
	"roster/node/table"
	"roster/store"
)

// Status is a node's answer to how it is.
type Status struct {
	Node     string `json:"node"`
	Version  string `json:"version"`
	Ready    bool   `json:"ready"`
	Draining bool   `json:"draining"`
	Waiting  string `json:"waiting,omitempty"` // why it is not ready
	// Revision is the newest one that touched the prefix and is applied, 0
	// before the first; Seen moves with every revision seen.
	Revision int64      `json:"revision"`
	Seen     int64      `json:"seen"`
	Digest   string     `json:"digest"`
	Etcd     Etcd       `json:"etcd"`
	Rejected []Rejected `json:"rejected"`
	Dangling []Dangling `json:"dangling"`
	Cycles   []Cycle    `json:"cycles"`
	Warnings []Warning  `json:"warnings"`
	// HeldList says why an empty list from etcd is not believed.
	HeldList string `json:"held_list,omitempty"`
	// Held is what is served although etcd does not have it; absent if nothing is.
	Held    *Held `json:"held,omitempty"`
	Ignored int   `json:"ignored"` // keys under the prefix that are no definitions
	Leaving int   `json:"leaving"` // removed backends with requests in progress
	// Snapshot is how the node stands with its file for a start without etcd; absent if it
	// has none.
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	// Presence is how the node stands with its keys in etcd by which the fleet knows it.
	Presence presence.Status `json:"presence"`
	Counts   Counts          `json:"counts"`
}

// Etcd is how the node stands with etcd.
type Etcd struct {
	Connected bool   `json:"connected"`
	FreshMS   *int64 `json:"fresh_ms"` // since it was last proven that nothing was missed; null before the first time
	Endpoint  string `json:"endpoint"`
	Cluster   string `json:"cluster"`
	Error     string `json:"error,omitempty"`
	Relists   int64  `json:"relists"`
}

// Snapshot is the file of what is applied.
type Snapshot struct {
	File string `json:"file"`
	// InUse: the node started from it, and etcd has not been listed since.
	InUse    bool       `json:"in_use"`
	Revision int64      `json:"revision"` // that the file is of; 0 if it was neither read nor written
	Written  *time.Time `json:"written"`  // by this node or, until it has, before it; null likewise
	AgeMS    *int64     `json:"age_ms"`   // since then
	Writes   uint64     `json:"writes"`
	Failures uint64     `json:"failures"`        // of writes
	Error    string     `json:"error,omitempty"` // why the last write failed
}

// Held is what a node keeps although etcd does not have it.
type Held struct {
	Backends int       `json:"backends"` // removed ones, too many at once for --guard
	Names    []string  `json:"names"`    // the first of them
	Since    time.Time `json:"since"`
	// Revision is the one whose acknowledgement (roster ack) releases all of it.
	Revision int64  `json:"revision"`
	List     string `json:"list,omitempty"` // why an empty list is not believed, if that is so
}

// Rejected is a key whose newest value is not in effect.
type Rejected struct {
	Key      string   `json:"key"`
	Revision int64    `json:"revision"`
	InEffect int64    `json:"in_effect"` // the revision served instead; 0: none
	Errors   []string `json:"errors"`
}

// Dangling is a reference to a name that is not defined.
type Dangling struct {
	Key     string `json:"key"`
	Missing string `json:"missing"`
}

// Cycle is a director's member that leads back to the director.
type Cycle struct {
	Key    string `json:"key"`
	Member string `json:"member"`
}

// Warning is what is odd about a definition that is in effect. A key may have two.
type Warning struct {
	Key      string   `json:"key"`
	Warnings []string `json:"warnings"`
}

// Counts are the sizes of the node's table.
type Counts struct {
	Backends     int `json:"backends"`
	Directors    int `json:"directors"`
	Routes       int `json:"routes"`
	Probes       int `json:"probes"`
	Certificates int `json:"certificates"`
	Rejected     int `json:"rejected"`
	Dangling     int `json:"dangling"`
	Sick         int `json:"sick"`    // backends that get no new requests, for whatever reason
	Probers      int `json:"probers"` // distinct checks
}

// maxListed bounds each list of a status: it is for people. Counts are whole.
const maxListed = 100

// Describe fills in what a table says. It leaves Counts.Probers.
func (s *Status) Describe(t *table.Table) {
	c := t.Counts()
	s.Counts = Counts{Probers: s.Counts.Probers, Backends: c.Backends, Directors: c.Directors, Routes: c.Routes,
		Probes: c.Probes, Certificates: c.Certificates, Rejected: c.Rejected}
	s.Rejected, s.Dangling, s.Cycles, s.Warnings = []Rejected{}, []Dangling{}, []Cycle{}, []Warning{}
	for r := range t.Rejected() {
		if len(s.Rejected) == maxListed {
			break
		}
		s.Rejected = append(s.Rejected, Rejected{Key: r.Key.String(), Revision: r.Revision, InEffect: r.InEffect, Errors: messages(r.Err)})
	}
	for slot := range t.Slots("", "") {
		if slot.Backend != nil && !slot.Available() {
			s.Counts.Sick++
		}
	}
	for key, missing := range t.Dangling() {
		if s.Counts.Dangling++; s.Counts.Dangling <= maxListed {
			s.Dangling = append(s.Dangling, Dangling{Key: key.String(), Missing: missing})
		}
	}
	for key, member := range t.Cycles() {
		if len(s.Cycles) == maxListed {
			break
		}
		s.Cycles = append(s.Cycles, Cycle{Key: key.String(), Member: member})
	}
	for key, warnings := range t.Warnings() {
		if len(s.Warnings) == maxListed {
			break
		}
		s.Warnings = append(s.Warnings, Warning{Key: key, Warnings: warnings})
	}
}

// messages are the errors of one value.
func messages(err error) []string {
	all := apart(err)
	list := make([]string, len(all))
	for i, e := range all {
		list[i] = e.Error()
	}
	return list
}

// apart takes the errors of one value apart.
func apart(err error) []error {
	var all *multierror.Error
	if !errors.As(err, &all) {
		return []error{err}
	}
	return all.Errors
}

// Backend is a backend as a node sees it.
type Backend struct {
	Name        string          `json:"name"`
	Revision    int64           `json:"revision"`
	Definition  json.RawMessage `json:"definition"`
	Health      Health          `json:"health"`
	Requests    Requests        `json:"requests"`
	Connections Connections     `json:"connections"`
	// Removed is when etcd lost a backend that is held, see Held; absent for others.
	Removed *time.Time `json:"removed,omitempty"`
}

// Health is whether a backend is chosen for new requests, and who says so.
type Health struct {
	State  store.HealthState `json:"state"` // healthy or sick
	Admin  store.HealthState `json:"admin"` // the operator's word, else auto
	Reason string            `json:"reason,omitempty"`
	Probe  *Verdict          `json:"probe"` // null without one
	Since  time.Time         `json:"since"` // of State, on this node
}

// Requests are counts of one backend on this node.
type Requests struct {
	Active int    `json:"active"`
	Queued int    `json:"queued"`
	Total  uint64 `json:"total"`
	Failed uint64 `json:"failed"` // of Total, those that got no whole answer
}

// Connections are those of a backend's pool, which others may share.
type Connections struct {
	Active int `json:"active"`
	Idle   int `json:"idle"`
}

// backendOf describes a backend, and says whether it is held.
func (s *Server) backendOf(slot *table.Slot, rows bool) Backend {
	out := backendOf(slot, rows)
	if s.HeldSince != nil {
		if since, held := s.HeldSince(slot.Backend.Name); held {
			out.Removed = &since
		}
	}
	return out
}

// backendOf describes a backend; rows: with its probe's history.
func backendOf(slot *table.Slot, rows bool) Backend {
	b := slot.Backend
	out := Backend{
		Name:       b.Name,
		Revision:   b.ModRevision,
		Definition: shown(store.Key{Kind: store.Backends, Name: b.Name}, b.Def),
		Health:     Health{State: stateOf(slot.Available()), Admin: store.Auto, Probe: verdictOf(b.Probe, rows), Since: slot.HealthSince()},
		Requests:   Requests{Active: b.Runtime.Active(), Queued: b.Runtime.Queued(), Total: b.Runtime.Requests.Load(), Failed: b.Runtime.Failures.Load()},
	}
	if o := slot.Override; o != nil {
		out.Health.Admin, out.Health.Reason = o.Def.State, secretless(o.Def.Reason)
	}
	if b.Fault != nil {
		out.Health.Reason = b.Fault.Error()
	}
	if b.Pool != nil {
		stats := b.Pool.Stats()
		out.Connections = Connections{Active: stats.Active, Idle: stats.Idle}
	}
	return out
}
