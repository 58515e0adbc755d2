package store

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-multierror"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// AnyRevision as an IfRevision sets no condition.
const AnyRevision = -1

// An Op puts or deletes one key.
type Op struct {
	Key   Key
	Value []byte // nil deletes the key, if it is there; empty is a value

	// IfRevision is the mod revision that the key must have: the one it was read
	// at, so that nobody's change in between is lost. Zero means that it must
	// not exist, AnyRevision (or below) sets no condition.
	IfRevision int64

	Lease int64 // id of the lease that a put key ends with; 0 is none
}

// Put writes a key if it is at a revision, as in Op, and returns the revision
// it has now. The error is a *ConflictError if it is not, a *TooLargeError,
// ErrOutcomeUnknown, or what all methods may return.
func (s *Store) Put(ctx context.Context, key Key, value []byte, ifRevision int64) (rev int64, err error) {
	if value == nil {
		value = []byte{}
	}
	r, err := s.txn(ctx, []Op{{Key: key, Value: value, IfRevision: ifRevision}})
	if err != nil {
		return 0, failed("put", key, err)
	}
	return r.Header.Revision, nil
}

// Delete deletes a key if it is at a revision, as in Op, and says whether there
// was one. The revision is the one of the deletion, or etcd's newest if there
// was nothing to delete. Errors are Put's.
func (s *Store) Delete(ctx context.Context, key Key, ifRevision int64) (rev int64, existed bool, err error) {
	r, err := s.txn(ctx, []Op{{Key: key, IfRevision: ifRevision}})
	if err != nil {
		return 0, false, failed("delete", key, err)
	}
	return r.Header.Revision, r.Responses[0].GetResponseDeleteRange().Deleted > 0, nil
}

// failed says what could not be done to which key; a conflict names the key itself.
func failed(what string, key Key, err error) error {
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		return fmt.Errorf("store: %s: %w", what, err)
	}
	return fmt.Errorf("store: %s %s: %w", what, key, err)
}

// Apply does all of ops in one transaction, or nothing: all conditions hold at
// once, and nobody sees half of it. It returns the one revision of all of it,
// or etcd's newest if nothing changed. A key must not be in ops twice. Errors
// are Put's; of several conflicts all are reported, as a *multierror.Error.
func (s *Store) Apply(ctx context.Context, ops []Op) (rev int64, err error) {
	r, err := s.txn(ctx, ops)
	if err != nil {
		return 0, fmt.Errorf("store: apply %d keys: %w", len(ops), err)
	}
	return r.Header.Revision, nil
}

func (s *Store) txn(ctx context.Context, ops []Op) (*clientv3.TxnResponse, error) {
	var (
		conditions []clientv3.Cmp
		writes     []clientv3.Op
		finds      []clientv3.Op // what to read if a condition does not hold
		guarded    []Op          // of finds
		seen       = make(map[Key]bool, len(ops))
		bytes      int
	)
	for _, op := range ops {
		if seen[op.Key] {
			return nil, fmt.Errorf("%s is in it twice", op.Key)
		}
		seen[op.Key] = true
		path := s.path(op.Key)
		bytes += len(path) + len(op.Value)
		if op.Value == nil {
			writes = append(writes, clientv3.OpDelete(path))
		} else {
			writes = append(writes, clientv3.OpPut(path, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease))))
		}
		if op.IfRevision >= 0 {
			bytes += 2 * len(path)
			conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(path), "=", op.IfRevision))
			finds = append(finds, clientv3.OpGet(path, clientv3.WithKeysOnly()))
			guarded = append(guarded, op)
		}
	}
	size := TooLargeError{Keys: len(ops), Bytes: bytes}
	switch {
	case len(ops) > MaxTxnKeys:
		size.Limit, size.OfKeys = MaxTxnKeys, true
		return nil, &size
	case bytes > MaxTxnBytes: // more, in truth, with what is around them
		size.Limit = MaxTxnBytes
		return nil, &size
	}

	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	r, err := s.client.Txn(ctx).If(conditions...).Then(writes...).Else(finds...).Commit()
	switch {
	case err == nil && r.Succeeded:
		return r, nil
	case err == nil:
		return nil, conflicts(guarded, r.Responses)
	case errors.Is(err, rpctypes.ErrTooManyOps):
		size.OfKeys = true
		return nil, &size
	case errors.Is(err, rpctypes.ErrRequestTooLarge), strings.Contains(err.Error(), "message larger than max"): // etcd, gRPC
		return nil, &size
	}
	return nil, s.fault(ctx, c, err, true)
}

// conflicts compares what was asked for with what was found.
func conflicts(guarded []Op, found []*pb.ResponseOp) error {
	var errs []error
	for i, op := range guarded {
		var rev int64
		if kvs := found[i].GetResponseRange().GetKvs(); len(kvs) > 0 {
			rev = kvs[0].ModRevision
		}
		if rev != op.IfRevision {
			errs = append(errs, &ConflictError{op.Key, op.IfRevision, rev})
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return multierror.Append(nil, errs...)
}
