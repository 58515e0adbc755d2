package http2

import (
	"bytes"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/message"
)

// flood sends until the connection is closed, and returns how often it did.
func flood(t *testing.T, send func(i int) error) (n int) {
	t.Helper()
	for n = range 1 << 20 {
		if send(n) != nil {
			break
		}
	}
	if n >= 1<<19 {
		t.Fatalf("%d frames were taken", n)
	}
	return n
}

// calm checks that the connection ended with ENHANCE_YOUR_CALM, as far as that
// could be read.
func calm(t *testing.T, p *peer) {
	t.Helper()
	for _, line := range p.closed() {
		if strings.HasPrefix(line, "GOAWAY") && !strings.HasSuffix(line, "ENHANCE_YOUR_CALM") {
			t.Errorf("heard %q", line)
		}
	}
}

// CVE-2023-44487: a stream costs the client two frames, and the server a handler.
func TestRapidReset(t *testing.T) {
	t.Parallel()
	const streams = 10
	var running, most, handled atomic.Int32
	p, _ := client(t, Config{MaxStreams: streams}, func(s *Stream) {
		handled.Add(1)
		n := running.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		<-whenGone(s)
		time.Sleep(time.Millisecond) // the time it takes to stop
		running.Add(-1)
	})
	block := bytes.Clone(p.block(get...)) // all in the table from now on
	n := flood(t, func(i int) error {
		id := uint32(2*i + 1)
		p.fr.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: true, EndHeaders: true})
		if i == 0 {
			block = bytes.Clone(p.block(get...))
		}
		return p.fr.WriteRSTStream(id, frames.ErrCodeCancel)
	})
	calm(t, p)
	if most.Load() > 2*streams {
		t.Errorf("%d handlers at once", most.Load())
	}
	if handled.Load() > 2*burst {
		t.Errorf("%d handlers in all, of %d streams", handled.Load(), n)
	}
}

// The same from a client that keeps to the limit of streams.
func TestResetsAreBudgeted(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, func(s *Stream) { <-whenGone(s) })
	n := flood(t, func(i int) error {
		id := uint32(2*i + 1)
		p.headers(id, true, get...)
		err := p.fr.WriteRSTStream(id, frames.ErrCodeCancel)
		if i%10 == 0 && err == nil && i < burst-10 {
			p.sync() // the handlers have time to end
		}
		return err
	})
	calm(t, p)
	if n < burst {
		t.Errorf("only %d were taken", n)
	}
}

// CVE-2025-8671: the client has the server reset its streams.
func TestResetsProvokedCountToo(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, func(s *Stream) { <-whenGone(s) })
	flood(t, func(i int) error {
		id := uint32(2*i + 1)
		p.headers(id, true, get...)
		return p.fr.WriteWindowUpdate(id, 0)
	})
	calm(t, p)
}

func TestStreamsAreBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p, _ := client(t, Config{MaxStreams: 3}, func(s *Stream) { <-release; hello(s) })
	for id := uint32(1); id <= 9; id += 2 {
		p.headers(id, true, get...)
	}
	p.hear("RST_STREAM 7 REFUSED_STREAM")
	p.hear("RST_STREAM 9 REFUSED_STREAM")
	close(release)
	for range 3 {
		p.hear("DATA")
	}
}

func TestContinuationFlood(t *testing.T) {
	t.Parallel()
	for name, part := range map[string][]byte{
		"empty": nil,
		"small": {0, 1, 'x', 1, 'y'},
		"large": bytes.Repeat([]byte{0, 1, 'x', 1, 'y'}, 3000),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, _ := client(t, Config{}, func(s *Stream) { t.Error("handler called") })
			p.fr.WriteHeaders(frames.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(get...), EndStream: true})
			flood(t, func(int) error { return p.fr.WriteContinuation(1, false, part) })
			calm(t, p)
		})
	}
}

// Answers to a peer that does not read them do not pile up.
func TestPingFlood(t *testing.T) {
	t.Parallel()
	a, b := sockets(t)
	defer a.Close()
	c := serve(t, b, Config{}, hello)
	io.WriteString(a, frames.ClientPreface)
	fr := frames.NewFramer(a, nil)
	fr.WriteSettings()
	n := flood(t, func(int) error { return fr.WriteRawFrame(frames.FramePing, 0, 0, make([]byte, 8)) })
	<-c.Done()
	if !strings.Contains(c.err.Error(), "too many frames to answer") {
		t.Errorf("after %d: %v", n, c.err)
	}
}

// PINGs whose answers are read are welcome: some measure the bandwidth with them.
func TestPingsThatAreReadAreAnswered(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, hello)
	for range 3000 {
		p.sync()
	}
}

func TestSettingsFlood(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, hello)
	n := flood(t, func(int) error {
		return p.fr.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1})
	})
	calm(t, p)
	if n < burst {
		t.Errorf("only %d were taken", n)
	}
}

func TestEmptyDataFlood(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, func(s *Stream) { io.Copy(io.Discard, s) })
	p.headers(1, false, get...)
	flood(t, func(i int) error {
		if i%2 == 0 {
			return p.fr.WriteDataPadded(1, false, nil, make([]byte, 1))
		}
		return p.fr.WriteData(1, false, nil)
	})
	calm(t, p)
}

// The sender must keep to the windows, or is cut off; and cannot open ours beyond
// 2^31-1.
func TestWindowOverflow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		send func(p *peer)
		want string
	}{
		{"stream's window overrun", func(p *peer) { // by what SETTINGS had not taken away yet
			p.headers(1, false, get...)
			p.fr.WriteData(1, false, make([]byte, 1001))
		}, "RST_STREAM 1 FLOW_CONTROL_ERROR"},
		{"stream's window overrun by padding", func(p *peer) {
			p.headers(1, false, get...)
			p.fr.WriteDataPadded(1, false, make([]byte, 900), make([]byte, 100))
		}, "RST_STREAM 1 FLOW_CONTROL_ERROR"},
		{"connection's window overrun", func(p *peer) {
			for id := uint32(1); id < 200; id += 2 {
				p.headers(id, false, get...)
				p.fr.WriteData(id, false, make([]byte, 1000))
			}
		}, "GOAWAY"},
		{"stream's window opened too far", func(p *peer) { p.headers(1, false, get...); p.fr.WriteWindowUpdate(1, 1<<31-1) }, "RST_STREAM 1 FLOW_CONTROL_ERROR"},
		{"connection's window opened too far", func(p *peer) { p.fr.WriteWindowUpdate(0, 1<<31-1) }, "GOAWAY 0 FLOW_CONTROL_ERROR"},
		{"stream's window opened too far by SETTINGS", func(p *peer) {
			p.headers(1, false, get...)
			p.fr.WriteWindowUpdate(1, 1<<30)
			p.fr.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1<<31 - 1})
		}, "GOAWAY 1 FLOW_CONTROL_ERROR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, _ := client(t, Config{StreamWindow: 1000, ConnWindow: 65535}, func(s *Stream) { <-whenGone(s) })
			test.send(p)
			if line := p.hear(test.want); test.want == "GOAWAY" && !strings.HasSuffix(line, "FLOW_CONTROL_ERROR") {
				t.Errorf("heard %q", line)
			}
		})
	}
}

// A table entry of 4 KB that is referred to again and again would make a head of
// megabytes from a few bytes.
func TestHeaderListBomb(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{MaxFields: 1 << 20}, func(s *Stream) {
		var r message.Request
		if s.Request(&r) == nil {
			s.Send(response(200, 0, r.Fields...), nil, true, nil)
			return
		}
		size := 0
		for _, f := range r.Fields {
			size += len(f.Value)
		}
		if size > 64<<10 {
			t.Errorf("%d bytes of fields", size)
		}
		s.Send(response(431, 0), nil, true, nil)
	})
	block := bytes.Clone(p.block(with(get, "x="+strings.Repeat("y", 4000))...))
	p.hpb.Reset()
	p.hp.WriteField(hpack.HeaderField{Name: "x", Value: strings.Repeat("y", 4000)})
	reference := p.hpb.Bytes()
	if len(reference) != 1 {
		t.Fatalf("%d bytes to refer to the table", len(reference))
	}
	block = append(block, bytes.Repeat(reference, 10_000)...)
	p.fr.WriteHeaders(frames.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true, EndHeaders: true})
	p.hear("HEADERS 1 :status=431")
	p.headers(3, true, with(get, "x="+strings.Repeat("y", 4000))...) // the table is still right
	if line := p.hear("HEADERS 3 :status=200"); !strings.Contains(line, " x=yyyy") {
		t.Errorf("heard %q", line)
	}
}

func TestPriorityFramesAreIgnored(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, hello)
	for i := range 5000 {
		p.fr.WritePriority(uint32(2*i+1), frames.PriorityParam{StreamDep: uint32(2*i + 3), Weight: 9})
	}
	p.headers(1, true, get...)
	p.hear("DATA 1 hello END")
}

// A client that opens no window and then resets frees what waited for it.
func TestZeroWindowIsFreedByReset(t *testing.T) {
	t.Parallel()
	errs := make(chan error, 1)
	p, _ := client(t, Config{}, func(s *Stream) {
		errs <- s.Send(response(200, 10), make([]byte, 10), true, nil)
	}, frames.Setting{ID: frames.SettingInitialWindowSize, Val: 0})
	p.headers(1, true, get...)
	p.hear("HEADERS 1 :status=200")
	p.fr.WriteRSTStream(1, frames.ErrCodeCancel)
	if err := <-errs; err == nil {
		t.Error("sent without a window")
	}
}

// Bytes of bodies nobody reads are bounded by the windows, whatever size the
// frames have.
func TestUnreadBodiesAreBounded(t *testing.T) {
	t.Parallel()
	var streams []*Stream
	opened := make(chan *Stream)
	p, c := client(t, Config{StreamWindow: 50_000, ConnWindow: 100_000}, func(s *Stream) { opened <- s; <-whenGone(s) })
	for id := uint32(1); id <= 3; id += 2 {
		p.headers(id, false, get...)
		streams = append(streams, <-opened)
		for range 50_000 / 100 {
			p.fr.WriteData(id, false, make([]byte, 100))
		}
	}
	p.sync()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range streams {
		blocks := 0
		for b := s.body.first; b != nil; b = b.next {
			blocks += len(b.b)
		}
		if s.body.size != 50_000 || blocks > 70_000 {
			t.Errorf("%d bytes in blocks of %d", s.body.size, blocks)
		}
	}
}
