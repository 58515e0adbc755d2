package accesslog

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// output is where lines go. It belongs to one goroutine.
type output struct {
	file   string // path, empty for the standard output
	logger *slog.Logger
	w      io.WriteCloser
	piece  int    // how much is written at once, 0: all there is
	torn   bool   // the last write ended within a line
	spare  []byte // a buffer to give for one to write

	err      error // of writing, since the last report
	dropped  uint64
	reported time.Time
}

// pipeBuf is Linux's PIPE_BUF: writes to a pipe of up to so many bytes are not torn
// apart by others'.
const pipeBuf = 4096

func (o *output) open() error {
	f, err := o.openFile()
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	if o.w != nil {
		o.w.Close()
	}
	o.w, o.piece, o.torn = f, 0, false
	if info.Mode().IsRegular() {
		o.torn = o.file != "" && endsWithinLine(o.file)
	} else {
		o.piece = pipeBuf
	}
	return nil
}

// endsWithinLine tells if a file has an unfinished line at its end, as after a full
// disk. One that cannot be read counts as whole.
func endsWithinLine(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	end, err := f.Seek(-1, io.SeekEnd)
	if err != nil {
		return false // empty
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], end)
	return err == nil && last[0] != '\n'
}

func (o *output) openFile() (*os.File, error) {
	if o.file == "" {
		return stdout()
	}
	// O_NONBLOCK is for a FIFO without a reader: an error, instead of waiting.
	return os.OpenFile(o.file, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o640)
}

func (o *output) reopen() {
	if o.file == "" {
		return
	}
	if err := o.open(); err != nil {
		o.logger.Error("access log: the file in use stays", "error", err)
		return
	}
	o.logger.Info("access log: opened anew", "file", o.file)
}

func (o *output) close() { o.w.Close() }

func (o *output) name() string {
	if o.file == "" {
		return "standard output"
	}
	return o.file
}

// write writes lines and returns how many the output has taken.
func (o *output) write(lines []byte) (written uint64, err error) {
	for len(lines) > 0 {
		part := o.next(lines)
		lines = lines[len(part):]
		if o.torn {
			if _, err := o.w.Write([]byte{'\n'}); err != nil {
				return written, err
			}
			o.torn = false
		}
		n, err := o.w.Write(part)
		written += countLines(part[:n])
		if err != nil {
			o.torn = n > 0 && part[n-1] != '\n'
			return written, err
		}
	}
	return written, nil
}

// next is as many whole lines as are to be written at once.
func (o *output) next(lines []byte) []byte {
	if o.piece == 0 || len(lines) <= o.piece {
		return lines
	}
	if i := bytes.LastIndexByte(lines[:o.piece], '\n'); i >= 0 {
		return lines[:i+1]
	}
	return lines[:bytes.IndexByte(lines, '\n')+1]
}

func (o *output) note(err error) {
	if err != nil {
		o.err = err
	}
}

// report logs that lines were dropped, once a second at most. dropped is how many
// were so far.
func (o *output) report(dropped uint64, last bool) {
	if dropped == o.dropped && o.err == nil {
		return
	}
	now := time.Now()
	if !last && now.Sub(o.reported) < time.Second {
		return
	}
	attrs := []any{"file", o.name(), "dropped", dropped - o.dropped}
	if o.err != nil {
		attrs = append(attrs, "error", o.err)
	}
	o.logger.Warn("access log: lines dropped", attrs...)
	o.dropped, o.err, o.reported = dropped, nil, now
}
