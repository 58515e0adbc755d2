package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/e2e/harness"
)

// A request of HTTP/2 becomes one of HTTP/1.1, where what separates fields and requests
// is bytes that HTTP/2 can carry within them.

// fields are names and values in turn.
type fields []string

func h2get(path string, more ...string) fields {
	return append(fields{":method", "GET", ":scheme", "http", ":authority", "a", ":path", path}, more...)
}

func h2post(path string, more ...string) fields {
	return append(fields{":method", "POST", ":scheme", "http", ":authority", "a", ":path", path}, more...)
}

// An h2Answer is what came on one stream.
type h2Answer struct {
	interim []int
	message harness.Message
	err     error // the stream was reset, or the connection ended
}

// h2Request sends one request, and then a canary, on a new connection, and returns the
// answers. trailers nil: there are none.
func h2Request(conn net.Conn, head fields, data string, trailers fields) (answer, next h2Answer) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(harness.WaitLimit))
	var out bytes.Buffer
	out.WriteString(frames.ClientPreface)
	w := frames.NewFramer(&out, nil)
	w.AllowIllegalWrites = true
	w.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1 << 30})
	w.WriteWindowUpdate(0, 1<<30)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	encode := func(f fields) []byte {
		block.Reset()
		for i := 0; i < len(f); i += 2 {
			enc.WriteField(hpack.HeaderField{Name: f[i], Value: f[i+1]})
		}
		return block.Bytes()
	}
	headers := func(stream uint32, f fields, end bool) {
		b := encode(f)
		for first := true; first || len(b) > 0; first = false {
			n := min(len(b), 16<<10)
			if first {
				w.WriteHeaders(frames.HeadersFrameParam{StreamID: stream, BlockFragment: b[:n], EndStream: end, EndHeaders: n == len(b)})
			} else {
				w.WriteContinuation(stream, n == len(b), b[:n])
			}
			b = b[n:]
		}
	}
	headers(1, head, data == "" && trailers == nil)
	if data != "" {
		w.WriteData(1, trailers == nil, []byte(data))
	}
	if trailers != nil {
		headers(1, trailers, true)
	}
	headers(3, fields{":method", "GET", ":scheme", "http", ":authority", "canary.test", ":path", "/canary"}, true)
	go conn.Write(out.Bytes())
	return readH2(conn)
}

// readH2 reads until streams 1 and 3 have ended, or the connection has.
func readH2(conn net.Conn) (one, three h2Answer) {
	r := frames.NewFramer(io.Discard, conn)
	r.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	answers := map[uint32]*h2Answer{1: &one, 3: &three}
	for open := 2; open > 0; {
		f, err := r.ReadFrame()
		if err != nil {
			for _, a := range answers {
				a.err = fmt.Errorf("connection: %w", err)
			}
			return one, three
		}
		a := answers[f.Header().StreamID]
		if a == nil {
			continue
		}
		ended := false
		switch f := f.(type) {
		case *frames.MetaHeadersFrame:
			status, _ := strconv.Atoi(f.PseudoValue("status"))
			if status != 0 && status < 200 {
				a.interim = append(a.interim, status)
				break
			}
			if status != 0 {
				a.message.Line = fmt.Sprintf("HTTP/1.1 %03d", status) // for Status
			}
			for _, h := range f.RegularFields() {
				a.message.Fields = append(a.message.Fields, harness.Field{Name: h.Name, Value: h.Value})
			}
			ended = f.StreamEnded()
		case *frames.DataFrame:
			a.message.Body += string(f.Data())
			ended = f.StreamEnded()
		case *frames.RSTStreamFrame:
			a.err = fmt.Errorf("stream: %v", f.ErrCode)
			ended = true
		}
		if ended {
			if length := a.message.Get("content-length"); a.err == nil && length != "" && length != strconv.Itoa(len(a.message.Body)) && a.message.Body != "" {
				a.err = errors.New("body is not as long as said")
			}
			delete(answers, f.Header().StreamID)
			open--
		}
	}
	return one, three
}

// An h2Case is a request of HTTP/2.
type h2Case struct {
	name     string
	head     fields
	data     string
	trailers fields
	status   int    // of the answer; 0: it is refused, be it by an answer, a reset or the connection's end
	seen     string // what reaches the origin, as shown by show; "": nothing
	early    string // what may reach it instead: whole and in order, before the frames come that are not
	check    func(harness.Message) string
}

func TestHTTP2RequestsReachTheOriginOnceOrNotAtAll(t *testing.T) {
	t.Parallel()
	origin := harness.Listen(t)
	seen := record(origin)
	nodes := startDrivers(t)
	put(nodes, webKey, fmt.Sprintf(`{"host":"127.0.0.1","port":%s,"host_header":"none.test"}`, origin.Port()))
	ran := map[string]h2Case{}
	t.Run("cases", func(t *testing.T) {
		for i, c := range h2Cases {
			for j, d := range drivers {
				from := fmt.Sprintf("127.78.%d.%d", j, 1+i)
				ran[from] = c
				t.Run(c.name+"/"+d.name, func(t *testing.T) {
					t.Parallel()
					w := way{address: nodes[j].Address()}.connect(t, from)
					a, _ := h2Request(w.Conn, c.head, c.data, c.trailers)
					status := a.message.Status()
					switch {
					case c.status == 0 && a.err == nil && status < 400:
						t.Errorf("answer %v, want a refusal", a.message)
					case c.status != 0 && (a.err != nil || status != c.status):
						t.Errorf("answer %v, %v, want %d", a.message, a.err, c.status)
					}
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
	for from, c := range ran {
		var got []string
		for _, m := range seen.whole[from] {
			if m.Target() == "/canary" && m.Get("host") == "canary.test" {
				continue
			}
			got = append(got, show(m))
			if c.check != nil {
				if problem := c.check(m); problem != "" {
					t.Errorf("%s: %s: %v", c.name, problem, m)
				}
			}
		}
		if c.early != "" && slices.Equal(got, []string{c.early}) {
			got = nil
		}
		if want := []string{c.seen}; c.seen == "" && len(got) > 0 || c.seen != "" && !slices.Equal(got, want) {
			t.Errorf("%s: the origin saw %q, want %q", c.name, got, c.seen)
		}
		delete(seen.whole, from)
	}
	for from, got := range seen.whole {
		t.Errorf("requests nobody sent, from %q: %v", from, got)
	}
	t.Logf("%d cases", len(h2Cases))
}

var h2Cases = []h2Case{
	{name: "a GET", head: h2get("/x?y"), status: 200, seen: `GET /x?y a ""`},
	{name: "a POST without length", head: h2post("/"), data: "abc", status: 200, seen: `POST / a "abc"`},
	{name: "a POST with its length", head: h2post("/", "content-length", "3"), data: "abc", status: 200, seen: `POST / a "abc"`, check: has("content-length", "3")},
	{name: "a POST without body", head: h2post("/"), status: 200, seen: `POST / a ""`},
	{name: "trailers", head: h2post("/"), data: "abc", trailers: fields{"x-t", "y"}, status: 200, seen: `POST / a "abc" x-t: y`},
	{name: "cookies in pieces", head: h2get("/", "cookie", "a=b", "cookie", "c=d"), status: 200, seen: `GET / a ""`, check: has("cookie", "a=b; c=d")},
	{name: "Host instead of authority", head: fields{":method", "GET", ":scheme", "http", ":path", "/", "host", "b"}, status: 200, seen: `GET / b ""`},

	// A request within a request.
	{name: "H2.CL: length 0", head: h2post("/", "content-length", "0"), data: smuggled, early: `POST / a ""`},
	{name: "H2.CL: a length that is too short", head: h2post("/", "content-length", "3"), data: "abc" + smuggled},
	{name: "H2.CL: a length that is too long", head: h2post("/", "content-length", "99"), data: "abc"},
	{name: "H2.CL: a length without a body", head: h2post("/", "content-length", "3")},
	{name: "two lengths", head: h2post("/", "content-length", "3", "content-length", "4"), data: "abc"},
	{name: "a list of lengths", head: h2post("/", "content-length", "3, 3"), data: "abc"},
	{name: "a length with a sign", head: h2post("/", "content-length", "+3"), data: "abc"},
	{name: "a length that wraps around", head: h2post("/", "content-length", "18446744073709551619"), data: "abc"},
	{name: "H2.TE", head: h2post("/", "transfer-encoding", "chunked"), data: "0\r\n\r\n" + smuggled},
	{name: "H2.TE with another coding", head: h2post("/", "transfer-encoding", "identity"), data: "abc"},
	{name: "a body that looks like chunks", head: h2post("/"), data: "0\r\n\r\n" + smuggled, status: 200, seen: fmt.Sprintf("POST / a %q", "0\r\n\r\n"+smuggled)},
	{name: "CRLF in a value", head: h2get("/", "x", "y\r\ntransfer-encoding: chunked")},
	{name: "CRLF and a request in a value", head: h2get("/", "x", "y\r\n\r\n"+smuggled)},
	{name: "LF in a value", head: h2get("/", "x", "y\nz: a")},
	{name: "CR in a value", head: h2get("/", "x", "y\rz: a")},
	{name: "NUL in a value", head: h2get("/", "x", "y\x00")},
	{name: "space before a value", head: h2get("/", "x", " y")},
	{name: "space behind a value", head: h2get("/", "x", "y ")},
	{name: "CRLF in a name", head: h2get("/", "x: y\r\ntransfer-encoding", "chunked")},
	{name: "a colon in a name", head: h2get("/", "transfer-encoding: chunked\r\nx", "y")},
	{name: "a colon at the end of a name", head: h2get("/", "transfer-encoding:", "chunked")},
	{name: "a space in a name", head: h2get("/", "transfer-encoding ", "chunked")},
	{name: "capitals in a name", head: h2get("/", "Transfer-Encoding", "chunked")},
	{name: "an empty name", head: h2get("/", "", "y")},
	{name: "non-ASCII in a name", head: h2get("/", "x\xc3\xa4", "y")},
	{name: "CRLF in the path", head: h2get("/ HTTP/1.1\r\nHost: a\r\n\r\n" + smuggled)},
	{name: "a space in the path", head: h2get("/ HTTP/1.1")},
	{name: "CRLF in the method", head: fields{":method", "GET / HTTP/1.1\r\nHost: a\r\n\r\nGET", ":scheme", "http", ":authority", "a", ":path", "/"}},
	{name: "a space in the method", head: fields{":method", "GET /x", ":scheme", "http", ":authority", "a", ":path", "/"}},
	{name: "CRLF in the authority", head: fields{":method", "GET", ":scheme", "http", ":authority", "a\r\nX: y", ":path", "/"}},
	{name: "a space in the authority", head: fields{":method", "GET", ":scheme", "http", ":authority", "a b", ":path", "/"}},
	{name: "userinfo in the authority", head: fields{":method", "GET", ":scheme", "http", ":authority", "a@b", ":path", "/"}},
	{name: "a path in the authority", head: fields{":method", "GET", ":scheme", "http", ":authority", "a/b", ":path", "/"}},
	{name: "CRLF in the scheme", head: fields{":method", "GET", ":scheme", "http\r\nX: y", ":authority", "a", ":path", "/"}},
	{name: "Host that is not the authority", head: h2get("/", "host", "b")},
	{name: "two Hosts", head: h2get("/", "host", "a", "host", "b")},

	// Fields of HTTP/1.1 that have no place here.
	{name: "Connection", head: h2get("/", "connection", "close")},
	{name: "Keep-Alive", head: h2get("/", "keep-alive", "timeout=5")},
	{name: "Proxy-Connection", head: h2get("/", "proxy-connection", "close")},
	{name: "Upgrade", head: h2get("/", "upgrade", "websocket")},
	{name: "TE other than trailers", head: h2get("/", "te", "gzip")},

	// Pseudo fields.
	{name: "no method", head: fields{":scheme", "http", ":authority", "a", ":path", "/"}},
	{name: "no path", head: fields{":method", "GET", ":scheme", "http", ":authority", "a"}},
	{name: "no scheme", head: fields{":method", "GET", ":authority", "a", ":path", "/"}},
	{name: "an empty path", head: h2get("")},
	{name: "a path without slash", head: h2get("x")},
	{name: "a whole URI for a path", head: h2get("http://b/")},
	{name: "an asterisk with GET", head: h2get("*")},
	{name: "two methods", head: h2get("/", ":method", "POST")},
	{name: "two paths", head: append(fields{":path", "/y"}, h2get("/")...)},
	{name: "a pseudo field behind others", head: fields{":method", "GET", ":scheme", "http", ":path", "/", "x", "y", ":authority", "a"}},
	{name: "a pseudo field of answers", head: append(fields{":status", "200"}, h2get("/")...)},
	{name: "a pseudo field that nobody knows", head: append(fields{":x", "y"}, h2get("/")...)},
	{name: "a pseudo field in trailers", head: h2post("/"), data: "abc", trailers: fields{":path", "/y"}},
	{name: "trailers with CRLF", head: h2post("/"), data: "abc", trailers: fields{"x", "y\r\n\r\n" + smuggled}},
	{name: "trailers that are a head", head: h2post("/"), data: "abc", trailers: fields{"host", "b", "content-length", "9", "x-forwarded-for", "1.1.1.1"},
		status: 200, seen: `POST / a "abc"`},
	{name: "Transfer-Encoding in trailers", head: h2post("/"), data: "abc", trailers: fields{"transfer-encoding", "chunked"}},

	// What a gateway has no use for, and bounds.
	{name: "CONNECT", head: fields{":method", "CONNECT", ":authority", "a:443"}},
	{name: "CONNECT with a protocol", head: fields{":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a", ":path", "/"}},
	{name: "an encoded NUL in the path", head: h2get("/a%00b"), status: 400},
	{name: "a path that climbs above the root", head: h2get("/a/../../b"), status: 400},
	{name: "another expectation", head: h2get("/", "expect", "200-ok"), status: 417},
	{name: "X-Forwarded-For is not the client's to say", head: h2get("/", "x-forwarded-for", "1.1.1.1", "forwarded", "for=1.1.1.1"), status: 200, seen: `GET / a ""`},
	{name: "too many fields", head: h2get("/", slices.Repeat(fields{"x", "y"}, 200)...), status: 431},
	{name: "a field that is too long", head: h2get("/", "x", strings.Repeat("y", 100<<10))},
}

// The same answers as for clients of HTTP/1, to clients of HTTP/2: an answer that is not
// whole is a 502 or a reset, and the streams beside it go on.
func TestBadAnswersResetStreams(t *testing.T) {
	t.Parallel()
	var cases []responseCase
	for _, row := range conformanceRows(t, "responses.txt", true) {
		if row.method != "CONNECT" {
			cases = append(cases, row.response(t))
		}
	}
	cases = append(cases, responseCases...)
	origin := harness.Listen(t)
	origin.Each(func(w *harness.Wire) { play(w, cases) })
	nodes := startDrivers(t)
	put(nodes, webKey, fmt.Sprintf(`{"host":"127.0.0.1","port":%s}`, origin.Port()))
	for i, c := range cases {
		for n, way := range []string{"whole", "bytes"} { // each with one of the drivers: HTTP/2 is goroutines' with either
			if way == "bytes" && c.atOnce {
				continue
			}
			t.Run(c.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				w := harness.Dial(t, "tcp", nodes[(i+n)%len(nodes)].Address())
				a, next := h2Request(w.Conn, fields{":method", c.method, ":scheme", "http", ":authority", "a", ":path", fmt.Sprintf("/%s/%d", way, i)}, "", nil)
				if !slices.Equal(a.interim, c.interim) {
					t.Errorf("interim answers %v, want %v", a.interim, c.interim)
				}
				c.judge(t, "HTTP/2", a.message, a.err)
				if next.err != nil || next.message.Status() != 200 || next.message.Body != "canary" {
					t.Errorf("the stream beside it: %v, %v", next.message, next.err)
				}
			})
		}
	}
}
