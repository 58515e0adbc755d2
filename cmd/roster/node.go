package main

import (
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"roster/cmd/roster/internal/backlog"
	"roster/cmd/roster/internal/manifest"
	"roster/node"
	"roster/node/accesslog"
	"roster/node/certs"
	"roster/node/handover"
	"roster/node/sockets"
	"roster/store"
	"roster/store/embedded"
)

func nodeCommand(s streams) *cobra.Command {
	var (
		etcd           etcdFlags
		cfg            node.Config
		data           string
		embeddedListen string
		level          slog.Level
		logLevel       string
		unknownFields  string
		errorStatus    string
		certFiles      []string
		keyFiles       []string
		accessLog      string
	)
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Run a node",
		Long: `Run a node: an HTTP proxy that serves what the definitions in etcd say.

Without --etcd it runs an etcd of its own, with its data below --data. With --etcd it
joins a fleet and keeps nothing on disk, unless --snapshot names a file for starts without
etcd.

SIGTERM and SIGINT end it: it is not ready any more, goes on for --drain-delay, then
takes no new connections, lets requests in progress finish for at most --drain-timeout
and ends with exit code 0. A second signal ends it at once.

SIGUSR2 replaces the process by a new one of the program, which may have become another
release, without losing a request: the new one gets the sockets, the arguments and the
environment, reads --config anew, and serves once it is ready; the old one then drains,
but keeps clients without a request for three quarters of --drain-timeout, to answer one
more. What hinders that is logged, and the old one serves on. It needs --etcd. Sockets are
taken from systemd, too, by the addresses that they are bound to.

Listeners with TLS (tls://) show the certificate that has the host which the client
names, of --tls-cert or of the definitions in etcd, else the first --tls-cert. Files
that change are loaded within seconds. HTTP/2 is spoken to clients that want it, with TLS by
ALPN and without by prior knowledge.

With --access-log-file, SIGHUP opens the file anew, after it was moved away. A service
manager that waits for notifications (systemd's Type=notify) is told when the node is ready
and when it begins to end, and may send SIGHUP to reload at any time.

The file of --config has the same names, in YAML; the command line wins over the
environment, and that over the file:

    listen: [":80", "tls://:443"]
    tls-cert: [/etc/roster/www.pem]
    tls-key: [/etc/roster/www.key]
    etcd: [10.0.0.1:2379, 10.0.0.2:2379]
    drain-delay: 5s`,
		Example: `  roster node
  roster node --etcd 10.0.0.1:2379,10.0.0.2:2379 --listen :80 --drain-delay 5s
  roster node --listen :80 --listen tls://:443 --tls-cert www.pem --tls-key www.key
  roster node --accept-proxy 10.0.0.0/24 --access-log json --access-log-file access.log
  roster node --config /etc/roster/node.yaml
  ROSTER_ETCD=10.0.0.1:2379 roster node`,
		Args: func(cmd *cobra.Command, words []string) error {
			// The environment may have them beside --etcd, for several nodes.
			for _, name := range []string{"data", "embedded-etcd-listen"} {
				if cmd.Flags().Changed("etcd") && cmd.Flags().Changed(name) {
					return usage("--%s is for the node's own etcd, and --etcd is that of a fleet: give either", name)
				}
			}
			return args(0, 0, "no arguments")(cmd, words)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			errs := &multierror.Error{}
			switch unknownFields {
			case "reject":
			case "warn":
				cfg.UnknownFields = store.Warn
			default:
				errs = multierror.Append(errs, oneOf("unknown-fields", unknownFields, []string{"reject", "warn"}))
			}
			if err := level.UnmarshalText([]byte(logLevel)); err != nil {
				errs = multierror.Append(errs, oneOf("log-level", logLevel, []string{"debug", "info", "warn", "error"}))
			}
			switch errorStatus {
			case "":
			case "varnish":
				cfg.Proxy.VarnishErrors = true
			default:
				errs = multierror.Append(errs, usage("--error-status is %q, want varnish or nothing", errorStatus))
			}
			if len(certFiles) == len(keyFiles) {
				for i := range certFiles {
					cfg.Certificates.Files = append(cfg.Certificates.Files, certs.Pair{Cert: certFiles[i], Key: keyFiles[i]})
				}
			} else {
				errs = multierror.Append(errs, usage("--tls-cert is given %d times and --tls-key %d times, want a key for each certificate, in the same order", len(certFiles), len(keyFiles)))
			}
			if accessLog != "off" {
				cfg.AccessLog.Format = accesslog.Format(accessLog)
			}
			errs = multierror.Append(errs, positive(cmd.Flags(),
				"upgrade-timeout", "idle-timeout", "head-timeout", "body-timeout", "write-timeout",
				"max-header-size", "max-header-fields", "max-target-size", "snapshot-after", "metrics-backends-limit")...)
			cfg.Store = etcd.config()
			if len(etcd.endpoints) == 0 {
				cfg.Embedded = &embedded.Config{Dir: data, Listen: embeddedListen}
			}
			cfg.Version = version()
			lines := backlog.New(s.err)
			defer lines.Close()
			cfg.Logger, cfg.LogDropped = slog.New(slog.NewTextHandler(lines, &slog.HandlerOptions{Level: level})), lines.Dropped
			if cfg.Embedded != nil {
				cfg.Embedded.Logger = cfg.Logger
			}
			if err := cfg.Validate(); err != nil {
				errs = multierror.Append(errs, manifest.Each(err)...)
			}
			if err := errs.ErrorOrNil(); err != nil {
				return withCode(exitUsage, err)
			}
			if os.Getenv("NOTIFY_SOCKET") != "" {
				cfg.Notify = notifier(cfg.Logger)
			}
			var err error
			if cfg.Predecessor, err = handover.Find(); err != nil {
				return err
			}
			if cfg.Sockets, err = sockets.Inherit(cfg.Predecessor != nil); err != nil {
				return err
			}
			if cfg.Program, err = handover.Self(); err != nil {
				cfg.Logger.Debug("the process cannot be replaced by another", "error", err)
			}
			cfg.Loops = withProcessors(cfg.Loops)
			n, err := node.New(cfg)
			if err != nil {
				return withCode(exitUsage, err) // it has only checked what it was given
			}
			if cfg.AccessLog.File != "" || cfg.Notify != nil {
				defer onSignal(syscall.SIGHUP, func() { reload(n, cfg.Notify) })()
			}
			if upgradeSignal != nil {
				defer onSignal(upgradeSignal, n.Upgrade)()
			}
			return n.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.String("config", "", "file with settings: the names of these flags, in YAML")
	f.StringSliceVar(&cfg.Listen, "listen", []string{":8080"}, "address for clients, HOST:PORT, tls://HOST:PORT or unix:///PATH; may be given again")
	f.StringSliceVar(&certFiles, "tls-cert", nil, "file with a certificate, and those that lead to its CA, for listeners with TLS; the first is for clients that name no host we have; may be given again, and not at all if etcd has certificates")
	f.StringSliceVar(&keyFiles, "tls-key", nil, "file with the key of a --tls-cert, in the same order")
	f.StringVar(&cfg.Certificates.ClientCA, "tls-client-ca", "", "file with the CA certificates that clients' certificates are verified with; clients without one are refused")
	f.Var(&networks{&cfg.AcceptProxy}, "accept-proxy", "peers whose connections must begin with a PROXY header, version 1 or 2, CIDR,...")
	f.StringVar(&accessLog, "access-log", "off", "a line for each request: off, json or combined")
	f.StringVar(&cfg.AccessLog.File, "access-log-file", "", "file of the access log; by default the standard output")
	f.BoolVar(&cfg.Tracing.On, "tracing", false, "each request to a backend has a traceparent, continued or begun; without it a client's goes on untouched; --otlp-endpoint implies it")
	f.StringVar(&cfg.Tracing.Endpoint, "otlp-endpoint", "", "URL of a collector that spans of sampled requests are exported to, by OTLP over HTTP; /v1/traces if it has no path")
	f.Float64Var(&cfg.Tracing.Sample, "tracing-sample", 0.01, "share of requests that are sampled, 0 to 1; those of --trusted-proxies are if they say so")
	f.IntVar(&cfg.MaxConnections, "max-connections", 65536, "connections of clients at a time, for each listener; more wait to be accepted; 0 is without limit")
	f.Var(newDuration(&cfg.IdleTimeout, 60*time.Second), "idle-timeout", "how long a connection may be without a request")
	f.Var(newDuration(&cfg.HeadTimeout, 15*time.Second), "head-timeout", "how long a request's head may take, and a TLS handshake")
	f.Var(newDuration(&cfg.BodyTimeout, 30*time.Second), "body-timeout", "longest silence within a request's body")
	f.Var(newDuration(&cfg.WriteTimeout, 60*time.Second), "write-timeout", "how long a client may accept no byte of an answer")
	f.Var(newSize(&cfg.MinBodyRate, 240), "min-body-rate", "bytes a second that a request's body must have on average, after 5s; 0 is without limit")
	f.Var(newSize(&cfg.Limits.MaxHead, 64<<10), "max-header-size", "bytes of a request's head, or an answer's")
	f.IntVar(&cfg.Limits.MaxFields, "max-header-fields", 128, "fields in a head")
	f.Var(newSize(&cfg.Limits.MaxTarget, 16<<10), "max-target-size", "bytes of a request's target")
	f.IntVar(&cfg.Loops, "loops", -1, "threads that serve plain HTTP/1.1, each with an epoll and sockets of its own; 0 is none: goroutines serve all; -1 is as many as there are processors")
	f.StringVar(&cfg.Admin, "admin", defaultAdmin, "address of the admin API, HOST:PORT; empty for none; other than loopback's it needs a token file and TLS")
	f.StringVar(&cfg.AdminAccess.TokenFile, "admin-token-file", "", "file with the tokens of which a request to the admin API has to have one, one a line")
	f.StringVar(&cfg.AdminAccess.Cert, "admin-tls-cert", "", "file with the certificate of the admin API; turns TLS on")
	f.StringVar(&cfg.AdminAccess.Key, "admin-tls-key", "", "file with the key of --admin-tls-cert")
	f.StringSliceVar(&cfg.AdminAccess.Hosts, "admin-host", nil, "name besides those of loopback that requests to the admin API may have as Host; may be given again")
	f.StringVar(&cfg.PeerListen, "peer-listen", "", "address for the other nodes, HOST:PORT, by mutual TLS: this node tells them how its probes went, and at its own start asks them; empty for none")
	f.StringVar(&cfg.PeerAdvertise, "peer-advertise", "", "HOST:PORT where the other nodes reach --peer-listen; by default that, or if it is all addresses, the one that leads to etcd")
	f.StringVar(&cfg.PeerFiles.Cert, "peer-tls-cert", "", "file with this node's certificate, for both ends of connections between nodes")
	f.StringVar(&cfg.PeerFiles.Key, "peer-tls-key", "", "file with the key of --peer-tls-cert")
	f.StringVar(&cfg.PeerFiles.CA, "peer-tls-ca", "", "file with the CA certificates of the nodes, of which a node has to have a certificate to be told")
	etcd.add(f, nil, "etcd of a fleet; none runs an etcd in the node")
	f.StringVar(&embeddedListen, "embedded-etcd-listen", embedded.DefaultListen, "address of the node's own etcd for its clients")
	f.StringVar(&data, "data", "roster.data", "folder for the data of the node's own etcd")
	f.StringVar(&cfg.Snapshot, "snapshot", "", "file that keeps what is applied, private keys included, for a start without etcd; not with the node's own etcd")
	f.Var(newDuration(&cfg.SnapshotAfter, 5*time.Second), "snapshot-after", "how long a node that starts waits for etcd before it serves what the file of --snapshot has")
	f.StringVar(&cfg.ID, "node-id", "", "name of this node; by default host name and listening port")
	f.Var(newDuration(&cfg.ReadyTimeout, 10*time.Second), "ready-timeout", "how long a node that starts waits to be ready for the first answers of its backends' probes; 0s is not at all")
	f.Var((*share)(&cfg.Guard), "guard", "share of the backends of five minutes ago, if there were 10 or more, below which removals are held until roster ack: 1% to 100%; 0% holds none")
	f.Var(newDuration(&cfg.DrainDelay, 0), "drain-delay", "how long a node that ends still accepts connections")
	f.Var(newDuration(&cfg.DrainTimeout, 30*time.Second), "drain-timeout", "how long requests in progress may take when a node ends")
	f.Var(newDuration(&cfg.UpgradeTimeout, time.Minute), "upgrade-timeout", "how long the new process of an upgrade may take to be ready")
	f.StringVar(&unknownFields, "unknown-fields", "reject", "a definition with a field that this release does not know: reject, or warn and serve it without")
	f.StringVar(&cfg.Proxy.ProxyName, "proxy-name", "roster", "what Via and Proxy-Status call this proxy; nodes in front of others may share it, loops are told by the process")
	f.Var(&networks{&cfg.Proxy.TrustedProxies}, "trusted-proxies", "peers whose X-Forwarded-*, Forwarded and X-Request-Id are believed, and traceparent's word on sampling, CIDR,...")
	f.StringVar(&errorStatus, "error-status", "", "varnish: every failure of a backend is a 503")
	f.BoolVar(&cfg.Proxy.RevisionHeader, "revision-header", false, "name the revision that routed a request in the field X-Roster-Revision of its answer")
	f.Var(newDuration(&cfg.Proxy.MinRevisionWait, 0), "min-revision-wait", "how long a request with X-Min-Revision waits for that revision; 0s ignores the field")
	f.StringVar((*string)(&cfg.Metrics.Backends), "metrics-backends", string(node.TopSeries), "backends with series of their own in the metrics: labelled ("+node.SeriesLabel+": \"on\"), top (labelled, then by requests), all or none")
	f.IntVar(&cfg.Metrics.Limit, "metrics-backends-limit", 1000, "how many backends at most have series of their own, but for --metrics-backends all")
	f.Var(newDuration(&cfg.DNSInterval, 30*time.Second), "dns-interval", "how often the names of backends are resolved")
	f.Var(&networks{&cfg.Destinations.Allow}, "backend-allow", "where backends may be, besides what is allowed anyway, CIDR,...")
	f.Var(&networks{&cfg.Destinations.Deny}, "backend-deny", "where no backend may be, CIDR,...")
	f.StringVar(&cfg.Destinations.PathDir, "backend-path-allow", "", "the only folder where backends' sockets may be")
	f.StringVar(&logLevel, "log-level", "info", "least level of the log: debug, info, warn or error")
	return cmd
}

// positive reports the flags of these that are 0: what a node is given as 0 it takes for
// its default, and a public server has to have these limits.
func positive(flags *pflag.FlagSet, names ...string) (errs []error) {
	for _, name := range names {
		if f := flags.Lookup(name); f.Value.String() == "0" || f.Value.String() == "0s" {
			errs = append(errs, usage("--%s is %s, want more than 0; the default is %s", name, f.Value, f.DefValue))
		}
	}
	return errs
}

// withProcessors returns how many loops there are to be, and has Go's scheduler use a
// processor more than them: where none is idle, it takes a loop's away whenever that
// waits, and gives it back after.
func withProcessors(loops int) int {
	loops = node.Loops(loops)
	if loops >= runtime.GOMAXPROCS(0) {
		runtime.GOMAXPROCS(loops + 1)
	}
	return loops
}

// onSignal calls f at each such signal until stop is called.
func onSignal(sig os.Signal, f func()) (stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, sig)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-signals:
				f()
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}
