//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"roster/bench/internal/rig"
)

// opsLimit is how many operations a transaction may have; etcd's own default is 128.
const opsLimit = 4096

// changing is the backend that is put again and again, and the host that is routed to it.
const changing, host = "changing", "fleet.test"

// cluster is an etcd and what is in front of it, for one case.
type cluster struct {
	*rig.Processes
	members []*rig.Process
	proxies []*rig.Process
	nodes   []string // addresses for nodes: the proxies', or etcd's without any
	client  *clientv3.Client
}

// startCluster starts an etcd with a number of members, and proxies in front of it.
func (l *lab) startCluster(ctx context.Context, name string, proxies int) (*cluster, error) {
	c := &cluster{Processes: l.Processes}
	clients, peers, err := addresses(2 * l.members)
	if err != nil {
		return nil, err
	}
	var initial []string
	for i, peer := range peers {
		initial = append(initial, fmt.Sprintf("m%d=http://%s", i, peer))
	}
	for i := range l.members {
		args := []string{
			fmt.Sprintf("--name=m%d", i), "--data-dir=" + filepath.Join(l.Dir, fmt.Sprintf("%s-m%d", name, i)),
			"--listen-client-urls=http://" + clients[i], "--advertise-client-urls=http://" + clients[i],
			"--listen-peer-urls=http://" + peers[i], "--initial-advertise-peer-urls=http://" + peers[i],
			"--initial-cluster=" + strings.Join(initial, ","), fmt.Sprintf("--max-txn-ops=%d", opsLimit), "--log-level=error",
		}
		if !l.fsync {
			args = append(args, "--unsafe-no-fsync")
		}
		q, err := l.Start(rig.AnyCore, "etcd", l.etcd, args...)
		if err != nil {
			return nil, err
		}
		c.members = append(c.members, q)
	}
	for i, q := range c.members {
		if err := q.Wait(ctx, func() error { return rig.Answers(ctx, "http://"+clients[i]+"/health") }); err != nil {
			return nil, err
		}
	}
	c.nodes = clients
	if proxies > 0 {
		c.nodes = nil
	}
	for i := range proxies {
		address, err := rig.FreeAddress()
		if err != nil {
			return nil, err
		}
		q, err := l.Start(rig.AnyCore, "grpc-proxy", l.etcd, "grpc-proxy", "start", "--endpoints="+strings.Join(clients, ","),
			"--listen-addr="+address, "--advertise-client-url="+address, "--data-dir="+filepath.Join(l.Dir, fmt.Sprintf("%s-proxy%d", name, i)))
		if err != nil {
			return nil, err
		}
		if err := q.Wait(ctx, func() error { return rig.Answers(ctx, "http://"+address+"/health") }); err != nil {
			return nil, err
		}
		c.proxies, c.nodes = append(c.proxies, q), append(c.nodes, address)
	}
	c.client, err = clientv3.New(clientv3.Config{Endpoints: clients, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	return c, err
}

// end ends all that was started.
func (c *cluster) end() {
	if c.client != nil {
		c.client.Close()
	}
	c.Processes.End()
}

// addresses are n that are free, in two halves.
func addresses(n int) (first, second []string, err error) {
	for i := range n {
		address, err := rig.FreeAddress()
		if err != nil {
			return nil, nil, err
		}
		if i < n/2 {
			first = append(first, address)
		} else {
			second = append(second, address)
		}
	}
	return first, second, nil
}

// fill puts definitions that stay as they are, and the one that changes with its route.
func (c *cluster) fill(ctx context.Context, backends int, origin string) error {
	ops := []clientv3.Op{
		clientv3.OpPut("/roster/backends/"+changing, definition(origin, 0)),
		clientv3.OpPut("/roster/routes/"+changing, fmt.Sprintf(`{"match":{"host":%q},"backend":%q}`, host, changing)),
	}
	for i := range backends {
		ops = append(ops, clientv3.OpPut(fmt.Sprintf("/roster/backends/web-%06d", i), fmt.Sprintf(`{"host":"10.%d.%d.%d","port":8080}`, i>>16, i>>8&255, i&255)))
	}
	for len(ops) > 0 {
		n := min(len(ops), opsLimit)
		if _, err := c.client.Txn(ctx).Then(ops[:n]...).Commit(); err != nil {
			return fmt.Errorf("put definitions: %w", err)
		}
		ops = ops[n:]
	}
	return nil
}

// definition is the changing backend's: an origin that answers with the Host it was sent.
func definition(origin string, version int) string {
	address, port, _ := net.SplitHostPort(origin)
	n, _ := strconv.Atoi(port)
	return fmt.Sprintf(`{"host":%q,"port":%d,"host_header":%q,"override_host":true}`, address, n, label(version))
}

func label(version int) string { return fmt.Sprintf("v%d.test", version) }

// put puts a version of the changing backend and returns its revision.
func (c *cluster) put(ctx context.Context, origin string, version int) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := c.client.Put(ctx, "/roster/backends/"+changing, definition(origin, version))
	if err != nil {
		return 0, fmt.Errorf("put: %w", err)
	}
	return r.Header.Revision, nil
}

// revision is etcd's newest.
func (c *cluster) revision(ctx context.Context) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	r, err := c.client.Get(ctx, "/")
	if err != nil {
		return 0, fmt.Errorf("get etcd's revision: %w", err)
	}
	return r.Header.Revision, nil
}

// patience is how long anything may take that should take milliseconds.
const patience = time.Minute
