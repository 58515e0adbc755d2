package harness

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// RequireAll reports whether no test may be skipped for what the machine lacks:
// ROSTER_REQUIRE_ALL is 1, as CI has it.
func RequireAll() bool { return os.Getenv("ROSTER_REQUIRE_ALL") == "1" }

// Long reports whether tests that have a long form run that: ROSTER_E2E_LONG is 1, as
// make e2e-long has it.
func Long() bool { return os.Getenv("ROSTER_E2E_LONG") == "1" }

// Require skips the test if one of the programs is not on the path, and fails it if
// nothing may be skipped.
func Require(t testing.TB, programs ...string) {
	t.Helper()
	var missing []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		Lack(t, "not installed: %s", strings.Join(missing, ", "))
	}
}

// Lack skips the test because the machine lacks something, and fails it if nothing
// may be skipped.
func Lack(t testing.TB, format string, args ...any) {
	t.Helper()
	if RequireAll() {
		t.Fatalf(format+" (and ROSTER_REQUIRE_ALL is 1)", args...)
	}
	t.Skipf(format, args...)
}
