package watcher

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/store"
)

// listed is what a new watcher computes from a history.
func listed(t errorer, h history) (*state, Change) {
	s := newState(store.Reject, true)
	return s, relisted(t, s, h)
}

// relisted is what a state becomes by a list of a history.
func relisted(_ errorer, s *state, h history) Change {
	l := s.list(h.cluster, h.revision)
	for _, e := range h.at(h.revision) {
		l.add(e)
	}
	for _, bad := range l.invalid {
		l.resolve(bad, walked(h, l, bad))
	}
	return s.replace(l)
}

// walked is Watcher.walk without its I/O.
func walked(h history, l *listing, bad invalid) version {
	at := bad.entry
	for range maxVersions {
		if at.create == at.mod {
			return version{}
		}
		if at.mod-1 < h.compacted {
			return l.remembered(bad)
		}
		at = *h.get(bad.entry.key, at.mod-1)
		if v, done := l.older(bad, at); done {
			return v
		}
	}
	return l.remembered(bad)
}

type errorer interface {
	Helper()
	Fatalf(string, ...any)
}

// differ compares two sums, definitions by value and rejections by their text.
func differ(got, want sum) string {
	return cmp.Diff(want, got, cmp.Comparer(func(a, b error) bool { return fmt.Sprint(a) == fmt.Sprint(b) }))
}

func (s *state) sum() sum {
	all := sum{}
	for key, r := range s.keys {
		all[key] = r.item(key)
	}
	return all
}

func keyOf(t errorer, rel string) store.Key {
	t.Helper()
	key, ok := store.ParseKey(rel)
	if !ok {
		t.Fatalf("%q is no definition key", rel)
	}
	return key
}

func TestAnInvalidValueKeepsTheNewestValidVersionSinceCreation(t *testing.T) {
	t.Parallel()
	type want struct {
		create, mod, rejected int64 // mod 0: no definition
		absent                bool
	}
	for _, tt := range []struct {
		name   string
		values []string // of one key, at revisions 2, 3, ...; "" deletes
		want   want
	}{
		{"valid", []string{good}, want{create: 2, mod: 2}},
		{"replaced", []string{good, better}, want{create: 2, mod: 3}},
		{"invalid after valid", []string{good, better, bad}, want{create: 2, mod: 3, rejected: 4}},
		{"invalid twice", []string{good, bad, worse}, want{create: 2, mod: 2, rejected: 4}},
		{"valid again", []string{good, bad, better}, want{create: 2, mod: 4}},
		{"never valid", []string{bad, worse}, want{rejected: 3}},
		{"deleted", []string{good, ""}, want{absent: true}},
		{"invalid and deleted", []string{good, bad, ""}, want{absent: true}},
		{"a delete forgets", []string{good, "", bad}, want{rejected: 4}},
		{"a new life of its own", []string{good, "", better, bad}, want{create: 4, mod: 4, rejected: 5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newModel(1)
			incremental, _ := listed(t, m.history)
			got := sum{}
			for _, value := range tt.values {
				revision := m.write(pairs(backendA, value))
				change, _ := incremental.apply(revision, m.history.log[len(m.history.log)-1:])
				got.add(change)
			}
			fresh, _ := listed(t, m.history)
			if diff := differ(got, fresh.sum()); diff != "" {
				t.Errorf("changes, against a new list (-list +changes):\n%s", diff)
			}
			item, present := got[keyOf(t, backendA)]
			if present == tt.want.absent {
				t.Fatalf("present = %t, want %t", present, !tt.want.absent)
			}
			var rejected int64
			if item.Rejected != nil {
				rejected = item.Rejected.Revision
			}
			if item.CreateRevision != tt.want.create || item.ModRevision != tt.want.mod || rejected != tt.want.rejected {
				t.Errorf("create %d, mod %d, rejected %d, want %+v", item.CreateRevision, item.ModRevision, rejected, tt.want)
			}
			if (item.Definition != nil) != (tt.want.mod != 0) {
				t.Errorf("definition = %v, want one only at a mod revision", item.Definition)
			}
		})
	}
}

func TestALostDeletionIsARecreation(t *testing.T) {
	t.Parallel()
	m := newModel(1)
	m.put(backendA, good)
	s, _ := listed(t, m.snapshot())
	m.del(backendA)
	m.put(backendA, bad)
	change := relisted(t, s, m.snapshot())
	if len(change.Puts) != 1 || change.Puts[0].Definition != nil || change.Puts[0].Rejected.Revision != 4 {
		t.Errorf("change = %+v, want the key without a definition, rejected at 4", change)
	}
}

func TestAnotherCreateRevisionIsARecreation(t *testing.T) {
	t.Parallel()
	m := newModel(1)
	m.put(backendA, good)
	s, _ := listed(t, m.snapshot())
	change, _ := s.apply(9, []entry{{key: backendA, create: 8, mod: 9, value: []byte(bad)}})
	if len(change.Puts) != 1 || change.Puts[0].Definition != nil {
		t.Errorf("change = %+v, want nothing kept of the key's earlier life", change)
	}
}

func TestARelistLeavesOutWhatDidNotChange(t *testing.T) {
	t.Parallel()
	before := newModel(1)
	before.write(pairs("backends/same", good, "backends/other-value", good, "backends/gone", good, "backends/invalid", good, "backends/touched", good))
	before.put("backends/invalid", bad)
	past := before.snapshot()
	before.put("backends/other-revision", good)
	s, _ := listed(t, before.snapshot())

	after := newModel(2)
	after.history = past
	log := slices.Clone(past.log)
	for i, e := range log { // the same revisions, another value
		if e.key == "backends/other-value" {
			log[i].value = []byte(better)
		}
	}
	after.history.log = log
	after.elsewhere(1)
	after.write(pairs("backends/gone", "", "backends/touched", good))
	after.put("backends/other-revision", good)
	change := relisted(t, s, after.snapshot())

	var puts []string
	for _, item := range change.Puts {
		puts = append(puts, item.Key.Name)
	}
	if want := []string{"other-revision", "other-value", "touched"}; !slices.Equal(puts, want) {
		t.Errorf("puts = %v, want %v", puts, want)
	}
	if want := []store.Key{keyOf(t, "backends/gone")}; !slices.Equal(change.Deletes, want) {
		t.Errorf("deletes = %v, want %v", change.Deletes, want)
	}
	if !change.Listed || change.Revision != after.history.revision {
		t.Errorf("change is of revision %d, listed %t, want %d, true", change.Revision, change.Listed, after.history.revision)
	}
}

func TestCompactedHistoryFallsBackOnMemory(t *testing.T) {
	t.Parallel()
	m := newModel(1)
	m.put(backendA, good)
	s, _ := listed(t, m.snapshot())
	m.put(backendA, bad)
	m.elsewhere(1)
	m.compact(4)
	relisted(t, s, m.snapshot())
	if got := s.sum()[keyOf(t, backendA)]; got.ModRevision != 2 || got.Definition == nil || got.Rejected == nil {
		t.Errorf("item = %+v, want the version remembered, of revision 2", got)
	}
	other := m.snapshot()
	other.cluster++
	relisted(t, s, other)
	if got := s.sum()[keyOf(t, backendA)]; got.Definition != nil {
		t.Errorf("item = %+v, want nothing remembered of another cluster", got)
	}
}

func TestKeysOfNoKindAreIgnoredAndCounted(t *testing.T) {
	t.Parallel()
	m := newModel(1)
	m.write(pairs("ack", " 2\n", "secret/x", "s", "colours/red", "r", "stray", "s", "backends/a", good))
	s, change := listed(t, m.snapshot())
	if s.ignored() != 3 || s.ack != 2 || len(change.Puts) != 1 || s.size() != 5 {
		t.Errorf("ignored %d, ack %d, puts %d, size %d, want 3, 2, 1, 5", s.ignored(), s.ack, len(change.Puts), s.size())
	}
	revision := m.write(pairs("colours/red", "", "colours/blue", "b", "colours/green", "g", "ack", ""))
	change, ok := s.apply(revision, m.history.log[len(m.history.log)-4:])
	if ok || s.ignored() != 4 || s.ack != 0 {
		t.Errorf("change %v (%t), ignored %d, ack %d, want none, 4, 0", change, ok, s.ignored(), s.ack)
	}
}

// The reader is told of an acknowledgement, also where it is all that a revision does.
func TestAnAcknowledgementIsAChange(t *testing.T) {
	t.Parallel()
	m := newModel(1)
	m.put("backends/a", good)
	s, change := listed(t, m.snapshot())
	if change.Ack != 0 {
		t.Errorf("ack %d without the key, want 0", change.Ack)
	}
	apply := func(key, value string) (Change, bool) {
		revision := m.put(key, value)
		return s.apply(revision, m.history.log[len(m.history.log)-1:])
	}
	if change, ok := apply("ack", "2"); !ok || change.Ack != 2 || len(change.Puts)+len(change.Deletes) > 0 || change.Listed {
		t.Errorf("change = %+v (%t), want one that acknowledges 2, and nothing else", change, ok)
	}
	if change, ok := apply("ack", "1"); ok {
		t.Errorf("change = %+v of a lower revision, want none", change)
	}
	if change, ok := apply("backends/a", better); !ok || change.Ack != 1 {
		t.Errorf("change = %+v (%t), want ack 1", change, ok)
	}
	if change, ok := apply("ack", "no revision"); ok || s.ack != 0 {
		t.Errorf("change = %+v of what is no revision, with ack %d, want none, and 0", change, s.ack)
	}
	// None acknowledges what comes after it.
	for _, value := range []string{"9223372036854775807", "1000"} {
		if change, ok := apply("ack", value); ok != (s.ack > 0) || s.ack != change.Revision {
			t.Errorf("change = %+v (%t) of %s, with ack %d, want its own revision", change, ok, value, s.ack)
		}
	}
	m.put("backends/a", good)
	if change := relisted(t, s, m.snapshot()); change.Ack != m.history.revision-1 {
		t.Errorf("ack %d of a list at revision %d, want that of before", change.Ack, m.history.revision)
	}
}

func TestInvalidNamesAreRejected(t *testing.T) {
	t.Parallel()
	m := newModel(1)
	m.put("backends/9", good)
	_, change := listed(t, m.snapshot())
	if len(change.Puts) != 1 || change.Puts[0].Rejected == nil || change.Puts[0].Definition != nil {
		t.Errorf("puts = %+v, want one, rejected", change.Puts)
	}
}

func TestARevisionIsOneChangeHoweverResponsesAreCut(t *testing.T) {
	t.Parallel()
	at := func(mod int64, keys ...string) (events []entry) {
		for _, key := range keys {
			events = append(events, entry{key: key, mod: mod})
		}
		return events
	}
	type response struct {
		events   []entry
		fragment bool
	}
	for _, tt := range []struct {
		name      string
		responses []response
		want      []string
	}{
		{"joined", []response{{events: slices.Concat(at(2, "a"), at(3, "b", "c"), at(5, "d"))}}, []string{"2a", "3bc", "5d"}},
		{"cut", []response{{at(2, "a"), true}, {at(2, "b"), true}, {at(2, "c"), false}}, []string{"2abc"}},
		{"cut and joined", []response{{slices.Concat(at(2, "a"), at(3, "b")), true}, {slices.Concat(at(3, "c"), at(4, "d")), false}}, []string{"2a", "3bc", "4d"}},
		{"cut between revisions", []response{{at(2, "a"), true}, {at(3, "b"), false}}, []string{"2a", "3b"}},
		{"cut off", []response{{at(2, "a"), false}, {at(3, "b"), true}}, []string{"2a"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var group grouper
			var got []string
			for _, r := range tt.responses {
				group.add(r.events, r.fragment, time.Time{}, func(revision int64, events []entry, _ time.Time) {
					s := fmt.Sprint(revision)
					for _, e := range events {
						s += e.key
					}
					got = append(got, s)
				})
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("groups = %v, want %v", got, tt.want)
			}
		})
	}
}

// names and values that the property tests draw from.
var (
	someKeys   = []string{"backends/a", "backends/b", "backends/team/c", "backends/9", "directors/d", "health/a", "colours/red", "ack", "secret"}
	someValues = []string{good, better, best, bad, worse, `{"type":"round_robin","backends":["a"]}`, "sick", "17", ""}
)

func drawWrite(t *rapid.T) map[string]*string {
	return rapid.MapOfN(rapid.SampledFrom(someKeys), rapid.Custom(func(t *rapid.T) *string {
		if v := rapid.SampledFrom(someValues).Draw(t, "value"); v != "" {
			return &v
		}
		return nil
	}), 1, 5).Draw(t, "txn")
}

// TestChangesSumUpToAList: any puts, deletes and transactions, valid and invalid,
// cut into any responses, give what a new list of the same keyspace gives; and any
// list in between gives only the difference.
func TestChangesSumUpToAList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(rapid.Uint64().Draw(t, "seed"))
		for range rapid.IntRange(0, 5).Draw(t, "before") {
			m.write(drawWrite(t))
		}
		s, first := listed(t, m.snapshot())
		got := sum{}
		got.add(first)
		var group grouper
		var last int64
		stream := &modelStream{model: m, ctx: context.Background(), next: m.history.revision + 1, created: true}
		drain := func() {
			for {
				msg, ok, _ := stream.poll()
				if !ok {
					return
				}
				group.add(msg.events, msg.fragment, time.Time{}, func(revision int64, events []entry, _ time.Time) {
					if revision <= last {
						t.Fatalf("revision %d after %d", revision, last)
					}
					last = revision
					if change, ok := s.apply(revision, events); ok {
						got.add(change)
					}
				})
			}
		}
		for range rapid.IntRange(1, 20).Draw(t, "writes") {
			m.write(drawWrite(t))
			switch rapid.SampledFrom([]string{"", "", "drain", "relist"}).Draw(t, "then") {
			case "drain":
				drain()
			case "relist":
				h := m.snapshot()
				got.add(relisted(t, s, h))
				stream.next, stream.offset, group = h.revision+1, 0, grouper{}
			}
		}
		drain()
		fresh, _ := listed(t, m.snapshot())
		if diff := differ(got, fresh.sum()); diff != "" {
			t.Fatalf("changes, against a new list (-list +changes):\n%s", diff)
		}
		if s.size() != fresh.size() || s.rejected != fresh.rejected || s.ack != fresh.ack || s.ignored() != fresh.ignored() {
			t.Fatalf("counts: size %d, rejected %d, ack %d, ignored %d; a new list has %d, %d, %d, %d",
				s.size(), s.rejected, s.ack, s.ignored(), fresh.size(), fresh.rejected, fresh.ack, fresh.ignored())
		}
		if change := relisted(t, s, m.snapshot()); len(change.Puts)+len(change.Deletes) > 0 {
			t.Fatalf("a list of the same keyspace changes %+v", change)
		}
		if !slices.Equal(slices.Sorted(maps.Keys(s.others)), slices.Sorted(maps.Keys(fresh.others))) {
			t.Fatalf("other keys %v, a new list has %v", s.others, fresh.others)
		}
	})
}
