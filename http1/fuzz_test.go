package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"roster/message"
)

// dumpRequest shows everything about a parsed request, to compare two of them.
func dumpRequest(r *message.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q authority=%q scheme=%q %d.%d length=%d close=%v expect=%v upgrade=%q\n",
		r.Method, r.Target, r.Authority, r.Scheme, r.Major, r.Minor, r.Length, r.Close, r.Expect100, r.Upgrade)
	dumpFields(&b, r.Fields)
	return b.String()
}

func dumpResponse(r *message.Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %q %d.%d length=%d bodiless=%v close=%v upgrade=%q\n",
		r.Status, r.Reason, r.Major, r.Minor, r.Length, r.Bodiless, r.Close, r.Upgrade)
	dumpFields(&b, r.Fields)
	return b.String()
}

func dumpFields(b *strings.Builder, fields []message.Field) {
	for _, f := range fields {
		fmt.Fprintf(b, "%q: %q %d\n", f.Name, f.Value, f.ID)
	}
}

// readBody feeds raw to a body, cut where cuts says, and returns the data, how
// much of raw was consumed, the event and the error.
func readBody(b *Body, raw, cuts []byte) (data []byte, used int, event Event, err error) {
	for {
		end := len(raw)
		if len(cuts) > 0 {
			end = min(end, used+int(cuts[0]))
			cuts = cuts[1:]
		}
		for {
			d, n, ev, err := b.Next(raw[used:end])
			data, used = append(data, d...), used+n
			if err != nil || ev == End {
				return data, used, ev, err
			}
			if ev == More {
				break
			}
		}
		if end == len(raw) {
			return data, used, More, nil
		}
	}
}

// joined is the value of a field as net/http's Header has it.
func joined(fields []message.Field, name string) (values []string) {
	for _, f := range fields {
		if strings.EqualFold(string(f.Name), name) {
			values = append(values, string(f.Value))
		}
	}
	return values
}

// compareFields fails unless both lists have the same values by name. skip are
// names the other side takes out.
func compareFields(t *testing.T, fields []message.Field, header http.Header, skip ...string) {
	t.Helper()
	for _, f := range fields {
		name := http.CanonicalHeaderKey(string(f.Name))
		skipped := false
		for _, s := range skip {
			skipped = skipped || strings.EqualFold(s, name)
		}
		if skipped {
			continue
		}
		if got, want := joined(fields, name), header[name]; fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
			t.Errorf("%s = %q, net/http reads %q", name, got, want)
		}
	}
	for name := range header {
		if len(joined(fields, name)) == 0 {
			t.Errorf("%s is missing, net/http reads %q", name, header[name])
		}
	}
}

// FuzzRequest: a request that both net/http and this package accept, both read
// alike: method, target, host, fields, body, and where the next request starts.
func FuzzRequest(f *testing.F) {
	for _, c := range requestCases {
		f.Add([]byte(c.in))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var p Parser
		var r message.Request
		n, err := p.Request(raw, &r)
		if err != nil {
			checkError(t, err, false)
		}
		if err != nil || n == 0 {
			return
		}
		if n > len(raw) || !bytes.HasSuffix(raw[:n], []byte("\r\n\r\n")) {
			t.Fatalf("head of %d bytes in %q", n, raw)
		}
		if err := Check(&r); err != nil {
			t.Errorf("Check(%s) = %v, though it was read", dumpRequest(&r), err)
		}
		var body Body
		body.Reset(r.Length)
		data, used, event, bodyErr := readBody(&body, raw[n:], nil)
		rest := raw[n+used:]

		reader := bufio.NewReader(bytes.NewReader(bytes.TrimLeft(raw, "\r\n")))
		std, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		if got := string(r.Method); got != std.Method {
			t.Errorf("method %q, net/http reads %q", got, std.Method)
		}
		if got := string(r.Authority); got != std.Host {
			t.Errorf("authority %q, net/http reads %q", got, std.Host)
		}
		target := std.RequestURI
		switch {
		case std.Method == "CONNECT":
		case r.Scheme != nil:
			if _, after, _ := strings.Cut(target, "://"); strings.ContainsAny(after, "/?") {
				target = after[strings.IndexAny(after, "/?"):]
			} else {
				target = ""
			}
			if target == "" && std.Method == "OPTIONS" {
				target = "*"
			} else if target == "" || target[0] == '?' {
				target = "/" + target
			}
			if got, want := string(r.Scheme), std.URL.Scheme; got != want {
				t.Errorf("scheme %q, net/http reads %q", got, want)
			}
		}
		if got := string(r.Target); got != target {
			t.Errorf("target %q, net/http reads %q", got, target)
		}
		if int(r.Minor) != min(std.ProtoMinor, 1) || int(r.Major) != std.ProtoMajor {
			t.Errorf("version %d.%d, net/http reads %s", r.Major, r.Minor, std.Proto)
		}
		skip := []string{"Host", "Transfer-Encoding", "Trailer"}
		if _, ok := std.Header["Pragma"]; ok { // net/http adds Cache-Control
			skip = append(skip, "Cache-Control")
			delete(std.Header, "Cache-Control")
		}
		compareFields(t, r.Fields, std.Header, skip...)
		if r.Length != std.ContentLength {
			t.Errorf("length %d, net/http reads %d", r.Length, std.ContentLength)
		}
		stdData, stdErr := io.ReadAll(std.Body)
		if event == End && stdErr == nil {
			if !bytes.Equal(data, stdData) {
				t.Errorf("body %q, net/http reads %q", data, stdData)
			}
			if stdRest, _ := io.ReadAll(reader); !bytes.Equal(rest, stdRest) {
				t.Errorf("next request starts at %q, net/http has it at %q", rest, stdRest)
			}
		}
		if event == More && stdErr == nil {
			t.Errorf("body %q is incomplete, net/http reads it whole: %q", raw[n:], stdData)
		}
		if bodyErr != nil {
			checkError(t, bodyErr, false)
		}

		// What is written is read back alike.
		r.Scheme = nil
		again := AppendRequest(nil, &r)
		var r2 message.Request
		if n, err := p.Request(again, &r2); err != nil || n != len(again) {
			t.Fatalf("wrote %q, reading it again: %d, %v", again, n, err)
		}
		if string(r2.Method) != string(r.Method) || string(r2.Target) != string(r.Target) ||
			string(r2.Authority) != string(r.Authority) || r2.Length != r.Length || r2.Close != r.Close ||
			string(r2.Upgrade) != string(r.Upgrade) {
			t.Errorf("wrote %s\nread %s", dumpRequest(&r), dumpRequest(&r2))
		}
	})
}

// FuzzResponse is FuzzRequest for responses.
func FuzzResponse(f *testing.F) {
	for _, c := range responseCases {
		f.Add([]byte(c.in), uint8(strings.Index("GET HEADPOST", c.method)/4))
	}
	f.Fuzz(func(t *testing.T, raw []byte, m uint8) {
		method := []string{"GET", "HEAD", "POST"}[m%3]
		var p Parser
		var r message.Response
		n, err := p.Response(raw, &r, []byte(method))
		if err != nil {
			checkError(t, err, true)
		}
		if err != nil || n == 0 {
			return
		}
		body := Body{Response: true}
		body.Reset(r.Length)
		data, used, event, bodyErr := readBody(&body, raw[n:], nil)
		rest := raw[n+used:]
		if event == More && bodyErr == nil && body.EOF() == nil {
			event = End
		}

		reader := bufio.NewReader(bytes.NewReader(raw))
		std, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			return
		}
		if r.Status != std.StatusCode {
			t.Errorf("status %d, net/http reads %d", r.Status, std.StatusCode)
		}
		if int(r.Minor) != min(std.ProtoMinor, 1) {
			t.Errorf("version 1.%d, net/http reads %s", r.Minor, std.Proto)
		}
		skip := []string{"Transfer-Encoding", "Trailer", "Connection"} // net/http takes out Connection: close
		if _, ok := std.Header["Pragma"]; ok {
			skip = append(skip, "Cache-Control")
			delete(std.Header, "Cache-Control")
		}
		if len(joined(r.Fields, "Content-Length")) > 1 { // the same twice: net/http makes it one
			skip = append(skip, "Content-Length")
		}
		compareFields(t, r.Fields, std.Header, skip...)
		if std.ContentLength >= 0 && !r.Bodiless && std.ContentLength != r.Length {
			t.Errorf("length %d, net/http reads %d", r.Length, std.ContentLength)
		}
		stdData, stdErr := io.ReadAll(std.Body)
		if event == End && stdErr == nil {
			if !bytes.Equal(data, stdData) {
				t.Errorf("body %q, net/http reads %q", data, stdData)
			}
			if stdRest, _ := io.ReadAll(reader); !bytes.Equal(rest, stdRest) {
				t.Errorf("next response starts at %q, net/http has it at %q", rest, stdRest)
			}
		}
		if event == More && bodyErr == nil && stdErr == nil {
			t.Errorf("body %q is incomplete, net/http reads it whole: %q", raw[n:], stdData)
		}

		again := AppendResponse(nil, &r, 1)
		var r2 message.Response
		if n, err := p.Response(again, &r2, []byte(method)); err != nil || n != len(again) {
			t.Fatalf("wrote %q, reading it again: %d, %v", again, n, err)
		}
		if r2.Status != r.Status || string(r2.Reason) != string(r.Reason) || r2.Length != r.Length || r2.Bodiless != r.Bodiless ||
			r.Status >= 200 && r2.Close != r.Close || string(r2.Upgrade) != string(r.Upgrade) {
			t.Errorf("wrote %s\nread %s", dumpResponse(&r), dumpResponse(&r2))
		}
	})
}

// FuzzChunked: a chunked body that both accept, both end at the same byte.
func FuzzChunked(f *testing.F) {
	for _, c := range chunkedCases {
		f.Add([]byte(c.in), []byte{1, 2, 3})
	}
	f.Fuzz(func(t *testing.T, raw, cuts []byte) {
		var body Body
		body.Reset(message.Unknown)
		data, used, event, err := readBody(&body, raw, nil)
		if err != nil {
			checkError(t, err, false)
		}
		trailers := fmt.Sprintf("%q", body.Trailers())

		var other Body
		other.Reset(message.Unknown)
		data2, used2, event2, err2 := readBody(&other, raw, cuts)
		if !bytes.Equal(data, data2) || used != used2 || event != event2 || err != err2 ||
			trailers != fmt.Sprintf("%q", other.Trailers()) {
			t.Errorf("whole: %q %d %d %v, cut: %q %d %d %v", data, used, event, err, data2, used2, event2, err2)
		}
		if eof := body.EOF(); (eof == nil) != (event == End) {
			t.Errorf("EOF after event %d, error %v: %v", event, err, eof)
		}

		reader := bufio.NewReader(bytes.NewReader(raw))
		stdData, stdErr := io.ReadAll(httputil.NewChunkedReader(reader))
		if event == End {
			// NewChunkedReader leaves the trailer section to its caller.
			if stdErr == nil && !bytes.Equal(data, stdData) {
				t.Errorf("body %q, net/http reads %q", data, stdData)
			}
			var again []byte
			if len(data) > 0 {
				again = append(append(AppendChunk(again, len(data)), data...), ChunkEnd...)
			}
			again = AppendLastChunk(again, body.Trailers())
			other.Reset(message.Unknown)
			data2, used2, event2, err2 := readBody(&other, again, cuts)
			if !bytes.Equal(data, data2) || used2 != len(again) || event2 != End || err2 != nil ||
				trailers != fmt.Sprintf("%q", other.Trailers()) {
				t.Errorf("wrote %q, read %q %d %d %v", again, data2, used2, event2, err2)
			}
		}
		if err != nil && stdErr == nil {
			return // stricter
		}
		if event == More && err == nil && stdErr == nil && !bytes.HasPrefix(stdData, data) {
			t.Errorf("body so far %q, net/http reads %q", data, stdData)
		}
	})
}

// FuzzCuts: what is read, and what is refused, does not depend on how the bytes
// are cut, nor on where they lie.
func FuzzCuts(f *testing.F) {
	for _, c := range requestCases {
		f.Add([]byte(c.in), []byte{1, 1, 1, 7, 30})
	}
	for _, c := range responseCases {
		f.Add([]byte(c.in), []byte{3, 200})
	}
	f.Fuzz(func(t *testing.T, raw, cuts []byte) {
		checkCuts(t, raw, cuts)
	})
}

// checkCuts reads raw as a stream of messages, whole and cut. Between calls the
// bytes move, and those of the old place are overwritten.
func checkCuts(t *testing.T, raw, cuts []byte) {
	t.Helper()
	limits := Limits{MaxHead: 200, MaxFields: 6, MaxTarget: 60}
	whole, cut := Parser{Limits: limits}, Parser{Limits: limits}

	var r message.Request
	n, err := whole.Request(raw, &r)
	want := outcome(n, err, func() string { return dumpRequest(&r) })
	n, err = inPieces(raw, cuts, func(buf []byte) (int, error) { return cut.Request(buf, &r) })
	if got := outcome(n, err, func() string { return dumpRequest(&r) }); got != want {
		t.Errorf("request %q\ncut by %v: %s\nwhole: %s", raw, cuts, got, want)
	}

	var s message.Response
	whole.Reset()
	cut.Reset()
	n, err = whole.Response(raw, &s, nil)
	want = outcome(n, err, func() string { return dumpResponse(&s) })
	n, err = inPieces(raw, cuts, func(buf []byte) (int, error) { return cut.Response(buf, &s, nil) })
	if got := outcome(n, err, func() string { return dumpResponse(&s) }); got != want {
		t.Errorf("response %q\ncut by %v: %s\nwhole: %s", raw, cuts, got, want)
	}
}

func outcome(n int, err error, dump func() string) string {
	if n > 0 {
		return fmt.Sprintf("%d bytes: %s", n, dump())
	}
	return fmt.Sprintf("%d bytes, %v", n, err)
}

func inPieces(raw, cuts []byte, parse func([]byte) (int, error)) (n int, err error) {
	for end := 0; ; {
		step := 1
		if len(cuts) > 0 {
			step, cuts = int(cuts[0]), cuts[1:]
		}
		end = min(end+step, len(raw))
		buf := append(make([]byte, 0, end), raw[:end]...)
		if n, err = parse(buf); n > 0 || err != nil || end == len(raw) {
			return n, err
		}
		for i := range buf {
			buf[i] = '#'
		}
	}
}

// checkError fails unless err is an *Error that can be answered and shown.
func checkError(t *testing.T, err error, response bool) {
	t.Helper()
	e, ok := err.(*Error)
	if !ok || e == errMore || e.Msg == "" || e.Type == "" || response != (e.Status == 502) ||
		!response && !strings.Contains("400 414 431 501 505", fmt.Sprint(e.Status)) {
		t.Fatalf("error %#v", err)
	}
}
