package pool

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// What Limit.Acquire returns besides nil and the context's error.
var (
	// ErrBusy: no slot is free and the queue is full or there is none.
	ErrBusy = errors.New("pool: backend busy")
	// ErrWaitTimeout: no slot became free within the wait timeout.
	ErrWaitTimeout = errors.New("pool: wait for a slot timed out")
	// ErrSick: Fail was called while the request waited.
	ErrSick = errors.New("pool: backend went sick or was deleted while a request waited for it")
)

// Limit bounds the requests in progress to one backend and queues those above,
// first come, first served. It belongs to the backend's name and outlives its
// definitions: requests begun under an older one count against the newest
// limit. The zero value has no limit, and then Acquire and Release cost one
// compare-and-swap each. All methods may be called from any goroutine.
type Limit struct {
	// word is the number of requests in progress, shifted by one; its lowest
	// bit is set while there is a limit, and then only the holder of mu changes
	// the number. One word, so that the switch to a limit cannot miscount those
	// that come in at the same moment.
	word atomic.Int64

	mu          sync.Mutex
	max         int
	waitLimit   int
	waitTimeout time.Duration
	failed      bool // Fail was called, and not Set since
	queued      int
	first, last *waiter
}

const (
	limitedBit = 1
	oneRequest = 2
)

// A waiter is one queued request. All fields belong to the Limit's mu, but for
// what may be read after a receive from woken.
type waiter struct {
	next, prev *waiter
	queued     bool
	err        error         // nil: a slot was granted
	woken      chan struct{} // holds one value, so that waking never blocks
}

// Set changes the limit: max requests in progress, 0 or less for no limit; at
// most waitLimit more wait, each at most waitTimeout; there is no queue unless
// both are above 0. A raised limit admits waiters at once. A lowered one
// interrupts nobody, and those waiting keep the time they were given. After Fail,
// Set opens the queue again.
func (l *Limit) Set(max, waitLimit int, waitTimeout time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.max, l.waitLimit, l.waitTimeout, l.failed = max, waitLimit, waitTimeout, false
	if max > 0 {
		l.word.Or(limitedBit)
	}
	l.admitLocked()
	if max <= 0 {
		l.word.And(^limitedBit)
	}
}

// Acquire takes a slot, waiting for one in the queue if there is none; after
// nil Release must follow. Otherwise the error is ErrBusy, ErrWaitTimeout,
// ErrSick or that of ctx, and no slot is held. A slot that is granted at the
// moment the wait times out is taken.
func (l *Limit) Acquire(ctx context.Context) error {
	for {
		w := l.word.Load()
		if w&limitedBit != 0 {
			return l.acquireLimited(ctx)
		}
		if l.word.CompareAndSwap(w, w+oneRequest) {
			return nil
		}
	}
}

func (l *Limit) acquireLimited(ctx context.Context) error {
	l.mu.Lock()
	if l.first == nil && l.freeLocked() {
		l.word.Add(oneRequest)
		l.mu.Unlock()
		return nil
	}
	if l.failed {
		l.mu.Unlock()
		return ErrSick
	}
	if l.waitTimeout <= 0 || l.queued >= l.waitLimit {
		l.mu.Unlock()
		return ErrBusy
	}
	w := &waiter{woken: make(chan struct{}, 1)}
	l.pushLocked(w)
	timeout := l.waitTimeout
	l.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-w.woken:
		return w.err
	case <-timer.C:
		if l.leave(w) {
			return ErrWaitTimeout
		}
		return w.err
	case <-ctx.Done():
		if !l.leave(w) && w.err == nil {
			l.Release() // granted meanwhile, and nobody is there to use it
		}
		return ctx.Err()
	}
}

// Release gives a slot back, to the longest waiting request if there is one. It
// panics if none is held.
func (l *Limit) Release() {
	for {
		w := l.word.Load()
		if w < oneRequest {
			panic("pool: Limit.Release without Acquire")
		}
		if w&limitedBit != 0 {
			l.mu.Lock()
			l.word.Add(-oneRequest)
			l.admitLocked()
			l.mu.Unlock()
			return
		}
		if l.word.CompareAndSwap(w, w-oneRequest) {
			return
		}
	}
}

// Fail wakes all waiting requests with ErrSick, and until Set those that come
// later and would have to wait get it, too: they chose the backend before it went
// sick or was deleted. Who finds a free slot has it: whether a backend may be
// asked at all is the caller's to know.
func (l *Limit) Fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed = true
	for l.first != nil {
		l.wakeLocked(ErrSick)
	}
}

// Active returns the number of requests in progress.
func (l *Limit) Active() int { return int(l.word.Load() / oneRequest) }

// Queued returns the number of waiting requests.
func (l *Limit) Queued() int {
	if l.word.Load()&limitedBit == 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued
}

func (l *Limit) freeLocked() bool { return l.max <= 0 || l.Active() < l.max }

// admitLocked gives free slots to waiters, in their order.
func (l *Limit) admitLocked() {
	for l.first != nil && l.freeLocked() {
		l.word.Add(oneRequest)
		l.wakeLocked(nil)
	}
}

// wakeLocked takes the first waiter from the queue and tells it the outcome.
func (l *Limit) wakeLocked(err error) {
	w := l.first
	l.removeLocked(w)
	w.err = err
	w.woken <- struct{}{}
}

// leave takes w out of the queue; it is false if w was woken before.
func (l *Limit) leave(w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !w.queued {
		return false
	}
	l.removeLocked(w)
	return true
}

func (l *Limit) pushLocked(w *waiter) {
	w.queued, w.prev = true, l.last
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	l.queued++
}

func (l *Limit) removeLocked(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.next, w.prev, w.queued = nil, nil, false
	l.queued--
}
