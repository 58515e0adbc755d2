package pool

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"roster/store"

	"golang.org/x/sys/unix"
)

// lane returns a Lane whose Links are closed as they come.
func lane(t *testing.T, m *Manager) *Lane {
	return m.NewLane(closeLinks)
}

func closeLinks(links []*Link) {
	for _, l := range links {
		reset(l)
	}
}

// reset closes l so that its port is free at once.
func reset(l *Link) {
	unix.SetsockoptLinger(l.FD, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(l.FD)
}

// connect makes a Link as a loop does: by Target.
func connect(t testing.TB, p *Pool, r Request) *Link {
	t.Helper()
	target, ok := p.Target(r)
	if !ok {
		t.Fatal("no Target")
	}
	fd, err := target.Connect()
	if err != nil {
		t.Fatal(err)
	}
	poll(t, fd, unix.POLLOUT)
	if err := target.Finish(fd); err != nil {
		t.Fatal(err)
	}
	return p.Connected(target, fd)
}

func poll(t testing.TB, fd int, events int16) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 10_000)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n != 1 {
			t.Fatalf("poll = %d, %v", n, err)
		}
		return
	}
}

func open(t testing.TB, p *Pool, r Request) *Link {
	t.Helper()
	l, err := p.Open(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A Link carries bytes, however it was made, and its descriptor is its own.
func TestLinkCarriesBytes(t *testing.T) {
	t.Parallel()
	for _, at := range [][2]string{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"unix", t.TempDir() + "/s"}, {"unix", "@roster-link-test"}} {
		for name, make := range map[string]func(testing.TB, *Pool, Request) *Link{"Open": open, "Connect": connect} {
			t.Run(at[0]+" "+at[1]+" "+name, func(t *testing.T) {
				o := listen(t, at[0], at[1])
				m := manager(t, Config{})
				def := o.backend()
				def.Preamble = []byte("hello ")
				p := acquire(t, m, def)
				defer p.Release()
				ln := lane(t, m)
				l := make(t, p, Request{ConnectTimeout: 10 * time.Second})
				there := o.accept()
				if l.Reused() || l.Stolen() || l.From() != nil || string(l.Prologue()) != "hello " {
					t.Errorf("new: reused %v, stolen %v, from %v, prologue %q", l.Reused(), l.Stolen(), l.From(), l.Prologue())
				}
				if got, want := l.Remote(), addrPort(o.Addr()); got != want {
					t.Errorf("Remote = %v, want %v", got, want)
				}
				if _, err := unix.Write(l.FD, append(clip(l.TakePrologue()), "world"...)); err != nil {
					t.Fatal(err)
				}
				if got := read(t, there, 11); got != "hello world" {
					t.Errorf("read %q", got)
				}
				flags, _ := unix.FcntlInt(uintptr(l.FD), unix.F_GETFL, 0)
				cloexec, _ := unix.FcntlInt(uintptr(l.FD), unix.F_GETFD, 0)
				if flags&unix.O_NONBLOCK == 0 || cloexec&unix.FD_CLOEXEC == 0 {
					t.Errorf("flags %#x, %#x: want non-blocking, closed on exec", flags, cloexec)
				}
				l.Owner = "me"
				if !l.Put(ln) {
					t.Fatal("Put = false")
				}
				if again := p.Idle(ln); again != l || !l.Reused() || l.From() != ln || l.Stolen() || l.Owner != "me" || l.Prologue() != nil {
					t.Errorf("Idle = %+v", again)
				}
				if got := p.Stats(); got != (Stats{Active: 1, Opened: 1, Reused: 1}) {
					t.Errorf("Stats = %+v", got)
				}
				l.Discard()
				l.Discard()
				unix.Close(l.FD)
				if got := p.Stats(); got != (Stats{Opened: 1, Closed: 1, Reused: 1}) {
					t.Errorf("Stats = %+v", got)
				}
			})
		}
	}
}

// What fails says the same, whoever dialled.
func TestConnectFailsAsOpenDoes(t *testing.T) {
	t.Parallel()
	m := manager(t, Config{})
	gone := listen(t, "tcp", "127.0.0.1:0")
	gone.Close()
	full := filledListener(t)
	nowhere := store.Backend{Path: t.TempDir() + "/none"}
	for name, row := range map[string]struct {
		def  store.Backend
		kind Kind
	}{
		"refused":   {gone.backend(), Refused},
		"no socket": {nowhere, Refused},
		"timeout":   {full, Timeout},
	} {
		p := acquire(t, m, row.def)
		target, ok := p.Target(Request{})
		if !ok {
			t.Fatalf("%s: no Target", name)
		}
		_, err := p.Open(t.Context(), Request{ConnectTimeout: 10 * time.Millisecond})
		want := wantKind(t, err, row.kind, false)
		fd, err := target.Connect()
		if err == nil {
			if row.kind == Timeout {
				err = context.DeadlineExceeded
			} else {
				poll(t, fd, unix.POLLOUT)
				err = target.Finish(fd)
			}
			unix.Close(fd)
		}
		m.held.clear(target.target)
		got := wantKind(t, p.ConnectFailed(target, err), row.kind, false)
		if got.Error() != want.Error() || got.Stage != want.Stage || got.Addr != want.Addr || got.ProxyStatus() != want.ProxyStatus() {
			t.Errorf("%s: %#v, want %#v", name, got, want)
		}
		_, err = p.Open(t.Context(), Request{ConnectTimeout: 10 * time.Millisecond})
		_, ok = p.Target(Request{})
		if held := row.kind == Refused; wantKind(t, err, row.kind, held) == nil || ok == held {
			t.Errorf("%s: Target = %v, want %v", name, ok, !held)
		}
		if err := p.ConnectFailed(target, context.Canceled); err != context.Canceled {
			t.Errorf("%s: given up: %v", name, err)
		}
		if got, want := p.Stats(), (Stats{Failed: 4}); got != want {
			t.Errorf("%s: Stats = %+v, want %+v", name, got, want)
		}
		p.Release()
	}
	// A fault of this machine is counted as such, and ends with a connection.
	p := acquire(t, m, gone.backend())
	m.held.clear(target{addr: netip.MustParseAddrPort(gone.Addr().String())})
	to, _ := p.Target(Request{})
	wantKind(t, p.ConnectFailed(to, unix.EMFILE), Local, false)
	if got := m.LocalFaults(); got != 1 {
		t.Errorf("LocalFaults = %d, want 1", got)
	}
	l := p.Connected(to, -1)
	if _, ok := p.Target(Request{}); !ok {
		t.Error("held down in spite of a connection")
	}
	l.Discard()
	p.Release()
}

// filledListener is a backend that takes no more connections, and does not refuse them.
func filledListener(t *testing.T) store.Backend {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	own, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := store.Backend{Host: "127.0.0.1", Port: uint16(own.(*unix.SockaddrInet4).Port)}
	to := Target{target: target{addr: netip.AddrPortFrom(netip.MustParseAddr(b.Host), b.Port)}}
	for range 10 { // one fills the backlog
		conn, err := to.Connect()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(conn) })
	}
	return b
}

// When Open has to do it, there is no Target.
func TestTargetIsForTheSimpleCasesOnly(t *testing.T) {
	t.Parallel()
	z := &zone{}
	z.set("one.example", "10.0.0.1")
	z.set("two.example", "10.0.0.1", "10.0.0.2")
	usual := Config{Resolver: z}
	tcp := store.Backend{Host: "10.0.0.1", Port: 80}
	for name, row := range map[string]struct {
		config Config
		def    store.Backend
		deps   Deps
		want   string // "" if none
	}{
		"address":           {usual, tcp, Deps{}, "10.0.0.1:80"},
		"mapped address":    {usual, store.Backend{Host: "::ffff:10.0.0.1", Port: 80}, Deps{}, "10.0.0.1:80"},
		"name":              {usual, store.Backend{Host: "One.example", Port: 81}, Deps{}, "10.0.0.1:81"},
		"socket":            {usual, store.Backend{Path: "/run/x"}, Deps{}, "/run/x"},
		"two addresses":     {usual, store.Backend{Host: "two.example", Port: 80}, Deps{}, ""},
		"unknown name":      {usual, store.Backend{Host: "none.example", Port: 80}, Deps{}, ""},
		"zone":              {Config{Rules: Rules{Allow: []netip.Prefix{netip.MustParsePrefix("fe80::/10")}}}, store.Backend{Host: "fe80::1%lo", Port: 80}, Deps{}, ""},
		"prohibited":        {usual, store.Backend{Host: "169.254.169.254", Port: 80}, Deps{}, ""},
		"sockets in a path": {Config{Rules: Rules{PathDir: "/run"}}, store.Backend{Path: "/run/x"}, Deps{}, ""},
		"dialled by others": {Config{Dial: (&network{}).dial}, tcp, Deps{}, ""},
		"via":               {usual, store.Backend{Host: "10.0.0.1", Port: 80, Via: "v"}, Deps{Via: &tcp}, ""},
		"TLS":               {usual, store.Backend{Host: "10.0.0.1", Port: 443, TLS: &store.TLS{}}, Deps{}, ""},
		"h2c":               {usual, store.Backend{Host: "10.0.0.1", Port: 80, Protocol: store.H2C}, Deps{}, ""},
	} {
		m := manager(t, row.config)
		if row.def.Protocol == "" {
			row.def.Protocol = store.HTTP1
		}
		p, err := m.Acquire(&row.def, row.deps)
		if err != nil {
			t.Fatal(err)
		}
		if p.name != nil {
			<-p.name.answered
		}
		target, ok := p.Target(Request{})
		if ok != (row.want != "") || ok && target.String() != row.want {
			t.Errorf("%s: Target = %v, %v, want %q", name, target, ok, row.want)
		}
		if p.Plain() != (name != "TLS" && name != "h2c") {
			t.Errorf("%s: Plain = %v", name, p.Plain())
		}
		if _, err := p.Open(t.Context(), Request{ConnectTimeout: time.Nanosecond}); !p.Plain() && err != errNotPlain {
			t.Errorf("%s: Open = %v, want %v", name, err, errNotPlain)
		}
		p.Release()
	}
	via := store.Backend{Host: "10.0.0.1", Port: 80, Via: "v", Protocol: store.HTTP1}
	p, err := manager(t, usual).Acquire(&via, Deps{Via: &store.Backend{Host: "10.0.0.2", Port: 443, TLS: &store.TLS{}}})
	if err != nil {
		t.Fatal(err)
	}
	if p.Plain() {
		t.Error("Plain over a via with TLS")
	}
	p.Release()
}

// The PROXY header of a Link is that of its request, however it was made.
func TestLinkNamesClientInProxyHeader(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	def := o.backend()
	def.Preamble, def.ProxyHeader = []byte("<"), 1
	p := acquire(t, manager(t, Config{}), def)
	defer p.Release()
	r := Request{Client: netip.MustParseAddrPort("192.0.2.1:1234"), Server: netip.MustParseAddrPort("192.0.2.2:80")}
	for name, l := range map[string]*Link{"Open": open(t, p, r), "Connect": connect(t, p, r)} {
		if got, want := string(l.Prologue()), "<PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n"; got != want {
			t.Errorf("%s: prologue %q, want %q", name, got, want)
		}
		l.Discard()
		reset(l)
	}
}

// A via is on the way of a Link as of any other connection.
func TestLinkGoesByItsVia(t *testing.T) {
	t.Parallel()
	o := listen(t, "tcp", "127.0.0.1:0")
	hop := o.backend()
	def := store.Backend{Host: "192.0.2.9", Port: 80, Via: "v", Protocol: store.HTTP1}
	p, err := manager(t, Config{}).Acquire(&def, Deps{Via: &hop})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	l := open(t, p, Request{ConnectTimeout: 10 * time.Second})
	if got, want := string(l.Prologue()), string(appendViaHeader(nil, netip.MustParseAddrPort("192.0.2.9:80"), "")); got != want {
		t.Errorf("prologue %q, want %q", got, want)
	}
	if got, want := l.Remote(), addrPort(o.Addr()); got != want {
		t.Errorf("Remote = %v, want the via's, %v", got, want)
	}
	l.Discard()
	reset(l)
}

// Where nobody listens, the system may connect a socket to itself.
func TestConnectionToItselfIsRefused(t *testing.T) {
	t.Parallel()
	for _, host := range []string{"127.0.0.1", "::1"} {
		ip := netip.MustParseAddr(host)
		family, anyPort := Target{target: target{addr: netip.AddrPortFrom(ip, 0)}}.sockaddr()
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, anyPort); err != nil {
			t.Fatal(err)
		}
		own, err := unix.Getsockname(fd)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Connect(fd, own); err != nil {
			t.Fatal(err)
		}
		var port int
		switch own := own.(type) {
		case *unix.SockaddrInet4:
			port = own.Port
		case *unix.SockaddrInet6:
			port = own.Port
		}
		if err := (Target{target: target{addr: netip.AddrPortFrom(ip, uint16(port))}}).Finish(fd); err != unix.ECONNREFUSED {
			t.Errorf("%s: Finish = %v, want %v", host, err, unix.ECONNREFUSED)
		}
		unix.Close(fd)
	}
}

// Connect does not wait for a socket's full backlog: that is for Open.
func TestConnectToFullBacklogOfASocket(t *testing.T) {
	t.Parallel()
	address := fmt.Sprintf("@roster-pool-connect-%d", os.Getpid())
	listenBacklog(t, address)
	to := Target{target: target{path: address}}
	for range 100 {
		fd, err := to.Connect()
		if err == unix.EAGAIN && fd == -1 {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
	}
	lack(t, "the backlog is never full")
}

// To take an idle Link, put it back and steal it allocates nothing.
func TestIdleLinksAllocateNothing(t *testing.T) {
	p := acquire(t, New(Config{}), store.Backend{Host: "127.0.0.1", Port: 80, IdleTimeout: time.Minute})
	a, b := p.m.NewLane(func([]*Link) {}), p.m.NewLane(func([]*Link) {})
	fakeLink(p, -1).Put(a)
	if n := testing.AllocsPerRun(100, func() { p.Idle(b).Put(b); p.Idle(b).Put(a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
	p.Release()
}
