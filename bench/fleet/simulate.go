//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"roster/node/presence"
	"roster/store"
	"roster/watcher"
)

// simulated is what a node does with etcd, without the rest of it.
type simulated struct {
	store    *store.Store
	watcher  *watcher.Watcher
	presence *presence.Keeper // nil: it only watches
	applied  atomic.Int64
	news     chan<- arrived
}

// arrived is a revision that a simulated node has taken in.
type arrived struct {
	revision int64
	at       time.Time
}

func simulate(c *cluster, id string, member bool, news chan<- arrived) (*simulated, error) {
	quiet := slog.New(slog.DiscardHandler)
	st, err := store.Open(store.Config{Endpoints: c.nodes, Logger: quiet})
	if err != nil {
		return nil, err
	}
	n := &simulated{store: st, news: news}
	if n.watcher, err = watcher.New(watcher.Config{Store: st, Logger: quiet}); err != nil {
		return nil, err
	}
	if member {
		started := time.Now()
		n.presence = presence.New(presence.Config{Store: st, Node: id, State: func() store.Presence {
			return store.Presence{ID: id, Version: "simulated", Level: store.Level, Started: started, Ready: true,
				Listen: []string{"127.0.0.1:8080"}, Admin: "127.0.0.1:6082", Revision: n.applied.Load(), Digest: "0123456789abcdef0123456789abcdef"}
		}})
	}
	return n, nil
}

func (n *simulated) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.watcher.Run(ctx) })
	if n.presence != nil {
		g.Go(func() error { return n.presence.Run(ctx) })
	}
	g.Go(func() error {
		for {
			change, err := n.watcher.Next(ctx)
			if err != nil {
				return nil // ctx has ended
			}
			n.applied.Store(change.Revision)
			if n.presence != nil {
				n.presence.Changed()
			}
			select {
			case n.news <- arrived{change.Revision, time.Now()}:
			case <-ctx.Done():
			}
		}
	})
	return g.Wait()
}

// starting is how many simulated nodes start at a time: all share this machine's cores, and
// etcd has to be quick enough for the first of them.
const starting = 50

// measureSimulated measures what etcd needs for nodes that are simulated.
func (l *lab) measureSimulated(ctx context.Context, o options, s scene, progress io.Writer) (r result, err error) {
	c, err := l.startCluster(ctx, s.name(), s.proxies)
	if err != nil {
		return r, err
	}
	defer c.end()
	if err := c.fill(ctx, o.backends, l.origin); err != nil {
		return r, err
	}
	r.EtcdBefore = resident(c.members)
	news := make(chan arrived, s.nodes)
	nctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	first := func(i int) error { // the list of one
		if _, err := next(ctx, news); err != nil {
			return fmt.Errorf("only %d of %d simulated nodes have started: %w", i, s.nodes, err)
		}
		return nil
	}
	for i := range s.nodes {
		n, err := simulate(c, fmt.Sprintf("sim-%05d", i), s.kind == members, news)
		if err != nil {
			return r, err
		}
		running.Go(func() {
			n.run(nctx) // it has no error of its own
			n.store.Close()
		})
		if i >= starting {
			if err := first(i - starting); err != nil {
				return r, err
			}
		}
	}
	for i := max(0, s.nodes-starting); i < s.nodes; i++ {
		if err := first(i); err != nil {
			return r, err
		}
	}
	version := 0
	put := func() error {
		version++
		began := time.Now()
		revision, err := c.put(ctx, l.origin, version)
		if err != nil {
			return err
		}
		r.acked = append(r.acked, time.Since(began))
		for i := 0; i < s.nodes; {
			a, err := next(ctx, news)
			if err != nil {
				return fmt.Errorf("put %d: %d of %d simulated nodes have it: %w", version, i, s.nodes, err)
			}
			if a.revision >= revision {
				i++
				r.served = append(r.served, a.at.Sub(began))
			}
		}
		r.all = append(r.all, time.Since(began))
		return nil
	}
	for range 3 {
		if err := put(); err != nil {
			return r, err
		}
	}
	r.acked, r.served, r.all = nil, nil, nil
	fmt.Fprintf(progress, "   %d are there, waiting for them to rest\n", s.nodes)
	if err := pause(ctx, l.settle); err != nil {
		return r, err
	}
	before, err := c.revision(ctx)
	if err != nil {
		return r, err
	}
	err = meter{c: c}.perPut(ctx, &r, o.rest, o.slowPuts, func() error {
		if err := paced(ctx, o.slowPuts, o.slowEvery, put); err != nil {
			return err
		}
		return pause(ctx, o.slowEvery) // what follows the last put is of it
	})
	if err != nil {
		return r, err
	}
	after, err := c.revision(ctx)
	r.Presence = float64(after-before-int64(o.slowPuts)) / float64(o.slowPuts)
	r.EtcdMemory, r.ProxyMemory = resident(c.members), resident(c.proxies)
	return r, err
}

// next is the next arrival.
func next(ctx context.Context, news <-chan arrived) (arrived, error) {
	select {
	case a := <-news:
		return a, nil
	case <-time.After(patience):
		return arrived{}, fmt.Errorf("nothing for %v", patience)
	case <-ctx.Done():
		return arrived{}, context.Cause(ctx)
	}
}
