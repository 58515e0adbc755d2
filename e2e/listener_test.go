package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/e2e/harness"
	"roster/node/certs/certstest"
)

// frontNode is a node with one origin, "web".
func frontNode(t *testing.T, args ...string) (*harness.Node, *harness.Origin) {
	t.Helper()
	node := harness.StartNode(t, harness.NodeConfig{Args: args})
	web := harness.StartOrigin(t, "web")
	node.WaitRevision(node.Put(webKey, web.Definition()))
	return node, web
}

// readingNode is a node with an origin that answers when it has read the whole body.
func readingNode(t *testing.T, args ...string) *harness.Node {
	t.Helper()
	node := harness.StartNode(t, harness.NodeConfig{Args: args})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil {
			io.WriteString(w, "read")
		}
	}))
	t.Cleanup(origin.Close)
	node.WaitRevision(node.Put(webKey, backendAt(origin)))
	return node
}

// backendAt is the definition of a backend that is a server of this process.
func backendAt(s *httptest.Server) string {
	host, port, _ := net.SplitHostPort(s.Listener.Addr().String())
	return fmt.Sprintf(`{"host": %q, "port": %s}`, host, port)
}

const plainGet = "GET / HTTP/1.1\r\nHost: www.test\r\n\r\n"

// proxyHeader is a PROXY header as HAProxy sends it, made by the library that it
// recommends for Go.
func proxyHeader(t *testing.T, version byte, command proxyproto.ProtocolVersionAndCommand, src, dst string) string {
	t.Helper()
	from, to := resolved(t, src), resolved(t, dst)
	h := proxyproto.Header{Version: version, Command: command, TransportProtocol: proxyproto.TCPv4, SourceAddr: from, DestinationAddr: to}
	if from.IP.To4() == nil {
		h.TransportProtocol = proxyproto.TCPv6
	}
	b, err := h.Format()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func resolved(t *testing.T, address string) *net.TCPAddr {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAcceptProxy(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	cert, key := ca.Issue(t, "www.test").Write(t, dir, "www")
	secure, socket := harness.FreeAddress(t), filepath.Join(dir, "s")
	// The node asks for its readiness from loopback too, but by the admin API.
	node, web := frontNode(t, "--accept-proxy", "127.0.0.1/32,10.0.0.0/8",
		"--listen", "tls://"+secure, "--tls-cert", cert, "--tls-key", key, "--listen", "unix://"+socket)

	v1 := proxyHeader(t, 1, proxyproto.PROXY, "192.0.2.7:4711", "198.51.100.1:80")
	v2 := proxyHeader(t, 2, proxyproto.PROXY, "192.0.2.8:4711", "198.51.100.1:80")
	v6 := proxyHeader(t, 2, proxyproto.PROXY, "[2001:db8::9]:4711", "[2001:db8::1]:80")
	for _, test := range []struct{ name, header, want string }{
		{"version 1", v1, "192.0.2.7"},
		{"version 2", v2, "192.0.2.8"},
		{"version 2, IPv6", v6, "2001:db8::9"},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", "127.0.0.1"},
		{"version 2, local", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00", "127.0.0.1"},
	} {
		w := harness.Dial(t, "tcp", node.Address())
		w.Send(test.header, plainGet)
		if m := w.Response(); m.Status() != 200 {
			t.Errorf("%s: %v", test.name, m)
			continue
		}
		if got := web.Last().Header.Get("X-Forwarded-For"); got != test.want {
			t.Errorf("%s: X-Forwarded-For %q, want %s", test.name, got, test.want)
		}
		w.Send(plainGet) // the header is for the whole connection
		if m := w.Response(); m.Status() != 200 || web.Last().Header.Get("X-Forwarded-For") != test.want {
			t.Errorf("%s: the second request: %v", test.name, m)
		}
	}

	w := harness.Dial(t, "tcp", node.Address())
	for _, b := range []byte(v2 + plainGet) {
		w.Send(string([]byte{b}))
	}
	if m := w.Response(); m.Status() != 200 || web.Last().Header.Get("X-Forwarded-For") != "192.0.2.8" {
		t.Errorf("byte by byte: %v", m)
	}

	raw := harness.Dial(t, "tcp", secure)
	raw.Send(v2)
	encrypted := tls.Client(raw.Conn, &tls.Config{ServerName: "www.test", RootCAs: ca.Pool()})
	if _, err := io.WriteString(encrypted, plainGet); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(encrypted), nil)
	if err != nil || resp.StatusCode != 200 || web.Last().Header.Get("X-Forwarded-For") != "192.0.2.8" {
		t.Errorf("before TLS: %+v, %v", resp, err)
	}

	// A unix client has no address that could be among them.
	u := harness.Dial(t, "unix", socket)
	u.Send(plainGet)
	if m := u.Response(); m.Status() != 200 {
		t.Errorf("unix: %v", m)
	}

	before := web.Requests()
	for name, bytes := range map[string]string{
		"no header":       plainGet,
		"a broken header": "PROXY TCP4 192.0.2.7\r\n" + plainGet,
		"a header twice":  v1 + v1 + plainGet,
	} {
		w := harness.Dial(t, "tcp", node.Address())
		w.Send(bytes)
		if m := w.Response(); m.Status() != 400 {
			t.Errorf("%s: %v, want 400", name, m)
		}
		w.End()
	}
	if _, err := visit(secure, "www.test", &tls.Config{RootCAs: ca.Pool()}, false); err == nil {
		t.Error("TLS without a header was served")
	}
	if n := web.Requests(); n != before {
		t.Errorf("%d refused requests reached the origin", n-before)
	}
	if n := node.Metric("roster_proxy_header_refusals_total"); n != 3 {
		t.Errorf("metrics: %v refusals, want 3", n)
	}
}

// From a peer that is not among those of --accept-proxy a PROXY header is no request.
func TestAPROXYHeaderFromOthersIs400(t *testing.T) {
	t.Parallel()
	node, web := frontNode(t, "--accept-proxy", "192.0.2.0/24")
	for _, version := range []byte{1, 2} {
		w := harness.Dial(t, "tcp", node.Address())
		w.Send(proxyHeader(t, version, proxyproto.PROXY, "192.0.2.7:4711", "198.51.100.1:80"), plainGet)
		if m := w.Response(); m.Status() != 400 {
			t.Errorf("version %d: %v, want 400", version, m)
		}
		w.End()
	}
	if n := web.Requests(); n != 0 {
		t.Errorf("%d requests reached the origin", n)
	}
	if got := node.Get("/"); got.Origin != "web" {
		t.Errorf("without a header: %v", got)
	}
}

func TestMaxConnections(t *testing.T) {
	t.Parallel()
	other := harness.FreeAddress(t)
	node, web := frontNode(t, "--max-connections", "2", "--listen", other)
	var held []*harness.Wire
	for range 2 {
		w := harness.Dial(t, "tcp", node.Address())
		w.Send(plainGet)
		if m := w.Response(); m.Status() != 200 {
			t.Fatalf("%v", m)
		}
		held = append(held, w)
	}
	waiting := harness.Dial(t, "tcp", node.Address())
	waiting.Send(plainGet)
	harness.Until(t, "the limit to be met", func() (bool, any) {
		n := node.Metric("roster_listener_full_total")
		return n > 0, n
	})
	if n := node.Metric("roster_client_connections"); n != 2 {
		t.Errorf("metrics: %v connections, want 2", n)
	}
	// Each listener has its own count, and those within it are served.
	w := harness.Dial(t, "tcp", other)
	w.Send(plainGet)
	if m := w.Response(); m.Status() != 200 {
		t.Errorf("the other listener: %v", m)
	}
	held[1].Send(plainGet)
	if m := held[1].Response(); m.Status() != 200 {
		t.Errorf("a connection within the limit: %v", m)
	}
	if n := web.Requests(); n != 4 {
		t.Errorf("%d requests reached the origin, want 4", n)
	}
	held[0].Close()
	if m := waiting.Response(); m.Status() != 200 {
		t.Errorf("the client that waited: %v", m)
	}
}

// What slow clients may keep a connection waiting for.
func TestSlowClientsAreEnded(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "www.test").Write(t, t.TempDir(), "www")
	secure := harness.FreeAddress(t)
	node := readingNode(t, "--head-timeout", "300ms", "--idle-timeout", "400ms", "--body-timeout", "300ms",
		"--listen", "tls://"+secure, "--tls-cert", cert, "--tls-key", key)
	for name, test := range map[string]struct {
		send   string
		drip   bool // sends on, a byte at a time
		status int  // 0: nothing is said
	}{
		"nothing":                      {status: 0},
		"idle after an answer":         {send: plainGet, status: 200},
		"half a head":                  {send: "GET / HTTP/1.1\r\nHost:", status: 408},
		"a head that never ends":       {send: "GET / HTTP/1.1\r\nHost: www.test\r\nX-Slow: ", drip: true, status: 408},
		"half a body":                  {send: "POST / HTTP/1.1\r\nHost: www.test\r\nContent-Length: 10\r\n\r\n12345", status: 408},
		"half a chunk":                 {send: "POST / HTTP/1.1\r\nHost: www.test\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345", status: 408},
		"a preface of HTTP/2, no more": {send: "PRI * HTTP/2.0\r\n", status: 408},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := harness.Dial(t, "tcp", node.Address())
			w.Send(test.send)
			if test.drip {
				stop := make(chan struct{})
				defer close(stop)
				go func() {
					for {
						select {
						case <-time.After(20 * time.Millisecond):
							w.Conn.Write([]byte("a")) // fails once it is over
						case <-stop:
							return
						}
					}
				}()
			}
			if test.status != 0 {
				if m := w.Response(); m.Status() != test.status {
					t.Errorf("%v, want %d", m, test.status)
				}
			}
			if rest, _ := w.End(); rest != "" && test.status == 0 {
				t.Errorf("got %q, want a close and no more", rest)
			}
		})
	}
	t.Run("no TLS handshake", func(t *testing.T) {
		t.Parallel()
		w := harness.Dial(t, "tcp", secure)
		w.Send("\x16\x03\x01") // the beginning of one
		if rest, _ := w.End(); strings.Contains(rest, "HTTP") {
			t.Errorf("got %q", rest)
		}
	})
	t.Run("HTTP/2 without a stream", func(t *testing.T) {
		t.Parallel()
		conn, err := tls.Dial("tcp", secure, &tls.Config{ServerName: "www.test", RootCAs: ca.Pool(), NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		w := harness.NewWire(t, conn)
		defer w.Close()
		w.Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\x00\x00\x00\x04\x00\x00\x00\x00\x00") // an empty SETTINGS
		if _, err := w.End(); err != nil {
			t.Errorf("the end: %v", err)
		}
	})
}

// A client that takes nothing of its answer is cut off, and the backend's connection is
// given up with it: over TCP, over TLS, and where it opens no window of HTTP/2.
func TestClientsThatDoNotReadAreCutOff(t *testing.T) {
	t.Parallel()
	ca := certstest.NewCA(t)
	cert, key := ca.Issue(t, "www.test").Write(t, t.TempDir(), "www")
	secure := harness.FreeAddress(t)
	node := harness.StartNode(t, harness.NodeConfig{Args: []string{"--write-timeout", "400ms", "--listen", "tls://" + secure, "--tls-cert", cert, "--tls-key", key}})
	ended := make(chan string, 3)
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for chunk := make([]byte, 64<<10); ; {
			if _, err := w.Write(chunk); err != nil {
				ended <- r.URL.Path
				return
			}
		}
	}))
	t.Cleanup(origin.CloseClientConnections)
	node.WaitRevision(node.Put(webKey, backendAt(origin)))

	request := func(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: www.test\r\n\r\n" }
	harness.Dial(t, "tcp", node.Address()).Send(request("/tcp"))
	encrypted := func(protocol string) io.Writer {
		conn, err := tls.Dial("tcp", secure, &tls.Config{ServerName: "www.test", RootCAs: ca.Pool(), NextProtos: []string{protocol}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	if _, err := io.WriteString(encrypted("http/1.1"), request("/tls")); err != nil {
		t.Fatal(err)
	}
	conn := encrypted("h2")
	var head bytes.Buffer
	fields := hpack.NewEncoder(&head)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":path", "/http2"}, {":authority", "www.test"}} {
		if err := fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			t.Fatal(err)
		}
	}
	frames := http2.NewFramer(conn, nil)
	_, err := io.WriteString(conn, http2.ClientPreface)
	if err == nil {
		err = frames.WriteSettings()
	}
	if err == nil {
		err = frames.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	limit := time.After(harness.WaitLimit)
	given := map[string]bool{}
	for len(given) < 3 {
		select {
		case path := <-ended:
			given[path] = true
		case <-limit:
			t.Fatalf("after %v only these answers were given up: %v", harness.WaitLimit, given)
		}
	}
}

// A body that trickles is never silent, and still ends.
func TestMinBodyRate(t *testing.T) {
	t.Parallel()
	node := readingNode(t, "--min-body-rate", "4KiB")
	trickle := func(pause time.Duration, part, n int) *harness.Wire {
		w := harness.Dial(t, "tcp", node.Address())
		w.Send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: www.test\r\nContent-Length: %d\r\n\r\n", n))
		go func() {
			for range n / part {
				time.Sleep(pause)
				if _, err := io.WriteString(w.Conn, strings.Repeat("x", part)); err != nil {
					return
				}
			}
		}()
		return w
	}
	slow := trickle(100*time.Millisecond, 100, 1<<20)      // at most 1 KB a second
	fast := trickle(100*time.Millisecond, 10_000, 600_000) // 100 KB a second, for longer than the grace
	if m := slow.Response(); m.Status() != 408 {
		t.Errorf("a slow body: %v, want 408", m)
	}
	if m := fast.Response(); m.Status() != 200 {
		t.Errorf("a body that is fast enough: %v", m)
	}
}

func TestHeadLimits(t *testing.T) {
	t.Parallel()
	narrow, _ := frontNode(t, "--max-header-size", "2KiB", "--max-header-fields", "10", "--max-target-size", "1KiB")
	usual, web := frontNode(t)
	request := func(target, fields int, field string) string {
		s := "GET /" + strings.Repeat("t", target-1) + " HTTP/1.1\r\nHost: www.test\r\n"
		for i := range fields - 1 {
			s += fmt.Sprintf("X-%d: %s\r\n", i, field)
		}
		return s + "\r\n"
	}
	for _, test := range []struct {
		name    string
		node    *harness.Node
		request string
		status  int
	}{
		{"narrow, all at the limit", narrow, request(1024, 10, "x"), 200},
		{"narrow, target", narrow, request(1025, 1, ""), 414},
		{"narrow, fields", narrow, request(1, 11, "x"), 431},
		{"narrow, size", narrow, request(1, 2, strings.Repeat("x", 2048)), 431},
		{"default, target of 16 KiB", usual, request(16<<10, 1, ""), 200},
		{"default, longer target", usual, request(16<<10+1, 1, ""), 414},
		{"default, 128 fields", usual, request(1, 128, "x"), 200},
		{"default, 129 fields", usual, request(1, 129, "x"), 431},
		{"default, nearly 64 KiB", usual, request(1, 2, strings.Repeat("x", 64<<10-100)), 200},
		{"default, more than 64 KiB", usual, request(1, 2, strings.Repeat("x", 64<<10)), 431},
	} {
		w := harness.Dial(t, "tcp", test.node.Address())
		w.Send(test.request)
		m := w.Response()
		if m.Status() != test.status {
			t.Errorf("%s: %s, want %d", test.name, m.Line, test.status)
		}
		if test.status != 200 && !strings.Contains(m.Get("Proxy-Status"), "http_request_error") {
			t.Errorf("%s: Proxy-Status %q", test.name, m.Get("Proxy-Status"))
		}
	}
	if n := web.Requests(); n != 3 {
		t.Errorf("%d requests reached the origin of the second node, want 3", n)
	}
}

// logLines waits until a file has n lines, and returns them.
func logLines(t *testing.T, path string, n int) []string {
	t.Helper()
	var lines []string
	harness.Until(t, fmt.Sprintf("%d lines in %s", n, filepath.Base(path)), func() (bool, any) {
		b, err := os.ReadFile(path)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		lines = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
		return strings.Count(string(b), "\n") >= n, string(b)
	})
	return lines
}

func TestAccessLogJSON(t *testing.T) {
	t.Parallel()
	ca, dir := certstest.NewCA(t), t.TempDir()
	cert, key := ca.Issue(t, "www.test").Write(t, dir, "www")
	path := filepath.Join(dir, "access.log")
	node, address, web := tlsNode(t, "--tls-cert", cert, "--tls-key", key, "--access-log", "json", "--access-log-file", path)
	node.WaitRevision(node.Put("/roster/routes/none", `{"match": {"path": "/none"}, "backend": "nothing"}`))
	if resp, err := visit(address, "www.test", &tls.Config{RootCAs: ca.Pool()}, true); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%+v, %v", resp, err)
	}
	logLines(t, path, 1) // those of different connections may be in another order
	w := harness.Dial(t, "tcp", node.Address())
	w.Send("POST /a\"b?c=d HTTP/1.1\r\nHost: www.test\r\nUser-Agent: some\t\"one\"\r\nReferer: http://x.test/\r\nContent-Length: 5\r\n\r\nhello")
	w.Response()
	w.Send("GET /none HTTP/1.1\r\nHost: www.test\r\n\r\n")
	w.Response()

	host, port, _ := net.SplitHostPort(w.LocalAddr().String())
	backend := strings.TrimPrefix(webKey, "/roster/backends/")
	for i, want := range []map[string]any{
		{"method": "GET", "target": "/", "proto": "HTTP/2.0", "tls": true, "host": "www.test", "status": 200.0, "bytes": 4.0, "backend": backend, "address": web.Address(), "retries": 0.0},
		{"method": "POST", "target": "/a\"b?c=d", "proto": "HTTP/1.1", "tls": false, "host": "www.test", "status": 200.0, "bytes": 4.0, "received": 5.0,
			"client": host, "client_port": number(t, port), "user_agent": "some\t\"one\"", "referer": "http://x.test/", "backend": backend},
		{"method": "GET", "target": "/none", "status": 503.0, "route": "none", "backend": "nothing", "error": nil},
	} {
		line := logLines(t, path, i+1)[i]
		var got map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("line %d: %v: %s", i, err, line)
		}
		for name, v := range want {
			switch is, ok := got[name]; {
			case v == nil && !ok:
				t.Errorf("line %d has no %s: %s", i, name, line)
			case v != nil && is != v && (ok || v != 0.0):
				t.Errorf("line %d: %s is %v, want %v: %s", i, name, is, v, line)
			}
		}
		if at, err := time.Parse(time.RFC3339, fmt.Sprint(got["time"])); err != nil || time.Since(at).Abs() > harness.WaitLimit {
			t.Errorf("line %d: time %v, %v", i, got["time"], err)
		}
		if got["request_id"] == nil || got["total"] == nil {
			t.Errorf("line %d has no request_id or total: %s", i, line)
		}
		_, first := got["first_byte"]
		if want := got["status"] == 200.0; first != want {
			t.Errorf("line %d: first_byte is there: %v, want %v: %s", i, first, want, line)
		}
	}
	if n := node.Metric("roster_access_log_lines_total"); n != 3 {
		t.Errorf("metrics: %v lines, want 3", n)
	}
	if n := node.Metric("roster_access_log_dropped_total"); n != 0 {
		t.Errorf("metrics: %v lines dropped", n)
	}
}

func number(t *testing.T, s string) (n float64) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestAccessLogCombined(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "access.log")
	node, _ := frontNode(t, "--access-log", "combined", "--access-log-file", path)
	if got := node.Get("/one"); got.Status != 200 {
		t.Fatal(got)
	}
	line := logLines(t, path, 1)[0]
	if !regexp.MustCompile(`^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /one HTTP/1\.1" 200 4 "-" "Go-http-client/1\.1" host="` +
		regexp.QuoteMeta(node.Address()) + `" .*backend="web-1" .*total=\d+\.\d{6}`).MatchString(line) {
		t.Errorf("the line is %s", line)
	}
}
