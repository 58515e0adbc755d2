//go:build linux

package loop

import (
	"fmt"
	"testing"
	"time"
)

// A caller sends a byte, waits for its return, and does so again until there were
// enough.
type caller struct {
	Source
	l     *Loop
	left  *int
	done  chan struct{}
	reply [16]byte
}

func (c *caller) Ready(e Events) {
	if e&In == 0 {
		return
	}
	if _, err := c.l.Read(c.FD(), c.reply[:]); err != nil {
		return
	}
	if *c.left--; *c.left == 0 {
		close(c.done)
	}
	if *c.left > 0 {
		c.l.Write(c.FD(), c.reply[:1])
	}
}

// BenchmarkEcho is a round trip over TCP between two loops, each on its thread.
func BenchmarkEcho(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprintf("sockets=%d", n), func(b *testing.B) {
			server, client := start(b, Config{}), start(b, Config{})
			left, done := b.N, make(chan struct{})
			var cs []*caller
			var es []*conn
			for range n {
				fd, peer := tcpPair(b)
				c, e := &caller{l: client, left: &left, done: done}, &conn{l: server, once: true}
				cs, es = append(cs, c), append(es, e)
				do(b, client, func() { client.Add(&c.Source, dup(b, fd), c, Edge) })
				do(b, server, func() { server.Add(&e.Source, dup(b, peer), e, Edge) })
			}
			b.ReportAllocs()
			b.ResetTimer()
			client.Post(func() {
				for _, c := range cs {
					c.l.Write(c.FD(), c.reply[:1])
				}
			})
			<-done
			b.StopTimer()
			for i := range n {
				do(b, client, func() { client.Close(&cs[i].Source) })
				do(b, server, func() { server.Close(&es[i].Source) })
			}
		})
	}
}

func BenchmarkPost(b *testing.B) {
	l := start(b, Config{})
	b.ReportAllocs()
	f := func() {}
	for b.Loop() {
		l.Post(f)
	}
}

func BenchmarkArm(b *testing.B) {
	l := byHand(b, Config{})
	for _, way := range []string{"put off", "move"} {
		b.Run("way="+way, func(b *testing.B) {
			var t Timer
			at := time.Hour
			b.ReportAllocs()
			for b.Loop() {
				if way == "move" && at > time.Second {
					at -= Resolution
				} else {
					at += Resolution
				}
				l.Arm(&t, at, nil)
			}
			l.Unlink(&t)
		})
	}
}
