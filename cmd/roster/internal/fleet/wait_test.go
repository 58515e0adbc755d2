package fleet_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"roster/cmd/roster/internal/fleet"
	"roster/store"
	"roster/store/storetest"
)

// members makes members of a fleet by hand.
type members struct {
	t     *testing.T
	s     *store.Store
	lease int64
}

func newMembers(t *testing.T) *members {
	s := storetest.Etcd(t).Store()
	lease, err := s.Grant(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &members{t, s, lease}
}

func instance(node string) store.Instance { return store.Instance{Node: node, ID: "i"} }

func (m *members) announce(node string, p store.Presence) {
	m.t.Helper()
	p.ID = node
	if _, err := m.s.Announce(m.t.Context(), instance(node), p, m.lease, 0); err != nil {
		m.t.Fatal(err)
	}
}

// lapse ends all presences.
func (m *members) lapse() {
	m.t.Helper()
	if err := m.s.Revoke(m.t.Context(), m.lease); err != nil {
		m.t.Fatal(err)
	}
}

// touch writes a definition and returns its revision.
func (m *members) touch() int64 {
	m.t.Helper()
	rev, err := m.s.Put(m.t.Context(), store.Key{Kind: store.Probes, Name: "p"}, []byte("{}"), store.AnyRevision)
	if err != nil {
		m.t.Fatal(err)
	}
	return rev
}

// waited is a Wait that runs.
type waited struct {
	t    *testing.T
	news chan string
	end  context.CancelFunc
	done chan *fleet.Receipt
}

func (m *members) wait(g fleet.Goal) *waited {
	ctx, cancel := context.WithCancel(m.t.Context())
	w := &waited{m.t, make(chan string, 100), cancel, make(chan *fleet.Receipt, 1)}
	go func() {
		r, err := fleet.Wait(ctx, m.s, g, time.Now(), func(n fleet.NodeReceipt) { w.news <- n.Node })
		if err != nil {
			m.t.Error(err)
		}
		w.done <- r
	}()
	m.t.Cleanup(cancel)
	return w
}

func (w *waited) told(node string) {
	w.t.Helper()
	if got := <-w.news; got != node {
		w.t.Errorf("it told of %s, want %s", got, node)
	}
}

// result is the receipt with one word per member.
func (w *waited) result() string {
	r := <-w.done
	words := []string{fmt.Sprint("done=", r.Done)}
	for _, n := range r.Nodes {
		words = append(words, n.Node+"="+string(n.State))
	}
	return strings.Join(words, " ")
}

func TestWaitReturnsOnceEveryMemberHasAppliedTheChange(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.announce("a", store.Presence{})
	m.announce("b", store.Presence{})
	rev := m.touch()
	w := m.wait(fleet.Goal{Revision: rev})
	m.announce("a", store.Presence{Revision: rev})
	w.told("a")
	m.announce("c", store.Presence{Listed: rev}) // came meanwhile, and has listed what was there
	w.told("c")
	m.announce("b", store.Presence{Revision: rev - 1})
	m.announce("b", store.Presence{Revision: rev})
	if got, want := w.result(), "done=true a=done b=done c=done"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, want := m.wait(fleet.Goal{Revision: rev}).result(), "done=true a=done b=done c=done"; got != want {
		t.Errorf("of what is applied already: got %s, want %s", got, want)
	}
}

// A node that holds removals of the change has applied it, and says what it holds.
func TestWaitTellsOfHeldRemovals(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	before := m.touch()
	rev := m.touch()
	m.announce("a", store.Presence{Revision: rev, Held: &store.Held{Backends: 12, Revision: rev}})
	m.announce("b", store.Presence{Revision: rev, Held: &store.Held{Backends: 1, Revision: before}}) // of another change
	r := <-m.wait(fleet.Goal{Revision: rev}).done
	want := []string{fmt.Sprintf("but it holds 12 backends that were removed; roster ack %d, if that was meant", rev), ""}
	for i, n := range r.Nodes {
		_, got, _ := strings.Cut(n.String(), " ms, ")
		if n.State != fleet.Done || got != want[i] || (n.Held != nil) != (want[i] != "") {
			t.Errorf("%s, held %v, want %q", n, n.Held, want[i])
		}
	}
}

func TestWaitOfNobodyIsDone(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	if got := m.wait(fleet.Goal{Revision: m.touch()}).result(); got != "done=true" {
		t.Errorf("got %s", got)
	}
}

func TestWaitNamesThoseThatAreBehindAndUnknown(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.announce("gone", store.Presence{})
	m.lapse()
	var err error
	if m.lease, err = m.s.Grant(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	rev := m.touch()
	m.announce("a", store.Presence{Revision: rev})
	m.announce("late", store.Presence{Revision: rev - 1})
	m.announce("ends", store.Presence{})
	w := m.wait(fleet.Goal{Revision: rev})
	w.told("a")
	w.told("gone") // at once, and once
	if err := m.s.Withdraw(t.Context(), instance("ends")); err != nil {
		t.Fatal(err)
	}
	m.announce("after", store.Presence{Revision: rev}) // so that it is seen
	w.told("after")
	m.lapse() // what is applied stays so
	w.told("late")
	w.end()
	r := <-w.done
	if r.Done {
		t.Error("done")
	}
	got := map[string]fleet.State{}
	for _, n := range r.Nodes {
		got[n.Node] = n.State
	}
	if got["a"] != fleet.Done || got["gone"] != fleet.Unknown || got["late"] == fleet.Done || len(got) != 5 {
		t.Errorf("got %v", got)
	}
	var missing []string
	for _, n := range r.Missing() {
		missing = append(missing, n.String())
	}
	if text := strings.Join(missing, "\n"); !strings.Contains(text, "gone: unknown, its presence has ended; roster forget gone") || strings.Contains(text, "a: ") {
		t.Errorf("missing:\n%s", text)
	}

	// Those that are unknown are waited for until they are forgotten.
	w = m.wait(fleet.Goal{Revision: rev})
	for _, node := range []string{"a", "after", "late", "gone"} {
		if ok, err := m.s.Forget(t.Context(), instance(node)); !ok || err != nil {
			t.Fatalf("forget %s: %v, %v", node, ok, err)
		}
	}
	if got := w.result(); !strings.HasPrefix(got, "done=true") || strings.Contains(got, "unknown") {
		t.Errorf("after they were forgotten: %s", got)
	}
}

func TestWaitForQuietLooksAtAllMembersAtOnce(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.announce("a", store.Presence{})
	m.announce("b", store.Presence{})
	rev := m.touch()
	leaving := func(l store.Leaving) store.Presence {
		l.Name = "web-1"
		return store.Presence{Revision: rev, Leaving: []store.Leaving{{Name: "other", Active: 3}, l}}
	}
	w := m.wait(fleet.Goal{Revision: rev, Quiet: []string{"web-1"}})
	m.announce("a", leaving(store.Leaving{Settled: true}))
	w.told("a")
	m.announce("a", leaving(store.Leaving{Settled: true, Active: 1})) // a sticky cookie
	for _, busy := range []store.Leaving{{}, {Settled: true, Queued: 1}, {Settled: true, Connections: 1}} {
		m.announce("b", leaving(busy))
	}
	m.announce("b", store.Presence{Revision: rev}) // does not drain it, or does not name it
	m.announce("b", leaving(store.Leaving{Settled: true}))
	w.told("b")
	m.announce("a", leaving(store.Leaving{Settled: true}))
	if got, want := w.result(), "done=true a=done b=done"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}

	m.announce("a", leaving(store.Leaving{Settled: true, Active: 1, Queued: 2, Connections: 3}))
	m.announce("b", store.Presence{Revision: rev})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := fleet.Wait(ctx, m.s, fleet.Goal{Revision: rev}, time.Now(), nil); err != nil || r.Done {
		t.Errorf("with a context that has ended: %+v, %v", r, err)
	}
	w = m.wait(fleet.Goal{Revision: rev, Quiet: []string{"web-1"}})
	m.announce("c", leaving(store.Leaving{Settled: true}))
	w.told("c")
	w.end()
	var lines []string
	for _, n := range (<-w.done).Nodes {
		lines = append(lines, n.String())
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{"a: web-1 has 1 request in progress, 2 queued, 3 connections", "b: web-1 is not among the draining backends that it names", "c: done after"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
}

func TestStatusOfMembersComesFromEtcdAlone(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	m.announce("gone", store.Presence{Version: "v0"})
	m.lapse()
	var err error
	if m.lease, err = m.s.Grant(t.Context(), time.Hour); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		m.touch()
	}
	rev := m.touch()
	m.announce("a", store.Presence{Revision: rev, Digest: "d1", Ready: true, Version: "v1", Rejected: []string{"backends/x"}, MoreRejected: 1})
	m.announce("b", store.Presence{Revision: rev, Digest: "d2", Ready: true})
	m.announce("listed", store.Presence{Revision: rev - 5, Listed: rev, Digest: "d1", Ready: true})
	m.announce("late", store.Presence{Revision: rev - 3, Digest: "d0", Ready: true})
	m.announce("new", store.Presence{})
	m.announce("ending", store.Presence{Revision: rev, Digest: "d1", Draining: true})
	var f fleet.Fleet
	if err := f.Read(t.Context(), m.s); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range f.Members {
		got = append(got, fmt.Sprint(s.Node, " ", s.State, " ", s.Lag))
	}
	if got, want := strings.Join(got, ", "), fmt.Sprintf("gone unknown 0, new starting %d, ending draining 0, late ready 3, a ready 0, b ready 0, listed ready 0", rev); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	fault := fmt.Sprint(f.Fault())
	for _, want := range []string{
		"node gone is unknown", "node new is not ready",
		fmt.Sprintf("nodes differ at revision %d: d1 (a, ending) and d2 (b)", rev),
	} {
		if !strings.Contains(fault, want) {
			t.Errorf("%q is not in %s", want, fault)
		}
	}
	if strings.Contains(fault, "late") || strings.Contains(fault, "listed") {
		t.Errorf("nodes at other revisions are said to differ: %s", fault)
	}
	f.NotAsked = "nobody"
	var out strings.Builder
	if err := f.Write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"gone    unknown   v0", "late    ready", "rejected by a: backends/x", "health of backends: nobody"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}

// Nodes that are on their way from one revision to the next do not differ.
func TestNodesOnTheirWayDoNotDiffer(t *testing.T) {
	t.Parallel()
	m := newMembers(t)
	rev := m.touch()
	m.announce("a", store.Presence{Revision: rev, Digest: "d1", Ready: true})
	m.announce("b", store.Presence{Revision: rev, Digest: "d0", Ready: true})
	// It looks again after a second; b is there long before.
	go func() {
		s := store.Presence{ID: "b", Revision: rev, Digest: "d1", Ready: true}
		if _, err := m.s.Announce(context.WithoutCancel(t.Context()), instance("b"), s, m.lease, 0); err != nil {
			t.Error(err)
		}
	}()
	var f fleet.Fleet
	if err := f.Read(t.Context(), m.s); err != nil {
		t.Fatal(err)
	}
	if err := f.Fault(); err != nil {
		t.Errorf("fault: %v", err)
	}
}
