package http1

import (
	"bufio"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"roster/message"
)

// A row of testdata/*.txt: those files say what is in it.
type row struct{ rfc, name, method, in, want string }

func (r row) String() string { return strings.ReplaceAll(r.rfc+"_"+r.method+"_"+r.name, "/", "-") }

var (
	requestCases  = readRows("testdata/requests.txt", false)
	responseCases = readRows("testdata/responses.txt", true)
	chunkedCases  = readRows("testdata/chunked.txt", false)
)

func readRows(file string, method bool) (rows []row) {
	f, err := os.Open(file)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		head, rest, ok := strings.Cut(line, ` "`)
		quoted, err := strconv.QuotedPrefix(`"` + rest)
		if !ok || err != nil {
			panic(fmt.Sprintf("%s:%d: %v", file, n, err))
		}
		var r row
		r.in, _ = strconv.Unquote(quoted)
		r.want = strings.TrimSpace(rest[len(quoted)-1:])
		words := strings.Fields(head)
		r.rfc, words = words[0], words[1:]
		if method {
			r.method, words = words[0], words[1:]
		}
		r.name = strings.Join(words, " ")
		rows = append(rows, r)
	}
	if lines.Err() != nil {
		panic(lines.Err())
	}
	return rows
}

// The describe functions say what in is, in the words of testdata.

func describeRequest(in string) string {
	var p Parser
	var r message.Request
	n, err := p.Request([]byte(in), &r)
	if err != nil {
		return fmt.Sprint(err.(*Error).Status)
	}
	if n == 0 {
		return "more"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s ", r.Method, r.Target, orDash(r.Authority))
	if r.Length == message.Unknown {
		b.WriteString("chunked")
	} else {
		fmt.Fprint(&b, r.Length)
	}
	if r.Close {
		b.WriteString(" close")
	}
	if r.Expect100 {
		b.WriteString(" expect")
	}
	describeRest(&b, r.Upgrade, r.Length, in[n:], false)
	return b.String()
}

func describeResponse(in, method string) string {
	var p Parser
	var r message.Response
	n, err := p.Response([]byte(in), &r, []byte(method))
	if err != nil {
		return fmt.Sprint(err.(*Error).Status)
	}
	if n == 0 {
		return "more"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d ", r.Status)
	switch {
	case r.Bodiless:
		b.WriteString("bodiless")
	case r.Length == message.Unknown:
		b.WriteString("chunked")
	case r.Length == message.UntilClose:
		b.WriteString("until-close")
	default:
		fmt.Fprint(&b, r.Length)
	}
	if r.Close {
		b.WriteString(" close")
	}
	describeRest(&b, r.Upgrade, r.Length, in[n:], true)
	return b.String()
}

func describeRest(b *strings.Builder, upgrade []byte, length int64, in string, response bool) {
	if upgrade != nil {
		fmt.Fprintf(b, " upgrade=%q", upgrade)
	}
	body := Body{Response: response}
	body.Reset(length)
	data, used, _, err := readBody(&body, []byte(in), nil)
	if length != 0 {
		fmt.Fprintf(b, " body=%q", data)
	}
	if list := body.Trailers(); len(list) > 0 {
		var fields []string
		for _, f := range list {
			fields = append(fields, fmt.Sprintf("%s: %s", f.Name, f.Value))
		}
		fmt.Fprintf(b, " trailers=[%s]", strings.Join(fields, ", "))
	}
	eof := body.EOF()
	switch {
	case err != nil:
		fmt.Fprintf(b, " body-%d", err.(*Error).Status)
	case eof == ErrTruncated:
		b.WriteString(" truncated")
	case len(in) > used:
		fmt.Fprintf(b, " rest=%q", in[used:])
	}
}

func orDash(b []byte) string {
	if len(b) == 0 {
		return "-"
	}
	return string(b)
}

func TestConformance(t *testing.T) {
	t.Parallel()
	check := func(t *testing.T, c row, got string) {
		t.Helper()
		if got != c.want {
			t.Errorf("%q\n got %s\nwant %s", c.in, got, c.want)
		}
	}
	for _, c := range requestCases {
		t.Run("request/"+c.String(), func(t *testing.T) { check(t, c, describeRequest(c.in)) })
	}
	for _, c := range responseCases {
		t.Run("response/"+c.String(), func(t *testing.T) { check(t, c, describeResponse(c.in, c.method)) })
	}
	for _, c := range chunkedCases {
		t.Run("chunked/"+c.String(), func(t *testing.T) {
			var b strings.Builder
			describeRest(&b, nil, message.Unknown, c.in, false)
			check(t, c, strings.TrimSpace(b.String()))
		})
	}
	if n := len(requestCases) + len(responseCases) + len(chunkedCases); n < 200 {
		t.Errorf("%d cases, want at least 200", n)
	} else {
		t.Logf("%d requests, %d responses, %d chunked bodies", len(requestCases), len(responseCases), len(chunkedCases))
	}
}

// TestOutcomeDoesNotDependOnCuts runs every case cut at every single place, and
// byte by byte.
func TestOutcomeDoesNotDependOnCuts(t *testing.T) {
	t.Parallel()
	for _, c := range append(append([]row{}, requestCases...), responseCases...) {
		for at := range min(len(c.in), 255) {
			checkCuts(t, []byte(c.in), []byte{byte(at), 255})
		}
		checkCuts(t, []byte(c.in), nil)
	}
	for _, c := range chunkedCases {
		var whole Body
		whole.Reset(message.Unknown)
		data, used, event, err := readBody(&whole, []byte(c.in), nil)
		for at := range len(c.in) {
			for _, cuts := range [][]byte{{byte(at)}, make1s(len(c.in))} {
				var cut Body
				cut.Reset(message.Unknown)
				data2, used2, event2, err2 := readBody(&cut, []byte(c.in), cuts)
				if string(data) != string(data2) || used != used2 || event != event2 || err != err2 {
					t.Errorf("%q cut by %v: %q %d %d %v, whole: %q %d %d %v",
						c.in, cuts, data2, used2, event2, err2, data, used, event, err)
				}
			}
		}
	}
}

func make1s(n int) []byte { return []byte(strings.Repeat("\x01", n)) }
