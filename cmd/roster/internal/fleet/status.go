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

	"roster/node/presence"
	"roster/store"
)

// Read reads the members from etcd.
func (f *Fleet) Read(ctx context.Context, s *store.Store) error {
	read, err := presence.ReadFleet(ctx, s)
	f.Members, f.Differences = read.Members, read.Differences
	slices.SortStableFunc(f.Members, func(a, b presence.FleetMember) int {
		return cmp.Or(a.State.Worse(b.State), cmp.Compare(b.Lag, a.Lag))
	})
	if err != nil && f.Members == nil {
		f.MembersError = err.Error()
	}
	return err
}

// differ says at which revision which nodes have which digest.
func differ(revision int64, digests map[string][]string) error {
	var groups []string
	for _, digest := range slices.Sorted(maps.Keys(digests)) {
		groups = append(groups, fmt.Sprintf("%s (%s)", digest, few(digests[digest])))
	}
	return errors.New("nodes differ at revision " + fmt.Sprint(revision) + ": " + strings.Join(groups, " and "))
}

// few is some names, and how many more there are: a line of fifty says less than one of ten.
func few(names []string) string {
	const most = 10
	text := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// memberFaults says what is wrong with members.
func (f *Fleet) memberFaults() (errs []error) {
	for _, m := range f.Members {
		switch m.State {
		case presence.IsUnknown:
			errs = append(errs, fmt.Errorf("node %s is unknown: its presence has ended, and it may be serving by old definitions; roster forget %s, once it is sure to be gone", m.Name, m.Name))
		case presence.IsStarting:
			if f.asked(m.Node) {
				continue // it knows better than what it wrote a moment ago
			}
			errs = append(errs, fmt.Errorf("node %s is not ready", m.Name))
		}
	}
	for _, d := range f.Differences {
		errs = append(errs, differ(d.Revision, d.Digests))
	}
	for _, m := range f.Members {
		if p := m.Presence; m.State != presence.IsUnknown && p.Held != nil {
			errs = append(errs, holds(m.Name, *p.Held))
		}
	}
	return errs
}

// holds says what a node's guard keeps.
func holds(name string, h store.Held) error {
	return fmt.Errorf("node %s %s", name, holding(h))
}

// holding is what is said of a node that holds.
func holding(h store.Held) string {
	if h.Empty {
		return fmt.Sprintf("does not believe that etcd is empty, and keeps %d backends with all else; put the definitions again, or roster ack %d, if it is meant to be", h.Backends, h.Revision)
	}
	backends := "backends that were"
	if h.Backends == 1 {
		backends = "backend that was"
	}
	return fmt.Sprintf("holds %d %s removed; roster ack %d, if that was meant", h.Backends, backends, h.Revision)
}

// Holding is an error that names the members that hold what revisions above one removed; nil: none does,
// or etcd does not let us look.
func Holding(ctx context.Context, s *store.Store, above int64) error {
	events, err := readable(ctx, s)
	if err != nil {
		return err
	}
	var said []string
	var all presence.Members
	all.Take(events)
	for _, m := range all.Sorted() {
		if m.Presence != nil && m.Presence.Held != nil && m.Presence.Held.Revision > above {
			said = append(said, holds(m.Node, *m.Presence.Held).Error())
		}
	}
	if said == nil {
		return nil
	}
	return errors.New(strings.Join(said, "; "))
}

// readable are the members, none if etcd does not let us look.
func readable(ctx context.Context, s *store.Store) ([]store.MemberEvent, error) {
	events, _, err := s.Members(ctx)
	if errors.Is(err, store.ErrDenied) {
		return nil, nil
	}
	return events, err
}

// StillHas says whether a member says that it still has something of a backend. Who may not
// read members is told of none.
func StillHas(ctx context.Context, s *store.Store, name string) (bool, error) {
	events, err := readable(ctx, s)
	if err != nil {
		return false, err
	}
	for _, e := range events {
		if e.Presence == nil {
			continue
		}
		for _, l := range e.Presence.Leaving {
			if l.Name == name && l.Active+l.Queued+l.Connections > 0 {
				return true, nil
			}
		}
	}
	return false, nil
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
		if m.State == presence.IsUnknown {
			fmt.Fprintf(t, "%s\t%s\t%s\t-\t-\t-\t-\t%s\t%s\n", m.Name, m.State, cmp.Or(p.Version, "-"), listen, admin)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\n", m.Name, m.State, p.Version, p.Revision, m.Lag, p.Digest,
			len(p.Rejected)+p.MoreRejected, listen, admin)
	}
	t.Flush()
	if more := len(f.Members) - shown; more > 0 {
		fmt.Fprintf(w, "and %d more: roster status -o json has them all\n", more)
	}
	if len(f.Members) > atAGlance {
		fmt.Fprintln(w, f.summary())
	}
	levels := map[int][]string{}
	for _, m := range f.Members {
		if m.Presence != nil {
			level := max(1, m.Presence.Level)
			levels[level] = append(levels[level], m.Name)
		}
	}
	if of := slices.Sorted(maps.Keys(levels)); len(of) > 1 {
		least := levels[of[0]]
		fmt.Fprintf(w, "definition levels %d to %d: what needs more than %d is refused until %s %s updated\n", of[0], of[len(of)-1], of[0],
			few(least), map[bool]string{true: "is", false: "are"}[len(least) == 1])
	}
	rejected := map[string][]string{}
	for _, m := range f.Members {
		if m.State == presence.IsUnknown || f.asked(m.Node) {
			continue
		}
		for _, key := range m.Presence.Rejected {
			rejected[key] = append(rejected[key], m.Name)
		}
	}
	for _, m := range f.Members {
		if m.State != presence.IsUnknown && m.Presence.Held != nil && !f.asked(m.Node) {
			fmt.Fprintf(w, "held: %v\n", holds(m.Name, *m.Presence.Held))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(rejected)) {
		fmt.Fprintf(w, "rejected by %s: %s\n", few(rejected[key]), key)
	}
	if len(f.Nodes) > 0 {
		fmt.Fprintln(w)
	}
}

// atAGlance is how many lines of members need no sum.
const atAGlance = 10

// summary says how many members are in which state, the worst first, and how many of those
// that tell lag behind.
func (f *Fleet) summary() string {
	counts := map[presence.MemberState]int{}
	behind, most := 0, int64(0)
	for _, m := range f.Members {
		counts[m.State]++
		if m.State != presence.IsUnknown && m.Lag > 0 {
			behind++
			most = max(most, m.Lag)
		}
	}
	var states []string
	for _, s := range slices.SortedFunc(maps.Keys(counts), presence.MemberState.Worse) {
		states = append(states, fmt.Sprintf("%d %s", counts[s], s))
	}
	text := fmt.Sprintf("%d members: %s", len(f.Members), strings.Join(states, ", "))
	if behind > 0 {
		text += fmt.Sprintf("; %d lag behind, by at most %d revisions", behind, most)
	}
	return text
}

// asked says whether a node has answered for itself, in more words.
func (f *Fleet) asked(node string) bool {
	return slices.ContainsFunc(f.Nodes, func(n Node) bool { return n.Error == "" && n.status.Node == node })
}
