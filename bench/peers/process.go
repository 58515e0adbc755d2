//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"roster/e2e/harness/proc"
)

// The core of a process when they are pinned.
const (
	proxyCore = 0
	otherCore = 1
	anyCore   = -1
)

// processes starts programs and ends all of them. They end with this program, too,
// however that ends.
type processes struct {
	dir     string // for files
	pinned  bool
	queue   chan func()
	mu      sync.Mutex
	running []*process
}

// process is a program that was started.
type process struct {
	name string
	cmd  *exec.Cmd
	log  proc.Tail
	done chan struct{} // closed when it has ended
}

func newProcesses(dir string, pinned bool) *processes {
	p := &processes{dir: dir, pinned: pinned, queue: make(chan func())}
	go p.starter()
	return p
}

// starter is the thread that starts all programs: a program gets the cores of the
// thread that starts it, and a signal when that thread ends.
func (p *processes) starter() {
	runtime.LockOSThread()
	for start := range p.queue {
		start()
	}
}

// start starts a program on a core.
func (p *processes) start(core int, name, path string, args ...string) (*process, error) {
	q := &process{name: name, cmd: exec.Command(path, args...), log: proc.Tail{Keep: 4 << 10}, done: make(chan struct{})}
	q.cmd.Env = environment()
	q.cmd.Stdout, q.cmd.Stderr = &q.log, &q.log
	// SIGTERM, for it also ends the children that nginx has.
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.spawn(core, q.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		q.cmd.Wait()
		close(q.done)
	}()
	p.mu.Lock()
	p.running = append(p.running, q)
	p.mu.Unlock()
	return q, nil
}

// run runs a program to its end, at most for limit, and returns its output and the CPU
// time it used.
func (p *processes) run(ctx context.Context, limit time.Duration, core int, path string, args ...string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := p.spawn(core, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", 0, fmt.Errorf("%s: %w\n%s", filepath.Base(path), err, out.String())
	}
	return out.String(), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

func (p *processes) spawn(core int, cmd *exec.Cmd) error {
	done := make(chan error)
	p.queue <- func() {
		var set unix.CPUSet
		for i := range runtime.NumCPU() {
			if !p.pinned || core == anyCore || i == core {
				set.Set(i)
			}
		}
		err := unix.SchedSetaffinity(0, &set)
		if err == nil {
			err = cmd.Start()
		}
		done <- err
	}
	return <-done
}

// pinSelf moves all threads of this program off the proxy's core.
func pinSelf() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var set unix.CPUSet
	set.Set(otherCore)
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != unix.ESRCH {
			return os.NewSyscallError("sched_setaffinity", err)
		}
	}
	return nil
}

// environment is this program's, without roster's variables, which would change what is
// measured.
func environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROSTER_") {
			env = append(env, kv)
		}
	}
	return env
}

// end ends processes, all that run if none is named, and waits for that.
func (p *processes) end(which ...*process) {
	p.mu.Lock()
	if which == nil {
		which = p.running
	}
	p.running = slices.DeleteFunc(slices.Clone(p.running), func(q *process) bool { return slices.Contains(which, q) })
	p.mu.Unlock()
	for _, q := range which {
		q.cmd.Process.Signal(syscall.SIGTERM)
	}
	limit := time.After(3 * time.Second)
	for _, q := range which {
		select {
		case <-q.done:
			continue
		case <-limit:
		}
		syscall.Kill(-q.cmd.Process.Pid, syscall.SIGKILL) // with its children
		<-q.done
	}
}

// wait waits until check is satisfied, and gives up when the process has ended, or
// after half a minute.
func (q *process) wait(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-q.done:
			return fmt.Errorf("%s has ended: %v\n%s", q.name, q.cmd.ProcessState, q.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w\n%s", q.name, context.Cause(ctx), err, q.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// ids are the process's id and those of its children.
func (q *process) ids() []int {
	ids := []int{q.cmd.Process.Pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", ids[0]))
	for _, f := range strings.Fields(string(children)) {
		if id, err := strconv.Atoi(f); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// usage is the CPU time of a process and its children so far, of all their threads.
type usage struct{ user, system time.Duration }

func (u usage) sum() time.Duration { return u.user + u.system }

func (q *process) usage() (u usage, err error) {
	for _, id := range q.ids() {
		user, system, err := proc.CPU(id)
		if err != nil {
			return u, fmt.Errorf("%s: %w", q.name, err)
		}
		u.user += user
		u.system += system
	}
	return u, nil
}

// resident is the resident memory of a process and its children, in bytes.
func (q *process) resident() (sum int64) {
	for _, id := range q.ids() {
		now, _, _ := proc.Memory(id) // a child may have ended
		sum += now
	}
	return sum
}
