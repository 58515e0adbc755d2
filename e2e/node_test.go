package e2e_test

import (
	"net/http"
	"strings"
	"syscall"
	"testing"

	"roster/e2e/harness"
)

// SIGTERM lets requests in progress finish, refuses new connections and ends with 0.
func TestNodeDrains(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	origin := harness.StartOrigin(t, "one")
	node.WaitRevision(node.Put(webKey, origin.Definition()))
	loop := harness.StartLoop(t, node.URL()+"/hold", 1)
	origin.WaitHeld(1)

	node.Signal(syscall.SIGTERM)
	harness.Until(t, "the end of readiness", func() (bool, any) {
		a := node.AdminGet("/readyz")
		return a.Status == http.StatusServiceUnavailable, a
	})
	other := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	harness.Until(t, "the end of the listener", func() (bool, any) {
		resp, err := other.Get(node.URL() + "/")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil, "it still accepts"
	})
	origin.Release()
	if code := node.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	loop.WaitRequests(1)
	if c := loop.Stop(); c.Statuses[http.StatusOK] != 1 {
		t.Errorf("the request in progress: %+v", c)
	}
}

// With --drain-delay a node that ends is not ready, and still serves.
func TestNodeThatEndsServesForTheDrainDelay(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--drain-delay", "1d"}})
	origin := harness.StartOrigin(t, "one")
	node.WaitRevision(node.Put(webKey, origin.Definition()))
	node.Signal(syscall.SIGTERM)
	harness.Until(t, "the end of readiness", func() (bool, any) {
		a := node.AdminGet("/readyz")
		return a.Status == http.StatusServiceUnavailable, a
	})
	got := node.Get("/")
	if got.Origin != "one" {
		t.Errorf("while it drains: %v, want an answer of one", got)
	}
	node.Signal(syscall.SIGTERM) // a second signal ends it at once
	if code := node.Wait(); code == 0 {
		t.Error("exit code 0 after a second signal, which cuts the drain short")
	}
}

func TestAddressInUseIsAnError(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	for name, args := range map[string][]string{
		"clients": {"--listen", node.Address(), "--admin", harness.FreeAddress(t), "--etcd", node.Endpoints()},
		"admin":   {"--listen", harness.FreeAddress(t), "--admin", node.AdminAddress(), "--etcd", node.Endpoints()},
		"etcd": {"--listen", harness.FreeAddress(t), "--admin", harness.FreeAddress(t),
			"--embedded-etcd-listen", node.Endpoints(), "--data", t.TempDir()},
	} {
		if r := harness.CLI(t, append([]string{"node"}, args...)...); r.Code != 1 || !strings.Contains(r.Stderr, "in use") {
			t.Errorf("%s: %v, want code 1 and that the address is in use", name, r)
		}
	}
}

// An embedded etcd has what was put before, after an orderly end and after a kill.
func TestEmbeddedEtcdKeepsItsData(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	origin := harness.StartOrigin(t, "one")
	node.WaitRevision(node.Put(webKey, origin.Definition()))
	for _, end := range []func(){func() { node.Terminate() }, node.Kill} {
		end()
		node.Restart()
		if got := node.Get("/"); got.Origin != "one" {
			t.Errorf("after a restart: %v, want an answer of one", got)
		}
	}
}

func TestSettingsFromEnvironmentAndFile(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{Env: []string{"ROSTER_NODE_ID=from-env", "ROSTER_PROXY_NAME=edge"}})
	origin := harness.StartOrigin(t, "one")
	node.WaitRevision(node.Put(webKey, origin.Definition()))
	if s := node.Status(); s.Node != "from-env" {
		t.Errorf("node id %q, want from-env", s.Node)
	}
	if got := node.Get("/").Header.Get("Via"); got != "1.1 edge" {
		t.Errorf("Via %q, want 1.1 edge", got)
	}
}
