package embedded

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-multierror"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"roster/store"
	"roster/store/internal/zaplog"
)

const (
	// Revisions kept for reading older ones. At some hundred bytes a
	// definition this is in the tens of megabytes; etcd compacts every five
	// minutes. By number and not by age, so that a quiet fleet can go back to
	// last month and a busy one does not fill the disk.
	keptRevisions = 100_000

	// The largest database etcd recommends. A full one is read-only until
	// somebody compacts and disarms an alarm by hand, so it should never be full.
	quotaBytes = 8 << 30
)

// Validate reports what is wrong with the configuration by itself, whatever the
// machine is like. Start does it too.
func (c Config) Validate() error {
	var errs *multierror.Error
	if c.Dir == "" {
		errs = multierror.Append(errs, fmt.Errorf("embedded etcd: %w", errNoDir))
	}
	if _, err := c.url(); err != nil {
		errs = multierror.Append(errs, fmt.Errorf("embedded etcd: %w", err))
	}
	return errs.ErrorOrNil()
}

var errNoDir = errors.New("no data directory given")

// listen is url with a free port chosen.
func (c Config) listen() (*url.URL, error) {
	u, err := c.url()
	if err != nil || u.Port() != "0" {
		return u, err
	}
	port, err := freePort(u.Hostname())
	if err != nil {
		return nil, err
	}
	u.Host = net.JoinHostPort(u.Hostname(), port)
	return u, nil
}

// url checks where the member is to listen and returns it as a URL.
func (c Config) url() (*url.URL, error) {
	address := c.Listen
	if address == "" {
		address = DefaultListen
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("listening address: %w", err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("listening address %s: port is %q, want a number from 0 to 65535", address, port)
	}
	port = strconv.FormatUint(n, 10) // "00" is 0
	if host == "" {
		host = "0.0.0.0"
	}
	ip := net.ParseIP(host)
	if ip == nil && host != "localhost" {
		return nil, fmt.Errorf("listening address %s: host is %q, want an IP address or localhost", address, host)
	}
	u := &url.URL{Scheme: "http", Host: net.JoinHostPort(host, port)}
	switch {
	case c.CertFile != "" && c.KeyFile != "" && c.ClientCAFile != "":
		u.Scheme = "https"
	case c.CertFile != "" || c.KeyFile != "" || c.ClientCAFile != "":
		return nil, errors.New("TLS needs a certificate, its key and the CA of the clients' certificates: all three or none")
	case ip != nil && !ip.IsLoopback():
		return nil, fmt.Errorf("listening on %s, which is not loopback, needs TLS with client certificates: anybody who reaches it could write", address)
	}
	return u, nil
}

// freePort chooses a port, because etcd must know its number before it listens.
func freePort(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

func (s *Server) configure(cfg Config, listen *url.URL) (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Name = "roster"
	ec.Dir = cfg.Dir
	ec.ListenClientUrls = []url.URL{*listen}
	ec.AdvertiseClientUrls = ec.ListenClientUrls

	// The only member never speaks to itself, so its peer port may be another
	// one each time, and the advertised URL, which is kept in the data, never
	// changes.
	ec.ListenPeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	ec.AdvertisePeerUrls = ec.ListenPeerUrls
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	// Makes the cluster's id. Without it every new member would have the same
	// one, and nobody could tell an emptied directory from a cleared keyspace.
	ec.InitialClusterToken = rand.Text()

	ec.MaxTxnOps = store.MaxTxnKeys
	ec.MaxRequestBytes = store.MaxTxnBytes
	ec.QuotaBackendBytes = quotaBytes
	ec.AutoCompactionMode = embed.CompactorModeRevision
	ec.AutoCompactionRetention = strconv.Itoa(keptRevisions)

	// An empty map means everybody, to both. No origin is allowed by naming
	// one that cannot be.
	ec.CORS = map[string]struct{}{"https://nobody.invalid": {}}
	ec.HostWhitelist = map[string]struct{}{
		"localhost": {}, "127.0.0.1": {}, "::1": {}, "[::1]": {}, // without a port the brackets stay
		listen.Hostname(): {},
	}
	ec.EnableGRPCGateway = false // ours stands in front of it
	if listen.Scheme == "https" {
		ec.ClientTLSInfo = transport.TLSInfo{
			CertFile: cfg.CertFile, KeyFile: cfg.KeyFile,
			TrustedCAFile: cfg.ClientCAFile, ClientCertAuth: true,
		}
	} else {
		g, err := newGateway(listen.Host)
		if err != nil {
			return nil, err
		}
		s.gateway = g
		ec.UserHandlers = map[string]http.Handler{"/v3/": g}
	}

	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(
		zaplog.New(cfg.Logger, s.level, zap.WithFatalHook(fatalHook{s})))
	if cfg.Tune != nil {
		cfg.Tune(ec)
	}
	return ec, nil
}

// level keeps the notes etcd writes at every start and end out of the log; as
// warnings and errors they would say that something is wrong with what is meant
// to be so.
func (s *Server) level(l zapcore.Level, message string) slog.Level {
	switch {
	case l <= zapcore.InfoLevel || s.stopping.Load():
		return slog.LevelDebug
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case strings.HasPrefix(message, "Running http and grpc server on single port"),
		message == "simple token is not cryptographically signed",
		message == "check file permission":
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// A fatalHook is what happens when etcd wants the process to end, because its
// log cannot be written for example: the goroutine ends, the failure is
// reported, and the node around it serves on.
type fatalHook struct{ s *Server }

func (h fatalHook) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := errors.New(e.Message)
	for _, f := range fields {
		if cause, ok := f.Interface.(error); ok && f.Type == zapcore.ErrorType {
			err = fmt.Errorf("%s: %w", e.Message, cause)
		}
	}
	h.s.dead.Store(true)
	h.s.fail(err)
	runtime.Goexit()
}

// explain says in words what commonly keeps a member from starting.
func explain(err error, listen *url.URL) error {
	var at *net.OpError // the peers' listener may be what has no free port
	if errors.Is(err, syscall.EADDRINUSE) && errors.As(err, &at) && at.Addr != nil && strings.HasSuffix(at.Addr.String(), ":"+listen.Port()) {
		return fmt.Errorf("%s is in use, perhaps by another etcd: %w", listen.Host, err)
	}
	return err
}
