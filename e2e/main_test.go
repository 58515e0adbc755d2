// Package e2e_test runs the built roster with the real etcd and etcdctl, on real
// sockets. What it needs is in package harness.
package e2e_test

import (
	"os"
	"testing"

	"roster/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
