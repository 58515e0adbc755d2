package prober

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Snapshot is what a backend's reference has to say at one moment.
type Snapshot struct {
	Name    string
	Healthy bool
	Since   time.Time // of the verdict: when it last changed, or the reference was made
	// Carried: there is no answer yet, and the verdict is from before.
	Carried bool
	Judge   Judge
	Good    int // of the window
	Check   *Check
	// History is the check's. Its register of good probes is as this backend sees it:
	// those before the first are filled in.
	History
	Users  int    // references to this check
	Local  uint64 // probes that failed for a fault of this machine
	Active bool   // a probe is under way
}

// Snapshot returns the state of r. After Release it is that of before.
func (r *Ref) Snapshot() Snapshot {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	pr := r.pr
	s := Snapshot{
		Name: r.name, Healthy: r.healthy.Load(), Since: r.since, Judge: r.judge, Check: pr.check,
		History: *pr.history.Load(), Users: pr.users, Local: pr.local, Active: pr.busy,
	}
	s.Carried = s.Probes == 0 && r.carry != Unjudged
	s.Good = s.Judge.Good(s.Happy, s.Probes)
	s.Happy = s.Judge.Happy(s.Happy, s.Probes)
	return s
}

// Render is the state as Varnish's backend.list -p shows it, below a backend's own
// line: a line of numbers, then a row for each register that is not empty, that
// of good probes always; then how many of those another node made, and, if the last one
// was not good, why.
func (s *Snapshot) Render() string {
	var b strings.Builder
	fmt.Fprintf(&b, " Current states  good: %2d threshold: %2d window: %2d\n", s.Good, s.Judge.Threshold, s.Judge.Window)
	fmt.Fprintf(&b, "  Average response time of good probes: %.6f\n", s.Average.Seconds())
	fmt.Fprintf(&b, "  Oldest %s Newest\n", strings.Repeat("=", 50))
	for _, row := range s.Rows() {
		if row.Bits != 0 || row.Letter == 'H' {
			fmt.Fprintf(&b, "  %s %s\n", row, row.Label)
		}
	}
	if own := s.Probes - s.Seeded; s.Seeded > 0 && own < 64 {
		fmt.Fprintf(&b, "  The oldest %d are of %s, from before this node started\n", min(s.Seeded, 64-own), s.Peer)
	}
	if s.Stage != "" {
		fmt.Fprintf(&b, "  Last probe failed: %s: %s\n", s.Stage, s.Text)
	}
	return b.String()
}

// State is one check and its prober at one moment.
type State struct {
	Check   *Check
	History History
	Users   int           // references
	Local   uint64        // probes that failed for a fault of this machine
	Active  bool          // a probe is under way
	Due     time.Duration // until the next one, not above 0 if it is late or under way
}

// listed is how many states are taken at a time, so that probing is not held up.
const listed = 256

// List returns the state of all probers, in the order they were made in. It is not
// of one moment, as probing goes on meanwhile.
func (m *Manager) List() []State {
	m.mu.Lock()
	all := slices.Collect(maps.Values(m.byKey))
	m.mu.Unlock()
	slices.SortFunc(all, func(a, b *prober) int { return cmp.Compare(a.number, b.number) })
	states := make([]State, 0, len(all))
	for some := range slices.Chunk(all, listed) {
		m.mu.Lock()
		now := m.now()
		for _, pr := range some {
			if !pr.gone {
				states = append(states, State{
					Check: pr.check, History: *pr.history.Load(), Users: pr.users, Local: pr.local,
					Active: pr.busy, Due: pr.due - now,
				})
			}
		}
		m.mu.Unlock()
	}
	return states
}

// Stats are counts since the start, and how things stand.
type Stats struct {
	Probers, Refs    int
	Running, Waiting int // probes under way, and due but without a place

	Started                     uint64 // probes; ended ones are one of the next four
	Good, Bad, Local, Cancelled uint64
	WentHealthy, WentSick       uint64 // transitions

	Lateness Lateness // of the probes started
}

// Stats returns counts that belong together.
func (m *Manager) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Probers, s.Refs = len(m.byKey), m.refs
	for v := range m.schedule.running {
		s.Running += m.schedule.running[v].n
		s.Waiting += m.schedule.waiting[v].n
	}
	return s
}

// Lateness says how long after their time probes were started.
type Lateness struct {
	// Counts has the number of those up to each of LatenessBounds, and above the
	// one before; the last counts those above all.
	Counts [len(LatenessBounds) + 1]uint64
	Sum    time.Duration
	Max    time.Duration
}

// LatenessBounds are powers of two times a millisecond, up to 16 s.
var LatenessBounds = [...]time.Duration{
	1 * time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond, 8 * time.Millisecond, 16 * time.Millisecond,
	32 * time.Millisecond, 64 * time.Millisecond, 128 * time.Millisecond, 256 * time.Millisecond, 512 * time.Millisecond,
	1024 * time.Millisecond, 2048 * time.Millisecond, 4096 * time.Millisecond, 8192 * time.Millisecond, 16384 * time.Millisecond,
}

func (l *Lateness) add(d time.Duration) {
	i := 0
	for i < len(LatenessBounds) && d > LatenessBounds[i] {
		i++
	}
	l.Counts[i]++
	l.Sum += d
	l.Max = max(l.Max, d)
}

// Quantile returns a bound that a part q (0 to 1) of the probes was not later
// than; Max if it is above all bounds.
func (l *Lateness) Quantile(q float64) time.Duration {
	var total, seen uint64
	for _, n := range l.Counts {
		total += n
	}
	for i, n := range l.Counts {
		if seen += n; float64(seen) >= q*float64(total) && i < len(LatenessBounds) {
			return min(LatenessBounds[i], l.Max)
		}
	}
	return l.Max
}
