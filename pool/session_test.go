package pool

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"roster/store"
)

// fakeSession is a Session whose exchanges are a number.
type fakeSession struct {
	conn *Conn

	mu     sync.Mutex
	places int
	active int
	away   bool
	ended  bool
	done   chan struct{}
}

func (s *fakeSession) Reserve() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away || s.ended || s.active >= s.places {
		return false
	}
	s.active++
	return true
}

// Unreserve is also the end of an exchange.
func (s *fakeSession) Unreserve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == 0 {
		panic("Unreserve without Reserve")
	}
	s.active--
	s.endLocked(s.away && s.active == 0)
}

func (s *fakeSession) Active() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

func (s *fakeSession) Done() <-chan struct{} { return s.done }

func (s *fakeSession) GoAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = true
	s.endLocked(s.active == 0)
}

func (s *fakeSession) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endLocked(true)
}

func (s *fakeSession) endLocked(end bool) {
	if end && !s.ended {
		s.ended = true
		s.conn.Close()
		close(s.done)
	}
}

func (s *fakeSession) isAway() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

// starter makes fake sessions of a number of places and keeps them.
type starter struct {
	places int
	delay  time.Duration

	mu   sync.Mutex
	made []*fakeSession
	err  error
}

func (s *starter) start(c *Conn) (Session, error) {
	time.Sleep(s.delay)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	f := &fakeSession{conn: c, places: s.places, done: make(chan struct{})}
	s.made = append(s.made, f)
	return f, nil
}

func (s *starter) all() []*fakeSession {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*fakeSession(nil), s.made...)
}

// end ends all exchanges of all sessions, and the sessions.
func (s *starter) end() {
	for _, f := range s.all() {
		f.Close()
	}
	synctest.Wait()
}

func getSession(t *testing.T, p *Pool, s *starter, r Request) (*fakeSession, bool) {
	t.Helper()
	x, reused, err := p.GetSession(t.Context(), r, s.start)
	if err != nil {
		t.Fatal(err)
	}
	checkCounts(t, p)
	return x.(*fakeSession), reused
}

var h2cBackend = store.Backend{Host: "10.0.0.1", Port: 80, Protocol: store.H2C, IdleTimeout: time.Minute}

// after waits for d on a network that takes delay for each connection.
func dialsIn(n *network, address string, delay time.Duration) {
	n.set(address, func(ctx context.Context) (net.Conn, error) {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		here, there := net.Pipe()
		n.mu.Lock()
		n.ends = append(n.ends, there)
		n.mu.Unlock()
		return here, nil
	})
}

// many calls GetSession n times at once and returns how it went.
func many(t *testing.T, p *Pool, s *starter, n int, r Request) (got []*fakeSession, errs []error) {
	t.Helper()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range n {
		all.Go(func() {
			x, _, err := p.GetSession(context.Background(), r, s.start)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
				return
			}
			got = append(got, x.(*fakeSession))
		})
	}
	all.Wait()
	checkCounts(t, p)
	return got, errs
}

func TestSessionIsShared(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p, other := acquire(t, m, h2cBackend), acquire(t, m, h2cBackend)
		s := &starter{places: 2}
		a, reused := getSession(t, p, s, Request{})
		if reused {
			t.Error("the first is reused")
		}
		b, reused := getSession(t, other, s, Request{})
		if a != b || !reused {
			t.Errorf("a second session, reused %v", reused)
		}
		c, _ := getSession(t, p, s, Request{}) // the first is full
		if c == a || n.count() != 2 {
			t.Errorf("%d dials, want 2", n.count())
		}
		a.Unreserve()
		c.Unreserve()
		if d, reused := getSession(t, p, s, Request{}); d != c || !reused {
			t.Error("not the newest that has room")
		}
		if st := p.Stats(); st.Opened != 2 || st.Active != 2 || st.Reused != 2 || st != other.Stats() {
			t.Errorf("stats %+v", st)
		}
		b.Unreserve()
		if st := p.Stats(); st.Active != 1 || st.Idle != 1 {
			t.Errorf("stats %+v, want one idle", st)
		}
		s.end()
		if st := p.Stats(); st.Active != 0 || st.Idle != 0 || st.Closed != 2 {
			t.Errorf("after the end: %+v", st)
		}
	})
}

// Callers that come while a session is being made wait for it.
func TestOneDialForManyCallers(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		t.Run(map[bool]string{false: "any", true: "fresh"}[fresh], func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				dialsIn(n, "10.0.0.1:80", time.Second)
				p := acquire(t, m, h2cBackend)
				s := &starter{places: 1000, delay: time.Second}
				got, errs := many(t, p, s, 500, Request{Fresh: fresh})
				if len(got) != 500 || len(errs) != 0 || n.count() != 1 || got[0].Active() != 500 {
					t.Errorf("%d sessions, errors %v, %d dials", len(got), errs, n.count())
				}
				s.end()
			})
		})
	}
}

// A session with too few places is followed by others for the rest: one to see
// that it is so, and then as many as are needed, at once.
func TestDialsForWhomTheSessionHasNoPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		dialsIn(n, "10.0.0.1:80", time.Second)
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		began := time.Now()
		got, errs := many(t, p, s, 95, Request{})
		if len(got) != 95 || len(errs) != 0 || n.count() != 10 || time.Since(began) != 2*time.Second {
			t.Errorf("%d sessions, errors %v, %d dials in %v", len(got), errs, n.count(), time.Since(began))
		}
		s.end()
	})
}

func TestSessionFailsForAllWhoWait(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		n.set("10.0.0.1:80", func(context.Context) (net.Conn, error) {
			time.Sleep(time.Second)
			return nil, syscall.ECONNREFUSED
		})
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		got, errs := many(t, p, s, 20, Request{})
		if len(got) != 0 || len(errs) != 20 || n.count() != 1 {
			t.Fatalf("%d sessions, %d errors, %d dials", len(got), len(errs), n.count())
		}
		wantKind(t, errs[0], Refused, false)
		_, _, err := p.GetSession(t.Context(), Request{}, s.start)
		wantKind(t, err, Refused, true)
		if st := p.Stats(); st.Failed != 21 || st.Opened != 0 {
			t.Errorf("stats %+v", st)
		}
		time.Sleep(time.Second)
		n.set("10.0.0.1:80", nil)
		getSession(t, p, s, Request{})
		s.end()
	})
}

func TestStartThatFails(t *testing.T) {
	for _, row := range []struct {
		name string
		err  error
		kind Kind
	}{
		{"ended", io.ErrUnexpectedEOF, Terminated},
		{"late", context.DeadlineExceeded, Timeout},
		{"its own", &Error{Kind: TLS, Stage: Handshake, Err: io.EOF}, TLS},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				def := h2cBackend
				for _, noReuse := range []bool{false, true} {
					def.NoReuse = noReuse
					p := acquire(t, m, def)
					_, _, err := p.GetSession(t.Context(), Request{}, (&starter{err: row.err}).start)
					if e := wantKind(t, err, row.kind, false); !errors.Is(e, row.err) {
						t.Errorf("error is %v", err)
					}
					if st := p.Stats(); st.Opened != 0 || st.Failed == 0 {
						t.Errorf("stats %+v", st)
					}
				}
				for _, end := range n.ends {
					if _, err := end.Read(make([]byte, 1)); err != io.EOF {
						t.Errorf("the connection was not closed: %v", err)
					}
				}
			})
		})
	}
}

// A session that takes nobody is an error, not a reason to dial for ever.
func TestSessionWithoutAnyPlace(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		def := h2cBackend
		for _, noReuse := range []bool{false, true} {
			def.NoReuse = noReuse
			p := acquire(t, m, def)
			s := &starter{places: 0}
			_, _, err := p.GetSession(t.Context(), Request{}, s.start)
			wantKind(t, err, Terminated, false)
			synctest.Wait()
			if !s.made[0].ended || p.Stats().Opened != p.Stats().Closed {
				t.Errorf("left open: %+v", p.Stats())
			}
		}
		if n.count() != 2 {
			t.Errorf("%d dials, want 2", n.count())
		}
	})
}

// Each caller's own timeout and context end its wait, and nobody else's. When
// the last one is gone, so is the dial.
func TestWaitForASessionEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		given := make(chan error, 1)
		n.set("10.0.0.1:80", func(ctx context.Context) (net.Conn, error) {
			_, err := hangs(ctx)
			given <- err
			return nil, err
		})
		ctx, cancel := context.WithCancel(t.Context())
		cancelled, timedOut := make(chan error, 1), make(chan error, 1)
		go func() {
			_, _, err := p.GetSession(ctx, Request{}, s.start)
			cancelled <- err
		}()
		go func() {
			_, _, err := p.GetSession(context.Background(), Request{ConnectTimeout: 3 * time.Second}, s.start)
			timedOut <- err
		}()
		time.Sleep(time.Second)
		cancel()
		if err := <-cancelled; err != context.Canceled {
			t.Errorf("error is %v", err)
		}
		synctest.Wait()
		if len(given) != 0 {
			t.Fatal("given up although somebody waits")
		}
		began := time.Now()
		e := wantKind(t, <-timedOut, Timeout, false)
		if e.Stage != Connect || e.Addr != "10.0.0.1:80" || e.ProxyStatus() != "connection_timeout" || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %v", e, time.Since(began))
		}
		if err := <-given; err != context.Canceled {
			t.Errorf("the dial ended by %v", err)
		}
		if st := p.Stats(); st.Failed != 2 {
			t.Errorf("stats %+v", st)
		}
		n.set("10.0.0.1:80", nil)
		getSession(t, p, s, Request{}) // no trace is left
		s.end()
	})
}

func TestWaitForANameEndsAsDNSTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, _ *network, z *zone) {
		z.slow(5 * time.Second)
		def := h2cBackend
		def.Host = "slow.test"
		p := acquire(t, m, def)
		_, _, err := p.GetSession(t.Context(), Request{ConnectTimeout: time.Second}, (&starter{places: 1}).start)
		if e := wantKind(t, err, DNS, false); e.ProxyStatus() != "dns_timeout" {
			t.Errorf("%v is %s", e, e.ProxyStatus())
		}
	})
}

// A start that never returns by itself is aborted by way of its connection when
// nobody waits for it any more.
func TestStartIsAbortedWhenNobodyWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		def := h2cBackend
		for _, noReuse := range []bool{false, true} {
			def.NoReuse = noReuse
			p := acquire(t, m, def)
			ended := make(chan struct{})
			_, _, err := p.GetSession(t.Context(), Request{ConnectTimeout: time.Second}, func(c *Conn) (Session, error) {
				defer close(ended)
				_, err := c.Read(make([]byte, 1))
				return nil, err
			})
			wantKind(t, err, Timeout, false)
			<-ended
		}
	})
}

func TestFreshSessionIsNew(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		a, _ := getSession(t, p, s, Request{})
		time.Sleep(asNew + 1)
		b, reused := getSession(t, p, s, Request{Fresh: true})
		if a == b || reused {
			t.Error("the old one")
		}
		if c, reused := getSession(t, p, s, Request{}); c != b || !reused {
			t.Error("not the newest")
		}
		s.end()
	})
}

// Requests that lose their session within a moment find one new one, wherever its
// making just is.
func TestOneDialForManyWhoLostTheirSession(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		dialsIn(n, "10.0.0.1:80", 10*time.Millisecond)
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 1000}
		a, _ := getSession(t, p, s, Request{})
		time.Sleep(time.Minute)
		a.Close()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * time.Millisecond)
				if x, _ := getSession(t, p, s, Request{Fresh: true}); x == a {
					t.Error("the old one")
				}
			})
		}
		all.Wait()
		if n.count() != 2 {
			t.Errorf("%d dials, want 2", n.count())
		}
		s.end()
	})
}

func TestEndedSessionIsDropped(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		a, _ := getSession(t, p, s, Request{})
		a.Close()
		synctest.Wait()
		if st := p.Stats(); st.Active != 0 || st.Idle != 0 || st.Closed != 1 {
			t.Errorf("stats %+v", st)
		}
		if b, reused := getSession(t, p, s, Request{}); b == a || reused {
			t.Error("a dead one")
		}
		s.end()
	})
}

func TestUnusedSessionEndsAfterTheIdleTimeout(t *testing.T) {
	for _, row := range []struct {
		name           string
		timeout        time.Duration
		sooner, latest time.Duration // after the last exchange
	}{
		{"a minute", time.Minute, time.Minute, time.Minute + (sweepTicks+1)*tick},
		{"two seconds", 2 * time.Second, 2 * time.Second, 6 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				def := h2cBackend
				def.IdleTimeout = row.timeout
				p := acquire(t, m, def)
				s := &starter{places: 10}
				a, _ := getSession(t, p, s, Request{})
				time.Sleep(10 * row.timeout)
				if a.isAway() {
					t.Fatal("ended with an exchange under way")
				}
				a.Unreserve()
				idle := time.Now()
				time.Sleep(row.timeout / 2)
				a, _ = getSession(t, p, s, Request{}) // used in between, if only for a moment
				a.Unreserve()
				if d := time.Since(idle); d >= row.timeout {
					t.Fatal(d)
				}
				idle = time.Now()
				<-a.Done()
				if d := time.Since(idle); d < row.sooner || d > row.latest {
					t.Errorf("ended after %v, want %v to %v", d, row.sooner, row.latest)
				}
			})
		})
	}
	t.Run("none", func(t *testing.T) {
		inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
			def := h2cBackend
			def.IdleTimeout = 0
			p := acquire(t, m, def)
			s := &starter{places: 10}
			a, _ := getSession(t, p, s, Request{})
			a.Unreserve()
			time.Sleep(24 * time.Hour)
			if a.isAway() {
				t.Error("ended")
			}
			s.end()
		})
	})
}

func TestSessionToAnAddressThatIsGoneEnds(t *testing.T) {
	for _, by := range []string{"the janitor", "the next request"} {
		t.Run(by, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, z *zone) {
				z.set("a.test", "10.0.0.1")
				def := h2cBackend
				def.Host = "a.test"
				p := acquire(t, m, def)
				s := &starter{places: 10}
				a, _ := getSession(t, p, s, Request{})
				z.set("a.test", "10.0.0.2", "10.0.0.1")
				time.Sleep(45 * time.Second)
				if b, _ := getSession(t, p, s, Request{}); b != a {
					t.Error("an address beside it made it useless")
				}
				a.Unreserve()
				z.set("a.test", "10.0.0.2")
				time.Sleep(30*time.Second + sweepTicks*tick)
				if by == "the next request" {
					if b, reused := getSession(t, p, s, Request{}); b == a || reused {
						t.Error("it leads to the old address")
					}
				}
				time.Sleep(10 * time.Second)
				if !a.isAway() {
					t.Error("not ended")
				}
				if a.Active() != 1 || p.Stats().Active == 0 {
					t.Error("its exchange is gone")
				}
				a.Unreserve()
				<-a.Done()
				s.end()
			})
		})
	}
}

func TestSessionsOfOneExchange(t *testing.T) {
	for _, row := range []struct {
		name    string
		def     func(*store.Backend)
		prepare func(*Pool)
	}{
		{"reuse false", func(d *store.Backend) { d.NoReuse = true }, nil},
		{"PROXY header", func(d *store.Backend) { d.ProxyHeader = 2 }, nil},
		{"draining", nil, func(p *Pool) { p.Drain(true) }},
		{"released", nil, (*Pool).Release},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				def := h2cBackend
				if row.def != nil {
					row.def(&def)
				}
				p := acquire(t, m, def)
				if row.prepare != nil {
					row.prepare(p)
				}
				s := &starter{places: 10}
				a, reused := getSession(t, p, s, Request{})
				b, again := getSession(t, p, s, Request{})
				if a == b || reused || again || !a.isAway() || !b.isAway() {
					t.Error("shared")
				}
				if st := p.Stats(); st.Active != 2 {
					t.Errorf("stats %+v", st)
				}
				a.Unreserve()
				b.Unreserve()
				synctest.Wait()
				if st := p.Stats(); st.Active != 0 || st.Idle != 0 || st.Closed != 2 {
					t.Errorf("stats %+v", st)
				}
			})
		})
	}
}

func TestSessionsEndWithTheirLastExchange(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(p *Pool)
	}{
		{"drain", func(p *Pool) { p.Drain(true) }},
		{"last release", func(p *Pool) { p.Release() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				p := acquire(t, m, h2cBackend)
				s := &starter{places: 1}
				a, _ := getSession(t, p, s, Request{})
				b, _ := getSession(t, p, s, Request{})
				a.Unreserve()
				row.end(p)
				<-a.Done()
				synctest.Wait() // b may be so new that it is told by who made it
				if !b.isAway() || b.Active() != 1 {
					t.Error("the other is not going away, or has lost its exchange")
				}
				b.Unreserve()
				<-b.Done()
				synctest.Wait()
				if st := p.Stats(); st.Active != 0 || st.Idle != 0 || st.Opened != 2 {
					t.Errorf("stats %+v", st)
				}
			})
		})
	}
}

// A session that is ready only after the last release serves those who wait for
// it and ends.
func TestSessionMadeAfterTheRelease(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		dialsIn(n, "10.0.0.1:80", time.Second)
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		got := make(chan *fakeSession, 2)
		for range 2 {
			go func() {
				x, _, err := p.GetSession(context.Background(), Request{}, s.start)
				if err != nil {
					t.Error(err)
				}
				got <- x.(*fakeSession)
			}()
		}
		synctest.Wait()
		p.Release()
		a, b := <-got, <-got
		synctest.Wait()
		if a != b || a.Active() != 2 || !a.isAway() {
			t.Errorf("%d exchanges, away %v", a.Active(), a.isAway())
		}
		s.end()
	})
}

func TestRunEndsUnusedSessions(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		m := New(Config{Dial: n.dial, Logger: silent})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 10}
		a, _ := getSession(t, p, s, Request{})
		a.Unreserve()
		cancel()
		<-ended
		<-a.Done()
		b, _ := getSession(t, p, s, Request{}) // requests may still come
		b.Unreserve()
		<-b.Done()
	})
}

// What a session's layer does with its connection: one goroutine reads, another
// writes, and any sets deadlines and closes.
func TestConnOfASessionIsANetConn(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	def := o.backend()
	def.Protocol = store.H2C
	def.Preamble = []byte("first ")
	p := acquireWith(t, manager(t, Config{}), def, Deps{})
	s := &starter{places: 10}
	x, _, err := p.GetSession(t.Context(), Request{}, s.start)
	if err != nil {
		t.Fatal(err)
	}
	end := o.accept()
	defer end.Close()
	var c net.Conn = x.(*fakeSession).conn
	var all sync.WaitGroup
	const total = 1 << 20
	all.Go(func() {
		for sent := 0; sent < total; sent += 1 << 10 {
			if _, err := c.Write(make([]byte, 1<<10)); err != nil {
				t.Error(err)
				return
			}
		}
	})
	all.Go(func() {
		if n, err := io.ReadFull(c, make([]byte, total)); err != nil {
			t.Error(n, err)
		}
	})
	all.Go(func() {
		for range 100 {
			c.SetReadDeadline(time.Now().Add(time.Minute))
			c.SetWriteDeadline(time.Now().Add(time.Minute))
			c.SetDeadline(time.Time{})
		}
	})
	if got := read(t, end, 6); got != "first " {
		t.Errorf("first came %q", got)
	}
	if n, err := io.CopyN(end, end, total); err != nil {
		t.Fatal(n, err)
	}
	all.Wait()
	blocked := make(chan error)
	go func() {
		_, err := c.Read(make([]byte, 1))
		blocked <- err
	}()
	x.Close()
	if err := <-blocked; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the reader got %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// No place is lost and no session forgotten, whoever comes, goes, waits, drains
// and ends at the same time.
func TestSessionsUnderStress(t *testing.T) {
	t.Parallel()
	n := &network{}
	m := manager(t, Config{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		select {
		case <-time.After(time.Duration(rand.IntN(300)) * time.Microsecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		return n.dial(ctx, network, address)
	}})
	s := &starter{places: 3}
	var all sync.WaitGroup
	var pools []*Pool
	for i := range 8 {
		def := h2cBackend
		def.NoReuse = i == 0
		p := acquire(t, m, def)
		pools = append(pools, p)
		all.Go(func() {
			for j := range 300 {
				ctx, cancel := context.WithTimeout(context.Background(), time.Duration(rand.IntN(2000))*time.Microsecond)
				r := Request{Fresh: j%17 == 0}
				if j%2 == 0 {
					r.ConnectTimeout = time.Duration(1+rand.IntN(2000)) * time.Microsecond
				}
				x, _, err := p.GetSession(ctx, r, s.start)
				if err == nil {
					if j%11 == 0 {
						x.GoAway()
					}
					if j%5 == 0 {
						time.Sleep(100 * time.Microsecond)
					}
					x.Unreserve() // panics if the place was given twice
				}
				cancel()
				if st := p.Stats(); int(st.Opened-st.Closed) != st.Active+st.Idle {
					t.Errorf("counts differ: %+v", st)
				}
				if i == 1 && j%50 == 0 {
					p.Drain(j%100 == 0)
				}
			}
		})
	}
	all.Wait()
	for _, p := range pools {
		p.Release()
	}
	for _, f := range s.all() {
		select {
		case <-f.Done():
		case <-time.After(10 * time.Second):
			t.Fatalf("a session is left with %d places taken", f.Active())
		}
	}
	for _, end := range n.ends {
		end.Close()
	}
}

func TestSharedSessionAllocatesNothing(t *testing.T) {
	n := &network{}
	m := manager(t, Config{Dial: n.dial})
	p := acquireWith(t, m, h2cBackend, Deps{})
	start := (&starter{places: 10}).start
	each := testing.AllocsPerRun(1000, func() {
		x, _, err := p.GetSession(t.Context(), Request{}, start)
		if err != nil {
			t.Fatal(err)
		}
		x.Unreserve()
	})
	if each != 0 {
		t.Errorf("%v allocations", each)
	}
	n.ends[0].Close()
}

// A backend that took a connection and then fell silent, perhaps since it was
// started anew, is dialled again although there was somebody waiting all the time.
func TestSilentStartIsGivenUpThoughOthersHaveCome(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 100}
		var second atomic.Bool
		start := func(c *Conn) (Session, error) {
			if !second.Swap(true) {
				_, err := c.Read(make([]byte, 1))
				return nil, err
			}
			return s.start(c)
		}
		var served, timedOut int
		var all sync.WaitGroup
		var mu sync.Mutex
		for range 20 { // one each half second, and each waits for two
			all.Go(func() {
				x, _, err := p.GetSession(context.Background(), Request{ConnectTimeout: 2 * time.Second}, start)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					wantKind(t, err, Timeout, false)
					timedOut++
					return
				}
				served++
				x.Unreserve()
			})
			time.Sleep(time.Second / 2)
		}
		all.Wait()
		if timedOut != 1 || served != 19 || n.count() != 2 {
			t.Errorf("%d served, %d timed out, %d dials; want only the first to time out and 2 dials", served, timedOut, n.count())
		}
		s.end()
	})
}

// A waiter of little patience does not end a dial that another still waits for.
func TestImpatientCallersLeaveTheDialToOthers(t *testing.T) {
	for _, patience := range []time.Duration{5 * time.Second, 0} {
		t.Run(patience.String(), func(t *testing.T) {
			inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
				dialsIn(n, "10.0.0.1:80", 3*time.Second)
				p := acquire(t, m, h2cBackend)
				s := &starter{places: 100}
				patient := make(chan error, 1)
				go func() {
					_, _, err := p.GetSession(context.Background(), Request{ConnectTimeout: patience}, s.start)
					patient <- err
				}()
				synctest.Wait()
				var all sync.WaitGroup
				for range 10 {
					all.Go(func() { p.GetSession(context.Background(), Request{ConnectTimeout: time.Second}, s.start) })
					time.Sleep(time.Second / 4)
				}
				if err := <-patient; err != nil {
					t.Error(err)
				}
				all.Wait()
				if n.count() != 1 {
					t.Errorf("%d dials, want 1", n.count())
				}
				s.end()
			})
		})
	}
}

// reserveHook is a session that calls before at each Reserve.
type reserveHook struct {
	*fakeSession
	before func()
}

func (r *reserveHook) Reserve() bool {
	r.before()
	return r.fakeSession.Reserve()
}

func TestSessionThatNobodyWaitedForEndsAfterTheIdleTimeout(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 100}
		ctx, cancel := context.WithCancel(t.Context())
		_, _, err := p.GetSession(ctx, Request{}, func(c *Conn) (Session, error) {
			f, err := s.start(c)
			return &reserveHook{f.(*fakeSession), func() { cancel(); time.Sleep(time.Second) }}, err
		})
		if err != context.Canceled {
			t.Fatal(err)
		}
		time.Sleep(2 * h2cBackend.IdleTimeout)
		if st := p.Stats(); st.Idle != 0 || st.Opened != 1 {
			t.Errorf("stats %+v, want the session to have ended", st)
		}
		s.end()
	})
}

// As with one that is lent out, a session on its way when the drain begins serves
// those who wait for it and ends.
func TestSessionMadeDuringADrainEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, n *network, _ *zone) {
		dialsIn(n, "10.0.0.1:80", time.Second)
		p := acquire(t, m, h2cBackend)
		s := &starter{places: 100}
		got := make(chan Session)
		go func() {
			x, _, err := p.GetSession(context.Background(), Request{}, s.start)
			if err != nil {
				t.Error(err)
			}
			got <- x
		}()
		synctest.Wait()
		p.Drain(true)
		x := <-got
		x.Unreserve()
		synctest.Wait()
		if st := p.Stats(); st.Idle != 0 || st.Active != 0 {
			t.Errorf("stats %+v after the last exchange, want none", st)
		}
		s.end()
	})
}
