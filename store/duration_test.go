package store_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roster/store"
)

func TestParseDuration(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		in   string
		want time.Duration
		out  string // as FormatDuration has it
	}{
		{"0", 0, "0s"},
		{"0s", 0, "0s"},
		{"0.0h", 0, "0s"},
		{"1.4s", 1400 * time.Millisecond, "1.4s"},
		{"3.5s", 3500 * time.Millisecond, "3.5s"},
		{"500ms", 500 * time.Millisecond, "500ms"},
		{"0.5s", 500 * time.Millisecond, "500ms"},
		{".5s", 500 * time.Millisecond, "500ms"},
		{"5.s", 5 * time.Second, "5s"},
		{"1.5ms", 1500 * time.Microsecond, "1.5ms"},
		{"1us", time.Microsecond, "1us"},
		{"1µs", time.Microsecond, "1us"},
		{"1μs", time.Microsecond, "1us"},
		{"7ns", 7, "7ns"},
		{"60s", time.Minute, "1m"},
		{"90s", 90 * time.Second, "90s"},
		{"1m", time.Minute, "1m"},
		{"1m30s", 90 * time.Second, "90s"},
		{"1h30m", 90 * time.Minute, "90m"},
		{"2h", 2 * time.Hour, "2h"},
		{"1d", 24 * time.Hour, "1d"},
		{"1.5d", 36 * time.Hour, "36h"},
		{"1w", 7 * 24 * time.Hour, "7d"},
		{"1y", 365 * 24 * time.Hour, "365d"},
		{"1.000000001s", time.Second + 1, "1.000000001s"},
		{"1.0000000019s", time.Second + 1, "1.000000001s"},
		{"0000001s", time.Second, "1s"},
		{"9223372036854775807ns", 1<<63 - 1, "9223372036.854775807s"},
	} {
		got, err := store.ParseDuration(row.in)
		if err != nil || got != row.want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", row.in, got, err, row.want)
		}
		if out := store.FormatDuration(row.want); out != row.out {
			t.Errorf("FormatDuration(%v) = %q, want %q", row.want, out, row.out)
		}
	}
	for in, want := range map[string]string{
		"":                         "is not a duration",
		"5":                        "has no unit",
		"1m30":                     "has no unit",
		"s":                        "is not a duration",
		".s":                       "is not a duration",
		"1.2.3s":                   "is not a duration",
		"1 s":                      "has an unknown unit",
		" 1s":                      "is not a duration",
		"1s ":                      "has an unknown unit",
		"1S":                       "has an unknown unit",
		"1M":                       "has an unknown unit",
		"-1s":                      "is negative",
		"-0s":                      "is negative",
		"+1s":                      "is not a duration",
		"1s-1s":                    "has an unknown unit",
		"1e3s":                     "has an unknown unit",
		"NaN":                      "is not a duration",
		"inf":                      "is not a duration",
		"NaNs":                     "is not a duration",
		"0.1ns":                    "is less than 1ns",
		"0.0000000001s":            "is less than 1ns",
		"293y":                     "is too long",
		"9223372036854775808ns":    "is too long",
		"292y292y":                 "is too long",
		"99999999999999999999999s": "is too long",
	} {
		if got, err := store.ParseDuration(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseDuration(%q) = %v, %v, want an error with %q", in, got, err, want)
		}
	}
}

// What is formatted is parsed to the same, and all that Go formats is parsed
// as Go has it.
func TestDurationRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<63-1).Draw(t, "d"))
		if rapid.Bool().Draw(t, "round") {
			d = d.Truncate(rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "unit"))
		}
		for _, s := range []string{store.FormatDuration(d), d.String()} {
			if got, err := store.ParseDuration(s); err != nil || got != d {
				t.Fatalf("ParseDuration(%q) = %d, %v, want %d", s, got, err, d)
			}
		}
	})
}

func TestParseSize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{
		"0": 0, "65536": 65536, "64KiB": 65536, "64kib": 65536, "64 KiB": 65536, "10kB": 10_000, "1.5MiB": 3 << 19,
		"1GB": 1e9, "2GiB": 2 << 30, "1TB": 1e12, "1TiB": 1 << 40, "7B": 7, "0.5KiB": 512, "9223372036854775807": 1<<63 - 1,
	} {
		if got, err := store.ParseSize(in); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"": "is not a size", "KiB": "is not a size", "1.": "is not a size", "1.2.3": "is not a size", "-1": "is negative",
		"1k": "has an unknown unit", "1 bit": "has an unknown unit", "0.5": "is not a whole number", "0.3KiB": "is not a whole number",
		"9223372036854775808": "is too large", "8388608TiB": "is too large", "1.0000000000000000001KiB": "is not a whole number",
	} {
		if got, err := store.ParseSize(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseSize(%q) = %d, %v, want an error with %q", in, got, err, want)
		}
	}
}
