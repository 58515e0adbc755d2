package node

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"
)

// closing closes the connections that the tests' client keeps.
type closing struct{ *testing.M }

func (m closing) Run() int {
	defer http.DefaultClient.CloseIdleConnections()
	return m.M.Run()
}

// No goroutine outlives the nodes of the tests.
func TestMain(m *testing.M) { goleak.VerifyTestMain(closing{m}) }
