package presence

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"roster/store"
)

// Fleet is all nodes that are known by their presence in etcd.
type Fleet struct {
	Revision    int64         // of etcd, when it was looked at
	Members     []FleetMember // the worst state first, then by node and instance
	Differences []Difference  // there should be none
}

// FleetMember is how a process of a node is, by its presence in etcd alone.
type FleetMember struct {
	Node     string      `json:"node"`
	Instance string      `json:"instance"`
	State    MemberState `json:"state"`
	// Lag is how many revisions behind the newest that a node has applied this one is.
	Lag int64 `json:"lag"`
	// Presence is what it says of itself; of an unknown one, what it said that does not
	// change.
	Presence *store.Presence `json:"presence"`
	Name     string          `json:"-"` // for people, see Names
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

// Worse compares states: it is negative if s is worse than other.
func (s MemberState) Worse(other MemberState) int { return cmp.Compare(badness[s], badness[other]) }

var badness = map[MemberState]int{IsUnknown: 0, IsStarting: 1, IsDraining: 2, IsReady: 3}

// Difference is a revision at which nodes serve by different definitions.
type Difference struct {
	Revision int64               `json:"revision"`
	Digests  map[string][]string `json:"digests"` // to the names of members
}

// Settle is how long ReadFleet waits to look again: longer than a node may take to write
// what it has applied.
const Settle = 1200 * time.Millisecond

// Source is where members are read from. A *store.Store is one.
type Source interface {
	Members(ctx context.Context) ([]store.MemberEvent, int64, error)
}

// ReadFleet reads the fleet. Where digests differ it looks twice, Settle apart: a node may
// have been on its way. With an error of the second look it returns what it saw at first.
func ReadFleet(ctx context.Context, from Source) (Fleet, error) {
	first, f, err := look(ctx, from)
	if err != nil || f.Differences == nil {
		return f, err
	}
	select {
	case <-time.After(Settle):
	case <-ctx.Done():
		return f, ctx.Err()
	}
	all, again, err := look(ctx, from)
	if err != nil {
		return f, err
	}
	// What has moved on meanwhile is not compared.
	maps.DeleteFunc(all, func(i store.Instance, m Member) bool {
		p, q := m.Presence, first[i].Presence
		return p == nil || q == nil || p.Revision != q.Revision || p.Digest != q.Digest
	})
	again.Differences = all.differences()
	return again, nil
}

func look(ctx context.Context, from Source) (Members, Fleet, error) {
	events, revision, err := from.Members(ctx)
	if err != nil {
		return nil, Fleet{}, err
	}
	all := Members{}
	all.Take(events)
	return all, Fleet{Revision: revision, Members: all.describe(), Differences: all.differences()}, nil
}

// describe makes the list of members.
func (all Members) describe() []FleetMember {
	var newest int64
	for _, m := range all {
		if m.Presence != nil {
			newest = max(newest, m.Presence.Revision)
		}
	}
	named := Names(slices.Collect(maps.Keys(all)))
	items := []FleetMember{}
	for _, m := range all.Sorted() {
		item := FleetMember{Node: m.Node, Instance: m.ID, State: IsUnknown, Presence: m.Static, Name: named[m.Instance]}
		if p := m.Presence; p != nil {
			item.Presence, item.State = p, IsReady
			switch {
			case p.Draining:
				item.State = IsDraining
			case !p.Ready:
				item.State = IsStarting
			}
			if !p.Applied(newest) {
				item.Lag = newest - max(p.Revision, p.Listed)
			}
		}
		items = append(items, item)
	}
	slices.SortStableFunc(items, func(a, b FleetMember) int { return a.State.Worse(b.State) })
	return items
}

// differences are the revisions at which members' digests differ. Only those that are at
// one and the same are compared: one that has listed may be past what others have yet to
// apply, without knowing its revision.
func (all Members) differences() (found []Difference) {
	named := Names(slices.Collect(maps.Keys(all)))
	at := map[int64]map[string][]string{}
	for _, m := range all.Sorted() {
		if m.Presence == nil {
			continue
		}
		r := m.Presence.Revision
		if at[r] == nil {
			at[r] = map[string][]string{}
		}
		at[r][m.Presence.Digest] = append(at[r][m.Presence.Digest], named[m.Instance])
	}
	for _, r := range slices.Sorted(maps.Keys(at)) {
		if len(at[r]) > 1 {
			found = append(found, Difference{r, at[r]})
		}
	}
	return found
}
