package http2

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"testing"

	frames "golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"roster/message"
)

// benchConns are a client and a server of ours over a loopback socket.
func benchConns(b *testing.B, secure bool, handle func(*Stream)) *Conn {
	near, far := sockets(b)
	if secure {
		certificates := httptest.NewUnstartedServer(nil)
		certificates.StartTLS()
		cfg := &tls.Config{Certificates: certificates.TLS.Certificates, DynamicRecordSizingDisabled: true}
		certificates.Close()
		near, far = net.Conn(tls.Client(near, &tls.Config{InsecureSkipVerify: true, DynamicRecordSizingDisabled: true})), net.Conn(tls.Server(far, cfg))
	}
	serve(b, far, Config{}, handle)
	return dial(b, near, Config{})
}

// A request and an answer of a kilobyte, both ends counted.
func BenchmarkGet(b *testing.B) {
	body := make([]byte, 1024)
	fields := []message.Field{field("server", "x"), field("via", "1.1 roster"), field("content-type", "text/plain"),
		field("date", "Sat, 21 Nov 2026 07:46:40 GMT"), field("x-request-id", "0123456789abcdef")}
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			c := benchConns(b, secure, func(s *Stream) {
				var r message.Request
				var list [16]message.Field
				r.Fields = list[:0]
				s.Request(&r)
				s.Send(&message.Response{Status: 200, Length: int64(len(body)), Fields: fields}, body, true, nil)
			})
			r := request("GET", "/index.html", 0, field("user-agent", "bench"), field("accept", "*/*"))
			var head message.Response
			buf := make([]byte, 2048)
			b.ReportAllocs()
			for b.Loop() {
				if !c.Reserve() {
					b.Fatal("no place")
				}
				s, _, err := c.Open(r, "https", nil, true)
				if err != nil {
					b.Fatal(err)
				}
				if err := s.Head(&head); err != nil {
					b.Fatal(err)
				}
				for err == nil {
					_, err = s.Read(buf)
				}
				if err != io.EOF {
					b.Fatal(err)
				}
			}
		})
	}
}

// A long answer, in megabytes a second.
func BenchmarkDownload(b *testing.B) {
	for _, secure := range []bool{false, true} {
		b.Run(fmt.Sprintf("tls=%v", secure), func(b *testing.B) {
			chunk := make([]byte, 2*dataFrame)
			c := benchConns(b, secure, func(s *Stream) {
				s.Send(response(200, message.Unknown), nil, false, nil)
				for s.Send(nil, chunk, false, nil) == nil {
				}
			})
			s := open(b, c, request("GET", "/", 0), "", true)
			if err := s.Head(new(message.Response)); err != nil {
				b.Fatal(err)
			}
			buf := make([]byte, 32<<10)
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := io.ReadFull(s, buf); err != nil {
					b.Fatal(err)
				}
			}
			s.Abort()
		})
	}
}

func BenchmarkAppendResponse(b *testing.B) {
	r := response(200, 1024, field("Server", "x"), field("Via", "1.1 roster"), field("Content-Type", "text/plain"),
		field("Date", "Sat, 21 Nov 2026 07:46:40 GMT"), field("X-Request-Id", "0123456789abcdef"))
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = appendResponse(buf[:0], r)
	}
}

// What a server's end alone costs: the client's bytes are always the same, all
// fields but the pseudo ones in the table.
func BenchmarkServe(b *testing.B) {
	near, far := sockets(b)
	serve(b, far, Config{}, func(s *Stream) {
		var r message.Request
		var list [16]message.Field
		r.Fields = list[:0]
		s.Request(&r)
		head := message.Response{Status: 200, Length: 5}
		s.Send(&head, []byte("hello"), true, nil)
	})
	defer near.Close()
	var hello bytes.Buffer
	hello.WriteString(frames.ClientPreface)
	fr := frames.NewFramer(&hello, nil)
	fr.WriteSettings()
	fr.WriteSettingsAck()
	fr.WriteWindowUpdate(0, 1<<30)
	hello.WriteTo(near)
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	id := uint32(1)
	in := bufio.NewReader(near)
	send := func() {
		block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "a.test"}, {":path", "/index.html"}, {"user-agent", "bench"}, {"accept", "*/*"}} {
			enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
		}
		hello.Reset()
		fr.WriteHeaders(frames.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
		near.Write(hello.Bytes())
		id += 2
		var header [frameHeader]byte
		for {
			io.ReadFull(in, header[:])
			in.Discard(int(header[1])<<8 | int(header[2]))
			if frames.FrameType(header[3]) == frames.FrameData {
				return
			}
		}
	}
	send()
	b.ReportAllocs()
	for b.Loop() {
		send()
	}
}
