package watcher

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"roster/store"
)

// lonely runs f with a watcher that has saved what it knew, and begins anew while etcd is
// not there: two backends, and one whose newest value is invalid, under an older one.
func lonely(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newModel(5)
		m.write(pairs(backendA, good, backendB, good, "backends/c", good))
		m.put("backends/c", bad)
		b := newBench(m)
		b.run()
		defer func() { b.stop() }()
		settle()
		m.cut(true)
		b.reboot()
		synctest.Wait()
		if s := b.Status(); s.Keys != 0 {
			t.Fatalf("%d definitions at once, want none before etcd had its time", s.Keys)
		}
		pass(5 * time.Second)
		f(t, b)
	})
}

func TestWhatWasSavedIsTheFirstChangeWithoutEtcd(t *testing.T) {
	lonely(t, func(t *testing.T, b *bench) {
		if len(b.changes) != 1 {
			t.Fatalf("%d changes, want 1", len(b.changes))
		}
		c := b.changes[0]
		if !c.Resumed || !c.Listed || c.Revision != 3 || c.Touched != 3 || c.Cluster != 0xc1 || len(c.Puts) != 3 {
			t.Errorf("change = %+v, want the three keys of revision 3", c)
		}
		if s := b.Status(); s.Connected || !s.Resumed || s.Seen != 3 || s.Keys != 3 || s.Rejected != 1 || s.Cluster != 0xc1 || !s.Fresh.IsZero() {
			t.Errorf("status = %+v", s)
		}
		b.check(t, "from what was saved")
	})
}

func TestWhatDidNotChangeSinceItWasSavedIsInNoChange(t *testing.T) {
	lonely(t, func(t *testing.T, b *bench) {
		b.model.cut(false)
		pass(recovery)
		if s := b.Status(); len(b.changes) != 1 || !s.Connected || s.Resumed || s.Relists != 1 {
			t.Errorf("%d changes, status %+v, want one change and a list since", len(b.changes), s)
		}
		b.model.write(pairs(backendA, better))
		pass(time.Second)
		if len(b.changes) != 2 || len(b.changes[1].Puts) != 1 || b.changes[1].Listed {
			t.Errorf("changes = %+v, want one of one revision besides", b.changes)
		}
		b.check(t, "after a put")
	})
}

func TestWhatChangedSinceItWasSavedIsOneChange(t *testing.T) {
	lonely(t, func(t *testing.T, b *bench) {
		b.model.write(pairs(backendA, "", "backends/d", good))
		b.model.put(backendB, bad)
		b.model.compact(b.model.history.revision) // and what was before is told by nobody
		b.model.cut(false)
		pass(recovery)
		c := b.changes[len(b.changes)-1]
		if len(b.changes) != 2 || !c.Listed || c.Resumed || len(c.Deletes) != 1 || len(c.Puts) != 2 {
			t.Fatalf("changes = %+v, want one more, of b, d and without a", b.changes)
		}
		// b and c keep what they had, which etcd has no more.
		for _, name := range []string{backendB, "backends/c"} {
			if item := b.sum()[keyOf(t, name)]; item.Definition == nil || item.ModRevision != 2 || item.Rejected == nil || item.Value != good {
				t.Errorf("%s = %+v, want that of revision 2 in effect", name, item)
			}
		}
	})
}

func TestAnEmptyEtcdIsHeldAgainstWhatWasSaved(t *testing.T) {
	for name, h := range map[string]history{
		"another cluster":  {cluster: 0xc2, term: 2, revision: 50},
		"a lower revision": {cluster: 0xc1, term: 2, revision: 2},
		"a history like it": {cluster: 0xc1, term: 3, revision: 90, log: []entry{
			{key: "backends/other", create: 2, mod: 2, value: []byte(good)}, {key: "backends/other", mod: 3, gone: true}}},
	} {
		t.Run(name, func(t *testing.T) {
			lonely(t, func(t *testing.T, b *bench) {
				b.model.restart(h)
				b.model.cut(false)
				pass(recovery)
				s := b.Status()
				if s.Held == "" || len(b.sum()) != 3 {
					t.Fatalf("status = %+v, %d definitions, want the 3 held", s, len(b.sum()))
				}
				b.model.put("ack", fmt.Sprint(s.HeldRevision))
				pass(recovery)
				if len(b.sum()) != 0 {
					t.Errorf("%d definitions after the acknowledgement, want none", len(b.sum()))
				}
			})
		})
	}
}

// TestAnEmptyEtcdIsHeldAgainstWhatWasSavedAtOnce: where it answers at the start, as to a
// process that is started while others hold.
func TestAnEmptyEtcdIsHeldAgainstWhatWasSavedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newModel(5)
		m.write(pairs(backendA, good, backendB, good))
		b := newBench(m)
		b.run()
		defer func() { b.stop() }()
		settle()
		m.restart(history{cluster: 0xc2, term: 2, revision: 50})
		b.reboot()
		settle()
		if s := b.Status(); s.Held == "" || !s.Resumed || len(b.sum()) != 2 {
			t.Fatalf("status = %+v, %d definitions, want the 2 held", s, len(b.sum()))
		}
		m.put(backendA, better)
		pass(recovery)
		b.check(t, "after a put")
	})
}

func TestAnEmptyEtcdThatGoesOnFromWhatWasSavedIsTheTruth(t *testing.T) {
	lonely(t, func(t *testing.T, b *bench) {
		b.model.write(pairs(backendA, "", backendB, "", "backends/c", ""))
		b.model.cut(false)
		pass(recovery)
		b.check(t, "emptied")
		if n := len(b.sum()); n != 0 {
			t.Errorf("%d definitions, want none", n)
		}
	})
}

func TestOneOfAnotherClusterReplacesWhatWasSaved(t *testing.T) {
	lonely(t, func(t *testing.T, b *bench) {
		b.model.restart(history{cluster: 0xc2, term: 2, revision: 9, log: []entry{{key: backendA, create: 2, mod: 2, value: []byte(better)}}})
		b.model.cut(false)
		pass(recovery)
		b.check(t, "replaced")
		if c := b.changes[len(b.changes)-1]; c.Cluster != 0xc2 {
			t.Errorf("cluster = %x, want c2", c.Cluster)
		}
	})
}

// TestEtcdComesBeforeWhatWasSaved: what may be older is not shown where etcd answers.
func TestEtcdComesBeforeWhatWasSaved(t *testing.T) {
	for name, tt := range map[string]struct {
		begin   func(*model)
		after   time.Duration // until etcd is there
		resumed bool
	}{
		"at once":                 {begin: func(m *model) {}},
		"in the time that it has": {begin: func(m *model) { m.down = true }, after: 4 * time.Second},
		"too late":                {begin: func(m *model) { m.down = true }, after: 6 * time.Second, resumed: true},
		"black hole, too late":    {begin: func(m *model) { m.deaf = true }, after: 6 * time.Second, resumed: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				m := newModel(1)
				m.put(backendA, better)
				b := newBench(m)
				asked := 0
				b.begin(func() *Saved {
					asked++
					return &Saved{Cluster: 0xc1, Revision: 1, Items: nil}
				})
				tt.begin(m)
				b.run()
				pass(tt.after)
				m.change(func() { m.down, m.deaf = false, false })
				pass(recovery)
				if got := len(b.changes) > 0 && b.changes[0].Resumed; got != tt.resumed || (asked == 1) != tt.resumed {
					t.Errorf("resumed = %t, asked %d times, want %t", got, asked, tt.resumed)
				}
				b.check(t, "in the end")
				b.stop()
			})
		})
	}
}

// TestAListUnderWayIsWaitedFor: it takes longer than the time there is to begin, and is
// worth more than what was saved.
func TestAListUnderWayIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1)
		for i := range 12 {
			m.put(fmt.Sprintf("backends/w%d", i), good)
		}
		b := newBench(m)
		b.begin(func() *Saved { t.Error("asked for what was saved"); return nil })
		b.source = slow{m, 3 * time.Second}
		b.run()
		pass(20 * time.Second)
		b.check(t, "in the end")
		b.stop()
	})
}

// slow takes a while for each page.
type slow struct {
	*model
	pause time.Duration
}

func (s slow) page(ctx context.Context, from string, limit int, revision int64) (page, error) {
	select {
	case <-time.After(s.pause):
		return s.model.page(ctx, from, limit, revision)
	case <-ctx.Done():
		return page{}, ctx.Err()
	}
}

// TestNothingSavedIsAsWithoutIt: a file that cannot be used is asked for once.
func TestNothingSavedIsAsWithoutIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1)
		m.put(backendA, good)
		m.down = true
		b := newBench(m)
		asked := 0
		b.begin(func() *Saved { asked++; return nil })
		b.run()
		pass(time.Hour)
		if asked != 1 || len(b.changes) != 0 || b.Status().Resumed {
			t.Errorf("asked %d times, %d changes, want once and none", asked, len(b.changes))
		}
		m.cut(false)
		pass(recovery)
		b.check(t, "after etcd came")
		b.stop()
	})
}

// TestSavedValuesAreDecodedAnew: what was valid, or was not, to another release.
func TestSavedValuesAreDecodedAnew(t *testing.T) {
	t.Parallel()
	s := newState(store.Reject, true)
	c := s.resume(&Saved{Cluster: 1, Revision: 9, Touched: 9, Ack: 4, Items: []Item{
		{Key: keyOf(t, backendA), CreateRevision: 2, ModRevision: 3, Value: bad},
		{Key: keyOf(t, backendB), CreateRevision: 2, ModRevision: 3, Value: good, Rejected: &Rejection{Revision: 5, CreateRevision: 2, Value: better}},
		{Key: keyOf(t, "backends/c"), Rejected: &Rejection{Revision: 6, CreateRevision: 6, Value: worse}},
	}})
	if c.Ack != 4 || c.Touched != 9 || len(c.Puts) != 3 || s.rejected != 2 {
		t.Errorf("change = %+v, %d rejected", c, s.rejected)
	}
	a, b := c.Puts[0], c.Puts[1]
	if a.Definition != nil || a.Rejected == nil || a.Rejected.Revision != 3 {
		t.Errorf("a = %+v, want it rejected and nothing in its place", a)
	}
	if b.Definition == nil || b.Rejected != nil || b.ModRevision != 5 || b.Value != better {
		t.Errorf("b = %+v, want its newest value in effect", b)
	}
}

// TestASavedStateIsTheStateItWas: at any moment of any history.
func TestASavedStateIsTheStateItWas(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(1)
		s, first := listed(t, m.history)
		got, last := sum{}, first
		got.add(first)
		for range rapid.IntRange(1, 30).Draw(t, "writes") {
			before := len(m.history.log)
			revision := m.write(drawWrite(t))
			if len(m.history.log) == before {
				continue
			}
			if c, ok := s.apply(revision, m.history.log[before:]); ok {
				got.add(c)
				last = c
			}
		}
		saved := &Saved{Cluster: last.Cluster, Revision: last.Revision, Touched: last.Touched, Ack: last.Ack}
		for _, item := range got {
			saved.Items = append(saved.Items, item)
		}
		again := newState(store.Reject, true)
		c := again.resume(saved)
		sums := sum{}
		sums.add(c)
		if diff := differ(sums, s.sum()); diff != "" {
			t.Fatalf("saved (+) against what it was (-):\n%s", diff)
		}
		if again.rejected != s.rejected || len(again.keys) != len(s.keys) {
			t.Fatalf("%d rejected of %d, want %d of %d", again.rejected, len(again.keys), s.rejected, len(s.keys))
		}
		if c := relisted(t, again, m.history); len(c.Puts)+len(c.Deletes) > 0 {
			t.Fatalf("a list changes %+v, want nothing", c)
		}
	})
}
