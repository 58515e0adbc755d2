package harness_test

import (
	"testing"

	"roster/e2e/harness"
)

func TestLoopSeesOriginsComeAndGo(t *testing.T) {
	t.Parallel()
	origin := harness.StartOrigin(t, "web-1")
	loop := harness.StartLoop(t, "http://"+origin.Address()+"/", 2)
	loop.WaitOrigin("web-1")
	origin.Stop()
	loop.WaitRequests(10)
	if c := loop.Counts(); c.Errors == 0 {
		t.Errorf("no errors from a stopped origin: %+v", c)
	}
	origin.Start()
	loop.WaitOrigin("web-1")
	c := loop.Stop()
	if c.Failed() != c.Errors || c.Requests != c.Errors+c.Origins["web-1"] {
		t.Errorf("counts do not add up: %+v", c)
	}
	origin.WaitConnections(0)
}

func TestOriginHoldsAndReleases(t *testing.T) {
	t.Parallel()
	origin := harness.StartOrigin(t, "web-1")
	loop := harness.StartLoop(t, "http://"+origin.Address()+"/hold", 3)
	origin.WaitHeld(3)
	if c := loop.Counts(); c.Requests != 0 {
		t.Errorf("held requests were answered: %+v", c)
	}
	origin.Release()
	loop.WaitRequests(3)
	if c := loop.Stop(); c.Failed() != 0 {
		t.Errorf("failures: %+v", c)
	}
}
