package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"roster/exchange"
	"roster/http1"
	"roster/node/accesslog"
	"roster/node/admin"
	"roster/node/certs"
	"roster/node/handover"
	"roster/node/peer"
	"roster/node/proxy"
	"roster/node/sockets"
	"roster/node/table"
	"roster/node/tracing"
	"roster/pool"
	"roster/store"
	"roster/store/embedded"
)

// maxLoops is the most for Config.Loops: a socket can wake 500 loops that rest (path_limits
// of Linux's fs/eventpoll.c), and in an upgrade those of two processes share it.
const maxLoops = 250

// Loops returns how many loops a valid Config.Loops asks for.
func Loops(n int) int {
	switch {
	case n >= 0:
		return n
	case runtime.GOOS != "linux":
		return 0
	}
	return min(runtime.GOMAXPROCS(0), maxLoops)
}

// Config says what a node listens on, which etcd it follows and how it proxies.
type Config struct {
	// Listen are the addresses for clients: "host:port", ":port" for all
	// addresses, "tls://host:port", "unix:///path". At least one.
	Listen []string
	// Certificates are those of files for the listeners with TLS, which have
	// those of the definitions besides.
	Certificates certs.Config
	// AcceptProxy are the peers whose connections must begin with a PROXY header.
	AcceptProxy []netip.Prefix
	// MaxConnections are served at a time by each listener; further clients wait
	// in the system's queue. Zero: any number.
	MaxConnections int
	// Loops is how many threads serve plain HTTP/1.1, each with an epoll of its own, and so
	// how many sockets an address has; what a loop does not speak it hands to goroutines.
	// Zero: goroutines serve all. -1: as many as GOMAXPROCS, none but on Linux. At most 250.
	Loops int
	// Admin is the address of the admin API; empty for none. Other than loopback's it
	// needs AdminAccess to have tokens and TLS.
	Admin string
	// AdminAccess says who may use the admin API.
	AdminAccess admin.Access
	// PeerListen is where peers, nodes of the same prefix and etcd, are told what this one
	// knows; empty for nowhere, and then they are not asked either when this one starts.
	PeerListen string
	// PeerAdvertise is where peers reach PeerListen; empty means there, or, if that is all
	// addresses, at the one that leads to etcd.
	PeerAdvertise string
	// PeerFiles are required for PeerListen.
	PeerFiles peer.Files
	// Sockets are what all of these addresses are looked for in first; Run closes them.
	// Nil: nothing is inherited.
	Sockets *sockets.Set
	// Predecessor is the process that this one replaces, once it is ready. Nil: none.
	Predecessor *handover.Predecessor
	// Program is what [Node.Upgrade] starts. Nil: there are no upgrades.
	Program *handover.Program
	// UpgradeTimeout is how long a new process may take to be ready. Zero means 1m.
	UpgradeTimeout time.Duration

	// Store says how to reach etcd. Its Endpoints are ignored where Embedded
	// is set.
	Store store.Config
	// Embedded runs an etcd inside the node; nil for none.
	Embedded *embedded.Config
	// Snapshot is the file that keeps what is applied, for a start without etcd; empty for
	// none. Not with Embedded.
	Snapshot string
	// SnapshotAfter is how long a node that starts waits for etcd before it takes what that
	// file has. Zero: 5s.
	SnapshotAfter time.Duration
	// UnknownFields says whether a field nobody knows rejects a definition.
	UnknownFields store.UnknownFields

	// ID names the node; empty means host name and first listen port.
	ID string
	// Version is the program's, for status and metrics.
	Version string

	// Guard is the percentage, 1 to 100, of the backends of five minutes ago below which
	// removals are held, see [guard.Guard]. Zero: nothing is held.
	Guard int

	// ReadyTimeout is how long, after the first table, the node waits to be ready for
	// the first answers of that table's probes. Zero: not.
	ReadyTimeout time.Duration
	firstAnswers time.Duration // zero: the constant; for tests
	// DrainDelay is how long, after Run's context ends, connections are still
	// accepted, so that balancers see that the node is not ready. Zero: not.
	DrainDelay time.Duration
	// DrainTimeout is how long requests in flight may take after that before
	// they are cut off. Zero: at once.
	DrainTimeout time.Duration

	// Proxy is the policy towards clients.
	Proxy exchange.Config
	// Limits bound the heads of requests, and of answers.
	Limits http1.Limits
	// IdleTimeout, HeadTimeout, BodyTimeout and WriteTimeout bound what clients may
	// keep a connection waiting for, as in [proxy.Config]. Zero: its defaults.
	IdleTimeout, HeadTimeout, BodyTimeout, WriteTimeout time.Duration
	// MinBodyRate is how many bytes a second a request's body must have, as in
	// [proxy.Config]. Zero: no such limit.
	MinBodyRate int64
	// AccessLog gets a line for each request. The zero value: none.
	AccessLog accesslog.Config
	// Tracing says whether requests take part in traces. The zero value: not; traceparent
	// goes on as any other field. Run sets Node, Version and Logger.
	Tracing tracing.Config
	// Metrics bounds what a scrape has.
	Metrics MetricsConfig
	// DNSInterval is how often names of backends are resolved; zero means 30s.
	DNSInterval time.Duration
	// Destinations says where backends may point. Run adds the node's own
	// admin and etcd addresses.
	Destinations pool.Rules

	// Notify is told how the node fares, in the words of sd_notify(3): READY=1 once it is
	// ready, STOPPING=1 when it begins to drain, STATUS for people. Nil: nobody.
	Notify func(state string)
	// Logger gets everything worth a line, also from threads that serve clients: it must
	// not wait. Nil discards.
	Logger *slog.Logger
	// LogDropped is how many lines of it were dropped. Nil: none are.
	LogDropped func() uint64
}

// Validate reports all values that cannot be meant.
func (c Config) Validate() error {
	var errs *multierror.Error
	fail := func(format string, args ...any) { errs = multierror.Append(errs, fmt.Errorf(format, args...)) }
	if len(c.Listen) == 0 {
		fail("listen is missing, want an address such as :8080")
	}
	for _, l := range c.Listen {
		if _, err := parseEndpoint(l); err != nil {
			fail("listen is %q: %w", l, err)
		}
	}
	errs = multierror.Append(errs, c.Certificates.Validate())
	if files := c.Certificates.Files; len(files) > 0 && !c.hasTLS() {
		fail("tls-cert is %q, and no listener has TLS, want one such as tls://:443", files[0].Cert)
	}
	if ca := c.Certificates.ClientCA; ca != "" && !c.hasTLS() {
		fail("tls-client-ca is %q, and no listener has TLS, want one such as tls://:443", ca)
	}
	if c.Loops < -1 || c.Loops > maxLoops {
		fail("loops is %d, want -1 (as many as processors) or 0 (goroutines serve all) to %d", c.Loops, maxLoops)
	}
	if c.MaxConnections < 0 {
		fail("max-connections is %d, want 0 (any number) or more", c.MaxConnections)
	}
	switch c.AccessLog.Format {
	case "", accesslog.JSON, accesslog.Combined:
	default:
		fail("access-log is %q, want off, json or combined", c.AccessLog.Format)
	}
	if c.AccessLog.File != "" && c.AccessLog.Format == "" {
		fail("access-log-file is %q, and access-log is off, want json or combined", c.AccessLog.File)
	}
	if n := c.Limits.MaxHead; n != 0 && (n < leastHead || n > mostHead) {
		fail("max-header-size is %d bytes, want %d to %d", n, leastHead, mostHead)
	}
	if n := c.Limits.MaxFields; n < 0 || n > mostFields {
		fail("max-header-fields is %d, want 1 to %d", n, mostFields)
	}
	if n := c.Limits.MaxTarget; n < 0 || n > mostHead {
		fail("max-target-size is %d bytes, want 1 to %d", n, mostHead)
	}
	if c.Admin != "" && checkHostPort(c.Admin) != nil {
		fail("admin is %q: %w", c.Admin, checkHostPort(c.Admin))
	} else if c.Admin != "" {
		errs = multierror.Append(errs, c.AdminAccess.Validate(c.Admin, loopback(c.Admin)))
	}
	errs = multierror.Append(errs, c.validatePeer())
	if err := store.ValidateNodeID(c.ID); c.ID != "" && err != nil {
		fail("node-id is %q: %w", c.ID, err)
	}
	etcd := c.Store
	if c.Embedded != nil {
		etcd.Endpoints = []string{embedded.DefaultListen} // its own, known once it runs
		errs = multierror.Append(errs, c.Embedded.Validate())
	}
	errs = multierror.Append(errs, etcd.Validate(), c.Tracing.Validate())
	if c.Guard < 0 || c.Guard > 100 {
		fail("guard is %d%%, want 1%% to 100%%, or nothing", c.Guard)
	}
	if err := c.checkSnapshot(); err != nil {
		errs = multierror.Append(errs, err)
	}
	if c.ReadyTimeout < 0 {
		fail("ready timeout is %v, want 0 or more", c.ReadyTimeout)
	}
	if c.DrainDelay < 0 {
		fail("drain delay is %v, want 0 or more", c.DrainDelay)
	}
	if c.DrainTimeout < 0 {
		fail("drain timeout is %v, want 0 or more", c.DrainTimeout)
	}
	serving := c.serving()
	serving.Limits = http1.Limits{} // checked above
	serving.Table, serving.Await = func() *table.Table { return nil }, func(context.Context, int64) error { return nil }
	errs = multierror.Append(errs, serving.Validate(), c.Metrics.Validate(),
		pool.Config{DNSInterval: c.DNSInterval, Rules: c.Destinations}.Validate())
	return errs.ErrorOrNil()
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.SnapshotAfter == 0 {
		c.SnapshotAfter = snapshotAfter
	}
	if c.firstAnswers == 0 {
		c.firstAnswers = firstAnswers
	}
	if c.LogDropped == nil {
		c.LogDropped = func() uint64 { return 0 }
	}
	if c.Notify == nil {
		c.Notify = func(string) {}
	}
	if c.UpgradeTimeout == 0 {
		c.UpgradeTimeout = upgradeTimeout
	}
	if c.Sockets == nil {
		c.Sockets = new(sockets.Set)
	}
	c.Loops = Loops(c.Loops)
	c.Metrics = c.Metrics.withDefaults()
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
	if _, port, err := net.SplitHostPort(strings.TrimPrefix(listen, tlsScheme)); err == nil {
		return host + ":" + port
	}
	return host
}

// Bounds of the limits of heads: the least holds what a browser sends, the most is
// memory that each connection may take.
const (
	leastHead  = 1 << 10
	mostHead   = 16 << 20
	mostFields = 10_000
)

// serving is the part of the configuration that the proxy has.
func (c Config) serving() proxy.Config {
	return proxy.Config{
		Exchange: c.Proxy, Limits: c.Limits, Logger: c.Logger,
		IdleTimeout: c.IdleTimeout, HeadTimeout: c.HeadTimeout, BodyTimeout: c.BodyTimeout, WriteTimeout: c.WriteTimeout,
		MinBodyRate: c.MinBodyRate,
	}
}

// hasTLS says whether a listener has TLS.
func (c Config) hasTLS() bool {
	return slices.ContainsFunc(c.Listen, func(l string) bool { return strings.HasPrefix(l, tlsScheme) })
}

const (
	tlsScheme  = "tls://"
	unixScheme = "unix://"
)

// endpoint is a place to listen, as net.Listen takes it.
type endpoint struct {
	network, address string
	tls              bool
}

func parseEndpoint(listen string) (endpoint, error) {
	if path, ok := strings.CutPrefix(listen, unixScheme); ok {
		if !strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "@") {
			return endpoint{}, errors.New("want unix:///path, or unix://@name for an abstract socket")
		}
		return endpoint{network: "unix", address: path}, nil
	}
	address, tls := strings.CutPrefix(listen, tlsScheme)
	if strings.Contains(address, "://") {
		return endpoint{}, errors.New("want host:port, :port, tls://host:port or unix:///path")
	}
	return endpoint{network: "tcp", address: address, tls: tls}, checkHostPort(address)
}

func checkHostPort(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("want host:port or :port: %w", err)
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
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
