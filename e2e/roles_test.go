package e2e_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// guarded is an etcd with authentication on, and roles as deploy/etcd/roles.sh makes them.
type guarded struct {
	t        *testing.T
	etcd     *harness.Etcd
	root     string            // of the module
	password map[string]string // files, by user
}

func startGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, etcd: harness.StartEtcd(t), root: harness.Root(t), password: make(map[string]string)}
	g.must(g.roles("", "fleet"))
	g.must(g.roles("", "fleet")) // may be run again
	g.must(g.roles("", "team", "team-a"))
	for user, role := range map[string]string{"node": "roster-node", "ops": "roster-operator", "ann": "roster-team-team-a", "root": "root"} {
		g.must(g.etcdctl("", "user", "add", user+":pw-"+user))
		g.must(g.etcdctl("", "user", "grant-role", user, role))
		file := filepath.Join(t.TempDir(), user)
		if err := os.WriteFile(file, []byte("pw-"+user+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		g.password[user] = file
	}
	g.must(g.etcdctl("", "auth", "enable"))
	return g
}

func (g *guarded) must(r harness.Result) {
	g.t.Helper()
	if r.Code != 0 {
		g.t.Fatal(r)
	}
}

// env has etcdctl speak as a user; empty is nobody.
func (g *guarded) env(user string) []string {
	env := []string{"ETCDCTL_ENDPOINTS=" + g.etcd.Endpoints(), "ETCDCTL=" + harness.Etcdctl(g.t)}
	if user != "" {
		env = append(env, "ETCDCTL_USER="+user+":pw-"+user)
	}
	return env
}

func (g *guarded) etcdctl(user string, args ...string) harness.Result {
	g.t.Helper()
	return harness.Run(g.t, "", g.env(user), harness.Etcdctl(g.t), args...)
}

func (g *guarded) roles(user string, args ...string) harness.Result {
	g.t.Helper()
	return harness.Run(g.t, "", g.env(user), filepath.Join(g.root, "deploy", "etcd", "roles.sh"), args...)
}

// cli runs a command of roster as a user.
func (g *guarded) cli(user string, args ...string) harness.Result {
	g.t.Helper()
	return harness.CLI(g.t, append(args, "--etcd", g.etcd.Endpoints(), "--etcd-user", user, "--etcd-password-file", g.password[user])...)
}

// A team writes its own definitions and no others, and a node runs with rights to read and
// to say that it is there.
func TestATeamMayWriteItsOwnDefinitionsOnly(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	node := harness.StartNode(t, harness.NodeConfig{Etcd: g.etcd.Endpoints(), Args: []string{"--etcd-user", "node", "--etcd-password-file", g.password["node"]}})
	web := harness.StartOrigin(t, "web-1")

	for _, put := range [][]string{
		{"backend", "team-a/web-1", web.Definition()},
		{"probe", "team-a/light", "url=/health"},
		{"director", "team-a/www", "type=round_robin", "backends=team-a/web-1"},
		{"route", "team-a/www", "match.host=a.example", "backend=team-a/www"},
		{"health", "team-a/web-1", "healthy"},
	} {
		if r := g.cli("ann", append([]string{"put"}, put...)...); r.Code != 0 || !strings.HasPrefix(r.Stdout, "put ") {
			t.Errorf("put %v: %v", put, r)
		}
	}
	// It owns what it applies, under its own name.
	site := filepath.Join(t.TempDir(), "site.yaml")
	for _, apply := range [][2]string{{"backends: {team-a/old: {none: true}}", "1 created"}, {"backends: {}", "deleted backends/team-a/old"}} {
		file, says := apply[0], apply[1]
		if err := os.WriteFile(site, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := g.cli("ann", "apply", "--owner", "team-a", "--prune", "--force", "-f", site); r.Code != 0 || !strings.Contains(r.Stdout, says) {
			t.Errorf("apply of %s: %v", file, r)
		}
	}
	if r := g.cli("ann", "apply", "--owner", "team-b", "-f", site); r.Code != 1 || !strings.Contains(r.Stderr, "permission denied") {
		t.Errorf("apply as another owner: %v", r)
	}
	harness.Until(t, "the team's route", func() (bool, any) {
		r := harness.Run(t, "", nil, harness.Roster(t), "get", "routes", "--etcd", g.etcd.Endpoints(), "--etcd-user", "ann", "--etcd-password-file", g.password["ann"])
		s := node.Status()
		return r.Code == 0 && strings.Contains(r.Stdout, "team-a/www") && s.Counts["routes"] == 1, s
	})
	if a := node.Get("/"); a.Origin != "web-1" {
		t.Errorf("the node answers %v", a)
	}

	harness.Until(t, "the node's presence", func() (bool, any) {
		r := g.etcdctl("ann", "get", "--prefix", "--keys-only", "/roster-nodes/")
		return strings.Contains(r.Stdout, "/roster-nodes/"), r
	})

	for _, refused := range [][]string{
		{"put", "backend", "web-1", "host=10.0.0.7"},
		{"put", "backend", "team-b/web-1", "host=10.0.0.7"},
		{"put", "backend", "team-ab/web-1", "host=10.0.0.7"},
		{"put", "probe", "default", "url=/"},
		{"put", "route", "www", "backend=team-a/www"},
		{"put", "director", "default", "type=random", "backends=team-a/web-1"},
		{"put", "health", "team-b/web-1", "sick"},
		{"get", "certificates"},
	} {
		r := g.cli("ann", refused...)
		if r.Code != 1 || !strings.HasPrefix(r.Stderr, "roster: ") || !strings.Contains(r.Stderr, "etcd denies it") || !strings.Contains(r.Stderr, "--etcd-user") || r.Stdout != "" {
			t.Errorf("roster %v: %v, want that etcd denies it, and how to say who one is", refused, r)
		}
	}
	if r := g.cli("ops", "put", "backend", "team-b/web-1", "host=10.0.0.7"); r.Code != 0 {
		t.Errorf("an operator: %v", r)
	}

	type access struct {
		user  string
		args  []string
		works bool
	}
	for _, a := range []access{
		{"node", []string{"put", "/roster-nodes/a/1", "{}"}, true},
		{"node", []string{"put", "/roster-members/a/1", "{}"}, true},
		{"node", []string{"put", "/roster/secret", "s"}, true},
		{"node", []string{"get", "/roster/certificates/www"}, true},
		{"node", []string{"put", "/roster/secrets", "s"}, false},
		{"node", []string{"put", "/roster/backends/web-1", "{}"}, false},
		{"node", []string{"put", "/elsewhere", "x"}, false},
		{"node", []string{"get", "/elsewhere"}, false},
		{"ann", []string{"get", "/roster-nodes/", "--prefix"}, true},
		{"ann", []string{"del", "/roster/backends/team-a/none"}, true},
		{"ann", []string{"get", "/roster/secret"}, false},
		{"ann", []string{"get", "/roster/certificates/www"}, false},
		{"ann", []string{"put", "/roster-nodes/a/1", "{}"}, false},
		{"ann", []string{"del", "/roster/backends/", "--prefix"}, false},
		{"ann", []string{"put", "/roster/backends/team-a", "{}"}, false},
	} {
		r := g.etcdctl(a.user, a.args...)
		if works := r.Code == 0; works != a.works || !works && !strings.Contains(r.Stderr, "permission denied") {
			t.Errorf("%s: etcdctl %v: %v, want that it works: %t", a.user, a.args, r, a.works)
		}
	}
}

// The script refuses what would make a role other than the one that was meant.
func TestRolesScriptChecksItsArguments(t *testing.T) {
	t.Parallel()
	g := &guarded{t: t, etcd: harness.StartEtcd(t), root: harness.Root(t)}
	for _, args := range [][]string{{}, {"fleet", "x"}, {"team"}, {"team", ""}, {"team", "a/"}, {"team", "/"}, {"team", "../x"}, {"team", "a", "secret"},
		{"node"}, {"node", ""}, {"node", "a b"}, {"node", "a/"}, {"node", "/a"}, {"node", "a", "b"}, {"frob"}} {
		if r := g.roles("", args...); r.Code != 2 || !strings.HasPrefix(r.Stderr, "roles.sh: ") || r.Stdout != "" {
			t.Errorf("roles.sh %q: %v", args, r)
		}
	}
	if r := g.etcdctl("", "role", "list"); r.Code != 0 || strings.TrimSpace(r.Stdout) != "" {
		t.Errorf("roles were made: %v", r)
	}
	for _, id := range []string{"a", "vm-1:8080", "host.test:[::]:8080", "eu/edge-1"} {
		g.must(g.roles("", "node", id))
	}
	g.must(g.roles("", "team", "shop/eu", "backends", "certificates"))
	r := g.etcdctl("", "role", "get", "roster-team-shop/eu")
	if writes := strings.Split(r.Stdout, "KV Write:")[1]; !strings.Contains(writes, "/roster/backends/shop/eu/") || !strings.Contains(writes, "/roster/certificates/shop/eu/") || strings.Contains(writes, "routes") {
		t.Errorf("the role: %v", r)
	}
}
