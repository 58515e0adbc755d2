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
	paths *paths // the others
	edit  uint64
}

func (h *host) empty() bool { return h.any.empty() && h.paths == nil }

func (h *host) own(edit uint64) *host {
	if h.edit == edit {
		return h
	}
	c := *h
	c.edit = edit
	return &c
}

// match appends the buckets that a path is in, the most specific last.
func (h *host) match(path []byte, found []bucket) []bucket {
	if !h.any.empty() {
		found = append(found, h.any)
	}
	return h.paths.match(path, found)
}

// hosts is a node of a persistent hash trie: wide, so that one of 10,000 hosts
// is three reads away. A radix tree by name reads a line of memory or two for
// each letter in which names differ.
type hosts struct {
	edit  uint64
	slots []slot       // of a leaf, in no order
	kids  *[fan]*hosts // else
}

type slot struct {
	hash uint64
	host *host
}

const (
	fanBits  = 5
	fan      = 1 << fanBits
	leafSize = 16 // slots; a leaf deeper than the hash has bits may have more
)

// seed makes hashes that nobody outside can aim at.
var seed = maphash.MakeSeed()

func (t *hosts) get(name []byte) *host {
	hash := maphash.Bytes(seed, name)
	rest := hash
	for t != nil && t.kids != nil {
		t = t.kids[rest%fan]
		rest >>= fanBits
	}
	if t == nil {
		return nil
	}
	for i := range t.slots {
		if s := &t.slots[i]; s.hash == hash && s.host.name == string(name) {
			return s.host
		}
	}
	return nil
}

// put sets or, where h is empty, removes a host; t may be nil, and so may be
// what is left of it.
func (t *hosts) put(h *host, edit uint64) *hosts {
	return t.putAt(slot{maphash.String(seed, h.name), h}, 0, edit)
}

func (t *hosts) putAt(s slot, depth int, edit uint64) *hosts {
	if t == nil {
		if s.host.empty() {
			return nil
		}
		return &hosts{edit: edit, slots: []slot{s}}
	}
	if t.edit != edit {
		c := &hosts{edit: edit, slots: append(make([]slot, 0, len(t.slots)+1), t.slots...)}
		if t.kids != nil {
			kids := *t.kids
			c.kids = &kids
		}
		t = c
	}
	if t.kids != nil {
		i := s.hash >> (depth * fanBits) % fan
		t.kids[i] = t.kids[i].putAt(s, depth+1, edit)
		if t.kids[i] == nil && *t.kids == [fan]*hosts{} {
			return nil
		}
		return t
	}
	i := slices.IndexFunc(t.slots, func(old slot) bool { return old.hash == s.hash && old.host.name == s.host.name })
	switch {
	case s.host.empty():
		if i >= 0 {
			t.slots = slices.Delete(t.slots, i, i+1)
		}
		if len(t.slots) == 0 {
			return nil
		}
	case i >= 0:
		t.slots[i] = s
	default:
		t.slots = append(t.slots, s)
	}
	if len(t.slots) > leafSize && (depth+1)*fanBits <= 64 {
		all := t.slots
		t.slots, t.kids = nil, new([fan]*hosts)
		for _, s := range all {
			i := s.hash >> (depth * fanBits) % fan
			t.kids[i] = t.kids[i].putAt(s, depth+1, edit)
		}
	}
	return t
}
