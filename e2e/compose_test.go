package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/store"
)

// A cluster is that of docker-compose.yml, made from a clone of what is committed, under a
// name and at ports of its own. It is taken down when the test ends, whatever became of it.
type cluster struct {
	t       *testing.T
	dir     string // of the clone
	project string
	env     []string
	entry   string    // address
	nodes   [3]string // addresses
	etcd    [3]string // addresses
	client  *http.Client
	scheme  string
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	harness.Require(t, "docker", "make", "git", "tar", "bash", "curl", "openssl")
	if exec.Command("docker", "compose", "version").Run() != nil {
		harness.Require(t, "docker-compose")
	}
	if out, err := exec.Command("docker", "info").CombinedOutput(); err != nil {
		harness.Lack(t, "docker info: %v\n%s", err, out)
	}
	c := &cluster{t: t, dir: t.TempDir(), scheme: "http", entry: harness.FreeAddress(t)}
	c.project = "roster-e2e-" + port(c.entry)
	c.env = []string{"COMPOSE_PROJECT_NAME=" + c.project, "ENTRY_PORT=" + port(c.entry)}
	for i := range 3 {
		c.nodes[i], c.etcd[i] = harness.FreeAddress(t), harness.FreeAddress(t)
		c.env = append(c.env, fmt.Sprintf("NODE_%d_PORT=%s", i+1, port(c.nodes[i])), fmt.Sprintf("ETCD_%d_PORT=%s", i+1, port(c.etcd[i])))
	}
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c.client = &http.Client{Timeout: harness.WaitLimit, Transport: transport}

	clone := exec.Command("bash", "-c", `set -o pipefail; git -C "$1" archive HEAD | tar -x -C "$2"`, "-", harness.Root(t), c.dir)
	if out, err := clone.CombinedOutput(); err != nil {
		harness.Lack(t, "git archive HEAD: %v\n%s", err, out)
	}
	t.Cleanup(c.remove)
	return c
}

// remove is make down, and what makes sure that nothing is left after a failure of it.
func (c *cluster) remove() {
	if c.t.Failed() {
		out, _ := c.command("deploy/docker/compose", "logs", "--no-color", "--tail", "30").CombinedOutput()
		c.t.Logf("logs of the containers:\n%s", out)
	}
	if out, err := c.command("make", "down").CombinedOutput(); err != nil {
		c.t.Errorf("make down: %v\n%s", err, out)
	}
	for what, rest := range c.rest() {
		if len(rest) > 0 {
			c.t.Errorf("make down left %s: %v", what, rest)
			_ = exec.Command("docker", append(strings.Fields(what+" rm -f"), rest...)...).Run()
		}
	}
}

// rest is what Docker has of the cluster, by kind.
func (c *cluster) rest() map[string][]string {
	label := "label=com.docker.compose.project=" + c.project
	rest := make(map[string][]string)
	for _, list := range [][]string{{"container", "ls", "-a"}, {"image", "ls"}, {"volume", "ls"}, {"network", "ls"}} {
		out, err := exec.Command("docker", append(list, "-q", "--filter", label)...).Output()
		if err != nil {
			c.t.Errorf("docker %v: %v", list, err)
		}
		rest[list[0]] = strings.Fields(string(out))
	}
	return rest
}

// command is a program, with a limit, in the folder and the environment of the clone.
func (c *cluster) command(name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), buildLimit)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(), c.env...)
	cmd.WaitDelay = time.Second
	return cmd
}

// run runs a program in the clone, with stdin, and returns what it printed. It must work.
func (c *cluster) run(stdin, name string, args ...string) string {
	c.t.Helper()
	cmd := c.command(name, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begun := time.Now()
	err := cmd.Run()
	c.t.Logf("%s %s: %.1fs", name, strings.Join(args, " "), time.Since(begun).Seconds())
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, stdout.Bytes(), stderr.Bytes())
	}
	return stdout.String()
}

// id is the container of a service.
func (c *cluster) id(service string) string {
	c.t.Helper()
	id := strings.TrimSpace(c.run("", "docker", "ps", "-a", "-q", "--filter", "label=com.docker.compose.project="+c.project,
		"--filter", "label=com.docker.compose.service="+service))
	if id == "" || strings.Contains(id, "\n") {
		c.t.Fatalf("containers of %s: %q, want one", service, id)
	}
	return id
}

var nodeName = regexp.MustCompile(`node-\d`)

// get asks an address, and returns who answered through which node.
func (c *cluster) get(address string) (origin, node string, err error) {
	resp, err := c.client.Get(c.scheme + "://" + address + "/")
	if err != nil {
		return "", "", err
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("%s answers %s, %v", address, resp.Status, resp.Header)
	}
	return resp.Header.Get("X-Origin"), nodeName.FindString(strings.Join(resp.Header.Values("Via"), ", ")), nil
}

// settled bounds a wait for the cluster to be well. A look may take seconds while an address
// is gone or a process hangs: the entry waits 2 s for each.
const settled = 2 * time.Minute

// wait waits until the check answers true, and says how long that took.
func (c *cluster) wait(what string, check func() (bool, any)) {
	c.t.Helper()
	begun := time.Now()
	harness.Within(c.t, settled, what, check)
	c.t.Logf("%s: %.1fs", what, time.Since(begun).Seconds())
}

// through waits until requests to the entry go to each of these nodes, and to no others. A
// node's share is not exact: a request that was answered too late on a busy machine was sent
// to another.
func (c *cluster) through(nodes ...string) {
	c.t.Helper()
	c.wait(fmt.Sprintf("the entry to share requests among %v", nodes), func() (bool, any) {
		const each, least = 6, 3
		got := make(map[string]int)
		for range each * len(nodes) {
			_, node, err := c.get(c.entry)
			if err != nil {
				return false, err
			}
			got[node]++
		}
		for _, node := range nodes {
			if got[node] < least {
				return false, got
			}
		}
		return len(got) == len(nodes), got
	})
}

// unhealthy waits until Docker finds these services unhealthy, and all others that run
// healthy.
func (c *cluster) unhealthy(services ...string) {
	c.t.Helper()
	slices.Sort(services)
	label := "label=com.docker.compose.project=" + c.project
	c.wait(fmt.Sprintf("these services alone to be unhealthy: %v", services), func() (bool, any) {
		out, err := c.command("docker", "ps", "--filter", label, "--format", `{{.Label "com.docker.compose.service"}} {{.Status}}`).Output()
		if err != nil {
			return false, err
		}
		var sick []string
		for line := range strings.Lines(string(out)) {
			service, status, _ := strings.Cut(line, " ")
			switch {
			case strings.Contains(status, "(unhealthy)"):
				sick = append(sick, service)
			case !strings.Contains(status, "(healthy)"):
				return false, line
			}
		}
		slices.Sort(sick)
		return slices.Equal(sick, services), sick
	})
}

// answers waits until each node and the entry answer.
func (c *cluster) answers() {
	c.t.Helper()
	for i, address := range c.nodes {
		want := fmt.Sprintf("node-%d", i+1)
		c.wait("an answer through "+want, func() (bool, any) {
			origin, node, err := c.get(address)
			return err == nil && strings.HasPrefix(origin, "web-") && node == want, fmt.Sprintf("%v, from %q through %q", err, origin, node)
		})
	}
	c.through("node-1", "node-2", "node-3")
}

// A clean clone becomes a cluster that serves, that does not notice when a node is killed or
// started again, and of which nothing is left.
func TestComposeCluster(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	page := c.page()
	c.run("", "make", "up")
	demo := c.run("", "make", "demo")
	for _, want := range []string{"node-2: web-", "safe to kill", "through node-3", "healthy: 4 backends"} {
		if !strings.Contains(demo, want) {
			t.Errorf("make demo says nothing of %q:\n%s", want, demo)
		}
	}
	c.answers()
	c.confined()
	c.compacts()

	// etcd takes as many keys in one transaction as definitions may be.
	var many strings.Builder
	many.WriteString("probes:\n")
	for i := range store.MaxTxnKeys {
		fmt.Fprintf(&many, "  unused-%d: {}\n", i)
	}
	out := c.run(many.String(), "deploy/docker/roster", "apply", "--wait", "-f", "-")
	for _, want := range []string{fmt.Sprintf("\n%d created, 0 changed, 0 unchanged, at revision", store.MaxTxnKeys), "applied by all members, 3,"} {
		if !strings.Contains(out, want) {
			t.Errorf("apply --wait says nothing of %q: ...%s", want, out[max(0, len(out)-500):])
		}
	}

	// Clients ask one after the other, so each has at most one request in flight.
	const clients = 4
	loop := harness.StartLoop(t, "http://"+c.entry+"/", clients)
	loop.WaitRequests(100)
	c.run("", "docker", "kill", c.id("node-2"))
	c.through("node-1", "node-3")
	killed := loop.Counts()
	t.Logf("when a node was killed: %+v", killed)
	if killed.Errors > clients || killed.Failed() > killed.Errors {
		t.Errorf("a node was killed: %+v, want no failed request but those that it was answering", killed)
	}
	c.run("", "docker", "start", c.id("node-2"))
	c.through("node-1", "node-2", "node-3")

	// In good order, nothing fails.
	c.run("", "deploy/docker/compose", "restart", "node-3")
	c.through("node-1", "node-2", "node-3")
	loop.WaitRequests(100)
	if all := loop.Stop(); all.Failed() != killed.Failed() {
		t.Errorf("a node was started again: %d requests failed, %v", all.Failed()-killed.Failed(), all.Samples)
	}

	// What the page says to try, and back again.
	c.run("", "bash", "-ec", page[1])
	c.through("node-2", "node-3")

	// What hangs is unhealthy, and so is a member of etcd that has no majority. A node that was
	// cut off from etcd is not, and serves alone.
	hang := []string{c.id("etcd-2"), c.id("node-3"), c.id("web-1")}
	c.run("", "docker", append([]string{"kill", "-s", "STOP"}, hang...)...)
	c.unhealthy("etcd-2", "etcd-3", "node-3", "web-1")
	c.through("node-2")
	c.run("", "docker", append([]string{"kill", "-s", "CONT"}, hang...)...)
	c.run("", "docker", "start", c.id("node-1"), c.id("etcd-1"))
	c.run("", "docker", "network", "connect", c.project+"_etcd", c.id("node-2"))
	c.through("node-1", "node-2", "node-3")
	c.unhealthy()
	if out := c.run("", "bash", "-ec", page[2]); !strings.Contains(out, "node-3:8080") || !strings.Contains(out, "entry:8080") {
		t.Errorf("the entry's backends and members: %s", out)
	}
	if out := c.run("", "bash", "-ec", page[3]); !strings.Contains(out, "safe to kill") {
		t.Errorf("a node is taken out: %s", out)
	}
	c.through("node-1", "node-2", "node-3")
	t.Run("what crashes is started again", func(t *testing.T) {
		here := *c
		here.t = t
		here.crash("etcd-3", "node-1", "web-3")
	})

	c.run("", "make", "down")
	for what, rest := range c.rest() {
		if len(rest) > 0 {
			t.Errorf("make down left %s: %v", what, rest)
		}
	}
}

// page is the blocks of commands of docs/COMPOSE.md, with the cluster's own name and ports in
// place of those written there.
func (c *cluster) page() []string {
	c.t.Helper()
	page, err := os.ReadFile(filepath.Join(c.dir, "docs", "COMPOSE.md"))
	if err != nil {
		c.t.Fatal(err)
	}
	names := []string{"roster_", c.project + "_", "cluster/roster", "cluster/" + c.project, "localhost:2379", c.etcd[0], "bin/roster", harness.Roster(c.t)}
	if exec.Command("docker", "compose", "version").Run() == nil {
		for _, name := range []string{"node-1", "node-2", "etcd-1"} { // Compose 2 joins names with -
			names = append([]string{"roster_" + name + "_1", c.project + "-" + name + "-1"}, names...)
		}
	}
	blocks := codeBlocks(strings.NewReplacer(names...).Replace(string(page)))
	if len(blocks) != 7 || !regexp.MustCompile(`^make up .*\nmake demo .*\nmake down .*\n$`).MatchString(blocks[0]) || blocks[4] != "make up TLS=1\n" {
		c.t.Fatalf("docs/COMPOSE.md has other commands than the tests run: %q", blocks)
	}
	return blocks
}

// confined checks that no container may do more than it has to.
func (c *cluster) confined() {
	c.t.Helper()
	ids := c.rest()["container"]
	var containers []struct {
		Name   string
		Config struct {
			User   string
			Labels map[string]string
		}
		HostConfig struct {
			ReadonlyRootfs, Privileged bool
			CapDrop, CapAdd            []string
			SecurityOpt                []string
			RestartPolicy              struct{ Name string }
			PortBindings               map[string][]struct{ HostIp string }
		}
		NetworkSettings struct{ Networks map[string]any }
	}
	if err := json.Unmarshal([]byte(c.run("", "docker", append([]string{"inspect"}, ids...)...)), &containers); err != nil {
		c.t.Fatal(err)
	}
	if len(containers) != 11 {
		c.t.Errorf("%d containers, want 3 of etcd, 4 nodes and 4 backends", len(containers))
	}
	for _, x := range containers {
		h := x.HostConfig
		if x.Config.User != "65532:65532" || !h.ReadonlyRootfs || h.Privileged || !slices.Equal(h.CapDrop, []string{"ALL"}) ||
			len(h.CapAdd) > 0 || !slices.Contains(h.SecurityOpt, "no-new-privileges:true") || h.RestartPolicy.Name != "unless-stopped" {
			c.t.Errorf("%s: user %q, %+v", x.Name, x.Config.User, h)
		}
		for at, bindings := range h.PortBindings {
			for _, b := range bindings {
				if b.HostIp != "127.0.0.1" {
					c.t.Errorf("%s publishes %s at %q", x.Name, at, b.HostIp)
				}
			}
		}
		if _, ok := x.NetworkSettings.Networks[c.project+"_etcd"]; ok == strings.HasPrefix(x.Config.Labels["com.docker.compose.service"], "web-") {
			c.t.Errorf("%s is on the network of etcd: %t", x.Name, ok)
		}
	}
}

// compacts checks that each member of etcd took from its environment how much history it
// keeps: nothing else of a running etcd says so.
func (c *cluster) compacts() {
	c.t.Helper()
	log := c.run("", "deploy/docker/compose", "logs", "--no-color", "etcd-1", "etcd-2", "etcd-3")
	for name, value := range map[string]string{"MODE": "revision", "RETENTION": "100000"} {
		said := fmt.Sprintf(`"recognized and used environment variable","variable-name":"ETCD_AUTO_COMPACTION_%s","variable-value":"%s"`, name, value)
		for _, member := range []string{"etcd-1", "etcd-2", "etcd-3"} {
			if !regexp.MustCompile("(?m)^" + member + ".*" + regexp.QuoteMeta(said)).MatchString(log) {
				c.t.Errorf("the log of %s says nothing of %s:\n%s", member, said, log)
			}
		}
	}
}

// crash kills the processes of services as Docker does not know of, and waits until it has
// started them again.
func (c *cluster) crash(services ...string) {
	c.t.Helper()
	if os.Geteuid() != 0 {
		harness.Lack(c.t, "processes of containers are killed by root only")
	}
	type container struct {
		Path         string
		Args         []string
		RestartCount int
		State        struct{ Pid int }
	}
	inspect := func(service string) container {
		var containers []container
		if err := json.Unmarshal([]byte(c.run("", "docker", "inspect", c.id(service))), &containers); err != nil {
			c.t.Fatal(err)
		}
		return containers[0]
	}
	for _, service := range services {
		x := inspect(service)
		// Docker's processes may be another machine's, with other numbers.
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", x.State.Pid))
		if got, want := strings.TrimRight(string(command), "\x00"), strings.Join(append([]string{x.Path}, x.Args...), "\x00"); err != nil || got != want {
			harness.Lack(c.t, "process %d is %q here, want %q of %s: %v", x.State.Pid, got, want, service, err)
		}
		if err := syscall.Kill(x.State.Pid, syscall.SIGKILL); err != nil {
			c.t.Fatalf("kill %s: %v", service, err)
		}
	}
	for _, service := range services {
		c.wait(service+" to be started again", func() (bool, any) {
			x := inspect(service)
			return x.RestartCount == 1 && x.State.Pid != 0, x
		})
	}
	c.unhealthy()
	c.answers()
}

// With TLS, etcd knows users by their certificates, and nodes and clients each other.
func TestComposeClusterWithTLS(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.run("", "make", "up", "TLS=1")
	c.run("", "make", "demo")

	folder := filepath.Join(c.dir, "bin", "cluster", c.project)
	ca, err := os.ReadFile(filepath.Join(folder, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	c.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	c.scheme = "https"
	c.answers()

	// A node that is started again begins with what the others know, unless they are too busy
	// to tell it in time.
	warm := regexp.MustCompile(`histories=4 used=4 checks=4 from="?map\[node-[23]`)
	c.wait("a warm start of node-1", func() (bool, any) {
		c.run("", "deploy/docker/compose", "restart", "node-1")
		c.through("node-1", "node-2", "node-3")
		log := c.run("", "deploy/docker/compose", "logs", "--no-color", "--tail", "30", "node-1")
		return warm.MatchString(log), log
	})

	if resp, err := http.Get("http://" + c.nodes[0] + "/"); err == nil {
		t.Errorf("a client without TLS gets %s", resp.Status)
		resp.Body.Close()
	}

	if out := c.run("", "bash", "-ec", c.page()[5]); !strings.Contains(out, "put backends/team-a/web at revision") {
		t.Errorf("a user of a team: %s", out)
	}

	// Another CA's certificates have the same names.
	other := filepath.Join(t.TempDir(), "other")
	c.run("", "deploy/docker/certificates", other)
	c.run("", "deploy/docker/certificates", folder, "nobody")
	for _, who := range []struct {
		name, ca, cert string
		code           int
		says           string
	}{
		{"an operator", folder + "/ca.pem", folder + "/operator/operator", 0, ""},
		{"a node", folder + "/ca.pem", folder + "/node/node", 1, "permission denied"},
		{"a user that etcd does not have", folder + "/ca.pem", folder + "/nobody", 1, "permission denied"},
		{"a certificate of another CA", folder + "/ca.pem", other + "/operator/operator", 5, "unknown certificate authority"},
		{"no certificate", folder + "/ca.pem", "", 5, "certificate required"},
		{"another CA", other + "/ca.pem", folder + "/operator/operator", 5, "certificate signed by unknown authority"},
	} {
		args := []string{"put", "probe", "unused", "url=/", "--etcd", strings.Join(c.etcd[:], ","), "--etcd-ca", who.ca}
		if who.cert != "" {
			args = append(args, "--etcd-cert", who.cert+".pem", "--etcd-key", who.cert+".key")
		}
		if r := harness.CLI(t, args...); r.Code != who.code || !strings.Contains(r.Stderr, who.says) {
			t.Errorf("%s: %v, want exit code %d and %q", who.name, r, who.code, who.says)
		}
	}
}

// The two Dockerfiles make the same images. The one that builds the programs as well needs
// an image of Go, so what it runs is what make images does.
func TestDockerfilesMakeTheSameImages(t *testing.T) {
	t.Parallel()
	root := harness.Root(t)
	stages := func(name string) string {
		b, err := os.ReadFile(filepath.Join(root, "deploy", "docker", name))
		if err != nil {
			t.Fatal(err)
		}
		_, images, ok := strings.Cut(string(b), "FROM scratch AS roster\n")
		if !ok {
			t.Fatalf("%s has no stage roster from scratch", name)
		}
		return images
	}
	whole := stages("Dockerfile")
	whole = strings.NewReplacer("--from=build ", "", "/src/bin/images/", "").Replace(whole)
	if static := stages("Dockerfile.static"); whole != static {
		t.Errorf("Dockerfile:\n%s\nDockerfile.static:\n%s", whole, static)
	}
}
