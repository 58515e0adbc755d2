package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"time"

	"roster/node/guard"
	"roster/store"
	"roster/watcher"
)

const (
	// Least is the shortest time between two writes.
	Least = 5 * time.Second
	// PerSecond is how many bytes are written a second, on average: a file of 20 MB
	// every 20 s at most.
	PerSecond = 1 << 20
	// Refresh is how often a file is written although nothing has changed, so that its age
	// says since when it may be out of date.
	Refresh = time.Hour
)

// Config says where to write, and for whom. All but Guard is required.
type Config struct {
	File   string
	Prefix string
	Node   string
	// Guard is asked for what it holds. Nil: nothing is.
	Guard *guard.Guard
	// Current says whether etcd has no newer state than the last that was applied: only
	// then a file may be made younger.
	Current func() bool
	Logger  *slog.Logger
}

// Writer writes a file. Applied is for one goroutine, Cede and Status for any.
type Writer struct {
	cfg  Config
	wake chan struct{} // holds a token while pending is not empty

	// What follows is owned by Run.

	items map[store.Key]watcher.Item // without what decoding gives
	last  watcher.Change             // without Puts and Deletes
	held  *guard.Keeping             // as of last; nil: the guard may be asked
	dirty bool

	mu      sync.Mutex
	pending map[store.Key]watcher.Item // since they were taken in; without versions: deleted
	newest  watcher.Change             // of them, without Puts and Deletes
	changed bool                       // by more than what was read
	asked   bool                       // what is held is wanted with the next change
	answer  *guard.Keeping             // as of newest
	status  Status

	renaming sync.Mutex    // held while what was written becomes the file
	ceded    chan struct{} // closed once nothing is to any more
}

var errCeded = errors.New("the file is another process's")

// Status is how a writer has fared.
type Status struct {
	Written  time.Time // of the newest file written; zero: none yet
	Revision int64     // of that
	Bytes    int64     // of that
	Writes   uint64
	Failures uint64
	Error    string // why the last attempt failed; empty if it did not
}

// New returns a writer that has nothing yet.
func New(cfg Config) *Writer {
	return &Writer{cfg: cfg, wake: make(chan struct{}, 1), ceded: make(chan struct{}), items: make(map[store.Key]watcher.Item), pending: make(map[store.Key]watcher.Item)}
}

// Applied says that a change is in effect: the one that came from the watcher, before
// any guard. They come in order, the first of all included.
func (w *Writer) Applied(c watcher.Change) {
	w.mu.Lock()
	for _, key := range c.Deletes {
		w.pending[key] = watcher.Item{}
	}
	for _, item := range c.Puts {
		item.Definition, item.Warnings = nil, nil
		w.pending[item.Key] = item
	}
	if len(c.Puts)+len(c.Deletes) == 0 && !c.Listed { // it only acknowledges
		c.Touched = w.newest.Touched
	}
	c.Puts, c.Deletes = nil, nil
	w.newest = c
	w.changed = w.changed || !c.Resumed // what was read need not be written
	if w.answer = nil; w.asked {
		k := w.cfg.Guard.Keeping()
		w.answer = &k
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Cede leaves the file to another process, for good. Call it once.
func (w *Writer) Cede() {
	w.renaming.Lock()
	defer w.renaming.Unlock()
	close(w.ceded)
}

func (w *Writer) rename(from, to string) error {
	w.renaming.Lock()
	defer w.renaming.Unlock()
	select {
	case <-w.ceded:
		return errCeded
	default:
		return os.Rename(from, to)
	}
}

// Status is a copy.
func (w *Writer) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Run writes until ctx ends, and then what there is yet to write; or until the file is
// ceded. It returns nil. Changes that come after that are not written.
func (w *Writer) Run(ctx context.Context) error {
	sweep(w.cfg.File)
	if err := ours(w.cfg.File, w.cfg.Prefix); err != nil {
		w.failed(err)
	}
	var next <-chan time.Time // when there may be a write again; nil: now
	refresh := time.NewTimer(Refresh)
	defer refresh.Stop()
	for {
		select {
		case <-w.ceded:
			return nil
		case <-ctx.Done():
			w.take()
			if w.dirty || w.last.Revision > 0 && w.cfg.Current() {
				if holding, ok := w.holding(); ok {
					w.write(holding)
				}
			}
			return nil
		case <-w.wake:
		case <-next:
			next = nil
		case <-refresh.C:
			refresh.Reset(Refresh)
			w.dirty = w.dirty || w.last.Revision > 0 && w.cfg.Current()
		}
		w.take()
		if !w.dirty || next != nil {
			continue
		}
		if holding, ok := w.holding(); ok {
			next = time.After(max(Least, w.write(holding)))
			refresh.Reset(Refresh)
		}
	}
}

// take takes in what was applied.
func (w *Writer) take() {
	w.mu.Lock()
	pending := w.pending
	if len(pending) > 0 {
		w.pending = make(map[store.Key]watcher.Item)
	}
	if w.newest.Revision > 0 {
		w.last = w.newest
	}
	w.dirty, w.changed = w.dirty || w.changed, false
	if w.held = w.answer; w.held != nil {
		w.asked = false
	}
	w.mu.Unlock()
	for key, item := range pending {
		if item.ModRevision == 0 && item.Rejected == nil {
			delete(w.items, key)
		} else {
			w.items[key] = item
		}
	}
}

// holding is what the guard held when the last change that was taken in was applied.
// False: it has the next one already, whose Applied will come, with what it holds then.
func (w *Writer) holding() (guard.Keeping, bool) {
	if w.held != nil {
		return *w.held, true
	}
	if k := w.cfg.Guard.Keeping(); w.cfg.Guard == nil || k.Revision == w.last.Revision {
		return k, true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = true
	return guard.Keeping{}, false
}

// write writes the file, and says how long it should not be written again.
func (w *Writer) write(holding guard.Keeping) (pause time.Duration) {
	p := &Picture{Prefix: w.cfg.Prefix, Node: w.cfg.Node, Written: time.Now()}
	p.Cluster, p.Revision, p.Touched, p.Ack = w.last.Cluster, w.last.Revision, w.last.Touched, w.last.Ack
	p.Most = holding.Most
	for _, k := range holding.Held {
		k.Item.Rejected = nil // that is with the keys
		p.Held = append(p.Held, k)
	}
	err := ours(w.cfg.File, w.cfg.Prefix)
	var size int64
	if err == nil {
		size, err = replace(w.cfg.File, func(out io.Writer) error { return encode(out, p, len(w.items), maps.Values(w.items)) }, w.rename)
	}
	pause = time.Duration(float64(size) / PerSecond * float64(time.Second))
	if err == errCeded {
		return 0
	}
	if err != nil {
		w.failed(err)
		return pause
	}
	w.dirty = false
	w.mu.Lock()
	was := w.status
	w.status.Written, w.status.Revision, w.status.Bytes, w.status.Error = p.Written, p.Revision, size, ""
	w.status.Writes++
	w.mu.Unlock()
	level := slog.LevelDebug
	if was.Error != "" || was.Writes == 0 {
		level = slog.LevelInfo
	}
	w.cfg.Logger.Log(context.Background(), level, "snapshot written", "file", w.cfg.File, "revision", p.Revision, "keys", len(w.items),
		"bytes", size, "took", time.Since(p.Written))
	return pause
}

// failed notes that the file could not be written, with a line for the first of a kind.
func (w *Writer) failed(err error) {
	var path *fs.PathError
	if errors.As(err, &path) && strings.Contains(path.Path, between) {
		err = fmt.Errorf("%s: %w", path.Op, path.Err) // its name is another each time
	}
	w.mu.Lock()
	again := w.status.Error == err.Error()
	w.status.Error = err.Error()
	w.status.Failures++
	w.mu.Unlock()
	if !again {
		w.cfg.Logger.Error("the snapshot is not written: a start without etcd would have an older one, or none", "file", w.cfg.File, "error", err)
	}
}
