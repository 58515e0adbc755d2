package harness

import (
	"fmt"
	"os"
	"testing"

	"roster/e2e/harness/proc"
)

// NeedProc skips the test where memory cannot be read from Linux's /proc.
func NeedProc(t testing.TB) {
	t.Helper()
	if _, err := os.Stat("/proc/self/clear_refs"); err != nil {
		Lack(t, "memory is read from Linux's /proc: %v", err)
	}
}

// Memory is the process's resident memory in bytes: now, and at its highest since the
// start or ResetPeak.
func (p *Process) Memory() (now, peak int64) {
	p.t.Helper()
	now, peak, err := proc.Memory(p.Pid())
	if err != nil {
		p.t.Fatal(err)
	}
	return now, peak
}

// ResetPeak makes what is resident now the peak. Without the rights for that the peak
// stays what it was since the start.
func (p *Process) ResetPeak() {
	p.t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.Pid()), []byte("5"), 0); err != nil {
		p.t.Logf("the peak is counted from the start: %v", err)
	}
}

// Collect makes the node collect its garbage.
func (n *Node) Collect() {
	n.t.Helper()
	n.AdminGet("/debug/pprof/heap?gc=1")
}
