package store

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/health/grpc_health_v1"
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

// Unreachable waits until no member of etcd can be reached, and says why: requests wait for
// a connection as long as they may, and know only then. It is nil if ctx ends before.
func (s *Store) Unreachable(ctx context.Context) error {
	conn := s.client.ActiveConnection()
	conn.Connect()
	for state := conn.GetState(); state != connectivity.TransientFailure; state = conn.GetState() {
		if !conn.WaitForStateChange(ctx, state) {
			return nil
		}
	}
	// What does not wait fails at once then, with the reason. This asks nobody for a password.
	began := time.Now()
	_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(false))
	if err == nil || ctx.Err() != nil || status.Code(err) != codes.Aborted {
		return nil // there is one again
	}
	return s.unavailable(ErrUnavailable, err, false, began)
}

// intercept sees every attempt at a request, under the etcd client's retries.
// Logging in is part of the request that needs it.
func (s *Store) intercept(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	switch {
	case method == grpc_health_v1.Health_Check_FullMethodName:
		err := invoke(ctx, method, req, reply, cc, opts...)
		if status.Code(err) == codes.Unavailable { // the client would try that again, a hundred times
			err = status.Error(codes.Aborted, status.Convert(err).Message())
		}
		return err
	case method == authenticate:
		// The client wants a token while it is made, and would wait for etcd.
		// With an empty one it fetches another for the first request.
		if s.opening.Load() {
			return nil
		}
		var err error
		if req, err = s.login.fill(req); err != nil {
			return err
		}
		into := invoke
		invoke = func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, opts ...grpc.CallOption) error {
			err := into(ctx, method, req, reply, cc, opts...)
			if err == nil || errors.Is(rpctypes.Error(err), rpctypes.ErrAuthNotEnabled) {
				s.login.done.Store(true)
			}
			return err
		}
	case s.login.user != "" && !s.login.done.Load():
		// This has the client log in first. Without a token etcd would take us for whom our
		// certificate names, if we have one, and refuse what the user may do.
		return rpctypes.ErrGRPCUserEmpty
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
