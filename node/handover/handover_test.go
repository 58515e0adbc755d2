//go:build unix

package handover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"roster/node/sockets"
)

// asSuccessor as the first argument makes this program the new process of a test. The
// second one says how it behaves.
const asSuccessor = "be-a-successor"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == asSuccessor {
		behaviours[os.Args[2]]()
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// behaviours are of new processes. Each has as its first descriptor one that it tells the
// test by what becomes of it.
var behaviours = map[string]func(){
	"good":  func() { heir(untilTerminated(), closed) },
	"never": func() { heir(untilTerminated(), make(chan struct{})) }, // it never could serve
	"deaf": func() { // to signals
		signal.Ignore(syscall.SIGTERM)
		heir(context.Background(), closed)
	},
	"hanging": func() { hang(false) },
	"stuck":   func() { hang(true) },
	"ending":  func() { os.Exit(3) },
	"ending after ready": func() {
		io.WriteString(find().control, string(ready))
		os.Exit(3)
	},
	"silent": func() { // it ends the conversation, and lives
		find().control.Close()
		hang(false)
	},
	"nonsense": func() {
		io.WriteString(find().control, "x")
		hang(false)
	},
	"nonsense after ready": func() {
		io.WriteString(find().control, string(ready)+"x")
		hang(false)
	},
	"serving": serveSockets,
	"crowded": beCrowded,
}

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

func tell(format string, args ...any) {
	fmt.Fprintf(os.NewFile(3, "report"), format+"\n", args...)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func find() *Predecessor { return must(Find()) }

func untilTerminated() context.Context {
	ctx, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	return ctx
}

// heir does what a node does.
func heir(ctx context.Context, could <-chan struct{}) {
	p := find()
	if _, ok := os.LookupEnv(envVar); ok {
		tell("%s is still in the environment", envVar)
	}
	if flags := must(unix.FcntlInt(p.control.Fd(), unix.F_GETFD, 0)); flags&unix.FD_CLOEXEC == 0 {
		tell("the conversation goes on to processes that this one starts")
	}
	tell("waits")
	alone, err := p.Await(ctx, could)
	if err != nil || alone {
		tell("alone %t, %v", alone, err)
		return
	}
	tell("serves")
	tell("left %v", p.Serving(ctx))
}

func hang(deaf bool) {
	if deaf {
		signal.Ignore(syscall.SIGTERM)
	}
	tell("hangs")
	select {}
}

// started is a new process.
type started struct {
	*Successor
	t      *testing.T
	report *bufio.Scanner // ends when it does, and all processes that it started
}

func start(t *testing.T, path, behaviour string) *started {
	t.Helper()
	r, w := must2(os.Pipe())
	t.Cleanup(func() { r.Close() })
	defer w.Close()
	p := Program{path, []string{asSuccessor, behaviour}}
	s, err := p.Start(&sockets.Passage{Files: []*os.File{w}})
	if err != nil {
		t.Fatal(err)
	}
	return &started{s, t, bufio.NewScanner(r)}
}

func must2[A, B any](a A, b B, err error) (A, B) {
	if err != nil {
		panic(err)
	}
	return a, b
}

// says waits for the next that it tells; empty: for its end.
func (s *started) says(want string) {
	s.t.Helper()
	if s.report.Scan(); s.report.Text() != want {
		s.t.Errorf("it says %q, want %q", s.report.Text(), want)
	}
}

// ok fails the test if it is an error.
func (s *started) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Error(err)
	}
}

func self(t testing.TB) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// cancelled has ended.
func cancelled(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}

// What the two say, in its order; what they cannot share is the new one's at the end.
func TestHandover(t *testing.T) {
	t.Parallel()
	s := start(t, self(t), "good")
	s.says("waits")
	s.ok(s.Ready(t.Context()))
	s.ok(s.Go(t.Context()))
	s.says("serves")
	s.Leave()
	s.says("left <nil>")
	s.says("")
}

// A new process whose predecessor dies serves, whether it could before or not. It is the
// only one left.
func TestANewProcessThatIsAloneServes(t *testing.T) {
	t.Parallel()
	for _, behaviour := range []string{"good", "never"} {
		s := start(t, self(t), behaviour)
		s.says("waits")
		s.control.Close() // as a process does that is killed
		s.says("alone true, <nil>")
		s.wait()
	}
	s := start(t, self(t), "good")
	s.says("waits")
	s.ok(s.Ready(t.Context()))
	s.ok(s.Go(t.Context()))
	s.says("serves")
	s.control.Close()
	s.says("left <nil>")
	s.wait()
}

// Nobody has the sockets' files, nor anything else, of an old process that serves on.
func TestANewProcessEndsIfTheOldOneServesOn(t *testing.T) {
	t.Parallel()
	t.Run("by a signal", func(t *testing.T) {
		t.Parallel()
		s := start(t, self(t), "never")
		s.says("waits")
		if err := s.Ready(cancelled(t)); err != context.Canceled {
			t.Errorf("error %v", err)
		}
		s.End()
		if !s.cmd.ProcessState.Success() {
			t.Errorf("it ended with %v", s.cmd.ProcessState)
		}
	})
	t.Run("by a word", func(t *testing.T) {
		t.Parallel()
		s := start(t, self(t), "deaf")
		s.says("waits")
		s.ok(s.Ready(t.Context()))
		s.End()
		s.says("alone false, " + errRemains.Error())
		s.says("")
	})
	t.Run("after it served", func(t *testing.T) {
		t.Parallel()
		s := start(t, self(t), "deaf")
		s.says("waits")
		s.ok(s.Ready(t.Context()))
		s.control.Write([]byte{proceed})
		s.says("serves")
		if err := s.Go(cancelled(t)); err != context.Canceled {
			t.Errorf("error %v", err)
		}
		s.End()
		s.says("left " + errRemains.Error())
		s.says("")
	})
	t.Run("below a script", func(t *testing.T) {
		t.Parallel()
		script := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(script, []byte("#!/bin/sh\n'"+self(t)+"' \"$@\"\n:\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		s := start(t, script, "good")
		s.says("waits")
		s.ok(s.Ready(t.Context()))
		s.End()
		s.says("alone false, " + errRemains.Error())
		s.says("")
	})
}

// badly is how a new process fares that does not do what it should, and is then ended.
func badly(t *testing.T, behaviour string) (state *os.ProcessState, err error) {
	t.Helper()
	s := start(t, self(t), behaviour)
	defer s.End()
	if behaviour == "hanging" || behaviour == "stuck" {
		s.says("hangs")
		err = s.Ready(cancelled(t))
	} else if err = s.Ready(t.Context()); err == nil {
		err = s.Go(t.Context())
	}
	s.End()
	s.End() // once more does nothing
	return s.cmd.ProcessState, err
}

func TestANewProcessThatMisbehavesIsEnded(t *testing.T) {
	t.Parallel()
	for behaviour, want := range map[string][2]string{
		"hanging":              {"context canceled", "signal: terminated"},
		"stuck":                {"context canceled", "signal: killed"},
		"ending":               {"handover: the new process has ended: exit status 3", "exit status 3"},
		"ending after ready":   {"handover: the new process has ended: exit status 3", "exit status 3"},
		"silent":               {"handover: the new process has ended: signal: killed", "signal: killed"},
		"nonsense":             {"handover: the new process says 'x', want 'r'", "signal: terminated"},
		"nonsense after ready": {"handover: the new process says 'x', want 's'", "signal: terminated"},
	} {
		t.Run(behaviour, func(t *testing.T) {
			t.Parallel()
			state, err := badly(t, behaviour)
			if err == nil || err.Error() != want[0] || state.String() != want[1] {
				t.Errorf("%v and %v, want %q", err, state, want)
			}
		})
	}
}

// descriptors is how many the process has open.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// An old process that is asked again and again loses nothing by it. Not parallel: it counts
// what is open in all of the process.
func TestNothingIsLeftOpen(t *testing.T) {
	var set sockets.Set
	defer set.Close()
	if _, err := set.Listen("tcp", "127.0.0.1:0", 1); err != nil {
		t.Fatal(err)
	}
	attempt := func(path string, env []string) error {
		passage, err := set.Pass()
		if err != nil {
			t.Fatal(err)
		}
		defer passage.Close()
		passage.Env = append(passage.Env, env...)
		p := Program{path, []string{asSuccessor, "ending"}}
		s, err := p.Start(passage)
		if err != nil {
			return err
		}
		defer s.End()
		return s.Ready(t.Context())
	}
	tries := func() {
		if err := attempt(filepath.Join(t.TempDir(), "missing"), nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a program that is not there: %v", err)
		}
		if err := attempt(t.TempDir(), nil); !errors.Is(err, os.ErrPermission) {
			t.Errorf("a folder: %v", err)
		}
		if err := attempt(self(t), []string{"LISTEN_FDNAMES=" + strings.Repeat("x", 1<<22)}); !errors.Is(err, syscall.E2BIG) {
			t.Errorf("too many sockets for their names to be passed on: %v", err)
		}
		if err := attempt(self(t), nil); err == nil || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("a program that ends: %v", err)
		}
		s := start(t, self(t), "good")
		s.says("waits")
		s.ok(s.Ready(t.Context()))
		s.ok(s.Go(t.Context()))
		pid := s.Pid()
		s.Leave()
		for s.report.Scan() {
		}
		if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
			t.Error(err)
		}
	}
	tries() // which opens what the runtime needs
	before := descriptors(t)
	const rounds = 3
	for range rounds {
		tries()
	}
	// The pipes of start are closed at the end of the test.
	if after := descriptors(t); after != before+rounds {
		t.Errorf("%d descriptors are open, want %d and %d of pipes", after, before, rounds)
	}
}

// The sockets of a real one: clients of each are answered by the old process until the new
// one serves, and by it afterwards, and the file is the new one's.
func TestSocketsGoOver(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "handover") // a short path: sockets have room for 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	var set sockets.Set
	tcp, err := set.Listen("tcp", "127.0.0.1:0", 1)
	if err != nil {
		t.Fatal(err)
	}
	file, err := set.Listen("unix", path, 1)
	if err != nil {
		t.Fatal(err)
	}
	passage, err := set.Pass()
	if err != nil {
		t.Fatal(err)
	}
	p := Program{self(t), []string{asSuccessor, "serving", tcp.Addr().String(), path}}
	s, err := p.Start(passage)
	passage.Close()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(addr net.Addr) (answer func() string) {
		c, err := net.Dial(addr.Network(), addr.String())
		if err != nil {
			t.Fatal(err)
		}
		return func() string {
			defer c.Close()
			text, err := io.ReadAll(c)
			if err != nil {
				t.Error(err)
			}
			return string(text)
		}
	}
	if err := s.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*sockets.Listener{tcp, file} {
		answer := ask(l.Addr())
		ln, err := l.Sockets[0].Listener()
		if err != nil {
			t.Fatal(err)
		}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "old")
		c.Close()
		if got := answer(); got != "old" {
			t.Errorf("%v answers %q before the new process serves", l.Addr(), got)
		}
	}
	waiting := []func() string{ask(tcp.Addr()), ask(file.Addr())} // in the queues
	if err := s.Go(t.Context()); err != nil {
		t.Fatal(err)
	}
	set.Release()
	pid := s.Pid()
	s.Leave()
	set.Close()
	for _, answer := range append(waiting, ask(tcp.Addr())) {
		if got := answer(); got != "new" {
			t.Errorf("answer %q of the new process", got)
		}
	}
	if got := ask(file.Addr())(); got != "new" { // the last: it ends with it
		t.Errorf("answer %q of the new process", got)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil || status != 0 {
		t.Errorf("%v, %#x, want that it ends in good order", err, status)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the last process has left its socket's file")
	}
}

// serveSockets is a new process that answers two clients on each socket.
func serveSockets() {
	p := find()
	set := must(sockets.Inherit(true))
	tcp, file := must(set.Listen("tcp", os.Args[3], 1)), must(set.Listen("unix", os.Args[4], 1))
	must(set.Leftover())
	if alone, err := p.Await(context.Background(), closed); alone || err != nil {
		os.Exit(4)
	}
	served := make(chan struct{})
	for _, l := range []*sockets.Listener{tcp, file} {
		ln := must(l.Sockets[0].Listener())
		go func() {
			for range 2 {
				c := must(ln.Accept())
				io.WriteString(c, "new")
				c.Close()
			}
			served <- struct{}{}
		}()
	}
	if p.Serving(context.Background()) != nil {
		os.Exit(5)
	}
	set.Adopt()
	<-served
	<-served
	set.Close()
}

// A process that may not open more serves on, and has as much open as before.
func TestTooManySockets(t *testing.T) {
	t.Parallel()
	r, w := must2(os.Pipe())
	defer r.Close()
	cmd := exec.Command(self(t), asSuccessor, "crowded")
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	report, err := io.ReadAll(r)
	if err = errors.Join(err, cmd.Wait()); err != nil || string(report) != "done\n" {
		t.Errorf("%v, it says %q", err, report)
	}
}

func beCrowded() {
	var set sockets.Set
	for range 40 {
		must(set.Listen("tcp", "127.0.0.1:0", 1))
	}
	program := must(Self())
	program.args = []string{asSuccessor, "ending"}
	open := func() int { return len(must(os.ReadDir("/dev/fd"))) }
	before := open()
	limit := func(n int) {
		var l unix.Rlimit
		if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			panic(err)
		}
		l.Cur = uint64(n)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			panic(err)
		}
	}
	// Not enough for the copies; then for one thing after the other that a start needs.
	limit(before + 20)
	if _, err := set.Pass(); !errors.Is(err, syscall.EMFILE) {
		tell("Pass: %v", err)
	}
	limit(before + 41)
	passage := must(set.Pass())
	for more := 0; ; more++ {
		limit(before + 38 + more)
		s, err := program.Start(passage)
		if err == nil {
			s.End()
			if more < 4 {
				tell("it starts with room for %d", more)
			}
			break
		}
		if !errors.Is(err, syscall.EMFILE) {
			tell("with room for %d: %v", more, err)
			break
		}
	}
	passage.Close()
	limit(before + 20)
	if after := open(); after != before {
		tell("%d descriptors are open, %d were", after, before)
	}
	ln := must(net.Listen("tcp", "127.0.0.1:0"))
	must(net.Dial("tcp", ln.Addr().String())).Close()
	must(ln.Accept()).Close()
	tell("done")
}

func TestFind(t *testing.T) {
	if p, err := Find(); p != nil || err != nil {
		t.Errorf("%v, %v, want none", p, err)
	}
	for _, text := range []string{"", "x", "-1", "3.5", "1000000"} {
		t.Setenv(envVar, text)
		if p, err := Find(); p != nil || err == nil || !strings.Contains(err.Error(), strconv.Quote(text)) {
			t.Errorf("%s=%q: %v, %v", envVar, text, p, err)
		}
		if _, ok := os.LookupEnv(envVar); ok {
			t.Errorf("%s=%q is still in the environment", envVar, text)
		}
	}
}

// Self is the path by which the process was called, if that is its program.
func TestSelf(t *testing.T) {
	was := slices.Clone(os.Args)
	defer func() { os.Args = was }()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(self(t), link); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for called, want := range map[string]string{link: link, other: self(t), "no-such-name": self(t), "": self(t)} {
		os.Args = []string{called, "node"}
		p, err := Self()
		if err != nil || p.Path() != want || !slices.Equal(p.args, []string{"node"}) {
			t.Errorf("called %q: %+v, %v, want %s", called, p, err, want)
		}
	}
}
