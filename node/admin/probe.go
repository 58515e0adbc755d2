package admin

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"roster/prober"
	"roster/store"
)

// Verdict is what a backend's probe says of it, whatever an operator says.
type Verdict struct {
	Good      int `json:"good"` // of the last Window probes
	Window    int `json:"window"`
	Threshold int `json:"threshold"` // from so many on it is healthy
	Initial   int `json:"initial"`   // assumed before the first

	State store.HealthState `json:"state"` // healthy or sick
	Since time.Time         `json:"since"`
	// Carried: no probe has ended yet, and the state is from before the check.
	Carried bool `json:"carried,omitempty"`
	Checked
}

// Checked is a check and what its probes have seen. Backends with the same check
// share its probes.
type Checked struct {
	ID      string `json:"id"` // equal for backends that share the check
	Check   string `json:"check"`
	Address string `json:"address"`
	Users   int    `json:"users"`   // backends that share it
	Running bool   `json:"running"` // a probe is under way

	Probes      uint64 `json:"probes"` // made so far
	GoodProbes  uint64 `json:"good_probes"`
	Seeded      uint64 `json:"seeded,omitempty"`      // of Probes, those that another node made before this one started
	SeededFrom  string `json:"seeded_from,omitempty"` // which one
	LocalFaults uint64 `json:"local_faults"`          // failed for a fault of the node's machine; not among Probes

	At             *time.Time   `json:"at"`              // when the last one ended; null before the first
	LastSeconds    float64      `json:"last_seconds"`    // how long it took, 0 if there was no whole answer
	AverageSeconds float64      `json:"average_seconds"` // over good ones, as Varnish has it
	Stage          prober.Stage `json:"stage,omitempty"` // where the last one failed
	Text           string       `json:"text,omitempty"`  // what was wrong, or the answer's first line

	Rows []Row `json:"rows,omitempty"` // for one backend, else with ?verbose
}

// Row is one register of the history as Varnish shows it.
type Row struct {
	Name  string `json:"name"` // as in Varnish's JSON: 4, 6, U, x, X, r, R, H
	Label string `json:"label"`
	Bits  string `json:"bits"` // hexadecimal, the newest is the lowest
	Row   string `json:"row"`  // 64 letters, the newest is the last
}

func checked(c *prober.Check, h *prober.History, users int, local uint64, active, rows bool) Checked {
	key := c.Key()
	out := Checked{
		ID: hex.EncodeToString(key[:8]), Check: c.String(), Address: c.Address(), Users: users, Running: active,
		Probes: h.Probes, GoodProbes: h.GoodProbes, Seeded: h.Seeded, SeededFrom: h.Peer, LocalFaults: local,
		LastSeconds: h.Last.Seconds(), AverageSeconds: h.Average.Seconds(), Stage: h.Stage, Text: h.Text,
	}
	if h.Probes > 0 {
		at := h.At
		out.At = &at
	}
	if rows {
		for _, r := range h.Rows() {
			out.Rows = append(out.Rows, Row{Name: string(r.Letter), Label: r.Label, Bits: fmt.Sprintf("%016x", r.Bits), Row: r.String()})
		}
	}
	return out
}

func verdictOf(ref *prober.Ref, rows bool) *Verdict {
	if ref == nil {
		return nil
	}
	s := ref.Snapshot()
	return &Verdict{
		Good: s.Good, Window: int(s.Judge.Window), Threshold: int(s.Judge.Threshold), Initial: int(s.Judge.Initial),
		State: stateOf(s.Healthy), Since: s.Since, Carried: s.Carried,
		Checked: checked(s.Check, &s.History, s.Users, s.Local, s.Active, rows),
	}
}

func stateOf(healthy bool) store.HealthState {
	if healthy {
		return store.Healthy
	}
	return store.Sick
}

// Probe is one check that the node makes.
type Probe struct {
	Checked
	IntervalSeconds float64 `json:"interval_seconds"`
	TimeoutSeconds  float64 `json:"timeout_seconds"`
	DueSeconds      float64 `json:"due_seconds"` // until the next probe; below 0 if it is late
}

// probes lists the checks that the node makes.
func (s *Server) probes(w http.ResponseWriter, p page) {
	list := List[Probe]{Revision: s.Node.Table().Revision(), Items: []Probe{}}
	type entry struct {
		id    string
		state *prober.State
	}
	var all []entry
	states := s.Node.Probes()
	for i := range states {
		key := states[i].Check.Key()
		if id := hex.EncodeToString(key[:8]); id > p.after && strings.HasPrefix(id, p.under) {
			all = append(all, entry{id, &states[i]})
		}
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Compare(a.id, b.id) })
	if len(all) > p.limit {
		all = all[:p.limit]
		list.Next = all[p.limit-1].id
	}
	for _, e := range all {
		c := e.state.Check
		item := Probe{
			Checked:         checked(c, &e.state.History, e.state.Users, e.state.Local, e.state.Active, true),
			IntervalSeconds: c.Interval().Seconds(), TimeoutSeconds: c.Timeout().Seconds(),
		}
		if !item.Running {
			item.DueSeconds = e.state.Due.Seconds()
		}
		list.Items = append(list.Items, item)
	}
	answer(w, http.StatusOK, list)
}
