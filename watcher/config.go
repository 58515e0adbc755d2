package watcher

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/store"
)

// Config says what to watch and how hard to doubt it. Only Store is required.
type Config struct {
	// Store gives the etcd client and the prefix.
	Store *store.Store

	// UnknownFields says whether unknown fields of a value reject it.
	UnknownFields store.UnknownFields

	// Values has changes carry the bytes of values, for whoever saves them. They stay in
	// memory, besides the definitions that they decode to.
	Values bool

	// Saved is asked, once, for the state to begin with if etcd has not given one within
	// SavedAfter of New; a list that has begun to come by then is waited for. What it returns
	// is the first change, and compared with etcd's list once there is one. Run calls it
	// and does nothing else meanwhile. Nil, or nil from it: there is nothing to begin with.
	Saved func() *Saved

	// SavedAfter is how long etcd is waited for before Saved is asked. Zero means 5s. Less
	// serves sooner where there is no etcd, and something old for a moment where it is slow.
	SavedAfter time.Duration

	// Changed is called when Status may have changed without a Change: after each proof that
	// nothing was missed, and when an empty list is held. It must not wait. Nil: nobody is told.
	Changed func()

	// Logger gets a line for each transition: etcd lost and back, its history
	// replaced, an empty list held. Nil discards them.
	Logger *slog.Logger

	// ProofInterval is the time between two proofs that nothing was missed, jittered
	// by a fifth. Zero means 5s. Each costs etcd one progress request, no read.
	ProofInterval time.Duration

	// ProofTimeout bounds the wait for the answer to a progress request and for one
	// linearizable read; a stream may take twice as long to open. Zero means 2s. Lower
	// notices a dead connection sooner and takes a loaded etcd for a dead one more often.
	ProofTimeout time.Duration

	// ListTimeout bounds the read of one page of the list. Zero means 5s. A page is
	// of at most 1000 keys; one that is not read in time is tried again with fewer,
	// so that large values come over a slow link too.
	ListTimeout time.Duration

	// RetryMin and RetryMax bound the pause before another attempt at etcd. It
	// doubles from one to the other, and half of it is random. Zero means 100ms and
	// 2s. What happens while etcd is away is seen at most RetryMax, a connect and a
	// list after its return.
	RetryMin time.Duration
	RetryMax time.Duration
}

func (c Config) withDefaults() Config {
	fill := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	fill(&c.ProofInterval, 5*time.Second)
	fill(&c.ProofTimeout, 2*time.Second)
	fill(&c.ListTimeout, 5*time.Second)
	fill(&c.SavedAfter, 5*time.Second)
	fill(&c.RetryMin, 100*time.Millisecond)
	fill(&c.RetryMax, max(2*time.Second, c.RetryMin))
	if c.Changed == nil {
		c.Changed = func() {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every fault of the configuration, as *multierror.Error.
func (c Config) Validate() error {
	c = c.withDefaults()
	var errs *multierror.Error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = multierror.Append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Store != nil, "store is missing")
	check(c.ProofInterval > 0, "proof interval is %v, want above 0", c.ProofInterval)
	check(c.ProofTimeout > 0, "proof timeout is %v, want above 0", c.ProofTimeout)
	check(c.ListTimeout > 0, "list timeout is %v, want above 0", c.ListTimeout)
	check(c.SavedAfter > 0, "saved after is %v, want above 0", c.SavedAfter)
	check(c.RetryMin > 0, "retry min is %v, want above 0", c.RetryMin)
	check(c.RetryMax >= c.RetryMin, "retry max is %v, want at least retry min (%v)", c.RetryMax, c.RetryMin)
	return errs.ErrorOrNil()
}
