package table

// vector is a persistent array of slots in three levels. An edit copies one
// leaf, one middle node (512 bytes each) and the top (8 bytes per 4,096
// slots); everything else is shared with every older vector.
type vector struct {
	top []*middle
}

type (
	middle [64]*leaf
	leaf   [64]*Slot
)

// at returns slot i, nil where nothing was ever set.
func (v vector) at(i Ref) *Slot {
	if t := int(i >> 12); t < len(v.top) {
		if m := v.top[t]; m != nil {
			if l := m[i>>6&63]; l != nil {
				return l[i&63]
			}
		}
	}
	return nil
}

// edit changes a vector: nodes copied once by this edit are then changed in
// place, and belong to everyone once the edit is done.
type edit struct {
	vector
	middles map[*middle]struct{}
	leaves  map[*leaf]struct{}
	copied  bool
}

func (v vector) edit() *edit {
	return &edit{vector: v}
}

func (e *edit) set(i Ref, s *Slot) {
	t := int(i >> 12)
	if !e.copied || t >= len(e.top) {
		top := make([]*middle, max(t+1, len(e.top)))
		copy(top, e.top)
		e.top, e.copied = top, true
	}
	m := e.top[t]
	if _, mine := e.middles[m]; !mine {
		m = clone(m)
		e.top[t] = m
		e.middles = note(e.middles, m)
	}
	l := m[i>>6&63]
	if _, mine := e.leaves[l]; !mine {
		l = clone(l)
		m[i>>6&63] = l
		e.leaves = note(e.leaves, l)
	}
	l[i&63] = s
}

func clone[T any](p *T) *T {
	c := new(T)
	if p != nil {
		*c = *p
	}
	return c
}

func note[K comparable](m map[K]struct{}, k K) map[K]struct{} {
	if m == nil {
		m = make(map[K]struct{}, 4)
	}
	m[k] = struct{}{}
	return m
}
