package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// Etcd is an etcd cluster of real processes on loopback, with etcd's own defaults
// except for fsync, which is off. Members are stopped and started at the same addresses.
type Etcd struct {
	t       testing.TB
	args    []string
	host    string // where members listen, besides loopback; "" for nowhere else
	members []*member
	token   int // changes with every Reset, and with it the cluster's id
	client  *clientv3.Client
}

type member struct {
	name         string
	client, peer string // addresses
	dir          string
	process      *Process
}

// StartEtcd starts a cluster of one member and waits until it answers. args are
// added to etcd's command line.
func StartEtcd(t testing.TB, args ...string) *Etcd {
	t.Helper()
	return StartEtcdCluster(t, 1, args...)
}

// StartEtcdCluster starts a cluster of n members and waits until they have a leader.
func StartEtcdCluster(t testing.TB, n int, args ...string) *Etcd {
	t.Helper()
	return StartEtcdAt(t, "", n, args...)
}

// StartEtcdAt is StartEtcdCluster of members that listen at another address of this
// machine, too.
func StartEtcdAt(t testing.TB, host string, n int, args ...string) *Etcd {
	t.Helper()
	e := &Etcd{t: t, args: args, host: host}
	dir := t.TempDir()
	for i := range n {
		name := fmt.Sprintf("etcd-%d", i+1)
		e.members = append(e.members, &member{
			name: name, client: FreeAddress(t), peer: FreeAddress(t), dir: filepath.Join(dir, name),
		})
	}
	e.Start()
	return e
}

// Start starts the members again after Stop or Kill, at the same addresses, with the
// data they left, and waits until all of them serve.
func (e *Etcd) Start() {
	e.t.Helper()
	var all []int
	for i := range e.members {
		all = append(all, i)
	}
	e.StartMembers(all...)
}

// StartMembers starts some members again after they were killed or ended, as Start does
// all, and waits until they serve.
func (e *Etcd) StartMembers(which ...int) {
	e.t.Helper()
	for _, i := range which {
		e.launch(i)
	}
	for _, i := range which {
		m := e.members[i]
		m.process.waitUntil("health", func() (bool, any) { return healthy(m.client) })
	}
}

// launch starts one member and waits for nothing.
func (e *Etcd) launch(i int) {
	e.t.Helper()
	var initial []string
	for _, m := range e.members {
		initial = append(initial, m.name+"=http://"+m.peer)
	}
	m := e.members[i]
	listen := "http://" + m.client
	if e.host != "" {
		listen += ",http://" + e.at(m)
	}
	args := append([]string{
		"--name=" + m.name, "--data-dir=" + m.dir,
		"--listen-client-urls=" + listen, "--advertise-client-urls=http://" + m.client,
		"--listen-peer-urls=http://" + m.peer, "--initial-advertise-peer-urls=http://" + m.peer,
		"--initial-cluster=" + strings.Join(initial, ","),
		fmt.Sprintf("--initial-cluster-token=e2e-%d", e.token),
		"--unsafe-no-fsync", "--log-level=warn",
	}, e.args...)
	m.process = StartProcess(e.t, m.name, EtcdBinary(e.t), args, nil)
}

// at is a member's client address at the other host.
func (e *Etcd) at(m *member) string {
	_, port, _ := net.SplitHostPort(m.client)
	return net.JoinHostPort(e.host, port)
}

// Leader is which member leads, 0 being the first, by the word of any that answers.
func (e *Etcd) Leader() int {
	e.t.Helper()
	leader := -1
	Until(e.t, "a leader", func() (bool, any) {
		var said []string
		for i := range e.members {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			r, err := e.Client().Status(ctx, e.members[i].client)
			cancel()
			said = append(said, fmt.Sprint(r, err))
			if err == nil && r.Leader == r.Header.MemberId {
				leader = i
				return true, nil
			}
		}
		return false, said
	})
	return leader
}

var probeClient = &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// healthy asks etcd's own health check, which needs a leader.
func healthy(addr string) (bool, any) {
	resp, err := probeClient.Get("http://" + addr + "/health")
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK, resp.Status
}

// Stop ends all members in an orderly way and keeps their data.
func (e *Etcd) Stop() {
	e.t.Helper()
	for _, m := range e.members {
		m.process.Signal(syscall.SIGTERM)
	}
	for _, m := range e.members {
		m.process.Wait()
	}
}

// Kill ends all members with SIGKILL and keeps their data.
func (e *Etcd) Kill() {
	for _, m := range e.members {
		m.process.Kill()
	}
}

// Pause stops all members from running, without closing a connection; Resume lets
// them run on.
func (e *Etcd) Pause() { e.signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (e *Etcd) Resume() { e.signal(syscall.SIGCONT) }

func (e *Etcd) signal(sig os.Signal) {
	e.t.Helper()
	for _, m := range e.members {
		m.process.Signal(sig)
	}
}

// Member gives one member's process, 0 being the first: to kill or pause it alone.
func (e *Etcd) Member(i int) *Process { return e.members[i].process }

// A Backup is the data of a stopped cluster.
type Backup struct{ dirs []string }

// Backup stops the cluster, copies its data and starts it again.
func (e *Etcd) Backup() *Backup {
	e.t.Helper()
	e.Stop()
	b := &Backup{}
	for _, m := range e.members {
		dir := filepath.Join(e.t.TempDir(), m.name)
		copyDir(e.t, dir, m.dir)
		b.dirs = append(b.dirs, dir)
	}
	e.Start()
	return b
}

// Restore stops the cluster, puts the data of a Backup in place of its own and starts
// it again: the same cluster id, and a history that has gone back.
func (e *Etcd) Restore(b *Backup) {
	e.t.Helper()
	e.Stop()
	for i, m := range e.members {
		e.removeData(m)
		copyDir(e.t, m.dir, b.dirs[i])
	}
	e.Start()
}

// Wipe stops the cluster and starts it again without its data, as if its folders had
// been removed: empty, at revision 1, and with the same cluster id.
func (e *Etcd) Wipe() {
	e.t.Helper()
	e.Stop()
	for _, m := range e.members {
		e.removeData(m)
	}
	e.Start()
}

// Reset stops the cluster and starts a new, empty one with another cluster id at the
// same addresses.
func (e *Etcd) Reset() {
	e.t.Helper()
	e.token++
	e.Wipe()
}

func (e *Etcd) removeData(m *member) {
	e.t.Helper()
	if err := os.RemoveAll(m.dir); err != nil {
		e.t.Fatal(err)
	}
}

func copyDir(t testing.TB, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	// etcd insists on a data folder that is private to its user.
	err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(path, 0o700)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Endpoints are the members' client addresses, joined by commas: a value for --etcd
// and for etcdctl's --endpoints.
func (e *Etcd) Endpoints() string {
	var addrs []string
	for _, m := range e.members {
		addrs = append(addrs, m.client)
	}
	return strings.Join(addrs, ",")
}

// EndpointsAtHost are Endpoints at the host that StartEtcdAt was given.
func (e *Etcd) EndpointsAtHost() string {
	var addrs []string
	for _, m := range e.members {
		addrs = append(addrs, e.at(m))
	}
	return strings.Join(addrs, ",")
}

// Address is the client address of one member, 0 being the first.
func (e *Etcd) Address(i int) string { return e.members[i].client }

// Ctl runs etcdctl against the cluster and returns its output; an error fails the test.
func (e *Etcd) Ctl(args ...string) string {
	e.t.Helper()
	return Ctl(e.t, e.Endpoints(), args...)
}

// Ctl runs etcdctl against the given endpoints and returns its output; an error fails
// the test.
func Ctl(t testing.TB, endpoints string, args ...string) string {
	t.Helper()
	r := Run(t, "", nil, Etcdctl(t), append([]string{"--endpoints=" + endpoints}, args...)...)
	if r.Code != 0 {
		t.Fatalf("etcdctl %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// Put puts one key with etcdctl and returns the revision of that.
func (e *Etcd) Put(key, value string) int64 {
	e.t.Helper()
	return Put(e.t, e.Endpoints(), key, value)
}

// Put puts one key with etcdctl and returns the revision of that.
func Put(t testing.TB, endpoints, key, value string) int64 {
	t.Helper()
	return revision(t, Ctl(t, endpoints, "put", key, "-w=json", "--", value))
}

// Delete deletes one key with etcdctl and returns the revision of that.
func (e *Etcd) Delete(key string) int64 {
	e.t.Helper()
	return Delete(e.t, e.Endpoints(), key)
}

// Delete deletes one key, or with the flag --prefix all below it, with etcdctl, and
// returns the revision of that.
func Delete(t testing.TB, endpoints, key string, flags ...string) int64 {
	t.Helper()
	return revision(t, Ctl(t, endpoints, append([]string{"del", key, "-w=json"}, flags...)...))
}

func revision(t testing.TB, answer string) int64 {
	t.Helper()
	var a struct {
		Header struct {
			Revision int64 `json:"revision"`
		} `json:"header"`
	}
	if err := json.Unmarshal([]byte(answer), &a); err != nil || a.Header.Revision == 0 {
		t.Fatalf("no revision in etcdctl's answer %q: %v", answer, err)
	}
	return a.Header.Revision
}

// Client is an etcd client for the cluster, for tests that make many transactions.
// It is closed with the test.
func (e *Etcd) Client() *clientv3.Client {
	e.t.Helper()
	if e.client == nil {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: strings.Split(e.Endpoints(), ","), DialTimeout: WaitLimit, Logger: zap.NewNop(),
		})
		if err != nil {
			e.t.Fatal(err)
		}
		e.t.Cleanup(func() { c.Close() })
		e.client = c
	}
	return e.client
}

// Txn runs one transaction of puts and deletes and returns its revision.
func (e *Etcd) Txn(ops ...clientv3.Op) int64 {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), WaitLimit)
	defer cancel()
	r, err := e.Client().Txn(ctx).Then(ops...).Commit()
	if err != nil {
		e.t.Fatalf("etcd transaction: %v", err)
	}
	return r.Header.Revision
}

// Revision is the newest revision of the store.
func (e *Etcd) Revision() int64 {
	e.t.Helper()
	return e.header().Revision
}

// ClusterID is the cluster's id.
func (e *Etcd) ClusterID() uint64 {
	e.t.Helper()
	return e.header().ClusterId
}

func (e *Etcd) header() *etcdserverpb.ResponseHeader {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), WaitLimit)
	defer cancel()
	r, err := e.Client().Get(ctx, "/")
	if err != nil {
		e.t.Fatalf("etcd get: %v", err)
	}
	return r.Header
}
