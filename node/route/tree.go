package route

import (
	"iter"
	"slices"
)

// tree is a persistent sorted set, a B-tree: what is changed is copied, unless
// the edit that changes it made it. The zero tree is empty.
type tree[T any] struct{ root *page[T] }

// page is a leaf, or has kids; all leaves are equally deep.
type page[T any] struct {
	edit  uint64 // that made it and may change it; see Edit
	size  int    // items at and below
	items []T    // of a leaf; else the first item of each kid
	kids  []*page[T]
}

// pageSize is how many items or kids a page holds. A change copies one page a
// level; 32 pointers are four cache lines.
const pageSize = 32

func (t tree[T]) len() int {
	if t.root == nil {
		return 0
	}
	return t.root.size
}

// place compares an item with the one that is looked for: below 0 where it
// comes before.
type place[T any] func(T) int

// search returns where the item is, or would be, in a leaf.
func (p *page[T]) search(at place[T]) (int, bool) {
	return slices.BinarySearchFunc(p.items, at, func(item T, at place[T]) int { return at(item) })
}

// kid is the index of the kid that has the item, if any has.
func (p *page[T]) kid(at place[T]) int {
	i, found := p.search(at)
	if !found {
		i--
	}
	return max(i, 0)
}

func (t tree[T]) get(at place[T]) (item T, ok bool) {
	p := t.root
	if p == nil {
		return item, false
	}
	for p.kids != nil {
		p = p.kids[p.kid(at)]
	}
	i, ok := p.search(at)
	if ok {
		item = p.items[i]
	}
	return item, ok
}

// rank is how many items come before the one looked for.
func (t tree[T]) rank(at place[T]) int {
	p, n := t.root, 0
	if p == nil {
		return 0
	}
	for p.kids != nil {
		i := p.kid(at)
		for _, k := range p.kids[:i] {
			n += k.size
		}
		p = p.kids[i]
	}
	i, _ := p.search(at)
	return n + i
}

// run returns the items from the n-th to the end of their page: none behind the
// last.
func (t tree[T]) run(n int) []T {
	p := t.root
	if p == nil || n >= p.size {
		return nil
	}
	for p.kids != nil {
		i := 0
		for ; n >= p.kids[i].size; i++ {
			n -= p.kids[i].size
		}
		p = p.kids[i]
	}
	return p.items[n:]
}

// from yields the items from the n-th on.
func (t tree[T]) from(n int) iter.Seq[T] {
	return func(yield func(T) bool) {
		for {
			run := t.run(n)
			if len(run) == 0 {
				return
			}
			n += len(run)
			for _, item := range run {
				if !yield(item) {
					return
				}
			}
		}
	}
}

// set puts an item in the place of an equal one, or in its order.
func (t tree[T]) set(item T, at place[T], edit uint64) tree[T] {
	if t.root == nil {
		return tree[T]{&page[T]{edit: edit, size: 1, items: []T{item}}}
	}
	p, next := t.root.set(item, at, edit)
	if next != nil {
		p = &page[T]{edit: edit, size: p.size + next.size, items: []T{p.items[0], next.items[0]}, kids: []*page[T]{p, next}}
	}
	return tree[T]{p}
}

// own returns p, or a copy where p may not be changed.
func (p *page[T]) own(edit uint64) *page[T] {
	if p.edit == edit {
		return p
	}
	c := &page[T]{edit: edit, size: p.size, items: append(make([]T, 0, len(p.items)+1), p.items...)}
	if p.kids != nil {
		c.kids = append(make([]*page[T], 0, len(p.kids)+1), p.kids...)
	}
	return c
}

// set returns what p becomes, and the page after it where it has become two.
func (p *page[T]) set(item T, at place[T], edit uint64) (self, next *page[T]) {
	p = p.own(edit)
	if p.kids == nil {
		i, found := p.search(at)
		if found {
			p.items[i] = item
			return p, nil
		}
		p.items = slices.Insert(p.items, i, item)
		p.size++
	} else {
		i := p.kid(at)
		before := p.kids[i].size
		kid, second := p.kids[i].set(item, at, edit)
		p.size += kid.size - before
		p.kids[i], p.items[i] = kid, kid.items[0]
		if second != nil {
			p.size += second.size
			p.kids = slices.Insert(p.kids, i+1, second)
			p.items = slices.Insert(p.items, i+1, second.items[0])
		}
	}
	if len(p.items) <= pageSize {
		return p, nil
	}
	half := len(p.items) / 2
	next = &page[T]{edit: edit, items: slices.Clone(p.items[half:])}
	clear(p.items[half:])
	p.items = p.items[:half]
	if p.kids == nil {
		next.size = len(next.items)
	} else {
		next.kids = slices.Clone(p.kids[half:])
		clear(p.kids[half:])
		p.kids = p.kids[:half]
		for _, k := range next.kids {
			next.size += k.size
		}
	}
	p.size -= next.size
	return p, next
}

// remove takes an item out, if it is there.
func (t tree[T]) remove(at place[T], edit uint64) tree[T] {
	if _, ok := t.get(at); !ok {
		return t
	}
	p := t.root.remove(at, edit)
	for p != nil && len(p.kids) == 1 {
		p = p.kids[0]
	}
	return tree[T]{p}
}

// remove takes out an item that is there; nil where nothing stays.
func (p *page[T]) remove(at place[T], edit uint64) *page[T] {
	if p.size == 1 {
		return nil
	}
	p = p.own(edit)
	p.size--
	if p.kids == nil {
		i, _ := p.search(at)
		p.items = slices.Delete(p.items, i, i+1)
		return p
	}
	i := p.kid(at)
	kid := p.kids[i].remove(at, edit)
	if kid == nil {
		p.drop(i)
		return p
	}
	p.kids[i], p.items[i] = kid, kid.items[0]
	if len(kid.items) < pageSize/4 && len(p.kids) > 1 { // join it to a neighbour, if both fit in one
		i = max(i, 1)
		if left, right := p.kids[i-1], p.kids[i]; len(left.items)+len(right.items) <= pageSize*3/4 {
			left = left.own(edit)
			left.items = append(left.items, right.items...)
			if right.kids != nil {
				left.kids = append(left.kids, right.kids...)
			}
			left.size += right.size
			p.kids[i-1] = left
			p.drop(i)
		}
	}
	return p
}

func (p *page[T]) drop(i int) {
	p.kids = slices.Delete(p.kids, i, i+1)
	p.items = slices.Delete(p.items, i, i+1)
}
