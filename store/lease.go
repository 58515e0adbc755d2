package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrNoLease: the lease has ended, and the keys under it with it.
var ErrNoLease = errors.New("the lease has ended")

// Grant makes a lease that ends after ttl unless it is kept alive. Etcd counts in
// seconds, so ttl is rounded up; and it has a least time, a few seconds at most, which
// may be longer.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (lease int64, err error) {
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	r, err := s.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err := s.fault(ctx, c, err, false); err != nil { // one more lease, for which nobody knows, is no harm
		return 0, fmt.Errorf("store: grant a lease: %w", err)
	}
	return int64(r.ID), nil
}

// Revoke ends a lease and deletes the keys under it. One that has ended is no error.
func (s *Store) Revoke(ctx context.Context, lease int64) error {
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	_, err := s.client.Revoke(ctx, clientv3.LeaseID(lease))
	if err := s.leaseFault(ctx, c, err, true); err != nil && !errors.Is(err, ErrNoLease) {
		return fmt.Errorf("store: revoke a lease: %w", err)
	}
	return nil
}

// KeepAlive keeps a lease alive until ctx ends. The channel is closed when that is so,
// or when the lease has ended: because etcd says so, or because etcd has not answered
// for its whole time.
func (s *Store) KeepAlive(ctx context.Context, lease int64) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ends := time.Now().Add(s.timeout) // until its time is known
		for ctx.Err() == nil && s.keepAlive(ctx, lease, &ends) && time.Now().Before(ends) {
			select {
			case <-ctx.Done():
			case <-time.After(keepAlivePause):
			}
		}
	}()
	return ended
}

// keepAlivePause is the time between two attempts to keep a lease alive.
const keepAlivePause = 500 * time.Millisecond

// keepAlive keeps a lease alive on one stream, asking three times in the lease's time, as
// etcd's client does, whose goroutines wake three times a second for that. It is true if
// another stream may do better; ends is until when the lease lives.
func (s *Store) keepAlive(ctx context.Context, lease int64, ends *time.Time) (again bool) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	stream, err := etcdserverpb.NewLeaseClient(s.client.ActiveConnection()).LeaseKeepAlive(ctx)
	for err == nil {
		late := time.AfterFunc(min(s.timeout, time.Until(*ends)), cancel)
		var answer *etcdserverpb.LeaseKeepAliveResponse
		if err = stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: lease}); err == nil {
			answer, err = stream.Recv()
		}
		late.Stop()
		if err != nil {
			break
		}
		if answer.TTL <= 0 {
			return false
		}
		ttl := time.Duration(answer.TTL) * time.Second
		*ends = time.Now().Add(ttl)
		select {
		case <-ctx.Done():
			return false
		case <-time.After(ttl / 3):
		}
	}
	return !errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound)
}

// LeaseTTL is how long a lease was granted for, and how long it lasts yet.
func (s *Store) LeaseTTL(ctx context.Context, lease int64) (granted, left time.Duration, err error) {
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	r, err := s.client.TimeToLive(ctx, clientv3.LeaseID(lease))
	if err := s.leaseFault(ctx, c, err, false); err != nil {
		return 0, 0, fmt.Errorf("store: time of a lease: %w", err)
	}
	if r.TTL < 0 {
		return 0, 0, fmt.Errorf("store: time of a lease: %w", ErrNoLease)
	}
	return time.Duration(r.GrantedTTL) * time.Second, time.Duration(r.TTL) * time.Second, nil
}

// leaseFault is fault, with ErrNoLease for a lease that has ended.
func (s *Store) leaseFault(ctx context.Context, c *call, err error, write bool) error {
	if errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound) {
		return ErrNoLease
	}
	return s.fault(ctx, c, err, write)
}
