package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"roster/node/presence"
	"roster/store"
)

// Goal is what every member is waited for to have come to.
type Goal struct {
	// Revision is the one that wrote the change. It has touched the prefix.
	Revision int64
	// Quiet are backends that no member may have a request or connection of any more.
	Quiet []string
}

// Receipt is how far the members have come.
type Receipt struct {
	Revision     int64         `json:"revision"`
	Done         bool          `json:"done"`
	Milliseconds int64         `json:"milliseconds"`    // since the change was sent
	Nodes        []NodeReceipt `json:"nodes"`           // by name
	ErrorText    string        `json:"error,omitempty"` // of etcd, where that was the last that was heard of it
}

// State is how a member stands towards a Goal.
type State string

// The states.
const (
	Done    State = "done"
	Behind  State = "behind"  // it has not applied the change yet
	Busy    State = "busy"    // it has, and requests or connections are left
	Unknown State = "unknown" // its presence has ended before it was done
	Left    State = "left"    // it ended in an orderly way before it was done, or was forgotten
)

// NodeReceipt is how far one member has come.
type NodeReceipt struct {
	Node     string `json:"node"`
	Instance string `json:"instance"`
	State    State  `json:"state"`
	// Milliseconds is when it was known here to be done, from the change being sent: by
	// this machine's clock alone.
	Milliseconds int64 `json:"milliseconds"`
	Revision     int64 `json:"revision"` // up to which it has applied all, 0 where unknown
	// Busy is what is left of the backends that are to be quiet.
	Busy []store.Leaving `json:"busy,omitempty"`
	// NotDraining are the backends of which it does not say what is left: their drain was
	// ended, or it has more to tell of than a presence holds.
	NotDraining []string `json:"not_draining,omitempty"`
	// Held are removals of the change, or of later ones, that the node's guard holds.
	Held *store.Held `json:"held,omitempty"`

	name string
}

// judge says how a member stands.
func (g Goal) judge(m presence.Member) NodeReceipt {
	r := NodeReceipt{Node: m.Node, Instance: m.ID, State: Unknown}
	p := m.Presence
	if p == nil {
		return r
	}
	r.Revision, r.State = max(p.Revision, p.Listed), Done
	if !p.Applied(g.Revision) {
		r.State = Behind
		return r
	}
	if p.Held != nil && p.Held.Revision >= g.Revision {
		r.Held = p.Held
	}
	for _, name := range g.Quiet {
		i := slices.IndexFunc(p.Leaving, func(l store.Leaving) bool { return l.Name == name })
		switch {
		case i < 0:
			r.State, r.NotDraining = Busy, append(r.NotDraining, name)
		case !p.Leaving[i].Quiet():
			r.State, r.Busy = Busy, append(r.Busy, p.Leaving[i])
		}
	}
	return r
}

// retry is the pause before etcd is asked again.
const retry = 200 * time.Millisecond

// Wait waits until all members have come to a goal, and then, or when ctx ends, says
// how far each is. Members that come while it waits are waited for, too; what was
// written before they came they have from the start. began is when the change was sent.
// news, which may be nil, is called for each member when it is done, and for one whose
// presence has ended when it is seen: nobody knows how long that one takes.
//
// An error is one of reading the members at all; ctx's end is none, but in the receipt.
func Wait(ctx context.Context, s *store.Store, g Goal, began time.Time, news func(NodeReceipt)) (*Receipt, error) {
	w := &wait{goal: g, began: began, news: news, done: map[store.Instance]NodeReceipt{}, seen: map[store.Instance]bool{}, unknown: map[store.Instance]bool{}}
	for {
		err := w.session(ctx, s)
		switch {
		case errors.Is(err, errDone):
			return w.receipt(nil), nil
		case ctx.Err() != nil:
			return w.receipt(err), nil
		case errors.Is(err, store.ErrDenied):
			return nil, err
		case errors.Is(err, store.ErrCompacted): // since it was read: read it again
			continue
		case !errors.Is(err, errUnsure):
			w.err = err
		}
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
	}
}

var (
	errDone = errors.New("all members are done")
	// What is told of the two keys of a member comes in any order, so one that comes or
	// ends may seem unknown for a moment: only a list says whether it is.
	errUnsure = errors.New("a member may be unknown")
)

type wait struct {
	goal  Goal
	began time.Time
	news  func(NodeReceipt)

	members presence.Members
	seen    map[store.Instance]bool        // that were members at any time
	done    map[store.Instance]NodeReceipt // of those that are, or were when they left
	unknown map[store.Instance]bool        // of which it was told
	err     error                          // the last of etcd
}

// session reads the members and follows them.
func (w *wait) session(ctx context.Context, s *store.Store) error {
	events, revision, err := s.Members(ctx)
	if err != nil {
		return err
	}
	w.err = nil
	w.members = nil
	w.members.Take(events)
	if done, _ := w.look(true); done {
		return errDone
	}
	return s.WatchMembers(ctx, revision+1, func(events []store.MemberEvent) error {
		w.members.Take(events)
		switch done, unsure := w.look(false); {
		case done:
			return errDone
		case unsure:
			return errUnsure
		}
		return nil
	})
}

// look judges all members and says whether all are done, and, of what was not listed,
// whether one may have become unknown.
func (w *wait) look(listed bool) (all, unsure bool) {
	all = true
	for _, m := range w.members.Sorted() {
		w.seen[m.Instance] = true
		r := w.goal.judge(m)
		was, had := w.done[m.Instance]
		if r.State != Unknown {
			delete(w.unknown, m.Instance)
		}
		switch {
		case r.State == Done && !had:
			r.Milliseconds = time.Since(w.began).Milliseconds()
			w.done[m.Instance] = r
			w.tell(r, m.Instance)
		case r.State == Done:
		case r.State == Unknown && had && len(w.goal.Quiet) == 0:
			// It had applied the change, and what is applied stays so.
			w.done[m.Instance] = was
		default:
			delete(w.done, m.Instance)
			all = false
			switch {
			case r.State != Unknown || w.unknown[m.Instance]:
			case listed:
				w.unknown[m.Instance] = true
				w.tell(r, m.Instance)
			default:
				unsure = true
			}
		}
	}
	return all, unsure
}

func (w *wait) tell(r NodeReceipt, i store.Instance) {
	if w.news != nil {
		r.name = w.names()[i]
		w.news(r)
	}
}

func (w *wait) names() map[store.Instance]string {
	var all []store.Instance
	for i := range w.seen {
		all = append(all, i)
	}
	return presence.Names(all)
}

func (w *wait) receipt(err error) *Receipt {
	r := &Receipt{Revision: w.goal.Revision, Done: err == nil, Milliseconds: time.Since(w.began).Milliseconds(), Nodes: []NodeReceipt{}}
	if w.err != nil {
		r.ErrorText = w.err.Error()
	}
	named := w.names()
	for i := range w.seen {
		n, ok := w.done[i]
		if m, there := w.members[i]; !ok && there {
			n = w.goal.judge(m)
		} else if !ok {
			n = NodeReceipt{Node: i.Node, Instance: i.ID, State: Left}
		}
		n.name = named[i]
		r.Nodes = append(r.Nodes, n)
	}
	slices.SortFunc(r.Nodes, func(a, b NodeReceipt) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.Instance, b.Instance))
	})
	return r
}

// String is the line for people.
func (n NodeReceipt) String() string {
	name := cmp.Or(n.name, n.Node)
	switch n.State {
	case Done:
		if h := n.Held; h != nil {
			return fmt.Sprintf("%s: done after %d ms, but it %s", name, n.Milliseconds, holding(*h))
		}
		return fmt.Sprintf("%s: done after %d ms", name, n.Milliseconds)
	case Left:
		return name + ": has ended"
	case Unknown:
		return fmt.Sprintf("%s: unknown, its presence has ended; roster forget %s, once it is sure to be gone", name, name)
	case Behind:
		return fmt.Sprintf("%s: behind, at revision %d", name, n.Revision)
	}
	var parts []string
	for _, l := range n.Busy {
		if l.Active+l.Queued+l.Connections == 0 {
			parts = append(parts, l.Name+" is quiet, for less than a second")
			continue
		}
		parts = append(parts, fmt.Sprintf("%s has %s in progress, %d queued, %s", l.Name, count(l.Active, "request"), l.Queued, count(l.Connections, "connection")))
	}
	for _, b := range n.NotDraining {
		parts = append(parts, b+" is not among the draining backends that it names")
	}
	return name + ": " + strings.Join(parts, "; ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// Missing are the members that are not done.
func (r *Receipt) Missing() []NodeReceipt {
	var missing []NodeReceipt
	for _, n := range r.Nodes {
		if n.State != Done && n.State != Left {
			missing = append(missing, n)
		}
	}
	return missing
}
