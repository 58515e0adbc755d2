package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"roster/node/admin"
	"roster/node/guard"
	"roster/node/snapshot"
	"roster/store"
	"roster/watcher"
)

// snapshotAfter is Config.SnapshotAfter's default: a healthy etcd answers in much less,
// and balancers send nobody to a node that is not ready.
const snapshotAfter = 5 * time.Second

// provenLately is how old the last proof may be that etcd has nothing newer, for a
// snapshot to be called as of now.
const provenLately = time.Minute

// checkSnapshot says what is wrong with --snapshot where that can be known at once. What
// the file has is for later: a node goes on without it.
func (c Config) checkSnapshot() error {
	if c.Snapshot == "" {
		return nil
	}
	if c.Embedded != nil {
		return fmt.Errorf("snapshot is %q, and the node runs an etcd of its own, whose data it keeps anyway: want etcd given as well, or no snapshot", c.Snapshot)
	}
	if c.SnapshotAfter < 0 {
		return fmt.Errorf("snapshot-after is %v, want more than 0", c.SnapshotAfter)
	}
	if info, err := os.Stat(filepath.Dir(c.Snapshot)); err != nil || !info.IsDir() {
		return fmt.Errorf("snapshot is %q, and there is no folder %s", c.Snapshot, filepath.Dir(c.Snapshot))
	}
	if info, err := os.Stat(c.Snapshot); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("snapshot is %q, which is no file, want a file that the node may write", c.Snapshot)
	}
	return nil
}

// newSnapshots makes what writes the snapshot.
func (n *Node) newSnapshots() *snapshot.Writer {
	return snapshot.New(snapshot.Config{File: n.config.Snapshot, Prefix: n.store.Prefix(), Node: n.config.ID, Guard: n.guard, Logger: n.config.Logger,
		Current: func() bool {
			w := n.watcher.Status()
			return !w.Resumed && time.Since(w.Fresh) < provenLately // it need not be connected: a node that ends is not any more
		}})
}

// readSnapshot is the state to begin with where etcd has not answered; nil: none.
func (n *Node) readSnapshot() *watcher.Saved {
	log, file := n.config.Logger, n.config.Snapshot
	p, open, err := snapshot.Read(file, n.store.Prefix())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		log.Warn("etcd has given no definitions yet, and there is no snapshot to start from: waiting", "file", file)
		return nil
	case err != nil:
		log.Error("etcd has given no definitions yet, and the snapshot cannot be used: waiting", "file", file, "error", err)
		return nil
	}
	if open {
		log.Warn("others than its owner may read the snapshot, which has private keys in it: want mode 0600", "file", file)
	}
	log.Warn("etcd has given no definitions yet: serving what the snapshot has", "file", file, "written", p.Written, "age", time.Since(p.Written).Round(time.Second),
		"by", p.Node, "revision", p.Revision, "keys", len(p.Items), "held", len(p.Held))
	n.picture.Store(p)
	return &p.Saved
}

// resume is what is applied of the change that the snapshot is.
func (n *Node) resume(c watcher.Change) watcher.Change {
	p := n.picture.Load()
	kept := guard.Keeping{Most: p.Most}
	for _, k := range p.Held {
		def, warnings, err := store.Decode(k.Item.Key, []byte(k.Item.Value), n.config.UnknownFields)
		if err != nil {
			continue // this release does not know it, and etcd does not have it
		}
		k.Item.Definition, k.Item.Warnings = def, warnings
		kept.Held = append(kept.Held, k)
	}
	p.Items, p.Held = nil, nil // they are not needed any more, and many
	return n.guard.Resume(c, kept, time.Now())
}

// applyAndKeep applies changes, and has the snapshot written of them, for the last time
// when no more are applied.
func (n *Node) applyAndKeep(ctx context.Context) error {
	if n.snapshots == nil {
		return n.apply(ctx)
	}
	writing, end := context.WithCancel(context.WithoutCancel(ctx))
	var written sync.WaitGroup
	written.Go(func() {
		select {
		case <-n.turn.here: // until then an older process writes the file
			_ = n.snapshots.Run(writing)
		case <-writing.Done():
		}
	})
	defer written.Wait()
	defer end()
	return n.apply(ctx)
}

// keep has the snapshot written of a change that is in effect, as it came from the
// watcher: what a guard holds of it the snapshot has besides.
func (n *Node) keep(c watcher.Change) {
	if n.snapshots != nil {
		n.snapshots.Applied(c)
	}
}

// snapshotStatus is what the admin API says of it; nil without --snapshot.
func (n *Node) snapshotStatus(w watcher.Status) *admin.Snapshot {
	if n.snapshots == nil {
		return nil
	}
	st := n.snapshots.Status()
	s := &admin.Snapshot{File: n.config.Snapshot, InUse: w.Resumed, Revision: st.Revision, Writes: st.Writes, Failures: st.Failures, Error: st.Error}
	written := st.Written
	if p := n.picture.Load(); p != nil && written.IsZero() {
		written, s.Revision = p.Written, p.Revision
	}
	if !written.IsZero() {
		age := time.Since(written).Milliseconds()
		s.Written, s.AgeMS = &written, &age
	}
	return s
}
