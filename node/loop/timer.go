package loop

import (
	"math/bits"
	"time"
)

// Resolution is the loop's tick: how late a timer may be.
const Resolution = 10 * time.Millisecond

// An Expirer is told when a Timer it was armed with is due.
type Expirer interface{ Expired(*Timer) }

// A Timer calls its Expirer once, at its time or at most Resolution and one turn
// later. The zero value is not armed. It lies in its owner's struct, and must not
// be copied, or its memory reused, before Unlink.
type Timer struct {
	expirer    Expirer
	at         time.Duration // 0: not armed
	next, prev *Timer
	tick       int64 // to be looked at no later than this
	place      int16 // 1 + its list in the wheel, 0: none
}

// At returns when the timer is due, zero if it is not armed.
func (t *Timer) At() time.Duration { return t.at }

// Arm sets when t is due, by Now's clock, and whom to tell. What it was armed for
// before is forgotten. To put it off costs next to nothing.
func (l *Loop) Arm(t *Timer, at time.Duration, e Expirer) {
	t.at, t.expirer = max(at, 1), e
	l.wheel.arm(t)
}

// Disarm makes t call nobody. It stays in the loop until the time it was armed
// for.
func (l *Loop) Disarm(t *Timer) { t.at = 0 }

// Unlink disarms t and takes it out of the loop at once.
func (l *Loop) Unlink(t *Timer) {
	l.wheel.remove(t)
	*t = Timer{}
}

const (
	levelBits = 6
	slotsOf   = 1 << levelBits // of a level
	levels    = 7              // 2^42 ticks are more than a Duration can hold
	dueNow    = levels * slotsOf
)

// A wheel holds timers by the tick they have to be looked at: a hierarchy of
// wheels, where a slot of one level is as long as the level below, and a timer is
// in the lowest level whose current turn covers it. It goes down a level when its
// slot begins, so a timer is looked at a few times in its life, however far ahead
// it is, and an otherwise empty wheel needs no ticking.
type wheel struct {
	now   int64 // the tick up to which all is done
	used  [levels]uint64
	lists [dueNow + 1]*Timer // the last are those whose slot has begun
}

// tickOf is the first tick at or after t.
func tickOf(t time.Duration) int64 {
	return int64((t-1)/Resolution) + 1
}

// arm puts t where it belongs, unless it is looked at early enough where it is.
func (w *wheel) arm(t *Timer) {
	tick := tickOf(t.at)
	if t.place != 0 {
		if t.tick <= tick {
			return
		}
		w.remove(t)
	}
	w.insert(t, tick)
}

func (w *wheel) insert(t *Timer, tick int64) {
	t.tick = max(tick, w.now+1)
	level := (bits.Len64(uint64(t.tick^w.now)) - 1) / levelBits
	slot := int(t.tick>>(level*levelBits)) & (slotsOf - 1)
	w.used[level] |= 1 << slot
	w.link(t, level*slotsOf+slot)
}

func (w *wheel) link(t *Timer, place int) {
	first := w.lists[place]
	t.place, t.prev, t.next = int16(place+1), nil, first
	if first != nil {
		first.prev = t
	}
	w.lists[place] = t
}

func (w *wheel) remove(t *Timer) {
	if t.place == 0 {
		return
	}
	place := int(t.place - 1)
	if t.next != nil {
		t.next.prev = t.prev
	}
	if t.prev != nil {
		t.prev.next = t.next
	} else {
		w.lists[place] = t.next
		if t.next == nil && place < dueNow {
			w.used[place/slotsOf] &^= 1 << (place % slotsOf)
		}
	}
	t.place, t.next, t.prev = 0, nil, nil
}

// first returns the slot that begins next, and at which tick.
func (w *wheel) first() (place int, tick int64, ok bool) {
	for level := range levels {
		shift := level * levelBits
		current := int(w.now>>shift) & (slotsOf - 1)
		// Two shifts, because the current slot may be the last.
		if ahead := w.used[level] >> current >> 1; ahead != 0 {
			slot := current + 1 + bits.TrailingZeros64(ahead)
			tick = (w.now>>shift&^(slotsOf-1) | int64(slot)) << shift
			return level*slotsOf + slot, tick, true
		}
	}
	return 0, 0, false
}

// next returns when a timer has to be looked at.
func (w *wheel) next() (at time.Duration, ok bool) {
	if w.lists[dueNow] != nil {
		return time.Duration(w.now) * Resolution, true
	}
	_, tick, ok := w.first()
	return time.Duration(tick) * Resolution, ok
}

// due returns a timer that is due at now and not armed any more, nil when there
// are no more.
func (w *wheel) due(now time.Duration) *Timer {
	until := int64(now / Resolution)
	if until <= w.now && w.lists[dueNow] == nil {
		return nil
	}
	for {
		for t := w.lists[dueNow]; t != nil; t = w.lists[dueNow] {
			w.remove(t)
			if t.at == 0 {
				continue
			}
			if tick := tickOf(t.at); tick > w.now {
				w.insert(t, tick)
				continue
			}
			t.at = 0
			return t
		}
		place, tick, ok := w.first()
		if !ok || tick > until {
			w.now = max(w.now, until)
			return nil
		}
		w.now = tick
		w.begin(place)
	}
}

// begin moves what is in a slot to those to be looked at now.
func (w *wheel) begin(place int) {
	for t := w.lists[place]; t != nil; t = w.lists[place] {
		w.remove(t)
		w.link(t, dueNow)
	}
}
