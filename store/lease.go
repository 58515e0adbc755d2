package store

import (
	"context"
	"errors"
	"fmt"
	"time"

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
func (s *Store) KeepAlive(ctx context.Context, lease int64) (<-chan struct{}, error) {
	answers, err := s.client.KeepAlive(ctx, clientv3.LeaseID(lease))
	if err != nil {
		return nil, fmt.Errorf("store: keep a lease alive: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range answers { // they have to be taken
		}
	}()
	return ended, nil
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
