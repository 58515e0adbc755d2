package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// NodeConfig says which node to start. The zero value is one with an embedded etcd.
type NodeConfig struct {
	// Etcd is the value of --etcd. Empty starts an embedded etcd with its data in a
	// folder of the test.
	Etcd string
	// ID is the value of --node-id; empty leaves the default.
	ID string
	// Args are further arguments of "roster node".
	Args []string
	// Env is added to the environment.
	Env []string
	// Island is where the node runs; nil is here.
	Island *Island
	// Plain leaves the race detector out, for tests that measure: it multiplies time
	// and memory.
	Plain bool
	// Binary is another roster than the one under test; empty is that.
	Binary string
}

// A Node is a roster node in a process of its own. Restart keeps its addresses, and
// the data of an embedded etcd.
type Node struct {
	*Process
	t      testing.TB
	config NodeConfig
	listen string
	admin  string
	etcd   string
	data   string
	client *http.Client
}

// StartNode starts a node on free ports and waits until it is ready.
func StartNode(t testing.TB, c NodeConfig) *Node {
	t.Helper()
	n := NewNode(t, c)
	n.Start()
	n.WaitReady()
	return n
}

// NewNode chooses a node's addresses and starts nothing: for tests that look at what
// happens before it is ready. Start must follow.
func NewNode(t testing.TB, c NodeConfig) *Node {
	t.Helper()
	n := &Node{t: t, config: c, listen: FreeAddress(t), admin: FreeAddress(t), etcd: c.Etcd}
	if c.Etcd == "" {
		n.etcd = FreeAddress(t)
		n.data = filepath.Join(t.TempDir(), "roster.data")
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 4, DialContext: n.dialContext}
	n.client = &http.Client{Transport: transport, Timeout: WaitLimit}
	t.Cleanup(transport.CloseIdleConnections)
	return n
}

// Start starts the process and returns at once. It may be called again when the
// process has ended.
func (n *Node) Start() {
	n.t.Helper()
	args := []string{"node", "--listen", n.listen, "--admin", n.admin}
	if n.config.Etcd == "" {
		args = append(args, "--embedded-etcd-listen", n.etcd, "--data", n.data)
	} else {
		args = append(args, "--etcd", n.config.Etcd)
	}
	name := "node " + n.listen
	if n.config.ID != "" {
		args = append(args, "--node-id", n.config.ID)
		name = "node " + n.config.ID
	}
	path, args := n.config.Binary, append(args, n.config.Args...)
	if path == "" {
		path = roster(n.t, Race() && !n.config.Plain)
	}
	if i := n.config.Island; i != nil {
		path, args = i.wrap(path, args)
	}
	n.Process = StartProcess(n.t, name, path, args, n.config.Env)
}

func (n *Node) dialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if i := n.config.Island; i != nil {
		return i.dial(ctx, network, address)
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// Dial connects to the node as a client does, wherever it runs. It may be called from
// any goroutine.
func (n *Node) Dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), WaitLimit)
	defer cancel()
	return n.dialContext(ctx, "tcp", n.listen)
}

// For is the same node for a subtest, which must fail itself and not its parent.
func (n *Node) For(t testing.TB) *Node {
	node, process := *n, *n.Process
	node.t, process.t = t, t
	node.Process = &process
	return &node
}

// SetArgs sets the further arguments, of the next start on.
func (n *Node) SetArgs(args ...string) { n.config.Args = args }

// Restart starts the node again after it was killed or ended, and waits until it is
// ready.
func (n *Node) Restart() {
	n.t.Helper()
	n.client.CloseIdleConnections()
	n.Start()
	n.WaitReady()
}

// WaitReady waits until /readyz answers 200.
func (n *Node) WaitReady() {
	n.t.Helper()
	n.waitUntil("readiness", func() (bool, any) {
		a, err := fetch(n.client, n.AdminURL()+"/readyz")
		if err != nil {
			return false, err
		}
		return a.Status == http.StatusOK, a.String()
	})
}

// Ready reports whether /readyz answers 200 within a second. It may be called from any
// goroutine.
func (n *Node) Ready() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.AdminURL()+"/readyz", nil)
	if err != nil {
		panic(err)
	}
	a, err := do(n.client, req)
	return err == nil && a.Status == http.StatusOK
}

// Address is where the node listens for clients.
func (n *Node) Address() string { return n.listen }

// URL is the root of what the node serves to clients.
func (n *Node) URL() string { return "http://" + n.listen }

// AdminAddress is where the admin API listens.
func (n *Node) AdminAddress() string { return n.admin }

// AdminURL is the root of the admin API.
func (n *Node) AdminURL() string { return "http://" + n.admin }

// Endpoints are the etcd endpoints that the node uses; with an embedded etcd, that one.
func (n *Node) Endpoints() string { return n.etcd }

// Put puts one key with etcdctl where the node's definitions are, and returns the
// revision of that.
func (n *Node) Put(key, value string) int64 {
	n.t.Helper()
	return Put(n.t, n.etcd, key, value)
}

// Status is what /v1/status answers.
type Status struct {
	Node     string `json:"node"`
	Version  string `json:"version"`
	Ready    bool   `json:"ready"`
	Draining bool   `json:"draining"`
	Revision int64  `json:"revision"` // newest one that touched the prefix and is applied
	Seen     int64  `json:"seen"`     // newest one seen
	Digest   string `json:"digest"`
	Etcd     struct {
		Connected bool   `json:"connected"`
		FreshMS   *int64 `json:"fresh_ms"`
		Error     string `json:"error"`
		Relists   int64  `json:"relists"`
	} `json:"etcd"`
	Rejected []Rejected     `json:"rejected"`
	Dangling []Dangling     `json:"dangling"`
	HeldList string         `json:"held_list"`
	Held     *Held          `json:"held"`     // nil: nothing is
	Snapshot *Snapshot      `json:"snapshot"` // nil without --snapshot
	Leaving  int            `json:"leaving"`
	Counts   map[string]int `json:"counts"`
}

// Snapshot is the file that a node starts from without etcd.
type Snapshot struct {
	InUse    bool   `json:"in_use"`
	Revision int64  `json:"revision"`
	AgeMS    *int64 `json:"age_ms"`
	Writes   int64  `json:"writes"`
	Error    string `json:"error"`
}

// Held is what the node keeps although etcd does not have it.
type Held struct {
	Backends int      `json:"backends"`
	Names    []string `json:"names"`
	Revision int64    `json:"revision"` // to acknowledge
	List     string   `json:"list"`
}

// Rejected is one key whose newest value is invalid.
type Rejected struct {
	Key      string   `json:"key"`
	Revision int64    `json:"revision"`
	Errors   []string `json:"errors"`
}

// Dangling is a reference to a name that is not defined.
type Dangling struct {
	Key     string `json:"key"`
	Missing string `json:"missing"`
}

// Status asks the node's status; an error fails the test.
func (n *Node) Status() Status {
	n.t.Helper()
	s, err := n.status()
	if err != nil {
		n.t.Fatal(err)
	}
	return s
}

func (n *Node) status() (Status, error) {
	var s Status
	a, err := fetch(n.client, n.AdminURL()+"/v1/status")
	if err != nil {
		return s, err
	}
	if a.Status != http.StatusOK {
		return s, fmt.Errorf("GET /v1/status: %v", a)
	}
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil {
		return s, fmt.Errorf("GET /v1/status: %w in %s", err, a.Body)
	}
	return s, nil
}

// WaitStatus waits until the node's status is as check wants it, and returns it.
func (n *Node) WaitStatus(what string, check func(Status) bool) Status {
	n.t.Helper()
	var s Status
	n.waitUntil(what, func() (bool, any) {
		var err error
		if s, err = n.status(); err != nil {
			return false, err
		}
		return check(s), s
	})
	return s
}

// WaitRevision waits until the node has applied all that etcd holds up to a revision.
func (n *Node) WaitRevision(rev int64) Status {
	n.t.Helper()
	return n.WaitStatus(fmt.Sprintf("revision %d", rev), func(s Status) bool {
		return s.Revision >= rev || s.Seen >= rev
	})
}

// AdminGet asks the admin API for a path; an error fails the test, a status does not.
func (n *Node) AdminGet(path string) Answer {
	n.t.Helper()
	a, err := fetch(n.client, n.AdminURL()+path)
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

// Get sends a request to the node as a client would; an error fails the test, a status
// does not.
func (n *Node) Get(path string) Answer {
	n.t.Helper()
	a, err := fetch(n.client, n.URL()+path)
	if err != nil {
		n.t.Fatal(err)
	}
	return a
}

// Metric is the sum of all samples of one metric whose name and labels begin with
// prefix, such as `roster_requests_total` or `roster_requests_total{backend="web-1"`.
// It is 0 when there is none.
func (n *Node) Metric(prefix string) float64 {
	n.t.Helper()
	sum := 0.0
	for line := range strings.Lines(n.AdminGet("/metrics").Body) {
		name, value, ok := cutLast(strings.TrimSpace(line), " ")
		if !ok || !strings.HasPrefix(name, prefix) || strings.HasPrefix(name, "#") {
			continue
		}
		if rest := name[len(prefix):]; rest != "" && !strings.ContainsAny(rest[:1], `{,}"`) {
			continue // a longer name
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			n.t.Fatalf("metrics line %q: %v", line, err)
		}
		sum += v
	}
	return sum
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Descriptors is how many file descriptors the node's process has open (Linux only:
// elsewhere it is 0).
func (n *Node) Descriptors() int {
	n.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Pid()))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return len(entries)
}
