package e2e_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"roster/e2e/harness"
)

// balancer sends clients to nodes whose /readyz answers 200.
type balancer struct {
	t     *testing.T
	nodes []*harness.Node

	mu    sync.Mutex
	ready []int
	downs []int // of each node, how often it was taken out
	next  int
}

func startBalancer(t *testing.T, nodes ...*harness.Node) *balancer {
	t.Helper()
	b := &balancer{t: t, nodes: nodes, downs: make([]int, len(nodes))}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() { b.follow(ctx, i, "http://"+n.AdminAddress()+"/readyz") })
	}
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	for i := range nodes {
		b.waitFor(i, true)
	}
	return b
}

// follow asks one node again and again.
func (b *balancer) follow(ctx context.Context, i int, url string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Second}
	for ctx.Err() == nil {
		ready := false
		if resp, err := client.Get(url); err == nil {
			resp.Body.Close()
			ready = resp.StatusCode == http.StatusOK
		}
		b.mu.Lock()
		at := slices.Index(b.ready, i)
		if ready && at < 0 {
			b.ready = append(b.ready, i)
		} else if !ready && at >= 0 {
			b.ready = slices.Delete(b.ready, at, at+1)
			b.downs[i]++
		}
		b.mu.Unlock()
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// waitFor waits until the balancer takes a node, or not.
func (b *balancer) waitFor(i int, takes bool) {
	b.t.Helper()
	harness.Until(b.t, "what the balancer knows", func() (bool, any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		return slices.Contains(b.ready, i) == takes, slices.Clone(b.ready)
	})
}

var errNoNode = errors.New("no node is ready")

// take is the next node in turn, and how often it was taken out before.
func (b *balancer) take() (node, downs int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ready) == 0 {
		return 0, 0, errNoNode
	}
	b.next++
	node = b.ready[b.next%len(b.ready)]
	return node, b.downs[node], nil
}

// client makes clients that the balancer sends to a node for each request. They open a
// connection for each, or keep one to each node, until that is taken out.
func (b *balancer) client(once bool) func() (func() error, func()) {
	return func() (func() error, func()) {
		conns := make([]*onceOnly, len(b.nodes))
		downs := make([]int, len(b.nodes))
		for i, n := range b.nodes {
			conns[i] = &onceOnly{network: "tcp", address: n.Address(), once: once}
		}
		call := func() error {
			i, down, err := b.take()
			if err != nil {
				return err
			}
			if downs[i] != down {
				downs[i] = down
				conns[i].close()
			}
			return conns[i].call()
		}
		return call, func() {
			for _, c := range conns {
				c.close()
			}
		}
	}
}

// Three nodes are restarted one after the other, behind a balancer that follows /readyz,
// and no request fails. With ROSTER_E2E_LONG this is done ten times.
func TestRollingRestartLosesNoRequest(t *testing.T) {
	t.Parallel()
	rounds := 1
	if harness.Long() {
		rounds = 10
	}
	etcd, web := startWeb(t)
	var nodes []*harness.Node
	for _, id := range []string{"one", "two", "three"} {
		nodes = append(nodes, harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: id, Args: []string{"--drain-delay", "3s"}}))
	}
	b := startBalancer(t, nodes...)
	c := startSwarm(t)
	c.add("keep-alive", 6, 20*time.Millisecond, b.client(false))
	c.add("keep-alive with pauses", 4, time.Second, b.client(false))
	c.add("a connection for each request", 6, 5*time.Millisecond, b.client(true))
	c.wait(1)
	for range rounds {
		for i, n := range nodes {
			before := web.Requests()
			if code := n.Terminate(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			n.Restart()
			b.waitFor(i, true)
			c.wait(2)
			if web.Requests() == before {
				t.Error("no request came to the backend")
			}
		}
	}
	c.end()
}
