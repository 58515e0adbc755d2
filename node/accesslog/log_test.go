package accesslog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sink is an output in memory. While blocked is not nil, writes wait for it.
type sink struct {
	blocked chan struct{}

	mu     sync.Mutex
	got    []byte
	sizes  []int // of writes
	limit  int   // bytes that fit, if above 0
	err    error // of writes, once the limit is reached
	closed bool
}

func (s *sink) Write(p []byte) (int, error) {
	if s.blocked != nil {
		<-s.blocked
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(p)
	if s.err != nil {
		n = min(n, s.limit)
		s.limit -= n
	}
	s.got = append(s.got, p[:n]...)
	s.sizes = append(s.sizes, n)
	if n < len(p) {
		return n, s.err
	}
	return n, nil
}

func (s *sink) Close() error {
	s.closed = true
	return nil
}

func (s *sink) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.got)
}

// newLog makes a log that writes to s instead of a file, with what slog gets.
func newLog(t *testing.T, c Config, s *sink) (*Log, *bytes.Buffer) {
	t.Helper()
	var logged bytes.Buffer
	c.File = os.DevNull
	c.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	if c.Format == "" {
		c.Format = JSON
	}
	l, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	l.out.close()
	l.out.w, l.out.piece = s, 0
	return l, &logged
}

// run runs the log until the result is called.
func run(l *Log) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func numbered(port uint16, i int) *Entry {
	peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	return &Entry{Client: peer, Peer: peer, Method: []byte("GET"), Target: fmt.Appendf(nil, "/%d", i), Proto: "HTTP/1.1", Status: 200}
}

func line(e *Entry) string { return string(appendJSON(nil, e, new(stamp))) }

func TestLinesAreWrittenWithinATenthOfASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, logged := newLog(t, Config{}, &s)
		stop := run(l)
		for i := range 3 {
			l.Record(numbered(1, i))
		}
		synctest.Wait()
		if got := s.text(); got != "" {
			t.Errorf("written at once: %q", got)
		}
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		want := line(numbered(1, 0)) + line(numbered(1, 1)) + line(numbered(1, 2))
		if got := s.text(); got != want || len(s.sizes) != 1 {
			t.Errorf("in %d writes: %q, want %q in one", len(s.sizes), got, want)
		}
		if w, d := l.Written(), l.Dropped(); w != 3 || d != 0 {
			t.Errorf("written %d, dropped %d, want 3 and 0", w, d)
		}
		l.Record(numbered(1, 3))
		stop() // which writes the rest
		if got := s.text(); got != want+line(numbered(1, 3)) || !s.closed {
			t.Errorf("at the end: %q, closed %v", got, s.closed)
		}
		l.Record(numbered(1, 4))
		if w, d := l.Written(), l.Dropped(); w != 4 || d != 1 {
			t.Errorf("after the end: written %d, dropped %d, want 4 and 1", w, d)
		}
		if logged.Len() > 0 {
			t.Errorf("logged: %s", logged)
		}
	})
}

func TestAFullBufferIsWrittenEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, _ := newLog(t, Config{Every: time.Hour}, &s)
		defer run(l)()
		for i := 0; len(s.text()) == 0; i++ {
			if i > 1000 {
				t.Fatal("nothing written")
			}
			l.Record(numbered(1, i))
			synctest.Wait()
		}
		if n := len(s.text()); n < flushAt || n > flushAt+1000 {
			t.Errorf("%d bytes written, want about %d", n, flushAt)
		}
	})
}

// An output that takes nothing costs lines, and neither time nor memory.
func TestABlockedOutputCostsLinesOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sink{blocked: make(chan struct{})}
		l, logged := newLog(t, Config{Buffer: 1 << 20}, &s)
		stop := run(l)
		size := len(line(numbered(1, 100000)))
		const requests = 100000
		for i := range requests {
			l.Record(numbered(uint16(i), 100000+i)) // returns, or the bubble is found dead
			if i%1000 == 0 {
				synctest.Wait()
			}
		}
		time.Sleep(time.Minute)
		kept := requests - l.Dropped()
		if most := uint64(1<<20) / uint64(size); kept > most || kept < most/2 {
			t.Errorf("%d lines of %d bytes kept in 1 MiB", kept, size)
		}
		if n := cap(l.buf); n > 1<<20/2 {
			t.Errorf("the buffer has grown to %d", n)
		}
		close(s.blocked)
		time.Sleep(time.Minute)
		dropped := l.Dropped()
		for i := range 10 {
			l.Record(numbered(uint16(i), i))
		}
		stop()
		if w := l.Written(); w != kept+10 || l.Dropped() != dropped {
			t.Errorf("written %d, dropped %d, want %d and %d", w, l.Dropped(), kept+10, dropped)
		}
		checkLines(t, s.text(), int(kept)+10)
		if got, want := logged.String(), fmt.Sprintf("lines dropped\" file=%s dropped=%d\n", os.DevNull, dropped); !strings.Contains(got, want) || strings.Count(got, "\n") != 1 {
			t.Errorf("logged %q, want %q", got, want)
		}
	})
}

// checkLines checks that text has n lines, each a whole object.
func checkLines(t *testing.T, text string, n int) {
	t.Helper()
	got := 0
	for l := range strings.Lines(text) {
		if got++; !json.Valid([]byte(l)) || !strings.HasPrefix(l, `{"time":`) || !strings.HasSuffix(l, "}\n") {
			t.Fatalf("line %d is %q", got, l)
		}
	}
	if got != n {
		t.Errorf("%d lines, want %d", got, n)
	}
}

func TestRunEndsWithABlockedOutput(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := sink{blocked: make(chan struct{})}
		l, logged := newLog(t, Config{}, &s)
		stop := run(l)
		l.Record(numbered(1, 0))
		time.Sleep(time.Second) // it is in the write now
		l.Record(numbered(1, 1))
		began := time.Now()
		stop()
		if took := time.Since(began); took != time.Second {
			t.Errorf("the end took %v, want 1s", took)
		}
		l.Record(numbered(1, 2))
		if w, d := l.Written(), l.Dropped(); w != 0 || d != 2 {
			t.Errorf("written %d, dropped %d, want 0 and 2", w, d)
		}
		if !strings.Contains(logged.String(), "the output takes nothing") {
			t.Errorf("logged %q", logged)
		}
		close(s.blocked) // for the goroutine to end with the test
		synctest.Wait()
		if w, d := l.Written(), l.Dropped(); w != 1 || d != 2 {
			t.Errorf("written %d, dropped %d, want 1 and 2", w, d)
		}
	})
}

func TestFailedWritesAreCountedAndLoggedOnceASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		full := errors.New("no space left on device")
		s := sink{err: full}
		l, logged := newLog(t, Config{}, &s)
		stop := run(l)
		time.Sleep(50 * time.Millisecond) // between two writes
		for i := range 25 {               // in 2.5 s
			l.Record(numbered(1, i))
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		if n := strings.Count(logged.String(), "\n"); n != 3 {
			t.Errorf("logged %d times in 2.5 s: %s", n, logged)
		}
		if !strings.Contains(logged.String(), `dropped=10 error="no space left on device"`) {
			t.Errorf("logged %s", logged)
		}
		s.mu.Lock()
		s.err = nil
		s.mu.Unlock()
		l.Record(numbered(1, 25))
		stop()
		if w, d := l.Written(), l.Dropped(); w != 1 || d != 25 {
			t.Errorf("written %d, dropped %d, want 1 and 25", w, d)
		}
		if got := s.text(); got != line(numbered(1, 25)) {
			t.Errorf("output is %q", got)
		}
		if sum := strings.Count(logged.String(), "\n"); sum != 4 {
			t.Errorf("logged %d times: %s", sum, logged)
		}
	})
}

// A disk that is full in the middle of a line spoils this line alone.
func TestATornLineEndsBeforeTheNext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		one := line(numbered(1, 0))
		for _, row := range []struct {
			name  string
			room  int
			whole uint64
			want  string
		}{
			{"within a line", len(one) + 7, 1, one + one[:7] + "\n" + line(numbered(1, 9))},
			{"between lines", len(one), 1, one + line(numbered(1, 9))},
			{"before all", 0, 0, line(numbered(1, 9))},
		} {
			s := sink{err: errors.New("full"), limit: row.room}
			l, _ := newLog(t, Config{}, &s)
			stop := run(l)
			for range 3 {
				l.Record(numbered(1, 0))
			}
			time.Sleep(time.Second)
			s.mu.Lock()
			s.err = nil
			s.mu.Unlock()
			l.Record(numbered(1, 9))
			stop()
			if got := s.text(); got != row.want {
				t.Errorf("%s:\n got %q\nwant %q", row.name, got, row.want)
			}
			if w, d := l.Written(), l.Dropped(); w != row.whole+1 || d != 3-row.whole {
				t.Errorf("%s: written %d, dropped %d", row.name, w, d)
			}
		}
	})
}

// Lines of others cannot come between what is written to a pipe at once.
// A line that an earlier process, or this one before Reopen, left unfinished is ended, too.
func TestATornLineOfAnEarlierOpenEndsBeforeTheNext(t *testing.T) {
	t.Parallel()
	for before, want := range map[string]string{"": "", "whole\n": "whole\n", "to": "to\n"} {
		path := filepath.Join(t.TempDir(), "access.log")
		if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := New(Config{Format: JSON, File: path})
		if err != nil {
			t.Fatal(err)
		}
		stop := run(l)
		l.Record(numbered(1, 0))
		stop()
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want+line(numbered(1, 0)) {
			t.Errorf("%q became %q, %v", before, got, err)
		}
	}
}

func TestPipesGetWholeLinesOfAtMost4KiB(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s sink
		l, _ := newLog(t, Config{}, &s)
		l.out.piece = pipeBuf
		stop := run(l)
		var want strings.Builder
		for i := range 200 {
			e := numbered(1, i)
			if i == 100 {
				e.Target = []byte("/" + strings.Repeat("x", 5000))
			}
			l.Record(e)
			want.WriteString(line(e))
		}
		stop()
		if s.text() != want.String() {
			t.Errorf("written %q", s.text())
		}
		at, long := 0, 0
		for _, n := range s.sizes {
			if at += n; s.got[at-1] != '\n' {
				t.Errorf("a write ends within a line: %q", s.got[:at])
			}
			if n > pipeBuf {
				long++
			}
		}
		if long != 1 || len(s.sizes) > 15 {
			t.Errorf("writes of %d bytes", s.sizes)
		}
	})
}

// Lines are in order, whoever records beside, and none is lost.
func TestLinesAreInOrder(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	l, err := New(Config{Format: JSON, File: path, Buffer: 64 << 20, Every: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(l)
	const clients, requests = 8, 2000
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := range requests {
				l.Record(numbered(uint16(40000+2*c), i))
				if i%500 == 0 {
					l.Reopen()
				}
			}
		})
	}
	wg.Wait()
	stop()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	checkLines(t, string(text), clients*requests)
	next := map[uint16]int{}
	for s := range strings.Lines(string(text)) {
		var got struct {
			Port   uint16 `json:"client_port"`
			Target string
		}
		if err := json.Unmarshal([]byte(s), &got); err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("/%d", next[got.Port]); got.Target != want {
			t.Fatalf("client %d: %s, want %s", got.Port, got.Target, want)
		}
		next[got.Port]++
	}
	if w, d := l.Written(), l.Dropped(); w != clients*requests || d != 0 {
		t.Errorf("written %d, dropped %d", w, d)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path, moved := filepath.Join(dir, "access.log"), filepath.Join(dir, "access.log.1")
	if err := os.WriteFile(path, []byte("was there\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var logged bytes.Buffer
	l, err := New(Config{Format: JSON, File: path, Every: time.Millisecond, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	if err != nil {
		t.Fatal(err)
	}
	stop := run(l)
	l.Record(numbered(1, 0))
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	l.Reopen() // what is recorded so far goes to the old file
	waitFor(t, "the new file", func() bool { _, err := os.Stat(path); return err == nil })
	l.Record(numbered(1, 1))
	waitFor(t, "the second line", func() bool { return l.Written() == 2 })

	// If there is no way to open it, the old one stays in use.
	gone := dir + ".gone"
	if err := os.Rename(dir, gone); err != nil {
		t.Fatal(err)
	}
	l.Reopen()
	waitFor(t, "the failure", func() bool { return len(l.reopen) == 0 })
	l.Record(numbered(1, 2))
	stop()
	if err := os.Rename(gone, dir); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(logged.String(), "the file in use stays") {
		t.Errorf("logged %q", logged.String())
	}
	for name, want := range map[string]string{moved: "was there\n" + line(numbered(1, 0)), path: line(numbered(1, 1)) + line(numbered(1, 2))} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s has %q (%v), want %q", filepath.Base(name), got, err, want)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("the new file has mode %v (%v), want at most 0640", info.Mode(), err)
	}
}

func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("waited for %s", what)
		}
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	t.Parallel()
	null := os.DevNull
	for _, row := range []struct {
		name   string
		config Config
		want   string
	}{
		{"no format", Config{File: null}, `access log: format is "", want json or combined`},
		{"another format", Config{File: null, Format: "off"}, `access log: format is "off", want json or combined`},
		{"too small", Config{File: null, Format: JSON, Buffer: 1 << 10}, fmt.Sprintf("access log: buffer is 1024 bytes, want 0 (the default) or at least %d", 2*maxLine)},
		{"negative", Config{File: null, Format: JSON, Buffer: -1}, fmt.Sprintf("access log: buffer is -1 bytes, want 0 (the default) or at least %d", 2*maxLine)},
		{"negative time", Config{File: null, Format: JSON, Every: -1}, "access log: time between writes is -1ns, want 0 (the default) or more"},
		{"no folder", Config{File: "/nonexistent/access.log", Format: JSON}, "access log: open /nonexistent/access.log: no such file or directory"},
	} {
		if _, err := New(row.config); err == nil || err.Error() != row.want {
			t.Errorf("%s: error is %v, want %s", row.name, err, row.want)
		}
	}
	if l, err := New(Config{Format: Combined, File: null, Buffer: 2 * maxLine}); err != nil {
		t.Error(err)
	} else {
		l.out.close()
	}
}

// child is a process with its standard output as the log, whose reader leaves.
func child() {
	l, err := New(Config{Format: JSON, Every: time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	stop := run(l)
	l.Record(numbered(1, 0))
	for l.Dropped() == 0 {
		time.Sleep(time.Millisecond)
		l.Record(numbered(1, 1))
	}
	stop()
	fmt.Fprintln(os.Stderr, "still there")
}

// The end of the log's reader, such as a log shipper, is not the node's.
func TestTheReaderOfThePipeMayLeave(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no SIGPIPE")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "ACCESSLOG_TEST_CHILD=1")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || first != line(numbered(1, 0)) {
		t.Errorf("first line is %q (%v)", first, err)
	}
	out.(io.Closer).Close()
	if err := cmd.Wait(); err != nil || stderr.String() != "still there\n" {
		t.Errorf("ended with %v: %s", err, stderr.String())
	}
}
