// Package backlog has the lines of a log written by somebody who may wait for it.
//
//	w := backlog.New(os.Stderr)
//	defer w.Close()
//	logger := slog.New(slog.NewTextHandler(w, nil))
//
// A node logs where nothing may wait: a thread that serves thousands of connections, the
// watch of etcd. If its standard error is a pipe that nobody reads, a write waits for ever.
package backlog

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// most is how many bytes may wait to be written: some thousand lines.
	most = 256 << 10
	// endLimit is how long Close waits for an output that blocks.
	endLimit = time.Second
)

// A Writer takes lines without waiting, and a goroutine writes them, one at a time and at
// once. When the output does not keep up, further lines are dropped and counted; a line in
// their place says how many. Its methods may be called from any goroutine.
type Writer struct {
	out     io.Writer
	wake    chan struct{} // buffered: something is there, or the end
	done    chan struct{} // closed when all is written
	dropped atomic.Uint64

	mu      sync.Mutex
	lines   [][]byte
	size    int    // of all lines
	missing uint64 // dropped since the last of them
	closed  bool
}

// New returns a Writer, which must be closed. A file gets a descriptor of its own: when
// nobody reads a pipe any more, a write to it fails, where one to the standard error would
// end the process (package os/signal, SIGPIPE).
func New(out io.Writer) *Writer {
	if f, ok := out.(*os.File); ok {
		if own, err := duplicate(f); err == nil {
			out = own
		}
	}
	w := &Writer{out: out, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

// Write takes a line, or drops it. It never fails.
func (w *Writer) Write(line []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || w.size+len(line) > most {
		w.missing++
		w.dropped.Add(1)
		return len(line), nil
	}
	if w.missing > 0 {
		w.add(fmt.Appendf(nil, "time=%s level=WARN msg=\"lines of this log were dropped: it does not keep up\" lines=%d\n",
			time.Now().Format("2006-01-02T15:04:05.000Z07:00"), w.missing)) // as slog has it
		w.missing = 0
	}
	w.add(append([]byte(nil), line...))
	w.rouse()
	return len(line), nil
}

// Dropped is how many lines were not written.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Close waits for what was taken to be written, for a second at most. If the output blocks
// for longer, the goroutine that writes stays behind, as nothing can end it.
func (w *Writer) Close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.rouse()
	select {
	case <-w.done:
	case <-time.After(endLimit):
	}
}

func (w *Writer) add(line []byte) {
	w.lines = append(w.lines, line)
	w.size += len(line)
}

func (w *Writer) rouse() {
	select {
	case w.wake <- struct{}{}:
	default: // it knows
	}
}

func (w *Writer) run() {
	defer close(w.done)
	for range w.wake {
		for line := w.next(); line != nil; line = w.next() {
			if _, err := w.out.Write(line); err != nil {
				w.dropped.Add(1)
			}
			w.written(line)
		}
		w.mu.Lock()
		ended := w.closed && len(w.lines) == 0
		w.mu.Unlock()
		if ended {
			if own, ok := w.out.(*owned); ok {
				own.Close()
			}
			return
		}
	}
}

// next is the oldest line, which still counts; nil: there is none.
func (w *Writer) next() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.lines) == 0 {
		w.lines = nil
		return nil
	}
	line := w.lines[0]
	w.lines = w.lines[1:]
	return line
}

func (w *Writer) written(line []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.size -= len(line)
}

// owned is a file of the Writer's own.
type owned struct{ *os.File }
