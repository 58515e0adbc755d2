//go:build unix

package handover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"roster/node/sockets"
)

// Program is what this process was started as.
type Program struct {
	path string
	args []string
}

// Self returns the program of this process. Its path is the one that it was called by: a
// file that is put there later, or a link that is changed, is the new program.
func Self() (*Program, error) {
	running, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("handover: %w", err)
	}
	p := &Program{path: running, args: os.Args[1:]}
	called, err := exec.LookPath(os.Args[0])
	if err == nil {
		called, err = filepath.Abs(called)
	}
	if err == nil && same(called, running) { // a process may be called anything
		p.path = called
	}
	return p, nil
}

func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// Path is the file that Start runs.
func (p *Program) Path() string { return p.path }

// Successor is the new process.
type Successor struct {
	cmd     *exec.Cmd
	control *os.File
}

// Start runs the program with the arguments, the environment and the standard streams of
// this process, and with the sockets of a passage. One of End and Leave must follow.
func (p *Program) Start(sockets *sockets.Passage) (*Successor, error) {
	syscall.ForkLock.RLock()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(pair[0])
		syscall.CloseOnExec(pair[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("handover: %w", os.NewSyscallError("socketpair", err))
	}
	syscall.SetNonblock(pair[0], true) // so that reads have deadlines
	s := &Successor{control: os.NewFile(uintptr(pair[0]), "successor"), cmd: exec.Command(p.path, p.args...)}
	theirs := os.NewFile(uintptr(pair[1]), "predecessor")
	defer theirs.Close()
	s.cmd.Args[0] = os.Args[0]
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	s.cmd.ExtraFiles = append(slices.Clone(sockets.Files), theirs)
	s.cmd.Env = append(slices.Concat(os.Environ(), sockets.Env), envVar+"="+strconv.Itoa(3+len(sockets.Files)))
	if err := s.cmd.Start(); err != nil {
		s.control.Close()
		return nil, fmt.Errorf("handover: %w", err)
	}
	return s, nil
}

// Pid is its process id.
func (s *Successor) Pid() int { return s.cmd.Process.Pid }

// Ready returns nil once the process could serve. It is an error if it ends before, or
// ctx does.
func (s *Successor) Ready(ctx context.Context) error { return s.hear(ctx, ready) }

// Go lets it serve, and returns nil once it does: it has to be left to itself then.
func (s *Successor) Go(ctx context.Context) error {
	if _, err := s.control.Write([]byte{proceed}); err != nil {
		return s.ended()
	}
	return s.hear(ctx, serving)
}

func (s *Successor) hear(ctx context.Context, want byte) error {
	switch got, err := hear(ctx, s.control); {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return s.ended()
	case got != want:
		return fmt.Errorf("handover: the new process says %q, want %q", got, want)
	}
	return nil
}

// ended says how it did. Its end of the conversation is closed: it has ended, or is
// about to.
func (s *Successor) ended() error {
	s.wait()
	return fmt.Errorf("handover: the new process has ended: %v", s.cmd.ProcessState)
}

// patience is how long a process that is told to end may take to.
const patience = 5 * time.Second

func (s *Successor) wait() {
	if s.cmd.ProcessState != nil {
		return
	}
	kill := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
	defer kill.Stop()
	s.cmd.Wait() // which fails if the exit code is not 0
}

// End ends it, in good order if it can.
func (s *Successor) End() {
	if s.cmd.ProcessState == nil {
		// It is told so, and that it is not alone: it may be the child of a script, which
		// gets the signal in its place.
		s.control.Write([]byte{remain})
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.wait()
	}
	s.control.Close()
}

// Leave leaves it to itself, and to it what two processes cannot share.
func (s *Successor) Leave() {
	s.cmd.Process.Release()
	s.control.Close()
}

// Predecessor is the old process, in the new one.
type Predecessor struct{ control *os.File }

// Find returns the process that this one is to replace; nil if there is none. It takes the
// variable that says so out of the environment.
func Find() (*Predecessor, error) {
	text, ok := os.LookupEnv(envVar)
	if !ok {
		return nil, nil
	}
	os.Unsetenv(envVar)
	fd, err := strconv.Atoi(strings.TrimSpace(text))
	if err == nil {
		syscall.CloseOnExec(fd)
		err = syscall.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, fmt.Errorf("%s is %q, want the number of a descriptor: it is for roster itself", envVar, text)
	}
	return &Predecessor{os.NewFile(uintptr(fd), "predecessor")}, nil
}

var errRemains = errors.New("handover: the old process serves on")

// Await says, once could is closed, that this process could serve, and returns without an
// error when it is to: the old process says so, or has died, and this one is alone. That it
// is as soon as the other one is gone, be it ready or not. It is an error if the old process
// serves on, or ctx ends.
func (p *Predecessor) Await(ctx context.Context, could <-chan struct{}) (alone bool, err error) {
	heard := make(chan struct{})
	var said sync.WaitGroup
	said.Go(func() {
		select {
		case <-could:
			p.control.Write([]byte{ready})
		case <-heard:
		}
	})
	got, err := hear(ctx, p.control)
	close(heard)
	said.Wait()
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case err != nil:
		return true, nil
	case got != proceed:
		return false, errRemains
	}
	return false, nil
}

// Serving says that this process does, ends the conversation, and returns nil once the old
// one has left it to itself, or has died. It is an error if that serves on, or ctx ends.
func (p *Predecessor) Serving(ctx context.Context) error {
	defer p.control.Close()
	p.control.Write([]byte{serving})
	_, err := hear(ctx, p.control)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		return errRemains
	}
	return nil
}

// hear reads what the other one says.
func hear(ctx context.Context, control *os.File) (byte, error) {
	stop := context.AfterFunc(ctx, func() { control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [1]byte
	n, err := control.Read(b[:])
	if n == 0 && err == nil {
		err = errors.New("nothing was said")
	}
	return b[0], err
}
