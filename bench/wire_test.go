package bench

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// startEcho starts an origin that answers every GET with the value of its Host field,
// so that a change of a backend's host_header shows in the next answer. It costs
// little, for it shares the cores with what is measured. It gives its address.
func startEcho(b testing.TB) *net.TCPAddr {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed with the benchmark
			}
			go echo(c)
		}
	}()
	return l.Addr().(*net.TCPAddr)
}

func echo(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	var host, answer []byte
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return
		}
		if name, value, ok := bytes.Cut(line, []byte(":")); ok && bytes.EqualFold(name, []byte("host")) {
			host = append(host[:0], bytes.TrimSpace(value)...)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			continue
		}
		answer = fmt.Appendf(answer[:0], "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(host), host)
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// keepAlive is one client connection that sends the same request again and again.
type keepAlive struct {
	conn    net.Conn
	r       *bufio.Reader
	request []byte
}

func dial(b testing.TB, address, host string) *keepAlive {
	b.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	return &keepAlive{c, bufio.NewReader(c), fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)}
}

// get sends the request and returns the body of the answer.
func (k *keepAlive) get() (string, error) {
	k.conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := k.conn.Write(k.request); err != nil {
		return "", err
	}
	resp, err := http.ReadResponse(k.r, nil)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", resp.Status, body)
	}
	return string(body), err
}
