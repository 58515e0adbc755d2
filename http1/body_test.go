package http1

import (
	"errors"
	"strings"
	"testing"

	"roster/message"
)

func TestBodyOfCountedLength(t *testing.T) {
	t.Parallel()
	var b Body
	b.Reset(5)
	if got := b.Remaining(); got != 5 {
		t.Errorf("Remaining = %d, want 5", got)
	}
	data, n, event, err := b.Next([]byte("ab"))
	if string(data) != "ab" || n != 2 || event != Data || err != nil {
		t.Errorf("%q %d %d %v", data, n, event, err)
	}
	if _, n, event, err = b.Next(nil); n != 0 || event != More || err != nil {
		t.Errorf("%d %d %v", n, event, err)
	}
	if err := b.EOF(); err != ErrTruncated {
		t.Errorf("EOF = %v, want ErrTruncated", err)
	}
	b.Skip(1)
	data, n, event, err = b.Next([]byte("deGET"))
	if string(data) != "de" || n != 2 || event != Data || err != nil {
		t.Errorf("%q %d %d %v", data, n, event, err)
	}
	if !b.Done() || b.Remaining() != 0 || b.EOF() != nil {
		t.Errorf("Done %v, Remaining %d, EOF %v", b.Done(), b.Remaining(), b.EOF())
	}
	if _, n, event, err = b.Next([]byte("GET")); n != 0 || event != End || err != nil {
		t.Errorf("%d %d %v", n, event, err)
	}
}

func TestBodyUntilClose(t *testing.T) {
	t.Parallel()
	var b Body
	b.Reset(message.UntilClose)
	if b.Remaining() != 0 || b.Done() {
		t.Errorf("Remaining %d, Done %v", b.Remaining(), b.Done())
	}
	data, n, event, err := b.Next([]byte("abc"))
	if string(data) != "abc" || n != 3 || event != Data || err != nil {
		t.Errorf("%q %d %d %v", data, n, event, err)
	}
	if err := b.EOF(); err != nil || !b.Done() {
		t.Errorf("EOF = %v, Done %v", err, b.Done())
	}
	if _, _, event, _ := b.Next(nil); event != End {
		t.Errorf("event %d after EOF, want End", event)
	}
}

// TestSkipWithinChunk: the data of a chunk may pass elsewhere, and the framing
// goes on behind them.
func TestSkipWithinChunk(t *testing.T) {
	t.Parallel()
	var b Body
	b.Reset(message.Unknown)
	if b.Remaining() != 0 {
		t.Errorf("Remaining = %d before the size", b.Remaining())
	}
	_, n, event, err := b.Next([]byte("A\r\n"))
	if n != 3 || event != More || err != nil || b.Remaining() != 10 {
		t.Fatalf("%d %d %v, Remaining %d", n, event, err, b.Remaining())
	}
	b.Skip(4)
	b.Skip(6)
	if b.Remaining() != 0 || b.Done() {
		t.Errorf("Remaining %d, Done %v", b.Remaining(), b.Done())
	}
	if _, n, event, err = b.Next([]byte("\r\n0\r\n\r\nG")); n != 7 || event != End || err != nil {
		t.Errorf("%d %d %v", n, event, err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Skip past the end does not panic")
		}
	}()
	b.Skip(1)
}

func TestErrorIsForEver(t *testing.T) {
	t.Parallel()
	b := Body{Response: true}
	b.Reset(message.Unknown)
	_, n, _, err := b.Next([]byte("x"))
	var e *Error
	if n != 0 || !errors.As(err, &e) || e.Status != 502 || e.Type != "http_protocol_error" {
		t.Errorf("%d %v", n, err)
	}
	if _, n, _, again := b.Next([]byte("0\r\n\r\n")); n != 0 || again != err {
		t.Errorf("then %d %v", n, again)
	}
	if b.EOF() != err || b.Done() || b.Trailers() != nil {
		t.Errorf("EOF %v, Done %v, Trailers %v", b.EOF(), b.Done(), b.Trailers())
	}
	b.Reset(0)
	if _, _, event, err := b.Next(nil); event != End || err != nil || !b.Response {
		t.Errorf("after Reset: %d %v", event, err)
	}
}

// TestChunkedOverheadIsBounded: what is not data is refused beyond a size, and
// room for trailers is not kept.
func TestChunkedOverheadIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		in string
		ok bool
	}{
		"extension of 1000 bytes":  {"0;" + strings.Repeat("x", 1000) + "\r\n\r\n", true},
		"extension of 1100 bytes":  {"0;" + strings.Repeat("x", 1100) + "\r\n\r\n", false},
		"endless whitespace":       {"0" + strings.Repeat(" ", 1100), false},
		"endless zeros":            {strings.Repeat("0", 1100), false},
		"128 trailers":             {"0\r\n" + strings.Repeat("X: y\r\n", 128) + "\r\n", true},
		"129 trailers":             {"0\r\n" + strings.Repeat("X: y\r\n", 129) + "\r\n", false},
		"trailer of 60 KiB":        {"0\r\nX: " + strings.Repeat("y", 60<<10) + "\r\n\r\n", true},
		"trailer of 65 KiB":        {"0\r\nX: " + strings.Repeat("y", 65<<10) + "\r\n\r\n", false},
		"an endless trailer":       {"0\r\n" + strings.Repeat("y", 70<<10), false},
		"signed chunk of S3":       {"0;chunk-signature=" + strings.Repeat("0", 64) + "\r\n\r\n", true},
		"a chunk of leading zeros": {strings.Repeat("0", 999) + "1\r\na\r\n0\r\n\r\n", true},
	} {
		var b Body
		b.Reset(message.Unknown)
		_, _, event, err := readBody(&b, []byte(c.in), nil)
		if ok := err == nil && event == End; ok != c.ok {
			t.Errorf("%s: event %d, %v", name, event, err)
		}
		b.Reset(0)
		if cap(b.section) > keepTrailer {
			t.Errorf("%s: keeps %d bytes", name, cap(b.section))
		}
	}
}

func TestTrailersEndWithReset(t *testing.T) {
	t.Parallel()
	var b Body
	b.Reset(message.Unknown)
	_, n, _, _ := b.Next([]byte("0\r\nX: y\r\n\r"))
	if got := b.Trailers(); n != 10 || got != nil {
		t.Errorf("%d bytes, trailers %v before the end", n, got)
	}
	if _, _, event, _ := b.Next([]byte("\n")); event != End || len(b.Trailers()) != 1 {
		t.Errorf("event %d, trailers %v", event, b.Trailers())
	}
	b.Reset(0)
	if got := b.Trailers(); len(got) != 0 {
		t.Errorf("trailers %v after Reset", got)
	}
}
