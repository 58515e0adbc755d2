package prober

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"roster/pool"
	"roster/store"
)

var judge = Judge{Window: 8, Threshold: 3, Initial: 2}

// journal collects transitions.
type journal struct {
	mu  sync.Mutex
	all []Transition
}

func (l *journal) notify(t Transition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, t)
}

func (l *journal) take() []Transition {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.all
	l.all = nil
	return all
}

// 1,000 backends over 10 addresses with the same check are 10 probers, and the
// origins get the probes of 10.
func TestIdenticalChecksAreProbedOnce(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		var refs []*Ref
		for i := range 1000 {
			host := fmt.Sprintf("10.0.0.%d", i%10)
			n.at(host + ":80").does(good)
			probe := fmt.Sprintf(`{"window": %d, "threshold": 1}`, i%64+1)
			refs = append(refs, m.mustAcquire(t, check(t, host, probe), Use{Judge: JudgeOf(probeOf(t, probe))}))
		}
		if s := m.Stats(); s.Probers != 10 || s.Refs != 1000 {
			t.Errorf("%d probers and %d references, want 10 and 1000", s.Probers, s.Refs)
		}
		synctest.Wait()
		if got := n.total(); got != 10 {
			t.Errorf("%d probes at once, want 10", got)
		}
		time.Sleep(100 * 5 * time.Second)
		for address, p := range n.places {
			// The second comes within an interval, the others after one, 2 % more or less.
			if got := p.count(); got < 98 || got > 103 {
				t.Errorf("%s got %d probes in 100 intervals, want about 101", address, got)
			}
		}
		for _, r := range refs {
			if !r.Healthy() {
				t.Fatalf("%+v is sick", r.Snapshot())
			}
			if got := r.Snapshot().Users; got != 100 {
				t.Fatalf("%d references to a prober, want 100", got)
			}
		}
		for _, r := range refs {
			r.Release()
		}
	})
}

// The first probe of a prober is at once, the second within an interval, and each
// later one an interval after the end of the one before, two percent more or less.
func TestPace(t *testing.T) {
	t.Parallel()
	const interval, takes = 10 * time.Second, time.Second
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		start := time.Now()
		for i := range 50 {
			host := fmt.Sprintf("10.0.0.%d", i)
			n.at(host + ":80").does(func(c net.Conn) { good(c); time.Sleep(takes) })
			defer m.mustAcquire(t, check(t, host, `{"interval": "10s"}`), Use{Judge: judge}).Release()
		}
		time.Sleep(20 * interval)
		seconds := make(map[int64]int) // of the phase of the last probe
		for address, p := range n.places {
			times := p.times()
			if times[0] != start {
				t.Errorf("%s: first probe after %v, want at once", address, times[0].Sub(start))
			}
			for i := range times[1:] {
				gap := times[i+1].Sub(times[i]) - takes
				if i == 0 && (gap <= 0 || gap > interval) {
					t.Errorf("%s: second probe %v after the first, want within %v", address, gap, interval)
				}
				if i > 0 && (gap < interval*98/100 || gap > interval*102/100) {
					t.Errorf("%s: probe %d was %v after the one before, want %v and 2%%", address, i+2, gap, interval)
				}
			}
			seconds[int64(times[len(times)-1].Sub(start)/time.Second)%11]++
		}
		for s, count := range seconds {
			if count > 15 {
				t.Errorf("%d of 50 checks are probed in second %d of the period of 11: they march in step", count, s)
			}
		}
	})
}

// The longest interval and timeout that a definition may have are no overflow.
func TestPaceOfCenturies(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80").does(good)
		r := m.mustAcquire(t, check(t, "10.0.0.7", `{"interval": "106751d", "timeout": "106751d"}`), Use{Judge: judge})
		defer r.Release()
		time.Sleep(24 * time.Hour)
		if p.count() != 1 || !r.Healthy() {
			t.Errorf("%d probes in a day, healthy %v; want 1, true", p.count(), r.Healthy())
		}
		for n := range uint64(5) {
			if got := pause(m.node, Key{}, n, 106751*24*time.Hour) + 100*365*24*time.Hour; got < 0 {
				t.Errorf("pause %d ends at %v", n, got)
			}
		}
	})
}

// Two nodes do not probe a check at the same time, and one node does after a
// restart when it did before.
func TestPhasesDependOnNodeAndCheck(t *testing.T) {
	t.Parallel()
	seen := make(map[time.Duration]bool)
	for _, node := range []string{"a", "b"} {
		for _, host := range []string{"10.0.0.1", "10.0.0.2"} {
			key := check(t, host, `{}`).Key()
			m := New(Config{Node: node, Pools: newNetwork(t).pools()})
			first := pause(m.node, key, 1, 5*time.Second)
			if again := pause(New(Config{Node: node, Pools: m.config.Pools}).node, key, 1, 5*time.Second); again != first {
				t.Errorf("node %s, %s: %v and then %v", node, host, first, again)
			}
			seen[first] = true
		}
	}
	if len(seen) != 4 {
		t.Errorf("2 nodes and 2 checks have %d phases, want 4", len(seen))
	}
}

// What is acquired again while it is there costs no probe and loses no history.
func TestAcquireAgainKeepsHistory(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80").does(good)
		r := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Judge: judge})
		time.Sleep(30 * time.Second)
		before, history := p.count(), r.Snapshot().History
		for i := range 100 {
			c := CheckOf(decode[*store.Backend](t, store.Backends, fmt.Sprintf(`{"host": "10.0.0.7", "max_connections": %d}`, i)),
				probeOf(t, `{}`), pool.Deps{})
			next := m.mustAcquire(t, c, Use{Judge: judge})
			if !next.Healthy() {
				t.Fatal("sick, though the history is good")
			}
			r.Release()
			r = follows(t, next, c, judge)
			synctest.Wait()
		}
		if got := p.count(); got != before {
			t.Errorf("%d probes more", got-before)
		}
		if got := r.Snapshot().History; got != history {
			t.Errorf("history is %+v, was %+v", got, history)
		}
		r.Release()
	})
}

// After the last reference is gone there is no probe, the one under way is
// cancelled; a first one back starts at once, from nothing.
func TestLastReleaseEndsProbing(t *testing.T) {
	t.Parallel()
	for name, serve := range map[string]func(net.Conn){"asleep": good, "under way": silence} {
		bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
			p := n.at("10.0.0.7:80").does(serve)
			c := check(t, "10.0.0.7", `{"timeout": "1m"}`)
			a, b := m.mustAcquire(t, c, Use{Judge: judge}), m.mustAcquire(t, c, Use{Judge: judge})
			time.Sleep(time.Second)
			a.Release()
			synctest.Wait()
			if s := m.Stats(); s.Probers != 1 || s.Cancelled != 0 {
				t.Errorf("%s: with one of two references released: %+v", name, s)
			}
			b.Release()
			synctest.Wait()
			n.served.Wait() // the one under way has ended, at once
			if s := m.Stats(); s.Probers != 0 || s.Running != 0 || s.Waiting != 0 || m.schedule.asleep.Len() != 0 {
				t.Errorf("%s: with no reference left: %+v", name, s)
			}
			before := p.count()
			time.Sleep(time.Hour)
			if got := p.count(); got != before {
				t.Errorf("%s: %d probes after the last release", name, got-before)
			}
			p.does(good)
			back := m.mustAcquire(t, c, Use{Judge: judge})
			if back.Healthy() {
				t.Errorf("%s: healthy before its first answer", name)
			}
			synctest.Wait()
			if got := p.count(); got != before+1 || !back.Healthy() {
				t.Errorf("%s: %d probes at once, healthy %v; want 1, true", name, got-before, back.Healthy())
			}
			if got := back.Snapshot().Probes; got != 1 {
				t.Errorf("%s: a history of %d probes, want 1", name, got)
			}
			back.Release()
		})
	}
}

// A released reference whose probe just ends, and is acquired again, is another
// prober: what the old probe found is not its.
func TestCancelledProbeCountsForNobody(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80").does(silence)
		c := check(t, "10.0.0.7", `{}`)
		m.mustAcquire(t, c, Use{}).Release() // before its first probe
		old := m.mustAcquire(t, c, Use{Judge: judge})
		synctest.Wait()
		p.does(good)
		old.Release()
		r := m.mustAcquire(t, c, Use{Judge: judge})
		synctest.Wait()
		if s := m.Stats(); s.Bad != 0 || s.Good != 1 || s.Cancelled != 1 || s.Probers != 1 {
			t.Errorf("%+v, want one good and one cancelled", s)
		}
		r.Release()
	})
}

// A new backend is sick until its first good probe, unless initial says otherwise.
func TestNewBackendIsJudgedByInitial(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		judge                 Judge
		before, first, second bool // healthy
	}{
		{Judge{8, 3, 2}, false, true, true},
		{Judge{8, 3, 3}, true, true, true},
		{Judge{8, 3, 0}, false, false, false},
		{Judge{8, 3, 1}, false, false, true},
		{Judge{1, 1, 0}, false, true, true},
		{Judge{1, 1, 1}, true, true, true},
		{Judge{64, 64, 63}, false, true, true},
		{Judge{64, 64, 64}, true, true, true},
		{Judge{64, 64, 0}, false, false, false},
	} {
		bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
			n.at("10.0.0.7:80").does(func(c net.Conn) { time.Sleep(time.Second); good(c) })
			r := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Judge: row.judge})
			defer r.Release()
			for i, want := range []bool{row.before, row.first, row.second} {
				if r.Healthy() != want {
					t.Errorf("%+v: healthy %v after %d good probes, want %v", row.judge, !want, i, want)
				}
				for r.Snapshot().Probes == uint64(i) {
					time.Sleep(time.Second)
				}
			}
		})
	}
}

// A backend whose initial says healthy is sick after its first bad probe, if that
// takes it below the threshold.
func TestNewBackendWithInitialGoesSick(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		n.at("10.0.0.7:80") // refuses
		var l journal
		all := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Name: "all", Judge: Judge{3, 3, 3}, Notify: l.notify})
		one := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Name: "one", Judge: Judge{3, 1, 1}, Notify: l.notify})
		defer all.Release()
		defer one.Release()
		if !all.Healthy() || !one.Healthy() {
			t.Error("sick at the start")
		}
		synctest.Wait()
		if all.Healthy() || !one.Healthy() {
			t.Errorf("after one bad probe: healthy %v and %v, want false and true", all.Healthy(), one.Healthy())
		}
		time.Sleep(time.Minute)
		got := l.take()
		if len(got) != 2 || got[0].Name != "all" || got[1].Name != "one" || got[0].Healthy || got[1].Healthy {
			t.Errorf("transitions %+v, want each to go sick once", got)
		}
	})
}

// Who joins a prober with a history is judged by it at once, by its own judge.
func TestJoiningBackendIsJudgedAtOnce(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80").does(good)
		c := check(t, "10.0.0.7", `{}`)
		defer m.mustAcquire(t, c, Use{Judge: judge}).Release()
		for m.Stats().Good < 4 {
			time.Sleep(time.Second)
		}
		p.does(bad)
		for m.Stats().Bad < 2 {
			time.Sleep(time.Second)
		}
		// 4 good, then 2 bad.
		for j, want := range map[Judge]bool{
			{8, 3, 2}: true, {2, 1, 0}: false, {3, 1, 0}: true, {8, 4, 0}: true, {8, 5, 0}: false, {8, 5, 1}: true,
			{8, 7, 6}: false, {6, 5, 5}: false, {7, 5, 5}: true, {1, 1, 1}: false,
		} {
			for _, carry := range []Verdict{Unjudged, Healthy, Sick} {
				r := m.mustAcquire(t, c, Use{Judge: j, Carry: carry})
				if r.Healthy() != want {
					t.Errorf("%+v over 4 good and 2 bad: healthy %v, want %v", j, !want, want)
				}
				r.Release()
			}
		}
	})
}

// When the check of a live backend changes, its verdict stays until the new prober
// has an answer of its own.
func TestVerdictIsCarriedOver(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name              string
		old, new          func(net.Conn)
		was, until, after bool
	}{
		{"healthy, and is", good, good, true, true, true},
		{"healthy, and is not", good, bad, true, true, false},
		{"sick, and is", bad, bad, false, false, false},
		{"sick, and is not", bad, good, false, false, true},
		{"healthy, and times out", good, silence, true, true, false},
	} {
		bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
			n.at("10.0.0.7:80").does(row.old)
			moved := n.at("10.0.0.7:81").does(func(c net.Conn) { time.Sleep(time.Second); row.new(c) })
			var l journal
			r := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Judge: judge, Notify: l.notify})
			defer func() { r.Release() }()
			time.Sleep(time.Minute)
			l.take()
			if r.Healthy() != row.was {
				t.Fatalf("%s: healthy %v at first", row.name, r.Healthy())
			}
			r = follows(t, r, check(t, "10.0.0.7:81", `{}`), judge)
			synctest.Wait()
			if s := r.Snapshot(); s.Healthy != row.until || !s.Carried || s.Probes != 0 || moved.count() != 1 {
				t.Errorf("%s: while the new prober has no answer: %+v, want healthy %v", row.name, s, row.until)
			}
			// Another judge, and another check again, change nothing before the answer.
			r = follows(t, r, check(t, "10.0.0.7:81", `{}`), Judge{8, 3, 3})
			if r.Healthy() != row.until {
				t.Errorf("%s: another judge made it %v", row.name, r.Healthy())
			}
			r = follows(t, r, check(t, "10.0.0.7:81", `{"interval": "6s"}`), judge)
			if r.Healthy() != row.until {
				t.Errorf("%s: another check made it %v", row.name, r.Healthy())
			}
			time.Sleep(2*time.Second + 1)
			if s := r.Snapshot(); s.Healthy != row.after || s.Carried || s.Probes != 1 {
				t.Errorf("%s: after the first answer: %+v, want healthy %v", row.name, s, row.after)
			}
			got := l.take()
			if changed := row.until != row.after; changed != (len(got) == 1) {
				t.Errorf("%s: transitions %+v", row.name, got)
			}
			if s := m.Stats(); s.Probers != 1 {
				t.Errorf("%s: %d probers, want 1", row.name, s.Probers)
			}
		})
	}
}

// A backend that had no probe, or is known by other means, brings its verdict.
func TestCarriedByUse(t *testing.T) {
	t.Parallel()
	for carry, want := range map[Verdict]bool{Healthy: true, Sick: false} {
		bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
			n.at("10.0.0.7:80").does(silence)
			r := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Judge: Judge{1, 1, 0}, Carry: carry})
			defer r.Release()
			synctest.Wait()
			if r.Healthy() != want {
				t.Errorf("carried %v: healthy %v", carry, r.Healthy())
			}
			time.Sleep(2 * time.Second)
			synctest.Wait()
			if r.Healthy() {
				t.Errorf("carried %v: healthy though its only probe was bad", carry)
			}
		})
	}
}

// A change of the judge alone judges the same history anew.
func TestChangeOfJudge(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80").does(good)
		c := check(t, "10.0.0.7", `{}`)
		r := m.mustAcquire(t, c, Use{Judge: judge})
		defer func() { r.Release() }()
		synctest.Wait()
		for j, want := range map[Judge]bool{{8, 2, 0}: false, {8, 1, 0}: true, {64, 64, 63}: true, {64, 64, 62}: false} {
			r = follows(t, r, c, j)
			if r.Healthy() != want {
				t.Errorf("%+v over one good probe: healthy %v, want %v", j, r.Healthy(), want)
			}
		}
		if p.count() != 1 {
			t.Errorf("%d probes, want 1", p.count())
		}
	})
}

// A transition says what decided it; each is told once, in order.
func TestTransitions(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		p := n.at("10.0.0.7:80").does(good)
		var l journal
		r := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Name: "web-1", Judge: Judge{4, 2, 1}, Notify: l.notify})
		quiet := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Judge: Judge{4, 2, 1}})
		time.Sleep(time.Minute)
		p.does(bad)
		time.Sleep(time.Minute)
		p.does(silence)
		time.Sleep(time.Minute)
		p.does(good)
		time.Sleep(time.Minute)
		got := l.take()
		want := []struct {
			healthy bool
			good    int
			stage   Stage
			text    string
		}{
			{true, 2, "", "HTTP/1.1 200 OK"},
			{false, 1, Status, "HTTP/1.1 500 Internal Server Error, want 200"},
			{true, 2, "", "HTTP/1.1 200 OK"},
		}
		if len(got) != len(want) {
			t.Fatalf("transitions %+v, want %d", got, len(want))
		}
		for i, w := range want {
			g := got[i]
			if g.Name != "web-1" || g.Ref != r || g.Healthy != w.healthy || g.Good != w.good || g.Stage != w.stage || g.Text != w.text {
				t.Errorf("transition %d is %+v, want %+v", i, g, w)
			}
			if i > 0 && !g.At.After(got[i-1].At) {
				t.Errorf("transition %d was at %v, not after the one before", i, g.At)
			}
		}
		if s := r.Snapshot(); s.Since != got[2].At {
			t.Errorf("since %v, want %v", s.Since, got[2].At)
		}
		if s := m.Stats(); s.WentHealthy != 4 || s.WentSick != 2 {
			t.Errorf("%d went healthy and %d sick, want 4 and 2", s.WentHealthy, s.WentSick)
		}
		quiet.Release()
		r.Release()
	})
}

// A released backend hears nothing more, even of what happened before.
func TestReleaseEndsNotify(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		n.at("10.0.0.7:80").does(good)
		hold := make(chan struct{})
		var l journal
		c := check(t, "10.0.0.7", `{}`)
		second := m.mustAcquire(t, c, Use{Judge: judge, Notify: l.notify})
		first := m.mustAcquire(t, c, Use{Judge: judge, Notify: func(Transition) { <-hold }})
		synctest.Wait()
		second.Release() // while first's is being told
		close(hold)
		if got := l.take(); len(got) != 0 {
			t.Errorf("%+v was told after Release", got)
		}
		first.Release()
	})
}

// Faults of this machine change no history and no verdict. They are counted,
// logged now and then, and the probe is made again within a second.
func TestLocalFaultsNeverCount(t *testing.T) {
	t.Parallel()
	for _, errno := range []syscall.Errno{syscall.EADDRNOTAVAIL, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS} {
		var lines lineCounter
		bubble(t, Config{Logger: lines.logger()}, func(t *testing.T, n *network, m *Manager) {
			p := n.at("10.0.0.7:80").does(good)
			c := check(t, "10.0.0.7", `{}`)
			r := m.mustAcquire(t, c, Use{Judge: judge})
			defer r.Release()
			time.Sleep(time.Minute)
			before, probes := r.Snapshot(), p.count()
			p.dialing(func(context.Context) error { return errno })
			time.Sleep(time.Minute + 1)
			s := r.Snapshot()
			if !s.Healthy || s.History != before.History {
				t.Errorf("%v: %+v, was %+v", errno, s.History, before.History)
			}
			made := uint64(p.count() - probes)
			if made < 54 || made > 61 || s.Local != made || m.Stats().Local != made {
				t.Errorf("%v: %d dials in a minute, %d and %d counted, want about 60", errno, made, s.Local, m.Stats().Local)
			}
			if got := lines.count(); got < 5 || got > 7 {
				t.Errorf("%v: %d lines in a minute, want 6", errno, got)
			}
			p.does(bad)
			time.Sleep(time.Minute)
			if r.Healthy() {
				t.Errorf("%v: still healthy after bad probes", errno)
			}
		})
	}
}

// Answered waits for the first answers of the probers there are, good or bad or
// timed out, and for no others.
func TestAnswered(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		if err := m.Answered(t.Context()); err != nil {
			t.Errorf("without probers: %v", err)
		}
		start := time.Now()
		n.at("10.0.0.1:80").does(good)
		n.at("10.0.0.2:80").does(bad)
		n.at("10.0.0.4:80").does(func(c net.Conn) { time.Sleep(time.Second); good(c) })
		n.at("10.0.0.5:80").does(silence)
		n.at("10.0.0.6:80").does(silence)
		var refs []*Ref
		for i := range 4 {
			refs = append(refs, m.mustAcquire(t, check(t, fmt.Sprintf("10.0.0.%d", i+1), `{}`), Use{Judge: judge}))
		}
		leaves := m.mustAcquire(t, check(t, "10.0.0.5", `{"timeout": "1h"}`), Use{Judge: judge})
		done := make(chan error, 1)
		go func() { done <- m.Answered(t.Context()) }()
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := m.Answered(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("with a context that ended: %v", err)
		}
		late := m.mustAcquire(t, check(t, "10.0.0.6", `{"timeout": "1h"}`), Use{Judge: judge})
		time.Sleep(1200 * time.Millisecond)
		select {
		case err := <-done:
			t.Errorf("returned %v before all had answered", err)
		default:
		}
		leaves.Release()
		if err := <-done; err != nil || time.Since(start) != 1300*time.Millisecond {
			t.Errorf("returned %v after %v, want nil after 1.3s", err, time.Since(start))
		}
		for i, want := range []bool{true, false, false, true} {
			if refs[i].Healthy() != want {
				t.Errorf("10.0.0.%d: healthy %v, want %v", i+1, !want, want)
			}
			refs[i].Release()
		}
		if len(m.waiters) != 0 {
			t.Errorf("%d waiters left", len(m.waiters))
		}
		late.Release()
	})
}

// Backends that never answer do not delay the probes of others, though there be
// more of them than probes may be under way.
func TestBlackHolesDelayNobody(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Concurrency: 20}, func(t *testing.T, n *network, m *Manager) {
		var refs []*Ref
		add := func(host string) {
			refs = append(refs, m.mustAcquire(t, check(t, host, `{}`), Use{Judge: judge}))
		}
		holes := 0
		addHole := func() {
			host := fmt.Sprintf("10.1.%d.%d", holes/250, holes%250)
			holes++
			n.at(host + ":80").dialing(blackHole)
			add(host)
		}
		for range 200 { // these come first, and get all the places once
			addHole()
		}
		time.Sleep(5 * time.Minute)
		for i := range 50 {
			host := fmt.Sprintf("10.0.0.%d", i)
			n.at(host + ":80").does(good)
			add(host)
		}
		synctest.Wait()
		m.mu.Lock()
		m.stats.Lateness = Lateness{}
		m.mu.Unlock()
		const intervals = 40
		start := time.Now()
		time.Sleep(intervals * 5 * time.Second)
		for i := range 50 {
			times := n.at(fmt.Sprintf("10.0.0.%d:80", i)).times()
			if times[0] != start {
				t.Errorf("10.0.0.%d: first probe %v late", i, times[0].Sub(start))
			}
			for k := range times[2:] {
				if gap := times[k+2].Sub(times[k+1]); gap > 5*time.Second*102/100 {
					t.Errorf("10.0.0.%d: a probe came %v after the one before", i, gap)
				}
			}
		}
		synctest.Wait()
		if s := m.Stats(); s.Running != 10 {
			t.Errorf("%d probes under way, want the 10 that may be slow", s.Running)
		}
		for i := range 200 { // 10 at a time, 2 s each: each about every 40 s
			if got := n.at(fmt.Sprintf("10.1.%d.%d:80", i/250, i%250)).count(); got < 8 {
				t.Errorf("black hole %d was probed %d times in 500 s: it starves", i, got)
			}
		}
		for _, r := range refs {
			r.Release()
		}
	})
}

// Healthy backends that go silent all at once hold the others up for a quarter of
// a second at most, as long as there are places for slow ones.
func TestBackendsThatFallSilentMoveOver(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Concurrency: 20}, func(t *testing.T, n *network, m *Manager) {
		var refs []*Ref
		for i := range 10 { // they take the places of quick ones
			host := fmt.Sprintf("10.1.0.%d", i)
			n.at(host + ":80").does(silence)
			refs = append(refs, m.mustAcquire(t, check(t, host, `{}`), Use{Judge: judge}))
		}
		synctest.Wait()
		start := time.Now()
		p := n.at("10.0.0.1:80").does(good)
		refs = append(refs, m.mustAcquire(t, check(t, "10.0.0.1", `{}`), Use{Judge: judge}))
		time.Sleep(time.Second)
		if times := p.times(); len(times) == 0 || times[0].Sub(start) != slowAfter {
			t.Errorf("probed at %v, want %v after %v", times, slowAfter, start)
		}
		if s := m.Stats(); s.Lateness.Max != slowAfter || s.Running != 10 {
			t.Errorf("%+v, want a lateness of %v", s, slowAfter)
		}
		for _, r := range refs {
			r.Release()
		}
	})
}

// However many checks begin or end at one moment, each has its place.
func TestThousandsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t)
		m := New(Config{Pools: n.pools(), Logger: silent, Concurrency: 16384})
		var refs []*Ref
		for i := range 3000 {
			host := fmt.Sprintf("10.0.%d.%d", i/250, i%250)
			n.at(host + ":80").does(good)
			if i%3 == 0 {
				n.at(host + ":80").does(silence)
			}
			refs = append(refs, m.mustAcquire(t, check(t, host, `{}`), Use{Judge: judge}))
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		start := time.Now()
		if err := m.Answered(ctx); err != nil || time.Since(start) != 2*time.Second {
			t.Errorf("answered after %v with %v, want the timeout of 2s", time.Since(start), err)
		}
		for i, r := range refs {
			if r.Healthy() != (i%3 != 0) {
				t.Fatalf("backend %d: healthy %v", i, r.Healthy())
			}
		}
		time.Sleep(time.Minute)
		cancel()
		<-ended
		s := m.Stats()
		if s.Running != 0 || s.Started != s.Good+s.Bad+s.Cancelled || s.Good < 11*2000 || s.Bad < 8*1000 {
			t.Errorf("after a minute: %+v", s)
		}
		for _, r := range refs {
			r.Release()
		}
	})
}

// At most Concurrency probes are under way, also at the start.
func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Concurrency: 8}, func(t *testing.T, n *network, m *Manager) {
		var mu sync.Mutex
		running, most := 0, 0
		var refs []*Ref
		for i := range 100 {
			host := fmt.Sprintf("10.0.0.%d", i)
			n.at(host + ":80").does(func(c net.Conn) {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				good(c)
				time.Sleep(time.Second)
				mu.Lock()
				running--
				mu.Unlock()
			})
			refs = append(refs, m.mustAcquire(t, check(t, host, `{}`), Use{Judge: judge}))
		}
		if err := m.Answered(t.Context()); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		if most != 8 {
			t.Errorf("%d probes at once, want 8", most)
		}
		mu.Unlock()
		for _, r := range refs {
			r.Release()
		}
	})
}

// A reference to something missing is an error, and leaves nothing behind.
func TestDanglingReferences(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		n.at("10.0.0.7:80").does(good)
		r := m.mustAcquire(t, check(t, "10.0.0.7", `{}`), Use{Judge: judge})
		synctest.Wait()
		for _, value := range []string{`{"host": "10.0.0.7", "via": "v"}`, `{"host": "10.0.0.7", "tls": {"certificate": "c"}}`, `{"none": true}`} {
			c := CheckOf(decode[*store.Backend](t, store.Backends, value), probeOf(t, `{}`), pool.Deps{})
			if _, err := m.Acquire(c, Use{Judge: judge}); err == nil {
				t.Errorf("%s: no error from Acquire", value)
			}
			if same, err := follow(r, c, judge); err == nil || same != r {
				t.Errorf("%s: no error for a change to it", value)
			}
			if _, err := Once(t.Context(), n.pools(), c); err == nil {
				t.Errorf("%s: no error from Once", value)
			}
		}
		if s := m.Stats(); s.Probers != 1 || s.Refs != 1 || !r.Healthy() {
			t.Errorf("%+v, want one prober and reference", s)
		}
		r.Release()
	})
}

// Run cancels what is under way, and returns when it is over; verdicts stay.
func TestRunEnds(t *testing.T) {
	t.Parallel()
	for name, deadline := range map[string]bool{"cancelled": false, "by a deadline": true} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			n.at("10.0.0.1:80").does(good)
			n.at("10.0.0.2:80").does(silence)
			n.at("10.0.0.3:80").dialing(blackHole)
			m := New(Config{Pools: n.pools(), Logger: silent})
			var refs []*Ref
			for _, host := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"} {
				refs = append(refs, m.mustAcquire(t, check(t, host, `{"timeout": "1m"}`), Use{Judge: Judge{8, 3, 3}}))
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if !deadline {
				ctx, cancel = context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
			}
			start := time.Now()
			if err := m.Run(ctx); err != nil || time.Since(start) != time.Second {
				t.Errorf("%s: returned %v after %v, want nil after 1s", name, err, time.Since(start))
			}
			n.served.Wait()
			if s := m.Stats(); s.Good != 1 || s.Bad != 0 || s.Cancelled != 2 {
				t.Errorf("%s: %+v, want one good and two cancelled", name, s)
			}
			for _, r := range refs {
				if !r.Healthy() {
					t.Errorf("%s: went sick by Run's end", name)
				}
				r.Release()
			}
			m.mustAcquire(t, check(t, "10.0.0.1", `{}`), Use{}).Release()
		})
	}
}

// Any sequence of acquiring, changing and releasing leaves exactly the probers
// that are referred to, each probed, and no others.
func TestProbersAreThoseReferredTo(t *testing.T) {
	t.Parallel()
	checks := make([]*Check, 6)
	for i := range checks {
		checks[i] = check(t, fmt.Sprintf("10.0.0.%d", i), `{}`)
	}
	rapid.Check(t, func(rt *rapid.T) {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(t)
			for i, serve := range []func(net.Conn){good, bad, silence, drip(okay, 30*time.Millisecond), nil} {
				n.at(checks[i].Address()).does(serve)
			}
			n.at(checks[5].Address()).dialing(blackHole)
			pools := n.pools()
			m := New(Config{Pools: pools, Logger: silent, Concurrency: 2})
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- m.Run(ctx) }()
			defer func() {
				cancel()
				<-ended
			}()

			var refs []*Ref
			want := make(map[*Ref]*Check)
			pick := func() *Ref {
				if len(refs) == 0 {
					rt.Skip("none")
				}
				return rapid.SampledFrom(refs).Draw(rt, "ref")
			}
			rt.Repeat(map[string]func(*rapid.T){
				"acquire": func(rt *rapid.T) {
					c := rapid.SampledFrom(checks).Draw(rt, "check")
					r := m.mustAcquire(t, c, Use{Judge: judge, Carry: Verdict(rapid.IntRange(0, 2).Draw(rt, "carry"))})
					refs = append(refs, r)
					want[r] = c
				},
				"release": func(rt *rapid.T) {
					r := pick()
					r.Release()
					refs = slices.DeleteFunc(refs, func(x *Ref) bool { return x == r })
					delete(want, r)
				},
				"change": func(rt *rapid.T) {
					r, c := pick(), rapid.SampledFrom(checks).Draw(rt, "check")
					was, had := r.Healthy(), r.Snapshot()
					delete(want, r)
					next, err := follow(r, c, judge)
					if err != nil {
						rt.Fatal(err)
					}
					refs[slices.Index(refs, r)] = next
					r = next
					if s := r.Snapshot(); s.Probes == 0 && s.Check.Key() != had.Check.Key() && s.Healthy != was {
						rt.Fatalf("the verdict %v was not carried over", was)
					}
					want[r] = c
				},
				"sleep": func(rt *rapid.T) {
					time.Sleep(time.Duration(rapid.IntRange(0, 20_000).Draw(rt, "ms")) * time.Millisecond)
				},
				"": func(rt *rapid.T) {
					synctest.Wait()
					keys := make(map[Key]int)
					for _, c := range want {
						keys[c.key]++
					}
					got := make(map[Key]int)
					for _, s := range m.List() {
						got[s.Check.Key()] = s.Users
					}
					if !maps.Equal(got, keys) {
						rt.Fatalf("probers with users %v, want %v", got, keys)
					}
					if pools.Pools() != len(keys) {
						rt.Fatalf("%d pools, want %d", pools.Pools(), len(keys))
					}
					m.mu.Lock()
					defer m.mu.Unlock()
					places := m.schedule.asleep.Len()
					for v := range 2 {
						places += m.schedule.waiting[v].n + m.schedule.running[v].n
					}
					if places != len(keys) {
						rt.Fatalf("%d probers in the schedule, want %d", places, len(keys))
					}
					for r := range want {
						h := r.pr.history.Load()
						if is := r.verdict(h); is != r.healthy.Load() {
							rt.Fatalf("the verdict is %v, want %v by %+v", r.healthy.Load(), is, h)
						}
					}
				},
			})
			for _, r := range refs {
				r.Release()
			}
			synctest.Wait()
			before := n.total()
			time.Sleep(time.Minute)
			if got := n.total(); got != before {
				rt.Fatalf("%d probes with nothing referred to", got-before)
			}
		})
	})
}

// All methods may be called from any goroutine.
func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Concurrency: 4}, func(t *testing.T, n *network, m *Manager) {
		var g sync.WaitGroup
		for i := range 8 {
			n.at(fmt.Sprintf("10.0.0.%d:80", i)).does([]func(net.Conn){good, bad, silence, nil}[i%4])
		}
		for i := range 8 {
			g.Go(func() {
				r := m.mustAcquire(t, check(t, fmt.Sprintf("10.0.0.%d", i), `{}`), Use{Judge: judge, Notify: func(t Transition) { t.Ref.Snapshot() }})
				for k := range 50 {
					time.Sleep(time.Duration(100*k+i) * time.Millisecond)
					next, err := follow(r, check(t, fmt.Sprintf("10.0.0.%d", (i+k)%8), `{}`), judge)
					if err != nil {
						t.Error(err)
					}
					r = next
					r.Healthy()
					r.Snapshot()
					m.List()
					m.Stats()
				}
				short, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				m.Answered(short)
				r.Release()
			})
		}
		g.Wait()
		if s := m.Stats(); s.Probers != 0 || s.Refs != 0 {
			t.Errorf("%+v, want nothing left", s)
		}
	})
}

func TestReleasingTwicePanics(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	m := New(Config{Pools: n.pools()})
	c := check(t, "10.0.0.7", `{}`)
	r := m.mustAcquire(t, c, Use{Judge: judge})
	r.Release()
	func() {
		defer func() {
			if recover() == nil {
				t.Error("Release after Release did not panic")
			}
		}()
		r.Release()
	}()
	if s := m.Stats(); s.Probers != 0 {
		t.Errorf("%+v, want no prober", s)
	}
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	if err := (Config{Concurrency: -1}).Validate(); err == nil || len(fmt.Sprint(err)) == 0 {
		t.Errorf("no error for missing pools and a negative concurrency")
	}
	for concurrency, want := range map[int]int{1: 2, 7: 7} {
		if got := (Config{Concurrency: concurrency}).withDefaults().Concurrency; got != want {
			t.Errorf("concurrency %d became %d, want %d", concurrency, got, want)
		}
	}
	if got := (Config{}).withDefaults().Concurrency; got < 2 || got > 16384 {
		t.Errorf("the default concurrency is %d", got)
	}
}

// follow is what an applier does when the check or the judge of a live backend
// changes: the next reference takes the verdict over. After an error r goes on.
func follow(r *Ref, c *Check, j Judge) (*Ref, error) {
	was := r.Snapshot()
	next, err := r.m.Acquire(c, Use{Name: r.name, Judge: j, Carry: VerdictOf(was.Healthy), Since: was.Since, Notify: r.notify})
	if err != nil {
		return r, err
	}
	r.Release()
	return next, nil
}

func follows(t *testing.T, r *Ref, c *Check, j Judge) *Ref {
	t.Helper()
	next, err := follow(r, c, j)
	if err != nil {
		t.Fatal(err)
	}
	return next
}
