package main

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"

	"roster/cmd/roster/internal/manifest"
	"roster/cmd/roster/internal/settings"
	"roster/node"
	"roster/store"
	"roster/store/embedded"
)

func nodeCommand(s streams) *cobra.Command {
	var (
		etcd           etcdFlags
		cfg            node.Config
		data           string
		embeddedListen string
		config         string
		level          slog.LevelVar
		unknownFields  string
		errorStatus    string
		trusted        []net.IPNet
		allow, deny    []net.IPNet
	)
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node",
		Long: `Run a node: an HTTP proxy that serves what the definitions in etcd say.

Without --etcd it runs an etcd of its own, with its data below --data. With --etcd it
joins a fleet and keeps nothing on disk.

SIGTERM and SIGINT end it: it is not ready any more, goes on for --drain-delay, then
takes no new connections, lets requests in progress finish for at most --drain-timeout
and ends with exit code 0. A second signal ends it at once.

The file of --config has the same names, in YAML; the command line wins over the
environment, and that over the file:

    listen: [":8080"]
    etcd: [10.0.0.1:2379, 10.0.0.2:2379]
    drain-delay: 5s`,
		Example: `  roster node
  roster node --etcd 10.0.0.1:2379,10.0.0.2:2379 --listen :80 --drain-delay 5s
  roster node --config /etc/roster/node.yaml
  ROSTER_ETCD=10.0.0.1:2379 roster node`,
		Args: args(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if config != "" {
				if err := settings.FromFile(cmd.Flags(), config); err != nil {
					return withCode(exitUsage, err)
				}
			}
			errs := &multierror.Error{}
			cfg.Proxy.TrustedProxies = prefixes(trusted)
			cfg.Destinations.Allow, cfg.Destinations.Deny = prefixes(allow), prefixes(deny)
			switch unknownFields {
			case "reject":
			case "warn":
				cfg.UnknownFields = store.Warn
			default:
				errs = multierror.Append(errs, oneOf("unknown-fields", unknownFields, []string{"reject", "warn"}))
			}
			switch errorStatus {
			case "":
			case "varnish":
				cfg.Proxy.VarnishErrors = true
			default:
				errs = multierror.Append(errs, usage("--error-status is %q, want varnish or nothing", errorStatus))
			}
			cfg.Store = etcd.config()
			if len(etcd.endpoints) == 0 {
				cfg.Embedded = &embedded.Config{Dir: data, Listen: embeddedListen}
			}
			cfg.Version = version()
			cfg.Logger = slog.New(slog.NewTextHandler(s.err, &slog.HandlerOptions{Level: &level}))
			if cfg.Embedded != nil {
				cfg.Embedded.Logger = cfg.Logger
			}
			if err := cfg.Validate(); err != nil {
				errs = multierror.Append(errs, manifest.Each(err)...)
			}
			if err := errs.ErrorOrNil(); err != nil {
				return withCode(exitUsage, err)
			}
			n, err := node.New(cfg)
			if err != nil {
				return withCode(exitUsage, err) // it has only checked what it was given
			}
			return n.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.StringVar(&config, "config", "", "file with settings: the names of these flags, in YAML")
	f.StringSliceVar(&cfg.Listen, "listen", []string{":8080"}, "address for clients, HOST:PORT or unix:///PATH; may be given again")
	f.StringVar(&cfg.Admin, "admin", defaultAdmin, "address of the admin API, HOST:PORT on loopback; empty for none")
	f.StringSliceVar(&cfg.AdminHosts, "admin-host", nil, "name besides those of loopback that requests to the admin API may have as Host; may be given again")
	etcd.add(f, nil, "etcd of a fleet; none runs an etcd in the node")
	f.StringVar(&embeddedListen, "embedded-etcd-listen", embedded.DefaultListen, "address of the node's own etcd for its clients")
	f.StringVar(&data, "data", "roster.data", "folder for the data of the node's own etcd")
	f.StringVar(&cfg.ID, "node-id", "", "name of this node; by default host name and listening port")
	f.Var(newDuration(&cfg.DrainDelay, 0), "drain-delay", "how long a node that ends still accepts connections")
	f.Var(newDuration(&cfg.DrainTimeout, 30*time.Second), "drain-timeout", "how long requests in progress may take when a node ends")
	f.StringVar(&unknownFields, "unknown-fields", "reject", "a definition with a field that this release does not know: reject, or warn and serve it without")
	f.StringVar(&cfg.Proxy.ProxyName, "proxy-name", "roster", "what Via and Proxy-Status call this proxy; nodes in front of others may share it, loops are told by the process")
	f.IPNetSliceVar(&trusted, "trusted-proxies", nil, "peers whose X-Forwarded-*, Forwarded and X-Request-Id are believed, CIDR,...")
	f.StringVar(&errorStatus, "error-status", "", "varnish: every failure of a backend is a 503")
	f.BoolVar(&cfg.Proxy.RevisionHeader, "revision-header", false, "name the revision that routed a request in the field X-Roster-Revision of its answer")
	f.Var(newDuration(&cfg.Proxy.MinRevisionWait, 0), "min-revision-wait", "how long a request with X-Min-Revision waits for that revision; 0s ignores the field")
	f.Var(newDuration(&cfg.DNSInterval, 30*time.Second), "dns-interval", "how often the names of backends are resolved")
	f.IPNetSliceVar(&allow, "backend-allow", nil, "where backends may be, besides what is allowed anyway, CIDR,...")
	f.IPNetSliceVar(&deny, "backend-deny", nil, "where no backend may be, CIDR,...")
	f.StringVar(&cfg.Destinations.PathDir, "backend-path-allow", "", "the only folder where backends' sockets may be")
	f.TextVar(&level, "log-level", &level, "least level of the log: debug, info, warn or error")
	return cmd
}

// prefixes turns networks as flags have them into those of package netip. IPv4 is IPv4,
// however written: addresses are compared unmapped, so ::ffff:10.0.0.0/104 is 10.0.0.0/8.
func prefixes(nets []net.IPNet) []netip.Prefix {
	var all []netip.Prefix
	for _, n := range nets {
		ip, _ := netip.AddrFromSlice(n.IP)
		ones, _ := n.Mask.Size()
		if ip.Is4In6() { // with its mask applied, so there are 96 bits of it at least
			ip, ones = ip.Unmap(), ones-96
		}
		all = append(all, netip.PrefixFrom(ip, ones))
	}
	return all
}
