//go:build linux

package rig

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
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
	ProxyCore = 0
	OtherCore = 1
	AnyCore   = -1 // where the system places it
)

// Processes starts programs and ends all of them. They end with this program, too,
// however that ends.
type Processes struct {
	Dir     string // for files
	Pinned  bool
	queue   chan func()
	mu      sync.Mutex
	Running []*Process // in the order they were started
}

// Process is a program that was started.
type Process struct {
	Name string
	cmd  *exec.Cmd
	log  proc.Tail
	done chan struct{} // closed when it has ended
}

// NewProcesses has no programs yet. With pinned, each is kept to a core.
func NewProcesses(dir string, pinned bool) *Processes {
	p := &Processes{Dir: dir, Pinned: pinned, queue: make(chan func())}
	go p.starter()
	return p
}

// starter is the thread that starts all programs: a program gets the cores of the
// thread that starts it, and a signal when that thread ends.
func (p *Processes) starter() {
	runtime.LockOSThread()
	for start := range p.queue {
		start()
	}
}

// Start starts a program on a core.
func (p *Processes) Start(core int, name, path string, args ...string) (*Process, error) {
	q := &Process{Name: name, cmd: exec.Command(path, args...), log: proc.Tail{Keep: 4 << 10}, done: make(chan struct{})}
	q.cmd.Env = Environment()
	q.cmd.Stdout, q.cmd.Stderr = &q.log, &q.log
	// SIGTERM, for it also ends the children that nginx has.
	q.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.Spawn(core, q.cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		q.cmd.Wait()
		close(q.done)
	}()
	p.mu.Lock()
	p.Running = append(p.Running, q)
	p.mu.Unlock()
	return q, nil
}

// Run runs a program to its end, at most for limit, and returns its output and the CPU
// time it used.
func (p *Processes) Run(ctx context.Context, limit time.Duration, core int, path string, args ...string) (string, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = Environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := p.Spawn(core, cmd)
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

// Spawn starts a command on a core; what becomes of it is the caller's.
func (p *Processes) Spawn(core int, cmd *exec.Cmd) error {
	done := make(chan error)
	p.queue <- func() {
		var set unix.CPUSet
		for i := range runtime.NumCPU() {
			if !p.Pinned || core == AnyCore || i == core {
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

// PinSelf moves all threads of this program off the proxy's core.
func PinSelf() error {
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	var set unix.CPUSet
	set.Set(OtherCore)
	for _, t := range threads {
		id, _ := strconv.Atoi(t.Name())
		if err := unix.SchedSetaffinity(id, &set); err != nil && err != unix.ESRCH {
			return os.NewSyscallError("sched_setaffinity", err)
		}
	}
	return nil
}

// Environment is this program's, without roster's variables, which would change what is
// measured.
func Environment() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROSTER_") {
			env = append(env, kv)
		}
	}
	return env
}

// End ends Processes, all that run if none is named, and waits for that.
func (p *Processes) End(which ...*Process) {
	p.mu.Lock()
	if which == nil {
		which = p.Running
	}
	p.Running = slices.DeleteFunc(slices.Clone(p.Running), func(q *Process) bool { return slices.Contains(which, q) })
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

// Wait waits until check is satisfied, and gives up when the process has ended, or
// after half a minute.
func (q *Process) Wait(ctx context.Context, check func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := check()
		if err == nil {
			return nil
		}
		select {
		case <-q.done:
			return fmt.Errorf("%s has ended: %v\n%s", q.Name, q.cmd.ProcessState, q.log.String())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w: %w\n%s", q.Name, context.Cause(ctx), err, q.log.String())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Kill ends the process at once, and returns when it has ended.
func (q *Process) Kill() {
	q.cmd.Process.Kill()
	<-q.done
}

// IDs are the process's id and those of its children.
func (q *Process) IDs() []int {
	ids := []int{q.cmd.Process.Pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", ids[0]))
	for _, f := range strings.Fields(string(children)) {
		if id, err := strconv.Atoi(f); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// Usage is the CPU time of a process and its children so far, of all their threads.
type Usage struct{ User, System time.Duration }

// Sum is both.
func (u Usage) Sum() time.Duration { return u.User + u.System }

// Usage is what it has used.
func (q *Process) Usage() (u Usage, err error) {
	for _, id := range q.IDs() {
		user, system, err := proc.CPU(id)
		if err != nil {
			return u, fmt.Errorf("%s: %w", q.Name, err)
		}
		u.User += user
		u.System += system
	}
	return u, nil
}

// Resident is the resident memory of a process and its children, in bytes.
func (q *Process) Resident() (sum int64) {
	for _, id := range q.IDs() {
		now, _, _ := proc.Memory(id) // a child may have ended
		sum += now
	}
	return sum
}

// Answers says why a URL is not answered with 200.
func Answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return nil
}
