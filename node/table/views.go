package table

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// views keeps the directors' views up to date: it knows who is whose member, which
// directors have to look at their members again, and when time itself asks for it.
type views struct {
	start   time.Time
	current *atomic.Pointer[Table]
	wake    chan struct{} // holds one value

	ejections, panics, lost atomic.Uint64

	// making is held while a view is made and while a table is published, so that no
	// view of an older table comes after those of a newer one. mu is for the moment, and
	// taken after making.
	making sync.Mutex
	timed  map[*directorRun]timer // guarded by making
	awake  time.Duration          // when Run looks at timed again, 0 = never; guarded by making

	mu      sync.Mutex
	parents parents
	runs    map[Ref]*directorRun
	dirty   map[Ref]struct{}
}

// Stats counts what directors did since the node began.
type Stats struct {
	Ejections    uint64 // of members, by outlier
	PanicPicks   uint64 // choices of a director in panic
	LostSessions uint64 // requests whose cookie led to nobody who may be chosen
}

// Stats may be asked for by any goroutine.
func (a *Applier) Stats() Stats {
	v := a.views
	return Stats{Ejections: v.ejections.Load(), PanicPicks: v.panics.Load(), LostSessions: v.lost.Load()}
}

// timer says when a director has to be looked at.
type timer struct {
	ref Ref
	at  time.Duration
}

func newViews(start time.Time, current *atomic.Pointer[Table]) *views {
	return &views{
		start: start, current: current, wake: make(chan struct{}, 1),
		timed: make(map[*directorRun]timer), runs: make(map[Ref]*directorRun), dirty: make(map[Ref]struct{}),
	}
}

// now is the time of views and requests, never 0.
func (v *views) now() time.Duration { return time.Since(v.start) + 1 }

// mark has the directors that have a backend look at it again.
func (v *views) mark(backend Ref) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for parent := range v.parents.of(backend) {
		v.addLocked(parent)
	}
}

// climbLocked has all directors look again from which a director can be reached, but for
// those that have. Whether it can be chosen depends on who asks, for members that lead
// back are skipped, and on the depth; so it is not enough to go on where an answer
// changes.
func (v *views) climbLocked(ref Ref, looked map[Ref]struct{}) {
	seen := map[Ref]struct{}{ref: {}}
	for way := []Ref{ref}; len(way) > 0; way = way[1:] {
		for parent := range v.parents.of(way[0]) {
			if _, twice := seen[parent]; !twice {
				seen[parent] = struct{}{}
				if _, has := looked[parent]; !has {
					v.addLocked(parent)
				}
				way = append(way, parent)
			}
		}
	}
}

// addLocked has a director look at its members again.
func (v *views) addLocked(ref Ref) {
	run := v.runs[ref]
	if run == nil || run.stale.Load() { // it is dirty already
		return
	}
	run.stale.Store(true)
	v.dirty[ref] = struct{}{}
	v.nudge()
}

// markAll marks what a new table changes, backends and directors, but for the directors
// that have looked at it already.
func (v *views) markAll(backends, directors []Ref, looked map[Ref]struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, ref := range backends {
		for parent := range v.parents.of(ref) {
			if _, has := looked[parent]; !has {
				v.addLocked(parent)
			}
		}
	}
	for _, ref := range directors {
		v.climbLocked(ref, looked)
	}
}

// ejected has the director look again that a member was just ejected from.
func (v *views) ejected(run *directorRun) {
	v.ejections.Add(1)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.runs[run.ref] == run {
		v.addLocked(run.ref)
	}
}

// Run keeps the directors' views up to date until ctx ends: what changed by probes,
// ejections, overrides and members' definitions is looked at within 10 ms or so, many
// changes at once, and what time changes when it does. Requests need not wait for it:
// they ask again about whom a view offers. Call it once.
func (a *Applier) Run(ctx context.Context) error {
	v := a.views
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.wake:
		case <-timer.C:
		}
		began := time.Now()
		next := v.refresh()
		// A node whose directors never come to rest spends a fourth of one core on them.
		pause := time.NewTimer(max(minPause, 3*time.Since(began)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
		if next == 0 {
			timer.Stop()
		} else {
			timer.Reset(max(next-v.now(), 0))
		}
	}
}

// minPause is the shortest time from one look at the directors to the next.
const minPause = 10 * time.Millisecond

// refresh makes those views anew that have to be, and those of directors above them
// that turn out to be concerned, level by level. What else changes meanwhile may be left
// for the next time. It returns when the next one is due, 0 for never.
func (v *views) refresh() (next time.Duration) {
	v.due()
	for range maxDepth {
		v.mu.Lock()
		dirty := v.dirty
		v.dirty = make(map[Ref]struct{})
		v.mu.Unlock()
		if len(dirty) == 0 {
			break
		}
		for ref := range dirty {
			v.remake(ref)
		}
	}
	v.making.Lock()
	defer v.making.Unlock()
	for _, t := range v.timed {
		if next == 0 || t.at < next {
			next = t.at
		}
	}
	v.awake = next
	return next
}

// due marks the directors whose time has come.
func (v *views) due() {
	now := v.now()
	v.making.Lock()
	defer v.making.Unlock()
	v.awake = now // what is timed from here on is seen at the end of refresh
	v.mu.Lock()
	defer v.mu.Unlock()
	for run, t := range v.timed {
		if t.at <= now {
			delete(v.timed, run)
			if v.runs[t.ref] == run {
				v.addLocked(t.ref)
			}
		}
	}
}

// remake makes the view of a director anew.
func (v *views) remake(ref Ref) {
	v.making.Lock()
	defer v.making.Unlock()
	t := v.current.Load()
	s := t.slots.at(ref)
	if s == nil || s.Director == nil {
		return
	}
	d := s.Director
	d.run.stale.Store(false) // what changes from here on is seen, or marks it again
	old := d.view.Load()
	w := walk{t: t, now: v.now()}
	d.view.Store(w.makeView(ref, d))
	v.schedule(ref, d)
	if d.view.Load().differs(old) {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.climbLocked(ref, nil)
	}
}

// differs says whether those above the director have to look at it again.
func (v *view) differs(old *view) bool {
	return v.ready != old.ready || v.out != old.out || !slices.Equal(v.directors, old.directors)
}

// schedule notes when a director's view is due. It is called with making.
func (v *views) schedule(ref Ref, d *Director) {
	at := d.view.Load().Next()
	if at == 0 {
		delete(v.timed, d.run)
		return
	}
	v.timed[d.run] = timer{ref, at}
	if v.awake == 0 || at < v.awake { // Run waits for nothing, or for too long
		v.nudge()
	}
}

// nudge has Run look at what there is to do.
func (v *views) nudge() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// parents knows the directors of each member: lists of edges, whose heads are by the
// member's Ref, for most names are in one director and few in many.
type parents struct {
	heads []int32 // 0 = none
	edges []edgeTo
	free  int32 // the first of those to use again
}

type edgeTo struct {
	parent Ref
	next   int32
}

func (p *parents) add(member, parent Ref) {
	if int(member) >= len(p.heads) {
		p.heads = append(p.heads, make([]int32, int(member)+1-len(p.heads))...)
	}
	if len(p.edges) == 0 {
		p.edges = append(p.edges, edgeTo{})
	}
	i := p.free
	if i != 0 {
		p.free = p.edges[i].next
	} else {
		i = int32(len(p.edges))
		p.edges = append(p.edges, edgeTo{})
	}
	p.edges[i] = edgeTo{parent, p.heads[member]}
	p.heads[member] = i
}

// remove ends one membership; of a member listed twice there are two.
func (p *parents) remove(member, parent Ref) {
	at := &p.heads[member]
	for p.edges[*at].parent != parent {
		at = &p.edges[*at].next
	}
	i := *at
	*at = p.edges[i].next
	p.edges[i] = edgeTo{next: p.free}
	p.free = i
}

// of yields the directors of a member; one that lists it twice, twice.
func (p *parents) of(member Ref) func(yield func(Ref) bool) {
	return func(yield func(Ref) bool) {
		if int(member) >= len(p.heads) {
			return
		}
		for i := p.heads[member]; i != 0; i = p.edges[i].next {
			if !yield(p.edges[i].parent) {
				return
			}
		}
	}
}
