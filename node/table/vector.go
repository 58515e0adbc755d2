package table

// vector is a persistent array of slots in three levels. An edit copies one
// leaf, one middle node (512 bytes each) and the top (8 bytes per 4,096
// slots); everything else is shared with every older vector.
type vector struct {
	top []*middle
}

type (
	middle struct {
		leaves [64]*leaf
		edit   uint64 // that made it, and may change it in place until it is done
	}
	leaf struct {
		slots [64]*Slot
		edit  uint64
	}
)

// at returns slot i, nil where nothing was ever set.
func (v vector) at(i Ref) *Slot {
	if t := int(i >> 12); t < len(v.top) {
		if m := v.top[t]; m != nil {
			if l := m.leaves[i>>6&63]; l != nil {
				return l.slots[i&63]
			}
		}
	}
	return nil
}

// edit changes a vector. Nodes it has copied carry its number, which no other
// edit of the same table has.
type edit struct {
	vector
	number uint64
	copied bool // the top is its own
}

func (e *edit) set(i Ref, s *Slot) {
	t := int(i >> 12)
	if !e.copied || t >= len(e.top) {
		top := make([]*middle, max(t+1, len(e.top)))
		copy(top, e.top)
		e.top, e.copied = top, true
	}
	m := e.top[t]
	if m == nil || m.edit != e.number {
		m = clone(m)
		m.edit = e.number
		e.top[t] = m
	}
	l := m.leaves[i>>6&63]
	if l == nil || l.edit != e.number {
		l = clone(l)
		l.edit = e.number
		m.leaves[i>>6&63] = l
	}
	l.slots[i&63] = s
}

func clone[T any](p *T) *T {
	c := new(T)
	if p != nil {
		*c = *p
	}
	return c
}
