package accesslog

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Format is how a line looks.
type Format string

// The formats, described at the top.
const (
	JSON     Format = "json"
	Combined Format = "combined"
)

// Config says what to write, and where.
type Config struct {
	// Format is required.
	Format Format
	// File is the path of the file to append to. It is made with mode 0640 if there
	// is none. Empty is the standard output.
	File string
	// Buffer is how many bytes of memory lines may take that are not written yet,
	// half of it for those that are being written. Zero means 1 MiB, some 2,500
	// lines. More drops fewer lines when the output stalls.
	Buffer int
	// Every is the longest time between two writes. Zero means 100ms. More saves
	// system calls.
	Every time.Duration
	// Logger gets what is wrong with the output. Nil means slog.Default.
	Logger *slog.Logger
}

const (
	// flushAt is how much is worth a write before its time.
	flushAt = 64 << 10
	// usualLine is the size of the memory that lines are formatted in. Longer ones
	// allocate.
	usualLine = 4 << 10
)

// A Log is an access log. Record and Reopen may be called from any goroutine, at
// any time.
type Log struct {
	format  func([]byte, *Entry, *stamp) []byte
	every   time.Duration
	flushAt int
	full    chan struct{}
	reopen  chan struct{}
	out     *output // Run's

	scratches sync.Pool // of *scratch

	dropped, written atomic.Uint64

	mu     sync.Mutex
	buf    []byte // whole lines; its capacity does not change
	closed bool
}

// scratch is where a line is formatted, so that the lock is held for no longer than
// a copy takes.
type scratch struct {
	line  []byte
	stamp stamp
}

// New opens the output. Nothing is written before Run.
func New(c Config) (*Log, error) {
	if c.Buffer == 0 {
		c.Buffer = 1 << 20
	}
	if c.Every == 0 {
		c.Every = 100 * time.Millisecond
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	size := c.Buffer / 2 // one takes lines while the other is written
	switch {
	case c.Format != JSON && c.Format != Combined:
		return nil, fmt.Errorf("access log: format is %q, want %s or %s", c.Format, JSON, Combined)
	case size < maxLine:
		return nil, fmt.Errorf("access log: buffer is %d bytes, want 0 (the default) or at least %d", c.Buffer, 2*maxLine)
	case c.Every < 0:
		return nil, fmt.Errorf("access log: time between writes is %v, want 0 (the default) or more", c.Every)
	}
	l := &Log{
		format: appendJSON, every: c.Every, flushAt: min(flushAt, size/2),
		full: make(chan struct{}, 1), reopen: make(chan struct{}, 1),
		out: &output{file: c.File, logger: c.Logger, spare: make([]byte, 0, size)},
		buf: make([]byte, 0, size),
	}
	l.scratches.New = func() any { return &scratch{line: make([]byte, 0, usualLine)} }
	if c.Format == Combined {
		l.format = appendCombined
	}
	if err := l.out.open(); err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	return l, nil
}

// Record adds the line of a request. It takes less than a microsecond, allocates
// only for a line above 4 KiB, and keeps nothing of what e refers to. After Run has
// ended the line counts as dropped.
func (l *Log) Record(e *Entry) {
	s := l.scratches.Get().(*scratch)
	s.line = l.format(s.line[:0], e, &s.stamp)
	l.add(s.line)
	if cap(s.line) == usualLine { // else it was a rare one, not worth keeping
		l.scratches.Put(s)
	}
}

func (l *Log) add(line []byte) {
	l.mu.Lock()
	before := len(l.buf)
	if l.closed || cap(l.buf)-before < len(line) {
		l.mu.Unlock()
		l.dropped.Add(1)
		return
	}
	l.buf = append(l.buf, line...)
	after := len(l.buf)
	l.mu.Unlock()
	if before < l.flushAt && l.flushAt <= after {
		select {
		case l.full <- struct{}{}:
		default: // known already
		}
	}
}

// take returns the lines so far; Record goes on with an empty buffer. The result is
// nil if there are none, and the buffer stays.
func (l *Log) take(empty []byte, last bool) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = l.closed || last
	if len(l.buf) == 0 {
		return nil
	}
	b := l.buf
	l.buf = empty
	return b
}

// Written is how many lines the output has taken.
func (l *Log) Written() uint64 { return l.written.Load() }

// Dropped is how many lines were not written, for want of memory or because writing
// failed.
func (l *Log) Dropped() uint64 { return l.dropped.Load() }

// Reopen has the file opened anew by its name, after it was moved away, and returns
// at once. What was recorded before goes to the old file. If opening fails, that is
// logged and the old file stays in use. The standard output stays as it is.
func (l *Log) Reopen() {
	select {
	case l.reopen <- struct{}{}:
	default:
	}
}

func countLines(b []byte) uint64 { return uint64(bytes.Count(b, []byte{'\n'})) }
