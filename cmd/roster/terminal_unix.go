//go:build unix

package main

import (
	"io"
	"os"

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
