package harness

import (
	"fmt"
	"testing"
	"time"
)

// WaitLimit bounds every wait of this package. It is far above what anything here
// needs (a ready node takes well under a second), so that only a fault reaches it,
// also with the race detector on a busy machine.
const WaitLimit = 30 * time.Second

// pollEvery is the pause between two looks at a state: short against what is waited
// for (a start, a watch event), long against the cost of a look (an HTTP request).
const pollEvery = 10 * time.Millisecond

// Until asks until check answers true, at most WaitLimit, and fails the test then,
// with what was waited for and the state that check saw last.
func Until(t testing.TB, what string, check func() (ok bool, state any)) {
	t.Helper()
	Within(t, WaitLimit, what, check)
}

// Within is Until with a limit of the test's own, for tests that promise a time.
func Within(t testing.TB, limit time.Duration, what string, check func() (ok bool, state any)) {
	t.Helper()
	if state, ok := poll(limit, check); !ok {
		t.Fatalf("waited %v for %s; last seen: %s", limit, what, describe(state))
	}
}

func poll(limit time.Duration, check func() (bool, any)) (state any, ok bool) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		ok, state = check()
		if ok {
			return state, true
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			return state, false
		}
	}
}

func describe(state any) string {
	switch s := state.(type) {
	case nil:
		return "nothing"
	case error:
		return s.Error()
	case string:
		return s
	}
	return fmt.Sprintf("%+v", state)
}
