//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"roster/bench/internal/rig"
)

// arrival is how long held requests are given to come to their nodes before a put.
const arrival = 20 * time.Millisecond

// measureNodes measures a fleet of processes.
func (l *lab) measureNodes(ctx context.Context, o options, s scene) (r result, err error) {
	c, err := l.startCluster(ctx, s.name(), s.proxies)
	if err != nil {
		return r, err
	}
	defer c.end()
	if err := c.fill(ctx, o.backends, l.origin); err != nil {
		return r, err
	}
	nodes, clients, err := l.startNodes(ctx, c, s.nodes)
	defer func() {
		for _, n := range clients {
			n.conn.Close()
		}
	}()
	if err != nil {
		return r, err
	}
	version := 0
	for range 10 { // connections are made, caches are warm
		version++
		if _, err := l.served(ctx, c, clients, version); err != nil {
			return r, err
		}
	}
	err = paced(ctx, o.puts, o.every, func() error {
		version++
		t, err := l.served(ctx, c, clients, version)
		r.served = append(r.served, t.nodes...)
		r.all = append(r.all, t.all)
		r.acked = append(r.acked, t.acked)
		return err
	})
	if err != nil {
		return r, err
	}
	before, err := c.revision(ctx)
	if err != nil {
		return r, err
	}
	m := meter{c, nodes}
	err = m.perPut(ctx, &r, o.rest, o.puts, func() error {
		return paced(ctx, o.puts, o.every, func() error {
			version++
			_, err := c.put(ctx, l.origin, version)
			return err
		})
	})
	if err != nil {
		return r, err
	}
	after, err := c.revision(ctx)
	r.Presence = float64(after-before-int64(o.puts)) / float64(o.puts)
	r.EtcdMemory, r.ProxyMemory = resident(c.members), resident(c.proxies)
	return r, err
}

// paced calls f a number of times, each a pause after the one before began.
func paced(ctx context.Context, times int, every time.Duration, f func() error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for range times {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// startNodes starts nodes and a client of each.
func (l *lab) startNodes(ctx context.Context, c *cluster, count int) (nodes []*rig.Process, clients []*client, err error) {
	listen, admin, err := addresses(2 * count)
	if err != nil {
		return nil, nil, err
	}
	for i := range count {
		q, err := l.Start(rig.AnyCore, "node", l.roster, "node", "--etcd", strings.Join(c.nodes, ","), "--node-id", fmt.Sprintf("n%02d", i),
			"--listen", listen[i], "--admin", admin[i], "--min-revision-wait", fmt.Sprintf("%ds", int(patience.Seconds())), "--log-level", "warn")
		if err != nil {
			return nil, nil, err
		}
		nodes = append(nodes, q)
	}
	for i, q := range nodes {
		if err := q.Wait(ctx, func() error { return rig.Answers(ctx, "http://"+admin[i]+"/readyz") }); err != nil {
			return nodes, clients, err
		}
		n, err := dial(ctx, listen[i])
		if err != nil {
			return nodes, clients, err
		}
		clients = append(clients, n)
	}
	return nodes, clients, nil
}

// client is one connection to a node.
type client struct {
	address string
	conn    net.Conn
	in      *bufio.Reader
}

func dial(ctx context.Context, address string) (*client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return &client{address, conn, bufio.NewReader(conn)}, nil
}

// ask sends a request that is answered once the node serves by a revision or a later one.
func (n *client) ask(revision int64) error {
	n.conn.SetDeadline(time.Now().Add(2 * patience))
	_, err := fmt.Fprintf(n.conn, "GET / HTTP/1.1\r\nHost: %s\r\nX-Min-Revision: %d\r\n\r\n", host, revision)
	return err
}

// answer reads an answer, and returns the version of the definition that it shows.
func (n *client) answer() (shown string, err error) {
	resp, err := http.ReadResponse(n.in, nil)
	if err != nil {
		return "", fmt.Errorf("%s: %w", n.address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: %s", n.address, resp.Status, body)
	}
	return string(body), err
}

// taken is how long one put took.
type taken struct {
	nodes []time.Duration // until each node served it
	all   time.Duration   // until the last one did
	acked time.Duration   // until etcd answered
}

// served puts a version and returns when each node has served it.
func (l *lab) served(ctx context.Context, c *cluster, clients []*client, version int) (t taken, err error) {
	newest, err := c.revision(ctx)
	if err != nil {
		return t, err
	}
	for _, n := range clients {
		if err := n.ask(newest + 1); err != nil {
			return t, err
		}
	}
	if err := pause(ctx, arrival); err != nil {
		return t, err
	}
	var mu sync.Mutex
	want := label(version)
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for _, n := range clients {
		g.Go(func() error {
			for asked := newest + 1; ; {
				shown, err := n.answer()
				if err != nil {
					return err
				}
				if shown == want {
					break
				}
				// It has a newer revision that is not ours, but of a presence. Ours is later:
				// this one, or another that comes before it, is not.
				asked++
				if err := n.ask(asked); err != nil {
					return err
				}
			}
			mu.Lock()
			defer mu.Unlock()
			t.nodes = append(t.nodes, time.Since(began))
			return nil
		})
	}
	g.Go(func() error {
		_, err := c.put(gctx, l.origin, version)
		mu.Lock()
		defer mu.Unlock()
		t.acked = time.Since(began)
		return err
	})
	err = g.Wait()
	t.all = time.Since(began)
	return t, err
}
