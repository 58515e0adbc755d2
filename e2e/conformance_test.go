package e2e_test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"roster/e2e/harness"
)

// What the RFCs' MUSTs say of requests and answers, with the built node between a
// client and an origin that record every byte. The rows of http1/testdata are used, so
// that what the codec says is also what happens, and cases that need a whole exchange.

// canary is a good request behind the one that a case is about.
const canary = "GET /canary HTTP/1.1\r\nHost: canary.test\r\nConnection: close\r\n\r\n"

// A requestCase is what a client sends on one connection, and what may come of it.
type requestCase struct {
	name    string
	send    string
	cut     bool     // the client ends its stream then; else the node has to end the connection
	answers []int    // statuses that the client gets, in their order
	seen    []string // requests that reach the origin, as shown by show
	// polite: the request is complete and the connection ends after it, so a canary that
	// comes byte by byte would meet a closed connection, and the answer might be lost.
	polite bool
	check  func(m harness.Message) string
}

// TestRequestsReachTheOriginOnceOrNotAtAll sends every case in each way: as a whole and byte
// by byte, with either driver, and over TLS; from an address of its own, which X-Forwarded-For names
// at the origin. When the nodes have ended and nothing is under way any more, each case's requests at the
// origin have to be those it is meant to cause, all of them in a form that can be read
// in one way only.
func TestRequestsReachTheOriginOnceOrNotAtAll(t *testing.T) {
	t.Parallel()
	origin := harness.Listen(t)
	seen := record(origin)
	nodes, ways := startWays(t)
	put(nodes, webKey, fmt.Sprintf(`{"host":"127.0.0.1","port":%s,"host_header":"none.test"}`, origin.Port()))

	var cases []requestCase
	for _, row := range conformanceRows(t, "requests.txt", false) {
		if strings.HasPrefix(row.in, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") {
			continue // a node speaks HTTP/2 then
		}
		cases = append(cases, row.request(t))
	}
	for _, row := range conformanceRows(t, "chunked.txt", false) {
		cases = append(cases, row.chunkedRequest(t))
	}
	cases = append(cases, requestCases...)

	ran := map[string]requestCase{} // by the client's address
	t.Run("cases", func(t *testing.T) {
		for i, c := range cases {
			for n, way := range ways {
				n += len(ways) * i
				from := fmt.Sprintf("127.77.%d.%d", n/250, 1+n%250)
				ran[from] = c
				t.Run(c.name+"/"+way.name, func(t *testing.T) {
					t.Parallel()
					w := way.connect(t, from)
					defer w.Close()
					c.run(t, w, way.kind == "bytes")
				})
			}
		}
	})
	for _, node := range nodes {
		if code := node.Terminate(); code != 0 {
			t.Errorf("the node ended with code %d", code)
		}
	}
	origin.Close()
	for _, problem := range seen.wait() {
		t.Error(problem)
	}
	for from, got := range seen.whole {
		if _, ok := ran[from]; !ok {
			t.Errorf("a request nobody sent, from %q: %v", from, got)
		}
	}
	for from, c := range ran {
		var got []string
		for _, m := range seen.whole[from] {
			if m.Target() == "/canary" && m.Get("host") == "canary.test" {
				continue // counted by its answer
			}
			got = append(got, show(m))
			if c.check != nil {
				if problem := c.check(m); problem != "" {
					t.Errorf("%s: %s: %v", c.name, problem, m)
				}
			}
		}
		if !slices.Equal(got, c.seen) {
			t.Errorf("%s: the origin saw\n%.300q, want\n%.300q\nfor %.300q", c.name, got, c.seen, c.send)
		}
		if canaries := len(seen.whole[from]) - len(got); canaries != c.canaries() {
			t.Errorf("%s: %d requests behind it reached the origin, want %d", c.name, canaries, c.canaries())
		}
	}
	if len(cases) < 200 {
		t.Errorf("%d cases, want at least 200", len(cases))
	}
	t.Logf("%d cases", len(cases))
}

// canaries is how many requests behind the case's own are answered.
func (c requestCase) canaries() int {
	if strings.HasSuffix(c.send, canary) && len(c.answers) > max(1, len(c.seen)) && c.answers[len(c.answers)-1] == 200 {
		return 1
	}
	return 0
}

// A way is how a case is sent, and where.
type way struct {
	name    string // its kind and the node's driver
	kind    string // whole, bytes or TLS
	address string
}

// startWays starts a node for each driver, on one etcd, and says in which ways they are to
// be spoken to. What comes by TLS is for goroutines in either.
func startWays(t *testing.T) (nodes []*harness.Node, ways []way) {
	t.Helper()
	args, secure := secureArgs(t)
	nodes = startDrivers(t, args...)
	for i, n := range nodes {
		for _, kind := range []string{"whole", "bytes"} {
			ways = append(ways, way{kind + "/" + drivers[i].name, kind, n.Address()})
		}
	}
	return nodes, append(ways, way{"TLS", "TLS", secure})
}

// secureArgs are those of a node that listens with TLS too.
func secureArgs(t *testing.T) (args []string, secure string) {
	t.Helper()
	cert, key := newIssuer(t).issueFiles(t.TempDir(), "node.test")
	secure = harness.FreeAddress(t)
	return []string{"--listen", "tls://" + secure, "--tls-cert", cert, "--tls-key", key}, secure
}

// startSecure starts such a node.
func startSecure(t *testing.T) (node *harness.Node, secure string) {
	t.Helper()
	args, secure := secureArgs(t)
	return harness.StartNode(t, harness.NodeConfig{Args: args}), secure
}

// connect connects from an address of loopback.
func (y way) connect(t *testing.T, from string) *harness.Wire {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: harness.WaitLimit}
	conn, err := d.Dial("tcp", y.address)
	if err != nil {
		harness.Lack(t, "no connection from %s, as Linux has it: %v", from, err)
	}
	if y.kind == "TLS" {
		secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		if err := secure.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		conn = secure
	}
	return harness.NewWire(t, conn)
}

func (c requestCase) run(t *testing.T, w *harness.Wire, bytes bool) {
	if len(c.send) > 4<<10 {
		bytes = false
	}
	send := c.send
	if bytes && c.polite {
		send = strings.TrimSuffix(send, canary)
	}
	go write(w.Conn, send, bytes, c.cut)
	for i, want := range c.answers {
		method := "GET"
		if i < len(c.seen) {
			method, _, _ = strings.Cut(c.seen[i], " ")
		}
		m, err := w.ReadResponse(method)
		if err != nil {
			t.Fatalf("answer %d to %.300q: %v in %.300q", i+1, c.send, err, w.Received())
		}
		if m.Status() != want {
			t.Fatalf("answer %d to %.300q: %v, want %d", i+1, c.send, m, want)
		}
		if want >= 400 && (m.Get("proxy-status") == "" || m.Get("x-request-id") == "") {
			t.Errorf("answer %d names no reason or no id: %v", i+1, m)
		}
	}
	if rest, err := w.End(); rest != "" || err != nil {
		t.Errorf("after %d answers to %.300q: %.300q, %v, want the end of the connection", len(c.answers), c.send, rest, err)
	}
}

// write sends s, byte by byte if wanted, and then ends the stream if wanted. The other
// side may have ended the connection before.
func write(c net.Conn, s string, bytes, end bool) {
	step := len(s)
	if bytes {
		step = 1
	}
	for len(s) > 0 {
		n, err := io.WriteString(c, s[:step])
		if err != nil {
			return
		}
		s = s[n:]
	}
	if end {
		c.(interface{ CloseWrite() error }).CloseWrite()
	}
}

// show is what of a request a case says.
func show(m harness.Message) string {
	s := fmt.Sprintf("%s %s %s %q", m.Method(), m.Target(), m.Get("host"), m.Body)
	for _, f := range m.Trailers {
		s += fmt.Sprintf(" %s: %s", f.Name, f.Value)
	}
	return s
}

// seen is what an origin has got, by the client that X-Forwarded-For names.
type seen struct {
	served sync.WaitGroup

	mu       sync.Mutex
	whole    map[string][]harness.Message
	problems []string
}

// record lets an origin answer every whole request with 200 and its body, and write
// down what it gets.
func record(origin *harness.Socket) *seen {
	s := &seen{whole: map[string][]harness.Message{}}
	s.served.Add(1) // until wait
	origin.Each(func(w *harness.Wire) {
		s.served.Add(1)
		defer s.served.Done()
		for {
			m, err := w.ReadRequest()
			s.mu.Lock()
			switch {
			case errors.Is(err, harness.ErrMalformed):
				s.problems = append(s.problems, fmt.Sprintf("the origin got what it cannot read in one way only: %v in %q", err, w.Received()))
			case err == nil:
				s.whole[m.Get("x-forwarded-for")] = append(s.whole[m.Get("x-forwarded-for")], m)
			}
			s.mu.Unlock()
			if err != nil {
				return
			}
			body := m.Body
			if m.Method() == "HEAD" {
				body = ""
			}
			fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(m.Body), body)
		}
	})
	return s
}

// wait returns what was wrong with the bytes, when all connections have ended.
func (s *seen) wait() []string {
	s.served.Done()
	s.served.Wait()
	return s.problems
}

// A row of http1/testdata, which says what is in it.
type row struct{ name, method, in, want string }

func conformanceRows(t testing.TB, file string, method bool) (rows []row) {
	t.Helper()
	f, err := os.Open(filepath.Join(harness.Root(t), "http1", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		head, rest, ok := strings.Cut(line, ` "`)
		quoted, err := strconv.QuotedPrefix(`"` + rest)
		if !ok || err != nil {
			t.Fatalf("%s: %q: %v", file, line, err)
		}
		r := row{name: head, want: strings.TrimSpace(rest[len(quoted)-1:])}
		r.in, _ = strconv.Unquote(quoted)
		if method {
			words := strings.Fields(head)
			r.method = words[1]
		}
		rows = append(rows, r)
	}
	return rows
}

// outcome is a row's description of what comes after the head.
type outcome struct {
	flags      map[string]bool // close, expect, body-400, body-502, truncated
	body, rest string
	trailers   string
}

func (r row) outcome(t testing.TB, s string) outcome {
	t.Helper()
	o := outcome{flags: map[string]bool{}}
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		name, value, ok := strings.Cut(s, "=")
		word, rest, _ := strings.Cut(s, " ")
		if !ok || strings.Contains(name, " ") {
			o.flags[word], s = true, rest
			continue
		}
		if name == "trailers" {
			o.trailers, s, _ = strings.Cut(value[1:], "]")
			o.trailers = " " + strings.ReplaceAll(o.trailers, ", ", " ")
			continue
		}
		quoted, err := strconv.QuotedPrefix(value)
		if err != nil {
			t.Fatalf("row %q: %v", r.name, err)
		}
		text, _ := strconv.Unquote(quoted)
		switch name {
		case "body":
			o.body = text
		case "rest":
			o.rest = text
		}
		s = value[len(quoted):]
	}
	return o
}

// request makes a case of a row of requests.txt.
func (r row) request(t testing.TB) requestCase {
	t.Helper()
	c := requestCase{name: strings.ReplaceAll(r.name, "/", "|"), send: r.in + canary}
	words := strings.SplitN(r.want, " ", 5)
	switch {
	case r.want == "more":
		c.send, c.cut = r.in, true
		return c
	case len(words) < 4:
		status, err := strconv.Atoi(r.want)
		if err != nil {
			t.Fatalf("row %q: %q", r.name, r.want)
		}
		c.answers = []int{status}
		return c
	}
	method, target, host := words[0], words[1], words[2]
	if host == "-" {
		host = "none.test" // the backend's host_header
	}
	switch {
	case method == "CONNECT":
		c.answers, c.polite = []int{501}, true // of no use to a gateway
		return c
	case strings.HasPrefix(target, "/.."):
		c.answers, c.polite = []int{400}, true // it climbs above the root
		return c
	case strings.Contains(r.name, "another expectation"):
		c.answers, c.polite = []int{417}, true
		return c
	}
	rest := ""
	if len(words) == 5 {
		rest = words[4]
	}
	c.finish(method+" "+target+" "+host, r.in, r.outcome(t, rest))
	return c
}

// chunkedRequest makes a case of a row of chunked.txt.
func (r row) chunkedRequest(t testing.TB) requestCase {
	t.Helper()
	c := requestCase{name: "chunked " + strings.ReplaceAll(r.name, "/", "|")}
	c.finish("POST /c a", "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"+r.in, r.outcome(t, r.want))
	return c
}

// finish fills in what becomes of a request whose head is good.
func (c *requestCase) finish(head, in string, o outcome) {
	c.send = strings.TrimSuffix(in, o.rest) + canary
	switch {
	case o.flags["body-400"]:
		c.answers = []int{400}
		return
	case o.flags["truncated"]:
		c.send, c.cut = in, true
		return
	case o.flags["close"]:
		c.answers, c.polite = []int{200}, true
	default:
		c.answers = []int{200, 200}
	}
	c.seen = []string{fmt.Sprintf("%s %q%s", head, o.body, o.trailers)}
}

func get(target, fields string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n"
}

func post(target, fields, body string) string {
	return "POST " + target + " HTTP/1.1\r\nHost: a\r\n" + fields + "\r\n" + body
}

const chunked = "Transfer-Encoding: chunked\r\n"

// smuggled is a request that nobody sent, to be hidden in others.
const smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"

// once says of a request with a body that it arrived as it is, and nothing else.
func once(target, body string) []string { return []string{fmt.Sprintf("POST %s a %q", target, body)} }

// lacks and has look at a request's fields at the origin.
func lacks(names ...string) func(harness.Message) string {
	return func(m harness.Message) string {
		for _, n := range names {
			if m.Get(n) != "" {
				return n + " reached the origin"
			}
		}
		return ""
	}
}

func has(name, value string) func(harness.Message) string {
	return func(m harness.Message) string {
		if got := m.Get(name); got != value {
			return fmt.Sprintf("%s is %q at the origin, want %q", name, got, value)
		}
		return ""
	}
}

// requestCases are those that only a whole exchange shows.
var requestCases = []requestCase{
	// Requests hidden in bodies, and behind them.
	{name: "CL.TE", send: post("/", "Content-Length: 6\r\n"+chunked, "0\r\n\r\nG") + canary, answers: []int{400}},
	{name: "TE.CL", send: post("/", chunked+"Content-Length: 4\r\n", "23\r\n"+smuggled+"\r\n0\r\n\r\n") + canary, answers: []int{400}},
	{name: "CL.CL", send: post("/", "Content-Length: 8\r\nContent-Length: 7\r\n", "12345\r\na") + canary, answers: []int{400}},
	{name: "CL.CL in one field", send: post("/", "Content-Length: 8, 7\r\n", "12345\r\na") + canary, answers: []int{400}},
	{name: "CL.0", send: post("/", "Content-Length: "+strconv.Itoa(len(smuggled))+"\r\n", smuggled) + canary,
		answers: []int{200, 200}, seen: once("/", smuggled)},
	{name: "0.CL: a GET with a body", send: get("/", "Content-Length: "+strconv.Itoa(len(smuggled))+"\r\n") + smuggled + canary,
		answers: []int{200, 200}, seen: []string{fmt.Sprintf("GET / a %q", smuggled)}},
	{name: "TE.0", send: post("/", chunked, "23\r\n"+smuggled+"\r\n0\r\n\r\n") + canary,
		answers: []int{200, 200}, seen: once("/", smuggled)},
	{name: "TE.TE: the second is not chunked", send: post("/", chunked+"Transfer-Encoding: cow\r\n", "0\r\n\r\n") + smuggled, answers: []int{400}},
	{name: "TE.TE: the first is not chunked", send: post("/", "Transfer-Encoding: cow\r\n"+chunked, "0\r\n\r\n") + smuggled, answers: []int{400}},
	{name: "TE.TE: tab before the colon", send: post("/", "Content-Length: 3\r\nTransfer-Encoding\t: chunked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: name on a line of its own", send: post("/", "Content-Length: 3\r\nTransfer-Encoding\r\n : chunked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: behind a bare LF", send: post("/", "Content-Length: 3\r\nX: a\nTransfer-Encoding: chunked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: behind a bare CR", send: post("/", "Content-Length: 3\r\nX: a\rTransfer-Encoding: chunked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: folded", send: post("/", "Content-Length: 3\r\nTransfer-Encoding:\r\n\tchunked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: NUL in the value", send: post("/", "Content-Length: 3\r\nTransfer-Encoding: chun\x00ked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: a form feed before the value", send: post("/", "Content-Length: 3\r\nTransfer-Encoding: \fchunked\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: semicolon behind", send: post("/", "Content-Length: 3\r\nTransfer-Encoding: chunked;\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE.TE: single quotes", send: post("/", "Content-Length: 3\r\nTransfer-Encoding: 'chunked'\r\n", "abc") + smuggled, answers: []int{400}},
	{name: "TE with another name for the same thing in CGI", send: post("/", "Content-Length: 3\r\nTransfer_Encoding: chunked\r\n", "abc") + canary,
		answers: []int{200, 200}, seen: once("/", "abc")},
	{name: "Connection names Content-Length", send: post("/", "Connection: Content-Length\r\nContent-Length: 3\r\n", "abc") + canary,
		answers: []int{200, 200}, seen: once("/", "abc")},
	{name: "Connection names Transfer-Encoding", send: post("/", "Connection: Transfer-Encoding\r\n"+chunked, "3\r\nabc\r\n0\r\n\r\n") + canary,
		answers: []int{200, 200}, seen: once("/", "abc")},
	{name: "Connection names Host", send: get("/", "Connection: Host\r\n") + canary, answers: []int{200, 200}, seen: []string{`GET / a ""`}},
	{name: "a chunk that is a request", send: post("/", chunked, "23\r\n"+smuggled+"\r\n0\r\n\r\n") + canary, answers: []int{200, 200}, seen: once("/", smuggled)},
	{name: "a chunk's size wraps around 2^64", send: post("/", chunked, "10000000000000003\r\nabc\r\n0\r\n\r\n") + smuggled, answers: []int{400}},
	{name: "a chunk's size wraps around 2^32 nowhere", send: post("/", chunked, "100000003\r\nabc\r\n0\r\n\r\n"), cut: true},
	{name: "a chunk's size with 0x", send: post("/", chunked, "0x3\r\nabc\r\n0\r\n\r\n") + smuggled, answers: []int{400}},
	{name: "a chunk extension with a bare LF in it", send: post("/", chunked, "2;\nxx\r\n4c\r\n0\r\n\r\n"+smuggled), answers: []int{400}},
	{name: "a chunk extension that looks like a request", send: post("/", chunked, "3;"+strings.ReplaceAll(strings.TrimRight(smuggled, "\r\n"), "\r\n", "")+"\r\nabc\r\n0\r\n\r\n") + canary,
		answers: []int{200, 200}, seen: once("/", "abc")},
	{name: "a chunk extension is dropped", send: post("/", chunked, "3;a=b;c\r\nabc\r\n0;d\r\n\r\n") + canary, answers: []int{200, 200}, seen: once("/", "abc")},
	{name: "chunk extensions without end", send: post("/", chunked, "3;"+strings.Repeat("a", 100<<10)+"\r\nabc\r\n0\r\n\r\n") + canary, answers: []int{400}},
	{name: "chunk data longer than said", send: post("/", chunked, "3\r\nabcd\r\n0\r\n\r\n") + smuggled, answers: []int{400}},
	{name: "the end of a chunk is any two bytes", send: post("/", chunked, "3\r\nabcXX0\r\n\r\n") + smuggled, answers: []int{400}},
	{name: "lines end in bare LF", send: strings.ReplaceAll(smuggled, "\r\n", "\n") + canary, answers: []int{400}},
	{name: "chunk lines end in bare LF", send: post("/", chunked, "3\nabc\n0\n\n") + smuggled, answers: []int{400}},
	{name: "a request behind a body without framing", send: post("/", "", "") + smuggled + canary,
		answers: []int{200, 200, 200}, seen: []string{`POST / a ""`, `GET /smuggled a ""`}}, // which this client did send
	{name: "HTTP/1.0 with Transfer-Encoding", send: "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n" + chunked + "\r\n0\r\n\r\n" + canary, answers: []int{400}},
	{name: "trailers that are a head", send: post("/", chunked, "0\r\nHost: b\r\nContent-Length: 5\r\nX-Forwarded-For: 1.1.1.1\r\n\r\n") + canary,
		answers: []int{200, 200}, seen: once("/", "")},
	{name: "trailers without end", send: post("/", chunked, "0\r\n"+strings.Repeat("X: y\r\n", 20<<10)+"\r\n") + canary, answers: []int{400}},

	// Pipelines.
	{name: "three requests", send: get("/1", "") + get("/2", "") + canary, answers: []int{200, 200, 200}, seen: []string{`GET /1 a ""`, `GET /2 a ""`}},
	{name: "good behind bad", send: "GET / HTTP/1.1\r\n\r\n" + get("/2", "") + canary, answers: []int{400}},
	{name: "bad between good ones", send: get("/1", "") + get("/\x01", "") + canary, answers: []int{200, 400}, seen: []string{`GET /1 a ""`}},
	{name: "good behind a bad body", send: post("/1", chunked, "x\r\n") + get("/2", "") + canary, answers: []int{400}},
	{name: "behind close there is nothing", send: get("/1", "Connection: close\r\n") + canary, polite: true, answers: []int{200}, seen: []string{`GET /1 a ""`}},
	{name: "behind HTTP/1.0 there is nothing", send: "GET /1 HTTP/1.0\r\nHost: a\r\n\r\n" + canary, polite: true, answers: []int{200}, seen: []string{`GET /1 a ""`}},
	{name: "bodies of both kinds in a row", send: post("/1", "Content-Length: 3\r\n", "abc") + post("/2", chunked, "3\r\ndef\r\n0\r\n\r\n") + canary,
		answers: []int{200, 200, 200}, seen: []string{`POST /1 a "abc"`, `POST /2 a "def"`}},
	{name: "an empty line behind a body", send: post("/1", "Content-Length: 3\r\n", "abc\r\n") + canary, answers: []int{200, 200}, seen: once("/1", "abc")},
	{name: "garbage behind a body", send: post("/1", "Content-Length: 3\r\n", "abcdef\r\n\r\n") + canary, answers: []int{200, 400}, seen: once("/1", "abc")},
	{name: "a request cut short behind a good one", send: get("/1", "") + "GET /2 HTT", cut: true, answers: []int{200}, seen: []string{`GET /1 a ""`}},
	{name: "HEAD in a pipeline", send: "HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n" + canary, answers: []int{200, 200}, seen: []string{`HEAD /1 a ""`}},
	{name: "TLS behind a good request", send: get("/1", "") + "\x16\x03\x01\x00\x00" + canary, answers: []int{200, 400}, seen: []string{`GET /1 a ""`}},
	{name: "a PROXY header that nobody asked for", send: "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + canary, answers: []int{400}},
	{name: "a PROXY header behind a good request", send: get("/1", "") + "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + canary, answers: []int{200, 400}, seen: []string{`GET /1 a ""`}},

	{name: "half a preface of HTTP/2", send: "PRI * HTTP/2.0\r\n\r\n" + canary, answers: []int{505}},
	{name: "a preface of HTTP/2 behind a good request", send: get("/1", "") + "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + canary, answers: []int{200, 505}, seen: []string{`GET /1 a ""`}},

	// Fields that are for one hop only, and those that say who the client is.
	{name: "fields for this hop", send: get("/", "Connection: X-Drop, keep-alive\r\nX-Drop: a\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n") + canary,
		answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: lacks("x-drop", "keep-alive", "proxy-connection")},
	{name: "TE says that trailers are welcome, as they are, and no more", send: get("/", "TE: gzip;q=0.5, trailers\r\n") + canary,
		answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: has("te", "trailers")},
	{name: "TE without trailers ends here", send: get("/", "TE: gzip\r\n") + canary, answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: lacks("te")},
	{name: "an upgrade to h2c is not passed on", send: get("/", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n") + canary,
		answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: lacks("upgrade", "http2-settings")},
	{name: "an upgrade in HTTP/1.0 is not passed on", send: "GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
		answers: []int{200}, seen: []string{`GET / a ""`}, check: lacks("upgrade")},
	{name: "an upgrade with a body is not passed on", send: post("/", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n", "abc") + canary,
		answers: []int{200, 200}, seen: once("/", "abc"), check: lacks("upgrade")},
	{name: "Connection names too many fields", send: get("/", "Connection: "+strings.Repeat("a, ", 40)+"b\r\n") + canary, polite: true, answers: []int{400}},
	{name: "Connection takes no Via away", send: get("/", "Connection: Via, X-Forwarded-For\r\nVia: 1.1 before\r\n") + canary,
		answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: func(m harness.Message) string {
			if via := m.Get("via"); !strings.HasPrefix(via, "1.1 before, 1.1 roster") {
				return "Via " + via
			}
			return ""
		}},
	{name: "X-Forwarded-Proto is not the client's to say", send: get("/", "X-Forwarded-Proto: wss\r\nX-Forwarded-For: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n") + canary,
		answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: func(m harness.Message) string {
			if proto := m.Get("x-forwarded-proto"); proto != "http" && proto != "https" || strings.Contains(m.Get("forwarded"), "1.1.1.1") {
				return "what the client said reached the origin"
			}
			return ""
		}},
	{name: "X-Forwarded-Host is the authority", send: "GET http://b.test/x HTTP/1.1\r\nHost: a\r\nX-Forwarded-Host: c\r\n\r\n" + canary,
		answers: []int{200, 200}, seen: []string{`GET /x b.test ""`}, check: has("x-forwarded-host", "b.test")},
	{name: "X-Request-Id is made anew", send: get("/", "X-Request-Id: mine\r\n") + canary, answers: []int{200, 200}, seen: []string{`GET / a ""`},
		check: func(m harness.Message) string {
			if id := m.Get("x-request-id"); id == "mine" || len(id) != 32 {
				return "X-Request-Id " + id
			}
			return ""
		}},
	{name: "too many proxies of our name", send: get("/", strings.Repeat("Via: 1.1 roster\r\n", 20)) + canary, answers: []int{508, 200}},

	// Methods with rules of their own.
	{name: "OPTIONS with Max-Forwards 0 ends here", send: "OPTIONS * HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n" + canary, answers: []int{200, 200}},
	{name: "OPTIONS with Max-Forwards 2 has one less", send: "OPTIONS /o HTTP/1.1\r\nHost: a\r\nMax-Forwards: 2\r\n\r\n" + canary,
		answers: []int{200, 200}, seen: []string{`OPTIONS /o a ""`}, check: has("max-forwards", "1")},
	{name: "TRACE with Max-Forwards 0 ends here", send: "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n" + canary, answers: []int{200, 200}},
	{name: "Max-Forwards that is no number", send: "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: -1\r\n\r\n" + canary, polite: true, answers: []int{400}},
	{name: "Max-Forwards means nothing for GET", send: get("/", "Max-Forwards: 0\r\n") + canary, answers: []int{200, 200}, seen: []string{`GET / a ""`}, check: has("max-forwards", "0")},
	{name: "CONNECT with a body", send: "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 3\r\n\r\nabc" + canary, polite: true, answers: []int{501}},

	// Paths.
	{name: "an encoded NUL in the path", send: get("/a%00b", "") + canary, polite: true, answers: []int{400}},
	{name: "a path that climbs above the root", send: get("/a/../../b", "") + canary, polite: true, answers: []int{400}},
	{name: "a path that climbs in disguise", send: get("/%2e%2e/b", "") + canary, polite: true, answers: []int{400}},
	{name: "a path that climbs and stays is passed on as it is", send: get("/a/../b", "") + canary, answers: []int{200, 200}, seen: []string{`GET /a/../b a ""`}},

	// Bounds.
	{name: "a target that is too long", send: get("/"+strings.Repeat("a", 70<<10), "") + canary, answers: []int{414}},
	{name: "a field that is too long", send: get("/", "X: "+strings.Repeat("a", 70<<10)+"\r\n") + canary, answers: []int{431}},
	{name: "too many fields", send: get("/", strings.Repeat("X: a\r\n", 200)) + canary, answers: []int{431}},
	{name: "as many fields as there may be", send: get("/", strings.Repeat("X: a\r\n", 120)) + canary, answers: []int{200, 200}, seen: []string{`GET / a ""`}},
	{name: "a body larger than any buffer", send: post("/", "Content-Length: 300000\r\n", strings.Repeat("0123456789", 30000)) + canary,
		answers: []int{200, 200}, seen: once("/", strings.Repeat("0123456789", 30000))},
	{name: "a chunk larger than any buffer", send: post("/", chunked, "493e0\r\n"+strings.Repeat("0123456789", 30000)+"\r\n0\r\n\r\n") + canary,
		answers: []int{200, 200}, seen: once("/", strings.Repeat("0123456789", 30000))},
	{name: "many small chunks", send: post("/", chunked, strings.Repeat("1\r\na\r\n", 20000)+"0\r\n\r\n") + canary,
		answers: []int{200, 200}, seen: once("/", strings.Repeat("a", 20000))},
}

// A responseCase is what an origin answers to one request, and what the client gets.
type responseCase struct {
	name, method string
	send         string
	end          ending
	interim      []int  // statuses before the final one, for a client of HTTP/1.1
	status       int    // of the final answer
	body         string // of it
	cut          bool   // or the client sees that the answer is not whole
	atOnce       bool   // not byte by byte: what comes later than an answer cannot be told from the next one
}

// ending is what an origin does after its answer.
type ending int

const (
	closes ending = iota
	resets
	stays // keeps the connection for whatever comes next
)

// TestBadAnswersAreNeverTakenForWhole has an origin answer with the bytes of every case,
// at once and byte by byte, to clients of HTTP/1.1 and of HTTP/1.0, with and without TLS. What is no good
// answer is a 502 or visibly cut; what is one arrives whole; and the next request on
// the client's connection gets its own answer and not what was left of this one.
func TestBadAnswersAreNeverTakenForWhole(t *testing.T) {
	t.Parallel()
	var cases []responseCase
	for _, row := range conformanceRows(t, "responses.txt", true) {
		if row.method != "CONNECT" { // never passed on
			cases = append(cases, row.response(t))
		}
	}
	cases = append(cases, responseCases...)
	origin := harness.Listen(t)
	origin.Each(func(w *harness.Wire) { play(w, cases) })
	nodes, ways := startWays(t)
	put(nodes, webKey, fmt.Sprintf(`{"host":"127.0.0.1","port":%s}`, origin.Port()))
	// Some cases close after a good answer; a POST that takes such a connection at that
	// moment is 502, as it should be.
	put(nodes, "/roster/backends/fresh", fmt.Sprintf(`{"host":"127.0.0.1","port":%s,"reuse":false}`, origin.Port()))
	put(nodes, "/roster/routes/fresh", `{"match":{"method":["POST","PATCH"]},"backend":"fresh"}`)
	for i, c := range cases {
		for _, way := range ways {
			if way.kind == "bytes" && c.atOnce {
				continue
			}
			t.Run(c.name+"/"+way.name, func(t *testing.T) {
				t.Parallel()
				for _, old := range []bool{false, true} {
					w := way.connect(t, "127.0.0.1")
					defer w.Close()
					target := fmt.Sprintf("/%s/%d", way.kind, i)
					if old {
						c.runOld(t, w, target)
					} else {
						c.run(t, w, target)
					}
				}
			})
		}
	}
	t.Logf("%d cases", len(cases))
}

// play answers requests for /WAY/N with the bytes of case N, and others
// well.
func play(w *harness.Wire, cases []responseCase) {
	for {
		m, err := w.ReadRequest()
		if err != nil {
			return
		}
		parts := strings.Split(m.Target(), "/")
		if parts[1] == "canary" {
			fmt.Fprint(w, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary")
			continue
		}
		n, _ := strconv.Atoi(parts[2])
		c := cases[n]
		w.SetWriteDeadline(time.Now().Add(harness.WaitLimit))
		write(w.Conn, c.send, parts[1] == "bytes" && len(c.send) < 4<<10, false)
		switch c.end {
		case closes:
			return
		case resets:
			w.Reset()
			return
		}
	}
}

func (c responseCase) run(t *testing.T, w *harness.Wire, target string) {
	w.Send(c.method, " ", target, " HTTP/1.1\r\nHost: a\r\n\r\n", canary)
	for _, want := range c.interim {
		m, err := w.ReadResponse(c.method)
		if err != nil || m.Status() != want {
			t.Fatalf("HTTP/1.1: %v, %v, want %d", m, err, want)
		}
	}
	m, err := w.ReadResponse(c.method)
	if c.judge(t, "HTTP/1.1", m, err) {
		return
	}
	m, err = w.ReadResponse("GET")
	if err != nil || m.Status() != 200 || m.Body != "canary" {
		t.Errorf("HTTP/1.1: the next answer is %v, %v", m, err)
	}
	if rest, err := w.End(); rest != "" || err != nil {
		t.Errorf("HTTP/1.1: after the answers: %q, %v", rest, err)
	}
}

func (c responseCase) runOld(t *testing.T, w *harness.Wire, target string) {
	w.Send(c.method, " ", target, " HTTP/1.0\r\nHost: a\r\n\r\n")
	m, err := w.ReadResponse(c.method)
	if m.Chunked {
		t.Errorf("HTTP/1.0: chunked: %v", m)
	}
	if c.judge(t, "HTTP/1.0", m, err) {
		return
	}
	if rest, err := w.End(); rest != "" || err != nil {
		t.Errorf("HTTP/1.0: after the answer: %q, %v", rest, err)
	}
}

// judge looks at the final answer; ended says that the connection is over.
func (c responseCase) judge(t *testing.T, who string, m harness.Message, err error) (ended bool) {
	t.Helper()
	switch {
	case errors.Is(err, harness.ErrMalformed):
		t.Fatalf("%s: %v", who, err)
	case err != nil && !c.cut:
		t.Fatalf("%s: %v, %v, want %d %q", who, m, err, c.status, c.body)
	case err != nil:
		return true
	case c.cut && m.Status() != 502:
		t.Fatalf("%s: %v, taken for whole, want a 502 or a cut", who, m)
	case !c.cut && (m.Status() != c.status || c.status != 502 && m.Body != c.body):
		t.Fatalf("%s: %v, want %d %q", who, m, c.status, c.body)
	}
	if m.Status() == 502 && !strings.HasPrefix(m.Get("proxy-status"), "roster; error=") {
		t.Errorf("%s: a 502 without a reason: %v", who, m)
	}
	return false
}

// response makes a case of a row of responses.txt.
func (r row) response(t testing.TB) responseCase {
	t.Helper()
	c := responseCase{name: strings.ReplaceAll(r.name, "/", "|"), method: r.method, send: r.in, status: 502}
	words := strings.SplitN(r.want, " ", 3)
	if len(words) < 2 {
		return c // 502, or a head that is not complete
	}
	status, err := strconv.Atoi(words[0])
	if err != nil {
		t.Fatalf("row %q: %q", r.name, r.want)
	}
	switch {
	case status == 101:
		return c // unasked
	case status < 200:
		c.interim = []int{status}
		return c // and no final answer
	}
	var o outcome
	if len(words) == 3 {
		o = r.outcome(t, words[2])
	}
	c.cut = o.flags["truncated"] || o.flags["body-502"]
	c.atOnce = o.rest != ""
	c.status, c.body = status, o.body
	return c
}

// poison is an answer to a request that was never sent.
const poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc"

func repeat(n, status int) (all []int) {
	for range n {
		all = append(all, status)
	}
	return all
}

// responseCases are those that need more than one answer's bytes.
var responseCases = []responseCase{
	{name: "nothing at all", method: "GET", status: 502},
	{name: "a reset for an answer", method: "GET", end: resets, status: 502},
	{name: "a head and a reset", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Le", end: resets, status: 502},
	{name: "a body that ends with the connection, and a reset", method: "GET", send: "HTTP/1.1 200 OK\r\n\r\nabc", end: resets, cut: true},
	{name: "a counted body and a reset", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", end: resets, cut: true},
	{name: "a long body cut short", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + strings.Repeat("a", 499999), cut: true},
	{name: "a long chunk cut short", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n" + strings.Repeat("a", 499999), cut: true},
	{name: "a long body", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + strings.Repeat("a", 500000), end: stays, status: 200, body: strings.Repeat("a", 500000)},
	{name: "a long chunk", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7a120\r\n" + strings.Repeat("a", 500000) + "\r\n0\r\n\r\n", end: stays,
		status: 200, body: strings.Repeat("a", 500000)},
	{name: "a long body that ends with the connection", method: "GET", send: "HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("a", 500000), status: 200, body: strings.Repeat("a", 500000)},

	{name: "as many interim answers as may be", method: "GET", send: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 64) + ok, end: stays,
		interim: repeat(64, 103), status: 200, body: "abc"},
	{name: "interim answers without end", method: "GET", send: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5000), end: stays,
		interim: repeat(64, 103), status: 502},
	{name: "100 that nobody waits for", method: "GET", send: "HTTP/1.1 100 Continue\r\n\r\n" + ok, end: stays, interim: []int{100}, status: 200, body: "abc"},
	{name: "101 to a client that did not ask", method: "GET", send: "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + poison, end: stays, status: 502},
	{name: "101 without Upgrade", method: "GET", send: "HTTP/1.1 101 Switching Protocols\r\n\r\n", end: stays, status: 502},
	{name: "199 and nothing more", method: "GET", send: "HTTP/1.1 199 x\r\n\r\n", interim: []int{199}, status: 502},
	{name: "status 000", method: "GET", send: "HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n", end: stays, status: 502},
	{name: "status 99", method: "GET", send: "HTTP/1.1 99 x\r\nContent-Length: 0\r\n\r\n", end: stays, status: 502},
	{name: "status 099", method: "GET", send: "HTTP/1.1 099 x\r\nContent-Length: 0\r\n\r\n", end: stays, status: 502},
	{name: "status 1000", method: "GET", send: "HTTP/1.1 1000 x\r\nContent-Length: 0\r\n\r\n", end: stays, status: 502},
	{name: "an interim status of five digits", method: "GET", send: "HTTP/1.1 10000 x\r\n\r\n" + ok, end: stays, status: 502},

	{name: "too many fields", method: "GET", send: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 1000) + "Content-Length: 0\r\n\r\n", end: stays, status: 502},
	{name: "a field that is too long", method: "GET", send: "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("y", 100<<10) + "\r\nContent-Length: 0\r\n\r\n", end: stays, status: 502},
	{name: "a head without end", method: "GET", send: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 100<<10), end: stays, status: 502},
	{name: "a reason that is too long", method: "GET", send: "HTTP/1.1 200 " + strings.Repeat("y", 100<<10), end: stays, status: 502},
	{name: "a status line without end", method: "GET", send: strings.Repeat("y", 100<<10), end: stays, status: 502},
	{name: "trailers without end", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + strings.Repeat("X: y\r\n", 100<<10), end: stays, cut: true},
	{name: "chunk extensions without end", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0;" + strings.Repeat("y", 100<<10), end: stays, cut: true},
	{name: "Connection names too many fields", method: "GET", send: "HTTP/1.1 200 OK\r\nConnection: " + strings.Repeat("a, ", 40) + "b\r\nContent-Length: 0\r\n\r\n", end: stays, status: 502},

	{name: "a second answer behind a counted body", method: "GET", send: ok + poison, atOnce: true, end: stays, status: 200, body: "abc"},
	{name: "a second answer behind chunks", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" + poison, atOnce: true, end: stays, status: 200, body: "abc"},
	{name: "a second answer behind 204", method: "GET", send: "HTTP/1.1 204 x\r\n\r\n" + poison, atOnce: true, end: stays, status: 204},
	{name: "a second answer behind 304", method: "GET", send: "HTTP/1.1 304 x\r\nContent-Length: 45\r\n\r\n" + poison, atOnce: true, end: stays, status: 304},
	{name: "a second answer behind one to HEAD", method: "HEAD", send: "HTTP/1.1 200 OK\r\nContent-Length: 45\r\n\r\n" + poison, atOnce: true, end: stays, status: 200},
	{name: "a second answer behind an empty one", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" + poison, atOnce: true, end: stays, status: 200},
	{name: "a byte behind the answer", method: "GET", send: ok + "\n", atOnce: true, end: stays, status: 200, body: "abc"},
	{name: "an empty line behind the answer", method: "GET", send: ok + "\r\n", atOnce: true, end: stays, status: 200, body: "abc"},
	{name: "the body is longer than said", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", atOnce: true, end: stays, status: 200, body: "abc"},
	{name: "an answer of HTTP/1.0 that keeps the connection", method: "GET", send: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc", end: stays, status: 200, body: "abc"},
	{name: "an answer of HTTP/1.0 without length", method: "GET", send: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nabc", status: 200, body: "abc"},

	{name: "a chunk's size wraps around", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n", end: stays, cut: true},
	{name: "a chunk's size with 0x", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", end: stays, cut: true},
	{name: "a chunk's size with a sign", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", end: stays, cut: true},
	{name: "bare LF between chunks", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\n0\n\n", end: stays, cut: true},
	{name: "chunks longer than said", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", end: stays, cut: true},
	{name: "garbage for the last chunk", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" + poison, end: stays, cut: true},
	{name: "no last chunk, a close", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", cut: true},
	{name: "no last chunk, a reset", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", end: resets, cut: true},
	{name: "a trailer that is none", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nno trailer\r\n\r\n", end: stays, cut: true},
	{name: "Transfer-Encoding in two fields", method: "GET", send: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", end: stays, status: 502},
	{name: "lengths that contradict each other", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", end: stays, status: 502},
	{name: "length and chunks", method: "GET", send: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", end: stays, status: 502},
	{name: "bare CR hides a length", method: "GET", send: "HTTP/1.1 200 OK\r\nX: y\rContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc", end: stays, status: 502},
	{name: "HTTP/0.9", method: "GET", send: "hello", status: 502},
	{name: "HTTP/2", method: "GET", send: "\x00\x00\x00\x04\x00\x00\x00\x00\x00", end: stays, status: 502},
	{name: "a request for an answer", method: "GET", send: smuggled, end: stays, status: 502},
	{name: "TLS for an answer", method: "GET", send: "\x15\x03\x01\x00\x02\x02\x28", status: 502},
}
