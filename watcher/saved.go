package watcher

import (
	"time"
)

// Saved is a state that changes have added up to, as somebody kept it: Cluster,
// Revision, Touched and Ack of the last of them.
type Saved struct {
	Cluster  uint64 // not 0
	Revision int64
	Touched  int64
	Ack      int64

	// Items are the keys, each once. Their values are what counts, those of rejections
	// included: they are decoded again, for this may be another release.
	Items []Item
}

// resume takes over what was saved instead of a first list.
func (w *Watcher) resume() {
	saved := w.saved()
	w.saved = nil
	if saved == nil {
		return
	}
	change := w.state.resume(saved)
	change.Received = time.Now()
	w.seen = saved.Revision
	w.queue.push(change)
	w.queue.list(saved.Revision)
	w.update(func(s *Status) {
		w.count(s)
		s.Resumed = true
	})
}

// resume makes of an empty state the one that was saved.
func (s *state) resume(saved *Saved) Change {
	l := s.list(saved.Cluster, saved.Revision)
	l.ack = saved.Ack
	for _, item := range saved.Items {
		effect := entry{key: item.Key.String(), create: item.CreateRevision, mod: item.ModRevision, value: []byte(item.Value)}
		newest := effect
		if r := item.Rejected; r != nil {
			newest.create, newest.mod, newest.value = r.CreateRevision, r.Revision, []byte(r.Value)
		}
		l.add(newest)
		if n := len(l.invalid); n > 0 { // it still is, or is by now
			var v version
			if item.Rejected != nil && item.ModRevision > 0 {
				v, _ = s.decode(item.Key, effect)
			}
			l.resolve(l.invalid[n-1], v)
			l.invalid = l.invalid[:0]
		}
	}
	s.touched, s.cluster = saved.Touched, saved.Cluster // replace goes on from there
	change := s.replace(l)
	change.Resumed = true
	return change
}
