//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"roster/bench/internal/rig"
)

// startEtcd starts the etcd for all nodes: a node that does nothing else, on the core
// that is not measured.
func (l *lab) startEtcd(ctx context.Context) error {
	listen, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	if l.etcd, err = rig.FreeAddress(); err != nil {
		return err
	}
	admin, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	peer := []string{"node", "--listen", listen, "--admin", admin, "--data", l.path("etcd"), "--embedded-etcd-listen", l.etcd}
	q, err := l.Processes.Start(rig.OtherCore, "etcd", l.roster, peer...)
	if err != nil {
		return err
	}
	return q.Wait(ctx, func() error { return rig.Answers(ctx, "http://"+admin+"/readyz") })
}

// startRoster starts a node with definitions of its own.
func (l *lab) startRoster(ctx context.Context, p *proxy, s scenario) error {
	prefix := "/" + strings.ReplaceAll(p.address, ":", "-") + "/"
	if err := l.put(ctx, append(definitions(prefix, p.origin, s, p.feature), p.feature.more(prefix)...)); err != nil {
		return err
	}
	admin, err := rig.FreeAddress()
	if err != nil {
		return err
	}
	args := []string{"node", "--etcd", l.etcd, "--prefix", prefix, "--admin", admin, "--log-level", "warn"}
	if s.tls {
		args = append(args, "--listen", "tls://"+p.address, "--tls-cert", l.pem, "--tls-key", l.pem)
	} else {
		args = append(args, "--listen", p.address)
	}
	args = append(args, p.feature.args(l, p)...)
	binary := l.roster
	if p.name == other {
		binary = l.other
	}
	if p.process, err = l.Processes.Start(rig.ProxyCore, p.name, binary, args...); err != nil {
		return err
	}
	return p.process.Wait(ctx, func() error { return rig.Answers(ctx, "http://"+admin+"/readyz") })
}

// definitions are keys and values for one backend with a route, or for a fleet.
func definitions(prefix, origin string, s scenario, f feature) (kvs [][2]string) {
	_, port, _ := net.SplitHostPort(origin)
	backend := func(name, address, match string) {
		kvs = append(kvs,
			[2]string{prefix + "backends/" + name, fmt.Sprintf(`{"host":%q,"port":%s,"max_connections":5000,"wait_limit":100,"wait_timeout":"1s"%s}`, address, port, f.backend)},
			[2]string{prefix + "routes/" + name, fmt.Sprintf(`{"match":{"host":%q},"backend":%q}`, match, name)})
	}
	if s.fleet == 0 {
		backend("origin", "127.0.0.1", "*.test")
		return append(kvs, [2]string{prefix + "routes/bench", fmt.Sprintf(`{"match":{"host":%q},%s}`, host, f.to())})
	}
	for i := range s.fleet {
		backend(fmt.Sprintf("b%d", i+1), s.fleetAddress(i+1), fleetHost(i+1))
	}
	return kvs
}

// put puts keys, as many at once as etcd takes.
func (l *lab) put(ctx context.Context, kvs [][2]string) error {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{l.etcd}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	const atOnce = 4096 // of roster's own etcd
	for len(kvs) > 0 {
		var ops []clientv3.Op
		for _, kv := range kvs[:min(len(kvs), atOnce)] {
			ops = append(ops, clientv3.OpPut(kv[0], kv[1]))
		}
		kvs = kvs[len(ops):]
		if _, err := c.Txn(ctx).Then(ops...).Commit(); err != nil {
			return fmt.Errorf("put definitions: %w", err)
		}
	}
	return nil
}

// buildRoster builds the binary, unless one is given.
func (l *lab) buildRoster(ctx context.Context, binary string) error {
	if binary == "" {
		binary = l.path("roster")
		if err := rig.Build(ctx, "roster/cmd/roster", binary); err != nil {
			return err
		}
	}
	var err error
	l.roster, err = filepath.Abs(binary)
	return err
}
