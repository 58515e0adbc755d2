package http1

import (
	"strings"
	"testing"

	"roster/message"
)

func fields(lines ...string) (list []message.Field) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		list = append(list, message.Field{Name: []byte(name), Value: []byte(value), ID: message.Lookup([]byte(name))})
	}
	return list
}

func TestAppendRequest(t *testing.T) {
	t.Parallel()
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		name string
		r    message.Request
		want string
	}{
		{"GET", message.Request{Method: b("GET"), Target: b("/a?b"), Authority: b("h:80"), Fields: fields("accept: */*", "X:  y")},
			"GET /a?b HTTP/1.1\r\nHost: h:80\r\naccept: */*\r\nX:  y\r\n\r\n"},
		{"Host comes from Authority", message.Request{Method: b("GET"), Target: b("/"), Authority: b("h"), Fields: fields("Host: other", "Host: more")},
			"GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"no authority", message.Request{Method: b("GET"), Target: b("/")}, "GET / HTTP/1.1\r\nHost: \r\n\r\n"},
		{"counted body", message.Request{Method: b("POST"), Target: b("/"), Authority: b("h"), Length: 12, Fields: fields("Content-Length: 3", "X: y")},
			"POST / HTTP/1.1\r\nHost: h\r\nX: y\r\nContent-Length: 12\r\n\r\n"},
		{"chunked body", message.Request{Method: b("POST"), Target: b("/"), Authority: b("h"), Length: message.Unknown, Fields: fields("Content-Length: 3", "Transfer-Encoding: gzip")},
			"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"POST without a body says so", message.Request{Method: b("POST"), Target: b("/"), Authority: b("h")},
			"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"},
		{"an explicit 0 stays", message.Request{Method: b("DELETE"), Target: b("/"), Authority: b("h"), Fields: fields("Content-Length: 0")},
			"DELETE / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"},
		{"close", message.Request{Method: b("GET"), Target: b("/"), Authority: b("h"), Close: true, Fields: fields("Connection: keep-alive, X", "Keep-Alive: 5", "Proxy-Connection: close")},
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"},
		{"upgrade", message.Request{Method: b("GET"), Target: b("/"), Authority: b("h"), Upgrade: b("websocket"), Fields: fields("Upgrade: other", "Connection: upgrade")},
			"GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"},
		{"TE is named in Connection", message.Request{Method: b("GET"), Target: b("/"), Authority: b("h"), Close: true, Fields: fields("TE: trailers")},
			"GET / HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n"},
		{"OPTIONS", message.Request{Method: b("OPTIONS"), Target: b("*"), Authority: b("h")}, "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"no target", message.Request{Method: b("GET"), Authority: b("h")}, "GET / HTTP/1.1\r\nHost: h\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(AppendRequest([]byte("before"), &c.r)); got != "before"+c.want {
				t.Errorf("got  %q\nwant %q", got, "before"+c.want)
			}
		})
	}
}

func TestAppendResponse(t *testing.T) {
	t.Parallel()
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		name  string
		r     message.Response
		minor uint8
		want  string
	}{
		{"counted", message.Response{Status: 200, Reason: b("OK"), Length: 3, Fields: fields("Server: a", "Content-Length: 9", "ETag: b")}, 1,
			"HTTP/1.1 200 OK\r\nServer: a\r\nETag: b\r\nContent-Length: 3\r\n\r\n"},
		{"no reason", message.Response{Status: 999}, 1, "HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n"},
		{"chunked", message.Response{Status: 200, Length: message.Unknown}, 1, "HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"unknown length to HTTP/1.0", message.Response{Status: 200, Length: message.Unknown}, 0, "HTTP/1.1 200 \r\nConnection: close\r\n\r\n"},
		{"until close", message.Response{Status: 200, Length: message.UntilClose}, 1, "HTTP/1.1 200 \r\nConnection: close\r\n\r\n"},
		{"keep-alive to HTTP/1.0", message.Response{Status: 200, Length: 3}, 0, "HTTP/1.1 200 \r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\n"},
		{"close", message.Response{Status: 200, Close: true, Fields: fields("Connection: keep-alive", "Keep-Alive: 5")}, 1,
			"HTTP/1.1 200 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n"},
		{"answer to HEAD", message.Response{Status: 200, Bodiless: true, Fields: fields("Content-Length: 7", "Content-Length: 7", "Transfer-Encoding: chunked")}, 1,
			"HTTP/1.1 200 \r\nContent-Length: 7\r\n\r\n"},
		{"answer to HEAD without a length", message.Response{Status: 200, Bodiless: true}, 1, "HTTP/1.1 200 \r\n\r\n"},
		{"a made-up length is not passed on", message.Response{Status: 200, Bodiless: true, Fields: fields("Content-Length: 7, 8")}, 1,
			"HTTP/1.1 200 \r\n\r\n"},
		{"304", message.Response{Status: 304, Bodiless: true, Fields: fields("Content-Length: 7")}, 1, "HTTP/1.1 304 \r\nContent-Length: 7\r\n\r\n"},
		{"204", message.Response{Status: 204, Bodiless: true, Fields: fields("Content-Length: 0")}, 1, "HTTP/1.1 204 \r\n\r\n"},
		{"interim", message.Response{Status: 103, Bodiless: true, Close: true, Fields: fields("Link: </a>")}, 1, "HTTP/1.1 103 \r\nLink: </a>\r\n\r\n"},
		{"101", message.Response{Status: 101, Bodiless: true, Upgrade: b("websocket"), Fields: fields("Connection: upgrade", "Upgrade: websocket")}, 1,
			"HTTP/1.1 101 \r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(AppendResponse([]byte("before"), &c.r, c.minor)); got != "before"+c.want {
				t.Errorf("got  %q\nwant %q", got, "before"+c.want)
			}
		})
	}
}

func TestAppendChunks(t *testing.T) {
	t.Parallel()
	dst := append(append(AppendChunk(nil, 255), "..."...), ChunkEnd...)
	dst = AppendLastChunk(dst, fields("X: y", "Content-Length: 5", "Z: \r\n"))
	if got, want := string(dst), "ff\r\n...\r\n0\r\nX: y\r\n\r\n"; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	defer func() {
		if recover() == nil {
			t.Error("an empty chunk, which would end the body, does not panic")
		}
	}()
	AppendChunk(nil, 0)
}

// TestNothingWrittenEndsALineEarly: whatever the bytes of a head are, it is
// written as one head with no field that was not in it.
func TestNothingWrittenEndsALineEarly(t *testing.T) {
	t.Parallel()
	for _, evil := range []string{
		"\r\nEvil: 1", "\nEvil: 1", "\rEvil: 1", "a\r\n\r\nGET /evil HTTP/1.1\r\nHost: evil\r\n\r\n", "\x00", "a b", " HTTP/1.1\r\nEvil: 1\r\n\r\n", "\x7f", "é", "#",
	} {
		e := []byte(evil)
		field := message.Field{Name: []byte("X"), Value: e}
		named := message.Field{Name: e, Value: []byte("y")}
		known := message.Field{Name: e, Value: []byte("y"), ID: message.UserAgent}
		for _, r := range []message.Request{
			{Method: e, Target: []byte("/"), Authority: []byte("h")},
			{Method: []byte("GET"), Target: append([]byte("/"), e...), Authority: []byte("h")},
			{Method: []byte("GET"), Target: []byte("/"), Authority: e},
			{Method: []byte("GET"), Target: []byte("/"), Authority: []byte("h"), Upgrade: e},
			{Method: []byte("GET"), Target: []byte("/"), Authority: []byte("h"), Fields: []message.Field{field, named, known}},
		} {
			checkOneHead(t, AppendRequest(nil, &r))
		}
		for _, r := range []message.Response{
			{Status: 200, Reason: e},
			{Status: 200, Upgrade: e},
			{Status: 200, Fields: []message.Field{field, named, known}},
			{Status: 200, Bodiless: true, Fields: []message.Field{{Name: []byte("Content-Length"), Value: e, ID: message.ContentLength}}},
		} {
			checkOneHead(t, AppendResponse(nil, &r, 1))
		}
		last := AppendLastChunk(nil, []message.Field{field, named, known})
		checkOneHead(t, append([]byte("X: "), last...))
	}
}

func checkOneHead(t *testing.T, head []byte) {
	t.Helper()
	lines := strings.Split(string(head), "\r\n")
	words := strings.Fields(lines[0])
	if strings.Contains(string(head), "\r\nEvil") || strings.Count(string(head), "\r\n\r\n") != 1 ||
		!strings.HasSuffix(string(head), "\r\n\r\n") || strings.ContainsAny(strings.Join(lines, ""), "\r\n\x00\x7f") ||
		strings.HasSuffix(lines[0], "HTTP/1.1") && len(words) != 3 {
		t.Errorf("wrote %q", head)
	}
}
