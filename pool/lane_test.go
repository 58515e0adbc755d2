package pool

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roster/store"

	"pgregory.net/rapid"
)

// fakeLink is a Link to p's address of now without a socket.
func fakeLink(p *Pool, fd int) *Link {
	t := Target{target: target{addr: netip.MustParseAddrPort("10.0.0.1:80")}}
	if p.name != nil {
		t.set = p.name.addrs.Load()
		t.addr = netip.AddrPortFrom(t.set.addrs[0], 80)
	}
	return p.Connected(t, fd)
}

func TestLinkIsOfferedToOwnLaneFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, _ *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80, IdleTimeout: time.Minute})
		closed := 0
		count := func(links []*Link) { closed += len(links) }
		a, b := m.NewLane(count), m.NewLane(count)
		old, mine, other := fakeLink(p, 1), fakeLink(p, 2), fakeLink(p, 3)
		old.Put(a)
		mine.Put(a)
		other.Put(b)
		for i, want := range []struct {
			link *Link
			from *Lane
		}{{mine, a}, {old, a}, {other, b}, {nil, nil}} {
			l := p.Idle(a)
			if l != want.link || l != nil && (l.From() != want.from || l.Stolen() != (want.from != a) || !l.Reused()) {
				t.Errorf("Idle %d = %+v, want %+v", i, l, want)
			}
		}
		if !other.Put(a) || p.Idle(a) != other || other.Stolen() {
			t.Error("a stolen Link that was put back is not its thief's own")
		}
		// One whose lock somebody has is not waited for.
		old.Put(b)
		x := p.linksAt(b.index)
		x.mu.Lock()
		if l := p.Idle(a); l != nil {
			t.Errorf("Idle = %+v, want nil", l)
		}
		x.mu.Unlock()
		p.Release()
		if closed != 1 {
			t.Errorf("closed %d, want 1", closed)
		}
		if mine.Put(a) || other.Put(b) {
			t.Error("a released pool keeps Links")
		}
		if got, want := p.Stats(), (Stats{Opened: 3, Closed: 3, Reused: 4}); got != want {
			t.Errorf("Stats = %+v, want %+v", got, want)
		}
	})
}

func TestLinksThatAreNeverKept(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, _ *network, _ *zone) {
		ln := m.NewLane(func(links []*Link) { t.Errorf("closed: %v", links) })
		for name, def := range map[string]store.Backend{
			"no reuse":        {NoReuse: true},
			"PROXY header":    {ProxyHeader: 2},
			"nothing is sent": {Preamble: []byte("x")},
		} {
			def.Host, def.Port = "10.0.0.1", 80
			p := acquire(t, m, def)
			l := fakeLink(p, 1)
			if def.Preamble != nil {
				l.prologue = def.Preamble
			}
			if l.Put(ln) || p.Idle(ln) != nil {
				t.Errorf("%s: kept", name)
			}
			if got, want := p.Stats(), (Stats{Opened: 1, Closed: 1}); got != want {
				t.Errorf("%s: Stats = %+v, want %+v", name, got, want)
			}
			p.Release()
		}
		// Who does not want reuse does not get those of who does.
		def := store.Backend{Host: "10.0.0.1", Port: 80}
		p := acquire(t, m, def)
		def.NoReuse = true
		q := acquire(t, m, def)
		l := fakeLink(p, 1)
		if !l.Put(ln) || q.Idle(ln) != nil || p.Idle(ln) != l {
			t.Error("reuse: false took an idle Link, or nobody got it")
		}
		l.Discard()
		p.Release()
		q.Release()
	})
}

func TestWrongEndsOfLinksPanic(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, _ *network, _ *zone) {
		p := acquire(t, m, store.Backend{Host: "10.0.0.1", Port: 80})
		defer p.Release()
		ln := m.NewLane(func([]*Link) {})
		idle, ended := fakeLink(p, 1), fakeLink(p, 2)
		idle.Put(ln)
		ended.Discard()
		for name, f := range map[string]func(){
			"Put after Put":     func() { idle.Put(ln) },
			"Discard after Put": idle.Discard,
			"Put after Discard": func() { ended.Put(ln) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				f()
			}()
		}
		checkCounts(t, p)
	})
}

// The janitor looks at many idle Links by and by, and misses none.
func TestSweepOfManyLinks(t *testing.T) {
	inBubble(t, func(t *testing.T, m *Manager, _ *network, z *zone) {
		z.set("web.example", "10.0.0.1")
		p := acquire(t, m, store.Backend{Host: "web.example", Port: 80, IdleTimeout: 10 * time.Second})
		defer p.Release()
		synctest.Wait()
		var closed atomic.Int32
		ln := m.NewLane(func(links []*Link) { closed.Add(int32(len(links))) })
		const n = 10*sweepChunk + 3
		fill := func() {
			for i := range n {
				if !fakeLink(p, i).Put(ln) {
					t.Fatal("not kept")
				}
			}
		}
		fill()
		time.Sleep(10*time.Second - 1)
		synctest.Wait()
		if got := closed.Load(); got != 0 {
			t.Errorf("closed %d before their time", got)
		}
		time.Sleep(time.Second + 1)
		synctest.Wait()
		if got := closed.Load(); got != n {
			t.Errorf("closed %d, want %d", got, n)
		}
		fill()
		p.name.addrs.Store(&addrSet{[]netip.Addr{netip.MustParseAddr("10.0.0.2")}})
		time.Sleep((sweepTicks + 1) * time.Second)
		synctest.Wait()
		if got := closed.Load(); got != 2*n {
			t.Errorf("after the address went: closed %d, want %d", got, 2*n)
		}
		checkCounts(t, p)
	})
}

// laneModel is what lanes promise: where each Link is.
type laneModel struct {
	idle   [3][]int // by lane, newest last
	lanes  int      // those up to the last that something was put into
	until  map[int]time.Time
	addr   map[int]string
	inUse  []int
	closed map[int]bool
	reused uint64
}

func (m *laneModel) fit(i int, addr string) bool {
	u := m.until[i]
	return (u.IsZero() || time.Now().Before(u)) && m.addr[i] == addr
}

// runLanes does the same to lanes and their model, and returns the first difference.
func runLanes(t *testing.T, steps []step) (difference string) {
	synctest.Test(t, func(t *testing.T) {
		var (
			mu     sync.Mutex
			links  []*Link
			closed = map[int]bool{}
			model  = laneModel{until: map[int]time.Time{}, addr: map[int]string{}, closed: map[int]bool{}}
			addr   = "10.0.0.1"
			lanes  [3]*Lane
			over   [3]bool
			drain  [2]bool
			wrong  = func(format string, args ...any) {
				if difference == "" {
					difference = fmt.Sprintf(format, args...)
				}
			}
		)
		z := &zone{}
		z.set("web.example", addr)
		m := New(Config{Resolver: z, Logger: silent, DNSInterval: time.Hour})
		for i := range lanes {
			lanes[i] = m.NewLane(func(ended []*Link) {
				mu.Lock()
				defer mu.Unlock()
				for _, l := range ended {
					if closed[l.FD] {
						wrong("%d was closed twice", l.FD)
					}
					if l.from != nil && l.Owner != i {
						wrong("%d was closed by lane %d, not by its own, %v", l.FD, i, l.Owner)
					}
					closed[l.FD] = true
				}
			})
		}
		stop, ended := runManager(t, m)
		pools := [2]*Pool{
			acquire(t, m, store.Backend{Host: "web.example", Port: 80, IdleTimeout: 2 * time.Second}),
			acquire(t, m, store.Backend{Host: "web.example", Port: 80}),
		}
		synctest.Wait()
		// closeIdle is what the model does with the idle ones of some lanes.
		closeIdle := func(lanes ...int) {
			for _, ln := range lanes {
				for _, i := range model.idle[ln] {
					model.closed[i] = true
				}
				model.idle[ln] = nil
			}
		}
		// swept takes what the janitor may have closed, and must have.
		swept := func(grace time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			for ln, idle := range model.idle {
				kept := idle[:0:0]
				for _, i := range idle {
					u := model.until[i]
					late := !u.IsZero() && time.Since(u) > grace
					switch {
					case closed[i] && model.fit(i, addr):
						wrong("%d was closed while it was fit", i)
					case !closed[i] && late:
						wrong("%d is idle %v after its time", i, time.Since(u))
					}
					if closed[i] {
						model.closed[i] = true
					} else {
						kept = append(kept, i)
					}
				}
				model.idle[ln] = kept
			}
		}
		for n, s := range steps {
			ln, p := lanes[s.a%3], pools[s.b%2]
			switch s.what {
			case "connect":
				l := fakeLink(p, len(links))
				l.TakePrologue()
				model.addr[l.FD] = addr
				model.inUse = append(model.inUse, l.FD)
				links = append(links, l)
			case "idle":
				want := -1
				order := []int{s.a % 3}
				for k := range model.lanes {
					order = append(order, (s.a%3+1+k)%model.lanes)
				}
				for _, at := range order {
					idle := &model.idle[at]
					for want < 0 && len(*idle) > 0 {
						i := (*idle)[len(*idle)-1]
						*idle = (*idle)[:len(*idle)-1]
						if model.fit(i, addr) {
							want = i
						} else {
							model.closed[i] = true
						}
					}
				}
				l := p.Idle(ln)
				switch {
				case l == nil && want >= 0, l != nil && l.FD != want:
					wrong("Idle = %v, want %d", l, want)
				case l != nil:
					if l.From() != lanes[l.Owner.(int)] || l.Stolen() != (l.From() != ln) {
						wrong("%d is from %v, stolen %v", l.FD, l.From().index, l.Stolen())
					}
					model.inUse = append(model.inUse, want)
					model.reused++
				}
			case "put", "discard":
				if len(model.inUse) == 0 {
					continue
				}
				k := s.c % len(model.inUse)
				i := model.inUse[k]
				model.inUse = append(model.inUse[:k:k], model.inUse[k+1:]...)
				l := links[i]
				q := 0
				if l.pool == pools[1] {
					q = 1
				}
				if s.what == "discard" {
					l.Discard()
					model.closed[i], closed[i] = true, true
					break
				}
				l.Owner = s.a % 3
				if model.addr[i] == addr {
					model.lanes = max(model.lanes, s.a%3+1)
				}
				keep := !drain[q] && !over[s.a%3] && model.addr[i] == addr
				if got := l.Put(ln); got != keep {
					wrong("Put of %d = %v, want %v", i, got, keep)
				}
				if !keep {
					model.closed[i], closed[i] = true, true
					break
				}
				model.until[i] = time.Time{}
				if q == 0 {
					model.until[i] = time.Now().Add(2 * time.Second)
				}
				model.idle[s.a%3] = append(model.idle[s.a%3], i)
			case "event":
				if len(links) == 0 {
					continue
				}
				i := (s.b*4 + s.c) % len(links)
				want := false
				for k, j := range model.idle[s.a%3] {
					if i == j {
						want = true
						model.idle[s.a%3] = append(model.idle[s.a%3][:k:k], model.idle[s.a%3][k+1:]...)
						model.closed[i], closed[i] = true, true
						break
					}
				}
				if got := links[i].TakeIdle(ln); got != want {
					wrong("TakeIdle of %d = %v, want %v", i, got, want)
				}
			case "drain":
				drain[s.b%2] = s.c%2 == 0
				p.Drain(drain[s.b%2])
				if drain[s.b%2] {
					closeIdle(0, 1, 2)
				}
			case "move":
				addr = fmt.Sprintf("10.0.0.%d", 1+s.a)
				p.name.addrs.Store(&addrSet{[]netip.Addr{netip.MustParseAddr(addr)}})
			case "end":
				if s.b == 0 {
					ln.End()
					over[s.a%3] = true
					closeIdle(s.a % 3)
				}
			case "wait":
				time.Sleep(time.Duration(s.a*s.b) * 700 * time.Millisecond)
				synctest.Wait()
			}
			swept(tick)
			mu.Lock()
			stats := pools[0].Stats()
			idle := len(model.idle[0]) + len(model.idle[1]) + len(model.idle[2])
			want := Stats{Active: len(model.inUse), Idle: idle, Opened: uint64(len(links)), Closed: uint64(len(model.closed)), Reused: model.reused}
			if stats != want {
				wrong("Stats = %+v, want %+v", stats, want)
			}
			if len(closed) != len(model.closed) {
				wrong("closed are %v, want %v", closed, model.closed)
			}
			mu.Unlock()
			if difference != "" {
				difference = fmt.Sprintf("after %v: %s", steps[:n+1], difference)
				break
			}
		}
		stop()
		<-ended
		for _, i := range model.inUse {
			if links[i].Put(lanes[0]) && difference == "" {
				difference = "kept after the end"
			}
		}
		if st := pools[0].Stats(); difference == "" && (st.Active != 0 || st.Idle != 0 || len(closed)+len(model.inUse) != len(links)) {
			difference = fmt.Sprintf("after %v and the end: %+v", steps, st)
		}
		pools[0].Release()
		pools[1].Release()
	})
	return difference
}

// Whatever threads, the janitor, the operator and the resolver do: every Link is where the
// model says, it is closed once and by who has it, and the counts are right.
func TestLanesBehaveLikeTheirModel(t *testing.T) {
	t.Parallel()
	genStep := rapid.Custom(func(t *rapid.T) step {
		s := step{what: rapid.SampledFrom([]string{"connect", "connect", "put", "put", "put", "idle", "idle", "idle", "discard", "event", "drain", "move", "end", "wait"}).Draw(t, "what")}
		s.a = rapid.IntRange(0, 3).Draw(t, "a")
		s.b = rapid.IntRange(0, 3).Draw(t, "b")
		s.c = rapid.IntRange(0, 3).Draw(t, "c")
		return s
	})
	rapid.Check(t, func(rt *rapid.T) {
		if d := runLanes(t, rapid.SliceOfN(genStep, 1, 60).Draw(rt, "steps")); d != "" {
			rt.Fatal(d)
		}
	})
}

// Threads that take, put back, steal and lose Links, all at once with the janitor, drains,
// a name that moves and the end: nobody has one that somebody else has, none is lost or
// closed twice, and the counts are right at every moment.
func TestLanesUnderLoad(t *testing.T) {
	t.Parallel()
	z := &zone{}
	z.set("web.example", "10.0.0.1")
	m := New(Config{Resolver: z, Logger: silent})
	p := acquire(t, m, store.Backend{Host: "web.example", Port: 80, IdleTimeout: time.Millisecond})
	sets := [2]*addrSet{}
	for i := range sets {
		sets[i] = &addrSet{[]netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}}
	}
	p.name.addrs.Store(sets[0])

	const threads, turns = 4, 20_000
	type owner struct{ held, closed atomic.Int32 }
	var made, closed atomic.Int64
	end := func(l *Link) {
		if o := l.Owner.(*owner); o.held.Load() != 0 || o.closed.Add(1) != 1 {
			t.Error("a Link was closed that somebody has, or that was closed before")
		}
		closed.Add(1)
	}
	lanes := make([]*Lane, threads)
	for i := range lanes {
		lanes[i] = m.NewLane(func(links []*Link) {
			for _, l := range links {
				end(l)
			}
		})
	}
	var loops, others sync.WaitGroup
	stop := make(chan struct{})
	for i, ln := range lanes {
		loops.Go(func() {
			var seen []*Link
			for n := range turns {
				l := p.Idle(ln)
				if l == nil {
					l = fakeLink(p, n)
					l.Owner = new(owner)
					made.Add(1)
				}
				o := l.Owner.(*owner)
				if o.held.Add(1) != 1 || o.closed.Load() != 0 {
					t.Error("a Link was given to two, or was closed")
				}
				if seen = append(seen, l); len(seen) > 8 {
					seen = seen[1:]
				}
				o.held.Add(-1)
				switch {
				case rand.N(16) == 0:
					l.Discard()
					end(l)
				case !l.Put(ln):
					end(l)
				}
				if l := seen[rand.N(len(seen))]; rand.N(8) == 0 && l.TakeIdle(ln) {
					end(l)
				}
				if i == 0 && n == turns/2 {
					ln.End()
				}
			}
		})
	}
	for _, what := range []func(n int){
		func(int) { p.sweep(m.now()) },
		func(n int) { p.Drain(n%7 == 0) },
		func(n int) { p.name.addrs.Store(sets[n/50%2]) },
		func(int) { checkCounts(t, p) },
	} {
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
					what(n)
					time.Sleep(50 * time.Microsecond)
				}
			}
		})
	}
	loops.Wait()
	close(stop)
	others.Wait()
	p.Release()
	if got, want := p.Stats(), uint64(made.Load()); got.Active != 0 || got.Idle != 0 || got.Opened != want || got.Closed != want || closed.Load() != made.Load() {
		t.Errorf("%d made, %d closed, %+v", made.Load(), closed.Load(), got)
	}
}
