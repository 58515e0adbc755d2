package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// The built binary's commands against a node with its own etcd, with their exit codes.
func TestCommands(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{ID: "n1"})
	origin := harness.StartOrigin(t, "one")
	host, port, _ := strings.Cut(origin.Address(), ":")
	site := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(site, []byte("backends:\n  web-1: {host: "+host+", port: "+port+"}\n  web-2: {none: true}\ndirectors:\n  default: {type: round_robin, backends: [web-1]}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	roster := func(code int, out string, args ...string) {
		t.Helper()
		env := []string{"ROSTER_ETCD=" + node.Endpoints(), "ROSTER_ADMIN=" + node.AdminAddress()}
		r := harness.Run(t, "", env, harness.Roster(t), args...)
		if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, out) {
			t.Errorf("roster %s: %v\nwant code %d and %q", strings.Join(args, " "), r, code, out)
		}
	}
	roster(0, "", "healthcheck")
	roster(0, "3 created, 0 changed, 0 unchanged", "apply", "-f", site)
	harness.Until(t, "an answer of one", func() (bool, any) {
		a := node.Get("/")
		return a.Origin == "one", a
	})
	roster(0, "put backends/web-1", "put", "backend", "web-1", "host="+host, "port="+port, "labels.app=web")
	roster(0, "app=web", "get", "backends")
	roster(3, "prt: is not a field", "put", "backend", "web-1", "host="+host, "prt="+port)
	roster(4, "web-1", "put", "backend", "web-1", "host="+host, "--if-revision", "0")
	roster(4, "share one namespace", "put", "director", "web-1", "type=round_robin", "backends=web-2")
	roster(2, "did you mean backend?", "put", "bakend", "web-1", "host="+host)
	roster(1, "there is no backend web-9", "get", "backend", "web-9")
	roster(0, "deleted backends/web-2", "delete", "backend", "web-2")
	node.Put("/roster/backends/bad", `{"prt": 1}`)
	node.WaitStatus("the rejected key", func(s harness.Status) bool { return len(s.Rejected) == 1 })
	roster(0, "rejected by n1: backends/bad", "status")
	roster(0, `"node": "n1"`, "status", "-o", "json")
	roster(5, "etcd does not answer", "get", "backends", "--etcd", harness.FreeAddress(t), "--timeout", "1s")
	roster(1, "does not answer", "healthcheck", "--admin", harness.FreeAddress(t))
	roster(1, "does not answer", "status", "--admin", node.AdminAddress()+","+harness.FreeAddress(t))
}
