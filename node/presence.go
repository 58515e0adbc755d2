package node

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"time"

	"roster/node/table"
	"roster/store"
	"roster/watcher"
)

const (
	// maxRejected bounds a list in a node's presence, as store.MaxLeaving does: every node
	// reads none of them, but etcd keeps them all.
	maxRejected = 20

	// settling is how long after a backend is drained or deleted a request may still come
	// to it that chose it before: it is about to take its slot.
	settling = time.Second
)

// drains are the names that operators say are to be drained.
type drains struct {
	mu    sync.Mutex
	names map[string]drain
}

// drain is what an operator says of one name.
type drain struct {
	since    time.Time // when it came in effect; zero while it is about to
	revision int64     // that wrote it last
}

// begin takes in a change that is about to be applied: whoever sees its revision in
// effect sees what it drains, too.
func (d *drains) begin(c watcher.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, item := range c.Puts {
		if def, ok := item.Definition.(*store.Health); !ok || def.State != store.Drain {
			continue
		}
		if d.names == nil {
			d.names = make(map[string]drain)
		}
		d.names[item.Key.Name] = drain{d.names[item.Key.Name].since, item.ModRevision}
	}
}

// end takes in a change that is in effect now.
func (d *drains) end(c watcher.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, key := range c.Deletes {
		if key.Kind == store.HealthKind {
			delete(d.names, key.Name)
		}
	}
	for _, item := range c.Puts {
		if item.Key.Kind != store.HealthKind {
			continue
		}
		name := item.Key.Name
		if def, ok := item.Definition.(*store.Health); !ok || def.State != store.Drain {
			delete(d.names, name)
		} else if d.names[name].since.IsZero() {
			d.names[name] = drain{now, item.ModRevision}
		}
	}
}

func (d *drains) all() map[string]drain {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.names)
}

// leaving describes the backends that are drained, and then those removed. more is how
// many did not fit into most: of those drained, the ones that were so first, for somebody
// may be waiting for the last, and an override stays when its backend is deleted.
func (n *Node) leaving(t *table.Table, most int) (list []store.Leaving, more int) {
	drained := n.drains.all()
	removed := n.applier.Left(settling)
	left := make(map[string]table.Left, len(removed))
	for _, l := range removed {
		left[l.Name] = l
	}
	add := func(l store.Leaving) {
		if len(list) < most {
			list = append(list, l)
		} else {
			more++
		}
	}
	for _, name := range slices.SortedFunc(maps.Keys(drained), func(a, b string) int {
		return cmp.Or(cmp.Compare(drained[b].revision, drained[a].revision), cmp.Compare(a, b))
	}) {
		since := drained[name].since
		l := store.Leaving{Name: name}
		switch slot, gone := t.Lookup(name), left[name]; {
		case slot != nil && slot.Director != nil:
			continue // it has no requests of its own
		case slot != nil && slot.Backend != nil:
			l.Active, l.Queued = slot.Backend.Runtime.Active(), slot.Backend.Runtime.Queued()
			if slot.Backend.Pool != nil {
				stats := slot.Backend.Pool.Stats()
				l.Connections = stats.Active + stats.Idle
			}
		default:
			l.Active, l.Queued = gone.Active, gone.Queued
			l.Connections = gone.Active // its pool has closed the others
		}
		l.Settled = !since.IsZero() && time.Since(since) >= settling
		add(l)
	}
	for _, gone := range removed {
		if _, ok := drained[gone.Name]; !ok {
			add(store.Leaving{Name: gone.Name, Active: gone.Active, Queued: gone.Queued, Connections: gone.Active,
				Settled: time.Since(gone.Since) >= settling})
		}
	}
	return list, more
}

// present is what the node's presence should say now.
func (n *Node) present() store.Presence {
	t := n.Table()
	p := store.Presence{
		ID: n.config.ID, Version: n.config.Version, Level: store.Level, Started: n.started,
		Revision: t.Revision(), Digest: t.Digest().String(),
		Listed: max(n.listed.Load(), n.watcher.Status().Listed),
		Ready:  n.Ready(), Draining: n.draining.Load(),
	}
	for _, addr := range n.serving {
		p.Listen = append(p.Listen, addr.String())
	}
	if n.admin != nil {
		if p.Admin = n.admin.String(); n.config.AdminAccess.Cert != "" {
			p.Admin = "https://" + p.Admin // what --admin takes
		}
	}
	if n.peers != nil {
		p.Peer = n.peers.address
	}
	for r := range t.Rejected() {
		if len(p.Rejected) == maxRejected {
			break
		}
		p.Rejected = append(p.Rejected, r.Key.String())
	}
	p.MoreRejected = t.Counts().Rejected - len(p.Rejected)
	p.Leaving, p.MoreLeaving = n.leaving(t, store.MaxLeaving)
	if h := n.held(n.watcher.Status()); h != nil {
		p.Held = &store.Held{Backends: h.Backends, Revision: h.Revision, Empty: h.List != ""}
		if p.Held.Empty {
			p.Held.Backends = t.Counts().Backends
		}
	}
	return p
}
