package prober

import (
	"fmt"
	"log/slog"

	"github.com/hashicorp/go-multierror"
)

// Config is what all probers of a node have in common. Pools is required.
type Config struct {
	// Pools gives probers the pools that they connect by.
	Pools Pools

	// Node is the name of this node. When a check is probed depends on it, so that
	// a fleet does not probe a backend all at once.
	Node string

	// Concurrency bounds how many probes are under way, the first ones of all checks
	// at a start too, each with a descriptor and some 15 KiB of memory while it is.
	// Half of it is for checks that answer within a quarter of a second, half for the
	// others, so that backends that do not answer at all delay nobody else's probes:
	// n of them need n times timeout / (timeout + interval) places to be probed in
	// time themselves. Above that probes are late; see Stats.Lateness. Zero means
	// 16384, or a quarter of the descriptors that the process may have, if that is
	// less; 1 is as 2.
	Concurrency int

	// Logger gets local faults. Nil means slog.Default.
	Logger *slog.Logger
}

// Validate reports all values that cannot be meant.
func (c Config) Validate() error {
	var errs *multierror.Error
	if c.Pools == nil {
		errs = multierror.Append(errs, fmt.Errorf("pools are missing"))
	}
	if c.Concurrency < 0 {
		errs = multierror.Append(errs, fmt.Errorf("concurrency is %d, want 0 (the default) or more", c.Concurrency))
	}
	return errs.ErrorOrNil()
}

func (c Config) withDefaults() Config {
	if c.Concurrency == 0 {
		c.Concurrency = 16384
		if n := maxDescriptors(); n > 0 {
			c.Concurrency = min(c.Concurrency, n/4)
		}
	}
	c.Concurrency = max(c.Concurrency, 2)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
