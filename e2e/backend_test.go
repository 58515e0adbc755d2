package e2e_test

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"roster/e2e/harness"
)

// Each field of a backend, on the wire: the test plays the client and the origin, with
// the built node and a real etcd between.

// A plane is a node with its etcd for many tests at once, each with names of its own.
type plane struct {
	*harness.Node
	t      *testing.T
	driver driver
	etcd   *clientv3.Client
	config harness.NodeConfig
	prefix string // of names: "tN"
	unix   string // where the node listens besides
	six    string // and on ::1, "" where there is none
}

// A planeTest is one test on a node that it shares with others.
type planeTest struct {
	name string
	run  func(t *testing.T, p *plane)
}

// backendTests are those of all files.
func backendTests() []planeTest {
	return slices.Concat(prologueTests, hostTests, timeoutTests, limitTests, poolTests, tlsTests, protocolTests)
}

func TestBackendFieldsOnTheWire(t *testing.T) {
	t.Parallel()
	for _, d := range drivers {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			p := newPlane(t, d)
			for i, test := range backendTests() {
				t.Run(test.name, func(t *testing.T) {
					t.Parallel()
					test.run(t, p.of(t, i))
				})
			}
		})
	}
}

func newPlane(t *testing.T, d driver) *plane {
	t.Helper()
	etcd := harness.StartEtcd(t)
	dir := shortDir(t)
	p := &plane{t: t, driver: d, etcd: etcd.Client(), unix: filepath.Join(dir, "node")}
	p.config = harness.NodeConfig{Etcd: etcd.Endpoints(), Args: d.args("--listen", "unix://"+p.unix)}
	if l, err := net.Listen("tcp", "[::1]:0"); err == nil {
		l.Close()
		p.six = fmt.Sprintf("[::1]:%d", harness.FreePort(t))
		p.config.Args = append(p.config.Args, "--listen", p.six)
	}
	p.Node = harness.StartNode(t, p.config)
	return p
}

// oneLoop is the plane with a node of one loop, which knows all idle connections.
func (p *plane) oneLoop() *plane {
	p.t.Helper()
	q := *p
	q.Node = harness.StartNode(p.t, harness.NodeConfig{Etcd: p.config.Etcd, Args: []string{"--loops", "1"}})
	return &q
}

// of is the plane for one test.
func (p *plane) of(t *testing.T, n int) *plane {
	q := *p
	q.t, q.prefix = t, fmt.Sprintf("t%d", n)
	q.Node = p.Node.For(t)
	return &q
}

// name is a name of this test's own.
func (p *plane) name(name string) string { return p.prefix + "/" + name }

// put writes definitions, at the keys below /roster/, in one transaction, and waits
// until they are in effect. An empty value deletes.
func (p *plane) put(pairs ...string) {
	p.t.Helper()
	var ops []clientv3.Op
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			ops = append(ops, clientv3.OpDelete("/roster/"+pairs[i]))
		} else {
			ops = append(ops, clientv3.OpPut("/roster/"+pairs[i], pairs[i+1]))
		}
	}
	r, err := p.etcd.Txn(p.t.Context()).Then(ops...).Commit()
	if err != nil {
		p.t.Fatal(err)
	}
	s := p.WaitRevision(r.Header.Revision)
	for _, rejected := range s.Rejected {
		if strings.Contains(rejected.Key, "/"+p.prefix+"/") {
			p.t.Fatalf("rejected: %+v", rejected)
		}
	}
}

// backend defines a backend, with a route to it for the path below target.
func (p *plane) backend(name, def string) {
	p.t.Helper()
	name = p.name(name)
	p.put("backends/"+name, def,
		"routes/"+name, fmt.Sprintf(`{"match":{"path":"/%s/*"},"backend":%q}`, name, name))
}

// at is a definition of a backend at a listener of the test. Each of more is a further
// field.
func at(s *harness.Socket, more ...string) string {
	host, port, err := net.SplitHostPort(s.Address())
	fields := []string{fmt.Sprintf(`"host":%q,"port":%s`, host, port)}
	if err != nil {
		fields = []string{fmt.Sprintf(`"path":%q`, s.Address())}
	}
	return "{" + strings.Join(append(fields, more...), ",") + "}"
}

// client is a new client.
func (p *plane) client() *harness.Wire {
	p.t.Helper()
	return harness.Dial(p.t, "tcp", p.Address())
}

// target is a path that leads to a backend.
func (p *plane) target(name string) string { return "/" + p.name(name) + "/x" }

// get is a GET that leads to a backend.
func (p *plane) get(name string) string { return get(p.target(name), "") }

// post is a POST of a body that leads to a backend.
func (p *plane) post(name, body string) string {
	return post(p.target(name), fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
}

// ask sends a GET on a new connection.
func (p *plane) ask(name string) *harness.Wire {
	p.t.Helper()
	c := p.client()
	c.Send(p.get(name))
	return c
}

// serve answers one request on a connection of the origin, and returns it.
func serve(w *harness.Wire, body string) harness.Message {
	m := w.Request()
	w.Send(answer(body))
	return m
}

func answer(body string) string {
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// echoes lets an origin answer every request with its name.
func echoes(s *harness.Socket, name string) *harness.Socket {
	s.Each(func(w *harness.Wire) {
		for {
			if _, err := w.ReadRequest(); err != nil {
				return
			}
			fmt.Fprint(w, answer(name))
		}
	})
	return s
}

// want checks an answer that is a good one.
func want(t testing.TB, m harness.Message, body string) {
	t.Helper()
	if m.Status() != 200 || m.Body != body {
		t.Fatalf("answer %v, want 200 %q", m, body)
	}
}

// wantError checks an answer that the node makes when there is none.
func wantError(t testing.TB, m harness.Message, status int, proxyError string) {
	t.Helper()
	if m.Status() != status || m.Get("proxy-status") != "roster; error="+proxyError {
		t.Fatalf("answer %v, want %d for %s", m, status, proxyError)
	}
}

// backendState is what the admin API says of a backend.
type backendState struct {
	Requests struct {
		Active, Queued int
		Total          int64
	}
	Connections struct{ Active, Idle int }
}

func (p *plane) state(name string) backendState {
	p.t.Helper()
	var s backendState
	a := p.AdminGet("/v1/backends/" + p.name(name))
	if err := json.Unmarshal([]byte(a.Body), &s); err != nil {
		p.t.Fatalf("%v: %v", a, err)
	}
	return s
}

// waitState waits until the admin API says what is wanted of a backend.
func (p *plane) waitState(name, what string, check func(backendState) bool) {
	p.t.Helper()
	harness.Until(p.t, what, func() (bool, any) {
		s := p.state(name)
		return check(s), s
	})
}

const v2Signature = "\r\n\r\n\x00\r\nQUIT\n"

// v2 is a header of the PROXY protocol's version 2 with addresses, by its
// specification (2.2): source, destination, ports, and TLVs.
func v2(src, dst netip.AddrPort, tlvs string) string {
	family := byte(0x11)
	if dst.Addr().Is6() {
		family = 0x21
	}
	b := slices.Concat(src.Addr().AsSlice(), dst.Addr().AsSlice())
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = append(b, tlvs...)
	head := binary.BigEndian.AppendUint16([]byte{0x21, family}, uint16(len(b)))
	return v2Signature + string(head) + string(b)
}

// authority is the TLV that names a host.
func authority(name string) string {
	return "\x02" + string(binary.BigEndian.AppendUint16(nil, uint16(len(name)))) + name
}

func addrPort(a net.Addr) netip.AddrPort { return netip.MustParseAddrPort(a.String()) }

var prologueTests = []planeTest{
	{"a PROXY header of version 1 names client and server", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"proxy_header":1`))
		c := p.ask("b")
		w := origin.Accept()
		local, server := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
		header := fmt.Sprintf("PROXY TCP4 127.0.0.1 127.0.0.1 %d %d\r\n", local.Port(), server.Port())
		if got := w.Line(); got != header {
			t.Errorf("header %q, want %q", got, header)
		}
		serve(w, "one")
		want(t, c.Response(), "one")
	}},
	{"a PROXY header of version 2 names client and server", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"proxy_header":2`))
		c := p.ask("b")
		w := origin.Accept()
		header := v2(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()), "")
		if got := w.Take(len(header)); got != header {
			t.Errorf("header %q, want %q", got, header)
		}
		serve(w, "one")
		want(t, c.Response(), "one")
	}},
	{"PROXY headers for a client with IPv6", func(t *testing.T, p *plane) {
		if p.six == "" {
			harness.Lack(t, "no ::1 here")
		}
		origin := harness.Listen(t)
		p.backend("b1", at(origin, `"proxy_header":1`))
		p.backend("b2", at(origin, `"proxy_header":2`))
		c := harness.Dial(t, "tcp", p.six)
		c.Send(p.get("b1"))
		w := origin.Accept()
		header := fmt.Sprintf("PROXY TCP6 ::1 ::1 %d %d\r\n", addrPort(c.LocalAddr()).Port(), addrPort(c.RemoteAddr()).Port())
		if got := w.Line(); got != header {
			t.Errorf("header %q, want %q", got, header)
		}
		serve(w, "one")
		want(t, c.Response(), "one")
		c.Send(p.get("b2"))
		w = origin.Accept()
		header = v2(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()), "")
		if got := w.Take(len(header)); got != header {
			t.Errorf("header %q, want %q", got, header)
		}
		serve(w, "two")
		want(t, c.Response(), "two")
	}},
	{"a client on a socket is UNKNOWN in PROXY headers", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b1", at(origin, `"proxy_header":1`))
		p.backend("b2", at(origin, `"proxy_header":2`))
		c := harness.Dial(t, "unix", p.unix)
		c.Send(p.get("b1"))
		w := origin.Accept()
		if got := w.Line(); got != "PROXY UNKNOWN\r\n" {
			t.Errorf("header %q, want UNKNOWN", got)
		}
		serve(w, "one")
		want(t, c.Response(), "one")
		c.Send(p.get("b2"))
		w = origin.Accept()
		header := v2Signature + "\x21\x00\x00\x00"
		if got := w.Take(len(header)); got != header {
			t.Errorf("header %q, want %q", got, header)
		}
		serve(w, "two")
		want(t, c.Response(), "two")
	}},
	{"a connection with a PROXY header serves one request", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"proxy_header":1`))
		p.backend("other", at(origin, `"proxy_header":1`))
		c := p.client()
		for _, name := range []string{"b", "b", "other"} {
			c.Send(p.get(name))
			w := origin.Accept()
			w.Line()
			serve(w, name)
			want(t, c.Response(), name)
			if more, _ := w.End(); more != "" {
				t.Errorf("more on a connection with a PROXY header: %q", more)
			}
		}
	}},
	{"a preamble is sent first, once on each connection", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		preamble := "\x00\r\nGET / \xff" + strings.Repeat("p", 3000)
		p.backend("b", at(origin, `"preamble":"`+base64.StdEncoding.EncodeToString([]byte(preamble))+`"`))
		c := p.ask("b")
		w := origin.Accept()
		if got := w.Take(len(preamble)); got != preamble {
			t.Errorf("preamble %q", got)
		}
		serve(w, "one")
		want(t, c.Response(), "one")
		c.Send(p.get("b"))
		serve(w, "two") // on the same connection, without it
		want(t, c.Response(), "two")
		c.Send(p.post("b", strings.Repeat("x", 100<<10)), p.get("b"))
		serve(w, "three")
		want(t, c.Response(), "three")
		serve(w, "four")
		want(t, c.Response(), "four")
		if n := origin.Opened(); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	}},
	{"a preamble comes before the PROXY header, also with a long body", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"preamble":"`+base64.StdEncoding.EncodeToString([]byte("hello\r\n"))+`","proxy_header":1`))
		c := p.client()
		body := strings.Repeat("x", 300<<10)
		go c.Write([]byte(p.post("b", body)))
		w := origin.Accept()
		if got := w.Line(); got != "hello\r\n" {
			t.Errorf("first %q, want the preamble", got)
		}
		if got := w.Line(); !strings.HasPrefix(got, "PROXY TCP4 ") {
			t.Errorf("second %q, want the PROXY header", got)
		}
		if m := serve(w, "one"); m.Body != body {
			t.Errorf("body of %d bytes, want %d", len(m.Body), len(body))
		}
		want(t, c.Response(), "one")
	}},
	{"a via is told where to connect to, and for whom", func(t *testing.T, p *plane) {
		gate := harness.Listen(t)
		p.backend("gate", at(gate))
		nobody := netip.MustParseAddrPort("0.0.0.0:0")
		four := netip.MustParseAddrPort("192.0.2.1:81")
		six := netip.MustParseAddrPort("[2001:db8::1]:81")
		nobody6 := netip.MustParseAddrPort("[::]:0")
		for i, test := range []struct{ def, header, host string }{
			{`"host":"192.0.2.1","port":81`, v2(nobody, four, ""), "192.0.2.1:81"},
			{`"host":"192.0.2.1:81","host_header":"www.example.com"`, v2(nobody, four, authority("www.example.com")), "www.example.com"},
			{`"host":"192.0.2.1:81","host_header":"www.example.com:8080"`, v2(nobody, four, authority("www.example.com")), "www.example.com:8080"},
			{`"host":"192.0.2.1:81","host_header":"www.example.com","authority":"a.example:443"`, v2(nobody, four, authority("a.example")), "www.example.com"},
			{`"host":"192.0.2.1:81","host_header":"www.example.com","authority":""`, v2(nobody, four, ""), "www.example.com"},
			{`"host":"192.0.2.1:81","host_header":"www.example.com","authority":"192.0.2.9"`, v2(nobody, four, ""), "www.example.com"},
			{`"host":"192.0.2.1:81","authority":"[2001:db8::9]:1"`, v2(nobody, four, ""), "192.0.2.1:81"},
			{`"host":"2001:db8::1","port":81`, v2(nobody6, six, ""), "[2001:db8::1]:81"},
			{`"host":"[2001:db8::1]:81","authority":"six.example"`, v2(nobody6, six, authority("six.example")), "[2001:db8::1]:81"},
		} {
			name := "b" + strconv.Itoa(i)
			p.backend(name, fmt.Sprintf(`{%s,"via":%q,"override_host":true,"pool":%q}`, test.def, p.name("gate"), name))
			c := p.ask(name)
			w := gate.Accept()
			if got := w.Take(len(test.header)); got != test.header {
				t.Errorf("%s: header %q, want %q", test.def, got, test.header)
			}
			if m := serve(w, name); m.Get("host") != test.host {
				t.Errorf("%s: Host %q, want %q", test.def, m.Get("host"), test.host)
			}
			want(t, c.Response(), name)
		}
	}},
	{"the order is preamble of the via, header for the via, preamble, PROXY header", func(t *testing.T, p *plane) {
		gate := harness.ListenUnix(t)
		encoded := func(s string) string { return `"preamble":"` + base64.StdEncoding.EncodeToString([]byte(s)) + `"` }
		p.backend("gate", at(gate, encoded("gate\r\n")))
		p.backend("b", fmt.Sprintf(`{"host":"192.0.2.1","host_header":"b.example",%s,"proxy_header":2,"via":%q}`, encoded("backend\r\n"), p.name("gate")))
		c := p.ask("b")
		w := gate.Accept()
		all := "gate\r\n" +
			v2(netip.MustParseAddrPort("0.0.0.0:0"), netip.MustParseAddrPort("192.0.2.1:80"), authority("b.example")) +
			"backend\r\n" +
			v2(addrPort(c.LocalAddr()), addrPort(c.RemoteAddr()), "")
		if got := w.Take(len(all)); got != all {
			t.Errorf("prologue\n%q, want\n%q", got, all)
		}
		serve(w, "one")
		want(t, c.Response(), "one")
	}},
	{"a via that is missing, or has a via itself, is 503", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("far", at(origin, fmt.Sprintf(`"via":%q`, p.name("none"))))
		wantError(t, p.ask("far").Response(), 503, "destination_unavailable")
		p.backend("gate", at(origin))
		p.backend("second", at(origin, fmt.Sprintf(`"via":%q`, p.name("gate"))))
		p.backend("third", at(origin, fmt.Sprintf(`"via":%q`, p.name("second"))))
		wantError(t, p.ask("third").Response(), 503, "destination_unavailable")
		if n := origin.Opened(); n != 0 {
			t.Errorf("%d connections, want none", n)
		}
	}},
}

var hostTests = []planeTest{
	{"spellings of host and port", func(t *testing.T, p *plane) {
		four := harness.Listen(t)
		echoes(four, "four")
		defs := map[string]string{
			fmt.Sprintf(`{"host":%q}`, four.Address()):                            "four",
			fmt.Sprintf(`{"host":"127.0.0.1","port":%s}`, four.Port()):            "four",
			fmt.Sprintf(`{"host":"::ffff:127.0.0.1","port":%s}`, four.Port()):     "four",
			fmt.Sprintf(`{"host":"localhost","port":%s}`, four.Port()):            "four",
			fmt.Sprintf(`{"host":"LocalHost:%s"}`, four.Port()):                   "four",
			`{"host":"127.88.0.1","port":"http-wmap"}`:                            "service",
			`{"host":"127.88.0.1:http-wmap"}`:                                     "service",
			`{"host":"127.88.0.1","port":8990,"host_header":"elsewhere.example"}`: "service",
		}
		echoes(harness.ListenAt(t, "tcp", "127.88.0.1:8990"), "service")
		if p.six != "" {
			six := harness.ListenAt(t, "tcp", fmt.Sprintf("[::1]:%d", harness.FreePort(t)))
			echoes(six, "six")
			defs[fmt.Sprintf(`{"host":%q}`, six.Address())] = "six"
			defs[fmt.Sprintf(`{"host":"::1","port":%s}`, six.Port())] = "six"
			defs[fmt.Sprintf(`{"host":"0:0:0:0:0:0:0:1","port":%s}`, six.Port())] = "six"
		}
		i := 0
		for def, name := range defs {
			i++
			b := "b" + strconv.Itoa(i)
			p.backend(b, def)
			if m := p.ask(b).Response(); m.Status() != 200 || m.Body != name {
				t.Errorf("%s: %v, want %s", def, m, name)
			}
		}
	}},
	{"a path is a socket, with @ an abstract one", func(t *testing.T, p *plane) {
		p.backend("file", at(echoes(harness.ListenUnix(t), "file")))
		want(t, p.ask("file").Response(), "file")
		name := fmt.Sprintf("@roster-e2e-%d-%s", os.Getpid(), p.prefix)
		echoes(harness.ListenAt(t, "unix", name), "abstract")
		p.backend("abstract", fmt.Sprintf(`{"path":%q}`, name))
		want(t, p.ask("abstract").Response(), "abstract")
	}},
	{"a socket that is missing is refused until it is there", func(t *testing.T, p *plane) {
		path := filepath.Join(filepath.Dir(p.unix), p.prefix)
		p.backend("b", fmt.Sprintf(`{"path":%q}`, path))
		wantError(t, p.ask("b").Response(), 502, "connection_refused")
		echoes(harness.ListenAt(t, "unix", path), "here")
		harness.Until(t, "an answer from the socket", func() (bool, any) {
			m := p.ask("b").Response()
			return m.Status() == 200, m
		})
	}},
	{"Host is the client's, host_header where there is none, and instead of it with override_host", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		socket := harness.ListenUnix(t)
		for i, test := range []struct {
			on        *harness.Socket
			more      string
			head      string // what the client sends after the target
			want      string
			forwarded string
		}{
			{origin, `"comment":"-"`, "HTTP/1.1\r\nHost: client.example\r\n\r\n", "client.example", "client.example"},
			{origin, `"comment":"-"`, "HTTP/1.0\r\n\r\n", origin.Address(), ""},
			{origin, `"host_header":"h.example"`, "HTTP/1.0\r\n\r\n", "h.example", ""},
			{origin, `"host_header":"h.example"`, "HTTP/1.1\r\nHost:\r\n\r\n", "h.example", ""},
			{origin, `"host_header":"h.example"`, "HTTP/1.1\r\nHost: client.example\r\n\r\n", "client.example", "client.example"},
			{origin, `"host_header":"h.example:81","override_host":true`, "HTTP/1.1\r\nHost: client.example\r\n\r\n", "h.example:81", "client.example"},
			{origin, `"override_host":true`, "HTTP/1.1\r\nHost: client.example\r\n\r\n", origin.Address(), "client.example"},
			{socket, `"comment":"-"`, "HTTP/1.0\r\n\r\n", "localhost", ""},
			{socket, `"override_host":true`, "HTTP/1.1\r\nHost: client.example\r\n\r\n", "localhost", "client.example"},
		} {
			name := "b" + strconv.Itoa(i)
			p.backend(name, at(test.on, test.more, fmt.Sprintf(`"pool":%q`, p.name(name))))
			c := p.client()
			c.Send("GET ", p.target(name), " ", test.head)
			m := serve(test.on.Accept(), name)
			if got := m.Get("host"); got != test.want || m.Get("x-forwarded-host") != test.forwarded {
				t.Errorf("%s, %q: Host %q and X-Forwarded-Host %q, want %q and %q",
					test.more, test.head, got, m.Get("x-forwarded-host"), test.want, test.forwarded)
			}
			want(t, c.Response(), name)
		}
	}},
	{"none always fails", func(t *testing.T, p *plane) {
		p.backend("b", `{"none":true}`)
		wantError(t, p.ask("b").Response(), 503, "destination_unavailable")
	}},
	{"reuse false says Connection: close and closes", func(t *testing.T, p *plane) {
		origin := harness.Listen(t)
		p.backend("b", at(origin, `"reuse":false`))
		c := p.client()
		for _, body := range []string{"one", "two"} {
			c.Send(p.get("b"))
			w := origin.Accept()
			if m := serve(w, body); m.Get("connection") != "close" {
				t.Errorf("Connection %q, want close", m.Get("connection"))
			}
			if m := c.Response(); m.Get("connection") != "" || m.Body != body {
				t.Errorf("answer %v, want one that leaves the client's connection open", m)
			}
			if more, _ := w.End(); more != "" {
				t.Errorf("more on the connection: %q", more)
			}
		}
	}},
}
