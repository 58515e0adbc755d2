package store

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Acknowledge writes that the removals up to a revision were meant, so that nodes which
// hold them let go of them, and of an empty list. It returns the revision acknowledged in
// the end, which is higher if a later one is already. The error is a *FutureError if etcd
// has not come to the revision yet, ErrConflict if somebody else wrote the key meanwhile,
// or what all methods may return.
func (s *Store) Acknowledge(ctx context.Context, revision int64) (int64, error) {
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	path := s.prefix + "ack"
	was, err := s.client.Get(ctx, path)
	if err := s.fault(ctx, c, err, false); err != nil {
		return 0, fmt.Errorf("store: acknowledge: %w", err)
	}
	if now := was.Header.Revision; revision > now {
		return 0, fmt.Errorf("store: acknowledge: %w", &FutureError{Revision: revision, Now: now})
	}
	var mod int64
	for _, kv := range was.Kvs {
		mod = kv.ModRevision
		// Of one beyond the present, of a slip or of another history, nodes take what was the
		// present when it was written.
		if n, err := strconv.ParseInt(strings.TrimSpace(string(kv.Value)), 10, 64); err == nil && n >= revision && n <= was.Header.Revision {
			return n, nil
		}
	}
	r, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(path), "=", mod)).
		Then(clientv3.OpPut(path, strconv.FormatInt(revision, 10))).
		Commit()
	if err := s.fault(ctx, c, err, true); err != nil {
		return 0, fmt.Errorf("store: acknowledge: %w", err)
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("store: acknowledge: %w: the key ack was written meanwhile", ErrConflict)
	}
	return revision, nil
}

// FutureError says that a revision is not there yet.
type FutureError struct{ Revision, Now int64 }

func (e *FutureError) Error() string {
	return fmt.Sprintf("revision %d is in the future of etcd, which is at revision %d", e.Revision, e.Now)
}
