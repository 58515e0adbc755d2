package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"roster/node/admin"
	"roster/store"
	"roster/store/storetest"
)

func TestAckCommand(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint()}
	for _, step := range []struct {
		args string
		code int
		want string // in what it says
	}{
		{"put backend web-1 host=h", exitDone, "at revision 2"},
		{"put backend web-1 host=i", exitDone, "at revision 3"},
		{"ack", exitUsage, "roster ack takes a revision, which roster status names"},
		{"ack 2 3", exitUsage, "roster ack takes a revision"},
		{"ack two", exitUsage, `the revision is "two", want a number above 0`},
		{"ack 0", exitUsage, `the revision is "0", want a number above 0`},
		{"ack 99999999999999999999", exitUsage, "want a number above 0"},
		{"ack 4", exitFailed, "revision 4 is in the future of etcd, which is at revision 3: what is not removed yet cannot be acknowledged"},
		{"ack 3", exitDone, "acknowledged removals up to revision 3\n"},
		{"ack 2", exitDone, "removals up to revision 3 are acknowledged already\n"},
	} {
		got := try(t, env, "", strings.Fields(step.args)...)
		if got.code != step.code || !strings.Contains(got.out+got.errors, step.want) {
			t.Errorf("roster %s: %+v, want %d and %q", step.args, got, step.code, step.want)
		}
	}
	if got := try(t, nil, "", "ack", "3", "--etcd", "127.0.0.1:1"); got.code != exitUnavailable {
		t.Errorf("without etcd: %+v", got)
	}
}

// What nodes hold is told by the commands that rely on removals.
func TestCommandsTellOfHeldRemovals(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	env := map[string]string{"ROSTER_ETCD": etcd.Endpoint()}
	try(t, env, "", "put", "backend", "web-1", "host=h")
	member(t, s, "edge-0", store.Presence{Revision: 2}, time.Minute)
	if got := try(t, env, "", "__complete", "ack", ""); got.out != ":4\n" {
		t.Errorf("completions where nothing is held: %q", got.out)
	}
	for range 7 { // a presence is of a later revision than what it has applied
		if _, err := s.Client().Put(t.Context(), "/other", ""); err != nil {
			t.Fatal(err)
		}
	}
	lease, err := s.Grant(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	rev, _, err := s.Delete(t.Context(), store.Key{Kind: store.Backends, Name: "web-1"}, store.AnyRevision)
	if err != nil {
		t.Fatal(err)
	}
	holds := store.Presence{ID: "edge-1", Revision: rev, Held: &store.Held{Backends: 12, Revision: rev}}
	if _, err := s.Announce(t.Context(), store.Instance{Node: "edge-1", ID: "i1"}, holds, lease, 0); err != nil {
		t.Fatal(err)
	}
	if got := try(t, env, "", "__complete", "ack", ""); got.out != fmt.Sprintf("%d\n:4\n", rev) {
		t.Errorf("completions = %q, want revision %d", got.out, rev)
	}
	if got := try(t, env, "", "__complete", "ack", "12", ""); got.out != ":4\n" {
		t.Errorf("completions of a second word: %q", got.out)
	}
	for _, tt := range []struct {
		ack  int64
		more string
	}{
		{rev - 1, fmt.Sprintf("not released: node edge-1 holds 12 backends that were removed; roster ack %d, if that was meant", rev)},
		{rev, ""},
	} {
		if got := try(t, env, "", "ack", fmt.Sprint(tt.ack)); got.code != 0 || (got.errors != "") != (tt.more != "") || !strings.Contains(got.errors, tt.more) {
			t.Errorf("ack %d: %+v, want %q", tt.ack, got, tt.more)
		}
	}
	got := try(t, env, "", "drain", "web-1", "--wait")
	if want := fmt.Sprintf("web-1 was deleted, but may be held: node edge-1 holds 12 backends that were removed; roster ack %d, if that was meant", rev); got.code != exitFailed || !strings.Contains(got.errors, want) {
		t.Errorf("drain: %+v, want %q", got, want)
	}
}

func TestExplainTellsOfAHeldBackend(t *testing.T) {
	t.Parallel()
	removed := time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)
	var out strings.Builder
	if err := writeExplanation(&out, &admin.Explanation{Backend: &admin.Backend{Name: "web-1", Definition: json.RawMessage("{}"), Removed: &removed}}); err != nil {
		t.Fatal(err)
	}
	if want := "it was removed from etcd at 2026-11-21T09:30:00Z, and is held by --guard until roster ack"; !strings.Contains(out.String(), want) {
		t.Errorf("got %s, want %q in it", out.String(), want)
	}
}
