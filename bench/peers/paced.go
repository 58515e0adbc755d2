//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// pacedLoad is the argument, before an order, that makes this program the generator of
// an open loop: it asks when a request is due, however long the answers before it take, and
// counts a request's time from when it was due. Neither wrk nor h2load does that: they ask
// again when they have an answer, so that a proxy that stops for a while is asked, and found
// late, only once a connection.
const pacedLoad = "-paced-load"

// An order is what the generator has to do.
type order struct {
	Address     string
	Path        string
	Connections int
	Seconds     float64
	Rate        float64 // requests a second, evenly; 0: each connection asks as soon as it has its answer
}

// paced is what it has seen; times are in microseconds.
type paced struct {
	Requests int     `json:"requests"`
	Rate     float64 `json:"requests_per_s"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	P999     float64 `json:"p999_us"`
	Late     float64 `json:"late_p99_us"`         // by how much the generator itself was late, of 99 %
	Ratio    float64 `json:"p99_ratio,omitempty"` // to HAProxy's in the same round
}

// asker is the generator: one thread, one epoll, and a timer for what is due.
type asker struct {
	order
	epoll   int
	timer   int
	request []byte
	conns   map[int32]*asking
	free    []*asking
	in      []byte

	began time.Time
	held  bool // something was due, and no connection free: that is not the generator's fault
	next  int  // number of the next request
	times []float64
	late  []float64
}

// asking is one connection.
type asking struct {
	fd   int
	due  time.Time // of the request that waits for its answer
	head []byte    // of an answer, as far as it is there
	left int       // bytes of the body that are missing; -1: the head is not complete
}

// runPaced does what text orders and writes what it has seen.
func runPaced(text string, out io.Writer) error {
	runtime.LockOSThread()
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	a, err := newAsker(o)
	if err != nil {
		return err
	}
	seen, err := a.run()
	if err != nil {
		return fmt.Errorf("after %d requests: %w", a.next, err)
	}
	return json.NewEncoder(out).Encode(seen)
}

func newAsker(o order) (*asker, error) {
	a := &asker{order: o, conns: map[int32]*asking{}, in: make([]byte, 256<<10),
		request: fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", o.Path, host),
		times:   make([]float64, 0, 1<<20), late: make([]float64, 0, 1<<20)}
	address, err := netip.ParseAddrPort(o.Address)
	if err != nil {
		return nil, err
	}
	if a.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	for range o.Connections {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()}); err != nil {
			return nil, os.NewSyscallError("connect", err)
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		unix.SetNonblock(fd, true)
		c := &asking{fd: fd}
		a.conns[int32(fd)] = c
		a.free = append(a.free, c)
		if err := a.watch(fd, unix.EPOLLIN); err != nil {
			return nil, err
		}
	}
	if a.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("timerfd_create", err)
	}
	return a, a.watch(a.timer, unix.EPOLLIN)
}

func (a *asker) watch(fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(a.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

// patience is how long answers may take after the last request was due.
const patience = 10 * time.Second

func (a *asker) run() (seen paced, err error) {
	gap := time.Second // the timer's; it also ends a run without a rate
	if a.Rate > 0 {
		gap = time.Duration(float64(time.Second) / a.Rate)
	}
	each := unix.NsecToTimespec(gap.Nanoseconds())
	if err := unix.TimerfdSettime(a.timer, 0, &unix.ItimerSpec{Interval: each, Value: each}, nil); err != nil {
		return seen, os.NewSyscallError("timerfd_settime", err)
	}
	a.began = time.Now()
	end := a.began.Add(time.Duration(a.Seconds * float64(time.Second)))
	events := make([]unix.EpollEvent, 256)
	for {
		more, err := a.askDue(end)
		if err != nil {
			return seen, err
		}
		if !more && len(a.free) == len(a.conns) {
			break
		}
		n, err := unix.EpollWait(a.epoll, events, 1000)
		if err != nil && err != unix.EINTR {
			return seen, os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd == int32(a.timer) {
				var times [8]byte
				unix.Read(a.timer, times[:]) // or it would not expire again
			}
			if c := a.conns[e.Fd]; c != nil {
				if err := a.receive(c); err != nil {
					return seen, err
				}
			}
		}
		if time.Since(end) > patience {
			return seen, fmt.Errorf("%d requests have no answer after %v", len(a.conns)-len(a.free), patience)
		}
	}
	seen.Requests = len(a.times)
	seen.Rate = float64(len(a.times)) / time.Since(a.began).Seconds()
	slices.Sort(a.times)
	slices.Sort(a.late)
	seen.P50, seen.P99, seen.P999, seen.Late = share(a.times, 0.5), share(a.times, 0.99), share(a.times, 0.999), share(a.late, 0.99)
	return seen, nil
}

// share is what a share of times, in ascending order, is at most.
func share(times []float64, of float64) float64 {
	if len(times) == 0 {
		return 0
	}
	return times[min(int(of*float64(len(times))), len(times)-1)]
}

// askDue sends what is due, as far as connections are free, and says whether there is more
// to come before end.
func (a *asker) askDue(end time.Time) (more bool, err error) {
	entered, held := time.Now(), a.held
	for {
		now := time.Now()
		due := now
		if a.Rate > 0 {
			due = a.began.Add(time.Duration(float64(a.next) / a.Rate * float64(time.Second)))
		}
		if !due.Before(end) {
			return false, nil
		}
		if a.held = !due.After(now) && len(a.free) == 0; a.held || due.After(now) {
			return true, nil
		}
		c := a.free[len(a.free)-1]
		a.free = a.free[:len(a.free)-1]
		c.due, c.left, c.head = due, -1, c.head[:0]
		if n, err := unix.Write(c.fd, a.request); err != nil || n < len(a.request) {
			return true, fmt.Errorf("%d of %d bytes of a request were sent: %w", n, len(a.request), err)
		}
		a.next++
		if !held || due.After(entered) {
			a.late = append(a.late, micros(now.Sub(due)))
		}
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// receive takes what there is of an answer.
func (a *asker) receive(c *asking) error {
	n, err := unix.Read(c.fd, a.in)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil:
		return os.NewSyscallError("read", err)
	case n == 0:
		return errors.New("the proxy closed a connection")
	}
	in := a.in[:n]
	if c.left < 0 {
		c.head = append(c.head, in...)
		end := bytes.Index(c.head, []byte("\r\n\r\n"))
		if end < 0 {
			return nil
		}
		length, err := bodyLength(c.head[:end])
		if err != nil {
			return err
		}
		c.left, in = length, c.head[end+4:]
	}
	if c.left -= len(in); c.left > 0 {
		return nil
	}
	if c.left < 0 || c.due.IsZero() {
		return errors.New("an answer nobody asked for")
	}
	a.times = append(a.times, micros(time.Since(c.due)))
	c.due = time.Time{}
	a.free = append(a.free, c)
	return nil
}

// bodyLength is the length of the body that a head announces; only a 200 has one here.
func bodyLength(head []byte) (int, error) {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
		return 0, fmt.Errorf("answered %q", line)
	}
	for len(fields) > 0 {
		var field []byte
		field, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		if name, value, _ := bytes.Cut(field, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, fmt.Errorf("an answer without a length: %q", head)
}
