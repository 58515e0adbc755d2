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
	mu          sync.Mutex
	max         int
	waitLimit   int
	waitTimeout time.Duration
	failed      bool // Fail was called, and not Set since
	queued      int
	first, last *Waiter

	// word is the number of requests in progress, shifted by one; its lowest
	// bit is set while there is a limit, and then only the holder of mu changes
	// the number. One word, so that the switch to a limit cannot miscount those
	// that come in at the same moment.
	word atomic.Int64
}

const (
	limitedBit = 1
	oneRequest = 2
)

// A Waiter is a place in a Limit's queue. It is usable anew once its wait is over. All
// fields belong to the Limit's mu.
type Waiter struct {
	next, prev *Waiter
	queued     bool
	wake       func(error)
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
	if l.enterUnlimited() {
		return nil
	}
	l.mu.Lock()
	if held, err := l.enterLocked(); held || err != nil {
		l.mu.Unlock()
		return err
	}
	woken := make(chan error, 1)
	var w Waiter
	l.pushLocked(&w, func(err error) { woken <- err })
	timeout := l.waitTimeout
	l.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case err := <-woken:
		return err
	case <-timer.C:
		if l.Leave(&w) {
			return ErrWaitTimeout
		}
		return <-woken
	case <-ctx.Done():
		if !l.Leave(&w) && <-woken == nil {
			l.Release() // granted meanwhile, and nobody is there to use it
		}
		return ctx.Err()
	}
}

// TryAcquire takes a slot if one is free and nobody waits for it.
func (l *Limit) TryAcquire() bool {
	if l.enterUnlimited() {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first != nil || !l.freeLocked() {
		return false
	}
	l.word.Add(oneRequest)
	return true
}

// Enqueue is Acquire for those who must not wait. If held is true a slot is taken, and
// an err is ErrBusy or ErrSick. Otherwise w is in the queue: wake is called once, by any
// goroutine and perhaps before Enqueue returns, with nil if a slot is taken or ErrSick,
// unless Leave is true before; that, after timeout, is the caller's to do. wake must not
// wait, nor call the Limit.
func (l *Limit) Enqueue(w *Waiter, wake func(error)) (held bool, timeout time.Duration, err error) {
	if l.enterUnlimited() {
		return true, 0, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if held, err := l.enterLocked(); held || err != nil {
		return held, 0, err
	}
	l.pushLocked(w, wake)
	return false, l.waitTimeout, nil
}

// Leave takes w out of the queue. It is false if w is not there any more: then its wake
// was called, or is being called.
func (l *Limit) Leave(w *Waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !w.queued {
		return false
	}
	l.removeLocked(w)
	return true
}

// enterUnlimited takes a slot if there is no limit.
func (l *Limit) enterUnlimited() bool {
	for {
		w := l.word.Load()
		if w&limitedBit != 0 {
			return false
		}
		if l.word.CompareAndSwap(w, w+oneRequest) {
			return true
		}
	}
}

// enterLocked takes a slot. If there is neither that nor an error there is room in the
// queue.
func (l *Limit) enterLocked() (held bool, err error) {
	switch {
	case l.first == nil && l.freeLocked():
		l.word.Add(oneRequest)
		return true, nil
	case l.failed:
		return false, ErrSick
	case l.waitTimeout <= 0 || l.queued >= l.waitLimit:
		return false, ErrBusy
	}
	return false, nil
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
	wake := l.first.wake
	l.removeLocked(l.first)
	wake(err)
}

func (l *Limit) pushLocked(w *Waiter, wake func(error)) {
	*w = Waiter{prev: l.last, queued: true, wake: wake}
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	l.queued++
}

func (l *Limit) removeLocked(w *Waiter) {
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
	*w = Waiter{}
	l.queued--
}
