//go:build unix

package main

import (
	"context"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// width is how many columns the terminal has that is written to. It is false where that is
// none.
func width(w io.Writer) (columns int, terminal bool) {
	f, ok := w.(*os.File)
	if !ok {
		return 0, false
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(size.Col), true
}

// whileRead returns a context that ends when nobody reads any more the pipe that is
// written to: who waits for something to write would learn of it with the next write only,
// which may never come. It ends with ctx, too, and with what is returned beside it.
func whileRead(ctx context.Context, w io.Writer) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	f, ok := w.(*os.File)
	if !ok {
		return ctx, cancel
	}
	if info, err := f.Stat(); err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeSocket) == 0 {
		return ctx, cancel
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}} // of no events: errors are told always
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			n, err := unix.Poll(fds, int(pollOutput.Milliseconds()))
			if err != nil && err != unix.EINTR && err != unix.EAGAIN {
				return
			}
			if n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
				cancel()
			}
		}
	}()
	return ctx, func() { cancel(); <-ended } // the file is the caller's again
}

// pollOutput bounds how long a poll outlives what it is for.
const pollOutput = 200 * time.Millisecond
