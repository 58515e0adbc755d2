package node

import (
	"testing"
	"testing/synctest"
)

// A new process is not kept from what two cannot share by a disk that hangs.
func TestTheSnapshotOfADiskThatHangsIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		defer close(hangs)
		if within(cedeLimit, func() { <-hangs }) {
			t.Error("it returned")
		}
		if !within(cedeLimit, func() {}) {
			t.Error("what returns at once is taken to hang")
		}
	})
}
