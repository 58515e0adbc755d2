package watcher

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
)

// source is what the watcher needs of etcd. All reads are linearizable and fail
// if there is no leader.
type source interface {
	// page reads up to limit keys from the one named from on, "" for the first, at
	// revision, 0 for the newest.
	page(ctx context.Context, from string, limit int, revision int64) (page, error)
	// read reads keys, all at one revision, 0 for the newest; what is absent is nil.
	read(ctx context.Context, keys []string, revision int64) ([]*entry, header, error)
	// count counts the keys at a revision.
	count(ctx context.Context, revision int64) (int, error)
	// survey counts the keys and says whether any was touched after revision since.
	survey(ctx context.Context, since int64) (count int, touched bool, h header, err error)
	// watch opens a stream of the events from revision on. It waits for a connection
	// while ctx lasts, and the stream ends with ctx.
	watch(ctx context.Context, revision int64) (stream, error)
	// unreachable waits until etcd cannot be reached, and says why, or nil if ctx ends before.
	unreachable(ctx context.Context) error
}

// stream is one watch on one connection.
type stream interface {
	recv() (message, error) // blocks; one goroutine
	askProgress() error     // another
	endpoint() string
}

// header is what etcd says of itself with every answer.
type header struct {
	cluster  uint64 // 0: not told
	revision int64
	term     uint64
}

// page is a part of a list.
type page struct {
	header
	entries []entry
	next    string // where the next page begins; "" after the last
}

// message is one response on a stream.
type message struct {
	header
	events    []entry
	created   bool
	fragment  bool  // the last event's revision may go on in the next message
	compacted int64 // above 0: the events asked for were compacted away, up to here
	canceled  error // the watch has ended, and why
}

// progress says whether the message tells, without events, that all up to its
// revision have been sent.
func (m message) progress() bool {
	return len(m.events) == 0 && !m.created && m.canceled == nil && m.compacted == 0 && m.revision > 0
}

// etcd is the source over a real one.
type etcd struct {
	client  *clientv3.Client
	prefix  string
	tracked func(context.Context) (context.Context, func(error) error) // see store.Store
	lost    func(context.Context) error                                // its Unreachable
}

func (s etcd) unreachable(ctx context.Context) error { return s.lost(ctx) }

func (s etcd) page(ctx context.Context, from string, limit int, revision int64) (page, error) {
	ctx, explain := s.tracked(ctx)
	resp, err := s.client.Get(clientv3.WithRequireLeader(ctx), s.prefix+from,
		clientv3.WithRange(clientv3.GetPrefixRangeEnd(s.prefix)), clientv3.WithLimit(int64(limit)), clientv3.WithRev(revision))
	if err != nil {
		return page{}, explain(err)
	}
	p := page{header: headerOf(resp.Header), entries: make([]entry, 0, len(resp.Kvs))}
	for _, kv := range resp.Kvs {
		p.entries = append(p.entries, s.entry(kv))
	}
	if resp.More && len(p.entries) > 0 {
		p.next = p.entries[len(p.entries)-1].key + "\x00"
	}
	return p, nil
}

func (s etcd) read(ctx context.Context, keys []string, revision int64) ([]*entry, header, error) {
	gets := make([]clientv3.Op, len(keys))
	for i, key := range keys {
		gets[i] = clientv3.OpGet(s.prefix+key, clientv3.WithRev(revision))
	}
	ctx, explain := s.tracked(ctx)
	resp, err := s.client.Txn(clientv3.WithRequireLeader(ctx)).Then(gets...).Commit()
	if err != nil {
		return nil, header{}, explain(err)
	}
	if len(resp.Responses) != len(keys) {
		return nil, header{}, fmt.Errorf("etcd answered %d reads with %d results", len(keys), len(resp.Responses))
	}
	entries := make([]*entry, len(keys))
	for i, r := range resp.Responses {
		if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
			e := s.entry(kvs[0])
			entries[i] = &e
		}
	}
	return entries, headerOf(resp.Header), nil
}

func (s etcd) count(ctx context.Context, revision int64) (int, error) {
	ctx, explain := s.tracked(ctx)
	resp, err := s.client.Get(clientv3.WithRequireLeader(ctx), s.prefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithRev(revision))
	if err != nil {
		return 0, explain(err)
	}
	return int(resp.Count), nil
}

func (s etcd) survey(ctx context.Context, since int64) (int, bool, header, error) {
	ctx, explain := s.tracked(ctx)
	resp, err := s.client.Get(clientv3.WithRequireLeader(ctx), s.prefix, clientv3.WithPrefix(),
		clientv3.WithMinModRev(since+1), clientv3.WithKeysOnly(), clientv3.WithLimit(1))
	if err != nil {
		return 0, false, header{}, explain(err)
	}
	return int(resp.Count), len(resp.Kvs) > 0, headerOf(resp.Header), nil
}

func (s etcd) watch(ctx context.Context, revision int64) (stream, error) {
	ctx, explain := s.tracked(ctx)
	wc, err := pb.NewWatchClient(s.client.ActiveConnection()).Watch(clientv3.WithRequireLeader(ctx),
		grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return nil, explain(rpctypes.Error(err))
	}
	err = wc.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte(s.prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(s.prefix)),
		StartRevision: revision, ProgressNotify: true, Fragment: true,
	}}})
	if err != nil {
		return nil, rpctypes.Error(err)
	}
	return &etcdStream{etcd: s, wc: wc}, nil
}

func (s etcd) entry(kv *mvccpb.KeyValue) entry {
	return entry{key: string(kv.Key[len(s.prefix):]), create: kv.CreateRevision, mod: kv.ModRevision, value: kv.Value, leased: kv.Lease != 0}
}

type etcdStream struct {
	etcd
	wc pb.Watch_WatchClient
}

func (s *etcdStream) recv() (message, error) {
	resp, err := s.wc.Recv()
	if err != nil {
		return message{}, rpctypes.Error(err)
	}
	m := message{header: headerOf(resp.Header), created: resp.Created, fragment: resp.Fragment, compacted: resp.CompactRevision}
	if resp.Canceled {
		m.canceled = rpctypes.ErrCompacted
		if resp.CompactRevision == 0 {
			reason := errors.New(resp.CancelReason)
			if strings.HasSuffix(resp.CancelReason, rpctypes.ErrPermissionDenied.Error()) { // it comes as text
				reason = rpctypes.ErrPermissionDenied
			}
			m.canceled = fmt.Errorf("etcd canceled the watch: %w", reason)
		}
	}
	for _, e := range resp.Events {
		got := s.entry(e.Kv)
		got.gone = e.Type == mvccpb.Event_DELETE
		m.events = append(m.events, got)
	}
	return m, nil
}

func (s *etcdStream) askProgress() error {
	return rpctypes.Error(s.wc.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}))
}

func (s *etcdStream) endpoint() string {
	if p, ok := peer.FromContext(s.wc.Context()); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return ""
}

func headerOf(h *pb.ResponseHeader) header {
	return header{h.GetClusterId(), h.GetRevision(), h.GetRaftTerm()}
}
