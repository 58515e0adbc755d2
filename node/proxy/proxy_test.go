package proxy

import (
	"strings"
	"testing"
)

func TestPlainGet(t *testing.T) {
	o := newOrigin(t)
	r := newRig(t, Config{}, definitions{"backends/a": o.backend()})
	c := r.dial()
	for range 3 {
		c.send("GET /x?y HTTP/1.1\r\nHost: h.test\r\n\r\n")
	}
	b := o.accept()
	for range 3 {
		if got := b.head(); !strings.HasPrefix(got, "GET /x?y HTTP/1.1\r\nHost: h.test\r\n") {
			t.Errorf("origin got %q", got)
		}
		b.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
		t.Log(c.head())
		if got := c.take(5); got != "hello" {
			t.Errorf("client got %q", got)
		}
	}
}
