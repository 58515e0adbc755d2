package e2e_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// secured is an etcd that takes connections with TLS and a client certificate only, with
// users and the roles that deploy/etcd/roles.sh makes. Who has a certificate for a user is
// that user; who has the one for nobody needs a password.
type secured struct {
	t       *testing.T
	process *harness.Process
	args    []string
	address string
	ca      *certstest.CA
	dir     string
}

func startSecured(t *testing.T, args ...string) *secured {
	t.Helper()
	address, peer := harness.FreeAddress(t), harness.FreeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	s := &secured{t: t, address: "localhost:" + port, ca: certstest.NewCA(t), dir: t.TempDir()}
	certstest.WriteFile(t, s.file("ca.pem"), s.ca.PEM)
	s.ca.Issue(t, "localhost").Write(t, s.dir, "server")
	for _, user := range []string{"root", "node", "ops", "ann", "nobody"} { // nobody is no user
		s.ca.IssueUser(t, user).Write(t, s.dir, user)
	}
	s.args = append([]string{"--name=secured", "--data-dir=" + filepath.Join(s.dir, "data"), "--unsafe-no-fsync", "--log-level=error",
		"--listen-client-urls=https://" + address, "--advertise-client-urls=https://localhost:" + port,
		"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer, "--initial-cluster=secured=http://" + peer,
		"--client-cert-auth", "--trusted-ca-file=" + s.file("ca.pem"), "--cert-file=" + s.file("server.pem"), "--key-file=" + s.file("server.key"),
	}, args...)
	s.start()
	s.roles("fleet")
	s.roles("team", "team-a")
	for _, user := range [][2]string{{"root", "root"}, {"node", "roster-node"}, {"ops", "roster-operator"}, {"ann", "roster-team-team-a"}} {
		s.ctl("user", "add", user[0]+":pw-"+user[0])
		s.ctl("user", "grant-role", user[0], user[1])
		s.password(user[0], "pw-"+user[0])
	}
	s.ctl("auth", "enable")
	return s
}

func (s *secured) start() {
	s.t.Helper()
	s.process = harness.StartProcess(s.t, "etcd", harness.EtcdBinary(s.t), s.args, nil)
	harness.Until(s.t, "etcd to answer", func() (bool, any) {
		r := harness.Run(s.t, "", s.env("root"), harness.Etcdctl(s.t), "endpoint", "health")
		return r.Code == 0, r
	})
}

// restart ends etcd and starts it again, with its data.
func (s *secured) restart() {
	s.t.Helper()
	s.process.Kill()
	s.start()
}

func (s *secured) file(name string) string { return filepath.Join(s.dir, name) }

// password writes a user's password where its node or command reads it.
func (s *secured) password(user, password string) {
	s.t.Helper()
	certstest.WriteFile(s.t, s.file(user+".password"), password+"\n")
}

func (s *secured) env(user string) []string {
	return []string{"ETCDCTL_ENDPOINTS=https://" + s.address, "ETCDCTL=" + harness.Etcdctl(s.t),
		"ETCDCTL_CACERT=" + s.file("ca.pem"), "ETCDCTL_CERT=" + s.file(user+".pem"), "ETCDCTL_KEY=" + s.file(user+".key")}
}

// roles runs deploy/etcd/roles.sh as root.
func (s *secured) roles(args ...string) {
	s.t.Helper()
	r := harness.Run(s.t, "", s.env("root"), filepath.Join(harness.Root(s.t), "deploy", "etcd", "roles.sh"), args...)
	if r.Code != 0 {
		s.t.Fatal(r)
	}
}

// refused checks that etcdctl may not do something as a user.
func (s *secured) refused(user string, args ...string) {
	s.t.Helper()
	r := harness.Run(s.t, "", s.env(user), harness.Etcdctl(s.t), args...)
	if r.Code == 0 || !strings.Contains(r.Stderr, "permission denied") {
		s.t.Errorf("%s: etcdctl %v: %v, want it refused", user, args, r)
	}
}

// ctl runs etcdctl as root.
func (s *secured) ctl(args ...string) string {
	s.t.Helper()
	r := harness.Run(s.t, "", s.env("root"), harness.Etcdctl(s.t), args...)
	if r.Code != 0 {
		s.t.Fatalf("etcdctl %v: %v", args, r)
	}
	return r.Stdout
}

// flags are those of a command or node that is a user by its certificate, or by its password.
func (s *secured) flags(user string, password bool) []string {
	cert := user
	if password {
		cert = "nobody"
	}
	flags := []string{"--etcd", s.address, "--etcd-ca", s.file("ca.pem"), "--etcd-cert", s.file(cert + ".pem"), "--etcd-key", s.file(cert + ".key")}
	if password {
		flags = append(flags, "--etcd-user", user, "--etcd-password-file", s.file(user+".password"))
	}
	return flags
}

// roster runs a command as a user by its certificate, and checks its exit code and a part of
// what it says.
func (s *secured) roster(user string, code int, part string, args ...string) harness.Result {
	s.t.Helper()
	r := harness.CLI(s.t, append(args, s.flags(user, false)...)...)
	if r.Code != code || !strings.Contains(r.Stdout+r.Stderr, part) {
		s.t.Fatalf("%s: roster %s: %v\nwant code %d and %q", user, strings.Join(args, " "), r, code, part)
	}
	return r
}

// node starts a node as a user.
func (s *secured) node(id, user string, password bool) *harness.Node {
	s.t.Helper()
	flags := s.flags(user, password)
	return harness.StartNode(s.t, harness.NodeConfig{Etcd: flags[1], ID: id, Args: flags[2:]})
}

// put puts what changes, as the operator, and waits until all members serve by it.
func (s *secured) put() {
	s.t.Helper()
	s.roster("ops", 0, "applied by all members", "put", "probe", "changing", "interval="+fmt.Sprint(s.revision()%1000+1)+"s", "--wait")
}

func (s *secured) revision() int64 {
	s.t.Helper()
	var status []struct {
		Status struct{ Header struct{ Revision int64 } }
	}
	if err := json.Unmarshal([]byte(s.ctl("endpoint", "status", "-w", "json")), &status); err != nil || len(status) != 1 {
		s.t.Fatalf("etcd's status: %v, %v", status, err)
	}
	return status[0].Status.Header.Revision
}

func TestWhoOneIsAtEtcdIsToldByTheCertificate(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	node := s.node("n1", "node", false)
	web := harness.StartOrigin(t, "web")
	s.roster("ann", 0, "put backends/team-a/web", "put", "backend", "team-a/web", web.Definition(), "--wait")
	if a := node.Get("/"); a.Origin != "web" {
		t.Errorf("the node answers %v", a)
	}
	for _, name := range []string{"web", "team-b/web", "team-ab/web"} {
		r := s.roster("ann", 1, "etcd denies it: ", "put", "backend", name, "host=10.0.0.7")
		if !strings.Contains(r.Stderr, "permission denied") || !strings.Contains(r.Stderr, "backends/"+name) || r.Stdout != "" {
			t.Errorf("put of %s: %v", name, r)
		}
	}
	// A certificate that is no user's, and no password: etcd does not know who it is.
	s.roster("nobody", 1, "etcd denies it: ", "put", "backend", "team-a/web", "host=10.0.0.7")
	// With a password besides, that is who one is.
	if r := harness.CLI(t, append([]string{"put", "probe", "team-a/p", "interval=1s"}, s.flags("ann", true)...)...); r.Code != 0 {
		t.Errorf("with a password: %v", r)
	}

	// All that a node says, it may say: the fleet works.
	s.roster("ann", 0, "n1", "status", "--admin", node.AdminAddress())
	s.roster("ops", 0, "safe to kill", "drain", "team-a/web", "--wait")
	s.roster("ops", 0, "", "health", "team-a/web", "auto", "--wait")

	// A team drains, for some time too, what is its own; what concerns all it may not.
	s.roster("ann", 0, "safe to kill", "drain", "team-a/web", "--wait", "--for", "10m")
	s.roster("ann", 0, "", "health", "team-a/web", "auto", "--wait")
	s.roster("ann", 0, "", "history", "backend", "team-a/web")
	s.roster("ops", 0, "", "put", "backend", "team-b/web", "host=10.0.0.7")
	for _, command := range [][]string{{"drain", "team-b/web"}, {"health", "team-b/web", "sick"}, {"ack", "1"}, {"export"}, {"watch"}} {
		s.roster("ann", 1, "permission denied (user ann, by the client certificate ", command...)
	}
	s.refused("ann", "put", "/roster/ack", "1")
	s.refused("ann", "del", "--prefix", "/roster-members/n1/")
	s.refused("node", "put", "/roster/ack", "1")
	s.refused("node", "put", "/roster/health/team-a/web", "sick")
	if got := node.AdminGet("/v1/status").Body; !strings.Contains(got, `"present": true`) {
		t.Errorf("its presence: %s", got)
	}
}

// A node of which every right is taken but to read, and to say that it is there, under its
// own name, works but for one thing, which it says: the secret of session cookies.
func TestANodeThatMayOnlyReadAndSayThatItIsThere(t *testing.T) {
	t.Parallel()
	s := startSecured(t)
	s.roles("node", "n1")
	s.ctl("user", "revoke-role", "node", "roster-node")
	s.ctl("user", "grant-role", "node", "roster-node-n1")
	for _, key := range []string{"/roster-nodes/n2/x", "/roster-members/n2/x", "/roster-nodes/n10/x", "/roster/backends/web", "/roster/secret", "/roster/ack"} {
		s.refused("node", "put", key, "{}")
	}
	node := s.node("n1", "node", false)
	web := harness.StartOrigin(t, "web")
	s.roster("ops", 0, "n1: done after", "put", "backend", "web", web.Definition(), "--wait")
	if a := node.Get("/"); a.Origin != "web" {
		t.Errorf("the node answers %v", a)
	}
	if got := node.AdminGet("/v1/status").Body; !strings.Contains(got, `"warnings": []`) {
		t.Errorf("it warns where there is nothing to warn of: %s", got)
	}
	s.roster("ops", 0, "safe to kill", "drain", "web", "--wait")
	s.roster("ops", 0, "", "health", "web", "auto", "--wait")
	const director = `{"type": "round_robin", "backends": ["web"], "cookie": {"name": "s"}}`
	s.roster("ops", 0, "n1: done after", "put", "director", "default", director, "--wait")
	harness.Until(t, "the warning of the secret", func() (bool, any) {
		got := node.AdminGet("/v1/status").Body
		return strings.Contains(got, "no session cookies are set") && strings.Contains(got, "permission denied"), got
	})
	if a := node.Get("/"); a.Origin != "web" || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("without the secret it answers %v, %v", a, a.Header)
	}
	s.roster("ops", 0, "", "status", "--admin", node.AdminAddress())
	if code := node.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if keys := s.ctl("get", "--prefix", "--keys-only", "/roster-"); strings.TrimSpace(keys) != "" {
		t.Errorf("after its end: %s", keys)
	}
}

// Whatever becomes of a node's rights while it runs, it serves on, says what is wrong, and
// goes on by itself when that is mended.
func TestRightsThatAreLostWhileANodeRuns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		password     bool
		break_, mend func(s *secured)
		says         string // in status
	}{
		"permission": {
			break_: func(s *secured) { s.ctl("user", "revoke-role", "node", "roster-node") },
			mend:   func(s *secured) { s.ctl("user", "grant-role", "node", "roster-node") },
			says:   "permission denied",
		},
		"password": {
			password: true,
			break_:   func(s *secured) { s.changePassword("node", "another") },
			mend:     func(s *secured) { s.password("node", "another") },
			says:     "authentication failed, invalid user ID or password",
		},
		"user": {
			password: true,
			break_:   func(s *secured) { s.ctl("user", "delete", "node") },
			mend: func(s *secured) {
				s.ctl("user", "add", "node:pw-node")
				s.ctl("user", "grant-role", "node", "roster-node")
			},
			says: "authentication failed, invalid user ID or password",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSecured(t)
			node := s.node("n1", "node", c.password)
			web := harness.StartOrigin(t, "web")
			s.roster("ops", 0, "", "put", "backend", "web", web.Definition(), "--wait")
			c.break_(s)
			s.restart() // a watch that is open stays so
			status := node.WaitStatus("the refusal", func(st harness.Status) bool { return strings.Contains(st.Etcd.Error, c.says) })
			if status.Etcd.Connected || !status.Ready {
				t.Errorf("status %+v", status)
			}
			// It stays a member, and is waited for.
			s.roster("ops", 6, "roster: n1: ", "put", "backend", "web", `{"none": true}`, "--wait", "--wait-timeout", "200ms")
			if a := node.Get("/"); a.Status != http.StatusOK || a.Origin != "web" {
				t.Errorf("without its rights it answers %v", a)
			}
			if !strings.Contains(node.Log(), c.says) {
				t.Errorf("its log does not say so:\n%s", node.Log())
			}
			c.mend(s)
			node.WaitStatus("its rights", func(st harness.Status) bool { return st.Etcd.Connected })
			harness.Until(t, "the change", func() (bool, any) {
				a := node.Get("/")
				return a.Status == http.StatusServiceUnavailable, a
			})
			s.put()
		})
	}
}

// changePassword changes a user's password in etcd alone.
func (s *secured) changePassword(user, password string) {
	s.t.Helper()
	r := harness.Run(s.t, password+"\n", s.env("root"), harness.Etcdctl(s.t), "user", "passwd", user, "--interactive=false")
	if r.Code != 0 {
		s.t.Fatal(r)
	}
}

// granted is how much time the lease of the only node has left, in seconds.
func (s *secured) granted() int64 {
	s.t.Helper()
	var leases struct{ Leases []struct{ ID json.Number } }
	var left struct{ TTL int64 }
	err := json.Unmarshal([]byte(s.ctl("lease", "list", "-w", "json")), &leases)
	if err != nil || len(leases.Leases) != 1 {
		s.t.Fatalf("leases %v, %v", leases, err)
	}
	var id int64
	fmt.Sscan(leases.Leases[0].ID.String(), &id)
	if err := json.Unmarshal([]byte(s.ctl("lease", "timetolive", fmt.Sprintf("%x", id), "-w", "json")), &left); err != nil {
		s.t.Fatal(err)
	}
	return left.TTL
}

// Tokens end after a second without a request, and with etcd: nobody notices.
func TestTokensThatEndAreReplaced(t *testing.T) {
	t.Parallel()
	s := startSecured(t, "--auth-token-ttl=1")
	node := s.node("n1", "node", true)
	// At rest for longer than that: a lease is kept alive every three seconds.
	for range 2 {
		last := int64(0)
		for renewed := 0; renewed < 2; { // the first look is none
			harness.Until(t, "the lease to be kept alive", func() (bool, any) {
				left := s.granted()
				more := left > last
				last = left
				return more, left
			})
			renewed++
		}
		s.put()
	}
	s.restart()
	node.WaitStatus("etcd", func(st harness.Status) bool { return st.Etcd.Connected })
	s.put()
	if st := node.Status(); st.Etcd.Relists != 0 {
		t.Errorf("it listed %d times anew", st.Etcd.Relists)
	}
	if log := node.Log(); strings.Contains(log, "presence cannot be written") {
		t.Errorf("it was absent:\n%s", log)
	}
}
