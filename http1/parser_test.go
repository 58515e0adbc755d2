package http1

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"roster/message"
)

// status parses in as a request, or as a response if it starts like one, and
// returns the status of the refusal, 0 if it was accepted, or -1 if it is incomplete.
func status(limits Limits, in string) int {
	p := Parser{Limits: limits}
	var n int
	var err error
	if strings.HasPrefix(in, "HTTP/") {
		n, err = p.Response([]byte(in), new(message.Response), nil)
	} else {
		n, err = p.Request([]byte(in), new(message.Request))
	}
	switch {
	case err != nil:
		return err.(*Error).Status
	case n == 0:
		return -1
	}
	return 0
}

func TestLimits(t *testing.T) {
	t.Parallel()
	request := func(size int) string { // a head of exactly that size
		const start, end = "GET / HTTP/1.1\r\nHost: a\r\nX: ", "\r\n\r\n"
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	response := func(size int) string {
		const start, end = "HTTP/1.1 200 OK\r\nX: ", "\r\n\r\n"
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	fields := func(n int) string { return strings.Repeat("X: y\r\n", n) + "\r\n" }
	target := func(n int) string {
		return "GET /" + strings.Repeat("x", n-1) + " HTTP/1.1\r\nHost: a\r\n\r\n"
	}
	for _, c := range []struct {
		name   string
		limits Limits
		in     string
		want   int
	}{
		{"head of 64 KiB", Limits{}, request(64 << 10), 0},
		{"head of 64 KiB after empty lines", Limits{}, "\r\n\r\n" + request(64<<10), 0},
		{"head of 64 KiB and a byte", Limits{}, request(64<<10 + 1), 431},
		{"head of 64 KiB and a body", Limits{}, request(64<<10) + "GET /", 0},
		{"64 KiB without the end", Limits{}, request(64 << 10)[:64<<10-1], -1},
		{"64 KiB of an endless field", Limits{}, request(65 << 10)[:64<<10], 431},
		{"head as big as set", Limits{MaxHead: 100}, request(100), 0},
		{"head bigger than set", Limits{MaxHead: 100}, request(101), 431},
		{"more than 64 KiB if so set", Limits{MaxHead: 1 << 20}, request(1 << 20), 0},
		{"128 fields", Limits{}, "GET / HTTP/1.1\r\nHost: a\r\n" + fields(127), 0},
		{"129 fields", Limits{}, "GET / HTTP/1.1\r\nHost: a\r\n" + fields(128), 431},
		{"as many fields as set", Limits{MaxFields: 3}, "GET / HTTP/1.1\r\nHost: a\r\n" + fields(2), 0},
		{"more fields than set", Limits{MaxFields: 3}, "GET / HTTP/1.1\r\nHost: a\r\n" + fields(3), 431},
		{"target of 16 KiB", Limits{}, target(16 << 10), 0},
		{"target of 16 KiB and a byte", Limits{}, target(16<<10 + 1), 414},
		{"an endless target", Limits{}, target(17 << 10)[:17<<10], 414},
		{"target as long as set", Limits{MaxTarget: 10}, target(10), 0},
		{"target longer than set", Limits{MaxTarget: 10}, target(11), 414},
		{"target longer than a whole head", Limits{MaxHead: 100}, target(200), 414},
		{"an endless method", Limits{MaxTarget: 10}, strings.Repeat("G", 100), 414},

		{"response head of 64 KiB", Limits{}, response(64 << 10), 0},
		{"response head of 64 KiB and a byte", Limits{}, response(64<<10 + 1), 502},
		{"response with 128 fields", Limits{}, "HTTP/1.1 200 OK\r\n" + fields(128), 0},
		{"response with 129 fields", Limits{}, "HTTP/1.1 200 OK\r\n" + fields(129), 502},
		{"an endless reason", Limits{}, "HTTP/1.1 200 " + strings.Repeat("x", 64<<10), 502},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := status(c.limits, c.in); got != c.want {
				t.Errorf("%.50q, %d bytes: %d, want %d", c.in, len(c.in), got, c.want)
			}
		})
	}
}

// TestErrorsAreAnsweredAtOnce: what cannot become a request is refused before
// more of it arrives.
func TestErrorsAreAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int{
		"\x16":                           400, // TLS
		"\x00":                           400,
		"\n":                             400,
		"\rX":                            400,
		"GET\r\n":                        400,
		"GET / HTTP/3.0\r\n":             505,
		"GET / HTTP/1.1\n":               400,
		"GET / HTTP/1.1\r\nHost : a\r\n": 400,
		"HTTP/2":                         502,
		"HTTP/1.1 2000 OK\r\n":           502,
		"GET / HTTP/1.1\r\nHost : a":     -1, // a line counts once it is complete
	} {
		if got := status(Limits{}, in); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

// TestCostIsLinear: what was looked at once is not looked at again until the
// head is complete.
func TestCostIsLinear(t *testing.T) {
	t.Parallel()
	in := []byte("POST / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 1000) + "\r\nY: " + strings.Repeat("y", 1000) + "\r\n\r\n")
	var p Parser
	var r message.Request
	for n := 1; n < len(in); n++ {
		if got, err := p.Request(in[:n], &r); got != 0 || err != nil {
			t.Fatalf("%d bytes: %d, %v", n, got, err)
		}
		lines := bytes.LastIndexByte(in[:n], '\n') + 1
		if p.line != lines || p.scan != n {
			t.Fatalf("after %d bytes: lines read up to %d, want %d; scanned up to %d", n, p.line, lines, p.scan)
		}
	}
	if n, err := p.Request(in, &r); n != len(in) || err != nil {
		t.Fatal(n, err)
	}
}

func TestParserStartsAnewAfterEachHead(t *testing.T) {
	t.Parallel()
	var p Parser
	var r message.Request
	for i := range 3 {
		in := []byte(fmt.Sprintf("\r\nGET http://h?%d HTTP/1.1\r\nHost: a\r\n\r\n", i))
		for n := 1; n < len(in); n++ {
			if got, err := p.Request(in[:n], &r); got != 0 || err != nil {
				t.Fatal(got, err)
			}
		}
		n, err := p.Request(in, &r)
		if want := fmt.Sprintf("/?%d", i); n != len(in) || err != nil || string(r.Target) != want {
			t.Errorf("%d, %v, target %q, want %q", n, err, r.Target, want)
		}
	}
	if _, err := p.Request([]byte("G@\r\n"), &r); err == nil {
		t.Error("no error")
	}
	if n, err := p.Request([]byte(smallRequest), &r); n != len(smallRequest) || err != nil {
		t.Errorf("after an error: %d, %v", n, err)
	}
	if n, err := p.Request([]byte("GET / HTT"), &r); n != 0 || err != nil {
		t.Error(n, err)
	}
	p.Reset()
	if n, err := p.Request([]byte(smallRequest), &r); n != len(smallRequest) || err != nil {
		t.Errorf("after Reset: %d, %v", n, err)
	}
}

func TestFieldsAreReadInOrder(t *testing.T) {
	t.Parallel()
	var p Parser
	var r message.Request
	if _, err := p.Request([]byte(typicalRequest), &r); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, f := range r.Fields {
		if want := message.Lookup(f.Name); f.ID != want {
			t.Errorf("%s has ID %d, want %d", f.Name, f.ID, want)
		}
		fmt.Fprintf(&b, "%s: %s\r\n", f.Name, f.Value)
	}
	_, want, _ := strings.Cut(strings.TrimSuffix(typicalRequest, "\r\n"), "\r\n")
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}

// TestFieldsCannotGrowIntoTheBuffer: appending to a part of a head copies it.
func TestFieldsCannotGrowIntoTheBuffer(t *testing.T) {
	t.Parallel()
	buf := []byte("GET http://h/ HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n")
	before := string(buf)
	var p Parser
	var r message.Request
	if _, err := p.Request(buf, &r); err != nil {
		t.Fatal(err)
	}
	parts := [][]byte{r.Method, r.Target, r.Authority, r.Upgrade}
	for _, f := range r.Fields {
		parts = append(parts, f.Name, f.Value)
	}
	for _, part := range parts {
		_ = append(part, "####"...)
	}
	if string(buf) != before {
		t.Errorf("buffer is now %q", buf)
	}
}

func TestIsH2Preface(t *testing.T) {
	t.Parallel()
	for n := range len(preface) {
		if is, maybe := IsH2Preface([]byte(preface[:n])); is || !maybe {
			t.Errorf("%q: %v, %v", preface[:n], is, maybe)
		}
		if is, maybe := IsH2Preface([]byte(preface[:n] + "x" + preface[n+1:])); is || maybe {
			t.Errorf("%q: %v, %v", preface[:n]+"x", is, maybe)
		}
	}
	if is, maybe := IsH2Preface([]byte(preface + "x")); !is || maybe {
		t.Errorf("%q: %v, %v", preface+"x", is, maybe)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		method, target, authority string
		want                      int
	}{
		{"GET", "/", "a", 0},
		{"GET", "/a?b", "a:80", 0},
		{"GET", "/", "", 0},
		{"OPTIONS", "*", "a", 0},
		{"CONNECT", "", "a:80", 0},
		{"", "/", "a", 400},
		{"GE T", "/", "a", 400},
		{strings.Repeat("G", 33), "/", "a", 501},
		{"GET", "", "a", 400},
		{"GET", "*", "a", 400},
		{"GET", "a", "a", 400},
		{"GET", "http://a/", "a", 400},
		{"GET", "/a b", "a", 400},
		{"GET", "/ HTTP/1.1\r\nX: y", "a", 400},
		{"GET", "/#", "a", 400},
		{"GET", "/", "a b", 400},
		{"GET", "/", "a@b", 400},
	} {
		got := 0
		r := message.Request{Method: []byte(c.method), Target: []byte(c.target), Authority: []byte(c.authority)}
		if err := Check(&r); err != nil {
			got = err.(*Error).Status
		}
		if got != c.want {
			t.Errorf("Check(%q %q %q) = %d, want %d", c.method, c.target, c.authority, got, c.want)
		}
	}
}

func TestIPv6(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]bool{
		"::": true, "::1": true, "1::": true, "1:2:3:4:5:6:7:8": true, "1::8": true, "ABCD:ef01::": true,
		"1:2:3:4:5:6:7::": true, "::2:3:4:5:6:7:8": true, "::1.2.3.4": true, "1:2:3:4:5:6:1.2.3.4": true,
		"": false, ":": false, ":::": false, "1": false, "1:": false, ":1": false, "1:2:3:4:5:6:7": false,
		"1:2:3:4:5:6:7:8:9": false, "1::2::3": false, "1:2:3:4:5:6:7:8::": false, "1:2:3:4:5:6:7::8": false, "::1:2:3:4:5:6:7:8": false, "12345::": false, "g::": false,
		"::1.2.3": false, "::1.2.3.4.5": false, "::256.1.1.1": false, "::01.2.3.4": false, "::1.2.3.4:5": false,
		"1:2:3:4:5:6:7:1.2.3.4": false, "fe80::1%eth0": false, "v1.a": false,
	} {
		if got := validIPv6([]byte(in)); got != want {
			t.Errorf("validIPv6(%q) = %v, want %v", in, got, want)
		}
	}
}

// TestScansFindEveryByteEverywhere holds the eight-at-a-time scans to the simple ones.
func TestScansFindEveryByteEverywhere(t *testing.T) {
	t.Parallel()
	for _, fill := range []byte{'a', 0x80, 0xff, 0x20, '\t', 0x7e} {
		for length := range 20 {
			for at := range length {
				for c := range 256 {
					b := bytes.Repeat([]byte{fill}, length)
					b[at] = byte(c)
					first := func(stop func(byte) bool) int {
						for i, c := range b {
							if stop(c) {
								return i
							}
						}
						return length
					}
					want := first(func(c byte) bool { return c < 0x20 && c != '\t' || c == 0x7f })
					if got := control(b, 0); got != want {
						t.Fatalf("control(%q) = %d, want %d", b, got, want)
					}
					want = first(func(c byte) bool { return c <= 0x20 || c >= 0x7f || c == '#' })
					if got := targetEnd(b, 0); got != want {
						t.Fatalf("targetEnd(%q) = %d, want %d", b, got, want)
					}
				}
			}
		}
	}
}

// TestNoAllocation: after the first message of its kind, nothing is allocated.
func TestNoAllocation(t *testing.T) {
	var p Parser
	var r message.Request
	var s message.Response
	var body Body
	dst := make([]byte, 0, 4096)
	request, response, method := []byte(typicalRequest), []byte(typicalResponse), []byte("GET")
	broken := []byte("GET / HTTP/1.1\r\nX : y\r\n\r\n")
	noPath := []byte("GET http://h?q HTTP/1.1\r\nHost: h\r\n\r\n")
	chunked := []byte("3\r\nabc\r\n0\r\nX: y\r\n\r\n")
	for name, f := range map[string]func(){
		"request":          func() { p.Request(request, &r) },
		"refused request":  func() { p.Request(broken, &r) },
		"target rewritten": func() { p.Request(noPath, &r) },
		"request in two": func() {
			p.Request(request[:100], &r)
			p.Request(request, &r)
		},
		"response":        func() { p.Response(response, &s, method) },
		"append request":  func() { dst = AppendRequest(dst[:0], &r) },
		"append response": func() { dst = AppendResponse(dst[:0], &s, 1) },
		"chunked with trailers": func() {
			body.Reset(message.Unknown)
			for rest := chunked; ; {
				_, n, event, _ := body.Next(rest)
				if rest = rest[n:]; event != Data {
					break
				}
			}
			dst = AppendLastChunk(AppendChunk(dst[:0], 3), body.Trailers())
		},
	} {
		f()
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations, want none", name, n)
		}
	}
}
