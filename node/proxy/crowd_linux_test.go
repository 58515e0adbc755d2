package proxy

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// onEars has f run for the ear of each loop, on the loop.
func onEars(t *testing.T, r *rig, f func(e *ear)) {
	t.Helper()
	r.Proxy.mu.Lock()
	workers := r.Proxy.workers
	r.Proxy.mu.Unlock()
	for _, w := range workers {
		eventually(t, func() (is bool) {
			ran := make(chan struct{})
			if !w.loop.Post(func() {
				defer close(ran)
				if is = len(w.ears) > 0; is {
					f(w.ears[0])
				}
			}) {
				t.Fatal("the loop has ended")
			}
			<-ran
			return is
		})
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
	var c *peer
	for kept := false; !kept; { // by the ear that it is for, unless the crowd was over too soon
		onEars(t, r, func(e *ear) { e.pretendCrowd(t) })
		c = r.dial()
		kept = true
		onEars(t, r, func(e *ear) { kept = kept && e.crowd.here })
	}
	done := make(chan error)
	go func() { done <- r.Drain(context.Background()) }()
	time.Sleep(5 * queueTime) // an empty queue would be closed by then
	c.send(get)
	contains(t, "answer", c.rest(), " 200 ", "\r\nConnection: close\r\n")
	if err := <-done; err != nil {
		t.Errorf("Drain: %v", err)
	}
}

// TestAnAnswerIsNotLostToUnreadBytes: a client that sends more than its last request, as an
// empty line after a body, has its answer nevertheless.
func TestAnAnswerIsNotLostToUnreadBytes(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := loops(t, Config{}, definitions{"backends/a": o.backend()})
	for range 10 {
		c := r.dial()
		c.send("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc")
		b := o.accept()
		b.head()
		c.send("\r\n")
		time.Sleep(time.Millisecond)
		b.send(okay)
		b.Close()
		contains(t, "answer", c.rest(), " 200 ", "hello")
	}
}

// TestLongAnswersToAPacedSocket are whole, whatever the system's congestion control is.
func TestLongAnswersToAPacedSocket(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 200_000)
	o := newOrigin(t)
	o.serve("HTTP/1.1 200 OK\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n\r\n" + body)
	r := loops(t, Config{}, definitions{"backends/a": o.backend()})
	contains(t, "answer", r.exchange(last), " 200 ")
	onEars(t, r, func(e *ear) {
		if err := unix.SetsockoptString(e.source.FD(), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr"); err != nil {
			t.Logf("this system does not pace: %v", err)
		}
	})
	for range 3 {
		if _, got, _ := strings.Cut(r.exchange(last), "\r\n\r\n"); got != body {
			t.Errorf("%d bytes, want the %d that were sent", len(got), len(body))
		}
	}
}
