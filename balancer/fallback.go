package balancer

// fallback takes the first that may be chosen, in order. With sticky it keeps to
// what it chose last, whatever position that has by now, until it may not be chosen
// any more, and then goes on to the next that may, in order and after the last one
// from the first, as Varnish does. A retry looks further in the same way, but does
// not move the choice of other requests.
func (v *View) fallback(q *Query, m Members) int {
	if !v.def.Sticky {
		for _, at := range v.live {
			if v.may(int(at), m) {
				return int(at)
			}
		}
	}
	chose, from := uint64(0), 0
	if v.def.Sticky {
		chose, from = v.state.sticky.Load(), v.current
		if chose != v.chose {
			from = v.place(chose)
		}
	}
	at := -1
	if !v.panic {
		at = v.after(from, m.Available)
	}
	if at < 0 && v.def.Panic > 0 { // without panic yet: none is available, fewer than any share
		at = v.after(from, m.Present)
	}
	if v.def.Sticky && at >= 0 && q.Retry == 0 && !q.Peek {
		if now := choice(at, v.members[at].Ref); now != chose {
			v.state.sticky.CompareAndSwap(chose, now)
		}
	}
	return at
}

// first is the position of who is chosen as of the view's making, -1: nobody.
func (v *View) first() int {
	if len(v.live) == 0 {
		return -1
	}
	if v.def.Sticky {
		from := v.place(v.state.sticky.Load())
		for _, at := range v.live {
			if int(at) >= from {
				return int(at)
			}
		}
	}
	return int(v.live[0])
}

// after is the first position from a position on, and after the last one from 0,
// for which ok holds; -1 if there is none.
func (v *View) after(from int, ok func(int) bool) int {
	at := from
	for range v.members {
		if v.members[at].Weight > 0 && ok(at) {
			return at
		}
		if at++; at == len(v.members) {
			at = 0
		}
	}
	return -1
}

// choice is a sticky choice as State keeps it, never 0: that is none.
func choice(at int, ref uint32) uint64 { return (uint64(at)<<32 | uint64(ref)) + 1 }

// place is where a sticky choice is among the view's members: of one that has gone,
// where it was, so that the one that came after it is next.
func (v *View) place(chose uint64) int {
	if chose == 0 || len(v.members) == 0 {
		return 0
	}
	at, ref := int((chose-1)>>32), uint32(chose-1)
	if at < len(v.members) && v.members[at].Ref == ref {
		return at
	}
	for i := range v.members {
		if v.members[i].Ref == ref {
			return i
		}
	}
	return at % len(v.members)
}
