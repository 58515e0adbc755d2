package pool

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/go-multierror"
)

// Config is what all pools of a node have in common. The zero Config is usable.
type Config struct {
	// Rules say where no backend may point.
	Rules Rules
	// DNSInterval is the time from one lookup of a name to the next; it is also
	// how long a moved backend is still dialled at its old address. Zero means
	// 30s, as HAProxy's resolvers hold a valid answer.
	DNSInterval time.Duration
	// Resolver looks names up. Nil means net.DefaultResolver.
	Resolver Resolver
	// Logger gets local faults and the fates of names. Nil means slog.Default.
	Logger *slog.Logger
	// Dial connects to a numeric address ("tcp", "10.0.0.7:80") or a socket
	// ("unix", "/run/app"; "@app" is abstract). Nil means the system's; tests
	// put pipes here.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Resolver is what pools need of a net.Resolver.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Validate reports all values that cannot be meant.
func (c Config) Validate() error {
	var errs *multierror.Error
	if c.DNSInterval < 0 {
		errs = multierror.Append(errs, fmt.Errorf("DNS interval is %v, want 0 (30s) or more", c.DNSInterval))
	}
	for _, list := range [][]netip.Prefix{c.Rules.Allow, c.Rules.Deny} {
		for _, p := range list {
			if !p.IsValid() {
				errs = multierror.Append(errs, fmt.Errorf("prefix %v is not valid", p))
			}
		}
	}
	return errs.ErrorOrNil()
}

func (c Config) withDefaults() Config {
	if c.DNSInterval == 0 {
		c.DNSInterval = 30 * time.Second
	}
	if c.Resolver == nil {
		c.Resolver = net.DefaultResolver
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}
