// Package proc is what tests and benchmarks know of a process from outside: its CPU
// time and memory, from Linux's /proc, and the last part of what it wrote. It needs
// no testing.TB, so that programs can use it, too.
package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// tick is the unit of CPU times in /proc: USER_HZ, which is 100 on every Linux that
// Go runs on.
const tick = 10 * time.Millisecond

// CPU is the CPU time that a process has used so far, of all its threads.
func CPU(pid int) (user, system time.Duration, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is the program's name in brackets, which may hold blanks.
	_, rest, _ := strings.Cut(string(stat), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, 0, fmt.Errorf("no CPU times in /proc/%d/stat: %s", pid, stat)
	}
	utime, err1 := strconv.Atoi(fields[11])
	stime, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	return time.Duration(utime) * tick, time.Duration(stime) * tick, nil
}

// Memory is a process's resident memory in bytes: now, and at its highest.
func Memory(pid int) (now, peak int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			now = kib << 10
		}
		if n, _ := fmt.Sscanf(line, "VmHWM: %d kB", &kib); n == 1 {
			peak = kib << 10
		}
	}
	return now, peak, nil
}

// Tail keeps the last part of what is written to it: at least Keep bytes, if there
// are as many, and at most twice that. It may be used by several goroutines.
type Tail struct {
	Keep int

	mu  sync.Mutex
	buf []byte
}

func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	if len(t.buf) > 2*t.Keep {
		t.buf = append(t.buf[:0], t.buf[len(t.buf)-t.Keep:]...)
	}
	return len(p), nil
}

func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
