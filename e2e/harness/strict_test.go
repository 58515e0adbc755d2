package harness_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"roster/e2e/harness"
)

// What the strict readers are for: they see what may be read in two ways, and what is
// cut.
func TestStrictReadersSeeWhatIsWrong(t *testing.T) {
	t.Parallel()
	const head = "POST / HTTP/1.1\r\nHost: a\r\n"
	request := func(r *bufio.Reader) (harness.Message, error) { return harness.ReadRequest(r) }
	response := func(r *bufio.Reader) (harness.Message, error) { return harness.ReadResponse(r, "GET") }
	toHead := func(r *bufio.Reader) (harness.Message, error) { return harness.ReadResponse(r, "HEAD") }
	for _, test := range []struct {
		read     func(*bufio.Reader) (harness.Message, error)
		in, want string // good, malformed, cut or end, then what is left
	}{
		{request, head + "\r\nX", `good "" "X"`},
		{request, head + "Content-Length: 3\r\n\r\nabcX", `good "abc" "X"`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nT: u\r\n\r\nX", `good "abc" "X"`},
		{request, "", `end`},
		{request, "POST / HT", `cut`},
		{request, head, `cut`},
		{request, head + "Content-Length: 3\r\n\r\nab", `cut`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", `cut`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", `cut`},
		{request, "POST / HTTP/1.0\r\nHost: a\r\n\r\n", `malformed`},
		{request, "POST  / HTTP/1.1\r\nHost: a\r\n\r\n", `malformed`},
		{request, "POST / HTTP/1.1\r\n\r\n", `malformed`},
		{request, head + "Host: a\r\n\r\n", `malformed`},
		{request, head + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", `malformed`},
		{request, head + "Content-Length: 3, 3\r\n\r\nabc", `malformed`},
		{request, head + "Content-Length: +3\r\n\r\nabc", `malformed`},
		{request, head + "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", `malformed`},
		{request, head + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", `malformed`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\n\r\n", `malformed`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", `malformed`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", `malformed`},
		{request, head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", `malformed`},
		{request, head + "X: a\r\n b\r\n\r\n", `malformed`},
		{request, head + "X : a\r\n\r\n", `malformed`},
		{request, head + "X: a\rb\r\n\r\n", `malformed`},
		{request, head + "X: a\n\r\n", `malformed`},
		{request, head + "X: a\x00\r\n\r\n", `malformed`},
		{response, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcX", `good "abc" "X"`},
		{response, "HTTP/1.1 200 OK\r\n\r\nabcX", `good "abcX" ""`},
		{response, "HTTP/1.1 304 x\r\nContent-Length: 3\r\n\r\nX", `good "" "X"`},
		{response, "HTTP/1.1 103 x\r\n\r\nX", `good "" "X"`},
		{toHead, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nX", `good "" "X"`},
		{response, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", `cut`},
		{response, "HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", `malformed`},
		{response, "HTTP/1.1 099 x\r\n\r\n", `malformed`},
		{response, "HTTP/1.1 2000 x\r\n\r\n", `malformed`},
		{response, "HTTP/1.0 200 OK\r\n\r\n", `malformed`},
	} {
		r := bufio.NewReader(strings.NewReader(test.in))
		m, err := test.read(r)
		var got string
		switch {
		case err == nil:
			rest, _ := io.ReadAll(r)
			got = fmt.Sprintf("good %q %q", m.Body, rest)
		case errors.Is(err, harness.ErrMalformed):
			got = "malformed"
		case err == io.EOF:
			got = "end"
		default:
			got = "cut"
		}
		if got != test.want {
			t.Errorf("%q: %s (%v), want %s", test.in, got, err, test.want)
		}
	}
}
