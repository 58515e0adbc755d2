package store

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"roster/store/internal/zaplog"
)

// Config says which etcd to speak to, and as whom. Only Endpoints is required.
type Config struct {
	// Endpoints are members of one etcd cluster, as HOST, HOST:PORT or URLs
	// (http or https, not both). The port is 2379 unless given. Without a scheme
	// it is https if CA or Cert is set, else http.
	Endpoints []string

	// Prefix is what all keys begin with, "/roster/" if empty. It begins with
	// "/"; one is added to its end if there is none.
	Prefix string

	// User and its password, given as it is or in a file, of which white space
	// at the end is not part.
	User, Password, PasswordFile string

	// CA is a file with the certificates that etcd's certificate is verified
	// with (PEM); empty means the system's. Cert and KeyFile are the client's
	// own. All are read again for each connection, so that they may be renewed.
	CA, Cert, KeyFile string

	// DialTimeout bounds one attempt at connecting to one member. Zero means 3s:
	// one lost SYN, sent again after 1s, is allowed for.
	DialTimeout time.Duration

	// RequestTimeout bounds each request, a page of a list for example, with the
	// wait for a connection; the context may end it sooner. Zero means 5s: a new
	// leader is elected in less.
	RequestTimeout time.Duration

	// PageSize is how many keys List reads at a time. Zero means 1000: with
	// values of 1 KiB a page is 1 MiB. More is less work for etcd, which counts
	// all keys for every page.
	PageSize int

	// Logger gets what etcd's client says, all of it at debug: it logs every
	// attempt, and the errors come back to the caller anyway. Nil discards.
	Logger *slog.Logger
}

// DefaultPrefix is the prefix of a Config that has none.
const DefaultPrefix = "/roster/"

// A Store reads and writes definitions in etcd. Its methods may be called from
// any goroutine at any time until Close.
//
// They wait for a connection, for a leader and for the answer as long as the
// context and Config.RequestTimeout allow, and then return an error that is
// ErrUnavailable and has etcd's or the network's own words for the cause. Reads
// are linearizable: they see every write that was answered before they began.
// A context that its owner cancels gives its own error instead.
type Store struct {
	client  *clientv3.Client
	prefix  string
	timeout time.Duration
	page    int
	opening atomic.Bool // no request leaves yet, see dial.go

	closing sync.Once
	closed  error
}

// Open checks the configuration, reads its files, and returns without waiting
// for etcd, which need not be there yet: connections are made when needed and
// again when lost, after at most 2s.
func Open(cfg Config) (*Store, error) {
	s, err := open(cfg)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

func open(cfg Config) (*Store, error) {
	prefix, err := normalPrefix(cfg.Prefix)
	if err != nil {
		return nil, err
	}
	endpoints, secure, err := normalEndpoints(cfg.Endpoints, cfg.CA != "" || cfg.Cert != "")
	if err != nil {
		return nil, err
	}
	password, err := cfg.password()
	if err != nil {
		return nil, err
	}
	s := &Store{prefix: prefix, timeout: cfg.RequestTimeout, page: cfg.PageSize}
	if s.timeout == 0 {
		s.timeout = 5 * time.Second
	}
	if s.page == 0 {
		s.page = 1000
	}
	dial := cfg.DialTimeout
	if dial == 0 {
		dial = 3 * time.Second
	}
	options := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(s.intercept),
		grpc.WithStatsHandler(sentMarker{}),
		grpc.WithConnectParams(grpc.ConnectParams{ // gRPC's own are 120s and 20s
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: dial,
		}),
	}
	if secure {
		creds := &credentials{ca: cfg.CA, cert: cfg.Cert, key: cfg.KeyFile}
		if _, err := creds.load(); err != nil {
			return nil, err
		}
		options = append(options, grpc.WithTransportCredentials(creds))
	}
	s.opening.Store(true)
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints:            endpoints,
		Username:             cfg.User,
		Password:             password,
		DialKeepAliveTime:    10 * time.Second, // the least that gRPC sends and twice the least that etcd takes
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallSendMsgSize:   4 << 20, // let etcd refuse, with a better message
		DialOptions:          options,
		Logger:               zaplog.New(cfg.Logger, zaplog.Debug),
	})
	s.opening.Store(false)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Client is the etcd client that the store uses, with its connections, for what
// a Store has no method for. Its errors are etcd's own.
func (s *Store) Client() *clientv3.Client { return s.client }

// Prefix is what all keys begin with; it ends with "/".
func (s *Store) Prefix() string { return s.prefix }

// Close ends the connections and fails the calls in progress. Further calls
// return what the first did.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closed = s.client.Close() })
	return s.closed
}

func (s *Store) path(key Key) string { return s.prefix + key.String() }

func normalPrefix(prefix string) (string, error) {
	switch {
	case prefix == "":
		return DefaultPrefix, nil
	case !strings.HasPrefix(prefix, "/"):
		return "", fmt.Errorf("prefix is %q, want it to begin with \"/\"", prefix)
	case strings.Trim(prefix, "/") == "":
		// Presence is kept under the prefix's name, beside it.
		return "", fmt.Errorf("prefix is %q, want a name in it, as in %q", prefix, DefaultPrefix)
	case !strings.HasSuffix(prefix, "/"):
		prefix += "/"
	}
	return prefix, nil
}

// normalEndpoints makes URLs of endpoints and says whether TLS is spoken.
func normalEndpoints(endpoints []string, files bool) (urls []string, secure bool, err error) {
	if len(endpoints) == 0 {
		return nil, false, errors.New("no etcd endpoint given")
	}
	for i, e := range endpoints {
		scheme, host, found := strings.Cut(strings.TrimSpace(e), "://")
		switch {
		case !found && files:
			scheme, host = "https", scheme
		case !found:
			scheme, host = "http", scheme
		case scheme != "http" && scheme != "https":
			return nil, false, fmt.Errorf("endpoint %q: scheme is %q, want http or https", e, scheme)
		case scheme == "http" && files:
			return nil, false, fmt.Errorf("endpoint %q is not https, but files for TLS are given", e)
		}
		if i > 0 && secure != (scheme == "https") {
			return nil, false, errors.New("some endpoints are https and some are not, want all or none")
		}
		secure = scheme == "https"
		if host, err = withPort(strings.TrimSuffix(host, "/")); err != nil {
			return nil, false, fmt.Errorf("endpoint %q: %w, want HOST:PORT or a URL", e, err)
		}
		urls = append(urls, scheme+"://"+host)
	}
	return urls, secure, nil
}

func withPort(host string) (string, error) {
	u, err := url.Parse("//" + host)
	switch {
	case err != nil:
		return "", errors.New("not an address")
	case u.Hostname() == "":
		return "", errors.New("no host in it")
	case u.Host != host:
		return "", errors.New("more than an address")
	case u.Port() == "":
		return net.JoinHostPort(u.Hostname(), "2379"), nil
	}
	return host, nil
}

func (c Config) password() (string, error) {
	switch {
	case c.User == "" && (c.Password != "" || c.PasswordFile != ""):
		return "", errors.New("an etcd password without a user")
	case c.User == "":
		return "", nil
	case c.Password != "" && c.PasswordFile != "":
		return "", errors.New("an etcd password and a file with one, want either")
	case c.Password != "":
		return c.Password, nil
	case c.PasswordFile == "":
		return "", fmt.Errorf("etcd user %s without a password", c.User)
	}
	data, err := os.ReadFile(c.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("etcd password: %w", err)
	}
	password := strings.TrimRight(string(data), " \t\r\n")
	if password == "" {
		return "", fmt.Errorf("etcd password: file %s is empty", c.PasswordFile)
	}
	return password, nil
}
