package harness

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// atOnce is how many tests run side by side unless -parallel says otherwise: they wait more
// than they compute.
const atOnce = 4

// Main is the body of a TestMain: it runs the tests, then removes what was built,
// and returns the exit code.
func Main(m *testing.M) int {
	if err := flag.Set("test.parallel", strconv.Itoa(max(atOnce, runtime.GOMAXPROCS(0)))); err != nil {
		panic(err) // there is no such flag any more
	}
	defer func() {
		if builds.dir != "" {
			os.RemoveAll(builds.dir)
		}
	}()
	return m.Run()
}

// Roster is the path of the roster binary under test.
func Roster(t testing.TB) string {
	t.Helper()
	return roster(t, Race())
}

// NextRoster is the path of a roster binary that plays the release after the one under
// test: its definitions have a level more, see store/level_next.go.
func NextRoster(t testing.TB) string {
	t.Helper()
	return built(t, "roster-next", "roster/cmd/roster", "-tags=roster_next", "-pgo=off")
}

func roster(t testing.TB, race bool) string {
	t.Helper()
	if path := os.Getenv("ROSTER_E2E_BIN"); path != "" {
		abs, err := filepath.Abs(path)
		if err != nil {
			t.Fatal(err)
		}
		return abs
	}
	if race {
		return built(t, "roster-race", "roster/cmd/roster", "-race", "-pgo=off") // else all it imports is compiled twice
	}
	return built(t, "roster", "roster/cmd/roster")
}

// Race reports whether roster is built with the race detector.
func Race() bool {
	switch os.Getenv("ROSTER_E2E_RACE") {
	case "1":
		return true
	case "0":
		return false
	}
	return raceEnabled
}

// Etcdctl is the path of the etcdctl binary that go.mod pins, the one that
// "go tool etcdctl" runs.
func Etcdctl(t testing.TB) string {
	t.Helper()
	return built(t, "etcdctl", "go.etcd.io/etcd/etcdctl/v3")
}

// EtcdBinary is the path of the etcd binary that go.mod pins.
func EtcdBinary(t testing.TB) string {
	t.Helper()
	return built(t, "etcd", "go.etcd.io/etcd/server/v3")
}

// Root is the module's folder: where README.md and the Makefile are.
func Root(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatalf("go env GOMOD: %v", err)
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// builds holds what was built in this process. The mutex also makes parallel
// tests wait for one build instead of starting another.
var builds struct {
	mu   sync.Mutex
	dir  string
	done map[string]error
}

func built(t testing.TB, name, pkg string, flags ...string) string {
	t.Helper()
	builds.mu.Lock()
	defer builds.mu.Unlock()
	makeBuildDir(t)
	path := filepath.Join(builds.dir, name)
	err, ok := builds.done[name]
	if !ok {
		err = build(path, pkg, flags)
		builds.done[name] = err
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// makeBuildDir makes the folder for what is built. The caller holds the mutex.
func makeBuildDir(t testing.TB) {
	t.Helper()
	if builds.dir == "" {
		dir, err := os.MkdirTemp("", "roster-e2e-")
		if err != nil {
			t.Fatal(err)
		}
		builds.dir, builds.done = dir, map[string]error{}
	}
}

func build(path, pkg string, flags []string) error {
	cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), pkg)...)
	cmd.Env = os.Environ()
	for _, f := range flags {
		if f == "-race" {
			cmd.Env = append(cmd.Env, "CGO_ENABLED=1") // the race detector needs cgo
		}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out.Bytes())
	}
	return nil
}
