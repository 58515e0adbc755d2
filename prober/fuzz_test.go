package prober

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"

	"roster/pool"
)

// pieces is a connection that gives an answer in pieces, and closes.
type pieces struct {
	net.Conn
	rest []byte
	size int
}

var cannedAddr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80}

func (c *pieces) Write(b []byte) (int, error) { return len(b), nil }
func (c *pieces) RemoteAddr() net.Addr        { return cannedAddr }
func (c *pieces) Close() error                { return nil }
func (c *pieces) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.rest[:min(c.size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}

// What an answer is judged to be does not depend on how it arrives, and is not
// good without a status line that says so.
func FuzzAnswer(f *testing.F) {
	for _, s := range []string{
		okay, "HTTP/1.0 200\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n" + okay, "HTTP/1.1 200 OK\r\nA", "", "\x00", "HTTP/1.1 500 x\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/2 200\r\n\r\n", strings.Repeat("HTTP/1.1 103 x\r\n\r\n", 300) + okay,
	} {
		f.Add([]byte(s), uint16(1), false)
		f.Add([]byte(s), uint16(7), true)
	}
	f.Fuzz(func(t *testing.T, answer []byte, size uint16, closes bool) {
		probe := `{"expect_close": false}`
		if closes {
			probe = `{}`
		}
		c := check(t, "10.0.0.7", probe)
		run := func(size int) outcome {
			m := pool.New(pool.Config{Logger: silent, Dial: func(context.Context, string, string) (net.Conn, error) {
				return &pieces{rest: answer, size: size}, nil
			}})
			p, err := m.Acquire(c.def, c.deps)
			if err != nil {
				t.Fatal(err)
			}
			o := c.run(t.Context(), p, nil)
			o.answered = 0
			return o
		}
		whole, cut := run(1<<20), run(int(size)+1)
		for _, r := range whole.text + cut.text {
			if r < ' ' || r > '~' {
				t.Errorf("%q is described with %q", answer, whole.text+cut.text)
			}
		}
		if whole.text != cut.text {
			// What a fault is said to be may show less of the line if less had come.
			whole.text, cut.text = "", ""
		}
		if whole != cut {
			t.Errorf("%q is judged %+v as a whole and %+v in pieces of %d", answer, whole, cut, size+1)
		}
		if whole.saw&sawHappy != 0 && !strings.Contains(string(answer), " 200") {
			t.Errorf("%q is good", answer)
		}
	})
}
