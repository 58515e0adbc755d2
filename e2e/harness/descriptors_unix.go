//go:build unix

package harness

import (
	"syscall"
	"testing"
)

// NeedDescriptors raises the limit of open files, of this process and those it starts
// from now on, to n at least. It skips the test where that is not allowed.
func NeedDescriptors(t testing.TB, n int) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	need := uint64(n)
	if limit.Cur >= need {
		return // and Go raises a child's to the hard limit
	}
	want := limit
	want.Cur, want.Max = need, max(need, limit.Max)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		Lack(t, "%d open files are needed, at most %d are allowed: %v", n, limit.Max, err)
	}
}
