package pool

import (
	"sync"
	"sync/atomic"
	"time"
)

// How long an address is not dialled again. The contract's numbers: Varnish's
// backend_remote_error_holddown is 250 ms; its 10 s for local errors turned a
// moment without ports into a long outage (varnish-cache#2622), so 1 s.
const (
	remoteHolddown = 250 * time.Millisecond
	localHolddown  = time.Second
)

// holddown knows the addresses that lately refused, for all pools: whoever dials
// the same address shares its fate. Nothing held costs one atomic load per dial.
type holddown struct {
	count atomic.Int32 // of held

	mu   sync.Mutex
	held map[target]hold
}

type hold struct {
	until time.Duration // by the Manager's clock
	cause *Error
}

// cause returns why t is not to be dialled now, or nil.
func (h *holddown) cause(t target, now time.Duration) *Error {
	if h.count.Load() == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if e, ok := h.held[t]; ok && now < e.until {
		held := *e.cause
		held.Held = true
		return &held
	}
	return nil
}

// set holds t if its failure is one that a second dial would meet again.
func (h *holddown) set(t target, cause *Error, now time.Duration) {
	var d time.Duration
	switch cause.Kind {
	case Refused, Unroutable:
		d = remoteHolddown
	case Local:
		d = localHolddown
	default:
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.held == nil {
		h.held = make(map[target]hold)
	}
	h.held[t] = hold{until: now + d, cause: cause}
	h.count.Store(int32(len(h.held)))
}

// clear ends the holddown of t, because a dial got through.
func (h *holddown) clear(t target) {
	if h.count.Load() == 0 {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.held, t)
	h.count.Store(int32(len(h.held)))
}

// purge forgets what is over, and says whether there is anything else.
func (h *holddown) purge(now time.Duration) bool {
	if h.count.Load() == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for t, e := range h.held {
		if now >= e.until {
			delete(h.held, t)
		}
	}
	h.count.Store(int32(len(h.held)))
	return len(h.held) > 0
}
