package store

import (
	"fmt"
	"math"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// units are those of VCL and of Go. A year is VCL's, of 365 days.
var units = []struct {
	name string
	is   time.Duration
}{
	{"ns", time.Nanosecond},
	{"us", time.Microsecond},
	{"µs", time.Microsecond}, // U+00B5, as Go writes it
	{"μs", time.Microsecond}, // U+03BC
	{"ms", time.Millisecond},
	{"s", time.Second},
	{"m", time.Minute},
	{"h", time.Hour},
	{"d", day},
	{"w", 7 * day},
	{"y", 365 * day},
}

const day = 24 * time.Hour

// ParseDuration reads a duration in VCL or Go syntax: "1.4s", "500ms", "2h",
// "1d", "1m30s". Only "0" needs no unit. Negative ones, those above 292 years
// and those that are not 0 but below 1ns are errors.
func ParseDuration(s string) (time.Duration, error) {
	const example = `want a number and a unit (ms, s, m, h, d, w) such as "1.4s"`
	if s == "0" {
		return 0, nil
	}
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("%s is negative, want 0 or more", quote(s))
	}
	if s == "" {
		return 0, fmt.Errorf("\"\" is not a duration, %s", example)
	}
	var total uint64
	zero := true
	for rest := s; rest != ""; {
		n := 0
		for n < len(rest) && (isDigit(rest[n]) || rest[n] == '.') {
			n++
		}
		number := rest[:n]
		rest = rest[n:]
		for n = 0; n < len(rest) && !isDigit(rest[n]) && rest[n] != '.'; n++ {
		}
		unit := rest[:n]
		rest = rest[n:]
		whole, frac, _ := strings.Cut(number, ".")
		if whole == "" && frac == "" || strings.Contains(frac, ".") {
			return 0, fmt.Errorf("%s is not a duration, %s", quote(s), example)
		}
		if unit == "" {
			return 0, fmt.Errorf("%s has no unit, %s", quote(s), example)
		}
		is := unitOf(unit)
		if is == 0 {
			return 0, fmt.Errorf("%s has an unknown unit, %s", quote(s), example)
		}
		part, ok := scale(whole, frac, is)
		if !ok || total+part > math.MaxInt64 {
			return 0, fmt.Errorf("%s is too long, want less than 292y", quote(s))
		}
		total += part
		zero = zero && strings.Trim(number, "0.") == ""
	}
	if total == 0 && !zero {
		return 0, fmt.Errorf("%s is less than 1ns and would be 0", quote(s))
	}
	return time.Duration(total), nil
}

func unitOf(name string) uint64 {
	for i := range units {
		if units[i].name == name {
			return uint64(units[i].is)
		}
	}
	return 0
}

// scale is whole.frac times unit, rounded down to whole ones; false above
// MaxInt64. All arithmetic is in integers, so that "1.4s" is exact.
func scale(whole, frac string, unit uint64) (uint64, bool) {
	var n uint64
	for i := range len(whole) {
		if n > math.MaxInt64/10 {
			return 0, false
		}
		n = n*10 + uint64(whole[i]-'0')
	}
	over, n := bits.Mul64(n, unit)
	if over != 0 || n > math.MaxInt64 {
		return 0, false
	}
	// Digits beyond the 18th cannot add a nanosecond to anything but a tie.
	if len(frac) > 18 {
		frac = frac[:18]
	}
	var f, by uint64 = 0, 1
	for i := range len(frac) {
		f = f*10 + uint64(frac[i]-'0')
		by *= 10
	}
	hi, lo := bits.Mul64(f, unit)
	q, _ := bits.Div64(hi, lo, by) // hi < by, as f < by and unit < 2^63
	n += q
	return n, n <= math.MaxInt64
}

// FormatDuration writes d so that ParseDuration gives it back: in whole days,
// hours or minutes where it is such, else in seconds, or in a smaller unit
// below one second. d must not be negative.
func FormatDuration(d time.Duration) string {
	var buf [32]byte
	return string(appendDuration(buf[:0], d))
}

func appendDuration(b []byte, d time.Duration) []byte {
	in := func(unit time.Duration, name string) []byte {
		b = strconv.AppendInt(b, int64(d/unit), 10)
		if frac := d % unit; frac != 0 {
			digits := strconv.FormatInt(int64(unit+frac), 10) // a 1 and the digits
			b = append(b, '.')
			b = append(b, strings.TrimRight(digits[1:], "0")...)
		}
		return append(b, name...)
	}
	switch {
	case d == 0:
		return append(b, "0s"...)
	case d < time.Microsecond:
		return in(time.Nanosecond, "ns")
	case d < time.Millisecond:
		return in(time.Microsecond, "us")
	case d < time.Second:
		return in(time.Millisecond, "ms")
	case d%day == 0:
		return in(day, "d")
	case d%time.Hour == 0:
		return in(time.Hour, "h")
	case d%time.Minute == 0:
		return in(time.Minute, "m")
	}
	return in(time.Second, "s")
}

// ParseSize reads a number of bytes: "65536", "64KiB", "1.5MiB", "10kB". The
// units are B, kB, MB, GB, TB of 1000 and KiB, MiB, GiB, TiB of 1024, in any
// case. Negative sizes, fractions of a byte and those of 2^63 or more are
// errors.
func ParseSize(s string) (int64, error) {
	const example = `want a number of bytes such as 65536 or "64KiB"`
	if strings.HasPrefix(s, "-") {
		return 0, fmt.Errorf("%s is negative, want 0 or more", quote(s))
	}
	n := 0
	for n < len(s) && (isDigit(s[n]) || s[n] == '.') {
		n++
	}
	whole, frac, _ := strings.Cut(s[:n], ".")
	if whole == "" || strings.Contains(frac, ".") || strings.HasSuffix(s[:n], ".") {
		return 0, fmt.Errorf("%s is not a size, %s", quote(s), example)
	}
	unit := sizeUnit(strings.TrimSpace(s[n:]))
	if unit == 0 {
		return 0, fmt.Errorf("%s has an unknown unit, %s", quote(s), example)
	}
	frac = strings.TrimRight(frac, "0")
	if len(frac) > 18 {
		return 0, fmt.Errorf("%s is not a whole number of bytes", quote(s))
	}
	size, ok := scale(whole, frac, unit)
	if !ok {
		return 0, fmt.Errorf("%s is too large, want less than 8 EiB", quote(s))
	}
	if !exact(frac, unit) {
		return 0, fmt.Errorf("%s is not a whole number of bytes", quote(s))
	}
	return int64(size), nil
}

// exact says whether 0.frac times unit is a whole number.
func exact(frac string, unit uint64) bool {
	var f, by uint64 = 0, 1
	for i := range len(frac) {
		f = f*10 + uint64(frac[i]-'0')
		by *= 10
	}
	hi, lo := bits.Mul64(f, unit)
	return bits.Rem64(hi, lo, by) == 0
}

func sizeUnit(name string) uint64 {
	switch strings.ToLower(name) {
	case "", "b":
		return 1
	case "kb":
		return 1e3
	case "mb":
		return 1e6
	case "gb":
		return 1e9
	case "tb":
		return 1e12
	case "kib":
		return 1 << 10
	case "mib":
		return 1 << 20
	case "gib":
		return 1 << 30
	case "tib":
		return 1 << 40
	}
	return 0
}
