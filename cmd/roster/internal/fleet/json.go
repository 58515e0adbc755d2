package fleet

import (
	"encoding/json"

	"roster/node/presence"
)

// MarshalJSON writes lists that have nothing as lists.
func (f Fleet) MarshalJSON() ([]byte, error) {
	type plain Fleet
	p := plain(f)
	if p.Members == nil {
		p.Members = []presence.FleetMember{}
	}
	if p.Differences == nil {
		p.Differences = []presence.Difference{}
	}
	if p.Nodes == nil {
		p.Nodes = []Node{}
	}
	return json.Marshal(p)
}
