package balancer

import (
	"sync/atomic"
	"time"
)

// Budget keeps retries to a share of a director's requests, so that they cannot
// multiply the load of backends that are failing. It looks at the last ten seconds
// or so, in steps of one. The zero value is ready; any goroutine may use it at any
// time, without a lock.
type Budget struct {
	// A slot is one second: which one in its upper bits, then how many retries, then
	// how many requests, in one word so that a new second takes it over at once.
	slots [budgetSlots]atomic.Uint64
}

const (
	budgetSlots  = 16 // a power of two
	budgetWindow = 10 // seconds
	// minRetries may be made in a window whatever the requests, so that a lone
	// request may be tried again: one a second on average.
	minRetries = 10

	requestBits = 24 // 16 million a second
	retryBits   = 16 // a full slot admits no more
	maxRequests = 1<<requestBits - 1
	maxRetries  = 1<<retryBits - 1
	secondShift = requestBits + retryBits
	maxSecond   = 1<<(64-secondShift) - 1
)

// Request counts a request that is not a retry.
func (b *Budget) Request(now time.Duration) {
	slot, second := b.at(now)
	for {
		old := slot.Load()
		next := old + 1
		if old>>secondShift != second {
			next = second<<secondShift | 1
		} else if old&maxRequests == maxRequests {
			return
		}
		if slot.CompareAndSwap(old, next) {
			return
		}
	}
}

// Take says whether a request may be tried again, and counts it as a retry then:
// retries are at most share times the requests of the last ten seconds, and ten
// more. A share of 0 or less admits none.
func (b *Budget) Take(share float64, now time.Duration) bool {
	if share <= 0 {
		return false
	}
	slot, second := b.at(now)
	for {
		// The slot is read before the sums: when others count in it meanwhile, the
		// swap fails and the sums are made again, so that callers at once do not
		// take more than there is.
		old := slot.Load()
		requests, retries := b.sum(second)
		if float64(retries) >= minRetries+share*float64(requests) {
			return false
		}
		next := old + 1<<requestBits
		if old>>secondShift != second {
			next = second<<secondShift | 1<<requestBits
		} else if old>>requestBits&maxRetries == maxRetries {
			return false
		}
		if slot.CompareAndSwap(old, next) {
			return true
		}
	}
}

func (b *Budget) at(now time.Duration) (*atomic.Uint64, uint64) {
	second := uint64(now/time.Second) & maxSecond
	return &b.slots[second%budgetSlots], second
}

// sum adds up the window that ends with second.
func (b *Budget) sum(second uint64) (requests, retries uint64) {
	for i := range b.slots {
		word := b.slots[i].Load()
		if age := (second - word>>secondShift) & maxSecond; age < budgetWindow {
			requests += word & maxRequests
			retries += word >> requestBits & maxRetries
		}
	}
	return requests, retries
}
