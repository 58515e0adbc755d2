package peer

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"roster/prober"
)

// Bounds of an answer. A record of this release has at most 384 bytes.
const (
	maxRecords = 250_000
	maxRecord  = 1024 // of any release
	maxBytes   = 128 << 20
	maxStage   = 16
	maxText    = 200
	maxAge     = 24 * time.Hour
	maxTook    = time.Hour
)

// registers are those of a history, in the order of History.Rows.
func registers(h *prober.History) [8]*uint64 {
	return [8]*uint64{&h.IPv4, &h.IPv6, &h.Unix, &h.SendFailed, &h.Sent, &h.ReceiveFailed, &h.Received, &h.Happy}
}

// appendRecord adds a history of at least one probe, with its length.
func appendRecord(b []byte, key prober.Key, h *prober.History, age time.Duration) []byte {
	var room [maxRecord]byte
	r := append(room[:0], key[:]...)
	r = binary.AppendUvarint(r, uint64(min(max(age, 0), maxAge).Milliseconds()))
	r = append(r, byte(min(h.Probes, 64)), 0)
	mask := len(r) - 1
	for i, register := range registers(h) {
		if *register != 0 {
			r[mask] |= 1 << i
			r = binary.LittleEndian.AppendUint64(r, *register)
		}
	}
	for _, took := range []time.Duration{h.Last, h.Average} {
		r = binary.AppendUvarint(r, uint64(min(max(took, 0), maxTook).Microseconds()))
	}
	for _, s := range []string{string(h.Stage[:min(len(h.Stage), maxStage)]), h.Text[:min(len(h.Text), maxText)]} {
		r = binary.AppendUvarint(r, uint64(len(s)))
		r = append(r, s...)
	}
	return append(binary.AppendUvarint(b, uint64(len(r))), r...)
}

// parseRecord reads a record without its length. It leaves the history's At.
func parseRecord(r []byte) (key prober.Key, h prober.History, age time.Duration, err error) {
	p := parser{rest: r}
	copy(key[:], p.bytes(len(key)))
	age = p.duration(time.Millisecond, maxAge, "age")
	head := p.bytes(2)
	if p.err != nil {
		return key, h, 0, p.err
	}
	h.Probes = uint64(head[0])
	if h.Probes < 1 || h.Probes > 64 {
		return key, h, 0, fmt.Errorf("%d probes, want 1 to 64", h.Probes)
	}
	for i, register := range registers(&h) {
		if head[1]>>i&1 == 0 {
			continue
		}
		if b := p.bytes(8); b != nil {
			*register = binary.LittleEndian.Uint64(b)
		}
		if h.Probes < 64 && *register>>h.Probes != 0 {
			return key, h, 0, fmt.Errorf("register %#x has more than %d probes", *register, h.Probes)
		}
	}
	h.Last = p.duration(time.Microsecond, maxTook, "response time")
	h.Average = p.duration(time.Microsecond, maxTook, "average")
	h.Stage = prober.Stage(p.text(maxStage))
	h.Text = p.text(maxText)
	return key, h, age, p.err
}

// parser takes parts off a record; after an error nothing.
type parser struct {
	rest []byte
	err  error
}

var errShort = errors.New("it ends too early")

func (p *parser) bytes(n int) []byte {
	if p.err == nil && len(p.rest) < n {
		p.err = errShort
	}
	if p.err != nil {
		return nil
	}
	b := p.rest[:n]
	p.rest = p.rest[n:]
	return b
}

func (p *parser) number(most uint64, what string) uint64 {
	v, n := binary.Uvarint(p.rest)
	switch {
	case p.err != nil:
		return 0
	case n <= 0:
		p.err = errShort
		return 0
	case v > most:
		p.err = fmt.Errorf("%s is %d, want at most %d", what, v, most)
		return 0
	}
	p.rest = p.rest[n:]
	return v
}

func (p *parser) duration(unit, most time.Duration, what string) time.Duration {
	return time.Duration(p.number(uint64(most/unit), what)) * unit
}

// text is a string that can be shown: what cannot be is replaced.
func (p *parser) text(most int) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, string(p.bytes(int(p.number(uint64(most), "length of a text")))))
}

// readRecords calls take for each record. What came before an error is good.
func readRecords(from io.Reader, take func(prober.Key, prober.History, time.Duration)) error {
	in := bufio.NewReaderSize(from, 64<<10)
	var room [maxRecord]byte
	for n := 0; ; n++ {
		if _, err := in.Peek(1); err == io.EOF {
			return nil
		}
		size, err := binary.ReadUvarint(in)
		switch {
		case err != nil:
			return fmt.Errorf("record %d: %w", n, err)
		case n == maxRecords:
			return fmt.Errorf("more than %d records", maxRecords)
		case size > maxRecord:
			return fmt.Errorf("record %d is %d bytes long, want at most %d", n, size, maxRecord)
		}
		if _, err := io.ReadFull(in, room[:size]); err == io.EOF {
			return fmt.Errorf("record %d: %w", n, io.ErrUnexpectedEOF)
		} else if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		key, h, age, err := parseRecord(room[:size])
		if err != nil {
			return fmt.Errorf("record %d: %w", n, err)
		}
		take(key, h, age)
	}
}
