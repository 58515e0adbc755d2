package pool

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"roster/store"

	"pgregory.net/rapid"
)

// A backend of a test: how long a connection to it takes, and whether it fails.
type backend struct {
	mu     sync.Mutex
	delay  time.Duration
	fails  bool
	under  int // dials under way
	places int
	ends   []net.Conn
	made   []*fakeSession
}

func (b *backend) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	b.mu.Lock()
	delay, fails := b.delay, b.fails
	b.under++
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.under--
	}()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if fails {
		return nil, syscall.ECONNRESET
	}
	here, there := net.Pipe()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ends = append(b.ends, there)
	return here, nil
}

func (b *backend) start(c *Conn) (Session, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := &fakeSession{conn: c, places: b.places, done: make(chan struct{})}
	b.made = append(b.made, s)
	return s, nil
}

// A call of GetSession: under way until it has a session or an error.
type call struct {
	until   time.Time // 0: no limit
	session *fakeSession
	over    bool // an error, or finished
}

// runSessions does what steps say and returns the first promise that is broken.
func runSessions(t *testing.T, steps []step) (broken string) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{places: 2}
		m := New(Config{Dial: b.dial, Logger: silent})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- m.Run(ctx) }()
		def := store.Backend{Host: "10.0.0.1", Port: 80, Protocol: store.H2C, IdleTimeout: 7 * time.Second}
		p := acquire(t, m, def)

		var mu sync.Mutex
		var calls []*call
		var cancels []context.CancelFunc
		finish := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range calls {
				if c.session != nil && n > 0 {
					c.session.Unreserve()
					c.session, c.over, n = nil, true, n-1
				}
			}
		}
		for n, s := range steps {
			switch s.what {
			case "get":
				ctx, cancel := context.WithCancel(t.Context())
				cancels = append(cancels, cancel)
				r := Request{Fresh: s.a == 0, ConnectTimeout: time.Duration(s.b) * 3 * time.Second}
				for range 1 + s.c {
					c := &call{}
					if r.ConnectTimeout > 0 {
						c.until = time.Now().Add(r.ConnectTimeout)
					}
					mu.Lock()
					calls = append(calls, c)
					mu.Unlock()
					go func() {
						x, _, err := p.GetSession(ctx, r, b.start)
						mu.Lock()
						defer mu.Unlock()
						if c.over = err != nil; !c.over {
							c.session = x.(*fakeSession)
						}
					}()
				}
			case "finish":
				finish(1 + s.a)
			case "cancel":
				if len(cancels) > 0 {
					cancels[(s.a*4+s.b)%len(cancels)]()
				}
			case "backend":
				b.mu.Lock()
				b.delay, b.fails, b.places = time.Duration(s.a)*time.Second, s.b == 0, s.c
				b.mu.Unlock()
			case "close":
				if len(b.made) > 0 {
					b.made[len(b.made)-1-s.a%len(b.made)].GoAway()
				}
			case "drain":
				p.Drain(s.a == 0)
			case "wait":
				time.Sleep(time.Duration(1+s.a*s.b) * time.Second)
			}
			synctest.Wait()

			mu.Lock()
			b.mu.Lock()
			holding, reserved, open, late := 0, 0, 0, false
			for _, c := range calls {
				switch {
				case c.session != nil:
					holding++
				case !c.over && !c.until.IsZero():
					late = late || time.Now().After(c.until)
				}
			}
			for _, f := range b.made {
				reserved += f.Active()
				if !f.ended {
					open++
				}
			}
			under := b.under
			b.mu.Unlock()
			mu.Unlock()
			stats := p.Stats()
			queued := 0
			if all := p.sessions.Load(); all != nil {
				p.mu.Lock()
				queued = all.queue.Len()
				p.mu.Unlock()
			}
			switch {
			case reserved != holding:
				broken = fmt.Sprintf("%d places reserved, %d held", reserved, holding)
			case stats.Active+stats.Idle != open || int(stats.Opened-stats.Closed) != open:
				broken = fmt.Sprintf("%d open, stats %+v", open, stats)
			case queued > 0 && under == 0:
				broken = fmt.Sprintf("%d wait for nothing", queued)
			case late:
				broken = "a call waits longer than its connect timeout"
			}
			if broken != "" {
				broken = fmt.Sprintf("after %v: %s", steps[:n+1], broken)
				break
			}
		}
		for _, cancel := range cancels {
			cancel()
		}
		synctest.Wait()
		finish(len(calls))
		p.Release()
		synctest.Wait()
		if st := p.Stats(); broken == "" && (st.Active != 0 || st.Idle != 0 || b.under != 0) {
			broken = fmt.Sprintf("after %v and the end: %+v, %d dials", steps, st, b.under)
		}
		for _, f := range b.made {
			f.Close()
		}
		for _, end := range b.ends {
			end.Close()
		}
		cancel()
		<-ended
	})
	return broken
}

// Whatever callers, the backend and the operator do: every place given is
// somebody's, nobody waits for nothing or for too long, and the counts are right.
func TestSessionsKeepTheirPromises(t *testing.T) {
	t.Parallel()
	genStep := rapid.Custom(func(t *rapid.T) step {
		s := step{what: rapid.SampledFrom([]string{"get", "get", "get", "finish", "finish", "cancel", "backend", "close", "drain", "wait", "wait"}).Draw(t, "what")}
		s.a = rapid.IntRange(0, 3).Draw(t, "a")
		s.b = rapid.IntRange(0, 3).Draw(t, "b")
		s.c = rapid.IntRange(0, 3).Draw(t, "c")
		return s
	})
	rapid.Check(t, func(rt *rapid.T) {
		if broken := runSessions(t, rapid.SliceOfN(genStep, 1, 40).Draw(rt, "steps")); broken != "" {
			rt.Fatal(broken)
		}
	})
}
