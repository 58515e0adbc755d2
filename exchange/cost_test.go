//go:build !race

// The race detector allocates.

package exchange

import (
	"strings"
	"testing"
	"time"

	"roster/store"
)

// TestSessionCookieCostsNoMemory: an exchange that sets one, on a warm Exchange.
func TestSessionCookieCostsNoMemory(t *testing.T) {
	p := newPlay(t, Config{}, "192.0.2.1")
	cookie := &store.Cookie{Name: "roster", Path: "/", TTL: time.Hour}
	p.send(plainGet, nil, plainBackend)
	p.step(p.answered("HTTP/1.1 200 OK\r\nCache-Control: private\r\nContent-Length: 0\r\n\r\n"), Answer)
	value := []byte("0123456789abcdef")
	n := testing.AllocsPerRun(100, func() {
		p.x.Begin(p.policy, &p.peer, &p.in)
		p.x.Routed(nil, 1)
		p.x.Picked(plainBackend)
		p.x.SetCookie(cookie, value)
		p.x.Connected(true)
		p.x.Answered(&p.answer)
	})
	if n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
	if got := p.cookies(); !strings.Contains(got, "; Max-Age=3600;") {
		t.Errorf("Set-Cookie %q", got)
	}
}
