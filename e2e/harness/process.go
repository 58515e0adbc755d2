package harness

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"roster/e2e/harness/proc"
)

// A Process is a program that the test started. It is killed when the test ends.
type Process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	log  *proc.Tail
	done chan struct{} // closed once the program has ended and was waited for
	err  error         // of Wait; read after done
}

// StartProcess starts a program with its output going to the process's log. env is
// added to the environment of the test.
func StartProcess(t testing.TB, name, path string, args, env []string) *Process {
	t.Helper()
	return start(t, name, exec.Command(path, args...), env, syscall.SIGKILL)
}

// StartProcessWith is StartProcess with files, which the program has as descriptors 3 and
// following.
func StartProcessWith(t testing.TB, name string, files []*os.File, path string, args, env []string) *Process {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.ExtraFiles = files
	return start(t, name, cmd, env, syscall.SIGKILL)
}

// StartMake starts a target of the Makefile. As make has children, which it ends when
// it is ended in an orderly way only, it gets SIGTERM when the test ends.
func StartMake(t testing.TB, target string, env ...string) *Process {
	t.Helper()
	cmd := exec.Command("make", target)
	cmd.Dir = Root(t)
	p := start(t, "make "+target, cmd, env, syscall.SIGTERM)
	t.Cleanup(func() {
		if p.Running() {
			p.Terminate()
		}
	})
	return p
}

// start starts a process that gets a signal if this one dies.
func start(t testing.TB, name string, cmd *exec.Cmd, env []string, death syscall.Signal) *Process {
	t.Helper()
	p := &Process{t: t, name: name, cmd: cmd, log: &proc.Tail{Keep: 1 << 20}, done: make(chan struct{})}
	p.cmd.Env = append(cleanEnv(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.WaitDelay = time.Second // a grandchild that keeps the output open
	if err := spawn(p.cmd, death); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go p.reap()
	t.Cleanup(p.cleanup)
	return p
}

func (p *Process) reap() {
	p.err = p.cmd.Wait()
	close(p.done)
}

// cleanup ends the process and says what the test should know about it.
func (p *Process) cleanup() {
	p.Kill()
	if strings.Contains(p.Log(), "WARNING: DATA RACE") {
		p.t.Errorf("%s found a data race", p.name)
	}
	if p.t.Failed() {
		p.t.Logf("log of %s (pid %d, %v), its last part:\n%s", p.name, p.Pid(), p.cmd.ProcessState, tail(p.Log(), 16<<10))
	}
}

// Pid is the id of the process.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is what the process has written so far: at most its last mebibyte.
func (p *Process) Log() string { return p.log.String() }

// Signal sends a signal. A process that has ended is left alone.
func (p *Process) Signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatalf("signal %s: %v", p.name, err)
	}
}

// Kill ends the process with SIGKILL and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // the only error is that it has ended
	<-p.done
}

// Terminate sends SIGTERM and waits for the end, at most WaitLimit. It returns the
// exit code.
func (p *Process) Terminate() int {
	p.t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.Wait()
}

// Wait waits for the process to end by itself, at most WaitLimit, and returns the
// exit code (-1 if a signal ended it).
func (p *Process) Wait() int {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), WaitLimit)
	defer cancel()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-ctx.Done():
		p.t.Fatalf("%s (pid %d) has not ended after %v", p.name, p.Pid(), WaitLimit)
		return -1
	}
}

// Running reports whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// waitUntil waits for check, and gives up at once when the process ends first.
func (p *Process) waitUntil(what string, check func() (bool, any)) {
	p.t.Helper()
	ended := false
	state, ok := poll(WaitLimit, func() (bool, any) {
		ok, state := check()
		if !ok && !p.Running() {
			ended = true
			return true, state
		}
		return ok, state
	})
	switch {
	case ended:
		p.t.Fatalf("%s ended (%v) before %s; last seen: %s", p.name, p.cmd.ProcessState, what, describe(state))
	case !ok:
		p.t.Fatalf("waited %v for %s of %s; last seen: %s", WaitLimit, what, p.name, describe(state))
	}
}

// cleanEnv is the test's environment without roster's own variables, which would
// change what the programs under test do.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROSTER_") && !strings.HasPrefix(kv, "ETCD") {
			env = append(env, kv)
		}
	}
	return env
}

// A Result is how a program that ran to its end went.
type Result struct {
	Stdout, Stderr string
	Code           int // -1 if a signal ended it
}

// Run runs a program to its end, at most WaitLimit, and returns its output and exit
// code whatever the code is. stdin may be empty, env is added to the test's.
func Run(t testing.TB, stdin string, env []string, path string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), WaitLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second // a grandchild that keeps the pipes open
	cmd.Env = append(cleanEnv(), env...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s %s: %v\n%s%s", path, strings.Join(args, " "), errors.Join(err, ctx.Err()), stdout.String(), stderr.String())
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// CLI runs a command of roster to its end.
func CLI(t testing.TB, args ...string) Result {
	t.Helper()
	return Run(t, "", nil, Roster(t), args...)
}

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	if _, rest, ok := strings.Cut(s, "\n"); ok {
		s = rest
	}
	return "...\n" + s
}
