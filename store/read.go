package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// An Entry is one version of a key. Its value may be of no definition at all.
type Entry struct {
	Key            Key
	CreateRevision int64 // of the first version since the key was last absent
	ModRevision    int64 // of this version
	Version        int64 // 1 is the first since CreateRevision
	Lease          int64 // id of the lease that it ends with; 0 is none
	Value          []byte
}

// Get reads a key at a revision, 0 for the newest, and returns with it the
// newest revision of etcd. The error is ErrNotFound, ErrCompacted, ErrFuture,
// or what all methods may return.
func (s *Store) Get(ctx context.Context, key Key, rev int64) (Entry, int64, error) {
	r, err := s.get(ctx, s.path(key), clientv3.WithRev(rev))
	if err != nil {
		return Entry{}, 0, fmt.Errorf("store: get %s%s: %w", key, at(rev), err)
	}
	if len(r.Kvs) == 0 {
		return Entry{}, r.Header.Revision, fmt.Errorf("store: get %s%s: %w", key, at(rev), ErrNotFound)
	}
	return entry(key, r.Kvs[0]), r.Header.Revision, nil
}

// List reads all definitions of a kind, or of all kinds if it is empty, whose
// names begin with under, in the order of their keys, at a revision, 0 for the
// newest. All are of one revision, which it returns, however many pages they
// take. Keys that are no definitions are left out.
func (s *Store) List(ctx context.Context, kind Kind, under string, rev int64) ([]Entry, int64, error) {
	const restarts = 3
	for try := 0; ; try++ {
		entries, at, err := s.list(ctx, kind, under, rev)
		// At a revision of our own choice, compaction only means to choose again.
		if rev == 0 && errors.Is(err, ErrCompacted) && try < restarts {
			continue
		}
		if err != nil {
			what := "all definitions"
			if kind != "" {
				what = strings.TrimSuffix(string(kind)+"/"+under, "/")
			}
			return nil, 0, fmt.Errorf("store: list %s: %w", what, err)
		}
		return entries, at, nil
	}
}

// pageBytes is about how large a page is allowed to be, lest it takes longer
// than a request may.
const pageBytes = 4 << 20

func (s *Store) list(ctx context.Context, kind Kind, under string, rev int64) ([]Entry, int64, error) {
	from := s.prefix
	if kind != "" {
		from += string(kind) + "/" + under
	}
	end := clientv3.GetPrefixRangeEnd(from)
	var entries []Entry
	limit := min(s.page, 1000) // until we know how large values are
	for {
		r, err := s.get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(int64(limit)), clientv3.WithRev(rev))
		if err != nil {
			return nil, 0, err
		}
		if rev == 0 {
			rev = r.Header.Revision
		}
		if entries == nil {
			entries = make([]Entry, 0, r.Count)
		}
		bytes := 1
		for _, kv := range r.Kvs {
			bytes += len(kv.Key) + len(kv.Value)
			key, ok := ParseKey(string(kv.Key[len(s.prefix):]))
			if ok && key != SecretKey && strings.HasPrefix(key.Name, under) {
				entries = append(entries, entry(key, kv))
			}
		}
		if !r.More || len(r.Kvs) == 0 {
			return entries, rev, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
		limit = min(s.page, max(1, len(r.Kvs)*pageBytes/bytes))
	}
}

// History reads the versions of a key since it was last created, the newest
// (and current) one first, at most max if that is above 0. If compaction has
// left only some, it returns those with an error that is ErrCompacted. Each
// version takes one request.
func (s *Store) History(ctx context.Context, key Key, max int) ([]Entry, error) {
	e, _, err := s.Get(ctx, key, 0)
	if err != nil {
		return nil, err
	}
	versions := []Entry{e}
	for e.Version > 1 && (max <= 0 || len(versions) < max) {
		if e, _, err = s.Get(ctx, key, e.ModRevision-1); errors.Is(err, ErrCompacted) {
			return versions, fmt.Errorf("store: history of %s: the first %d versions are %w", key, versions[len(versions)-1].Version-1, ErrCompacted)
		} else if err != nil {
			return nil, err
		}
		versions = append(versions, e)
	}
	return versions, nil
}

func (s *Store) get(ctx context.Context, path string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, c, cancel := s.begin(ctx)
	defer cancel()
	r, err := s.client.Get(ctx, path, opts...)
	return r, s.fault(ctx, c, err, false)
}

// begin prepares the context of one request.
func (s *Store) begin(ctx context.Context) (context.Context, *call, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	c := &call{start: time.Now()}
	if s.unreachable < s.timeout {
		inTime, stop := ctx, cancel
		timer := time.AfterFunc(s.unreachable, func() { c.impatient(inTime, s.client.ActiveConnection(), stop) })
		cancel = func() {
			timer.Stop()
			stop()
		}
	}
	return context.WithValue(clientv3.WithRequireLeader(ctx), callKey{}, c), c, cancel
}

func entry(key Key, kv *mvccpb.KeyValue) Entry {
	return Entry{
		Key: key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision,
		Version: kv.Version, Lease: kv.Lease, Value: kv.Value,
	}
}

func at(rev int64) string {
	if rev == 0 {
		return ""
	}
	return fmt.Sprintf(" at revision %d", rev)
}
