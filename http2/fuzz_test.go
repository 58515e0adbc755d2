package http2

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	frames "golang.org/x/net/http2"

	"roster/http1"
	"roster/message"
)

// script builds frames for a corpus.
func script(build func(fr *frames.Framer)) []byte {
	var b bytes.Buffer
	fr := frames.NewFramer(&b, nil)
	fr.AllowIllegalWrites = true
	build(fr)
	return b.Bytes()
}

var plainHead = []byte{0x82, 0x87, 0x84, 0x41, 1, 'a'}

func seeds(f *testing.F, head []byte) {
	headers := func(fr *frames.Framer, id uint32, end bool, block []byte) {
		fr.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: block, EndStream: end, EndHeaders: true})
	}
	for _, b := range [][]byte{
		nil,
		script(func(fr *frames.Framer) { fr.WriteSettings() }),
		script(func(fr *frames.Framer) { fr.WriteSettings(); headers(fr, 1, true, head) }),
		script(func(fr *frames.Framer) {
			fr.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1})
			headers(fr, 1, false, head)
			fr.WriteData(1, false, []byte("abc"))
			fr.WriteDataPadded(1, false, []byte("abc"), make([]byte, 9))
			fr.WriteWindowUpdate(1, 10)
			fr.WriteWindowUpdate(0, 10)
			headers(fr, 1, true, []byte{0, 1, 'x', 1, 'y'})
			fr.WriteRSTStream(1, 8)
			fr.WritePing(false, [8]byte{})
			fr.WriteGoAway(1, 0, nil)
		}),
		script(func(fr *frames.Framer) {
			fr.WriteSettings()
			fr.WriteSettingsAck()
			fr.WriteHeaders(frames.HeadersFrameParam{StreamID: 1, BlockFragment: head[:len(head)/2], EndStream: true})
			fr.WriteContinuation(1, true, head[len(head)/2:])
			headers(fr, 3, false, append(append([]byte(nil), head...), 0x0f, 13, 1, '3'))
			fr.WriteData(3, true, []byte("abc"))
			fr.WriteRawFrame(0x77, 1, 3, []byte("x"))
			fr.WritePriority(5, frames.PriorityParam{StreamDep: 3})
		}),
		script(func(fr *frames.Framer) {
			fr.WriteSettings()
			headers(fr, 1, false, head)
			headers(fr, 3, false, head)
			fr.WriteRSTStream(1, 7)
			fr.WriteData(3, true, nil)
			fr.WriteData(1, true, nil)
			fr.WriteWindowUpdate(3, 1<<31-1)
		}),
	} {
		f.Add(b, uint16(0))
		f.Add(b, uint16(7))
	}
}

// throw writes data to nc in pieces, and reads whatever comes back.
func throw(nc net.Conn, data []byte, cut uint16) {
	go func() {
		piece := int(cut)
		if piece == 0 {
			piece = max(1, len(data))
		}
		for len(data) > 0 {
			n := min(piece, len(data))
			if _, err := nc.Write(data[:n]); err != nil {
				return
			}
			data = data[n:]
		}
		nc.Write(make([]byte, 0))
		nc.Close()
	}()
	io.Copy(io.Discard, nc)
}

// limited runs f, which must end soon.
func limited(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		panic("hangs") // with all goroutines' stacks
	}
}

// FuzzServer throws bytes at a server's connection. It must not panic or hang, and
// its handlers must see only well-formed requests.
func FuzzServer(f *testing.F) {
	seeds(f, plainHead)
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		a, b := net.Pipe()
		limited(t, func() {
			go throw(a, append([]byte(frames.ClientPreface), data...), cut)
			NewServer(b, Config{MaxStreams: 4}).Serve(func(s *Stream) {
				var r message.Request
				if err := s.Request(&r); err != nil {
					s.Send(response(err.(*http1.Error).Status, 0), nil, true, nil)
					return
				}
				checkFields(t, r.Fields)
				if err := http1.Check(&r); err != nil {
					t.Errorf("%q %q %q: %v", r.Method, r.Authority, r.Target, err)
				}
				s.ArmRead(10 * time.Second)
				s.ArmWrite(10 * time.Second)
				if s.Send(response(200, message.Unknown, r.Fields...), nil, false, nil) != nil {
					return
				}
				n, err := io.Copy(s, s)
				if err == nil && r.Length >= 0 && n != r.Length {
					t.Errorf("body of %d bytes, content-length %d", n, r.Length)
				}
				if err == nil {
					checkFields(t, s.Trailers())
					s.Send(nil, nil, true, s.Trailers())
				}
			})
		})
	})
}

// FuzzClient does the same to a client's connection with two requests under way.
func FuzzClient(f *testing.F) {
	seeds(f, []byte{0x88})
	seeds(f, []byte{0x08, 3, '1', '0', '3'})
	f.Fuzz(func(t *testing.T, data []byte, cut uint16) {
		a, b := net.Pipe()
		limited(t, func() {
			c := NewClient(a, Config{})
			done := make(chan struct{})
			go func() { c.Run(); close(done) }()
			for _, method := range []string{"POST", "HEAD"} {
				if !c.Reserve() {
					t.Fatal("no place")
				}
				go func() {
					body := make([]byte, 70_000)
					s, n, err := c.Open(request(method, "/", message.Unknown), "http", body, true)
					if err != nil {
						return
					}
					s.ArmRead(10 * time.Second)
					s.ArmWrite(10 * time.Second)
					if n < len(body) {
						go s.Send(nil, body[n:], true, nil)
					}
					var r message.Response
					for r.Status < 200 {
						if err := s.Head(&r); err != nil {
							s.Abort()
							return
						}
						if r.Status < 100 || r.Status > 999 {
							t.Errorf("status %d", r.Status)
						}
						checkFields(t, r.Fields)
					}
					got, err := io.Copy(io.Discard, s)
					if err == nil && r.Length >= 0 && got != r.Length && !r.Bodiless || r.Bodiless && got > 0 {
						t.Errorf("body of %d bytes, content-length %d", got, r.Length)
					}
					s.Abort()
				}()
			}
			throw(b, data, cut)
			<-done
		})
	})
}

func checkFields(t *testing.T, fields []message.Field) {
	for _, f := range fields {
		if !validName(string(f.Name)) || control(f.Value) < len(f.Value) || !bytes.Equal(f.Value, trimSpace(f.Value)) {
			t.Errorf("field %q: %q", f.Name, f.Value)
		}
		if f.ID != message.Lookup(f.Name) || f.ID != message.TE && f.ID != message.ContentLength && f.ID != message.HTTP2Settings && hop[f.ID] {
			t.Errorf("field %q", f.Name)
		}
	}
}

// control must find what a loop over the bytes finds.
func FuzzControl(f *testing.F) {
	f.Add([]byte("abc\tdefghijk\x7f"), uint64(0))
	f.Add([]byte("abcdefgh\x80\x01\xff"), uint64(0x09090909_00010203))
	f.Fuzz(func(t *testing.T, b []byte, more uint64) {
		b = binary.LittleEndian.AppendUint64(b, more)
		want := 0
		for want < len(b) && (b[want] >= 0x20 && b[want] != 0x7f || b[want] == '\t') {
			want++
		}
		if got := control(b); got != want {
			t.Errorf("control(%q) = %d, want %d", b, got, want)
		}
	})
}
