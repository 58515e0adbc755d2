package tracing

import (
	"encoding/hex"
	"strings"
	"testing"

	"roster/message"
)

const (
	aTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	aSpan  = "00f067aa0ba902b7"
	usual  = "00-" + aTrace + "-" + aSpan + "-01"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, value string
		flags       byte
		ok          bool
	}{
		{"sampled", usual, Sampled, true},
		{"not sampled", "00-" + aTrace + "-" + aSpan + "-00", 0, true},
		{"random", "00-" + aTrace + "-" + aSpan + "-03", Sampled | Random, true},
		{"flags nobody knows are cleared", "00-" + aTrace + "-" + aSpan + "-ff", Sampled | Random, true},
		{"a flag nobody knows alone", "00-" + aTrace + "-" + aSpan + "-08", 0, true},
		{"a later version", "01-" + aTrace + "-" + aSpan + "-01", Sampled, true},
		{"a later version with more", "cc-" + aTrace + "-" + aSpan + "-01-what-the-future-brings", Sampled, true},
		{"a later version with a dash", "cc-" + aTrace + "-" + aSpan + "-01-", Sampled, true},

		{"a later version with more and no dash", "cc-" + aTrace + "-" + aSpan + "-01.what", 0, false},
		{"version 00 with more", usual + "-what", 0, false},
		{"version 00 with a dash", usual + "-", 0, false},
		{"version ff", "ff-" + aTrace + "-" + aSpan + "-01", 0, false},
		{"version in capitals", "0A-" + aTrace + "-" + aSpan + "-01", 0, false},
		{"no version", aTrace + "-" + aSpan + "-01", 0, false},
		{"trace in capitals", strings.ToUpper(usual), 0, false},
		{"trace of zeros", "00-" + strings.Repeat("0", 32) + "-" + aSpan + "-01", 0, false},
		{"span of zeros", "00-" + aTrace + "-0000000000000000-01", 0, false},
		{"trace is no number", "00-" + strings.Repeat("g", 32) + "-" + aSpan + "-01", 0, false},
		{"span is no number", "00-" + aTrace + "-........ba902b7-01", 0, false},
		{"flags are no number", "00-" + aTrace + "-" + aSpan + "-0x", 0, false},
		{"trace too short", "00-" + aTrace[1:] + "-" + aSpan + "-01", 0, false},
		{"span too short", "00-" + aTrace + "-" + aSpan[1:] + "-01", 0, false},
		{"flags too short", "00-" + aTrace + "-" + aSpan + "-1", 0, false},
		{"other separators", strings.ReplaceAll(usual, "-", "_"), 0, false},
		{"empty", "", 0, false},
	} {
		c, ok := Parse([]byte(row.value))
		if ok != row.ok || c.Flags != row.flags {
			t.Errorf("%s: Parse(%q) = %v, %v, want flags %d, %v", row.name, row.value, c, ok, row.flags, row.ok)
		}
		if ok && (hex.EncodeToString(c.Trace[:]) != aTrace || hex.EncodeToString(c.Parent[:]) != aSpan) {
			t.Errorf("%s: Parse(%q) = %v", row.name, row.value, c)
		}
		if !ok && c != (Context{}) {
			t.Errorf("%s: Parse(%q) leaves %v", row.name, row.value, c)
		}
	}
}

func TestTraceID(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name   string
		fields []message.Field
		want   string
	}{
		{"one", head("traceparent", usual), aTrace},
		{"none", head("tracestate", "a=1"), ""},
		{"not valid", head("traceparent", usual+"x"), ""},
		{"two that are the same", head("traceparent", usual, "traceparent", usual), ""},
		{"an empty one besides", head("traceparent", "", "Traceparent", usual), ""},
	} {
		if got := string(TraceID(row.fields)); got != row.want {
			t.Errorf("%s: %q, want %q", row.name, got, row.want)
		}
	}
}

// head is a list of fields.
func head(lines ...string) (fields []message.Field) {
	for i := 0; i < len(lines); i += 2 {
		name := []byte(lines[i])
		fields = append(fields, message.Field{Name: name, Value: []byte(lines[i+1]), ID: message.Lookup(name)})
	}
	return fields
}
