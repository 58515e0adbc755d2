package route

import (
	"cmp"
	"strings"
)

// bucket holds the routes of one host and path in their order: higher priority
// first, then by name. Most hold one, which costs no memory but the pointer.
type bucket struct {
	one *Route
	all tree[*Route] // in place of one, where there were ever more
}

// before is the order in a bucket.
func before(a, b *Route) int {
	return cmp.Or(cmp.Compare(b.priority, a.priority), strings.Compare(a.Name, b.Name))
}

func (b bucket) empty() bool { return b.one == nil && b.all.root == nil }

func (b bucket) set(r *Route, edit uint64) bucket {
	at := func(other *Route) int { return before(other, r) }
	switch {
	case b.all.root != nil:
	case b.one == nil || at(b.one) == 0:
		return bucket{one: r}
	default:
		first := b.one
		b.all = b.all.set(first, func(other *Route) int { return before(other, first) }, edit)
	}
	return bucket{all: b.all.set(r, at, edit)}
}

func (b bucket) remove(r *Route, edit uint64) bucket {
	at := func(other *Route) int { return before(other, r) }
	switch {
	case b.all.root != nil:
		return bucket{all: b.all.remove(at, edit)}
	case b.one != nil && at(b.one) == 0:
		return bucket{}
	}
	return b
}

// cursor goes through a bucket.
type cursor struct {
	bucket
	next int      // what follows run
	run  []*Route // what is at hand
	done bool
}

// head is the route at hand; nil at the end.
func (c *cursor) head() *Route {
	if len(c.run) > 0 {
		return c.run[0]
	}
	if c.done {
		return nil
	}
	if c.all.root == nil {
		return c.one
	}
	c.run = c.all.run(c.next)
	c.next += len(c.run)
	if len(c.run) == 0 {
		c.done = true
		return nil
	}
	return c.run[0]
}

func (c *cursor) skip() {
	if c.all.root == nil {
		c.done = true
		return
	}
	c.run = c.run[1:]
}
