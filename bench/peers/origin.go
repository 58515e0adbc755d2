//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The origin is as small as can be, so that a proxy in front of it is what limits: one
// loop over epoll, a read and a write for each request. It knows the paths /1k, /64k and
// /1m, answers anything else with a few bytes, and takes no chunked request.
type origin struct {
	epoll    int
	listener int
	conns    []*conn // by descriptor
	small    answer
	answers  map[string]answer
	in       []byte
}

// answer is what is sent: head, and a body that is a file in memory, so that it is
// never copied here, or a part of head.
type answer struct {
	head []byte
	file int // 0: none
	size int64
}

// conn is one connection of a proxy's.
type conn struct {
	begun  bool   // something was read
	unread []byte // of an incomplete head
	body   int    // bytes of a request that are still to come
	head   []byte // still to be sent
	file   int
	from   int64
	to     int64
	waits  bool // for room to send
}

// runOrigin serves at a port of the loopback interface, at all of its addresses, until
// it gets a signal.
func runOrigin(port int) error {
	runtime.LockOSThread()
	o, err := newOrigin(port)
	if err != nil {
		return err
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ended
		os.Exit(0)
	}()
	return o.serve()
}

func newOrigin(port int) (*origin, error) {
	o := &origin{answers: map[string]answer{}, in: make([]byte, 64<<10)}
	o.small.head = []byte(originHead(3) + "ok\n")
	for path, size := range map[string]int{"/1k": 1 << 10, "/64k": 64 << 10, "/1m": 1 << 20} {
		body := bytes.Repeat([]byte("x"), size)
		a := answer{head: []byte(originHead(size))}
		if size <= 1<<10 {
			a.head = append(a.head, body...)
		} else {
			file, err := unix.MemfdCreate("body", unix.MFD_CLOEXEC)
			if err != nil {
				return nil, os.NewSyscallError("memfd_create", err)
			}
			if _, err := unix.Pwrite(file, body, 0); err != nil {
				return nil, os.NewSyscallError("pwrite", err)
			}
			a.file, a.size = file, int64(size)
		}
		o.answers[path] = a
	}
	var err error
	if o.listener, err = listenLoopback(port); err != nil {
		return nil, err
	}
	if o.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	return o, o.watch(unix.EPOLL_CTL_ADD, o.listener, unix.EPOLLIN)
}

func originHead(size int) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nServer: tiny\r\nDate: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n",
		time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"), size)
}

// listenLoopback listens at all addresses of 127.0.0.0/8, and nowhere else.
func listenLoopback(port int) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // inherited by what is accepted
	if err := unix.BindToDevice(fd, "lo"); err != nil {
		return 0, os.NewSyscallError("bind to the loopback interface", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: port}); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	return fd, os.NewSyscallError("listen", unix.Listen(fd, 4096))
}

func (o *origin) watch(op, fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(o.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (o *origin) serve() error {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(o.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return os.NewSyscallError("epoll_wait", err)
		}
		for _, e := range events[:max(n, 0)] {
			fd := int(e.Fd)
			if fd == o.listener {
				o.accept()
				continue
			}
			if !o.turn(fd, o.conns[fd]) {
				unix.Close(fd)
				o.conns[fd] = nil
			}
		}
	}
}

func (o *origin) accept() {
	for {
		fd, _, err := unix.Accept4(o.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		for fd >= len(o.conns) {
			o.conns = append(o.conns, nil)
		}
		o.conns[fd] = &conn{}
		o.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN)
	}
}

// turn does what can be done for a connection, and is false if it is to be closed.
func (o *origin) turn(fd int, c *conn) bool {
	if c.waits {
		if !c.send(fd) {
			return false
		}
		if c.sending() {
			return true
		}
		c.waits = false
		o.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLIN)
	}
	n, err := unix.Read(fd, o.in)
	if err == unix.EAGAIN {
		return true
	}
	if err != nil || n == 0 {
		return false
	}
	in := o.in[:n]
	if !c.begun {
		c.begun = true
		if bytes.HasPrefix(in, []byte("\r\n\r\n\x00\r\nQUIT\n")) && len(in) >= 16 { // a PROXY header comes in one piece
			in = in[min(16+int(in[14])<<8+int(in[15]), len(in)):]
		}
	}
	if len(c.unread) > 0 {
		in = append(c.unread, in...)
		c.unread = nil
	}
	for len(in) > 0 {
		if c.body > 0 {
			n := min(c.body, len(in))
			in, c.body = in[n:], c.body-n
			continue
		}
		end := bytes.Index(in, []byte("\r\n\r\n"))
		if end < 0 {
			c.unread = bytes.Clone(in)
			return len(in) < 64<<10
		}
		if c.sending() {
			return false // pipelined: no proxy here does that
		}
		a, length, ok := o.find(in[:end])
		if !ok {
			return false
		}
		in, c.body = in[end+4:], length
		c.head, c.file, c.from, c.to = a.head, a.file, 0, a.size
	}
	if c.body > 0 || !c.sending() {
		return true
	}
	if !c.send(fd) {
		return false
	}
	if c.sending() {
		c.waits = true
		o.watch(unix.EPOLL_CTL_MOD, fd, unix.EPOLLOUT)
	}
	return true
}

// find is the answer to a request, and the length of the request's body.
func (o *origin) find(head []byte) (a answer, length int, ok bool) {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	_, rest, _ := bytes.Cut(line, []byte(" "))
	path, _, _ := bytes.Cut(rest, []byte(" "))
	a, known := o.answers[string(path)]
	if !known {
		a = o.small
	}
	for len(fields) > 0 && line[0] == 'P' {
		var field []byte
		field, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(field, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.Atoi(string(bytes.TrimSpace(value)))
			if err != nil {
				return a, 0, false
			}
			length = n
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			return a, 0, false
		}
	}
	return a, length, true
}

func (c *conn) sending() bool { return len(c.head) > 0 || c.from < c.to }

// send sends what the socket takes, and is false if it is broken.
func (c *conn) send(fd int) bool {
	if len(c.head) > 0 {
		flags := unix.MSG_NOSIGNAL
		if c.from < c.to {
			flags |= unix.MSG_MORE
		}
		n, err := unix.SendmsgN(fd, c.head, nil, nil, flags)
		if err == unix.EAGAIN {
			return true
		}
		if err != nil {
			return false
		}
		c.head = c.head[n:]
	}
	for len(c.head) == 0 && c.from < c.to {
		if _, err := unix.Sendfile(fd, c.file, &c.from, int(c.to-c.from)); err == unix.EAGAIN {
			return true
		} else if err != nil {
			return false
		}
	}
	return true
}
