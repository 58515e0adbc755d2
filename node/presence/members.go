package presence

import (
	"cmp"
	"maps"
	"slices"

	"roster/store"
)

// Member is one process of a node, as etcd has it.
type Member struct {
	store.Instance
	// Presence is what it says of itself; nil: its presence has ended, and whether it
	// still serves is unknown.
	Presence *store.Presence
	// Static is what does not change of that, of the membership; nil without one.
	Static *store.Presence
}

// Members are those of a fleet. The zero value has none.
type Members map[store.Instance]Member

// Take takes in what became of keys.
func (all *Members) Take(events []store.MemberEvent) {
	if *all == nil {
		*all = Members{}
	}
	for _, e := range events {
		m := (*all)[e.Member]
		m.Instance = e.Member
		if e.Live {
			m.Presence = e.Presence
		} else {
			m.Static = e.Presence
		}
		if m.Presence == nil && m.Static == nil {
			delete(*all, e.Member)
		} else {
			(*all)[e.Member] = m
		}
	}
}

// Sorted are all members by node and instance.
func (all Members) Sorted() []Member {
	return slices.SortedFunc(maps.Values(all), func(a, b Member) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
}

// Names gives each of some processes the name for people: its node's, and that of the
// process where the node has several.
func Names(all []store.Instance) map[store.Instance]string {
	count := map[string]int{}
	for _, i := range all {
		count[i.Node]++
	}
	named := make(map[store.Instance]string, len(all))
	for _, i := range all {
		if named[i] = i.Node; count[i.Node] > 1 {
			named[i] = i.String()
		}
	}
	return named
}
