package prober

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
	"time"
)

// Histories are those of all checks that have an answer, in no order, as of when each is
// yielded. Probing is not held up meanwhile.
func (m *Manager) Histories() iter.Seq2[Key, History] {
	return func(yield func(Key, History) bool) {
		m.mu.Lock()
		all := slices.Collect(maps.Values(m.byKey))
		m.mu.Unlock()
		for _, pr := range all {
			if h := pr.history.Load(); h.Probes > 0 && !yield(pr.check.key, *h) {
				return
			}
		}
	}
}

// A Seed is what another node knows of a check.
type Seed struct {
	// History has registers of at least one probe. Of its counts, Probes alone is used, and
	// none above 64; At is by this machine's clock.
	History History
	Peer    string // which node
}

// Seed has probers that are made from now on begin with what other nodes know of their
// checks, where that is not too old: see Check.Memory. Such a prober counts as answered. Its
// own first probe is at once all the same, and shifts the seed's registers. Probers that
// there are keep what they have: a seed never comes after an answer. The map is not to be
// changed any more; nil ends it.
func (m *Manager) Seed(seeds map[Key]Seed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seeds = seeds
}

// Seeded is how many probers began with what a node knew, by node.
func (m *Manager) Seeded() map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.seeded)
}

// Memory is how old a history may be to be a seed: three probes' time, but not below 10s,
// where a peer may have been busy, nor above 5m, in which much may have happened.
func (c *Check) Memory() time.Duration {
	round := min(c.Interval(), longest/4) + min(c.Timeout(), longest/4)
	return max(min(3*round, 5*time.Minute), 10*time.Second)
}

// beginning is the history that the first prober of a check starts with. It is called
// under mu.
func (m *Manager) beginning(c *Check) *History {
	s, ok := m.seeds[c.key]
	if !ok || s.History.Probes == 0 || time.Since(s.History.At) > c.Memory() {
		return &noHistory
	}
	h := s.History
	h.Probes = min(h.Probes, 64)
	h.GoodProbes = uint64(bits.OnesCount64(h.Happy))
	h.Seeded, h.Peer = h.Probes, s.Peer
	if m.seeded == nil {
		m.seeded = make(map[string]int)
	}
	m.seeded[s.Peer]++
	return &h
}
