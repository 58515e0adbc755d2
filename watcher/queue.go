package watcher

import (
	"context"
	"sync"
)

// maxQueued is how many items may wait for the reader before the watcher stops
// receiving. It covers a burst of revisions while one table is built; what is
// more waits in etcd at no cost to either side.
const maxQueued = 4096

// queue holds the changes between the watcher and its one reader. It also knows
// what the reader has done with, because only that counts as seen.
type queue struct {
	ready chan struct{} // holds a token after a push
	room  chan struct{} // holds a token after the queue was emptied
	limit int           // of size

	mu      sync.Mutex
	changes []Change
	size    int   // of changes, in items; a change counts as at least one
	busy    bool  // the reader works on a change of this revision
	working int64 // which
	seen    int64 // up to here the reader has everything and is done with it
	known   int64 // the same once it is done with all that was pushed
	listed  int64 // of the newest list whose difference the reader is done with
	listing int64 // the same once it is done with all that was pushed
}

func newQueue() *queue {
	return &queue{limit: maxQueued, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// push appends a change. It never blocks; the caller asks full first.
func (q *queue) push(c Change) {
	q.mu.Lock()
	q.changes = append(q.changes, c)
	q.size += weight(c)
	q.known = c.Revision
	q.mu.Unlock()
	signal(q.ready)
}

func weight(c Change) int { return max(1, len(c.Puts)+len(c.Deletes)) }

// advance says that nothing is missing up to a revision.
func (q *queue) advance(revision int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.known = revision
	q.settleLocked()
}

// list says that nothing is missing up to a revision because all was read then. What
// the list changed was pushed before.
func (q *queue) list(revision int64) {
	q.mu.Lock()
	q.listing = revision
	q.listed = min(q.listed, revision) // it is less where etcd went back
	q.mu.Unlock()
	q.advance(revision)
}

func (q *queue) settleLocked() {
	if !q.busy && len(q.changes) == 0 {
		q.seen, q.listed = q.known, q.listing
	}
}

func (q *queue) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.size >= q.limit
}

func (q *queue) progress() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.seen
}

// lists is the revision of the newest list with which the reader is done.
func (q *queue) lists() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.listed
}

func (q *queue) next(ctx context.Context) (Change, error) {
	q.mu.Lock()
	if q.busy {
		q.busy, q.seen = false, q.working
		q.settleLocked()
	}
	q.mu.Unlock()
	for {
		if c, ok := q.take(); ok {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return Change{}, ctx.Err()
		case <-q.ready:
		}
	}
}

func (q *queue) take() (Change, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.changes) == 0 {
		return Change{}, false
	}
	c := q.changes[0]
	q.changes[0] = Change{}
	q.changes = q.changes[1:]
	q.size -= weight(c)
	q.busy, q.working = true, c.Revision
	if len(q.changes) == 0 {
		q.changes = nil
	}
	if q.size < q.limit/2+1 {
		signal(q.room)
	}
	return c, true
}
