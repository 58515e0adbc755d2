package watcher

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"roster/store"
)

// recovery is how long after etcd's return everything must be right.
const recovery = 10 * time.Second

// bench is a watcher on a model, inside a synctest bubble, with a reader.
type bench struct {
	*Watcher
	model *model
	stop  func()

	mu      sync.Mutex
	got     sum
	changes []Change
	log     strings.Builder
	told    Status        // when Changed was called last
	pause   chan struct{} // nil: the reader reads; else it waits for one receive a change
}

func (b *bench) Write(line []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(line)
}

func newBench(m *model) *bench {
	b := &bench{model: m, got: sum{}}
	b.begin(nil)
	return b
}

// begin makes a watcher that has nothing yet but what was saved.
func (b *bench) begin(saved func() *Saved) {
	b.Watcher = newWatcher(Config{
		Logger: slog.New(slog.NewTextHandler(b, nil)), Values: true, Saved: saved,
		Changed: func() {
			s := b.Status()
			b.mu.Lock()
			defer b.mu.Unlock()
			b.told = s
		},
	}, b.model)
	b.pageSize, b.queue.limit = 3, 50
}

// saved is what the reader has done with, as somebody keeps it; nil before the first change.
func (b *bench) saved() *Saved {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.changes) == 0 {
		return nil
	}
	last := b.changes[len(b.changes)-1]
	s := &Saved{Cluster: last.Cluster, Revision: last.Revision, Touched: last.Touched, Ack: last.Ack}
	for _, item := range b.got {
		item.Definition, item.Warnings = nil, nil
		if r := item.Rejected; r != nil {
			item.Rejected = &Rejection{Revision: r.Revision, CreateRevision: r.CreateRevision, Value: r.Value}
		}
		s.Items = append(s.Items, item)
	}
	return s
}

// reboot ends the watcher, and another begins where it was, or as it does without that.
func (b *bench) reboot() {
	b.stop()
	if s := b.saved(); s != nil {
		b.begin(func() *Saved { return s })
	} else {
		b.begin(nil)
	}
	b.got, b.changes = sum{}, nil
	b.run()
}

// run starts the watcher and its reader; stop ends and joins them.
func (b *bench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() { b.Run(ctx) })
	all.Go(func() {
		for {
			c, err := b.Next(ctx)
			if err != nil {
				return
			}
			b.mu.Lock()
			b.changes = append(b.changes, c)
			b.got.add(c)
			b.mu.Unlock()
			if b.pause != nil {
				select {
				case <-b.pause:
				case <-ctx.Done():
				}
			}
		}
	})
	b.stop = func() { cancel(); all.Wait() }
}

func (b *bench) sum() sum {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.got
}

func (b *bench) lines(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.log.String(), s)
}

// known is what somebody knows of Status who looks at it when Changed is called.
func (b *bench) known() Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.told
}

// wrong says how the reader's sum differs from what etcd holds, "" if not at all.
func (b *bench) wrong() string {
	h := b.model.snapshot()
	fresh := newState(store.Reject, true)
	relisted(nil, fresh, h)
	return differ(b.sum(), fresh.sum())
}

func (b *bench) check(t *testing.T, when string) {
	t.Helper()
	if diff := b.wrong(); diff != "" {
		t.Fatalf("%s: against a new list (-list +changes):\n%s\n%s", when, diff, b.log.String())
	}
}

// inBubble runs f with a watcher on a model that holds two backends.
func inBubble(t *testing.T, f func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newModel(3)
		m.write(pairs(backendA, good, backendB, good))
		b := newBench(m)
		b.run()
		defer func() { b.stop() }()
		settle()
		b.check(t, "at the start")
		f(t, b)
	})
}

// settle lets pass what a connected watcher needs to catch up.
func settle() { pass(time.Second) }

// pass lets time pass in a bubble, and what is due be done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestTheFirstChangeIsTheListedState(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		c := b.changes[0]
		if len(b.changes) != 1 || len(c.Puts) != 2 || !c.Listed || c.Revision != 2 || c.Received.IsZero() {
			t.Errorf("changes = %+v, want one, listed, of revision 2 with two puts", b.changes)
		}
		s := b.Status()
		if !s.Connected || s.Seen != 2 || s.Keys != 2 || s.Relists != 0 || s.Endpoint == "" || s.Error != "" || s.Cluster != 0xc1 {
			t.Errorf("status = %+v", s)
		}
	})
}

func TestAnEmptyPrefixIsAChangeToo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(newModel(1))
		b.run()
		settle()
		if len(b.changes) != 1 || b.changes[0].Revision != 1 {
			t.Errorf("changes = %+v, want one, empty, of revision 1", b.changes)
		}
		b.model.put(backendA, good)
		settle()
		b.check(t, "after a put")
		b.stop()
	})
}

func TestStartingWithoutEtcdWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := newModel(1)
		m.put(backendA, good)
		m.down = true
		b := newBench(m)
		b.run()
		pass(time.Hour)
		if s := b.Status(); s.Connected || !strings.Contains(s.Error, errDown.Error()) {
			t.Errorf("status = %+v, want the error", s)
		}
		if n := b.lines("\n"); n != 1 {
			t.Errorf("%d lines logged in an hour, want 1:\n%s", n, b.log.String())
		}
		m.cut(false)
		pass(recovery)
		b.check(t, "after etcd came")
		b.stop()
	})
}

func TestFreshnessIsProvenEveryInterval(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*model)
	}{
		{"idle etcd", func(*model) {}},
		{"writes elsewhere", func(*model) {}},
		{"no answers to progress requests", func(m *model) { m.noAnswers = true }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.model.change(func() { tt.set(b.model) })
				pass(recovery)
				lists := b.model.lists
				for range 600 {
					if tt.name != "idle etcd" {
						b.model.elsewhere(3)
					}
					pass(time.Second)
					if age := time.Since(b.Status().Fresh); age > 9*time.Second {
						t.Fatalf("fresh %v ago", age)
					}
				}
				pass(recovery)
				if s := b.Status(); s.Seen != b.model.history.revision || s.Streams != 1 || !s.Connected {
					t.Errorf("status = %+v, want all of revision %d seen, on one stream", s, b.model.history.revision)
				}
				if n := len(b.changes); n != 1 {
					t.Errorf("%d changes, want none but the first", n)
				}
				if tt.name != "no answers to progress requests" && b.model.lists != lists {
					t.Errorf("%d lists, want none", b.model.lists-lists)
				}
				if asks := b.model.asks; asks < 80 || asks > 170 {
					t.Errorf("%d progress requests in 10 minutes, want about 120", asks)
				}
			})
		})
	}
}

func TestOneReadAtMostWhileProgressIsAnswered(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.model.elsewhere(1)
		settle()
		reads := b.model.reads
		pass(time.Hour)
		if got := b.model.reads - reads; got > 1 {
			t.Errorf("%d reads in an hour, want none", got)
		}
	})
}

// The first test of all: etcd's own client would resume after the revision it knows
// and stay mute, because the history it is given is shorter.
func TestRestoreToAnOlderRevision(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		old := b.model.snapshot()
		for range 50 {
			b.model.put(backendA, better)
		}
		b.model.put("backends/new", good)
		settle()
		b.check(t, "before")
		b.model.restart(old)
		pass(recovery)
		b.check(t, "after the restore")
		if s := b.Status(); s.Seen != old.revision || b.changes[len(b.changes)-1].Revision != old.revision {
			t.Errorf("status = %+v, want seen back at %d, as the last change", s, old.revision)
		}
		b.model.put(backendA, best)
		settle()
		b.check(t, "after a put into the restored history")
	})
}

func TestRestoreWithOtherValuesAtTheSameRevisions(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		old := b.model.snapshot()
		b.model.put(backendA, better)
		b.model.put(backendB, better)
		settle()
		b.check(t, "before")
		b.model.cut(true)
		b.model.restart(old)
		b.model.put(backendA, best) // the same create and mod revision, another value
		b.model.put(backendB, better)
		b.model.elsewhere(10)
		pass(time.Minute)
		b.model.cut(false)
		pass(recovery)
		b.check(t, "after the restore")
		if c := b.changes[len(b.changes)-1]; len(c.Puts) != 1 || c.Puts[0].Key.Name != "a" {
			t.Errorf("last change = %+v, want only what differs", c)
		}
	})
}

func TestRestoreThatChangesNothingOfOurs(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		old := b.model.snapshot()
		b.model.elsewhere(100)
		pass(recovery)
		b.model.restart(old)
		pass(recovery)
		c := b.changes[len(b.changes)-1]
		if len(b.changes) != 2 || len(c.Puts)+len(c.Deletes) != 0 || c.Revision != old.revision {
			t.Errorf("changes = %+v, want one more, of nothing but revision %d", b.changes, old.revision)
		}
		if s := b.Status(); s.Seen != old.revision {
			t.Errorf("seen = %d, want %d", s.Seen, old.revision)
		}
	})
}

func TestALowerTermIsAnotherHistory(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		h := b.model.snapshot()
		h.term--
		b.model.restart(h)
		pass(recovery)
		if s := b.Status(); s.Relists != 1 || len(b.changes) != 1 {
			t.Errorf("%d relists, %d changes, want one, and none but the first", s.Relists, len(b.changes))
		}
		h.term += 5
		b.model.restart(h)
		pass(recovery)
		if s := b.Status(); s.Relists != 1 {
			t.Errorf("%d relists after an election, want no other", s.Relists)
		}
	})
}

func TestRestoreThatOvertookTheRevisionSeen(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		old := b.model.snapshot()
		b.model.elsewhere(100) // nothing of ours was touched since the snapshot
		pass(recovery)         // and that was seen
		b.model.restart(old)
		b.model.cut(true)
		b.model.put(backendB, better) // below the revision seen
		b.model.elsewhere(200)
		b.model.cut(false)
		pass(recovery)
		b.check(t, "after the restore")
	})
}

// A restore after which a deployment ran again: what was touched last looks the same.
func TestRestoreThatRepeatsWhatTheMarksKnow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		other string // what differs in it
		value string
	}{
		{"a key more", "backends/aaa", better},
		{"another value of the same transaction", "backends/m00", better},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				old := b.model.snapshot()
				deploy := map[string]*string{}
				for i := range maxMarks - 1 {
					deploy[fmt.Sprintf("backends/m%02d", i)] = pairs("", good)[""]
				}
				b.model.write(deploy)
				settle()
				b.model.cut(true)
				b.model.restart(old)
				deploy[tt.other] = &tt.value
				b.model.write(deploy)
				b.model.cut(false)
				pass(recovery)
				b.check(t, "after the restore")
			})
		})
	}
}

func TestClusterReplaced(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		other := newModel(9)
		other.history.cluster = 0xc2
		other.elsewhere(1000)
		other.put(backendB, better)
		b.model.restart(other.history)
		pass(recovery)
		b.check(t, "after the replacement")
		if s := b.Status(); s.Cluster != 0xc2 || s.Held != "" {
			t.Errorf("status = %+v, want cluster c2", s)
		}
	})
}

func TestAnEmptyListIsHeld(t *testing.T) {
	for _, tt := range []struct {
		name    string
		cluster uint64
		writes  int64
		compact bool
		held    bool
	}{
		{"from another cluster", 0xc2, 1000, false, true},
		{"at a lower revision", 0xc1, 0, false, true},
		{"from the same cluster, wiped and written to beyond what was seen", 0xc1, 1000, false, true},
		{"from the same cluster at a higher revision, with nothing left to tell its history by", 0xc1, 1000, true, false},
	} {
		for _, release := range []string{"a key appears", "acknowledged"} {
			t.Run(tt.name+", "+release, func(t *testing.T) {
				inBubble(t, func(t *testing.T, b *bench) {
					empty := newModel(9)
					empty.history.cluster = tt.cluster
					empty.elsewhere(tt.writes)
					empty.put("secret", "s")
					if tt.writes == 0 {
						empty.history.revision = 1
						empty.history.log = nil
					}
					if tt.compact {
						empty.compact(tt.writes)
					}
					before := b.Status().Fresh
					b.model.restart(empty.history)
					pass(time.Hour)
					s := b.Status()
					if (s.Held != "") != tt.held || (len(b.sum()) == 2) != tt.held || s.Connected == tt.held {
						t.Fatalf("status = %+v with %d keys, want held %t", s, len(b.sum()), tt.held)
					}
					if !tt.held {
						b.check(t, "after the deletion")
						return
					}
					if told := b.known(); told.Held != s.Held || told.HeldRevision != s.HeldRevision {
						t.Errorf("known is %q, held is %q", told.Held, s.Held)
					}
					if s.Fresh.After(before.Add(time.Minute)) {
						t.Errorf("fresh at %v, an hour after etcd was lost", s.Fresh)
					}
					if n := b.lines("level=ERROR"); n != 1 {
						t.Errorf("%d errors logged, want 1:\n%s", n, b.log.String())
					}
					// What operators say of a backend's health does not make up for the backends.
					b.model.put("health/a", "drain")
					pass(recovery)
					if b.Status().Held == "" || len(b.sum()) != 2 {
						t.Fatal("an override of health released it")
					}
					if release == "acknowledged" {
						b.model.put("ack", fmt.Sprint(b.held.revision-1))
						pass(recovery)
						if len(b.sum()) != 2 {
							t.Fatal("an acknowledgement of an older revision released it")
						}
						b.model.put("ack", fmt.Sprint(b.held.revision))
					} else {
						b.model.put("backends/z", better)
					}
					pass(recovery)
					b.check(t, "after the release")
					if s := b.Status(); s.Held != "" || !s.Connected {
						t.Errorf("status = %+v, want released", s)
					}
				})
			})
		}
	}
}

// TestRegistrarsDoNotReleaseAnEmptyList: they put their backends again within seconds, and
// directors and routes would be gone. Where there was nothing but backends, all is there again.
func TestRegistrarsDoNotReleaseAnEmptyList(t *testing.T) {
	for _, besides := range []bool{true, false} {
		t.Run(fmt.Sprint("with a route: ", besides), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				if besides {
					b.model.put("routes/r", `{"backend": "a"}`)
					pass(recovery)
				}
				empty := newModel(9)
				empty.history.cluster = 0xc2
				b.model.restart(empty.history)
				pass(time.Minute)
				b.model.register("backends/z", good)
				pass(recovery)
				if s := b.Status(); (s.Held != "") != besides {
					t.Fatalf("status = %+v, want held %t", s, besides)
				}
				if besides {
					b.model.put("backends/a", good) // somebody, or roster apply
					pass(recovery)
				}
				b.check(t, "when definitions are put")
			})
		})
	}
}

// The secret, which nodes make by themselves, is nothing to keep an empty etcd waiting for.
func TestAnEmptyListIsNotHeldForTheSecret(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.model.del(backendA)
		b.model.del(backendB)
		b.model.put("secret", strings.Repeat("s", 32))
		pass(recovery)
		empty := newModel(9)
		empty.history.cluster = 0xc2
		b.model.restart(empty.history)
		pass(time.Minute)
		if s := b.Status(); s.Held != "" || s.Cluster != 0xc2 {
			t.Errorf("status = %+v, want cluster c2", s)
		}
	})
}

func TestOutage(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.model.cut(true)
		b.model.put(backendA, better)
		b.model.del(backendB)
		lost := time.Now()
		pass(time.Hour)
		s := b.Status()
		if s.Connected || s.Error == "" || s.Seen != 2 || s.Fresh.After(lost) || len(b.sum()) != 2 {
			t.Errorf("status = %+v with %d keys, want lost, and all kept", s, len(b.sum()))
		}
		b.model.cut(false)
		pass(recovery)
		b.check(t, "after the outage")
		if lists := b.model.lists; lists != 1 {
			t.Errorf("%d lists, want the first only", lists)
		}
		if b.lines("level=WARN") != 1 || b.lines("etcd is back") != 1 {
			t.Errorf("want one line for the loss and one for the return:\n%s", b.log.String())
		}
		if n := len(b.changes); n != 3 {
			t.Errorf("%d changes, want one for each revision", n)
		}
	})
}

func TestAnAcknowledgementOfNoRevisionIsToldOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		const line = "nothing is acknowledged"
		b.model.put("ack", "12a")
		pass(recovery)
		if b.lines(line) != 1 || b.lines(`is \"12a\", want a revision`) != 1 {
			t.Errorf("want one line that names the value:\n%s", b.log.String())
		}
		b.model.put(backendA, better)
		b.model.restart(b.model.history)
		pass(recovery)
		b.model.put("ack", "1")
		b.model.del("ack")
		pass(recovery)
		if n := b.lines(line); n != 1 {
			t.Errorf("%d lines, want none for the same value, a good one or a deletion:\n%s", n, b.log.String())
		}
		b.model.put("ack", "12a")
		pass(recovery)
		if n := b.lines(line); n != 2 {
			t.Errorf("%d lines, want one more for each time it is written", n)
		}
	})
}

func TestADeadConnectionIsNoticed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.model.elsewhere(1)
		pass(recovery)
		b.model.change(func() { b.model.deaf = true })
		b.model.put(backendA, better)
		pass(recovery)
		if s := b.Status(); s.Connected || time.Since(s.Fresh) < 9*time.Second {
			t.Errorf("status = %+v, want lost, fresh when it last was", s)
		}
		b.model.change(func() { b.model.deaf = false })
		pass(recovery)
		b.check(t, "afterwards")
	})
}

func TestCompactionWhileCutOff(t *testing.T) {
	for _, tt := range []struct {
		name string
		txn  map[string]*string
	}{
		{"nothing changed", nil},
		{"changed", pairs(backendA, better)},
		{"created", pairs("backends/c", good)},
		{"deleted", pairs(backendA, "")},
		{"created and deleted", pairs("backends/c", good, backendA, "")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.model.cut(true)
				b.model.write(tt.txn)
				b.model.elsewhere(100)
				b.model.compact(90)
				pass(time.Minute)
				b.model.cut(false)
				pass(recovery)
				b.check(t, "after the compaction")
				if got := b.Status().Relists; (got == 1) != (tt.txn != nil) {
					t.Errorf("%d relists, want one only if something had changed", got)
				}
				if got, want := b.known().Listed, b.model.history.revision; got != want {
					t.Errorf("listed = %d, want %d: what was done and undone meanwhile is in", got, want)
				}
				b.model.put(backendA, best)
				settle()
				b.check(t, "after a put")
			})
		})
	}
}

// Nodes write what Listed is, so that what they write must not move it.
func TestListedIsNotMovedByWhatOthersWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		before := b.Status().Listed
		if before == 0 {
			t.Fatal("listed = 0 after the first list")
		}
		for range 100 {
			b.model.elsewhere(1)
			pass(10 * time.Second)
		}
		b.model.put(backendA, best)
		settle()
		if s := b.Status(); s.Listed != before || s.Seen != b.model.history.revision {
			t.Errorf("listed = %d, seen = %d, want %d and %d", s.Listed, s.Seen, before, b.model.history.revision)
		}
	})
}

func TestDeletedWhileCutOff(t *testing.T) {
	for _, compacted := range []bool{true, false} {
		t.Run(fmt.Sprintf("compacted=%t", compacted), func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bench) {
				b.model.cut(true)
				revision := b.model.write(pairs(backendA, "", backendB, ""))
				if compacted {
					b.model.elsewhere(3)
					b.model.compact(revision + 1)
				}
				b.model.cut(false)
				pass(recovery)
				b.check(t, "after the deletion")
				if s := b.Status(); len(b.sum()) != 0 || s.Held != "" {
					t.Errorf("%d keys, status = %+v, want none, not held", len(b.sum()), s)
				}
			})
		})
	}
}

func TestASlowReaderStopsTheStreamAndLosesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bench) {
		b.stop()
		b.pause = make(chan struct{})
		b.Watcher = newWatcher(b.cfg, b.model)
		b.queue.limit = 50
		b.changes, b.got = nil, sum{}
		b.run()
		settle()
		first := b.model.history.revision
		for i := range 10 * b.queue.limit {
			b.model.put("health/"+string(rune('a'+i%20)), "sick")
		}
		pass(time.Hour)
		if got := b.queue.size; got > 2*b.queue.limit {
			t.Errorf("%d items queued, want at most about %d", got, b.queue.limit)
		}
		if s := b.Status(); s.Seen >= first || time.Since(s.Fresh) < time.Minute {
			t.Errorf("status = %+v, want nothing seen or fresh of what the reader was not given", s)
		}
		close(b.pause)
		pass(recovery)
		b.check(t, "after reading on")
		next := b.changes[0].Revision
		for _, c := range b.changes[1:] {
			if next++; c.Revision != next {
				t.Fatalf("revision %d, want %d", c.Revision, next)
			}
		}
		if s := b.Status(); s.Seen != b.model.history.revision {
			t.Errorf("seen %d, want %d", s.Seen, b.model.history.revision)
		}
	})
}

func TestSeenWaitsForTheReader(t *testing.T) {
	t.Parallel()
	q := newQueue()
	q.push(Change{Revision: 5})
	q.advance(9)
	if q.progress() != 0 {
		t.Errorf("seen = %d before the first change was read, want 0", q.progress())
	}
	q.next(t.Context())
	q.advance(10)
	if q.progress() != 0 {
		t.Errorf("seen = %d while the change is worked on, want 0", q.progress())
	}
	q.push(Change{Revision: 12})
	q.advance(14)
	q.next(t.Context())
	if q.progress() != 5 {
		t.Errorf("seen = %d with a change to go, want that of the one before, 5", q.progress())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := q.next(ctx); err != context.Canceled {
		t.Errorf("error = %v, want the context's", err)
	}
	if q.progress() != 14 {
		t.Errorf("seen = %d with nothing to do, want 14", q.progress())
	}
	q.push(Change{Revision: 16})
	q.list(17)
	if q.lists() != 0 {
		t.Errorf("listed = %d before what it changed was read, want 0", q.lists())
	}
	q.next(t.Context())
	q.next(ctx)
	if q.lists() != 17 {
		t.Errorf("listed = %d with nothing to do, want 17", q.lists())
	}
	q.advance(20)
	if q.progress() != 20 {
		t.Errorf("seen = %d with nothing to do, want 20", q.progress())
	}
}

func TestRetriesBackOff(t *testing.T) {
	t.Parallel()
	for attempt := range 40 {
		most := min(100*time.Millisecond<<min(attempt, 10), 2*time.Second)
		for range 20 {
			if d := backoff(100*time.Millisecond, 2*time.Second, attempt); d < most/2 || d > most {
				t.Errorf("attempt %d pauses %v, want %v to %v", attempt, d, most/2, most)
			}
		}
	}
}

func TestEveryFaultOfAConfigIsReported(t *testing.T) {
	t.Parallel()
	_, err := New(Config{ProofInterval: -1, ProofTimeout: -1, ListTimeout: -1, RetryMin: 2, RetryMax: 1})
	for _, want := range []string{"store is missing", "proof interval is -1ns", "proof timeout", "list timeout", "retry max"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error = %v, want %q in it", err, want)
		}
	}
}

// TestAnyHistory puts a watcher through random histories of etcd: writes, outages,
// compactions, restores and replacements. Within ten seconds of peace it must have
// what a new list gives, or hold an empty one for a reason.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.Uint64().Draw(rt, "seed")
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				do:    rapid.SampledFrom([]string{"write", "write", "write", "write", "cut", "blip", "elsewhere", "compact", "snapshot", "restore", "replace", "deaf", "proxy", "reboot"}).Draw(t, "do"),
				txn:   drawWrite(t),
				n:     rapid.Int64Range(1, 20).Draw(t, "n"),
				sleep: time.Duration(rapid.SampledFrom([]int{0, 0, 0, 50, 500, 3000, 12000}).Draw(t, "ms")) * time.Millisecond,
			}
		}), 1, 30).Draw(rt, "steps")
		var failure string
		synctest.Test(t, func(t *testing.T) { failure = anyHistory(seed, steps) })
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

type step struct {
	do    string
	txn   map[string]*string
	n     int64
	sleep time.Duration
}

func anyHistory(seed uint64, steps []step) string {
	m := newModel(seed)
	b := newBench(m)
	b.run()
	defer func() { b.stop() }()
	saved := m.snapshot()
	compacts, moved := false, false
	for i, s := range steps {
		switch s.do {
		case "write":
			m.write(s.txn)
		case "reboot":
			b.reboot()
		case "cut":
			m.cut(true)
		case "deaf":
			m.change(func() { m.deaf = true })
		case "proxy":
			m.change(func() { m.noAnswers = !m.noAnswers })
		case "blip":
			m.cut(false)
		case "elsewhere":
			m.elsewhere(s.n)
		case "compact":
			m.compact(m.snapshot().revision - s.n/4)
			compacts = true
		case "snapshot":
			saved = m.snapshot()
		case "restore":
			m.restart(saved)
			moved = true
		case "replace":
			m.restart(history{cluster: 0xc0 + uint64(i), term: 2, revision: s.n})
			moved = true
		}
		time.Sleep(s.sleep) // and no more: what is under way may go on
		if s.sleep < recovery {
			continue
		}
		m.change(func() { m.deaf = false })
		m.cut(false)
		pass(recovery)
		if wrong := b.judge(compacts, moved); wrong != "" {
			return fmt.Sprintf("after step %d: %s", i, wrong)
		}
	}
	m.change(func() { m.deaf = false })
	m.cut(false)
	pass(recovery)
	return b.judge(compacts, moved)
}

func (b *bench) judge(compacts, moved bool) string {
	synctest.Wait()
	status, h := b.Status(), b.model.snapshot()
	if status.Held != "" {
		listed := relisted(nil, newState(store.Reject, true), h).Puts
		listed = slices.DeleteFunc(listed, func(i Item) bool { return !counts(i.Key) })
		if len(listed) > 0 || !moved {
			return "held: " + status.Held
		}
		return ""
	}
	if !status.Connected {
		return "not connected: " + status.Error
	}
	if status.Seen != b.Watcher.seen || status.Seen > h.revision || time.Since(status.Fresh) > recovery {
		return fmt.Sprintf("seen %d of %d, fresh %v ago", status.Seen, h.revision, time.Since(status.Fresh))
	}
	full := h // as if nothing was ever compacted
	full.compacted = 0
	want := newState(store.Reject, true)
	relisted(nil, want, full)
	got := b.sum()
	if compacts { // an invalid key may have any valid version of its life, or none,
		// or what it had before a restore: it worked, and nothing else is left
		for key, item := range got {
			r, ok := want.keys[key]
			if !ok || r.rejection() == nil || item.Rejected == nil {
				continue
			}
			if v := h.version(key.String(), item.ModRevision); item.Definition == nil || moved || v != nil && v.create == r.create {
				r.mod, r.digest, r.value, r.definition = item.ModRevision, digest{}, item.Value, item.Definition
				r.rare = &rare{warnings: item.Warnings, rejection: r.rejection()}
				want.keys[key] = r
			}
		}
	}
	if diff := differ(got, want.sum()); diff != "" {
		return "against a new list (-list +changes):\n" + diff + b.log.String()
	}
	return ""
}

func (h history) version(key string, mod int64) *entry {
	for _, e := range h.log {
		if e.key == key && e.mod == mod && !e.gone {
			return &e
		}
	}
	return nil
}
