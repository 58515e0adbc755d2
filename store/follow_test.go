package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"roster/store"
	"roster/store/storetest"
)

// followed are the lines of what Follow tells up to a revision.
func followed(t *testing.T, s *store.Store, r store.Range, from, to int64) (lines []string, err error) {
	t.Helper()
	err = s.Follow(t.Context(), r, from, to, func(rev int64, events []store.Event) error {
		for _, e := range events {
			line := fmt.Sprintf("%d %s %s", rev, e.Key, e.Value)
			if e.Deleted {
				line = fmt.Sprintf("%d %s deleted", rev, e.Key)
			}
			lines = append(lines, line)
		}
		return nil
	})
	return lines, err
}

func TestFollowTellsEachRevisionOfARange(t *testing.T) {
	t.Parallel()
	etcd := storetest.Etcd(t)
	s := etcd.Store()
	put(t, s, web1, "1")                                     // 2
	put(t, s, backend("team-a/web-1"), "2")                  // 3
	put(t, s, store.Key{Kind: store.Probes, Name: "p"}, "3") // 4
	if _, err := s.Apply(t.Context(), []store.Op{{Key: web1, IfRevision: store.AnyRevision}, {Key: backend("web-2"), Value: []byte("4")}}); err != nil {
		t.Fatal(err)
	}
	if err := s.CreateSecret(t.Context()); err != nil { // 6
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		r        store.Range
		from, to int64
		want     []string
	}{
		"all":           {store.Range{}, 0, 6, []string{"2 backends/web-1 1", "3 backends/team-a/web-1 2", "4 probes/p 3", "5 backends/web-1 deleted", "5 backends/web-2 4"}},
		"some":          {store.Range{}, 3, 4, []string{"3 backends/team-a/web-1 2", "4 probes/p 3"}},
		"a kind":        {store.Range{Kind: store.Probes}, 1, 6, []string{"4 probes/p 3"}},
		"below a name":  {store.Range{Kind: store.Backends, Name: "team-a/"}, 1, 6, []string{"3 backends/team-a/web-1 2"}},
		"a key":         {store.Range{Kind: store.Backends, Name: "web-1"}, 1, 6, []string{"2 backends/web-1 1", "5 backends/web-1 deleted"}},
		"nothing there": {store.Range{Kind: store.Routes}, 1, 6, nil},
		"nothing asked": {store.Range{}, 6, 5, nil},
	} {
		got, err := followed(t, s, test.r, test.from, test.to)
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v, -want +got:\n%s", name, err, diff)
		}
	}
	etcd.Compact(4)
	_, err := followed(t, s, store.Range{}, 2, 6)
	var compacted *store.CompactedError
	if !errors.As(err, &compacted) || compacted.Oldest != 4 || !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a compacted revision: %v", err)
	}
	if got, err := followed(t, s, store.Range{}, 5, 6); err != nil || len(got) != 2 {
		t.Errorf("after compaction: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Follow(ctx, store.Range{}, 5, 0, func(int64, []store.Event) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a follower that is cancelled: %v", err)
	}
	for r, want := range map[store.Range]int{{}: 3, {Kind: store.Backends}: 2, {Kind: store.Backends, Name: "web-2"}: 1, {Kind: store.Backends, Name: "web-1"}: 0} {
		got, at, err := s.Read(t.Context(), r, 5)
		if err != nil || len(got) != want || at != 5 {
			t.Errorf("%v: %d entries at revision %d, %v; want %d", r, len(got), at, err, want)
		}
	}
}

// Etcd sends old revisions a thousand at a time, each time with its newest revision besides.
func TestFollowTellsALongHistoryToItsEnd(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	const writes = 2500
	var last int64
	for range writes {
		last = put(t, s, web1, "1")
	}
	for _, to := range []int64{last, last - 1} {
		got, err := followed(t, s, store.Range{}, 1, to)
		if want := int(to - 1); err != nil || len(got) != want { // the first is 2
			t.Errorf("up to revision %d: %d changes, %v, want %d", to, len(got), err, want)
		}
	}
}

func TestOwnersOwnWhatTheyCreated(t *testing.T) {
	t.Parallel()
	s := storetest.Etcd(t).Store()
	ctx := t.Context()
	o, err := s.GetOwner(ctx, "web")
	if err != nil || o.Revision != 0 || len(o.Keys) != 0 {
		t.Fatalf("%+v, %v", o, err)
	}
	o.Keys[web1] = 0 // created by this transaction
	if _, err := s.Apply(ctx, []store.Op{{Key: web1, Value: []byte("{}"), IfRevision: 0}, store.OwnerOp(o)}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(ctx, []store.Op{store.OwnerOp(o)}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("a note that somebody wrote meanwhile: %v", err)
	}
	if all, _, err := s.List(ctx, "", "", 0); err != nil || len(all) != 1 {
		t.Errorf("a note is among the definitions: %v, %v", all, err)
	}
	all, err := s.Owners(ctx)
	if err != nil || len(all) != 1 || all[0].Name != "web" {
		t.Fatalf("%+v, %v", all, err)
	}
	e, _, err := s.Get(ctx, web1, 0)
	if err != nil || !all[0].Owns(e) {
		t.Errorf("%+v does not own %+v, %v", all[0], e, err)
	}
	if _, _, err := s.Delete(ctx, web1, store.AnyRevision); err != nil {
		t.Fatal(err)
	}
	put(t, s, web1, "{}")
	if e, _, err = s.Get(ctx, web1, 0); err != nil || all[0].Owns(e) {
		t.Errorf("%+v owns what somebody else made, %+v, %v", all[0], e, err)
	}
}

func TestMembersThatCannotBeReachedAreGivenUpEarly(t *testing.T) {
	t.Parallel()
	s := storetest.Open(t, store.Config{Endpoints: []string{"127.0.0.1:1", "127.0.0.1:2"}, UnreachableTimeout: 1, RequestTimeout: 1 << 40})
	if _, _, err := s.Get(t.Context(), web1, 0); !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a read: %v", err)
	}
	if _, err := s.Put(t.Context(), web1, []byte("{}"), store.AnyRevision); !errors.Is(err, store.ErrUnavailable) || errors.Is(err, store.ErrOutcomeUnknown) {
		t.Errorf("a write: %v", err)
	}
}
