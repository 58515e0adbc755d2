package accesslog

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("ACCESSLOG_TEST_CHILD") != "" {
		child()
		return
	}
	goleak.VerifyTestMain(m)
}
