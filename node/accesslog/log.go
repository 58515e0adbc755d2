package accesslog

import (
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
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
	// Buffer is how many bytes of memory lines may take that are not written yet.
	// Zero means 1 MiB, some 3,000 lines. More drops fewer lines when the output
	// stalls.
	Buffer int
	// Every is the longest time between two writes. Zero means 100ms. More saves
	// system calls.
	Every time.Duration
	// Logger gets what is wrong with the output. Nil means slog.Default.
	Logger *slog.Logger
}

const (
	// flushAt is how much of a buffer is worth a write of its own.
	flushAt = 64 << 10
	// maxShards is how many buffers there are at most. The lock of one is held for
	// a third of a microsecond a line.
	maxShards = 8
)

// A Log is an access log. Record and Reopen may be called from any goroutine, at
// any time.
type Log struct {
	format  func([]byte, *Entry, *stamp) []byte
	every   time.Duration
	flushAt int
	shards  []shard // a power of two
	full    chan struct{}
	reopen  chan struct{}
	out     *output // Run's

	written, lost atomic.Uint64
}

// shard is a buffer of lines. Which one is chosen depends on the connection, so that
// its lines stay in order.
type shard struct {
	mu     sync.Mutex
	buf    []byte // whole lines; its capacity does not change
	stamp  stamp
	closed bool

	dropped atomic.Uint64
	_       [64]byte // no cache line with the next
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
	// Beside those of the shards there is one buffer, which is being written.
	count := 1
	for count < maxShards && count < runtime.GOMAXPROCS(0) && (2*count+1)*maxLine <= c.Buffer {
		count *= 2
	}
	size := c.Buffer / (count + 1)
	switch {
	case c.Format != JSON && c.Format != Combined:
		return nil, fmt.Errorf("access log: format is %q, want %s or %s", c.Format, JSON, Combined)
	case size < maxLine:
		return nil, fmt.Errorf("access log: buffer is %d bytes, want 0 (the default) or at least %d", c.Buffer, 2*maxLine)
	case c.Every < 0:
		return nil, fmt.Errorf("access log: time between writes is %v, want 0 (the default) or more", c.Every)
	}
	l := &Log{
		format: appendJSON, every: c.Every, flushAt: min(flushAt, size/2), shards: make([]shard, count),
		full: make(chan struct{}, 1), reopen: make(chan struct{}, 1),
		out: &output{file: c.File, logger: c.Logger, spare: make([]byte, 0, size)},
	}
	if c.Format == Combined {
		l.format = appendCombined
	}
	if err := l.out.open(); err != nil {
		return nil, fmt.Errorf("access log: %w", err)
	}
	for i := range l.shards {
		l.shards[i].buf = make([]byte, 0, size)
	}
	return l, nil
}

// Record adds the line of a request. It takes less than a microsecond, allocates
// nothing, and keeps nothing of what e refers to. After Run has ended the line
// counts as dropped.
func (l *Log) Record(e *Entry) {
	s := &l.shards[l.choose(e)]
	need := e.bound()
	s.mu.Lock()
	before := len(s.buf)
	if s.closed || cap(s.buf)-before < need {
		s.mu.Unlock()
		s.dropped.Add(1)
		return
	}
	s.buf = l.format(s.buf, e, &s.stamp)
	after := len(s.buf)
	s.mu.Unlock()
	if before < l.flushAt && l.flushAt <= after {
		select {
		case l.full <- struct{}{}:
		default: // known already
		}
	}
}

// choose returns the index of the connection's shard.
func (l *Log) choose(e *Entry) uint32 {
	key := uint32(e.Peer.Port())
	if key == 0 {
		key = rand.Uint32()
	}
	return key * 0x9e3779b9 >> 16 & uint32(len(l.shards)-1) // ports may be even, all of them
}

// Written is how many lines the output has taken.
func (l *Log) Written() uint64 { return l.written.Load() }

// Dropped is how many lines were not written, for want of memory or because writing
// failed.
func (l *Log) Dropped() uint64 {
	n := l.lost.Load()
	for i := range l.shards {
		n += l.shards[i].dropped.Load()
	}
	return n
}

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
