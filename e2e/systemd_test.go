package e2e_test

import (
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness"
)

// manager is a service manager's end of a node's notifications.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func startManager(t *testing.T) *manager {
	t.Helper()
	dir := shortDir(t)
	m := &manager{t: t, path: filepath.Join(dir, "s")}
	var err error
	if m.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.conn.Close() })
	return m
}

// next is the next message, as the values of its lines.
func (m *manager) next() map[string]string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(harness.WaitLimit))
	b := make([]byte, 4<<10)
	n, err := m.conn.Read(b)
	if err != nil {
		m.t.Fatalf("no notification: %v", err)
	}
	message := make(map[string]string)
	for line := range strings.SplitSeq(string(b[:n]), "\n") {
		name, value, _ := strings.Cut(line, "=")
		message[name] = value
	}
	return message
}

// none fails the test if there is a message.
func (m *manager) none() {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	b := make([]byte, 4<<10)
	if n, err := m.conn.Read(b); err == nil {
		m.t.Errorf("notification %q", b[:n])
	}
}

// systemd is told when the node is ready and not before, lives through a reload, and
// knows how long a drain may take.
func TestServiceManagerIsNotified(t *testing.T) {
	t.Parallel()
	m := startManager(t)
	etcd := harness.StartEtcd(t)
	etcd.Stop()
	node := harness.NewNode(t, harness.NodeConfig{
		Etcd: etcd.Endpoints(), Env: []string{"NOTIFY_SOCKET=" + m.path},
		Args: []string{"--drain-delay", "1s", "--drain-timeout", "1m"},
	})
	node.Start()
	if got := m.next(); !strings.HasPrefix(got["STATUS"], "waiting ") || len(got) != 1 {
		t.Fatalf("first message is %v, want a status alone", got)
	}
	harness.Until(t, "an answer", func() (bool, any) {
		resp, err := http.Get(node.AdminURL() + "/readyz")
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusServiceUnavailable, resp.Status
	})
	m.none()

	etcd.Start()
	if got := m.next(); got["READY"] != "1" || got["STATUS"] != "serving at "+node.Address() {
		t.Fatalf("%v, want that it is ready", got)
	}
	if a := node.AdminGet("/readyz"); a.Status != http.StatusOK {
		t.Errorf("/readyz answers %v after the notification", a)
	}

	// There is no access log to open anew: without a service manager the signal would end
	// the node.
	node.Signal(syscall.SIGHUP)
	got := m.next()
	if micros, err := strconv.ParseInt(got["MONOTONIC_USEC"], 10, 64); got["RELOADING"] != "1" || err != nil || micros <= 0 {
		t.Errorf("%v, want that it reloads, and since when", got)
	}
	if got := m.next(); got["READY"] != "1" {
		t.Errorf("%v, want that it is ready again", got)
	}

	node.Signal(syscall.SIGTERM)
	if got := m.next(); got["STOPPING"] != "1" || got["EXTEND_TIMEOUT_USEC"] != "71000000" {
		t.Errorf("%v, want that it ends, within 1s, 1m and 10s", got)
	}
	if code := node.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.none()
}

// systemd takes the unit without a word, and finds little that the node could do besides
// its work.
func TestUnitIsValidAndConfined(t *testing.T) {
	t.Parallel()
	harness.Require(t, "systemd-analyze")
	text, err := os.ReadFile(filepath.Join(harness.Root(t), "deploy", "systemd", "roster.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "roster.service")
	const installed = "/usr/bin/roster"
	if !strings.Contains(string(text), "ExecStart="+installed+" node ") {
		t.Fatalf("ExecStart is not %s node", installed)
	}
	if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(text), installed, harness.Roster(t))), 0o600); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(filepath.Dir(unit), "roster.socket")
	if text, err = os.ReadFile(filepath.Join(harness.Root(t), "deploy", "systemd", "roster.socket")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := harness.Run(t, "", nil, "systemd-analyze", "verify", "--man=no", unit, socket); r.Code != 0 || r.Stdout+r.Stderr != "" {
		t.Errorf("systemd-analyze verify: %v", r)
	}
	const most = "20" // tenths of systemd's points, of which 100 is no confinement at all
	if r := harness.Run(t, "", nil, "systemd-analyze", "security", "--offline=true", "--threshold="+most, "--no-pager", unit); r.Code != 0 {
		t.Errorf("systemd-analyze security: %v", r)
	}
}
