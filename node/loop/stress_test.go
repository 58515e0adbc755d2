//go:build linux

package loop

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A careful echoes what it reads, whatever the calls say: through memory or, if it
// has a pipe, through that.
type careful struct {
	Source
	l        *Loop
	pipe     *Pipe
	buf      [512]byte
	from, to int
	readable bool
	writable bool
	ended    bool
	open     *atomic.Int32
}

func (c *careful) Ready(e Events) {
	c.readable = c.readable || e&(In|Hup|Err) != 0
	c.writable = c.writable || e&(Out|Hup|Err) != 0
	for range 4 {
		var err error
		switch {
		case c.writable && c.held() > 0:
			if err = c.write(); err == ErrAgain {
				c.writable = false
			}
		case c.readable && c.held() == 0 && !c.ended:
			err = c.read()
			switch err {
			case ErrAgain:
				c.readable = false
			case io.EOF:
				c.ended, err = true, nil
			}
		case c.ended && c.held() == 0:
			err = io.EOF
		default:
			return
		}
		if err != nil && err != ErrAgain {
			c.close(err)
			return
		}
	}
	c.l.Again(&c.Source)
}

func (c *careful) held() int {
	if c.pipe != nil {
		return c.pipe.Held()
	}
	return c.to - c.from
}

func (c *careful) read() (err error) {
	if c.pipe != nil {
		_, err = c.l.Fill(c.pipe, c.FD(), len(c.buf))
		return err
	}
	c.from = 0
	c.to, err = c.l.Read(c.FD(), c.buf[:])
	return err
}

func (c *careful) write() error {
	if c.pipe != nil {
		_, err := c.l.Drain(c.pipe, c.FD())
		return err
	}
	left := c.buf[c.from:c.to]
	n, err := c.l.Writev(c.FD(), left[:len(left)/2], nil, left[len(left)/2:])
	c.from += n
	return err
}

func (c *careful) close(err error) {
	if c.pipe != nil {
		c.l.PutPipe(c.pipe)
	}
	if err == io.EOF {
		c.l.Close(&c.Source)
	} else {
		c.l.Reset(&c.Source)
	}
	c.open.Add(-1)
}

// With faults at any call, what a client gets back is what it sent, or the
// beginning of that and an error; no descriptor is closed twice, and none is left.
func TestEchoWithFaults(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2)) // of the loop's thread
	owned := map[int]bool{}
	var ours [2]atomic.Int32 // faults that were let happen: slow and fatal
	c := Config{Faults: func(op Op, fd, n int) (int, syscall.Errno) {
		switch op {
		case OpAdd:
			if owned[fd] {
				t.Errorf("descriptor %d is added while it is open", fd)
			}
			owned[fd] = true
			return n, 0
		case OpClose:
			if !owned[fd] {
				t.Errorf("descriptor %d is closed, and is not open", fd)
			}
			delete(owned, fd)
			return n, 0
		}
		if fd >= 0 && op != OpAccept && !owned[fd] {
			t.Errorf("descriptor %d is used and is not open", fd)
		}
		switch k := random.IntN(1000); {
		case k < 100:
			ours[0].Add(1)
			return n, syscall.EINTR
		case k < 400 && n > 1:
			ours[0].Add(1)
			return 1 + random.IntN(n-1), 0
		case k < 401:
			ours[1].Add(1)
			return n, syscall.ECONNRESET
		case k < 402:
			ours[1].Add(1)
			return n, syscall.EPIPE
		}
		return n, 0
	}}
	l := start(t, c)
	fd, address := listen(t)
	var open atomic.Int32
	a := &careless{l: l, open: &open}
	do(t, l, func() {
		if err := l.Add(&a.Source, fd, a, Level); err != nil {
			t.Error(err)
		}
	})
	var whole, broken atomic.Int32
	var g sync.WaitGroup
	for i := range 8 {
		g.Go(func() {
			random := rand.New(rand.NewPCG(3, uint64(i)))
			for range 40 {
				sent := make([]byte, 1+random.IntN(30_000))
				for i := range sent {
					sent[i] = byte(random.Uint32())
				}
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				go func() {
					c.Write(sent)
					c.(*net.TCPConn).CloseWrite()
				}()
				got, err := io.ReadAll(c)
				c.Close()
				if !bytes.HasPrefix(sent, got) || err == nil && len(got) < len(sent) {
					t.Errorf("sent %d bytes, received %d others, %v", len(sent), len(got), err)
				}
				if err == nil {
					whole.Add(1)
				} else {
					broken.Add(1)
				}
			}
		})
	}
	g.Wait()
	do(t, l, func() { l.Close(&a.Source) })
	if n := open.Load(); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	do(t, l, func() {
		if len(owned) != 0 {
			t.Errorf("descriptors are left open: %v", owned)
		}
	})
	if whole.Load() == 0 || broken.Load() == 0 || ours[0].Load() == 0 {
		t.Errorf("%d connections went well, %d did not, with %d small faults and %d others: too few of one",
			whole.Load(), broken.Load(), ours[0].Load(), ours[1].Load())
	}
}

// A careless accepts, whatever accept says.
type careless struct {
	Source
	l     *Loop
	count int
	open  *atomic.Int32
}

func (a *careless) Ready(Events) {
	fd, _, err := a.l.Accept(a.FD())
	if err != nil {
		return
	}
	c := &careful{l: a.l, open: a.open}
	if a.count++; a.count%2 == 0 {
		if c.pipe, err = a.l.Pipe(); err != nil {
			c.pipe = nil
		}
	}
	a.open.Add(1)
	if err := a.l.Add(&c.Source, fd, c, Edge); err != nil {
		panic(err)
	}
}

// Connections that wander between loops by Steal under load lose no byte.
func TestStealUnderLoad(t *testing.T) {
	t.Parallel()
	loops := [2]*Loop{start(t, Config{}), start(t, Config{})}
	const rounds = 300
	var g sync.WaitGroup
	for range 4 {
		a, b := tcpPair(t)
		// The descriptor has a Source in each loop, as an owner's two structs.
		var at [2]*relay
		for i := range at {
			at[i] = &relay{l: loops[i]}
		}
		do(t, loops[0], func() {
			if err := loops[0].Add(&at[0].Source, b, at[0], Edge); err != nil {
				t.Error(err)
			}
		})
		g.Go(func() {
			buf := make([]byte, 1)
			for i := range rounds {
				if _, err := unix.Write(a, []byte{byte(i)}); err != nil {
					t.Error(err)
					return
				}
				// While the byte may be on its way through the one loop, the other takes
				// the connection.
				from, to := i%2, 1-i%2
				do(t, loops[from], func() { at[from].stopped = true })
				do(t, loops[to], func() {
					if err := Steal(loops[from], b); err != nil {
						t.Error(err)
					}
					at[to].stopped = false
					if err := loops[to].Add(&at[to].Source, b, at[to], Edge); err != nil {
						t.Error(err)
					}
				})
				do(t, loops[from], func() { loops[from].Forget(&at[from].Source) })
				if !readOne(t, a, buf) || buf[0] != byte(i) {
					t.Errorf("round %d: got %d", i, buf[0])
					return
				}
			}
			last := rounds % 2
			do(t, loops[last], func() { loops[last].Release(&at[last].Source) })
		})
	}
	g.Wait()
}

// readOne waits for a byte.
func readOne(t testing.TB, fd int, b []byte) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, 30_000); err != nil && err != unix.EINTR {
			t.Error(err)
			return false
		}
		n, err := unix.Read(fd, b)
		if err == unix.EAGAIN || err == unix.EINTR {
			if fds[0].Revents == 0 && err == unix.EAGAIN {
				t.Error("no byte came for 30 s")
				return false
			}
			continue
		}
		return n == 1
	}
}

// A relay echoes unless it has been told that the descriptor is another's.
type relay struct {
	Source
	l       *Loop
	stopped bool
}

func (r *relay) Ready(Events) {
	var b [1]byte
	for !r.stopped {
		n, err := r.l.Read(r.FD(), b[:])
		if err != nil {
			return
		}
		if _, err := r.l.Write(r.FD(), b[:n]); err != nil {
			return
		}
	}
}
