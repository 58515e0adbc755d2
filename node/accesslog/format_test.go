package accesslog

import (
	"encoding/json"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func example() *Entry {
	return &Entry{
		Time:   time.Date(2026, 11, 21, 7, 46, 40, 123456789, time.UTC),
		Client: netip.MustParseAddrPort("192.0.2.7:50000"), Peer: netip.MustParseAddrPort("192.0.2.7:50000"),
		Method: []byte("GET"), Target: []byte("/search?q=a"), Host: []byte("example.com"), Proto: "HTTP/1.1",
		UserAgent: []byte("curl/8.5"), Referer: []byte("https://example.org/"), RequestID: []byte("9f86d081"), TraceID: []byte("4bf92f3577b34da6a3ce929d0e0e4736"),
		Status: 200, Sent: 512, Received: 17,
		Route: "www", Director: "web", Backend: "web-1", Address: netip.MustParseAddrPort("10.0.0.7:8080"), Retries: 1,
		Queue: 2 * time.Microsecond, Connect: 301 * time.Microsecond, FirstByte: 1204999 * time.Nanosecond, Total: 61*time.Second + 5*time.Millisecond,
		Revision: 4711,
	}
}

// refused is the entry of what was no request.
func refused() *Entry {
	return &Entry{
		Time: time.Date(2026, 11, 21, 7, 46, 40, 0, time.UTC), Client: netip.MustParseAddrPort("[2001:db8::7]:0"), Peer: netip.MustParseAddrPort("[::ffff:10.0.0.1]:7"),
		TLS: true, Status: 400, Queue: -1, Connect: -1, FirstByte: -1, Total: 0, Error: "bad request",
	}
}

// silent is the entry of a client on a Unix socket that left.
func silent() *Entry {
	return &Entry{Method: []byte("POST"), Target: []byte("/"), Proto: "HTTP/1.0", Queue: -1, Connect: -1, FirstByte: -1, Total: -1, Error: `client gone "early"`}
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name  string
		entry *Entry
		want  string
	}{
		{"everything", example(), `{"time":"2026-11-21T07:46:40.123456Z","client":"192.0.2.7","client_port":50000,"tls":false,` +
			`"method":"GET","target":"/search?q=a","host":"example.com","proto":"HTTP/1.1","status":200,"bytes":512,"received":17,` +
			`"referer":"https://example.org/","user_agent":"curl/8.5","route":"www","director":"web","backend":"web-1","address":"10.0.0.7:8080","retries":1,` +
			`"queue":0.000002,"connect":0.000301,"first_byte":0.001204,"total":61.005000,"request_id":"9f86d081","trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","revision":4711}`},
		{"no request, by a trusted proxy", refused(), `{"time":"2026-11-21T07:46:40.000000Z","client":"2001:db8::7","peer":"10.0.0.1","tls":true,` +
			`"status":400,"bytes":0,"received":0,"retries":0,"total":0.000000,"error":"bad request"}`},
		{"no client, no answer", silent(), `{"time":"0001-01-01T00:00:00.000000Z","tls":false,"method":"POST","target":"/","proto":"HTTP/1.0",` +
			`"status":0,"bytes":0,"received":0,"retries":0,"error":"client gone \"early\""}`},
	} {
		if got := string(appendJSON(nil, row.entry, new(stamp))); got != row.want+"\n" {
			t.Errorf("%s:\n got %swant %s", row.name, got, row.want)
		}
		if !json.Valid([]byte(row.want)) {
			t.Errorf("%s: not JSON: %s", row.name, row.want)
		}
	}
}

func TestCombined(t *testing.T) {
	t.Parallel()
	at := func(e *Entry) string { return e.Time.Local().Format("02/Jan/2006:15:04:05 -0700") }
	for _, row := range []struct {
		name  string
		entry *Entry
		want  string
	}{
		{"everything", example(), `192.0.2.7 - - [` + at(example()) + `] "GET /search?q=a HTTP/1.1" 200 512 "https://example.org/" "curl/8.5" ` +
			`host="example.com" route="www" director="web" backend="web-1" address="10.0.0.7:8080" received=17 retries=1 ` +
			`queue=0.000002 connect=0.000301 first_byte=0.001204 total=61.005000 request_id="9f86d081" revision=4711`},
		{"no request, by a trusted proxy", refused(), `2001:db8::7 - - [` + at(refused()) + `] "-" 400 - "-" "-" received=0 retries=0 total=0.000000 error="bad request"`},
		{"no client, no answer", silent(), `- - - [` + at(silent()) + `] "POST / HTTP/1.0" 000 - "-" "-" received=0 retries=0 error="client gone \"early\""`},
	} {
		if got := string(appendCombined(nil, row.entry, new(stamp))); got != row.want+"\n" {
			t.Errorf("%s:\n got %swant %s", row.name, got, row.want)
		}
	}
}

// A second's text is kept for the next line of the same second, and for no other.
func TestSecondsAreNotMixedUp(t *testing.T) {
	t.Parallel()
	var s, c stamp
	at := time.Date(2026, 12, 31, 23, 59, 58, 0, time.UTC)
	for range 30 {
		e := &Entry{Time: at}
		if got, want := string(appendJSON(nil, e, &s)), `{"time":"`+at.Format("2006-01-02T15:04:05.000000Z")+`",`; !strings.HasPrefix(got, want) {
			t.Fatalf("got %s, want %s", got, want)
		}
		if got, want := string(appendCombined(nil, e, &c)), `- - - [`+at.Local().Format(combinedSecond)+`] `; !strings.HasPrefix(got, want) {
			t.Fatalf("got %s, want %s", got, want)
		}
		at = at.Add(300 * time.Millisecond)
	}
}

func TestEscaping(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, text, json, combined string }{
		{"a line of its own", "a\nb\r\n{\"status\":200}", `a\u000ab\u000d\u000a{\"status\":200}`, `a\nb\r\n{\"status\":200}`},
		{"quotes and backslashes", `a"b\c\"`, `a\"b\\c\\\"`, `a\"b\\c\\\"`},
		{"control characters", "\x00\b\t\v\x1b[2J\x7f", `\u0000\u0008\u0009\u000b\u001b[2J\u007f`, `\x00\b\t\v\x1b[2J\x7f`},
		{"UTF-8", "grün €😀", "grün €😀", `gr\xc3\xbcn \xe2\x82\xac\xf0\x9f\x98\x80`},
		{"not UTF-8", "a\xff\xc3(\xe2\x82", `a\ufffd\ufffd(\ufffd\ufffd`, `a\xff\xc3(\xe2\x82`},
		{"U+FFFD itself", "\ufffd", "\ufffd", `\xef\xbf\xbd`},
		{"control characters of 8 bits", "\u009b31m", `\u009b31m`, `\xc2\x9b31m`},
		{"ends of lines of Unicode", "a\u0085b\u2028c\u2029d", `a\u0085b\u2028c\u2029d`, `a\xc2\x85b\xe2\x80\xa8c\xe2\x80\xa9d`},
	} {
		if got, want := string(jsonText(nil, `"`, row.text, maxText)), `"`+row.json+`"`; got != want {
			t.Errorf("%s, JSON: got %s, want %s", row.name, got, want)
		}
		if got := string(appendApache(nil, row.text, maxText)); got != row.combined {
			t.Errorf("%s, combined: got %s, want %s", row.name, got, row.combined)
		}
	}
}

func TestLongTextsAreCut(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ name, text, want string }{
		{"as long as may be", "abcdefgh", "abcdefgh"},
		{"longer", "abcdefghi", "abcdefgh..."},
		{"between characters", "abcdefg€", "abcdefg..."},
		{"back by a character at most", "abcde\xa9\xa9\xa9\xa9\xa9", "abcd..."},
	} {
		if got := string(jsonText(nil, `"`, row.text, 8)); got != `"`+row.want+`"` {
			t.Errorf("%s: JSON is %s, want %q", row.name, got, row.want)
		}
		if got := string(appendApache(nil, row.text, 8)); got != row.want {
			t.Errorf("%s: combined is %s, want %q", row.name, got, row.want)
		}
	}
}

// However long texts are and whatever is in them, a line is bounded.
func TestLinesAreBounded(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"a", "\x00", "\xff", "\u2028", "€\xa9\xa9\xa9\xa9"} {
		long := strings.Repeat(unit, 1<<17)
		b := []byte(long)
		addr := netip.MustParseAddrPort("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%" + long + "]:65535")
		other := netip.AddrPortFrom(addr.Addr().Prev(), 65535)
		e := &Entry{
			Time: time.Now(), Client: addr, Peer: other, Method: b, Target: b, Host: b, UserAgent: b, Referer: b, RequestID: b, TraceID: b,
			Proto: long, Status: -1 << 63, Received: -1 << 63, Sent: -1 << 63, Route: long, Director: long, Backend: long, Address: addr,
			Retries: -1 << 63, Queue: 1<<63 - 1, Connect: 1<<63 - 1, FirstByte: 1<<63 - 1, Total: 1<<63 - 1, Error: long, Revision: -1 << 63,
		}
		for _, n := range []int{len(appendJSON(nil, e, new(stamp))), len(appendCombined(nil, e, new(stamp)))} {
			if n > maxLine {
				t.Errorf("%q: line of %d bytes, more than %d", unit, n, maxLine)
			}
		}
	}
}

var combinedLine = regexp.MustCompile(`^- - - \[[^]]*\] "((?:[^"\\]|\\.)*)" 200 1 "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"` +
	` host="((?:[^"\\]|\\.)*)" backend="((?:[^"\\]|\\.)*)" received=0 retries=0 queue=0.000000 connect=0.000000 first_byte=0.000000 total=0.000000` +
	` error="((?:[^"\\]|\\.)*)"\n$`)

// unescape undoes Apache's escaping, whose sequences are Go's, too.
func unescape(t *testing.T, s string) string {
	u, err := strconv.Unquote(`"` + s + `"`)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return u
}

// Whatever clients send, a line of JSON gives it back and has nothing else, and a
// combined line is one, of printable ASCII.
func FuzzEscaping(f *testing.F) {
	f.Add("/a", "example.com", "curl/8.5", "web-1")
	f.Add("/\n{}\r\n", "\"\\", "\x00\x1b[2J\x7f\u0085\u2028", "\" error=\"x")
	f.Add("\xff\xc3(\xe2\x82\xf0\x9f", "\ufffd", "€\xed\xa0\x80", "\\")
	f.Fuzz(func(t *testing.T, target, host, agent, text string) {
		e := &Entry{
			Method: []byte("GET"), Target: []byte(target), Proto: "HTTP/1.1", Host: []byte(host), UserAgent: []byte(agent), Referer: []byte(text),
			Status: 200, Sent: 1, Backend: host, Error: text,
		}
		line := appendJSON(nil, e, new(stamp))
		if n := len(line); strings.IndexByte(string(line), '\n') != n-1 || n > maxLine {
			t.Fatalf("not one line of at most %d bytes: %q", maxLine, line)
		}
		var got map[string]any
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		for name, s := range map[string]string{"target": target, "host": host, "user_agent": agent, "referer": text, "backend": host, "error": text} {
			if len(s) > maxName {
				continue // TestLongTextsAreCut
			}
			v, there := got[name].(string)
			if want := string([]rune(s)); v != want || there != (s != "") {
				t.Errorf("%s is %q, want %q, in %q", name, v, want, line)
			}
		}

		line = appendCombined(nil, e, new(stamp))
		for i, c := range line {
			if (c < ' ' || c > '~') && (c != '\n' || i != len(line)-1) {
				t.Fatalf("byte %#x in %q", c, line)
			}
		}
		if max(len(target), len(host), len(agent), len(text)) > maxName || host == "" || text == "" {
			return
		}
		m := combinedLine.FindStringSubmatch(string(line))
		if m == nil {
			t.Fatalf("not as documented: %s", line)
		}
		if agent == "" {
			agent = "-"
		}
		for i, want := range []string{"GET " + target + " HTTP/1.1", text, agent, host, host, text} {
			if got := unescape(t, m[i+1]); got != want {
				t.Errorf("field %d is %q, want %q, in %q", i, got, want, line)
			}
		}
	})
}
