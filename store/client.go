package store

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-multierror"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"roster/store/internal/zaplog"
)

// A Store reads and writes definitions in etcd. Its methods may be called from
// any goroutine at any time until Close.
//
// They wait for a connection, for a leader and for the answer as long as the
// context and Config.RequestTimeout allow, and then return an error that is
// ErrUnavailable and has etcd's or the network's own words for the cause. Reads
// are linearizable: they see every write that was answered before they began.
// A context that its owner cancels gives its own error instead.
type Store struct {
	client      *clientv3.Client
	prefix      string
	timeout     time.Duration
	unreachable time.Duration
	page        int
	login       login
	tls         *credentials // nil: without
	opening     atomic.Bool  // no request leaves yet, see dial.go
	streams     atomic.Int64 // of watches that were opened, see follow.go
	follows     atomic.Int64 // calls of Follow

	closing sync.Once
	closed  error
}

// Open checks the configuration, reads its files, and returns without waiting
// for etcd, which need not be there yet: connections are made when needed and
// again when lost, after at most 2s. All that is wrong is reported at once, as a
// *multierror.Error.
func Open(cfg Config) (*Store, error) {
	n, err := cfg.normal()
	if err != nil {
		return nil, multierror.Prefix(err, "store:")
	}
	s := &Store{prefix: n.Prefix, timeout: n.RequestTimeout, unreachable: n.UnreachableTimeout, page: n.PageSize, login: login{user: n.User, password: n.Password, file: n.PasswordFile}}
	options := []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(s.intercept),
		grpc.WithChainStreamInterceptor(s.interceptStream),
		grpc.WithStatsHandler(sentMarker{}),
		grpc.WithConnectParams(grpc.ConnectParams{ // gRPC's own are 120s and 20s
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: n.DialTimeout,
		}),
		// As they are set, gRPC does not measure how large they should be: with a ping for
		// each message from etcd, whose answer would wake a node that sleeps once more.
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(2 * streamWindow),
	}
	if strings.HasPrefix(n.Endpoints[0], "https:") {
		s.tls = n.credentials()
		options = append(options, grpc.WithTransportCredentials(s.tls))
	}
	s.opening.Store(true)
	s.client, err = clientv3.New(clientv3.Config{
		Endpoints:            n.Endpoints,
		Username:             n.User,
		Password:             placeholder,      // not used without a user
		DialKeepAliveTime:    10 * time.Second, // the least that gRPC sends and twice the least that etcd takes
		DialKeepAliveTimeout: 3 * time.Second,
		MaxCallSendMsgSize:   4 << 20, // let etcd refuse, with a better message
		DialOptions:          options,
		Logger:               zaplog.New(cfg.Logger, zaplog.Debug),
	})
	s.opening.Store(false)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return s, nil
}

// streamWindow is how many bytes etcd may send ahead of a reader: what 1 Gbit/s brings in
// 30 ms.
const streamWindow = 4 << 20

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

func (s *Store) path(key Key) string {
	if key.Kind == OwnerKind {
		return s.side(owners) + key.Name
	}
	return s.prefix + key.String()
}
