package bench

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"roster/e2e/harness"
	"roster/e2e/harness/proc"
)

// cpu is the CPU time, user and system, that a process has used so far, of all its
// threads.
func cpu(b testing.TB, pid int) time.Duration {
	b.Helper()
	user, system, err := proc.CPU(pid)
	if err != nil {
		b.Fatal(err)
	}
	return user + system
}

// memory is what a node holds once its garbage is collected and returned, in bytes.
type memory struct {
	RSS   int64 // resident
	InUse int64 // spans of the heap that hold at least one object
	Live  int64 // objects of the heap
}

// settled collects a node's garbage and waits until its resident memory no longer
// falls: Go returns it to the system little by little, at one percent of a core.
func settled(b testing.TB, n *harness.Node) memory {
	b.Helper()
	const (
		pause = 500 * time.Millisecond
		still = 10 // looks in a row that found no less
		looks = 120
	)
	heap := collect(b, n)
	rss, _ := n.Memory()
	for calm, i := 0, 0; calm < still && i < looks; i++ {
		time.Sleep(pause)
		now, _ := n.Memory()
		if now < rss-rss/200 {
			rss, calm = now, 0
		} else {
			calm++
		}
	}
	rss, _ = n.Memory()
	return memory{RSS: rss, InUse: heap["HeapInuse"], Live: heap["HeapAlloc"]}
}

// collect makes a node collect its garbage and returns Go's runtime.MemStats of it.
func collect(b testing.TB, n *harness.Node) map[string]int64 {
	b.Helper()
	n.Collect()
	stats := map[string]int64{}
	for line := range strings.Lines(n.AdminGet("/debug/pprof/heap?gc=1&debug=1").Body) {
		name, value, ok := strings.Cut(strings.TrimSpace(strings.TrimPrefix(line, "#")), " = ")
		value, _, _ = strings.Cut(value, " / ") // in use, of what was taken from the system
		if v, err := strconv.ParseInt(value, 10, 64); ok && err == nil {
			stats[name] = v
		}
	}
	if stats["HeapAlloc"] == 0 {
		b.Fatal("no HeapAlloc in /debug/pprof/heap?debug=1")
	}
	return stats
}

// pin lets a process run only on some cores, a list as taskset takes it.
func pin(b testing.TB, pid int, cores string) {
	b.Helper()
	out, err := exec.Command("taskset", "-a", "-c", "-p", cores, strconv.Itoa(pid)).CombinedOutput()
	if err != nil {
		b.Fatalf("taskset: %v\n%s", err, out)
	}
}

// separate gives the node core 0 for itself, and this process and etcd core 1, until
// the benchmark ends. It skips where that cannot be.
func separate(b testing.TB, etcd, node int) {
	b.Helper()
	if _, err := exec.LookPath("taskset"); err != nil || runtime.NumCPU() < 2 {
		b.Skipf("two cores and taskset are needed: %d cores, %v", runtime.NumCPU(), err)
	}
	all := fmt.Sprintf("0-%d", runtime.NumCPU()-1)
	b.Cleanup(func() { pin(b, os.Getpid(), all) })
	pin(b, node, "0")
	pin(b, etcd, "1")
	pin(b, os.Getpid(), "1")
}

// needProc skips where there is no /proc of Linux's kind.
func needProc(b testing.TB) {
	b.Helper()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		b.Skipf("CPU times and memory come from Linux's /proc: %v", err)
	}
}

// samples are durations of one thing.
type samples []time.Duration

// report adds quantiles to a benchmark's result, in microseconds.
func (s samples) report(b *testing.B, name string) {
	b.Helper()
	if len(s) == 0 {
		b.Fatalf("no samples of %s", name)
	}
	slices.Sort(s)
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	b.ReportMetric(us(s.quantile(0.50)), name+"-p50-us")
	b.ReportMetric(us(s.quantile(0.99)), name+"-p99-us")
	b.ReportMetric(us(s[len(s)-1]), name+"-max-us")
}

// quantile is the smallest sample that a share q of all is not above; s is sorted.
func (s samples) quantile(q float64) time.Duration {
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
