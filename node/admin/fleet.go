package admin

import (
	"net/http"

	"roster/node/presence"
)

// Fleet is all nodes that are known by their presence in etcd, the worst first.
type Fleet struct {
	Revision int64                  `json:"revision"` // of etcd, when it was looked at
	Instance string                 `json:"instance"` // of the process that answers
	Items    []presence.FleetMember `json:"items"`
	// Differences are revisions at which nodes serve by different definitions. There
	// should be none.
	Differences []presence.Difference `json:"differences"`
}

// fleet answers with all nodes.
func (s *Server) fleet(w http.ResponseWriter, r *http.Request) {
	if !known(w, r) {
		return
	}
	var fleet presence.Fleet
	if s.Members != nil {
		var err error
		if fleet, err = presence.ReadFleet(r.Context(), s.Members); err != nil {
			fail(w, http.StatusServiceUnavailable, "the nodes of the fleet are not known, etcd does not tell: %v", err)
			return
		}
	}
	out := Fleet{Revision: fleet.Revision, Instance: s.Node.Status().Presence.Instance, Items: fleet.Members, Differences: fleet.Differences}
	if out.Items == nil {
		out.Items = []presence.FleetMember{}
	}
	if out.Differences == nil {
		out.Differences = []presence.Difference{}
	}
	for i := range out.Items {
		if p := out.Items[i].Presence; p != nil && p.Listen == nil { // of an older release, or not to be read
			described := *p
			described.Listen = []string{}
			out.Items[i].Presence = &described
		}
	}
	answer(w, http.StatusOK, out)
}
