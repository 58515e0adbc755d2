package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Urgent data is no part of the stream, but a read ends before it, whatever follows. (If
// more comes before it is read past, the system takes the first for a part of the stream.)

// urge sends a byte of it.
func (p *peer) urge() {
	p.t.Helper()
	raw, err := p.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		p.t.Error(err)
		return
	}
	raw.Control(func(fd uintptr) {
		if err := unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil); err != nil && err != unix.EAGAIN {
			p.t.Errorf("urgent data: %v", err)
		}
	})
}

// TestUrgentData: who sends it has what is around it served as anybody's.
func TestUrgentData(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{}, definitions{"backends/a": o.backend()})
	c := r.dial()
	for range 3 {
		c.send("POST / HTTP/1.1\r\nHo")
		c.urge()
		c.send("st: h\r\nContent-Length: 6\r\n\r\n")
		b := o.accept()
		b.head()
		c.send("ab")
		c.urge()
		c.send("cdef" + get)
		expect(t, "body", b.take(6), "abcdef")
		b.send("HTTP/1.1 200 OK\r\nContent-")
		b.urge()
		b.send("Length: 5\r\n\r\nh")
		contains(t, "answer", c.head(), " 200 ")
		expect(t, "answer's body", c.take(1), "h")
		b.send("e")
		b.urge()
		b.send("llo")
		expect(t, "answer's body", c.take(4), "ello")
		b.head()
		b.send("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
		contains(t, "second answer", c.head(), " 204 ")
		expect(t, "the backend's end", b.rest(), "")
	}
}

// TestUrgentDataInLongBodies: an answer that is moved within the kernel arrives whole, or
// is visibly cut where the system gets no further; others are served beside it.
func TestUrgentDataInLongBodies(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{}, definitions{
		"backends/a": o.backend(`"between_bytes_timeout": "300ms"`),
	})
	const size = 4 << 20
	body := strings.Repeat("0123456789abcdef", size/16)
	c := r.dial()
	c.send("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	b := o.accept()
	b.head()
	go func() {
		b.send("HTTP/1.1 200 OK\r\nContent-Length: 4194304\r\n\r\n")
		b.Write([]byte(body[:size/2]))
		b.urge()
		b.Write([]byte(body[size/2:]))
	}()
	contains(t, "answer", c.head(), " 200 ")
	got, err := io.ReadAll(c.r)
	b.Close()
	if !strings.HasPrefix(body, string(got)) {
		t.Errorf("%d bytes, and not those that were sent", len(got))
	}
	if testLoops > 0 && len(got) < size {
		t.Errorf("%d bytes with loops, then %v, want all", len(got), err)
	}
}

// TestUrgentDataInLongUploads: so does a request's body.
func TestUrgentDataInLongUploads(t *testing.T) {
	t.Parallel()
	o := newOrigin(t)
	r := newRig(t, Config{BodyTimeout: time.Second}, definitions{"backends/a": o.backend()})
	const size = 4 << 20
	body := strings.Repeat("0123456789abcdef", size/16)
	c := r.dial()
	go func() {
		c.send("POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 4194304\r\n\r\n")
		c.Write([]byte(body[:size/2]))
		c.urge()
		c.Write([]byte(body[size/2:]))
	}()
	b := o.accept()
	b.head()
	got, err := io.ReadAll(io.LimitReader(b.r, size))
	if !strings.HasPrefix(body, string(got)) {
		t.Errorf("%d bytes, and not those that were sent", len(got))
	}
	if testLoops > 0 && len(got) < size {
		t.Errorf("%d bytes with loops, then %v, want all", len(got), err)
	}
}
