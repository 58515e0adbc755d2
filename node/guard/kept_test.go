package guard

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"roster/store"
	"roster/watcher"
)

// resumed is a rig that begins with what another had: what etcd has, and what was held.
func (r *rig) resumed(percent int) (*rig, watcher.Change) {
	again := newRig(percent)
	again.etcd, again.revision, again.ack, again.now = maps.Clone(r.etcd), r.revision, r.ack, r.now
	c := watcher.Change{Revision: r.revision, Touched: r.revision, Ack: r.ack, Listed: true, Resumed: true}
	for _, item := range r.etcd {
		c.Puts = append(c.Puts, item)
	}
	slices.SortFunc(c.Puts, func(a, b watcher.Item) int { return compare(a.Key, b.Key) })
	c = again.Resume(c, r.Keeping(), again.now)
	again.table.add(c)
	return again, c
}

// deleting is a transaction that removes the first n of web-0, web-1, ...
func deleting(n int) write {
	w := write{}
	for i := range n {
		w[backend(fmt.Sprintf("web-%02d", i))] = nil
	}
	return w
}

func holding(t *testing.T) *rig {
	r := newRig(50)
	w := write{}
	for i := range 20 {
		w[backend(fmt.Sprintf("web-%02d", i))] = &store.Backend{}
	}
	r.write(w)
	if out := r.write(deleting(15)); out.Held != 15 {
		t.Fatalf("%d held, want 15", out.Held)
	}
	return r
}

func TestWhatWasHeldIsHeldOn(t *testing.T) {
	t.Parallel()
	r := holding(t)
	revision := r.revision
	// Ten come back: none of the others would be held now for the first time.
	back := write{}
	for i := range 10 {
		back[backend(fmt.Sprintf("web-%02d", i))] = &store.Backend{}
	}
	back[backend("web-10")] = invalid
	r.write(back)
	again, c := r.resumed(50)
	if h, was := again.Held(), r.Held(); h.Count != 5 || h.Revision != revision || !h.Since.Equal(was.Since) {
		t.Errorf("held = %+v, was %+v", h, was)
	}
	if len(again.table) != 20 || !slices.IsSortedFunc(c.Puts, func(a, b watcher.Item) int { return compare(a.Key, b.Key) }) {
		t.Errorf("%d in the table, want 20, sorted", len(again.table))
	}
	if item := again.table[backend("web-10")]; item.Definition == nil || item.Rejected == nil {
		t.Errorf("web-10 = %+v, want what it was with the value that is rejected", item)
	}
	// What is then removed is held as well, and all is released by one acknowledgement.
	if out := again.write(deleting(8)); out.Held != 8 {
		t.Errorf("%d held, want 8 more", out.Held)
	}
	again.ack = again.revision
	if out := again.do(again.change(nil)); out.Released != 13 || again.Held().Count != 0 {
		t.Errorf("%d released, %d held, want 13 and none", out.Released, again.Held().Count)
	}
}

func TestWhatWasHeldIsGoneWithoutAGuard(t *testing.T) {
	t.Parallel()
	r := holding(t)
	var none *Guard
	c := none.Resume(watcher.Change{Puts: []watcher.Item{{Key: backend("web-15")}}}, r.Keeping(), r.now)
	if len(c.Puts) != 1 || none.Keeping().Held != nil {
		t.Errorf("%d put, want what etcd has", len(c.Puts))
	}
}

func TestWhatIsBackOrAcknowledgedIsNotHeld(t *testing.T) {
	t.Parallel()
	r := holding(t)
	kept := r.Keeping()
	r.write(write{backend("web-00"): &store.Backend{}})
	again := newRig(50)
	c := watcher.Change{Revision: r.revision, Listed: true, Puts: []watcher.Item{r.etcd[backend("web-00")]}}
	if c = again.Resume(c, kept, r.now); len(c.Puts) != 15 || again.Held().Count != 14 {
		t.Errorf("%d put, %d held, want 15 and 14", len(c.Puts), again.Held().Count)
	}
	c.Ack, c.Puts = r.revision, nil
	if c = New(50).Resume(c, kept, r.now); len(c.Puts) != 0 {
		t.Errorf("%d put, want none: it was acknowledged", len(c.Puts))
	}
}

// What came under other names while some were held raises the bar for neither: what one
// guard lets pass, the one that goes on with what it held does, too.
func TestTheBarIsWhatItWas(t *testing.T) {
	t.Parallel()
	for n := 1; n < 20; n++ {
		r := holding(t)
		others := write{}
		for i := range 15 {
			others[backend(fmt.Sprintf("other-%02d", i))] = &store.Backend{}
		}
		r.write(others)
		again, _ := r.resumed(50)
		gone := write{}
		for i := range n {
			gone[backend(fmt.Sprintf("other-%02d", i%15))] = nil
			if i >= 15 {
				gone[backend(fmt.Sprintf("web-%02d", i))] = nil
			}
		}
		fresh := again.write(gone)
		was := r.write(gone)
		if was.Held != fresh.Held || was.Passed != fresh.Passed {
			t.Errorf("%d removed: %d held and %d passed, by the guard before %d and %d", n, fresh.Held, fresh.Passed, was.Held, was.Passed)
		}
	}
}
