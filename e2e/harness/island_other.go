//go:build !linux

package harness

import (
	"context"
	"net"
	"testing"
)

// An Island is a network namespace of Linux.
type Island struct{ EtcdHost, OriginHost string }

// NewIslands skips the test: there are no namespaces.
func NewIslands(t testing.TB, n int) []*Island {
	t.Helper()
	Lack(t, "network namespaces are Linux's")
	return nil
}

// Cut does nothing.
func (i *Island) Cut() {}

// Heal does nothing.
func (i *Island) Heal() {}

func (i *Island) wrap(path string, args []string) (string, []string) { return path, args }

func (i *Island) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, address)
}
