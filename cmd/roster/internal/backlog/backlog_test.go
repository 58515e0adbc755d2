package backlog

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLinesAreWrittenInOrder(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	w := New(&out)
	log := slog.New(slog.NewTextHandler(w, nil))
	for i := range 100 {
		log.Info("hello", "i", i)
	}
	w.Close()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 100 || w.Dropped() != 0 {
		t.Fatalf("%d lines, %d dropped", len(lines), w.Dropped())
	}
	for i, line := range lines {
		if !strings.HasSuffix(line, fmt.Sprintf(" i=%d", i)) {
			t.Errorf("line %d is %q", i, line)
		}
	}
	log.Info("too late")
	if w.Dropped() != 1 {
		t.Errorf("%d dropped after Close, want 1", w.Dropped())
	}
}

// Who logs does not wait for a pipe that is full; what it lost is counted, and said once
// somebody reads.
func TestAPipeThatNobodyReads(t *testing.T) {
	t.Parallel()
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w := New(out)
	out.Close() // the Writer has its own
	const lines = 2000
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range lines {
		w.Write(line)
	}
	dropped := w.Dropped()
	if dropped < lines/2 {
		t.Errorf("%d of %d lines were dropped", dropped, lines)
	}
	var got bytes.Buffer
	read := make(chan error)
	go func() {
		_, err := io.Copy(&got, r)
		read <- err
	}()
	for w.queued() > most/2 {
		time.Sleep(time.Millisecond)
	}
	w.Write([]byte("the last\n"))
	w.Close()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	text := got.String()
	if n := strings.Count(text, string(line)); uint64(n) != lines-dropped {
		t.Errorf("%d lines, want %d", n, lines-dropped)
	}
	var said uint64
	for _, m := range regexp.MustCompile(`lines of this log were dropped.* lines=(\d+)\n`).FindAllStringSubmatch(text, -1) {
		n, _ := strconv.ParseUint(m[1], 10, 64)
		said += n
	}
	if said != dropped || !strings.HasSuffix(text, "\nthe last\n") {
		t.Errorf("%d lines are said to be dropped, want %d; the log ends in %q", said, dropped, text[len(text)-20:])
	}
}

func (w *Writer) queued() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.size
}

// A reader that has gone ends nothing: writing fails, and the lines count as dropped.
func TestAPipeWithoutReader(t *testing.T) {
	t.Parallel()
	r, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r.Close()
	w := New(out)
	w.Write([]byte("hello\n"))
	w.Close()
	if w.Dropped() != 1 {
		t.Errorf("%d dropped, want 1", w.Dropped())
	}
}
