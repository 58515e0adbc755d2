package proxy

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onEars has f run for the first ear of each loop, on the loop.
func onEars(t *testing.T, r *rig, f func(e *ear)) {
	t.Helper()
	r.Proxy.mu.Lock()
	workers := r.Proxy.workers
	r.Proxy.mu.Unlock()
	for _, w := range workers {
		ran := make(chan struct{})
		if !w.loop.Post(func() { f(w.ears[0]); close(ran) }) {
			t.Fatal("the loop has ended")
		}
		<-ran
	}
}

// pretendCrowd has it look as if a crowd came, and returns what the socket does about it.
func (e *ear) pretendCrowd(t *testing.T) (seconds int) {
	for range crowdSize {
		e.count()
	}
	seconds, err := unix.GetsockoptInt(e.source.FD(), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT)
	if err != nil {
		t.Error(err)
	}
	return seconds
}

// TestACrowdIsAcceptedWithItsFirstBytes, and who comes after it at once.
func TestACrowdIsAcceptedWithItsFirstBytes(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.serve(okay)
	r := loops(t, Config{}, definitions{"backends/a": o.backend()})
	contains(t, "answer", r.exchange(last), " 200 ")
	onEars(t, r, func(e *ear) {
		for range crowdSize - 2 { // with the one above
			e.count()
		}
		if e.crowd.here {
			t.Error("a crowd too early")
		}
		if seconds := e.pretendCrowd(t); seconds == 0 {
			t.Error("a crowd is not seen")
		}
	})
	for range 3 {
		contains(t, "answer", r.exchange(last), " 200 ")
	}
	eventually(t, func() bool {
		over := true
		onEars(t, r, func(e *ear) {
			seconds, err := unix.GetsockoptInt(e.source.FD(), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT)
			over = over && err == nil && seconds == 0 && !e.crowd.here
		})
		return over
	})
}

// TestWhoWasSilentInACrowdIsServedByADrain: a connection that is made, but was kept by the
// system for it said nothing, is not lost when the listener is drained.
func TestWhoWasSilentInACrowdIsServedByADrain(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	o.serve(okay)
	r := loops(t, Config{}, definitions{"backends/a": o.backend()})
	contains(t, "answer", r.exchange(last), " 200 ") // the loops run
	onEars(t, r, func(e *ear) { e.pretendCrowd(t) })
	c := r.dial()
	done := make(chan error)
	go func() { done <- r.Drain(context.Background()) }()
	time.Sleep(5 * queueTime) // an empty queue would be closed by then
	c.send(get)
	contains(t, "answer", c.rest(), " 200 ", "\r\nConnection: close\r\n")
	if err := <-done; err != nil {
		t.Errorf("Drain: %v", err)
	}
}
