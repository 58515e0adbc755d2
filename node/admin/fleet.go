package admin

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"roster/store"
)

// Members are read to know the fleet: from etcd, with the node's rights.
type Members interface {
	Members(ctx context.Context) ([]store.MemberEvent, int64, error)
}

// Fleet is all nodes that are known by their presence in etcd, the worst first.
type Fleet struct {
	Revision int64         `json:"revision"` // of etcd, when it was looked at
	Instance string        `json:"instance"` // of the process that answers
	Items    []FleetMember `json:"items"`
	// Differences are revisions at which nodes serve by different definitions. There
	// should be none.
	Differences []Difference `json:"differences"`
}

// FleetMember is one process of a node, as etcd has it.
type FleetMember struct {
	Node     string      `json:"node"`
	Instance string      `json:"instance"`
	State    MemberState `json:"state"`
	// Lag is how many revisions behind the newest that a node has applied this one is.
	Lag int64 `json:"lag"`
	// Presence is what it says of itself; of an unknown one, what it said that does not
	// change.
	Presence *store.Presence `json:"presence"`
}

// MemberState is how a process of the fleet is, in one word.
type MemberState string

// The states, the worst first.
const (
	IsUnknown  MemberState = "unknown"  // its presence has ended: it may be serving
	IsStarting MemberState = "starting" // it is not ready yet
	IsDraining MemberState = "draining" // it ends
	IsReady    MemberState = "ready"
)

var worstFirst = map[MemberState]int{IsUnknown: 0, IsStarting: 1, IsDraining: 2, IsReady: 3}

// Difference is a revision at which nodes serve by different definitions.
type Difference struct {
	Revision int64               `json:"revision"`
	Digests  map[string][]string `json:"digests"` // to the nodes that have them
}

// settle is longer than a node may take to write what it has applied.
const settle = 1200 * time.Millisecond

// process is what is known of one: live while its lease lives, lasting until it is
// forgotten.
type process struct{ live, lasting *store.Presence }

// fleet answers with all nodes. Where their digests differ it looks twice: one may have
// been on its way.
func (s *Server) fleet(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	all, revision, err := s.processes(r.Context())
	var differ []Difference
	if err == nil {
		if differ = differences(all); differ != nil {
			first := all
			select {
			case <-time.After(settle):
			case <-r.Context().Done():
				return
			}
			if all, revision, err = s.processes(r.Context()); err == nil {
				differ = differences(unmoved(first, all))
			}
		}
	}
	if err != nil {
		fail(w, http.StatusServiceUnavailable, "the nodes of the fleet are not known, etcd does not tell: %v", err)
		return
	}
	out := Fleet{Revision: revision, Instance: s.Node.Status().Presence.Instance, Items: fleetOf(all), Differences: differ}
	if out.Differences == nil {
		out.Differences = []Difference{}
	}
	answer(w, http.StatusOK, out)
}

// processes reads them; none without Members.
func (s *Server) processes(ctx context.Context) (map[store.Instance]process, int64, error) {
	all := map[store.Instance]process{}
	if s.Members == nil {
		return all, 0, nil
	}
	events, revision, err := s.Members.Members(ctx)
	for _, e := range events {
		p := all[e.Member]
		if e.Live {
			p.live = e.Presence
		} else {
			p.lasting = e.Presence
		}
		all[e.Member] = p
	}
	return all, revision, err
}

// fleetOf describes processes.
func fleetOf(all map[store.Instance]process) []FleetMember {
	var newest int64
	for _, p := range all {
		if p.live != nil {
			newest = max(newest, p.live.Revision)
		}
	}
	items := []FleetMember{}
	for id, p := range all {
		m := FleetMember{Node: id.Node, Instance: id.ID, State: IsUnknown, Presence: p.lasting}
		if p.live != nil {
			m.Presence, m.State = p.live, IsReady
			switch {
			case p.live.Draining:
				m.State = IsDraining
			case !p.live.Ready:
				m.State = IsStarting
			}
			if !p.live.Applied(newest) {
				m.Lag = newest - max(p.live.Revision, p.live.Listed)
			}
		}
		if m.Presence != nil && m.Presence.Listen == nil { // of an older release, or not to be read
			described := *m.Presence
			described.Listen = []string{}
			m.Presence = &described
		}
		items = append(items, m)
	}
	slices.SortFunc(items, func(a, b FleetMember) int {
		return cmp.Or(cmp.Compare(worstFirst[a.State], worstFirst[b.State]), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Instance, b.Instance))
	})
	return items
}

// differences are the revisions at which digests differ. Only processes that are at one and
// the same are compared: one that has listed may be past what others have yet to apply,
// without knowing its revision.
func differences(all map[store.Instance]process) (found []Difference) {
	at := map[int64]map[string][]string{}
	for id, p := range all {
		if p.live == nil {
			continue
		}
		of := at[p.live.Revision]
		if of == nil {
			of = map[string][]string{}
			at[p.live.Revision] = of
		}
		of[p.live.Digest] = append(of[p.live.Digest], id.Node)
	}
	for _, revision := range slices.Sorted(maps.Keys(at)) {
		if of := at[revision]; len(of) > 1 {
			for _, nodes := range of {
				slices.Sort(nodes)
			}
			found = append(found, Difference{revision, of})
		}
	}
	return found
}

// unmoved are those of now that serve by what they did before.
func unmoved(before, now map[store.Instance]process) map[store.Instance]process {
	same := map[store.Instance]process{}
	for id, p := range now {
		if was := before[id]; p.live != nil && was.live != nil && p.live.Revision == was.live.Revision && p.live.Digest == was.live.Digest {
			same[id] = p
		}
	}
	return same
}
