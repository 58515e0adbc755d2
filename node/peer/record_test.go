package peer

import (
	"bytes"
	"encoding/binary"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"roster/prober"
)

type record struct {
	Key prober.Key
	prober.History
	Age time.Duration
}

func (r *record) append(b []byte) []byte { return appendRecord(b, r.Key, &r.History, r.Age) }

func read(from io.Reader) (all []record, err error) {
	err = readRecords(from, func(key prober.Key, h prober.History, age time.Duration) {
		all = append(all, record{key, h, age})
	})
	return all, err
}

// draw makes a record as a node may have it.
func draw(t *rapid.T) (r record) {
	copy(r.Key[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
	r.Probes = rapid.Uint64Range(1, 64).Draw(t, "probes")
	for _, register := range registers(&r.History) {
		*register = rapid.Uint64Range(0, 1<<r.Probes-1).Draw(t, "register")
	}
	took := func(unit, most time.Duration) time.Duration {
		return time.Duration(rapid.Int64Range(0, int64(most/unit)).Draw(t, "duration")) * unit
	}
	r.Age = took(time.Millisecond, maxAge)
	r.Last, r.Average = took(time.Microsecond, maxTook), took(time.Microsecond, maxTook)
	r.Stage = rapid.SampledFrom([]prober.Stage{"", prober.Resolve, prober.Connect, prober.Handshake, prober.Send, prober.Receive, prober.Answer, prober.Status, prober.Close}).Draw(t, "stage")
	r.Text = rapid.StringMatching(`[ -~äß日]{0,60}`).Draw(t, "text")
	return r
}

func TestRecordsAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var want []record
		var b []byte
		for range rapid.IntRange(0, 5).Draw(t, "records") {
			r := draw(t)
			want, b = append(want, r), r.append(b)
		}
		got, err := read(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

// What does not fit is cut; what cannot be shown is not.
func TestRecordIsBounded(t *testing.T) {
	t.Parallel()
	r := record{Age: -time.Second, History: prober.History{
		Probes: 1 << 40, Happy: ^uint64(0), Last: -1, Average: 2 * maxTook,
		Stage: prober.Stage(strings.Repeat("s", 40)), Text: "\x1b[31m\r\n" + strings.Repeat("x", 5000),
	}}
	r.IPv4, r.IPv6, r.Unix, r.SendFailed, r.Sent, r.ReceiveFailed, r.Received = 1, 1, 1, 1, 1, 1, 1
	b := r.append(nil)
	if len(b) > 384 {
		t.Errorf("%d bytes, want at most 384", len(b))
	}
	all, err := read(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if got := all[0]; got.Age != 0 || got.Probes != 64 || got.Last != 0 || got.Average != maxTook || len(got.Stage) != maxStage ||
		!strings.HasPrefix(got.Text, "?[31m??xxx") || len(got.Text) != maxText {
		t.Errorf("%+v", got)
	}
	r.Age = 2 * maxAge
	if all, err = read(bytes.NewReader(r.append(nil))); err != nil || all[0].Age != maxAge {
		t.Errorf("%v, %+v", err, all)
	}
}

// A record may have more in a later release.
func TestRecordOfALaterRelease(t *testing.T) {
	t.Parallel()
	r := record{History: prober.History{Probes: 3, Happy: 5}}
	size, n := binary.Uvarint(r.append(nil))
	body := r.append(nil)[n:]
	b := append(binary.AppendUvarint(nil, size+4), body...)
	b = r.append(append(b, "more"...))
	all, err := read(bytes.NewReader(b))
	if err != nil || len(all) != 2 || all[0].Happy != 5 || all[1].Happy != 5 {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestBrokenRecords(t *testing.T) {
	t.Parallel()
	whole := (&record{History: prober.History{Probes: 3, Happy: 5, Text: "fine"}}).append(nil)
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(whole)
		copy(b[at:], to)
		return b
	}
	for want, b := range map[string][]byte{
		"record 0: unexpected EOF":                            whole[:len(whole)-1],
		"record 0: 0 probes, want 1 to 64":                    change(34, 0),
		"record 0: 65 probes, want 1 to 64":                   change(34, 65),
		"record 0: register 0x5 has more than 2 probes":       change(34, 2),
		"record 0: it ends too early":                         append([]byte{5}, whole[1:6]...),
		"record 0 is 1025 bytes long, want at most 1024":      {0x81, 0x08},
		"record 0: length of a text is 127, want at most 16":  change(len(whole)-6, 127),
		"record 0: length of a text is 201, want at most 200": append(bytes.Clone(whole[:len(whole)-5]), 0xc9, 1, 0, 0, 0)[:len(whole)],
		"record 0: binary: varint overflows a 64-bit integer": bytes.Repeat([]byte{0xff}, 11),
		"record 1: unexpected EOF":                            append(bytes.Clone(whole), whole[0]),
		"record 0: age is 18446744073709551615, want at most 86400000": append(append([]byte{60}, make([]byte, 32)...),
			append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, make([]byte, 18)...)...),
	} {
		all, err := read(bytes.NewReader(b))
		if err == nil || err.Error() != want {
			t.Errorf("%v of % x, want %s", err, b, want)
		}
		if first := strings.HasPrefix(want, "record 1"); first != (len(all) == 1) {
			t.Errorf("%s: %d records before", want, len(all))
		}
	}
}

// An answer that does not end is cut.
func TestRecordsAreCounted(t *testing.T) {
	t.Parallel()
	one := (&record{History: prober.History{Probes: 1}}).append(nil)
	n := 0
	err := readRecords(bytes.NewReader(bytes.Repeat(one, maxRecords+1)), func(prober.Key, prober.History, time.Duration) { n++ })
	if err == nil || n != maxRecords {
		t.Errorf("%d records, %v", n, err)
	}
}

// Whatever a peer says is an error or records within their bounds, which are read again as
// they are written.
func FuzzRecords(f *testing.F) {
	r := record{History: prober.History{Probes: 64, Happy: ^uint64(0), Sent: 1, Last: time.Second, Stage: prober.Status, Text: "HTTP/1.1 500 No, want 200"}, Age: time.Minute}
	f.Add(r.append(nil))
	f.Add(r.append(r.append(nil))[:100])
	f.Fuzz(func(t *testing.T, b []byte) {
		all, _ := read(bytes.NewReader(b))
		var again []byte
		for _, r := range all {
			again = r.append(again)
		}
		twice, err := read(bytes.NewReader(again))
		if err != nil {
			t.Fatal(err)
		}
		for i := range all {
			if cut := all[i].Text; len(cut) > maxText { // '?' for a byte that is no UTF-8 is none longer
				t.Fatalf("text of %d bytes", len(cut))
			}
		}
		if diff := cmp.Diff(all, twice); diff != "" {
			t.Fatal(diff)
		}
	})
}
