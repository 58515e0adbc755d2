package prober

import (
	"context"
	"fmt"
	"maps"
	"math/bits"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// seedOf is what a peer knows that has made n probes, the newest some time ago.
func seedOf(happy, n uint64, age time.Duration) Seed {
	return Seed{History{Happy: happy, Probes: n, GoodProbes: uint64(bits.OnesCount64(happy)), At: time.Now().Add(-age), Text: "a peer's"}, "peer"}
}

// A backend that a peer knows to be sick is sick from the start, whatever initial says, and
// one that it knows to be healthy is healthy; nobody waits for their own probes, which go on
// from there.
func TestSeededProberGoesOnFromIt(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		start := time.Now()
		n.at("10.0.0.1:80").does(func(c net.Conn) { time.Sleep(time.Second); good(c) })
		n.at("10.0.0.2:80").does(silence)
		sick, well, long := check(t, "10.0.0.1", `{}`), check(t, "10.0.0.2", `{}`), check(t, "10.0.0.2", `{"url": "/long"}`)
		m.Seed(map[Key]Seed{
			sick.Key(): seedOf(0, 5, time.Second),
			well.Key(): seedOf(0b111, 3, time.Second),
			long.Key(): seedOf(1<<63|0b111, 1_000_000, time.Second),
		})
		var l journal
		a := m.mustAcquire(t, sick, Use{Name: "a", Judge: judge, Notify: l.notify})
		b := m.mustAcquire(t, well, Use{Name: "b", Judge: judge, Notify: l.notify})
		c := m.mustAcquire(t, long, Use{Name: "c", Judge: judge, Notify: l.notify})
		m.Seed(nil)
		for _, r := range []*Ref{a, b, c} {
			defer r.Release()
		}
		if a.Healthy() || !b.Healthy() || !c.Healthy() {
			t.Errorf("healthy %v, %v, %v at the start, want false, true, true", a.Healthy(), b.Healthy(), c.Healthy())
		}
		if s := a.Snapshot(); s.Probes != 5 || s.Seeded != 5 || s.GoodProbes != 0 || s.Good != 2 || s.Peer != "peer" || s.Carried {
			t.Errorf("at the start: %+v", s)
		}
		if s := c.Snapshot(); s.Probes != 64 || s.Seeded != 64 || s.GoodProbes != 4 {
			t.Errorf("of a long history: %+v", s)
		}
		if got := m.Seeded(); !maps.Equal(got, map[string]int{"peer": 3}) {
			t.Errorf("seeded %v", got)
		}
		if err := m.Answered(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("answered: %v after %v, want at once", err, time.Since(start))
		}
		synctest.Wait()
		if n.total() != 3 {
			t.Errorf("%d probes at once, want 3", n.total())
		}
		time.Sleep(2*time.Second + 1)
		if s := a.Snapshot(); !s.Healthy || s.History.Probes != 6 || s.Seeded != 5 || m.byKey[sick.Key()].history.Load().Happy != 1 {
			t.Errorf("after a good probe: %+v, want the peer's window with one more, 3 good", s)
		}
		if s := b.Snapshot(); s.Probes != 4 || s.Good != 5 || s.Text == "a peer's" {
			t.Errorf("after a bad probe: %+v", s)
		}
		got := l.take()
		if len(got) != 1 || got[0].Name != "a" || !got[0].Healthy {
			t.Errorf("transitions %+v, want one, of a", got)
		}
		if s := m.Stats(); s.Good != 1 || s.Bad != 2 {
			t.Errorf("%+v: probes of a peer are none of this node", s)
		}
		for range 70 {
			time.Sleep(6 * time.Second)
		}
		if s := a.Snapshot(); s.Seeded != 5 || s.Probes < 64+5 || s.Good != 8 {
			t.Errorf("much later: %+v", s)
		}
	})
}

// The second probe comes within an interval, as without a seed: peers' phases do not meet.
func TestSeededProberKeepsItsPhase(t *testing.T) {
	t.Parallel()
	bubble(t, Config{Node: "n"}, func(t *testing.T, n *network, m *Manager) {
		c := check(t, "10.0.0.1", `{"interval": "1m"}`)
		p := n.at("10.0.0.1:80").does(good)
		m.Seed(map[Key]Seed{c.Key(): seedOf(0b1, 5, time.Second)})
		defer m.mustAcquire(t, c, Use{Judge: judge}).Release()
		time.Sleep(5 * time.Minute)
		if times := p.times(); times[1].Sub(times[0]) != pause(m.node, c.Key(), 1, time.Minute) {
			t.Errorf("second probe after %v", times[1].Sub(times[0]))
		}
	})
}

// What is too old, is of no probe, or comes to a check that is probed already is not used.
func TestSeedThatIsNotUsed(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		n.at("10.0.0.1:80").does(good)
		there := check(t, "10.0.0.1", `{}`)
		r := m.mustAcquire(t, there, Use{Judge: judge})
		defer r.Release()
		synctest.Wait()
		old, quick, empty := check(t, "10.0.0.1", `{"url": "/old"}`), check(t, "10.0.0.1", `{"url": "/quick", "interval": "100ms", "timeout": "100ms"}`), check(t, "10.0.0.1", `{"url": "/empty"}`)
		m.Seed(map[Key]Seed{
			there.Key(): seedOf(0, 64, 0),
			old.Key():   seedOf(0, 64, old.Memory()+1),
			quick.Key(): seedOf(0, 64, 10*time.Second),
			empty.Key(): {Peer: "peer"},
		})
		for i, c := range []*Check{there, old, quick, empty} {
			another := m.mustAcquire(t, c, Use{Judge: Judge{1, 1, 1}})
			if want := c != quick; another.Healthy() != want {
				t.Errorf("%d: healthy %v, want %v", i, !want, want)
			}
			defer another.Release()
		}
		if s := r.Snapshot(); !s.Healthy || s.Probes != 1 || s.Seeded != 0 {
			t.Errorf("%+v: a seed came after an answer", s)
		}
		if got := m.Seeded(); got["peer"] != 1 {
			t.Errorf("seeded %v, want the quick one", got)
		}
	})
}

// A prober without a seed is waited for, beside those with one.
func TestAnsweredWaitsForTheUnseeded(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		n.at("10.0.0.1:80").does(silence)
		n.at("10.0.0.2:80").does(func(c net.Conn) { time.Sleep(time.Second); good(c) })
		seeded := check(t, "10.0.0.1", `{"timeout": "1h"}`)
		m.Seed(map[Key]Seed{seeded.Key(): seedOf(0, 5, 0)})
		defer m.mustAcquire(t, seeded, Use{Judge: judge}).Release()
		defer m.mustAcquire(t, check(t, "10.0.0.2", `{}`), Use{Judge: judge}).Release()
		start := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if m.Answered(short) == nil {
			t.Error("answered, though one is not")
		}
		if err := m.Answered(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("answered: %v after %v, want after 1s", err, time.Since(start))
		}
	})
}

func TestMemory(t *testing.T) {
	t.Parallel()
	for probe, want := range map[string]time.Duration{
		`{}`: 21 * time.Second, `{"interval": "1s", "timeout": "1s"}`: 10 * time.Second,
		`{"interval": "1h"}`: 5 * time.Minute, `{"interval": "106751d", "timeout": "106751d"}`: 5 * time.Minute,
	} {
		if got := check(t, "10.0.0.1", probe).Memory(); got != want {
			t.Errorf("%s: %v, want %v", probe, got, want)
		}
	}
}

// Whatever a node has seen, another that begins with its history has its verdict, by each
// judge, and after the same answers still has; but for what a node that has forgotten
// cannot know, the first of more than 64.
func TestSeededVerdictIsThePeersVerdict(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		m := New(Config{Pools: newNetwork(t).pools(), Logger: silent})
		c := check(t, "10.0.0.1", `{}`)
		h := &noHistory
		probe := func(h *History) *History {
			o := &outcome{}
			if rapid.Bool().Draw(rt, "good") {
				o.saw = sawHappy
			}
			return h.next(o, time.Now())
		}
		for range rapid.IntRange(1, 100).Draw(rt, "probes before") {
			h = probe(h)
		}
		j := Judge{Window: rapid.Uint8Range(1, 64).Draw(rt, "window")}
		j.Threshold = rapid.Uint8Range(1, j.Window).Draw(rt, "threshold")
		j.Initial = rapid.Uint8Range(0, j.Threshold).Draw(rt, "initial")
		m.Seed(map[Key]Seed{c.Key(): {*h, "peer"}})
		r, err := m.Acquire(c, Use{Judge: j})
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Release()
		mine := r.pr.history.Load()
		if want := j.Healthy(h.Happy, h.Probes); r.Healthy() != want {
			rt.Fatalf("%+v: healthy %v over %b of %d, the peer's verdict is %v", j, !want, h.Happy, h.Probes, want)
		}
		for i := range rapid.IntRange(0, 70).Draw(rt, "probes after") {
			o := &outcome{}
			if rapid.Bool().Draw(rt, "good") {
				o.saw = sawHappy
			}
			h, mine = h.next(o, time.Now()), mine.next(o, time.Now())
			if a, b := j.Good(h.Happy, h.Probes), j.Good(mine.Happy, mine.Probes); a != b {
				rt.Fatalf("%+v: %d good after %d more, the peer's %d", j, b, i+1, a)
			}
		}
	})
}

func TestHistoriesAreThoseWithAnAnswer(t *testing.T) {
	t.Parallel()
	bubble(t, Config{}, func(t *testing.T, n *network, m *Manager) {
		want := map[Key]uint64{}
		for i := range 20 {
			host := fmt.Sprintf("10.0.0.%d", i)
			c := check(t, host, `{}`)
			n.at(host + ":80").does(silence)
			if i%2 == 0 {
				n.at(host + ":80").does(good)
				want[c.Key()] = 1
			}
			defer m.mustAcquire(t, c, Use{Judge: judge}).Release()
		}
		synctest.Wait()
		got := map[Key]uint64{}
		for key, h := range m.Histories() {
			got[key] = h.Happy
		}
		if !maps.Equal(got, want) {
			t.Errorf("%d histories, want the %d that have answered", len(got), len(want))
		}
		for range m.Histories() {
			break
		}
	})
}
