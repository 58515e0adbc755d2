package pool

import (
	"os"
	"testing"
)

// lack skips the test because the machine lacks something, and fails it where nothing
// may be skipped, as in CI.
func lack(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("ROSTER_REQUIRE_ALL") == "1" {
		t.Fatalf(format+" (and ROSTER_REQUIRE_ALL is 1)", args...)
	}
	t.Skipf(format, args...)
}
