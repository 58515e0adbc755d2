package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// An Event is what a revision did to one key. Of a key that was deleted, by somebody or
// with its lease, the Entry has the Key and the ModRevision alone.
type Event struct {
	Entry
	Deleted bool
}

// A CompactedError says from which revision on etcd has its history yet. It is
// ErrCompacted.
type CompactedError struct{ Oldest int64 }

func (e *CompactedError) Error() string {
	return fmt.Sprintf("%v: etcd has what came after revision %d", ErrCompacted, e.Oldest)
}

// Is makes it ErrCompacted.
func (e *CompactedError) Is(target error) bool { return target == ErrCompacted }

// A Range is some definitions. The zero Range is all of them.
type Range struct {
	Kind Kind   // empty: all kinds
	Name string // of one, or, with a "/" at its end, of those below; empty: all of the kind
}

// within gives the first key of the range, and the end of it as etcd has it; "" for one
// key.
func (s *Store) within(r Range) (from, end string) {
	switch {
	case r.Kind == "":
		from = s.prefix
	case r.Name == "" || strings.HasSuffix(r.Name, "/"):
		from = s.prefix + string(r.Kind) + "/" + r.Name
	default:
		return s.path(Key(r)), ""
	}
	return from, clientv3.GetPrefixRangeEnd(from)
}

// Read reads a range at a revision, 0 for the newest, and returns with it the revision
// that it was read at. One key that is not there is no error. Errors are List's.
func (s *Store) Read(ctx context.Context, r Range, rev int64) ([]Entry, int64, error) {
	if _, end := s.within(r); end != "" {
		return s.List(ctx, r.Kind, r.Name, rev)
	}
	e, at, err := s.Get(ctx, Key(r), rev)
	if rev != 0 {
		at = rev
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, at, nil
	case err != nil:
		return nil, 0, err
	}
	return []Entry{e}, at, nil
}

// ErrInterrupted: the stream of a watch has ended. Etcd's client opens another and goes on
// from the same revision; but an etcd that was restored from a backup meanwhile has not
// come to it yet, and says nothing until it has, or has it with other changes.
var ErrInterrupted = errors.New("the connection to etcd was lost")

// Follow calls f with what each revision did to a range, whole and in order, from a
// revision on, until to is reached; 0 is until the stream ends. It returns nil when to is
// reached, f's error, or why it could not go on: ErrInterrupted, a *CompactedError if etcd
// has not got the revision any more, and what all methods may return. To go on, call it
// again with the revision after the last that f got; after ErrInterrupted, once it is sure
// that etcd has what f got.
//
// An f that is slow lets etcd's client queue what comes meanwhile.
func (s *Store) Follow(ctx context.Context, r Range, from, to int64, f func(revision int64, events []Event) error) error {
	if to != 0 && from > to {
		return nil
	}
	from = max(from, 1) // 0 is now, to etcd
	// A stream of its own, which etcd's client has for each metadata: on one that was another's,
	// an answer to what that one asked may still come.
	ctx = metadata.AppendToOutgoingContext(clientv3.WithRequireLeader(ctx), "follow", fmt.Sprint(s.follows.Add(1)))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the watch
	key, end := s.within(r)
	opts := []clientv3.OpOption{clientv3.WithRev(from)}
	if end != "" {
		opts = append(opts, clientv3.WithRange(end))
	}
	watch := s.client.Watch(ctx, key, opts...)
	stream := s.streams.Load() // it is open now
	interrupted := func() bool { return to == 0 && s.streams.Load() != stream }
	// A watch says that there is no more up to a revision when it is asked, and has sent
	// all: till then it has to be asked again. Without an end it is looked after.
	pause := streamPause
	silence := time.NewTimer(s.timeout)
	defer silence.Stop()
	if to != 0 {
		pause = progressPause
	} else {
		silence.Stop() // nothing may happen for long
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		var w clientv3.WatchResponse
		var ok bool
		select {
		case w, ok = <-watch:
		case <-tick.C:
			if interrupted() {
				return fmt.Errorf("store: follow: %w", ErrInterrupted)
			}
			if to != 0 {
				_ = s.client.RequestProgress(ctx) // its errors are those of the watch
			}
			continue
		case <-silence.C:
			return fmt.Errorf("store: follow: %w: no answer in %v", ErrUnavailable, s.timeout)
		case <-ctx.Done():
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case ok && w.CompactRevision > 0:
			return fmt.Errorf("store: follow: %w", &CompactedError{w.CompactRevision})
		case ok && errors.Is(w.Err(), rpctypes.ErrPermissionDenied):
			return fmt.Errorf("store: follow: %w: %w", ErrDenied, w.Err())
		case ok && w.Err() != nil:
			return fmt.Errorf("store: follow: %w: %w", ErrUnavailable, w.Err())
		case !ok:
			return fmt.Errorf("store: follow: %w", ErrUnavailable)
		case interrupted(): // it may be of the stream before, or of another history
			return fmt.Errorf("store: follow: %w", ErrInterrupted)
		}
		if done, err := s.tell(w, to, f); done || err != nil {
			return err
		}
		if to != 0 {
			silence.Reset(s.timeout)
		}
	}
}

// progressPause is between two questions of how far a watch has come.
const progressPause = 20 * time.Millisecond

// streamPause is between two looks at whether a watch that is silent has its stream yet.
const streamPause = 500 * time.Millisecond

// interceptStream counts the streams that watches have, and sees why one cannot be opened.
func (s *Store) interceptStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	if method == "/etcdserverpb.Watch/Watch" {
		s.streams.Add(1)
	}
	stream, err := open(ctx, desc, cc, method, opts...)
	if c := callOf(ctx); c != nil && err != nil {
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
	}
	return stream, err
}

// tell calls f with the revisions of one response, and says whether to is reached. Etcd's
// client joins the parts of a revision that came in several messages.
func (s *Store) tell(w clientv3.WatchResponse, to int64, f func(int64, []Event) error) (done bool, err error) {
	for i := 0; i < len(w.Events); {
		rev := w.Events[i].Kv.ModRevision
		if to != 0 && rev > to {
			return true, nil
		}
		var events []Event
		for ; i < len(w.Events) && w.Events[i].Kv.ModRevision == rev; i++ {
			key, ok := ParseKey(strings.TrimPrefix(string(w.Events[i].Kv.Key), s.prefix))
			if ok && key != SecretKey {
				events = append(events, Event{entry(key, w.Events[i].Kv), w.Events[i].Type == clientv3.EventTypeDelete})
			}
		}
		if len(events) > 0 {
			if err := f(rev, events); err != nil {
				return false, err
			}
		}
	}
	// With old events comes the newest revision, whatever is still to be sent.
	told := w.Header.Revision
	if n := len(w.Events); n > 0 {
		told = w.Events[n-1].Kv.ModRevision
	}
	return to != 0 && told >= to, nil
}
