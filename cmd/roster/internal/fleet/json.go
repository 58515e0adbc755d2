package fleet

import "encoding/json"

// MarshalJSON writes lists that have nothing as lists.
func (f Fleet) MarshalJSON() ([]byte, error) {
	type plain Fleet
	p := plain(f)
	if p.Members == nil {
		p.Members = []MemberStatus{}
	}
	if p.Differences == nil {
		p.Differences = []Difference{}
	}
	if p.Nodes == nil {
		p.Nodes = []Node{}
	}
	return json.Marshal(p)
}
