package store_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"roster/store"
	"roster/store/storetest"
)

// A node that lists is past what a list does not show: what was deleted last.
func TestAppliedCountsWhatAListIsPast(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		revision, listed, asked int64
		want                    bool
	}{
		{0, 0, 1, false}, {7, 0, 7, true}, {7, 0, 8, false}, {5, 9, 8, true}, {5, 9, 10, false}, {12, 9, 11, true},
	} {
		p := store.Presence{Revision: tt.revision, Listed: tt.listed}
		if got := p.Applied(tt.asked); got != tt.want {
			t.Errorf("revision %d, listed %d: applied %d = %v, want %v", tt.revision, tt.listed, tt.asked, got, tt.want)
		}
	}
}

func TestMembersAreReadAndWatched(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	ctx := t.Context()
	lease, err := s.Grant(ctx, 1500*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if granted, _, err := s.LeaseTTL(ctx, lease); err != nil || granted < 2*time.Second {
		t.Errorf("granted %v, %v, want the seconds rounded up", granted, err)
	}
	m := store.Instance{Node: "edge/1:8080", ID: "ab"}
	p := store.Presence{ID: m.Node, Version: "v1", Level: store.Level, Listen: []string{":80"}, Digest: "d", Ready: true}
	rev, err := s.Announce(ctx, m, p, lease, 0)
	if err != nil {
		t.Fatal(err)
	}
	// Not a member's key, a value that is none, and a claim from another history.
	future := store.Instance{Node: "n", ID: "c"}
	if _, err := s.Announce(ctx, future, store.Presence{ID: "n", Revision: 1 << 40, Digest: "x"}, lease, 0); err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string]string{"/roster-nodes/x": "{}", "/roster-nodes/y/1": "what"} {
		if _, err := etcd.Client().Put(ctx, key, value); err != nil {
			t.Fatal(err)
		}
	}
	events, at, err := s.Members(ctx)
	if err != nil || at <= rev {
		t.Fatalf("at revision %d, %v", at, err)
	}
	got := map[string]store.Presence{}
	for _, e := range events {
		if e.Live {
			got[e.Member.String()] = *e.Presence
		} else if e.Presence.Digest != "" || e.Presence.ID != e.Member.Node {
			t.Errorf("the membership of %s says %+v, want what does not change", e.Member, e.Presence)
		}
	}
	want := map[string]store.Presence{m.String(): p, "n/c": {ID: "n", Digest: "x"}, "y/1": {ID: "y"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("presences, -want +got:\n%s", diff)
	}

	if ok, err := s.Forget(ctx, m); ok || err != nil {
		t.Errorf("a member that is present was forgotten: %v, %v", ok, err)
	}
	ended := errors.New("seen")
	watched := make(chan error, 1)
	go func() {
		watched <- s.WatchMembers(ctx, at+1, func(events []store.MemberEvent) error {
			for _, e := range events {
				if e.Live && e.Member == m && e.Presence == nil {
					return ended
				}
			}
			return nil
		})
	}()
	if err := s.Revoke(ctx, lease); err != nil {
		t.Fatal(err)
	}
	if err := <-watched; err != ended {
		t.Errorf("the watch ended by %v", err)
	}
	if err := s.Revoke(ctx, lease); err != nil {
		t.Errorf("a lease that has ended: %v", err)
	}
	if _, _, err := s.LeaseTTL(ctx, lease); !errors.Is(err, store.ErrNoLease) {
		t.Errorf("its time: %v", err)
	}
	if _, err := s.Announce(ctx, m, p, lease, 0); !errors.Is(err, store.ErrNoLease) {
		t.Errorf("presence under it: %v", err)
	}
	if ok, err := s.Forget(ctx, m); !ok || err != nil {
		t.Errorf("a member whose presence is gone was not forgotten: %v, %v", ok, err)
	}
	if err := s.Withdraw(ctx, future); err != nil {
		t.Error(err)
	}
	events, now, err := s.Members(ctx)
	if err != nil || len(events) != 1 || events[0].Member.Node != "y" {
		t.Errorf("%+v are left, %v, want y alone", events, err)
	}
	etcd.Compact(now)
	if err := s.WatchMembers(ctx, at, func([]store.MemberEvent) error { return nil }); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watch from before the compaction ended by %v", err)
	}
}

// What a terminal would obey reaches nobody who reads the members: they are other machines'.
func TestMembersSayNothingToATerminal(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	for key, value := range map[string]string{
		"\x1b[2J/1": "{}", "x/\x1b[2J": "{}", "\u009b2J/1": "{}", "\x9b2J/1": "{}",
		"z/1": `{"id":"\u001b[2Jz","version":"v\n1","listen":[":\u008580"],"admin":"a\tb","peer":"p\u007f","digest":"\u0007",` +
			`"rejected":["r\u001b[A"],"leaving":[{"name":"w\r\n"}]}`,
	} {
		if _, err := etcd.Client().Put(t.Context(), "/roster-nodes/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	events, _, err := etcd.Store().Members(t.Context())
	if err != nil || len(events) != 1 {
		t.Fatalf("%d members, %v, want the one whose name is a node's: %+v", len(events), err, events)
	}
	want := &store.Presence{ID: " [2Jz", Version: "v 1", Listen: []string{": 80"}, Admin: "a b", Peer: "p ", Digest: " ",
		Rejected: []string{"r [A"}, Leaving: []store.Leaving{{Name: "w  "}}}
	if diff := cmp.Diff(want, events[0].Presence); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestAKeptLeaseLivesAndOneThatEndsIsToldOf(t *testing.T) {
	t.Parallel()
	// Whoever tried on after the context's end would do so for an hour.
	s := storetest.Open(t, store.Config{Endpoints: []string{storetest.Etcd(t).Endpoint()}, RequestTimeout: time.Hour})
	lease, err := s.Grant(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	ended := s.KeepAlive(t.Context(), lease)
	if err := s.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	<-ended
	if lease, err = s.Grant(t.Context(), time.Second); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended = s.KeepAlive(ctx, lease)
	cancel()
	<-ended
}

func TestNodeIDs(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{"edge-1:8080": true, "a/b": true, "": false, "a b": false, "a\n": false, string(make([]byte, 300)): false} {
		if err := store.ValidateNodeID(id); (err == nil) != want {
			t.Errorf("%q: %v", id, err)
		}
	}
}
