package proxy

import (
	"context"
	"slices"
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

// listening is a rig whose loops have begun to listen, and of whose one backend all answers
// are the same.
func listening(t *testing.T, answer string) *rig {
	t.Helper()
	o := newOrigin(t)
	o.serve(answer)
	r := loops(t, Config{}, definitions{"backends/a": o.backend()})
	contains(t, "answer", r.exchange(last), " 200 ")
	return r
}

// pretend has it look as if so many connections came.
func (e *ear) pretend(connections int) {
	for range connections {
		e.count()
	}
}

// keeps says whether the socket keeps connections until they say something.
func (e *ear) keeps(t *testing.T) bool { return deferring(t, e.source.FD()) }

func deferring(t *testing.T, fd int) bool {
	seconds, err := unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT)
	if err != nil {
		t.Error(err)
	}
	return seconds != 0
}

// TestACrowdIsAcceptedWithItsFirstBytes, and who comes after it at once.
func TestACrowdIsAcceptedWithItsFirstBytes(t *testing.T) {
	t.Parallel()
	r := listening(t, okay) // one of the ears has had a connection
	onEars(t, r, func(e *ear) {
		e.pretend(crowdSize - 2)
		if e.crowd.here || e.keeps(t) {
			t.Error("a crowd too early")
		}
		e.pretend(crowdSize)
		if !e.keeps(t) {
			t.Error("a crowd is not seen")
		}
	})
	for range 3 {
		contains(t, "answer", r.exchange(last), " 200 ")
	}
	eventually(t, func() bool {
		over := true
		onEars(t, r, func(e *ear) { over = over && !e.keeps(t) && !e.crowd.here })
		return over
	})
}

// TestWhoWasSilentInACrowdIsServedByADrain: a connection that is made, but was kept by the
// system for it said nothing, is not lost when the listener is drained.
func TestWhoWasSilentInACrowdIsServedByADrain(t *testing.T) {
	t.Parallel()
	r := listening(t, okay)
	var c *peer
	for kept := false; !kept; { // by the ear that it is for, unless the crowd was over too soon
		onEars(t, r, func(e *ear) { e.pretend(crowdSize) })
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

// TestSocketsOfAKilledProcess do not go on keeping connections, if it was killed in a crowd.
func TestSocketsOfAKilledProcess(t *testing.T) {
	t.Parallel()
	r := loops(t, Config{}, nil)
	var ln Listener
	open(t, 2, &ln)
	var fds []int
	for _, s := range ln.Sockets {
		fd, err := s.FD()
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() { served <- r.Serve(ctx, ln) }()
	eventually(t, func() bool {
		return !slices.ContainsFunc(fds, func(fd int) bool { return deferring(t, fd) })
	})
	cancel()
	if err := <-served; err != nil {
		t.Errorf("Serve: %v", err)
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
		onEars(t, r, func(*ear) {}) // a turn of each loop
		b.send(okay)
		b.Close()
		contains(t, "answer", c.rest(), " 200 ", "hello")
	}
}

// TestLongAnswersToAPacedSocket are whole, whatever the system's congestion control is.
func TestLongAnswersToAPacedSocket(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 200_000)
	r := listening(t, "HTTP/1.1 200 OK\r\nContent-Length: "+strconv.Itoa(len(body))+"\r\n\r\n"+body)
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
