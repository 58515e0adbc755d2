//go:build linux

package rig

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Machine says in a line what is measured on.
func Machine() string {
	model := "?"
	info, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(info)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
		}
	}
	var u unix.Utsname
	unix.Uname(&u)
	return fmt.Sprintf("%d cores of %s, Linux %s", runtime.NumCPU(), model, unix.ByteSliceToString(u.Release[:]))
}

// LoadAverage is that of the last minute.
func LoadAverage() string {
	text, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(text), " ")
	return first
}

// FreeAddress is one of 127.0.0.1 with a port that nobody listens on, below those that Linux
// gives to outgoing connections.
func FreeAddress() (string, error) {
	port, err := freePort()
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), err
}

func freePort() (int, error) {
	for port := nextPort; port < nextPort+2000; port++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		l.Close()
		nextPort = port + 1
		return port, nil
	}
	return 0, fmt.Errorf("no free port between %d and %d", nextPort, nextPort+2000)
}

var nextPort = 12000 + os.Getpid()%4000

// Build builds a package of roster's module, or one that it depends on, as a static binary.
func Build(ctx context.Context, pkg, to string) error {
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "roster").Output()
	if err != nil {
		return fmt.Errorf("run this in roster's source tree, or name binaries by flags: %w", err)
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", to, pkg)
	build.Dir = strings.TrimSpace(string(root))
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
