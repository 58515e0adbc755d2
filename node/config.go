package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/exchange"
	"roster/pool"
	"roster/store"
	"roster/store/embedded"
)

// Config says what a node listens on, which etcd it follows and how it proxies.
type Config struct {
	// Listen are the addresses for clients: "host:port", ":port" for all
	// addresses, "unix:///path". At least one.
	Listen []string
	// Admin is the loopback address of the admin API; empty for none.
	Admin string
	// AdminHosts are names besides loopback's that a request to the admin API
	// may have as Host.
	AdminHosts []string

	// Store says how to reach etcd. Its Endpoints are ignored where Embedded
	// is set.
	Store store.Config
	// Embedded runs an etcd inside the node; nil for none.
	Embedded *embedded.Config
	// UnknownFields says whether a field nobody knows rejects a definition.
	UnknownFields store.UnknownFields

	// ID names the node; empty means host name and first listen port.
	ID string
	// Version is the program's, for status and metrics.
	Version string

	// DrainDelay is how long, after Run's context ends, connections are still
	// accepted, so that balancers see that the node is not ready. Zero: not.
	DrainDelay time.Duration
	// DrainTimeout is how long requests in flight may take after that before
	// they are cut off. Zero: at once.
	DrainTimeout time.Duration

	// Proxy is the policy towards clients.
	Proxy exchange.Config
	// DNSInterval is how often names of backends are resolved; zero means 30s.
	DNSInterval time.Duration
	// Destinations says where backends may point. Run adds the node's own
	// admin and etcd addresses.
	Destinations pool.Rules

	// Logger gets everything worth a line. Nil discards.
	Logger *slog.Logger
}

// Validate reports all values that cannot be meant.
func (c Config) Validate() error {
	var errs *multierror.Error
	fail := func(format string, args ...any) { errs = multierror.Append(errs, fmt.Errorf(format, args...)) }
	if len(c.Listen) == 0 {
		fail("listen is missing, want an address such as :8080")
	}
	for _, l := range c.Listen {
		if _, _, err := network(l); err != nil {
			fail("listen is %q: %w", l, err)
		}
	}
	if c.Admin != "" && checkHostPort(c.Admin) != nil {
		fail("admin is %q: %w", c.Admin, checkHostPort(c.Admin))
	} else if c.Admin != "" && !loopback(c.Admin) {
		fail("admin is %q, want a loopback address such as 127.0.0.1:6082: it has no password", c.Admin)
	}
	etcd := c.Store
	if c.Embedded != nil {
		etcd.Endpoints = []string{embedded.DefaultListen} // its own, known once it runs
		errs = multierror.Append(errs, c.Embedded.Validate())
	}
	errs = multierror.Append(errs, etcd.Validate())
	if c.DrainDelay < 0 {
		fail("drain delay is %v, want 0 or more", c.DrainDelay)
	}
	if c.DrainTimeout < 0 {
		fail("drain timeout is %v, want 0 or more", c.DrainTimeout)
	}
	errs = multierror.Append(errs, c.Proxy.Validate(),
		pool.Config{DNSInterval: c.DNSInterval, Rules: c.Destinations}.Validate())
	return errs.ErrorOrNil()
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.ID == "" {
		c.ID = defaultID(c.Listen[0])
	}
	return c
}

// defaultID is host name and listen port, "edge-3:8080".
func defaultID(listen string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	if _, port, err := net.SplitHostPort(listen); err == nil {
		return host + ":" + port
	}
	return host
}

// network splits a listen address into what net.Listen takes.
func network(listen string) (net, address string, err error) {
	if path, ok := strings.CutPrefix(listen, "unix://"); ok {
		if path == "" {
			return "", "", errors.New("want unix:///path")
		}
		return "unix", path, nil
	}
	if strings.Contains(listen, "://") {
		return "", "", errors.New("want host:port, :port or unix:///path; this version has no TLS listeners")
	}
	return "tcp", listen, checkHostPort(listen)
}

func checkHostPort(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("want host:port or :port: %w", err)
	}
	if _, err := net.LookupPort("tcp", port); err != nil {
		return fmt.Errorf("port is %q, want 0 to 65535", port)
	}
	return nil
}

// loopback says whether only this machine reaches an address.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
