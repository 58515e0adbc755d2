package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/exchange"
	"roster/http1"
	"roster/node/accesslog"
	"roster/node/loop"
	"roster/node/table"
	"roster/node/tracing"
	"roster/pool"
)

// Config is what a Proxy needs. Table is required.
type Config struct {
	// Table returns the newest table. A request goes by the one that there is when it is
	// routed, but that no try reaches a backend which was drained or deleted since.
	Table func() *table.Table
	// Loops is how many threads serve the Sockets of listeners, each with a loop of its own.
	// Zero: listeners have no Sockets. More than that needs Pools, and Linux.
	Loops int
	// Pools is what the tables' pools are of.
	Pools *pool.Manager
	// Start is the zero of the tables' clock, see table.Applier.Start. Zero means the
	// time of New.
	Start time.Time
	// Await returns nil once Table's result has seen a revision, or ctx's error. It
	// may be nil if Exchange.MinRevisionWait is 0.
	Await func(ctx context.Context, revision int64) error
	// Exchange is the policy.
	Exchange exchange.Config
	// Limits bound the heads of requests and answers.
	Limits http1.Limits
	// AccessLog gets a record of every request; nil for none.
	AccessLog *accesslog.Log
	// Tracing takes part in traces; nil does not.
	Tracing *tracing.Tracer
	// Logger gets what is wrong with listeners, and panics. Nil means slog.Default.
	Logger *slog.Logger

	// IdleTimeout is how long a connection may be without a request. Zero means
	// 60s, near what nginx (75s) and browsers use. Less saves memory, more saves
	// clients handshakes.
	IdleTimeout time.Duration
	// HeadTimeout is how long a request's head may take from its first byte to its
	// last, so that slow heads do not pile up. Zero means 15s.
	HeadTimeout time.Duration
	// BodyTimeout is the longest silence within a request's body, until its answer
	// begins. Zero means 30s.
	BodyTimeout time.Duration
	// MinBodyRate is how many bytes a second a request's body must have on average,
	// in the time spent waiting for the client and after a grace of 5 s. It ends
	// what is sent byte by byte to keep connections busy. Zero means no such limit.
	MinBodyRate int64
	// WriteTimeout is how long a client may take to accept any byte of the answer.
	// Zero means 60s, as nginx's send_timeout.
	WriteTimeout time.Duration

	faults loop.Faults // of the loops, for tests
}

// Validate reports all values that cannot be meant.
func (c Config) Validate() error {
	var errs *multierror.Error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = multierror.Append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Table != nil, "no Table")
	check(c.Loops >= 0, "loops is %d, want 0 or more", c.Loops)
	check(c.Loops == 0 || c.Pools != nil, "no Pools, want those of the tables for loops")
	check(c.Await != nil || c.Exchange.MinRevisionWait == 0, "no Await, want one to wait for revisions")
	for _, t := range []struct {
		name string
		d    time.Duration
	}{
		{"idle", c.IdleTimeout}, {"head", c.HeadTimeout}, {"body", c.BodyTimeout}, {"write", c.WriteTimeout},
	} {
		check(t.d >= 0, "%s timeout is %v, want 0 (the default) or more", t.name, t.d)
	}
	check(c.MinBodyRate >= 0, "minimum body rate is %d, want 0 (none) or more bytes a second", c.MinBodyRate)
	check(c.Limits.MaxHead >= 0, "maximum head is %d bytes, want 0 (the default) or more", c.Limits.MaxHead)
	check(c.Limits.MaxFields >= 0, "maximum number of fields is %d, want 0 (the default) or more", c.Limits.MaxFields)
	check(c.Limits.MaxTarget >= 0, "maximum target is %d bytes, want 0 (the default) or more", c.Limits.MaxTarget)
	if err := c.Exchange.Validate(); err != nil {
		errs = multierror.Append(errs, err)
	}
	return errs.ErrorOrNil()
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	fill := func(d *time.Duration, is time.Duration) {
		if *d == 0 {
			*d = is
		}
	}
	fill(&c.IdleTimeout, 60*time.Second)
	fill(&c.HeadTimeout, 15*time.Second)
	fill(&c.BodyTimeout, 30*time.Second)
	fill(&c.WriteTimeout, 60*time.Second)
	if c.Start.IsZero() {
		c.Start = time.Now()
	}
	if c.Limits.MaxHead == 0 {
		c.Limits.MaxHead = 64 << 10
	}
	return c
}
