package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"roster/store"
)

// MemberStatus is how a member of the fleet is, by its presence in etcd alone.
type MemberStatus struct {
	Node     string      `json:"node"`
	Instance string      `json:"instance"`
	State    MemberState `json:"state"`
	// Lag is how many revisions behind the newest that a member has applied this one is.
	Lag int64 `json:"lag"`
	// Presence is what it says of itself; of an unknown member, what it said that does
	// not change.
	Presence *store.Presence `json:"presence"`

	name string
}

// MemberState is the state of a member, in one word.
type MemberState string

// The states, the worst first.
const (
	IsUnknown  MemberState = "unknown"  // its presence has ended: it may be serving
	IsStarting MemberState = "starting" // it is not ready yet
	IsDraining MemberState = "draining" // it ends
	IsReady    MemberState = "ready"
)

var stateOrder = map[MemberState]int{IsUnknown: 0, IsStarting: 1, IsDraining: 2, IsReady: 3}

// Difference is a revision at which members serve by different definitions.
type Difference struct {
	Revision int64               `json:"revision"`
	Digests  map[string][]string `json:"digests"` // to the names of members
}

// settle is longer than a member may take to write what it has applied.
const settle = 1200 * time.Millisecond

// Read reads the members from etcd. Where digests differ it looks twice: a member may
// have been on its way.
func (f *Fleet) Read(ctx context.Context, s *store.Store) error {
	first, err := readMembers(ctx, s)
	if err != nil {
		f.MembersError = err.Error()
		return err
	}
	f.describe(first)
	if f.Differences = differences(first); f.Differences == nil {
		return nil
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	again, err := readMembers(ctx, s)
	if err != nil {
		f.MembersError = err.Error()
		return err
	}
	f.describe(again)
	// What has moved on meanwhile is not compared.
	maps.DeleteFunc(again, func(i store.Instance, m Member) bool {
		p, q := m.Presence, first[i].Presence
		return p == nil || q == nil || p.Revision != q.Revision || p.Digest != q.Digest
	})
	f.Differences = differences(again)
	return nil
}

func readMembers(ctx context.Context, s *store.Store) (Members, error) {
	events, _, err := s.Members(ctx)
	all := Members{}
	all.Take(events)
	return all, err
}

// describe makes the list of members, the worst first.
func (f *Fleet) describe(all Members) {
	var newest int64
	for _, m := range all {
		if m.Presence != nil {
			newest = max(newest, m.Presence.Revision)
		}
	}
	named := names(slices.Collect(maps.Keys(all)))
	f.Members = []MemberStatus{}
	for _, m := range all.Sorted() {
		s := MemberStatus{Node: m.Node, Instance: m.ID, State: IsUnknown, Presence: m.Static, name: named[m.Instance]}
		if p := m.Presence; p != nil {
			s.Presence, s.State = p, IsReady
			switch {
			case p.Draining:
				s.State = IsDraining
			case !p.Ready:
				s.State = IsStarting
			}
			if !p.Applied(newest) {
				s.Lag = newest - max(p.Revision, p.Listed)
			}
		}
		f.Members = append(f.Members, s)
	}
	slices.SortStableFunc(f.Members, func(a, b MemberStatus) int {
		return cmp.Or(cmp.Compare(stateOrder[a.State], stateOrder[b.State]), cmp.Compare(b.Lag, a.Lag))
	})
}

// differences are the revisions at which members' digests differ. Only those that are at
// one and the same are compared: one that has listed may be past what others have yet to
// apply, without knowing its revision.
func differences(all Members) (found []Difference) {
	named := names(slices.Collect(maps.Keys(all)))
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

// differ says at which revision which nodes have which digest.
func differ(revision int64, digests map[string][]string) error {
	var groups []string
	for _, digest := range slices.Sorted(maps.Keys(digests)) {
		groups = append(groups, fmt.Sprintf("%s (%s)", digest, strings.Join(digests[digest], ", ")))
	}
	return errors.New("nodes differ at revision " + fmt.Sprint(revision) + ": " + strings.Join(groups, " and "))
}

// memberFaults says what is wrong with members.
func (f *Fleet) memberFaults() (errs []error) {
	for _, m := range f.Members {
		switch m.State {
		case IsUnknown:
			errs = append(errs, fmt.Errorf("node %s is unknown: its presence has ended, and it may be serving by old definitions; roster forget %s, once it is sure to be gone", m.name, m.name))
		case IsStarting:
			if f.asked(m.Node) {
				continue // it knows better than what it wrote a moment ago
			}
			errs = append(errs, fmt.Errorf("node %s is not ready", m.name))
		}
	}
	for _, d := range f.Differences {
		errs = append(errs, differ(d.Revision, d.Digests))
	}
	for _, m := range f.Members {
		if p := m.Presence; m.State != IsUnknown && p.Held != nil {
			errs = append(errs, holds(m.name, *p.Held))
		}
	}
	return errs
}

// holds says what a node's guard keeps.
func holds(name string, h store.Held) error {
	backends := "backends that were"
	if h.Backends == 1 {
		backends = "backend that was"
	}
	return fmt.Errorf("node %s holds %d %s removed; roster ack %d, if that was meant", name, h.Backends, backends, h.Revision)
}

// writeMembers writes a line per member, and what they say that is worth one.
func (f *Fleet) writeMembers(w io.Writer) {
	if f.MembersError != "" {
		fmt.Fprintf(w, "the members of the fleet are not known: %s\n", f.MembersError)
		return
	}
	if len(f.Members) == 0 {
		fmt.Fprintln(w, "no node has its presence in etcd")
		return
	}
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "NODE\tSTATE\tVERSION\tREVISION\tLAG\tDIGEST\tREJECTED\tLISTEN\tADMIN")
	for _, m := range f.Members[:min(len(f.Members), shown)] {
		p := m.Presence
		if p == nil {
			p = &store.Presence{}
		}
		listen, admin := cmp.Or(strings.Join(p.Listen, ","), "-"), cmp.Or(p.Admin, "-")
		if m.State == IsUnknown {
			fmt.Fprintf(t, "%s\t%s\t%s\t-\t-\t-\t-\t%s\t%s\n", m.name, m.State, cmp.Or(p.Version, "-"), listen, admin)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\n", m.name, m.State, p.Version, p.Revision, m.Lag, p.Digest,
			len(p.Rejected)+p.MoreRejected, listen, admin)
	}
	t.Flush()
	if more := len(f.Members) - shown; more > 0 {
		fmt.Fprintf(w, "and %d more: roster status -o json has them all\n", more)
	}
	rejected := map[string][]string{}
	for _, m := range f.Members {
		if m.State == IsUnknown || f.asked(m.Node) {
			continue
		}
		for _, key := range m.Presence.Rejected {
			rejected[key] = append(rejected[key], m.name)
		}
	}
	for _, m := range f.Members {
		if m.State != IsUnknown && m.Presence.Held != nil && !f.asked(m.Node) {
			fmt.Fprintf(w, "held: %v\n", holds(m.name, *m.Presence.Held))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rejected)) {
		fmt.Fprintf(w, "rejected by %s: %s\n", strings.Join(rejected[key], ", "), key)
	}
	if len(f.Nodes) > 0 {
		fmt.Fprintln(w)
	}
}

// asked says whether a node has answered for itself, in more words.
func (f *Fleet) asked(node string) bool {
	return slices.ContainsFunc(f.Nodes, func(n Node) bool { return n.Error == "" && n.status.Node == node })
}
