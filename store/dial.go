package store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// A call is one request as the network saw it. The etcd client retries inside
// and tells in the end that time is up; a call remembers why.
type call struct {
	start  time.Time
	mu     sync.Mutex
	sent   bool  // the last attempt may have reached etcd
	last   error // why the last attempt failed that has something to say
	gaveUp bool  // no member can be reached
}

// impatient gives the call up once no member can be reached. Each has been tried then,
// and is tried again with pauses; one that is slow to answer is still being tried.
func (c *call) impatient(ctx context.Context, conn *grpc.ClientConn, cancel context.CancelFunc) {
	for {
		state := conn.GetState()
		if state == connectivity.TransientFailure {
			c.mu.Lock()
			c.gaveUp = true
			c.mu.Unlock()
			cancel()
			return
		}
		if !conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

type callKey struct{}

func callOf(ctx context.Context) *call {
	c, _ := ctx.Value(callKey{}).(*call)
	return c
}

const authenticate = "/etcdserverpb.Auth/Authenticate"

// intercept sees every attempt at a request, under the etcd client's retries.
// Logging in is part of the request that needs it.
func (s *Store) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if method == authenticate {
		// The client wants a token while it is made, and would wait for etcd.
		// With an empty one it fetches another for the first request.
		if s.opening.Load() {
			return nil
		}
		var err error
		if req, err = s.login.fill(req); err != nil {
			return err
		}
	}
	c := callOf(ctx)
	if c == nil {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	c.mu.Lock()
	c.sent = false
	c.mu.Unlock()
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		if code := status.Code(err); c.last == nil || code != codes.DeadlineExceeded && code != codes.Canceled ||
			strings.Contains(err.Error(), balancerError) {
			c.last = err
		}
		if answer, ok := rpctypes.Error(err).(rpctypes.EtcdError); ok && answer.Code() != codes.Unavailable {
			c.sent = false // it was, and refused
		}
	}
	return err
}

// balancerError is what gRPC says before the cause of connections that fail.
const balancerError = "latest balancer error: "

// sentMarker notes when a request goes onto a connection: from then on it may
// have been carried out, whatever becomes of the answer.
type sentMarker struct{}

func (sentMarker) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if info.FullMethodName == authenticate {
		return context.WithValue(ctx, callKey{}, (*call)(nil))
	}
	return ctx
}

func (sentMarker) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if c := callOf(ctx); c != nil {
		c.mu.Lock()
		c.sent = true
		c.mu.Unlock()
	}
}

func (sentMarker) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentMarker) HandleConn(context.Context, stats.ConnStats)                       {}

// credentials is TLS with files that are read again for each connection.
type credentials struct{ ca, cert, key string }

func (c *credentials) load() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.ca != "" {
		pem, err := os.ReadFile(c.ca)
		if err != nil {
			return nil, fmt.Errorf("etcd CA: %w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("etcd CA: no certificate in %s", c.ca)
		}
	}
	switch {
	case c.cert == "" && c.key != "":
		return nil, errors.New("the key of a client certificate for etcd without the certificate")
	case c.cert != "" && c.key == "":
		return nil, errors.New("a client certificate for etcd without its key")
	case c.cert != "":
		pair, err := tls.LoadX509KeyPair(c.cert, c.key)
		if err != nil {
			return nil, fmt.Errorf("client certificate for etcd: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

func (c *credentials) ClientHandshake(ctx context.Context, authority string, conn net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	cfg, err := c.load()
	if err != nil {
		return nil, nil, err
	}
	tlsConn, info, err := grpccredentials.NewTLS(cfg).ClientHandshake(ctx, authority, conn)
	if err != nil {
		return nil, nil, fmt.Errorf("TLS with %s: %w", authority, err)
	}
	return alerted{tlsConn}, info, nil
}

// alerted tells why a server closed the connection. With TLS 1.3 a client's
// certificate is judged when the client has begun to write already; a "broken
// pipe" then comes before the server's own words.
type alerted struct{ net.Conn }

func (c alerted) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		c.SetReadDeadline(time.Now().Add(time.Second)) // they are here, or were sent before the end
		var alert *net.OpError
		if _, rerr := c.Read(make([]byte, 1)); errors.As(rerr, &alert) && alert.Op == "remote error" {
			err = alert
		}
	}
	return n, err
}

func (c *credentials) ServerHandshake(net.Conn) (net.Conn, grpccredentials.AuthInfo, error) {
	return nil, nil, errors.New("not a server")
}

func (c *credentials) Info() grpccredentials.ProtocolInfo {
	return grpccredentials.NewTLS(nil).Info()
}
func (c *credentials) Clone() grpccredentials.TransportCredentials { return c } // it has no state
func (c *credentials) OverrideServerName(string) error             { return nil }
