package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// upgradable is a node whose program is a link, which a test may change, and whose log is
// a file, which outlives its first process.
type upgradable struct {
	*harness.Process
	t             *testing.T
	link, logFile string
	listen, admin string
	pid           int // of the process that serves
}

// startUpgradable starts a node and waits until it is ready.
func startUpgradable(t *testing.T, etcd string, env []string, args ...string) *upgradable {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("looks at processes in /proc")
	}
	dir := t.TempDir()
	n := &upgradable{t: t, link: filepath.Join(dir, "roster"), logFile: filepath.Join(dir, "log"), listen: harness.FreeAddress(t), admin: harness.FreeAddress(t)}
	n.replace(harness.Roster(t))
	args = append([]string{"-c", `exec "$0" "$@" >> "$LOG" 2>&1`, n.link, "node", "--listen", n.listen, "--admin", n.admin, "--etcd", etcd, "--node-id", "one"}, args...)
	n.Process = harness.StartProcess(t, "node", "/bin/sh", args, append(env, "LOG="+n.logFile))
	n.pid = n.Pid()
	t.Cleanup(n.cleanup)
	waitReady(n.t, n.admin)
	return n
}

// replace has the link point to another program, in one step.
func (n *upgradable) replace(program string) {
	n.t.Helper()
	next := n.link + ".next"
	if err := errors.Join(os.Symlink(program, next), os.Rename(next, n.link)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *upgradable) log() string {
	b, err := os.ReadFile(n.logFile)
	if err != nil && !os.IsNotExist(err) {
		n.t.Fatal(err)
	}
	return string(b)
}

var startedPid = regexp.MustCompile(`a new process starts" pid=(\d+)`)

// cleanup ends the processes that are no children of this one.
func (n *upgradable) cleanup() {
	for _, m := range startedPid.FindAllStringSubmatch(n.log(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			n.t.Fatal(err)
		}
		// It may be another process's by now.
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && bytes.Contains(line, []byte(n.link)) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if strings.Contains(n.log(), "DATA RACE") {
		n.t.Error("a data race was found")
	}
	if n.t.Failed() {
		n.t.Logf("log of the node's processes:\n%s", n.log())
	}
}

// upgrade asks for an upgrade, waits until the log has one more line with that text, and
// returns the pid of the process that was started for it, if one was.
func (n *upgradable) upgrade(text string) (started int) {
	n.t.Helper()
	before, pids := strings.Count(n.log(), text), len(startedPid.FindAllString(n.log(), -1))
	if err := syscall.Kill(n.pid, syscall.SIGUSR2); err != nil {
		n.t.Fatal(err)
	}
	harness.Until(n.t, text, func() (bool, any) { return strings.Count(n.log(), text) > before, n.log() })
	if all := startedPid.FindAllStringSubmatch(n.log(), -1); len(all) > pids {
		started, _ = strconv.Atoi(all[len(all)-1][1])
	}
	return started
}

// draining and ready are lines of roster status on the node's processes.
var (
	draining = regexp.MustCompile(`(?m)^one.* draining `)
	ready    = regexp.MustCompile(`(?m)^one.* ready `)
)

const (
	upgraded    = "upgraded: the new process serves"
	notReplaced = "no upgrade: this process serves on"
)

// next is an upgrade that works. It returns the pid of the old process, which drains.
func (n *upgradable) next() (old int) {
	n.t.Helper()
	old = n.pid
	n.pid = n.upgrade(upgraded)
	return old
}

// waitEnd waits until a process has ended, whose parent need not have waited for it.
func waitEnd(t *testing.T, pid int) {
	t.Helper()
	harness.Until(t, fmt.Sprintf("the end of process %d", pid), func() (bool, any) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return true, nil
		}
		state := string(b[bytes.LastIndexByte(b, ')')+2])
		return state == "Z", state
	})
}

// sockets are those that a process has open.
func socketsOf(t *testing.T, pid int) map[string]bool {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, e := range entries {
		if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(target, "socket:") {
			all[target] = true
		}
	}
	return all
}

// However often a node is replaced, no request of clients that speak to it directly is
// lost: not those of connections that are used again, with and without a pause, nor those
// in progress. Meanwhile there are two processes in the fleet, which share no more than
// the listening sockets. With ROSTER_E2E_LONG there are 30 upgrades.
func TestUpgradeLosesNoRequest(t *testing.T) {
	t.Parallel()
	upgrades := 3
	if harness.Long() {
		upgrades = 30
	}
	etcd, web := startWeb(t)
	dir := shortDir(t)
	unix, secure := filepath.Join(dir, "s"), harness.FreeAddress(t)
	cert, key := certstest.NewCA(t).Issue(t, "e2e.test").Write(t, dir, "www")
	n := startUpgradable(t, etcd.Endpoints(), nil, "--listen", "tls://"+secure, "--listen", "unix://"+unix, "--tls-cert", cert, "--tls-key", key)

	c := startSwarm(t)
	c.add("keep-alive", 4, 20*time.Millisecond, directHTTP1("tcp", n.listen, false))
	c.add("keep-alive with pauses", 4, 1500*time.Millisecond, directHTTP1("tcp", n.listen, false))
	c.add("a connection for each request", 4, 0, directHTTP1("tcp", n.listen, true))
	c.add("unix, keep-alive", 2, 20*time.Millisecond, directHTTP1("unix", unix, false))
	c.add("unix, a connection for each request", 1, 0, directHTTP1("unix", unix, true))
	c.add("HTTP/2 with TLS", 2, 10*time.Millisecond, directHTTP2(secure))
	c.wait(1)
	for i := range upgrades {
		held := make(chan error, 1)
		go func() {
			resp, err := http.Get("http://" + n.listen + "/hold")
			if err == nil {
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			held <- err
		}()
		web.WaitHeld(1)
		old := n.next()
		if i == 0 {
			shared := 0
			theirs := socketsOf(t, old)
			for s := range socketsOf(t, n.pid) {
				if theirs[s] {
					shared++
				}
			}
			if shared > 4 {
				t.Errorf("the processes share %d sockets, want at most the 4 that listen", shared)
			}
			harness.Until(t, "both processes in roster status", func() (bool, any) {
				r := harness.CLI(t, "status", "--etcd", etcd.Endpoints(), "--admin", n.admin)
				return draining.MatchString(r.Stdout) && ready.MatchString(r.Stdout), r
			})
			waitReady(t, n.admin)
		}
		web.Release()
		if err := <-held; err != nil {
			t.Errorf("the request in progress: %v", err)
		}
		waitEnd(t, old)
		c.wait(1)
	}
	if code := n.Wait(); code != 0 {
		t.Errorf("the first process ends with exit code %d", code)
	}
	c.end()
	if got := strings.Count(n.log(), "msg=stopped"); got != upgrades {
		t.Errorf("%d processes have ended in good order, want %d", got, upgrades)
	}
	syscall.Kill(n.pid, syscall.SIGTERM)
	waitEnd(t, n.pid)
	if _, err := os.Stat(unix); err == nil {
		t.Error("the last process leaves its socket's file")
	}
}

// A node serves on if the new process cannot be started, ends, or is not ready in time;
// and may be upgraded afterwards.
func TestUpgradeThatFailsLeavesTheOldProcess(t *testing.T) {
	t.Parallel()
	etcd, _ := startWeb(t)
	dir := shortDir(t)
	unix := filepath.Join(dir, "s")
	n := startUpgradable(t, etcd.Endpoints(), nil, "--listen", "unix://"+unix, "--upgrade-timeout", "2s")
	c := startSwarm(t)
	c.add("keep-alive", 2, 20*time.Millisecond, directHTTP1("tcp", n.listen, false))
	c.add("unix", 2, 20*time.Millisecond, directHTTP1("unix", unix, true))

	script := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, test := range []struct{ program, says string }{
		{filepath.Join(dir, "missing"), "no such file"},
		{script("broken", "exit 3"), "has ended: exit status 3"},
		{script("hanging", "exec sleep 1000"), "not ready within --upgrade-timeout (2s)"},
	} {
		n.replace(test.program)
		pid := n.upgrade(notReplaced)
		if !strings.Contains(n.log(), test.says) {
			t.Errorf("the log does not say %q:\n%s", test.says, n.log())
		}
		if pid != 0 {
			waitEnd(t, pid)
		}
		c.wait(2)
	}

	// A process that does not get the definitions never serves.
	n.replace(harness.Roster(t))
	etcd.Stop()
	waitEnd(t, n.upgrade(notReplaced))
	c.wait(2)
	etcd.Start()

	old := n.next()
	c.wait(2)
	waitEnd(t, old)
	c.end()
}

// Two processes write no snapshot by turns: the new one begins once it has taken over, and
// the old one, which may know less by then, writes it no more.
func TestTheSnapshotIsTheNewProcesss(t *testing.T) {
	t.Parallel()
	etcd, web := startWeb(t)
	file := filepath.Join(t.TempDir(), "snapshot")
	n := startUpgradable(t, etcd.Endpoints(), nil, "--snapshot", file, "--snapshot-after", "1h", "--log-level", "debug")
	written := func(times int) os.FileInfo {
		t.Helper()
		harness.Until(t, "the snapshot", func() (bool, any) { return strings.Count(n.log(), `msg="snapshot written"`) >= times, n.log() })
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info
	}
	first := written(1)
	held := make(chan struct{})
	go func() {
		defer close(held)
		if resp, err := http.Get("http://" + n.listen + "/hold"); err == nil {
			resp.Body.Close()
		}
	}()
	web.WaitHeld(1)
	old := n.next()
	second := written(2)
	if os.SameFile(first, second) {
		t.Error("the new process has not written its snapshot")
	}
	web.Release()
	<-held
	waitEnd(t, old)
	if info, err := os.Stat(file); err != nil || !os.SameFile(second, info) {
		t.Errorf("%v: the old process has written the snapshot at its end", err)
	}
	if log := n.log(); strings.Index(log, upgraded) > strings.LastIndex(log, `msg="snapshot written"`) {
		t.Errorf("the new process has written the snapshot before it took over:\n%s", log)
	}
	last := etcd.Put(webKey+"-2", web.Definition())
	harness.Until(t, "a snapshot of what is new", func() (bool, any) {
		return strings.Contains(n.log(), fmt.Sprintf("file=%s revision=%d ", file, last)), n.log()
	})
}

// The old process is killed while the new one cannot be ready: that takes its place, as a
// node does that starts, for nobody else serves.
func TestANewProcessWhoseOldOneDiesServes(t *testing.T) {
	t.Parallel()
	etcd, web := startWeb(t)
	n := startUpgradable(t, etcd.Endpoints(), nil)
	etcd.Stop()
	if err := syscall.Kill(n.pid, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	harness.Until(t, "a new process", func() (bool, any) {
		m := startedPid.FindStringSubmatch(n.log())
		if m != nil {
			n.pid, _ = strconv.Atoi(m[1])
		}
		return m != nil, n.log()
	})
	n.Kill()
	answers := func(status int) {
		t.Helper()
		harness.Until(t, fmt.Sprint("an answer ", status), func() (bool, any) {
			resp, err := http.Get("http://" + n.listen + "/")
			if err != nil {
				return false, err
			}
			resp.Body.Close()
			return resp.StatusCode == status, resp.Status
		})
	}
	answers(http.StatusServiceUnavailable) // as it says without any definitions
	etcd.Start()
	answers(http.StatusOK)
	if web.Requests() == 0 {
		t.Error("no request came to the backend")
	}
	old := n.next() // and it may be upgraded as any
	waitEnd(t, old)
}

// The node's own etcd cannot be handed over.
func TestNoUpgradeWithTheNodesOwnEtcd(t *testing.T) {
	t.Parallel()
	node := harness.StartNode(t, harness.NodeConfig{})
	node.Signal(syscall.SIGUSR2)
	harness.Until(t, "a word on it", func() (bool, any) {
		return strings.Contains(node.Log(), notReplaced) && strings.Contains(node.Log(), "give --etcd"), node.Log()
	})
	if a := node.AdminGet("/readyz"); a.Status != http.StatusOK {
		t.Errorf("/readyz: %v", a)
	}
}

// systemd is told which process is the main one, and not that the service stops, before
// it does.
func TestServiceManagerFollowsAnUpgrade(t *testing.T) {
	t.Parallel()
	m := startManager(t)
	etcd := harness.StartEtcd(t)
	n := startUpgradable(t, etcd.Endpoints(), []string{"NOTIFY_SOCKET=" + m.path})
	m.next() // that it waits
	if got := m.next(); got["READY"] != "1" {
		t.Fatalf("%v, want that it is ready", got)
	}
	old := n.next()
	if got := m.next(); got["MAINPID"] != strconv.Itoa(n.pid) || got["STATUS"] != "serving at "+n.listen || len(got) != 2 {
		t.Errorf("%v, want the new main process, %d", got, n.pid)
	}
	waitEnd(t, old)
	m.none()
	syscall.Kill(n.pid, syscall.SIGTERM)
	if got := m.next(); got["STOPPING"] != "1" {
		t.Errorf("%v, want that it stops", got)
	}
	waitEnd(t, n.pid)
	m.none()
}

// A node whose sockets a service manager keeps is restarted without a lost request:
// clients wait in the sockets.
func TestRestartUnderSocketActivation(t *testing.T) {
	t.Parallel()
	restarts := 2
	if harness.Long() {
		restarts = 20
	}
	etcd, _ := startWeb(t)
	dir := shortDir(t)
	unix := filepath.Join(dir, "s")
	var files []*os.File
	var addresses []net.Addr
	for _, at := range [][2]string{{"tcp", harness.FreeAddress(t)}, {"unix", unix}} {
		ln, err := net.Listen(at[0], at[1])
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		f, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files, addresses = append(files, f), append(addresses, ln.Addr())
	}
	listen, admin := addresses[0].String(), harness.FreeAddress(t)
	start := func() *harness.Process {
		// LISTEN_PID has to be that of the process, which the shell becomes.
		p := harness.StartProcessWith(t, "node", files, "/bin/sh", []string{"-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"`, harness.Roster(t),
			"node", "--listen", listen, "--listen", "unix://" + unix, "--admin", admin, "--etcd", etcd.Endpoints()}, nil)
		waitReady(t, admin)
		return p
	}
	p := start()
	c := startSwarm(t)
	c.add("keep-alive", 4, 20*time.Millisecond, directHTTP1("tcp", listen, false))
	c.add("a connection for each request", 4, 10*time.Millisecond, directHTTP1("tcp", listen, true))
	c.add("unix", 2, 20*time.Millisecond, directHTTP1("unix", unix, false))
	for range restarts {
		c.wait(2)
		if code := p.Terminate(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		p = start()
	}
	c.wait(2)
	c.end()
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(unix); err != nil {
		t.Error("the service manager's socket has lost its file:", err)
	}

	// A socket that no flag names would keep its clients waiting for ever.
	p = harness.StartProcessWith(t, "node", files, "/bin/sh", []string{"-c", `LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"`, harness.Roster(t),
		"node", "--listen", listen, "--admin", admin, "--etcd", etcd.Endpoints()}, nil)
	if code := p.Wait(); code != 1 || !strings.Contains(p.Log(), "inherited sockets that nothing listens on: "+unix) {
		t.Errorf("exit code %d, %s", code, p.Log())
	}
}

// systemd's own tool starts a node with the first client, whose request is answered.
func TestSystemdSocketActivate(t *testing.T) {
	t.Parallel()
	harness.Require(t, "systemd-socket-activate")
	etcd, _ := startWeb(t)
	listen, admin := harness.FreeAddress(t), harness.FreeAddress(t)
	p := harness.StartProcess(t, "systemd-socket-activate", "systemd-socket-activate", []string{"-l", listen, "-l", admin, harness.Roster(t),
		"node", "--listen", listen, "--admin", admin, "--etcd", etcd.Endpoints()}, nil)
	harness.Until(t, "the sockets", func() (bool, any) { return strings.Contains(p.Log(), "Listening on "+admin), p.Log() })
	client := &http.Client{Timeout: harness.WaitLimit}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), harness.WaitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+listen+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Origin") != "web" {
		t.Errorf("%s of %q", resp.Status, resp.Header.Get("X-Origin"))
	}
	if code := p.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
