package http2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	frames "golang.org/x/net/http2"

	"roster/http1"
	"roster/message"
)

// What a request's head becomes: "200" with what Request made of it, the status
// of its error, or what is done to the stream.
func TestRequestHeads(t *testing.T) {
	t.Parallel()
	type list = []string
	for _, test := range []struct {
		name   string
		fields list
		want   string
	}{
		{"ordinary", get, "200 GET https a.test /"},
		{"path and query", list{":method=GET", ":scheme=http", ":authority=a.test:80", ":path=/a?b=c"}, "200 GET http a.test:80 /a?b=c"},
		{"scheme in capitals", list{":method=GET", ":scheme=HTTPS", ":authority=a.test", ":path=/"}, "200 GET https a.test /"},
		{"OPTIONS *", list{":method=OPTIONS", ":scheme=https", ":authority=a.test", ":path=*"}, "200 OPTIONS https a.test *"},
		{"CONNECT", list{":method=CONNECT", ":authority=a.test:443"}, "200 CONNECT  a.test:443 a.test:443"},
		{"host without authority", list{":method=GET", ":scheme=https", ":path=/", "host=h.test"}, "200 GET https h.test /"},
		{"host is authority", with(get, "host=a.test"), "200 GET https a.test /"},
		{"host is authority in capitals and with the port", with(get, "host=A.Test:443"), "200 GET https a.test /"},
		{"authority with the scheme's port", list{":method=GET", ":scheme=http", ":authority=a.test:80", ":path=/", "host=a.test"}, "200 GET http a.test:80 /"},
		{"te trailers", with(get, "te=trailers"), "200 GET https a.test /"},
		{"empty value", with(get, "x="), "200 GET https a.test /"},
		{"tab and bytes above ASCII in a value", with(get, "x=a\tb\xc3\xa4"), "200 GET https a.test /"},
		{"content-length 0", with(get, "content-length=0"), "200 GET https a.test /"},

		{"host differs", with(get, "host=b.test"), "400"},
		{"host with another port", with(get, "host=a.test:80"), "400"},
		{"two hosts", with(get, "host=a.test", "host=a.test"), "400"},
		{"neither authority nor host", list{":method=GET", ":scheme=https", ":path=/"}, "400"},
		{"authority with userinfo", list{":method=GET", ":scheme=https", ":authority=u@a.test", ":path=/"}, "400"},
		{"authority with a path", list{":method=GET", ":scheme=https", ":authority=a.test/x", ":path=/"}, "400"},
		{"scheme ftp", list{":method=GET", ":scheme=ftp", ":authority=a.test", ":path=/"}, "400"},
		{"path without slash", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=x"}, "400"},
		{"path with a space", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=/ HTTP/1.1"}, "400"},
		{"path with a fragment", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=/#x"}, "400"},
		{"path is a URI", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=http://b.test/"}, "400"},
		{"path * for GET", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=*"}, "400"},
		{"method no token", list{":method=G T", ":scheme=https", ":authority=a.test", ":path=/"}, "400"},
		{"method empty", list{":method=", ":scheme=https", ":authority=a.test", ":path=/"}, "400"},
		{"method too long", list{":method=" + strings.Repeat("A", 40), ":scheme=https", ":authority=a.test", ":path=/"}, "501"},
		{"target too long", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=/" + strings.Repeat("a", 17<<10)}, "414"},
		{"too many fields", with(get, strings.Split(strings.Repeat("x=y ", 129)+"x=y", " ")...), "431"},
		{"head too large", with(get, "x="+strings.Repeat("y", 70<<10)), "431"},
		{"content-length not a number", with(get, "content-length=+0"), "400"},
		{"content-length twice", with(get, "content-length=0", "content-length=0"), "400"},
		{"content-length a list", with(get, "content-length=0, 0"), "400"},

		{"no method", list{":scheme=https", ":authority=a.test", ":path=/"}, "PROTOCOL_ERROR"},
		{"no scheme", list{":method=GET", ":authority=a.test", ":path=/"}, "PROTOCOL_ERROR"},
		{"no path", list{":method=GET", ":scheme=https", ":authority=a.test"}, "PROTOCOL_ERROR"},
		{"empty path", list{":method=GET", ":scheme=https", ":authority=a.test", ":path="}, "PROTOCOL_ERROR"},
		{"method twice", with(get, ":method=GET"), "PROTOCOL_ERROR"},
		{"authority twice", with(get, ":authority=a.test"), "PROTOCOL_ERROR"},
		{"empty authority twice", list{":method=GET", ":scheme=https", ":authority=", ":authority=a.test", ":path=/"}, "PROTOCOL_ERROR"},
		{"unknown pseudo field", with(get, ":x=y"), "PROTOCOL_ERROR"},
		{"extended CONNECT", list{":method=CONNECT", ":protocol=websocket", ":scheme=https", ":authority=a.test", ":path=/"}, "PROTOCOL_ERROR"},
		{"CONNECT with a path", list{":method=CONNECT", ":authority=a.test:443", ":path=/"}, "PROTOCOL_ERROR"},
		{"CONNECT without authority", list{":method=CONNECT"}, "PROTOCOL_ERROR"},
		{"status", with(get, ":status=200"), "PROTOCOL_ERROR"},
		{"pseudo field after others", list{":method=GET", ":scheme=https", ":authority=a.test", "x=y", ":path=/"}, "PROTOCOL_ERROR"},
		{"capital in a name", with(get, "Xy=z"), "PROTOCOL_ERROR"},
		{"space in a name", with(get, "x y=z"), "PROTOCOL_ERROR"},
		{"colon in a name", with(get, "x:y=z"), "PROTOCOL_ERROR"},
		{"line end in a value", with(get, "x=a\r\nhost: b"), "PROTOCOL_ERROR"},
		{"NUL in a value", with(get, "x=a\x00"), "PROTOCOL_ERROR"},
		{"line end in the path", list{":method=GET", ":scheme=https", ":authority=a.test", ":path=/\r\n"}, "PROTOCOL_ERROR"},
		{"space before a value", with(get, "x= y"), "PROTOCOL_ERROR"},
		{"tab after a value", with(get, "x=y\t"), "PROTOCOL_ERROR"},
		{"connection", with(get, "connection=close"), "PROTOCOL_ERROR"},
		{"keep-alive", with(get, "keep-alive=1"), "PROTOCOL_ERROR"},
		{"proxy-connection", with(get, "proxy-connection=close"), "PROTOCOL_ERROR"},
		{"transfer-encoding", with(get, "transfer-encoding=chunked"), "PROTOCOL_ERROR"},
		{"upgrade", with(get, "upgrade=websocket"), "PROTOCOL_ERROR"},
		{"te gzip", with(get, "te=gzip"), "PROTOCOL_ERROR"},
		{"te trailers and more", with(get, "te=trailers, gzip"), "PROTOCOL_ERROR"},
		{"content-length without content", with(get, "content-length=1"), "PROTOCOL_ERROR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, _ := client(t, Config{}, func(s *Stream) {
				var r message.Request
				if err := s.Request(&r); err != nil {
					s.Send(response(err.(*http1.Error).Status, message.Unknown), nil, true, nil)
					return
				}
				what := fmt.Sprintf("%s %s %s %s", r.Method, r.Scheme, r.Authority, r.Target)
				s.Send(response(200, message.Unknown, field("what", what)), nil, true, nil)
			})
			block := append([]byte(nil), p.block(test.fields...)...)
			for first := true; first || len(block) > 0; first = false {
				n := min(len(block), maxFrame)
				if first {
					p.fr.WriteHeaders(frames.HeadersFrameParam{StreamID: 1, BlockFragment: block[:n], EndStream: true, EndHeaders: n == len(block)})
				} else {
					p.fr.WriteContinuation(1, n == len(block), block[:n])
				}
				block = block[n:]
			}
			p.fr.WritePing(false, [8]byte{}) // however it is answered, the connection goes on
			got := ""
			if test.want[0] == 'P' {
				got = strings.TrimPrefix(p.hear("RST_STREAM 1"), "RST_STREAM 1 ")
				p.hear("PING 0 ACK")
			} else {
				got = strings.TrimSuffix(strings.TrimPrefix(p.hear("HEADERS 1"), "HEADERS 1 :status="), " END")
				got = strings.Replace(got, "what=", "", 1)
				p.sync()
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Frames a client must not send, or may, and what comes of them: the first
// GOAWAY or RST_STREAM heard, or "PING" if nothing.
func TestFramesToAServer(t *testing.T) {
	t.Parallel()
	raw := func(p *peer, f frames.FrameType, flags frames.Flags, id uint32, payload string) {
		p.fr.WriteRawFrame(f, flags, id, []byte(payload))
	}
	post := []string{":method=POST", ":scheme=https", ":authority=a.test", ":path=/"}
	for _, test := range []struct {
		name string
		send func(p *peer)
		want string
	}{
		{"unknown frame type", func(p *peer) { raw(p, 0x77, 0xff, 5, "abc") }, "PING"},
		{"unknown setting", func(p *peer) { p.fr.WriteSettings(frames.Setting{ID: 0x77, Val: 1}) }, "PING"},
		{"PRIORITY of an idle stream", func(p *peer) { raw(p, frames.FramePriority, 0, 5, "\x00\x00\x00\x03\x01") }, "PING"},
		{"trailers", func(p *peer) { p.headers(1, false, post...); p.headers(1, true, "x=y") }, "PING"},
		{"padded DATA", func(p *peer) {
			p.headers(1, false, post...)
			p.fr.WriteDataPadded(1, true, []byte("x"), make([]byte, 200))
		}, "PING"},
		{"WINDOW_UPDATE after the end", func(p *peer) { p.headers(1, true, get...); p.hear("DATA 1"); p.fr.WriteWindowUpdate(1, 1) }, "PING"},
		{"RST_STREAM after the end", func(p *peer) {
			p.headers(1, true, get...)
			p.hear("DATA 1")
			p.fr.WriteRSTStream(1, frames.ErrCodeCancel)
		}, "PING"},
		{"SETTINGS that open windows by turns", func(p *peer) {
			for _, n := range []uint32{0, 1<<31 - 1, 10} {
				p.fr.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: n})
			}
		}, "PING"},

		{"HEADERS of stream 0", func(p *peer) { p.headers(0, true, get...) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"HEADERS of an even stream", func(p *peer) { p.headers(2, true, get...) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"HEADERS of a lower stream", func(p *peer) { p.headers(3, true, get...); p.hear("DATA 3"); p.headers(1, true, get...) }, "GOAWAY 3 STREAM_CLOSED"},
		{"HEADERS of a closed stream", func(p *peer) { p.headers(1, true, get...); p.hear("DATA 1"); p.headers(1, true, get...) }, "GOAWAY 1 STREAM_CLOSED"},
		{"HEADERS too short for their padding", func(p *peer) {
			raw(p, frames.FrameHeaders, frames.FlagHeadersPadded|frames.FlagHeadersEndHeaders, 1, "\xffabc")
		}, "GOAWAY 0 PROTOCOL_ERROR"},
		{"HEADERS that are no HPACK", func(p *peer) { raw(p, frames.FrameHeaders, frames.FlagHeadersEndHeaders, 1, "\xff\xff\xff\xff") }, "GOAWAY 0 COMPRESSION_ERROR"},
		{"HEADERS between CONTINUATIONs", func(p *peer) { raw(p, frames.FrameHeaders, 0, 1, "\x82"); p.headers(3, true, get...) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"CONTINUATION first", func(p *peer) { raw(p, frames.FrameContinuation, 4, 1, "\x82") }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"HEADERS after the end", func(p *peer) { p.headers(1, true, with(get, "wait=1")...); p.headers(1, true, "x=y") }, "RST_STREAM 1 STREAM_CLOSED"},
		{"trailers without the end", func(p *peer) { p.headers(1, false, post...); p.headers(1, false, "x=y") }, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"pseudo field in trailers", func(p *peer) { p.headers(1, false, post...); p.headers(1, true, ":path=/") }, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"priority of itself", func(p *peer) {
			p.fr.WriteHeaders(frames.HeadersFrameParam{StreamID: 1, BlockFragment: p.block(get...), EndHeaders: true, Priority: frames.PriorityParam{StreamDep: 1, Weight: 1}})
		}, "RST_STREAM 1 PROTOCOL_ERROR"},

		{"DATA of stream 0", func(p *peer) { p.fr.WriteData(0, true, nil) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"DATA of an idle stream", func(p *peer) { p.fr.WriteData(1, true, nil) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"DATA after the end", func(p *peer) { p.headers(1, true, with(get, "wait=1")...); p.fr.WriteData(1, true, nil) }, "RST_STREAM 1 STREAM_CLOSED"},
		{"DATA of a closed stream", func(p *peer) { p.headers(1, true, get...); p.hear("DATA 1"); p.fr.WriteData(1, true, []byte("x")) }, "RST_STREAM 1 STREAM_CLOSED"},
		{"DATA shorter than its padding", func(p *peer) {
			p.headers(1, false, post...)
			raw(p, frames.FrameData, frames.FlagDataPadded, 1, "\x05ab")
		}, "GOAWAY 1 PROTOCOL_ERROR"},
		{"DATA beyond content-length", func(p *peer) {
			p.headers(1, false, with(post, "content-length=1")...)
			p.fr.WriteData(1, false, []byte("ab"))
		}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"DATA short of content-length", func(p *peer) {
			p.headers(1, false, with(post, "content-length=3")...)
			p.fr.WriteData(1, true, []byte("ab"))
		}, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"trailers short of content-length", func(p *peer) { p.headers(1, false, with(post, "content-length=3")...); p.headers(1, true, "x=y") }, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"frame too large", func(p *peer) { p.headers(1, false, post...); p.fr.WriteData(1, true, make([]byte, maxFrame+1)) }, "GOAWAY 1 FRAME_SIZE_ERROR"},

		{"RST_STREAM of an idle stream", func(p *peer) { p.fr.WriteRSTStream(1, 0) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"RST_STREAM of 3 bytes", func(p *peer) { raw(p, frames.FrameRSTStream, 0, 1, "abc") }, "GOAWAY 0 FRAME_SIZE_ERROR"},
		{"WINDOW_UPDATE of an idle stream", func(p *peer) { p.fr.WriteWindowUpdate(1, 1) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0", func(p *peer) { p.fr.WriteWindowUpdate(0, 0) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 0 for a stream", func(p *peer) { p.headers(1, false, post...); p.fr.WriteWindowUpdate(1, 0) }, "RST_STREAM 1 PROTOCOL_ERROR"},
		{"WINDOW_UPDATE of 3 bytes", func(p *peer) { raw(p, frames.FrameWindowUpdate, 0, 0, "abc") }, "GOAWAY 0 FRAME_SIZE_ERROR"},
		{"SETTINGS of a stream", func(p *peer) { raw(p, frames.FrameSettings, 0, 1, "") }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"SETTINGS of 5 bytes", func(p *peer) { raw(p, frames.FrameSettings, 0, 0, "abcde") }, "GOAWAY 0 FRAME_SIZE_ERROR"},
		{"SETTINGS ACK with something in it", func(p *peer) { raw(p, frames.FrameSettings, 1, 0, "abcdef") }, "GOAWAY 0 FRAME_SIZE_ERROR"},
		{"ENABLE_PUSH of 2", func(p *peer) { p.fr.WriteSettings(frames.Setting{ID: frames.SettingEnablePush, Val: 2}) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"INITIAL_WINDOW_SIZE too large", func(p *peer) { p.fr.WriteSettings(frames.Setting{ID: frames.SettingInitialWindowSize, Val: 1 << 31}) }, "GOAWAY 0 FLOW_CONTROL_ERROR"},
		{"MAX_FRAME_SIZE too small", func(p *peer) { p.fr.WriteSettings(frames.Setting{ID: frames.SettingMaxFrameSize, Val: 1}) }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"PING of a stream", func(p *peer) { raw(p, frames.FramePing, 0, 1, "12345678") }, "GOAWAY 0 PROTOCOL_ERROR"},
		{"PING of 7 bytes", func(p *peer) { raw(p, frames.FramePing, 0, 0, "1234567") }, "GOAWAY 0 FRAME_SIZE_ERROR"},
		{"PRIORITY of itself", func(p *peer) {
			p.headers(1, false, post...)
			p.fr.WritePriority(1, frames.PriorityParam{StreamDep: 1})
		}, "RST_STREAM 1 PROTOCOL_ERROR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, _ := client(t, Config{}, func(s *Stream) {
				var r message.Request
				s.Request(&r)
				if len(r.Fields) > 0 && string(r.Fields[0].Name) == "wait" {
					<-whenGone(s)
					return
				}
				if _, err := io.ReadAll(s); err == nil {
					s.Send(response(200, 2), []byte("ok"), true, nil)
				}
			})
			test.send(p)
			p.fr.WritePing(false, [8]byte{})
			p.mu.Lock()
			got := ""
			for at := 0; got == "" && (p.err == nil || at < len(p.heard)); {
				if at == len(p.heard) {
					p.more.Wait()
					continue
				}
				for _, prefix := range []string{"GOAWAY", "RST_STREAM", "PING"} {
					if strings.HasPrefix(p.heard[at], prefix) {
						got = strings.TrimSuffix(p.heard[at], " 0 ACK")
					}
				}
				at++
			}
			p.mu.Unlock()
			if got != test.want {
				t.Errorf("heard %q, want %q", got, test.want)
			}
			if test.want[0] == 'G' {
				p.closed()
			}
		})
	}
}

// whenGone is closed when OnGone says so.
func whenGone(s *Stream) <-chan struct{} {
	c := make(chan struct{})
	s.OnGone(func() { close(c) })
	return c
}

// What comes first must be the preface and SETTINGS.
func TestPrefaceIsRequired(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]string{
		"HTTP/1.1":         "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"no SETTINGS":      frames.ClientPreface + "\x00\x00\x08\x06\x00\x00\x00\x00\x00" + "12345678",
		"SETTINGS ACK":     frames.ClientPreface + "\x00\x00\x00\x04\x01\x00\x00\x00\x00",
		"first bytes only": "PRI * HTTP/2.0\r\n\r\nXX",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := sockets(t)
			serve(t, b, Config{}, func(s *Stream) { t.Error("handler called") })
			p := newPeer(t, a)
			io.WriteString(a, first)
			p.hear("GOAWAY 0 PROTOCOL_ERROR")
			p.closed()
		})
	}
}

// What a server's answer becomes: what is read, or the error.
func TestAnswersToAClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		method string
		send   func(p *peer)
		want   string
	}{
		{"with a length", "GET", func(p *peer) {
			p.headers(1, false, ":status=200", "content-length=2")
			p.fr.WriteData(1, true, []byte("ok"))
		}, "200 2 ok"},
		{"without a length", "GET", func(p *peer) { p.headers(1, false, ":status=200"); p.fr.WriteData(1, true, []byte("ok")) }, "200 -1 ok"},
		{"without a body", "GET", func(p *peer) { p.headers(1, true, ":status=200") }, "200 0 "},
		{"interim heads", "GET", func(p *peer) {
			p.headers(1, false, ":status=100")
			p.headers(1, false, ":status=103", "link=x")
			p.headers(1, true, ":status=204")
		}, "100 103 204 0 "},
		{"HEAD", "HEAD", func(p *peer) { p.headers(1, true, ":status=200", "content-length=5") }, "200 0 "},
		{"304", "GET", func(p *peer) { p.headers(1, true, ":status=304", "content-length=5") }, "304 0 "},
		{"content-length twice the same", "GET", func(p *peer) {
			p.headers(1, false, ":status=200", "content-length=2", "content-length=2")
			p.fr.WriteData(1, true, []byte("ok"))
		}, "200 2 ok"},
		{"trailers", "GET", func(p *peer) { p.headers(1, false, ":status=200"); p.headers(1, true, "x=y", "content-type=z") }, "200 -1  x=y"},
		{"space around a value", "GET", func(p *peer) { p.headers(1, true, ":status=200", "x= y ") }, "200 0 "},
		{"reset with NO_ERROR after the end", "POST", func(p *peer) { p.headers(1, true, ":status=200"); p.fr.WriteRSTStream(1, 0) }, "200 0 "},

		{"no status", "GET", func(p *peer) { p.headers(1, true, "x=y") }, "http1: no :status"},
		{"status of 2 digits", "GET", func(p *peer) { p.headers(1, true, ":status=20") }, "http1: invalid :status"},
		{"status 099", "GET", func(p *peer) { p.headers(1, true, ":status=099") }, "http1: invalid :status"},
		{"method", "GET", func(p *peer) { p.headers(1, true, ":status=200", ":method=GET") }, "http1: response with a request's pseudo fields"},
		{"101", "GET", func(p *peer) { p.headers(1, false, ":status=101") }, "http1: 101 in HTTP/2"},
		{"interim head that ends", "GET", func(p *peer) { p.headers(1, true, ":status=100") }, "http1: interim response that ends"},
		{"connection", "GET", func(p *peer) { p.headers(1, true, ":status=200", "connection=close") }, "http1: field about a connection"},
		{"content-length twice", "GET", func(p *peer) { p.headers(1, false, ":status=200", "content-length=2", "content-length=3") }, "http1: invalid content-length"},
		{"head too large", "GET", func(p *peer) {
			p.headers(1, false, with([]string{":status=200"}, strings.Split(strings.Repeat("x=y ", 129)+"x=y", " ")...)...)
		}, "http1: response head too large"},
		{"DATA first", "GET", func(p *peer) { p.fr.WriteData(1, true, []byte("x")) }, "http1: DATA before HEADERS"},
		{"short of content-length", "GET", func(p *peer) {
			p.headers(1, false, ":status=200", "content-length=3")
			p.fr.WriteData(1, true, []byte("ok"))
		}, "200 3 ok http2: stream reset here: PROTOCOL_ERROR"},
		{"beyond content-length", "GET", func(p *peer) {
			p.headers(1, false, ":status=200", "content-length=1")
			p.fr.WriteData(1, true, []byte("ok"))
		}, "200 1  http2: stream reset here: PROTOCOL_ERROR"},
		{"body to HEAD", "HEAD", func(p *peer) { p.headers(1, false, ":status=200"); p.fr.WriteData(1, true, []byte("ok")) }, "200 0  http2: stream reset here: PROTOCOL_ERROR"},
		{"reset in the body", "GET", func(p *peer) {
			p.headers(1, false, ":status=200")
			p.fr.WriteData(1, false, []byte("ok"))
			p.fr.WriteRSTStream(1, frames.ErrCodeInternal)
		}, "200 -1 ok http2: stream reset by the peer: INTERNAL_ERROR"},
		{"refused", "GET", func(p *peer) { p.fr.WriteRSTStream(1, frames.ErrCodeRefusedStream) }, "http2: stream reset by the peer: REFUSED_STREAM unprocessed"},
		{"too many interim heads", "GET", func(p *peer) {
			for range 100 {
				p.headers(1, false, ":status=103")
			}
		}, "100 ENHANCE_YOUR_CALM"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, c := server(t, Config{})
			s := open(t, c, request(test.method, "/", 0), "", true)
			p.hear("HEADERS 1")
			test.send(p)
			p.sync() // the connection goes on, and all has been received
			got := ""
			var r message.Response
			err := s.Head(&r)
			for err == nil && r.Status < 200 {
				got += fmt.Sprintf("%d ", r.Status)
				err = s.Head(&r)
			}
			if err == nil {
				var body []byte
				body, err = io.ReadAll(s)
				got += fmt.Sprintf("%d %d %s", r.Status, r.Length, body)
				for _, f := range s.Trailers() {
					got += fmt.Sprintf(" %s=%s", f.Name, f.Value)
				}
				if err != nil {
					got += " "
				}
			}
			if err != nil {
				got += err.Error()
			}
			var reset *ResetError
			if errors.As(err, &reset) && reset.Unprocessed {
				got += " unprocessed"
			}
			if test.name == "too many interim heads" {
				if !errors.As(err, &reset) && !strings.Contains(got, "too many") {
					t.Errorf("got %q", got)
				}
				return
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// Frames of a server that end the connection.
func TestFramesToAClient(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		send func(p *peer)
		want string
	}{
		{"PUSH_PROMISE", func(p *peer) {
			p.fr.WritePushPromise(frames.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: p.block(get...), EndHeaders: true})
		}, "PROTOCOL_ERROR"},
		{"ENABLE_PUSH", func(p *peer) { p.fr.WriteSettings(frames.Setting{ID: frames.SettingEnablePush, Val: 1}) }, "PROTOCOL_ERROR"},
		{"HEADERS of a stream that was not opened", func(p *peer) { p.headers(3, true, ":status=200") }, "PROTOCOL_ERROR"},
		{"HEADERS of an even stream", func(p *peer) { p.headers(2, true, ":status=200") }, "PROTOCOL_ERROR"},
		{"DATA of a stream that was not opened", func(p *peer) { p.fr.WriteData(3, true, nil) }, "PROTOCOL_ERROR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p, c := server(t, Config{})
			s := open(t, c, request("GET", "/", 0), "", true)
			p.hear("HEADERS 1")
			test.send(p)
			p.hear("GOAWAY 0 " + test.want)
			if err := s.Head(new(message.Response)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("head: %v", err)
			}
			p.nc.Close()
			<-c.Done()
		})
	}
}

// Streams that GOAWAY says were not looked at can be sent again; the others go on.
func TestGoAwayFromTheServer(t *testing.T) {
	t.Parallel()
	p, c := server(t, Config{})
	a := open(t, c, request("GET", "/a", 0), "", true)
	b := open(t, c, request("POST", "/b", message.Unknown), "", false)
	p.hear("HEADERS 3")
	if !c.Reserve() {
		t.Fatal("no place")
	}
	p.fr.WriteGoAway(1, 0, nil)
	var reset *ResetError
	if err := b.Head(new(message.Response)); !errors.As(err, &reset) || !reset.Unprocessed || !reset.Remote {
		t.Errorf("stream above the last: %v", err)
	}
	if c.Reserve() {
		t.Error("place after GOAWAY")
	}
	if _, _, err := c.Open(request("GET", "/c", 0), "https", nil, true); !errors.As(err, &reset) || !reset.Unprocessed {
		t.Errorf("open after GOAWAY: %v", err)
	}
	p.headers(1, true, ":status=200")
	if head, _ := answer(t, a); head.Status != 200 {
		t.Errorf("stream below the last: %d", head.Status)
	}
	<-c.Done()
}

func TestGoAwayOfTheClient(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	c, _ := both(t, Config{}, Config{}, func(s *Stream) { <-release; hello(s) })
	s := open(t, c, request("GET", "/", 0), "", true)
	c.GoAway()
	c.GoAway()
	if c.Reserve() {
		t.Error("place after GoAway")
	}
	close(release)
	if _, body := answer(t, s); body != "hello" {
		t.Errorf("body %q", body)
	}
	<-c.Done()
}

// A server that is to go takes the streams that are on their way, and refuses
// none: it says GOAWAY twice.
func TestGoAwayLosesNoStream(t *testing.T) {
	t.Parallel()
	p, c := client(t, Config{}, hello)
	p.headers(1, true, get...)
	p.hear("DATA 1")
	c.GoAway()
	p.hear(fmt.Sprintf("GOAWAY %d NO_ERROR", maxStreamID))
	p.hear("PING 0")
	p.headers(3, true, get...) // sent before GOAWAY was received
	p.hear("DATA 3 hello END")
	p.fr.WritePing(true, drainPing)
	p.hear("GOAWAY 3 NO_ERROR")
	p.nc.Close()
}

func TestStreamsOpenAtGoAwayAreServed(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	p, c := client(t, Config{}, func(s *Stream) { <-release; echo(s) })
	p.headers(1, false, get...)
	p.sync()
	c.GoAway()
	p.fr.WritePing(true, drainPing)
	p.hear("GOAWAY 1 NO_ERROR")
	p.headers(3, true, get...) // is not looked at
	p.fr.WriteData(3, true, []byte("x"))
	close(release)
	p.fr.WriteData(1, true, []byte("abc"))
	p.hear("DATA 1 abc")
	if rest := p.closed(); len(rest) > 1 || len(rest) == 1 && rest[0] != "DATA 1  END" {
		t.Errorf("heard after that %q", rest)
	}
}

// Field blocks say once that no table is used, so that no later SETTINGS can make
// them wrong.
func TestBlocksUseNoTable(t *testing.T) {
	t.Parallel()
	var blocks [2][]byte
	a, b := sockets(t)
	serve(t, b, Config{}, hello)
	io.WriteString(a, frames.ClientPreface)
	fr := frames.NewFramer(a, a)
	fr.WriteSettings(frames.Setting{ID: frames.SettingHeaderTableSize, Val: 0})
	block := []byte{0x82, 0x87, 0x84, 0x41, 1, 'a'}
	for i := range blocks {
		fr.WriteHeaders(frames.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block, EndStream: true, EndHeaders: true})
		for blocks[i] == nil {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatal(err)
			}
			if h, ok := f.(*frames.HeadersFrame); ok {
				blocks[i] = bytes.Clone(h.HeaderBlockFragment())
			}
		}
	}
	a.Close()
	if want := append([]byte{0x20}, blocks[1]...); !bytes.Equal(blocks[0], want) {
		t.Errorf("blocks are %x and %x", blocks[0], blocks[1])
	}
}

func TestPriorityOfItself(t *testing.T) {
	t.Parallel()
	p, _ := client(t, Config{}, hello)
	p.headers(1, true, get...)
	p.hear("DATA 1")
	p.fr.WritePriority(1, frames.PriorityParam{StreamDep: 1}) // of a closed stream
	p.hear("RST_STREAM 1 PROTOCOL_ERROR")
	p.fr.WritePriority(3, frames.PriorityParam{StreamDep: 3}) // of an idle one
	p.hear("GOAWAY 1 PROTOCOL_ERROR")
}
