package route

import (
	"bytes"
	"slices"
)

// paths is a node of a persistent prefix tree: the routes of one host by path.
// It fills one cache line.
type paths struct {
	label string // what it adds to the path of its parent
	exact bucket // of this path
	below bucket // of what is below this path, which ends with "/"
	fork  *fork  // nil where nothing is longer
	edit  uint64 // that made it and may change it
}

// fork is the longer paths by their next byte, which is the first of a label.
type fork struct {
	first []byte
	kids  []*paths
}

// empty says whether there is nothing at and below p.
func (p *paths) empty() bool { return p.fork == nil && p.exact.empty() && p.below.empty() }

// own returns p, or a copy where p may not be changed. A fork is its node's.
func (p *paths) own(edit uint64) *paths {
	if p.edit == edit {
		return p
	}
	c := *p
	c.edit = edit
	if p.fork != nil {
		c.fork = &fork{slices.Clone(p.fork.first), slices.Clone(p.fork.kids)}
	}
	return &c
}

// set adds r at a path; p may be nil.
func (p *paths) set(path string, prefix bool, r *Route, edit uint64) *paths {
	if p == nil {
		p = &paths{label: path, edit: edit}
	} else {
		p = p.own(edit)
	}
	n := 0
	for n < len(path) && n < len(p.label) && path[n] == p.label[n] {
		n++
	}
	if n < len(p.label) { // they part here
		rest := *p
		rest.label = p.label[n:]
		p = &paths{label: p.label[:n], edit: edit, fork: &fork{[]byte{rest.label[0]}, []*paths{&rest}}}
	}
	if path = path[n:]; path == "" {
		if prefix {
			p.below = p.below.set(r, edit)
		} else {
			p.exact = p.exact.set(r, edit)
		}
		return p
	}
	if p.fork == nil {
		p.fork = &fork{}
	}
	i := bytes.IndexByte(p.fork.first, path[0])
	if i < 0 {
		p.fork.first = append(p.fork.first, path[0])
		p.fork.kids = append(p.fork.kids, nil)
		i = len(p.fork.kids) - 1
	}
	p.fork.kids[i] = p.fork.kids[i].set(path, prefix, r, edit)
	return p
}

// remove takes r out at a path, where it is; nil where nothing stays.
func (p *paths) remove(path string, prefix bool, r *Route, edit uint64) *paths {
	if p == nil || len(path) < len(p.label) || path[:len(p.label)] != p.label {
		return p
	}
	p = p.own(edit)
	if path = path[len(p.label):]; path == "" {
		if prefix {
			p.below = p.below.remove(r, edit)
		} else {
			p.exact = p.exact.remove(r, edit)
		}
	} else if p.fork != nil {
		if i := bytes.IndexByte(p.fork.first, path[0]); i >= 0 {
			if kid := p.fork.kids[i].remove(path, prefix, r, edit); kid != nil {
				p.fork.kids[i] = kid
			} else {
				p.fork.first = slices.Delete(p.fork.first, i, i+1)
				p.fork.kids = slices.Delete(p.fork.kids, i, i+1)
			}
		}
	}
	if !p.exact.empty() || !p.below.empty() {
		return p
	}
	switch {
	case p.fork == nil || len(p.fork.kids) == 0:
		return nil
	case len(p.fork.kids) == 1: // two nodes say what one can
		kid := p.fork.kids[0].own(edit)
		kid.label = p.label + kid.label
		return kid
	}
	return p
}

// match appends the buckets that a path is in, the most specific last.
func (p *paths) match(path []byte, found []bucket) []bucket {
	for p != nil && len(path) >= len(p.label) && string(path[:len(p.label)]) == p.label {
		path = path[len(p.label):]
		if !p.below.empty() {
			found = append(found, p.below)
		}
		if len(path) == 0 {
			if !p.exact.empty() {
				found = append(found, p.exact)
			}
			return found
		}
		if p.fork == nil {
			return found
		}
		i := bytes.IndexByte(p.fork.first, path[0])
		if i < 0 {
			return found
		}
		p = p.fork.kids[i]
	}
	return found
}
