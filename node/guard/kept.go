package guard

import (
	"slices"
	"time"

	"roster/store"
	"roster/watcher"
)

// Kept is a backend that a guard holds.
type Kept struct {
	Item     watcher.Item
	Revision int64     // that removed it
	Since    time.Time // when
}

// Keeping is all that a guard holds, for another to go on with.
type Keeping struct {
	Revision int64  // of the newest change that it has taken in
	Most     int    // backends that were served before the first was held; 0: none is
	Held     []Kept // in no order
}

// Keeping is what the guard holds now. A nil one holds nothing.
func (g *Guard) Keeping() Keeping {
	if g == nil {
		return Keeping{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	k := Keeping{Revision: g.revision, Most: g.most, Held: make([]Kept, 0, len(g.held))}
	for name, r := range g.held {
		k.Held = append(k.Held, Kept{r.item(name), r.revision, r.since})
	}
	return k
}

// Resume takes in the first change where it is one that was saved (see
// [watcher.Change]), with what was held then: it is held on, below the same bar. It returns what is to be
// applied. On a nil Guard nothing is.
func (g *Guard) Resume(c watcher.Change, kept Keeping, now time.Time) watcher.Change {
	if g == nil {
		return c
	}
	c = g.Apply(c, now).Change
	g.mu.Lock()
	defer g.mu.Unlock()
	c.Puts = slices.Clone(c.Puts)
	at := make(map[store.Key]int, len(c.Puts))
	for i, item := range c.Puts {
		at[item.Key] = i
	}
	for _, k := range kept.Held {
		key := k.Item.Key
		if _, back := g.live[key.Name]; back || key.Kind != store.Backends || k.Item.Definition == nil || k.Revision <= c.Ack {
			continue
		}
		r := removed{live: live{k.Item.CreateRevision, k.Item.ModRevision, k.Item.Value, k.Item.Definition, k.Item.Warnings, false},
			revision: k.Revision, since: k.Since}
		if i, found := at[key]; found { // with an invalid value alone
			r.rejected = c.Puts[i].Rejected
			c.Puts[i] = r.item(key.Name)
		} else {
			c.Puts = append(c.Puts, r.item(key.Name))
		}
		g.hold(key.Name, r)
	}
	slices.SortFunc(c.Puts, func(a, b watcher.Item) int { return compare(a.Key, b.Key) })
	if len(g.held) > 0 {
		g.most = kept.Most
	}
	g.past = nil
	g.note(now)
	return c
}
