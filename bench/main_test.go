package bench

import (
	"os"
	"testing"

	"roster/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
