//go:build unix

package sockets

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// heirVar makes this program the heir of a test: it has what it wants, in JSON.
const heirVar = "SOCKETS_TEST_HEIR"

type order struct {
	Heir   bool     // inherit from an older process, not from a service manager
	Listen []string // network and address
	Adopt  bool
}

// result is what the heir found.
type result struct {
	Error    string
	Listened []string // "inherited 2 tcp 127.0.0.1:1234"
	Closed   []string
	Served   int
	Left     []string // of LISTEN_* in the environment
	Flags    []string // of inherited sockets that are not as they should be
}

func TestMain(m *testing.M) {
	if text := os.Getenv(heirVar); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			panic(err)
		}
		json.NewEncoder(os.Stdout).Encode(beHeir(o))
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// beHeir inherits, listens, and answers one connection on each socket with its number.
func beHeir(o order) (r result) {
	defer func() {
		if e := recover(); e != nil {
			r.Error = fmt.Sprint(e)
		}
	}()
	if !o.Heir {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // as systemd does
	}
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	set, err := Inherit(o.Heir)
	check(err)
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "LISTEN_") {
			r.Left = append(r.Left, kv)
		}
	}
	for _, text := range o.Listen {
		network, address, _ := strings.Cut(text, " ")
		l, err := set.Listen(network, address, 2)
		check(err)
		inherited := "opened"
		if l.Inherited {
			inherited = "inherited"
		}
		r.Listened = append(r.Listened, fmt.Sprintf("%s %d %s %s", inherited, len(l.Sockets), network, l.Addr()))
		for _, s := range l.Sockets {
			fd, err := s.FD()
			check(err)
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			check(err)
			status, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			check(err)
			if flags&unix.FD_CLOEXEC == 0 || status&unix.O_NONBLOCK == 0 {
				r.Flags = append(r.Flags, fmt.Sprintf("%s: %#x %#x", s.Addr(), flags, status))
			}
		}
		if l.Inherited {
			for _, s := range l.Sockets {
				ln, err := s.Listener()
				check(err)
				c, err := ln.Accept()
				check(err)
				fmt.Fprintln(c, "heir")
				c.Close()
				r.Served++
			}
		}
	}
	if o.Adopt {
		set.Adopt()
	}
	closed, err := set.Leftover()
	check(err)
	for _, a := range closed {
		r.Closed = append(r.Closed, a.String())
	}
	set.Close()
	return r
}

// startHeir runs this program with what was passed on, and returns what it found.
func startHeir(t *testing.T, p *Passage, o order) (found func() result) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = slices.Concat(os.Environ(), p.Env, []string{heirVar + "=" + string(text)})
	cmd.ExtraFiles = p.Files
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.Close()
	return func() (r result) {
		t.Helper()
		err := json.NewDecoder(out).Decode(&r)
		if wait := cmd.Wait(); err != nil || wait != nil {
			t.Fatal(err, wait)
		}
		return r
	}
}

func listen(t *testing.T, s *Set, network, address string, count int) *Listener {
	t.Helper()
	l, err := s.Listen(network, address, count)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// ask connects, and reads who has answered when it is called.
func ask(t *testing.T, a net.Addr) (answer func() string) {
	t.Helper()
	c, err := net.Dial(a.Network(), a.String())
	if err != nil {
		t.Fatal(err)
	}
	return func() string {
		defer c.Close()
		b := make([]byte, 100)
		n, _ := c.Read(b)
		return strings.TrimSpace(string(b[:n]))
	}
}

func pass(t *testing.T, s *Set) *Passage {
	t.Helper()
	p, err := s.Pass()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// What waits in the queues of all sockets, also after they are closed here, is the
// heir's. It finds them by what was listened for, port 0 included, opens what was not
// passed on, and closes what it does not want.
func TestSocketsArePassedOn(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	var set Set
	tcp := listen(t, &set, "tcp", "127.0.0.1:0", 1)
	file := listen(t, &set, "unix", path, 3)
	unwanted := listen(t, &set, "tcp", "127.0.0.2:0", 1)
	if len(file.Sockets) != 1 {
		t.Fatalf("%d sockets for a file", len(file.Sockets))
	}
	if _, err := file.Sockets[0].FD(); err != nil { // either form is passed on
		t.Fatal(err)
	}
	first, second := ask(t, tcp.Addr()), ask(t, file.Addr())
	found := startHeir(t, pass(t, &set), order{Heir: true, Listen: []string{"tcp 127.0.0.1:0", "unix " + path, "tcp 127.0.0.3:0"}})
	set.Release()
	tcp.Close()
	file.Close()
	if got := first() + " " + second(); got != "heir heir" {
		t.Errorf("answers %q", got)
	}
	r := found()
	if r.Error != "" || r.Left != nil || r.Flags != nil {
		t.Errorf("%+v", r)
	}
	want := []string{"inherited 1 tcp " + tcp.Addr().String(), "inherited 1 unix " + path, "opened"}
	if len(r.Listened) != 3 || r.Listened[0] != want[0] || r.Listened[1] != want[1] || !strings.HasPrefix(r.Listened[2], want[2]) {
		t.Errorf("listened %q, want %q", r.Listened, want)
	}
	if !slices.Equal(r.Closed, []string{unwanted.Addr().String()}) {
		t.Errorf("closed %q, want %v", r.Closed, unwanted.Addr())
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("a process that did not adopt the file has removed it:", err)
	}
	if c, err := net.Dial("tcp", unwanted.Addr().String()); err != nil {
		t.Error("what the heir did not want is gone here:", err)
	} else {
		c.Close()
	}
}

// The file of a socket is removed by the last process, unless that was not its first.
func TestTheFileGoesWithTheLastProcess(t *testing.T) {
	t.Parallel()
	for _, adopt := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "s")
		var set Set
		l := listen(t, &set, "unix", path, 1)
		answer := ask(t, l.Addr())
		found := startHeir(t, pass(t, &set), order{Heir: true, Listen: []string{"unix " + path}, Adopt: adopt})
		if answer() != "heir" {
			t.Error("no answer")
		}
		if r := found(); r.Error != "" {
			t.Error(r.Error)
		}
		if _, err := os.Stat(path); (err != nil) != adopt {
			t.Errorf("adopt %t: %v", adopt, err)
		}
		l.Close()
		if _, err := os.Stat(path); err == nil {
			t.Error("the file is still there")
		}
	}
}

// By systemd's convention sockets are found by where they are bound, whatever they are
// called, and a file stays. One that nothing listens on is an error.
func TestSocketsOfAServiceManager(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	var set Set
	wild := listen(t, &set, "tcp", ":0", 1)
	file := listen(t, &set, "unix", path, 1)
	port := wild.Addr().(*net.TCPAddr).Port
	systemd := func() *Passage {
		p := pass(t, &set)
		p.Env = []string{"LISTEN_FDS=2", "LISTEN_FDNAMES=roster.socket:front"}
		return p
	}
	first, second := ask(t, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}), ask(t, file.Addr())
	r := startHeir(t, systemd(), order{Listen: []string{fmt.Sprintf("tcp :%d", port), "unix " + path}, Adopt: true})()
	if got := first() + " " + second(); got != "heir heir" || r.Error != "" || r.Flags != nil {
		t.Errorf("answers %q, %+v", got, r)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("the service manager's file was removed:", err)
	}

	third := ask(t, file.Addr())
	r = startHeir(t, systemd(), order{Listen: []string{"unix " + path}})()
	third()
	if !strings.Contains(r.Error, "(roster.socket)") || !strings.Contains(r.Error, strconv.Itoa(port)) {
		t.Errorf("error %q, want the socket that nothing listens on", r.Error)
	}
	r = startHeir(t, systemd(), order{Listen: []string{fmt.Sprintf("tcp 127.0.0.1:%d", port)}})()
	if !strings.Contains(r.Error, "in use; inherited, and bound to another address, are ") {
		t.Errorf("error %q, want what was inherited besides", r.Error)
	}
}

func TestInheritRefusesWhatIsNoListener(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	got := startHeir(t, &Passage{Files: []*os.File{r}, Env: []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=pipe"}}, order{})()
	if !strings.Contains(got.Error, `inherited descriptor 3 "pipe"`) {
		t.Errorf("error %q", got.Error)
	}
	got = startHeir(t, &Passage{Env: []string{"LISTEN_FDS=some"}}, order{})()
	if want := `LISTEN_FDS is "some", want a number`; got.Error != want {
		t.Errorf("error %q, want %q", got.Error, want)
	}
}

// Several sockets share an address which another Set, as another process, finds taken,
// and all are passed on.
func TestSeveralSocketsForOneAddress(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only Linux spreads connections over sockets")
	}
	for _, address := range []string{"127.0.0.1:0", "[::]:0", ":0"} {
		var set, other Set
		l := listen(t, &set, "tcp", address, 3)
		if len(l.Sockets) != 3 {
			t.Fatalf("%s: %d sockets, want 3", address, len(l.Sockets))
		}
		for _, s := range l.Sockets {
			if s.Addr().String() != l.Addr().String() {
				t.Errorf("%s: %v and %v", address, l.Addr(), s.Addr())
			}
		}
		for _, count := range []int{1, 3} {
			if second, err := other.Listen("tcp", l.Addr().String(), count); err == nil {
				second.Close()
				t.Errorf("%v was opened a second time, with %d sockets", l.Addr(), count)
			}
		}
		// The kernel spreads by the client's port: enough clients reach all three.
		target := &net.TCPAddr{IP: net.IPv6loopback, Port: l.Addr().(*net.TCPAddr).Port}
		if strings.HasPrefix(address, "127.") {
			target.IP = net.IPv4(127, 0, 0, 1)
		}
		var answers []func() string
		for range 60 {
			answers = append(answers, ask(t, target))
		}
		found := startHeir(t, pass(t, &set), order{Heir: true, Listen: []string{"tcp " + address}})
		l.Close()
		heir := 0
		for _, answer := range answers {
			if answer() == "heir" {
				heir++
			}
		}
		if r := found(); r.Error != "" || r.Served != 3 || heir != 3 || r.Listened[0] != "inherited 3 tcp "+l.Addr().String() {
			t.Errorf("%s: %d answers, %+v, want one of each socket", address, heir, r)
		}
	}
}

// A process that was killed leaves its socket's file; one that lives keeps it.
func TestAStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	var set Set
	first := listen(t, &set, "unix", path, 1)
	if _, err := set.Listen("unix", path, 1); err == nil {
		t.Fatal("a socket in use was taken over")
	}
	set.Release()
	first.Close()
	second := listen(t, &set, "unix", path, 1)
	second.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := set.Listen("unix", path, 1); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

// A socket changes its form, and is closed once.
func TestASocketChangesItsForm(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	var set Set
	for _, l := range []*Listener{listen(t, &set, "tcp", "127.0.0.1:0", 1), listen(t, &set, "unix", path, 1)} {
		s := l.Sockets[0]
		for range 2 {
			if _, err := s.FD(); err != nil {
				t.Fatal(err)
			}
			answer := ask(t, l.Addr())
			ln, err := s.Listener()
			if err != nil {
				t.Fatal(err)
			}
			c, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(c, "here")
			c.Close()
			if got := answer(); got != "here" {
				t.Errorf("%v: answer %q", l.Addr(), got)
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.FD(); err == nil {
			t.Error("a closed socket has a descriptor")
		}
		if c, err := net.Dial(l.Addr().Network(), l.Addr().String()); err == nil {
			c.Close()
			t.Errorf("%v is still listened on", l.Addr())
		}
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is still there")
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	v4 := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip).To4(), Port: port} }
	v6 := func(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }
	for _, test := range []struct {
		network, address string
		bound            net.Addr
		want             bool
	}{
		{"tcp", ":80", v6("::", 80), true},
		{"tcp", ":80", v4("0.0.0.0", 80), true},
		{"tcp", ":http", v6("::", 80), true},
		{"tcp", ":81", v6("::", 80), false},
		{"tcp", ":80", v4("127.0.0.1", 80), false},
		{"tcp", "0.0.0.0:80", v4("0.0.0.0", 80), true},
		{"tcp", "0.0.0.0:80", v6("::", 80), false},
		{"tcp", "127.0.0.1:80", v4("127.0.0.1", 80), true},
		{"tcp", "localhost:80", v4("127.0.0.1", 80), true},
		{"tcp", "127.0.0.1:80", v4("127.0.0.2", 80), false},
		{"tcp", "127.0.0.1:80", v6("::", 80), false},
		{"tcp", "[::1]:80", v6("::1", 80), true},
		{"tcp", "[fe80::1%eth0]:80", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 80, Zone: "eth0"}, true},
		{"tcp", "[fe80::1%eth0]:80", &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 80, Zone: "eth1"}, false},
		{"tcp", ":80", &net.UnixAddr{Name: ":80", Net: "unix"}, false},
		{"unix", "/run/s", &net.UnixAddr{Name: "/run/s", Net: "unix"}, true},
		{"unix", "/run//x/../s", &net.UnixAddr{Name: "/run/s", Net: "unix"}, true},
		{"unix", "/run/s", &net.UnixAddr{Name: "/run/t", Net: "unix"}, false},
		{"unix", "@s", &net.UnixAddr{Name: "@s", Net: "unix"}, true},
		{"unix", "@s", &net.UnixAddr{Name: "/s", Net: "unix"}, false},
		{"unix", "/run/s", v4("127.0.0.1", 80), false},
	} {
		if got := matches(test.network, test.address, test.bound); got != test.want {
			t.Errorf("%s %s, bound to %v: %t", test.network, test.address, test.bound, got)
		}
	}
}
