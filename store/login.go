package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// login is password authentication that waits for nobody: etcd's client logs in
// when it is made, and fails if etcd is away then. A login gets its token when
// the first call needs one, and a new one when a server does not know it any
// more (tokens end after five minutes of silence, and with the server).
type login struct {
	client         *clientv3.Client // without credentials
	user, password string
	file           string

	mu    sync.Mutex
	token string
}

func (l *login) options() []grpc.DialOption {
	return []grpc.DialOption{grpc.WithPerRPCCredentials(l), grpc.WithChainUnaryInterceptor(l.retry)}
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (l *login) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == "" {
		password, err := l.secret()
		if err != nil {
			return nil, err
		}
		resp, err := l.client.Authenticate(ctx, l.user, password)
		if errors.Is(err, rpctypes.ErrAuthNotEnabled) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("log in as %q: %w", l.user, err)
		}
		l.token = resp.Token
	}
	return map[string]string{rpctypes.TokenFieldNameGRPC: l.token}, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: etcd's own
// client sends tokens without TLS too.
func (l *login) RequireTransportSecurity() bool { return false }

// secret is the password as it is now.
func (l *login) secret() (string, error) {
	if l.file == "" {
		return l.password, nil
	}
	b, err := os.ReadFile(l.file)
	if err != nil {
		return "", fmt.Errorf("password for etcd: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return strings.TrimSuffix(line, "\r"), nil
}

// retry logs in again and sends a call once more if its token was refused: a
// server that refuses it has done nothing.
func (l *login) retry(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	l.mu.Lock()
	used := l.token
	l.mu.Unlock()
	err := invoke(ctx, method, req, reply, cc, opts...)
	switch {
	case err == nil:
		return nil
	case errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken),
		errors.Is(rpctypes.Error(err), rpctypes.ErrAuthOldRevision),
		errors.Is(rpctypes.Error(err), rpctypes.ErrUserEmpty):
	default:
		return err
	}
	l.mu.Lock()
	if l.token == used {
		l.token = ""
	}
	l.mu.Unlock()
	return invoke(ctx, method, req, reply, cc, opts...)
}

// close ends the connections; a nil login has none.
func (l *login) close() {
	if l != nil {
		l.client.Close()
	}
}
