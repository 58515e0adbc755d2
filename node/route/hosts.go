package route

import (
	"hash/maphash"
	"slices"
)

// host is the routes of one host, of what is below one (".foo.com"), or of any.
// It never changes but by the edit that made it.
type host struct {
	name  string
	any   bucket // those with no path
	paths paths  // the others; by value, which saves a read
	edit  uint64
}

func (h *host) empty() bool { return h.any.empty() && h.paths.empty() }

func (h *host) own(edit uint64) *host {
	if h.edit == edit {
		return h
	}
	c := *h
	c.edit = edit
	return &c
}

func (h *host) set(path string, prefix bool, r *Route, edit uint64) {
	switch {
	case path == "":
		h.any = h.any.set(r, edit)
	case h.paths.empty(): // the name and the first path are compared one after the other, so they are next to each other
		n := len(h.name)
		joined := h.name + path
		h.name = joined[:n]
		h.paths = *(*paths)(nil).set(joined[n:], prefix, r, edit)
	default:
		h.paths = *h.paths.set(path, prefix, r, edit)
	}
}

func (h *host) remove(path string, prefix bool, r *Route, edit uint64) {
	if path == "" {
		h.any = h.any.remove(r, edit)
	} else if p := h.paths.remove(path, prefix, r, edit); p != nil {
		h.paths = *p
	} else {
		h.paths = paths{}
	}
}

// match appends the buckets that a path is in, the most specific last.
func (h *host) match(path []byte, found []bucket) []bucket {
	if !h.any.empty() {
		found = append(found, h.any)
	}
	return h.paths.match(path, found)
}

// hosts is a node of a persistent hash trie: wide and flat, so that one of
// 100,000 hosts is found by reading three lines of memory before its own. A radix
// tree by name reads a line or two for each letter in which names differ.
type hosts struct {
	kids [fan]kid // first, so that none lies across two lines
	edit uint64   // that made it and may change it
}

// kid is a further node, or a leaf, which is copied where it changes.
type kid struct {
	node  *hosts
	slots []slot // in no order
}

type slot struct {
	hash uint64
	host *host
}

const (
	fanBits  = 5
	fan      = 1 << fanBits
	leafSize = 16             // slots
	deepest  = 64/fanBits - 1 // a leaf there has no more of the hash to be parted by
)

// seed makes hashes that nobody outside can aim at.
var seed = maphash.MakeSeed()

// get finds a host by name; t may be nil.
func (t *hosts) get(name []byte) *host {
	if t == nil {
		return nil
	}
	hash := maphash.Bytes(seed, name)
	k := &t.kids[hash%fan]
	for rest := hash; k.node != nil; {
		rest >>= fanBits
		k = &k.node.kids[rest%fan]
	}
	for i := range k.slots {
		if s := &k.slots[i]; s.hash == hash && s.host.name == string(name) {
			return s.host
		}
	}
	return nil
}

// put sets a host or, where it is empty, removes it. t may be nil, and so is what
// is left when the last one goes.
func (t *hosts) put(h *host, edit uint64) *hosts {
	return t.putAt(slot{maphash.String(seed, h.name), h}, 0, edit)
}

func (t *hosts) putAt(s slot, depth int, edit uint64) *hosts {
	switch {
	case t == nil:
		t = &hosts{edit: edit}
	case t.edit != edit:
		c := *t
		c.edit = edit
		t = &c
	}
	k := &t.kids[s.hash>>(depth*fanBits)%fan]
	if k.node != nil {
		k.node = k.node.putAt(s, depth+1, edit)
	} else {
		k.put(s)
		if len(k.slots) > leafSize && depth < deepest {
			all := k.slots
			*k = kid{}
			for _, s := range all {
				k.node = k.node.putAt(s, depth+1, edit)
			}
		}
	}
	if k.node == nil && k.slots == nil && t.empty() {
		return nil
	}
	return t
}

func (t *hosts) empty() bool {
	for i := range t.kids {
		if t.kids[i].node != nil || t.kids[i].slots != nil {
			return false
		}
	}
	return true
}

// put makes a new leaf of k.
func (k *kid) put(s slot) {
	i := slices.IndexFunc(k.slots, func(old slot) bool { return old.hash == s.hash && old.host.name == s.host.name })
	all := append(make([]slot, 0, len(k.slots)+1), k.slots...)
	switch {
	case !s.host.empty() && i >= 0:
		all[i] = s
	case !s.host.empty():
		all = append(all, s)
	case i >= 0:
		all = slices.Delete(all, i, i+1)
	}
	if k.slots = all; len(all) == 0 {
		k.slots = nil
	}
}
