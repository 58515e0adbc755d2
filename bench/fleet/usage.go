//go:build linux

package main

import (
	"context"
	"time"

	"roster/bench/internal/rig"
)

// cost is CPU time by who used it: user and system, of all processes of a kind together.
type cost struct{ etcd, proxies, nodes time.Duration }

// meter reads what processes have used.
type meter struct {
	c     *cluster
	nodes []*rig.Process // none where they are simulated
}

func (m meter) read() (now cost, err error) {
	sum := func(all []*rig.Process) (sum time.Duration) {
		for _, q := range all {
			u, one := q.Usage()
			if one != nil {
				err = one
			}
			sum += u.Sum()
		}
		return sum
	}
	return cost{sum(m.c.members), sum(m.c.proxies), sum(m.nodes)}, err
}

// during is the CPU time used while f runs, and how long that was.
func (m meter) during(f func() error) (used cost, took time.Duration, err error) {
	before, err := m.read()
	if err != nil {
		return used, 0, err
	}
	began := time.Now()
	if err := f(); err != nil {
		return used, 0, err
	}
	took = time.Since(began)
	after, err := m.read()
	return cost{after.etcd - before.etcd, after.proxies - before.proxies, after.nodes - before.nodes}, took, err
}

// perPut fills in the CPU time at rest and that of a put: what it takes beyond that.
func (m meter) perPut(ctx context.Context, r *result, rest time.Duration, puts int, f func() error) error {
	still, stillFor, err := m.during(func() error { return pause(ctx, rest) })
	if err != nil {
		return err
	}
	busy, busyFor, err := m.during(f)
	if err != nil {
		return err
	}
	share := func(d time.Duration) float64 { return 100 * d.Seconds() / stillFor.Seconds() }
	each := func(still, busy time.Duration) float64 {
		return (busy.Seconds() - still.Seconds()*busyFor.Seconds()/stillFor.Seconds()) * 1e3 / float64(puts)
	}
	r.Rest = usage{share(still.etcd), share(still.proxies), share(still.nodes)}
	r.Put = usage{each(still.etcd, busy.etcd), each(still.proxies, busy.proxies), each(still.nodes, busy.nodes)}
	return nil
}

// pause waits, or returns why it was cut short.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// resident is the resident memory of processes together, in bytes.
func resident(all []*rig.Process) (sum int64) {
	for _, q := range all {
		sum += q.Resident()
	}
	return sum
}
