package store

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// A login is the password of etcd's user, given or in a file that is read for
// each log-in, so that it may be changed. Etcd's client keeps the token and
// logs in again when a server does not know it any more (tokens end after five
// minutes of silence, and with the server); it would also keep the password, so
// login puts the present one into its requests.
type login struct {
	user           string // empty: there is none
	password, file string
	done           atomic.Bool // once at least
}

// placeholder is the password that etcd's client has: without one it does not
// log in.
const placeholder = "put in by login.fill"

// String says which user and password are meant.
func (l *login) String() string {
	if l.file == "" {
		return "user " + l.user
	}
	return fmt.Sprintf("user %s, the password of %s", l.user, l.file)
}

// fill returns a request of etcd's client to log in as it is to be sent.
func (l *login) fill(req any) (any, error) {
	r, ok := req.(*pb.AuthenticateRequest)
	if !ok || r.Password != placeholder {
		return req, nil
	}
	password, err := l.secret()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDenied, err)
	}
	return &pb.AuthenticateRequest{Name: r.Name, Password: password}, nil
}

// secret is the password as it is now.
func (l *login) secret() (string, error) {
	if l.file == "" {
		return l.password, nil
	}
	data, err := os.ReadFile(l.file)
	if err != nil {
		return "", fmt.Errorf("etcd password: %w", err)
	}
	password := strings.TrimRight(string(data), " \t\r\n")
	if password == "" {
		return "", fmt.Errorf("etcd password: file %s is empty", l.file)
	}
	return password, nil
}
