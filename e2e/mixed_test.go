package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// newer is a definition with a field that only the next release has.
func newer(definition string) string { return strings.TrimSuffix(definition, "}") + `, "next": "x"}` }

// Two releases in one fleet. What the older node does not take is refused, by the newer
// commands and by the newer node's API, until it is forced. Then the older node loses
// nothing that it served, running or started again; with --unknown-fields warn it serves
// what it can of the newer definitions.
func TestMixedVersions(t *testing.T) {
	t.Parallel()
	next := harness.NextRoster(t)
	etcd, port := harness.StartEtcd(t), echo(t)
	const director, route, probe = `{"type": "round_robin", "backends": ["web-1"]}`, `{"match": {"path": "/r"}, "respond": {"body": "first"}}`, `{"url": "/"}`
	first := etcd.Txn(
		clientv3.OpPut(backendsPrefix+"web-1", echoBackend(port, "first")),
		clientv3.OpPut(directorKey, director),
		clientv3.OpPut("/roster/routes/r", route),
		clientv3.OpPut("/roster/probes/p", probe))
	old := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "old"})
	young := harness.StartNode(t, harness.NodeConfig{Etcd: etcd.Endpoints(), ID: "young", Binary: next})
	serves := func(node *harness.Node, path, want string) {
		t.Helper()
		if a := node.Get(path); a.Status != 200 || a.Body != want {
			t.Errorf("%s answers %v, want %s", path, a, want)
		}
	}
	cli := func(code int, want []string, args ...string) {
		t.Helper()
		r := harness.Run(t, "", nil, next, append(args, "--etcd", etcd.Endpoints())...)
		for _, text := range want {
			if !strings.Contains(r.Stdout+r.Stderr, text) {
				t.Errorf("roster %s: %q is not in it", strings.Join(args, " "), text)
			}
		}
		if r.Code != code || t.Failed() {
			t.Fatalf("roster %s: %v, want code %d", strings.Join(args, " "), r, code)
		}
	}

	// Refused, by name of the field, the level and the node.
	site := filepath.Join(t.TempDir(), "site.yaml")
	if err := os.WriteFile(site, []byte(fmt.Sprintf(`{"backends": {"web-1": %s}, "directors": {"default": {"type": "next", "backends": ["web-1"]}}, "routes": {"r": %s}, "probes": {"p": %s}}`,
		newer(echoBackend(port, "second")), newer(strings.Replace(route, "first", "second", 1)), newer(`{"url": "/", "window": 9}`))), 0o600); err != nil {
		t.Fatal(err)
	}
	const field = "next: is a field of definition level 2, more than old (roster "
	const value = `directors/default: type: is the value "next" of definition level 2, more than old (roster `
	cli(3, []string{"backends/web-1: " + field, "level 1) has; bring all nodes to a release that has it first, or write it all the same with --force"},
		"put", "backend", "web-1", newer(echoBackend(port, "second")))
	cli(3, []string{"backends/web-1: " + field, "probes/p: " + field, "routes/r: " + field, value}, "apply", "-f", site)
	cli(3, []string{value}, "apply", "--dry-run", "-f", site)
	cli(3, []string{"backends/web-2: " + field}, "register", "web-2", newer(echoBackend(port, "x")))
	api := func(node *harness.Node, query, body string, want int) {
		t.Helper()
		a := adminDo(t, adminClient, "PUT", node.AdminURL()+"/v1/directors/default"+query, body)
		if a.status != want || want == 422 && !strings.Contains(a.body, `"path": "type"`) {
			t.Errorf("the API answers %d %s, want %d", a.status, a.body, want)
		}
	}
	const typed = `{"type": "next", "backends": ["web-1"]}`
	api(young, "", typed, 422)
	api(old, "?force", typed, 422) // it does not know the type at all
	if st := young.Status(); st.Revision != first {
		t.Errorf("revision %d after what was refused, want %d", st.Revision, first)
	}
	api(young, "?force=true", typed, 200)

	// Forced. Nothing that the older node served is lost.
	cli(0, []string{"3 changed"}, "apply", "--force", "-f", site)
	st := young.Status()
	second := st.Revision
	old.WaitRevision(second)
	young.WaitRevision(second)
	rejects := func(want ...string) {
		t.Helper()
		var got []string
		for _, r := range old.Status().Rejected {
			got = append(got, r.Key)
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("the older node rejects %q, want %q", got, want)
		}
	}
	status := func(want ...string) {
		t.Helper()
		harness.Until(t, "roster status to tell", func() (bool, any) {
			r := harness.CLI(t, "status", "--etcd", etcd.Endpoints(), "--admin", old.AdminAddress())
			for _, text := range want {
				if !strings.Contains(r.Stdout+r.Stderr, text) {
					return false, fmt.Sprintf("%q is not in %v", text, r)
				}
			}
			return true, nil
		})
	}
	all := []string{"backends/web-1", "directors/default", "probes/p", "routes/r"}
	for _, how := range []string{"running", "restarted"} {
		serves(young, "/", "second")
		serves(young, "/r", "second")
		serves(old, "/", "first")
		serves(old, "/r", "first")
		rejects(all...)
		if how == "running" {
			status(fmt.Sprintf("nodes differ at revision %d", second), "definition levels 1 to 2: what needs more than 1 is refused until old is updated",
				"rejected by old: backends/web-1 at revision", "is not a field of a backend")
			old.Terminate()
			old.Restart()
		}
	}

	// With warnings instead: the field is left out, but no route's, and no value is guessed.
	old.Terminate()
	old.SetArgs("--unknown-fields", "warn")
	old.Restart()
	serves(old, "/", "second")
	serves(old, "/r", "first")
	rejects("directors/default", "routes/r")
	status("warning on old: backends/web-1: next: is not a field of a backend, served without it", "warning on old: probes/p: next: ",
		fmt.Sprintf("nodes differ at revision %d", second))

	// A rollback is a write as others are, and so is what an older node does not take.
	third := etcd.Txn(clientv3.OpPut(directorKey, director), clientv3.OpPut("/roster/routes/r", route))
	old.WaitRevision(third)
	rejects()
	harness.Until(t, "nodes to agree", func() (bool, any) {
		a, b := old.Status(), young.Status()
		return a.Digest == b.Digest && a.Revision == b.Revision, []harness.Status{a, b}
	})
	cli(3, []string{value, "routes/r: " + field}, "rollback", "--revision", fmt.Sprint(second))

	// Without the older node nothing is in the way.
	old.Terminate()
	cli(0, []string{"2 changed"}, "rollback", "--revision", fmt.Sprint(second))
	serves(young, "/", "second")
}
